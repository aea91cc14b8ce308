//! TLS for every connection of the product: 1.3 only, both sides proven, no resumption (a
//! resumed session would skip every check below), certificates replaced while running.
//!
//! # THE SERVER ADMITS CLIENTS WITHOUT A CERTIFICATE
//!
//! A node that enrols has none yet, and rustls decides on client certificates before anybody
//! has seen the protocol (ALPN) of the connection. So [`server_config`] lets anonymous clients
//! finish the handshake, and **the accept loop must refuse them on every protocol but
//! [`ENROL_ALPN`]**: call [`admit`] with the negotiated protocol and the peer's certificates
//! before reading a single byte of the connection, and drop the connection when it errs. A
//! client that does show a certificate is verified in full, or its handshake fails.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig, SignatureScheme, version::TLS13};
use rustls_pki_types::CertificateDer;
use strongroom_protocol::{Clock, Identity, Timestamp};

use crate::enrol::Credential;
use crate::keys::KeyError;
use crate::peer::{Peer, PeerError};
use crate::provider::{ClockTime, provider};
use crate::revoked::Revocations;
use crate::trust::{RootFingerprint, TrustRoot};
use crate::verifiers::{Judge, KnownServer, PinnedServer};
use crate::verify::{Expect, SCHEMES};

/// The only protocol a client without a certificate may speak.
pub const ENROL_ALPN: &[u8] = b"strongroom-enrol/1";
/// What dialers give as the server's name: libraries ask for one, nobody looks at it.
pub const SERVER_NAME: &str = "strongroom";

/// Why there is no TLS configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The private key is not usable.
    #[error("the private key of {identity} is not usable")]
    Key { identity: Box<Identity>, source: KeyError },
    /// A replacement must be of the same identity.
    #[error("a credential of {found} cannot replace that of {identity}")]
    OtherIdentity { identity: Box<Identity>, found: Box<Identity> },
    /// The TLS library refuses.
    #[error("the TLS library refuses the configuration")]
    Rustls(#[from] rustls::Error),
}

#[derive(Debug)]
struct Loaded {
    /// Leaf and authority.
    as_client: Arc<CertifiedKey>,
    /// The root too, so that a node that enrols can compare it with its pin.
    as_server: Arc<CertifiedKey>,
    peer: Peer,
    renew_at: Timestamp,
}

/// The node's credential as the handshakes see it; replaced at renewal, and every connection
/// made from then on uses the new one. Clones share it.
#[derive(Clone)]
pub struct CurrentCredential(Arc<RwLock<Loaded>>);

impl CurrentCredential {
    /// Starts with `credential`.
    pub fn new(credential: &Credential) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(RwLock::new(Loaded::of(credential)?))))
    }

    /// New connections use `credential`; those that stand are not touched.
    pub fn replace(&self, credential: &Credential) -> Result<(), TlsError> {
        let next = Loaded::of(credential)?;
        let mut loaded = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if loaded.peer.identity != next.peer.identity {
            return Err(TlsError::OtherIdentity {
                identity: Box::new(loaded.peer.identity.clone()),
                found: Box::new(next.peer.identity),
            });
        }
        *loaded = next;
        Ok(())
    }

    /// Who we are at present.
    pub fn peer(&self) -> Peer {
        self.read(|loaded| loaded.peer.clone())
    }

    /// When to renew.
    pub fn renew_at(&self) -> Timestamp {
        self.read(|loaded| loaded.renew_at)
    }

    fn read<T>(&self, look: impl FnOnce(&Loaded) -> T) -> T {
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Loaded {
    fn of(credential: &Credential) -> Result<Self, TlsError> {
        let key = credential.key.to_rustls().map_err(|source| TlsError::Key {
            identity: Box::new(credential.identity().clone()),
            source,
        })?;
        let key = provider()?.key_provider.load_private_key(key)?;
        let short = vec![credential.chain.leaf.clone(), credential.chain.intermediate.clone()];
        let long = short.iter().chain([credential.root.der()]).cloned().collect();
        Ok(Self {
            as_client: Arc::new(CertifiedKey::new(short, Arc::clone(&key))),
            as_server: Arc::new(CertifiedKey::new(long, key)),
            peer: credential.peer().clone(),
            renew_at: credential.renew_at(),
        })
    }
}

impl fmt::Debug for CurrentCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CurrentCredential({})", self.read(|loaded| loaded.peer.identity.to_string()))
    }
}

impl ResolvesServerCert for CurrentCredential {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let usable = hello.signature_schemes().contains(&SignatureScheme::ED25519);
        usable.then(|| self.read(|loaded| Arc::clone(&loaded.as_server)))
    }
}

impl ResolvesClientCert for CurrentCredential {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let usable = schemes.iter().any(|scheme| SCHEMES.contains(scheme));
        usable.then(|| self.read(|loaded| Arc::clone(&loaded.as_client)))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// For a node that listens. ANONYMOUS CLIENTS PASS THE HANDSHAKE: see the top of this file,
/// and call [`admit`] for every connection.
pub fn server_config(
    credential: &CurrentCredential,
    root: &TrustRoot,
    alpns: &[&[u8]],
    revocations: Arc<Revocations>,
    clock: Arc<dyn Clock>,
) -> Result<ServerConfig, TlsError> {
    let judge = Judge { root: root.clone(), expect: Expect::ANYBODY, revocations };
    let time = Arc::new(ClockTime(clock));
    let mut config = ServerConfig::builder_with_details(provider()?, time)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(judge))
        .with_cert_resolver(Arc::new(credential.clone()));
    config.alpn_protocols = alpns.iter().map(|alpn| alpn.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// For a node that dials with its credential and expects somebody.
pub fn client_config(
    credential: &CurrentCredential,
    root: &TrustRoot,
    alpns: &[&[u8]],
    expect: Expect,
    revocations: Arc<Revocations>,
    clock: Arc<dyn Clock>,
) -> Result<ClientConfig, TlsError> {
    let verifier = KnownServer(Judge { root: root.clone(), expect, revocations });
    let config = ClientConfig::builder_with_details(provider()?, Arc::new(ClockTime(clock)))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(credential.clone()));
    Ok(dialer(config, alpns))
}

/// For a node that enrols: no certificate of its own, and only [`ENROL_ALPN`]. The server must
/// show a root of the pinned fingerprint and a chain from it.
pub fn enrol_client_config(
    pinned: RootFingerprint,
    expect: Expect,
    clock: Arc<dyn Clock>,
) -> Result<ClientConfig, TlsError> {
    let verifier = PinnedServer { pinned, expect };
    let config = ClientConfig::builder_with_details(provider()?, Arc::new(ClockTime(clock)))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(dialer(config, &[ENROL_ALPN]))
}

/// Who may go on after the handshake: a client with a certificate, or anybody who enrols.
/// Every accept loop calls this first; `certificates` is what the peer showed, if anything.
pub fn admit(
    alpn: &[u8],
    certificates: Option<&[CertificateDer<'_>]>,
) -> Result<Admitted, PeerError> {
    match (certificates.unwrap_or_default(), alpn) {
        ([], ENROL_ALPN) => Ok(Admitted::Enrolling),
        (chain, _) => Peer::from_chain(chain).map(|peer| Admitted::Node(Box::new(peer))),
    }
}

/// Who is let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admitted {
    /// Nobody yet: may redeem a token and nothing else.
    Enrolling,
    /// A node whose chain the handshake has verified.
    Node(Box<Peer>),
}

fn dialer(mut config: ClientConfig, alpns: &[&[u8]]) -> ClientConfig {
    config.alpn_protocols = alpns.iter().map(|alpn| alpn.to_vec()).collect();
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    config
}
