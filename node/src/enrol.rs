//! First certificates. The new node knows the root by its token and nothing else; the holder
//! of the site's authority knows the node by the token's secret, which works once.
//!
//! A proxy of another site brings a certificate of its own site's authority: here its token only
//! makes it known, and the answer carries no certificate.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use strongroom_certs::{
    CertRequest, Enrolment, Expect, Refusal as TokenRefusal, Token, TokenBook, TokenSecret,
    enrol_client_config,
};
use strongroom_protocol::enrol::{EnrolRequest, EnrolResponse, TokenProof};
use strongroom_protocol::link::{Endpoint, LinkError, Receiver, Sender};
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Chain, Clock, Identity, Role};

use crate::guard::{Guard, finish_enrolment};

/// Why a node has no certificate yet.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrolFailure {
    /// The address in the token leads nowhere.
    #[error("cannot resolve {address:?}")]
    Resolve { address: String, source: std::io::Error },
    /// The conversation failed.
    #[error("enrolling at {address} failed")]
    Link { address: SocketAddr, source: LinkError },
    /// The authority refused.
    #[error("enrolment was refused")]
    Refused(#[source] Refusal),
    /// Something of the identity could not be made, checked or saved.
    #[error("the node's identity could not be set up")]
    Identity(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Redeems `token` for `identity`; its credential is in `dir` afterwards. Repeated after a
/// crash or a lost answer, it asks with the same key and succeeds.
pub async fn enrol(
    dir: &Path,
    token: &Token,
    identity: &Identity,
    clock: Arc<dyn Clock>,
) -> Result<(), EnrolFailure> {
    let own = |error: Box<dyn std::error::Error + Send + Sync>| EnrolFailure::Identity(error);
    let asked = Enrolment::begin_in(dir, identity).map_err(|error| own(error.into()))?;
    let csr = asked.request_der().to_vec();
    let chain = redeem(token, identity, csr, Arc::clone(&clock)).await?;
    let credential = finish_enrolment(asked, chain, token.root, clock.now()).map_err(own)?;
    credential.save(dir).map_err(|error| own(error.into()))
}

/// Makes a proxy of another site known to the coordinator by `token`; it keeps its certificate.
pub async fn introduce(
    token: &Token,
    identity: &Identity,
    clock: Arc<dyn Clock>,
) -> Result<(), EnrolFailure> {
    let asked = Enrolment::begin(identity).map_err(|error| EnrolFailure::Identity(error.into()))?;
    redeem(token, identity, asked.request_der().to_vec(), clock).await.map(|_| ())
}

async fn redeem(
    token: &Token,
    identity: &Identity,
    csr: Vec<u8>,
    clock: Arc<dyn Clock>,
) -> Result<Vec<Vec<u8>>, EnrolFailure> {
    let address = resolve(&token.address).await?;
    let failed = |source: LinkError| EnrolFailure::Link { address, source };
    let tls = enrol_client_config(token.root, Expect::ANYBODY, clock)
        .map_err(|error| EnrolFailure::Identity(error.into()))?;
    let endpoint = Endpoint::bind(unspecified(address), None).map_err(failed)?;
    let link = endpoint.dial(address, Arc::new(tls)).await.map_err(failed)?;
    let (mut sender, mut receiver) = link.open().await.map_err(failed)?;
    let secret = TokenProof(token.secret.as_bytes().to_vec());
    let request = EnrolRequest::First { secret, identity: identity.clone(), csr };
    sender.send(&request).await.map_err(failed)?;
    sender.finish();
    let (answer, _) = receiver.expect::<EnrolResponse>().await.map_err(failed)?;
    link.close("enrolled");
    match answer {
        EnrolResponse::Granted { chain } => Ok(chain),
        EnrolResponse::Refused(refusal) => Err(EnrolFailure::Refused(refusal)),
    }
}

/// The first address of `host:port`.
pub async fn resolve(address: &str) -> Result<SocketAddr, EnrolFailure> {
    let failed = |source| EnrolFailure::Resolve { address: address.to_owned(), source };
    let mut found = tokio::net::lookup_host(address).await.map_err(failed)?;
    found.next().ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))
}

/// The address to bind for dialling `peer`.
pub fn unspecified(peer: SocketAddr) -> SocketAddr {
    match (peer, peer.ip().is_loopback()) {
        (SocketAddr::V4(_), true) => ([127, 0, 0, 1], 0).into(),
        (SocketAddr::V4(_), false) => ([0, 0, 0, 0], 0).into(),
        (SocketAddr::V6(_), true) => (std::net::Ipv6Addr::LOCALHOST, 0).into(),
        (SocketAddr::V6(_), false) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// The authority's side: answers one request on a stream of the enrolment ALPN. Who was granted,
/// or what was refused, is noted before the answer goes out: the peer may be gone after it.
pub async fn answer(
    guard: &Arc<Guard>,
    book: &Arc<TokenBook>,
    mut sender: Sender,
    mut receiver: Receiver,
    note: impl FnOnce(&Result<Identity, Refusal>) + Send,
) -> Result<(), LinkError> {
    let (EnrolRequest::First { secret, identity, csr }, _) = receiver.expect().await?;
    let (guard, book, claimed) = (Arc::clone(guard), Arc::clone(book), identity.clone());
    let granted =
        tokio::task::spawn_blocking(move || grant(&guard, &book, &secret.0, &claimed, &csr))
            .await
            .unwrap_or_else(|_| Err(Refusal::new(RefusalKind::Internal, "a worker died")));
    let (response, outcome) = match granted {
        Ok(chain) => (EnrolResponse::Granted { chain }, Ok(identity)),
        Err(refusal) => (EnrolResponse::Refused(refusal.clone()), Err(refusal)),
    };
    note(&outcome);
    sender.send(&response).await?;
    sender.finish();
    sender.delivered().await;
    Ok(())
}

fn grant(
    guard: &Guard,
    book: &TokenBook,
    secret: &[u8],
    claimed: &Identity,
    csr: &[u8],
) -> Result<Vec<Vec<u8>>, Refusal> {
    let invalid = |text: String| Refusal::new(RefusalKind::Invalid, text);
    let authority = guard.authority().ok_or_else(|| invalid("no authority here".to_owned()))?;
    let secret = secret
        .try_into()
        .map(TokenSecret::from_bytes)
        .map_err(|_| invalid("the token's secret has the wrong length".to_owned()))?;
    let request = CertRequest::parse(csr).map_err(|error| invalid(Chain(&error).to_string()))?;
    if request.identity != *claimed {
        return Err(invalid(format!("the request is for {}, not {claimed}", request.identity)));
    }
    let now = guard.clock().now();
    book.redeem(&secret, now, claimed, request.public_key).map_err(|refused| {
        let kind = match refused {
            TokenRefusal::File(_) => RefusalKind::Unavailable,
            _ => RefusalKind::Forbidden,
        };
        Refusal::new(kind, Chain(&refused).to_string())
    })?;
    if claimed.site == *authority.site() {
        return guard.sign(authority, csr, claimed).map_err(invalid);
    }
    match claimed.role {
        Role::Proxy => Ok(Vec::new()),
        _ => Err(invalid(format!("{claimed} must enrol at its own site's authority"))),
    }
}
