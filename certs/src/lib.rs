//! Who is who. An organisation has one root, kept offline with its key wrapped for a passphrase
//! and for a recovery key on paper. The root signs one authority per site and nothing else. A
//! site's authority signs certificates for nodes of its own site and nothing else; it lies on
//! the node that must go on when the other site is gone (the coordinator at the first site, the
//! proxy at the second). A node's certificate lives for a day, names the node by one URI
//! (`strongroom://ORG/site/SITE/ROLE/NAME`) and renews itself after two thirds of its life.
//!
//! A stranger becomes a node by a one-time token, which pins the root's fingerprint, so that
//! the first connection is already proven. A node stops being one by revocation, which is
//! pushed, checked at every handshake, and polled by the sessions that stand.
//!
//! Promises: a peer is believed only if its own site signed it, under the one root, now, and
//! nobody revoked it. Refuses TLS below 1.3, resumption, keys other than Ed25519, and private
//! files that others may read. Knows no network and no runtime; the time is the caller's.
//!
//! The one thing left to the accept loop is loud at the top of [`tls`]: call [`admit`].

pub mod book;
pub mod ca;
pub mod enrol;
pub mod files;
pub mod keys;
pub mod peer;
pub mod recovery;
pub mod request;
pub mod revoked;
pub mod secret;
pub mod tls;
pub mod token;
pub mod trust;
pub mod verify;
pub mod wrap;

mod provider;
mod signing;
mod verifiers;
mod x509;

pub use book::{BookError, Refusal, TokenBook, TokenGrant, TokenOrder, TokenRow, TokenState};
pub use ca::{Authority, CaError, Chain, NODE_LIFETIME_SECONDS, Root};
pub use enrol::{Credential, EnrolError, Enrolment, renew_at};
pub use files::FileError;
pub use keys::{KeyError, KeyPair, PublicKey};
pub use peer::{Peer, PeerError, Serial};
pub use recovery::{RecoveryKey, RecoveryKeyError};
pub use request::{CertRequest, RequestError};
pub use revoked::{Revocations, RevokedList};
pub use secret::{NoRandomness, Secret};
pub use tls::{
    Admitted, CurrentCredential, ENROL_ALPN, SERVER_NAME, TlsError, admit, client_config,
    enrol_client_config, server_config,
};
pub use token::{Token, TokenError, TokenSecret};
pub use trust::{RootFingerprint, TrustError, TrustRoot};
pub use verify::{Expect, VerifyError};
pub use wrap::{Cost, RecipientKind, WrapContext, WrapError, Wrapped};
