//! Becoming a node and staying one: a key and a request, the check of what came back, and the
//! credential in the node's directory. Nothing is saved that does not end in the pinned root,
//! name exactly what was asked for and fit our own key. A crash at any moment leaves either the
//! old credential or the new one, never a key without its certificate.

use std::path::Path;

use rustls_pki_types::CertificateDer;
use strongroom_protocol::{Identity, Timestamp};

use crate::ca::{Chain, ROOT_CERTIFICATE_FILE};
use crate::files::{
    FileError, create_private_directory, read_certificates, read_private, rename,
    write_certificates, write_private,
};
use crate::keys::{KeyError, KeyPair, PublicKey};
use crate::peer::{Peer, PeerError};
use crate::request::{CertRequest, RequestError};
use crate::trust::{RootFingerprint, TrustError, TrustRoot};
use crate::verify::{Expect, Usage, VerifyError, verify_chain};

/// The node's certificate and that of its site's authority.
pub const NODE_CERTIFICATE_FILE: &str = "node.crt";
/// The node's private key, 0600.
pub const NODE_KEY_FILE: &str = "node.key";
/// The key of a request that is not answered yet.
pub const NEXT_KEY_FILE: &str = "node.key.next";

/// Why there is no credential.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrolError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The key could not be made or read.
    #[error("the node's private key is not usable")]
    Key(#[from] KeyError),
    /// The certificate is for another key than ours.
    #[error("the certificate of {identity} is not for the key of this node")]
    OtherKey { identity: Box<Identity> },
    /// The root that came back is not the one the token pins.
    #[error("the root's fingerprint is {found}, but {pinned} was pinned")]
    OtherRoot { pinned: RootFingerprint, found: RootFingerprint },
    /// The certificates are not of our shape.
    #[error("the node's certificates are not usable")]
    Peer(#[from] PeerError),
    /// The request could not be made.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The root is not usable.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The chain does not hold.
    #[error("the certificate that came back does not hold")]
    Verify(#[from] VerifyError),
    /// The certificate is for somebody else.
    #[error("asked to be {asked}, was made {given}")]
    WrongIdentity { asked: Box<Identity>, given: Box<Identity> },
}

/// When to renew: after two thirds of the life, so that a third is left to try again. The life
/// begins when it was issued; a certificate says that it counts from some minutes before.
#[must_use]
pub const fn renew_at(issued: Timestamp, not_after: Timestamp) -> Timestamp {
    let life = not_after.0.saturating_sub(issued.0);
    Timestamp(issued.0.saturating_add(life / 3 * 2))
}

/// A request under way: at first enrolment and at every renewal.
#[derive(Debug)]
pub struct Enrolment {
    identity: Identity,
    key: KeyPair,
    request: Vec<u8>,
}

impl Enrolment {
    /// A new key and a request for `identity`.
    pub fn begin(identity: &Identity) -> Result<Self, EnrolError> {
        Self::with_key(identity, KeyPair::generate()?)
    }

    /// The same, with the key kept in `dir` until the answer is there: a node that crashes
    /// asks again with the same key, and its token is accepted again.
    pub fn begin_in(dir: &Path, identity: &Identity) -> Result<Self, EnrolError> {
        create_private_directory(dir)?;
        let path = dir.join(NEXT_KEY_FILE);
        let key = match read_private(&path) {
            Ok(pem) => KeyPair::from_pem(&pem)?,
            Err(error) if error.is_missing() => {
                let key = KeyPair::generate()?;
                write_private(&path, key.to_pem()?.expose())?;
                key
            }
            Err(error) => return Err(error.into()),
        };
        Self::with_key(identity, key)
    }

    /// The request, PKCS #10 in DER.
    pub fn request_der(&self) -> &[u8] {
        &self.request
    }

    /// Who it asks to be.
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The key it asks for.
    pub const fn public_key(&self) -> PublicKey {
        self.key.public()
    }

    /// Checks the answer: the pinned root, a chain that holds now, our identity, our key.
    pub fn finish(
        self,
        chain: Chain,
        root: CertificateDer<'static>,
        pinned: RootFingerprint,
        now: Timestamp,
    ) -> Result<Credential, EnrolError> {
        let found = RootFingerprint::of(&root);
        if found != pinned {
            return Err(EnrolError::OtherRoot { pinned, found });
        }
        let root = TrustRoot::from_der(root)?;
        let certificates = [chain.leaf.clone(), chain.intermediate.clone()];
        let peer = verify_chain(&certificates, &root, &Expect::ANYBODY, Usage::Client, now)?;
        if peer.identity != self.identity {
            return Err(EnrolError::WrongIdentity {
                asked: Box::new(self.identity),
                given: Box::new(peer.identity),
            });
        }
        Credential::of(chain, self.key, root)
    }

    fn with_key(identity: &Identity, key: KeyPair) -> Result<Self, EnrolError> {
        let request = CertRequest::make(identity, &key)?;
        Ok(Self { identity: identity.clone(), key, request })
    }
}

/// What a node proves its identity with.
#[derive(Debug)]
pub struct Credential {
    pub chain: Chain,
    pub key: KeyPair,
    pub root: TrustRoot,
    peer: Peer,
}

impl Credential {
    /// Puts a credential together; refuses a key that is not that of the certificate.
    pub fn of(chain: Chain, key: KeyPair, root: TrustRoot) -> Result<Self, EnrolError> {
        let peer = Peer::from_chain(&[chain.leaf.clone(), chain.intermediate.clone()])?;
        if peer.public_key != key.public() {
            return Err(EnrolError::OtherKey { identity: Box::new(peer.identity) });
        }
        Ok(Self { chain, key, root, peer })
    }

    /// Writes `node.key` (0600), `node.crt` and `root.crt`. The new key is on disk before the
    /// certificate and takes the old one's place after it, so that `load` always finds a pair.
    pub fn save(&self, dir: &Path) -> Result<(), EnrolError> {
        create_private_directory(dir)?;
        let next = dir.join(NEXT_KEY_FILE);
        write_private(&next, self.key.to_pem()?.expose())?;
        write_certificates(&dir.join(ROOT_CERTIFICATE_FILE), &[self.root.der()])?;
        let chain: [&[u8]; 2] = [&self.chain.leaf, &self.chain.intermediate];
        write_certificates(&dir.join(NODE_CERTIFICATE_FILE), &chain)?;
        Ok(rename(&next, &dir.join(NODE_KEY_FILE))?)
    }

    /// Reads what [`Credential::save`] wrote, also when it was interrupted. An expired
    /// credential is loaded too: its owner must see who it was.
    pub fn load(dir: &Path) -> Result<Self, EnrolError> {
        let root = TrustRoot::load(&dir.join(ROOT_CERTIFICATE_FILE))?;
        let mut certificates = read_certificates(&dir.join(NODE_CERTIFICATE_FILE))?.into_iter();
        let (Some(leaf), Some(intermediate)) = (certificates.next(), certificates.next()) else {
            return Err(PeerError::Shape { certificates: 1 }.into());
        };
        let chain = Chain { leaf, intermediate };
        let stored = read_private(&dir.join(NODE_KEY_FILE));
        let first = match stored {
            Ok(pem) => Self::of(chain.clone(), KeyPair::from_pem(&pem)?, root.clone()),
            Err(error) => Err(error.into()),
        };
        let unpaired = match &first {
            Err(EnrolError::OtherKey { .. }) => true,
            Err(EnrolError::File(error)) => error.is_missing(),
            _ => false,
        };
        let next = dir.join(NEXT_KEY_FILE);
        match read_private(&next) {
            Ok(pem) if unpaired => {
                let credential = Self::of(chain, KeyPair::from_pem(&pem)?, root)?;
                rename(&next, &dir.join(NODE_KEY_FILE))?;
                Ok(credential)
            }
            _ => first,
        }
    }

    /// Who the node is, as its peers will see it.
    pub const fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The identity.
    pub const fn identity(&self) -> &Identity {
        &self.peer.identity
    }

    /// When to renew it.
    #[must_use]
    pub const fn renew_at(&self) -> Timestamp {
        renew_at(self.peer.issued(), self.peer.not_after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renews_after_two_thirds() {
        let at = |seconds| Timestamp::from_unix_seconds(seconds);
        assert_eq!(renew_at(at(1000), at(1000 + 3 * 3600)), at(1000 + 2 * 3600));
        assert_eq!(renew_at(at(5), at(5)), at(5));
        assert!(renew_at(Timestamp(i64::MIN), Timestamp(i64::MAX)) < Timestamp(i64::MAX));
    }
}
