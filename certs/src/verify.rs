//! The decision whether a chain is believed. Accepts exactly leaf, site authority and perhaps
//! the root; only the authority next to the leaf may have signed it, only the pinned root the
//! authority, and an authority only speaks for its own site. Then the role and site the dialer
//! expects, then revocation. DNS names are ignored: addresses move, identities do not.

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use serde::{Deserialize, Serialize};
use strongroom_protocol::{Identity, OrgName, Role, SiteName, Timestamp};

use crate::peer::{Peer, PeerError};
use crate::provider::{algorithms, provider};
use crate::trust::{RootFingerprint, TrustError, TrustRoot};

/// Whom the dialer wants to meet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expect {
    pub role: Option<Role>,
    pub site: Option<SiteName>,
}

impl Expect {
    /// Any node of the organisation.
    pub const ANYBODY: Self = Self { role: None, site: None };
}

/// Why a peer is not believed; found inside a [`rustls::Error`] by [`VerifyError::of`], but for
/// revocation and dates, which are rustls' own [`CertificateError`]s there.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// A signature, a date or a usage does not hold.
    #[error("the chain of {identity} does not hold")]
    Chain { identity: Box<Identity>, source: rustls::Error },
    /// The clock shows a moment before 1970.
    #[error("the clock shows {now}, no certificate is valid then")]
    Clock { now: Timestamp },
    /// The chain ends in another root than the trusted one.
    #[error("the peer belongs to another root: {found}, not {pinned}")]
    OtherRoot { pinned: RootFingerprint, found: RootFingerprint },
    /// The certificates are not of our shape.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The peer, or its site's authority, was revoked.
    #[error("the certificate of {identity} was revoked")]
    Revoked { identity: Box<Identity> },
    /// The root shown is not usable.
    #[error("the root shown by the peer is not usable: {reason}")]
    Root { reason: String },
    /// A node of another organisation.
    #[error("{identity} is not of the organisation {org}")]
    WrongOrg { org: OrgName, identity: Box<Identity> },
    /// Not the role the dialer named.
    #[error("{identity} is no {expected}")]
    WrongRole { expected: Role, identity: Box<Identity> },
    /// Not the site the dialer named.
    #[error("{identity} is not at site {expected}")]
    WrongSite { expected: SiteName, identity: Box<Identity> },
}

impl VerifyError {
    /// The reason inside a failed handshake's error, when it came from here.
    pub fn of(error: &rustls::Error) -> Option<&Self> {
        match error {
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
                inner.downcast_ref()
            }
            _ => None,
        }
    }

    /// True when a date is the reason: the peer's certificate is over, or a clock is wrong.
    pub const fn is_about_time(&self) -> bool {
        use CertificateError as E;
        let Self::Chain { source: rustls::Error::InvalidCertificate(source), .. } = self else {
            return false;
        };
        matches!(
            source,
            E::Expired | E::ExpiredContext { .. } | E::NotValidYet | E::NotValidYetContext { .. }
        )
    }
}

impl From<TrustError> for VerifyError {
    fn from(error: TrustError) -> Self {
        Self::Root { reason: error.to_string() }
    }
}

impl From<VerifyError> for rustls::Error {
    /// Revocation and dates keep rustls' own words: they become alerts the peer can read, and
    /// the peer is the one who can do something about them.
    fn from(error: VerifyError) -> Self {
        let about_time = error.is_about_time();
        match error {
            VerifyError::Revoked { .. } => Self::InvalidCertificate(CertificateError::Revoked),
            VerifyError::Chain { source, .. } if about_time => source,
            other => {
                let other = OtherError(std::sync::Arc::new(other));
                Self::InvalidCertificate(CertificateError::Other(other))
            }
        }
    }
}

/// Which side the holder of the chain is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Usage {
    Client,
    Server,
}

/// Believes a chain, or says why not. Revocation is the caller's to check.
pub(crate) fn verify_chain(
    chain: &[CertificateDer<'_>],
    root: &TrustRoot,
    expect: &Expect,
    usage: Usage,
    now: Timestamp,
) -> Result<Peer, VerifyError> {
    let unix_now = u64::try_from(now.unix_seconds()).map_err(|_| VerifyError::Clock { now })?;
    let unix_now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(unix_now));
    // Shape, names and site first: they say more than "unknown issuer" would.
    let peer = Peer::from_chain(chain)?;
    if let [_, _, shown] = chain
        && *shown != *root.der()
    {
        let (pinned, found) = (root.fingerprint(), RootFingerprint::of(shown));
        return Err(VerifyError::OtherRoot { pinned, found });
    }
    let identity = || Box::new(peer.identity.clone());
    let [leaf, intermediate, ..] = chain else {
        return Err(PeerError::Shape { certificates: chain.len() }.into());
    };
    // The leaf names this intermediate as its issuer and no other one is handed over, so the
    // site checked above is the site that signed.
    check_signatures(leaf, std::slice::from_ref(intermediate), root, usage, unix_now)
        .map_err(|source| VerifyError::Chain { identity: identity(), source })?;
    if peer.identity.org != *root.org() {
        return Err(VerifyError::WrongOrg { org: root.org().clone(), identity: identity() });
    }
    match expect {
        Expect { role: Some(expected), .. } if *expected != peer.identity.role => {
            Err(VerifyError::WrongRole { expected: *expected, identity: identity() })
        }
        Expect { site: Some(expected), .. } if *expected != peer.identity.site => {
            let (expected, identity) = (expected.clone(), identity());
            Err(VerifyError::WrongSite { expected, identity })
        }
        _ => Ok(peer),
    }
}

fn check_signatures(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    root: &TrustRoot,
    usage: Usage,
    now: UnixTime,
) -> Result<(), rustls::Error> {
    let supported: WebPkiSupportedAlgorithms = algorithms()?;
    match usage {
        Usage::Server => verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(leaf)?,
            root.store(),
            intermediates,
            now,
            supported.all,
        ),
        Usage::Client => {
            WebPkiClientVerifier::builder_with_provider(root.store().clone(), provider()?)
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?
                .verify_client_cert(leaf, intermediates, now)
                .map(|_| ())
        }
    }
}

/// The signatures of the handshake itself: Ed25519 or nothing.
pub(crate) const SCHEMES: [SignatureScheme; 1] = [SignatureScheme::ED25519];
