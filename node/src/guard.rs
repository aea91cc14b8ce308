//! Who this node is and whom it believes: its credential (renewed while connections stand),
//! the root it trusts, what was revoked, and the site's authority where it holds it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::CertificateDer;
use strongroom_certs::{
    Authority, Chain, Credential, CurrentCredential, Enrolment, Expect, Peer, Revocations,
    RevokedList, TrustRoot, client_config, files, server_config,
};
use strongroom_protocol::{ALPN_ENROL, ALPN_NODE, Clock, Identity, Role, Timestamp};

use crate::home::{Home, HomeError};

/// Most revocations taken in one message: more than nodes any organisation enrols, and few
/// enough to be kept in a file that is written whole.
const REVOKED_PUSHED_MAX: usize = 10_000;

/// What a running node proves itself with, and checks others by.
pub struct Guard {
    dir: PathBuf,
    credential: CurrentCredential,
    root: TrustRoot,
    authority: Option<Authority>,
    certificate_seconds: i64,
    revocations: Arc<Revocations>,
    clock: Arc<dyn Clock>,
    /// Until when a standing connection counts, where its peer has renewed since.
    renewed: Mutex<BTreeMap<Identity, Timestamp>>,
}

impl Guard {
    /// Opens the identity in `home`. A node that holds its site's authority issues its own
    /// certificate when it has none, it has run out, or the clock went back to before it.
    pub fn open(home: &Home, clock: Arc<dyn Clock>) -> Result<Self, HomeError> {
        let revoked = home.path("revoked.json");
        let revocations = Revocations::open(&revoked).map_err(part("revocations", &revoked))?;
        let identity = home.settings().identity();
        Self::assemble(home, identity, home.dir().to_owned(), Arc::new(revocations), clock)
    }

    /// The same node in another role that its site's authority gives it; its certificate lies in
    /// `dir`. What is revoked is one list.
    pub fn beside(&self, home: &Home, role: Role, dir: PathBuf) -> Result<Self, HomeError> {
        files::create_private_directory(&dir).map_err(part("the node's certificate", &dir))?;
        let identity = Identity { role, ..home.settings().identity() };
        let (revocations, clock) = (Arc::clone(&self.revocations), Arc::clone(&self.clock));
        Self::assemble(home, identity, dir, revocations, clock)
    }

    fn assemble(
        home: &Home,
        identity: Identity,
        dir: PathBuf,
        revocations: Arc<Revocations>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, HomeError> {
        let certificate_seconds = i64::from(home.settings().certificate_seconds);
        let place = home.authority();
        let authority = match place.exists() {
            true => Some(Authority::open(&place).map_err(part("the site's authority", &place))?),
            false => None,
        };
        let now = clock.now();
        let loaded = Credential::load(&dir);
        let credential = match (&authority, loaded) {
            (_, Ok(credential)) if counts_at(credential.peer(), now) => credential,
            (Some(authority), _) => {
                let own = self_issued(authority, &identity, now, certificate_seconds)
                    .map_err(part("the node's own certificate", &dir))?;
                own.save(&dir).map_err(part("the node's own certificate", &dir))?;
                own
            }
            (None, Ok(expired)) => expired,
            (None, Err(error)) => return Err(part("the node's certificate", &dir)(error)),
        };
        Ok(Self {
            root: credential.root.clone(),
            credential: CurrentCredential::new(&credential)
                .map_err(part("the node's certificate", &dir))?,
            dir,
            authority,
            certificate_seconds,
            revocations,
            clock,
            renewed: Mutex::default(),
        })
    }

    /// This node.
    pub fn me(&self) -> Peer {
        self.credential.peer()
    }

    /// The organisation's root.
    pub const fn root(&self) -> &TrustRoot {
        &self.root
    }

    /// The site's authority, where this node holds it.
    pub const fn authority(&self) -> Option<&Authority> {
        self.authority.as_ref()
    }

    /// What was revoked.
    pub const fn revocations(&self) -> &Arc<Revocations> {
        &self.revocations
    }

    /// The clock everything here goes by.
    pub const fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// For accepting peers; with an authority, strangers may come to enrol.
    pub fn server_tls(&self) -> Result<Arc<rustls::ServerConfig>, HomeError> {
        let both: [&[u8]; 2] = [ALPN_NODE, ALPN_ENROL];
        let (revocations, clock) = (Arc::clone(&self.revocations), Arc::clone(&self.clock));
        server_config(&self.credential, &self.root, &both, revocations, clock)
            .map(Arc::new)
            .map_err(part("the node's certificate", &self.dir))
    }

    /// For dialling a peer of whom `expect` holds.
    pub fn client_tls(&self, expect: Expect) -> Result<Arc<rustls::ClientConfig>, HomeError> {
        let (revocations, clock) = (Arc::clone(&self.revocations), Arc::clone(&self.clock));
        client_config(&self.credential, &self.root, &[ALPN_NODE], expect, revocations, clock)
            .map(Arc::new)
            .map_err(part("the node's certificate", &self.dir))
    }

    /// Whether a standing connection of `peer` may go on at this moment, and if not, why.
    pub fn still_welcome(&self, peer: &Peer) -> Result<(), &'static str> {
        if self.revocations.is_revoked(peer) {
            return Err("the certificate was revoked");
        }
        let renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        let until = renewed.get(&peer.identity).copied().unwrap_or(peer.not_after);
        if self.clock.now() > until.max(peer.not_after) {
            return Err("the certificate has expired");
        }
        Ok(())
    }

    /// Signs a request of `peer` for its own identity; its standing connections now count
    /// until the new certificate ends. A revocation that comes while it signs holds too.
    pub fn renew(&self, peer: &Peer, csr: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        let authority = self.authority.as_ref().ok_or("this node holds no authority")?;
        self.not_revoked(peer)?;
        let chain = self.sign(authority, csr, &peer.identity)?;
        self.not_revoked(peer)?;
        let until = self.clock.now().plus_seconds(self.certificate_seconds);
        let mut renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        renewed.insert(peer.identity.clone(), until);
        Ok(chain)
    }

    /// Until when the newest certificate counts that a node was given here as a renewal.
    pub fn renewed_until(&self, identity: &Identity) -> Option<Timestamp> {
        let renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        renewed.get(identity).copied()
    }

    fn not_revoked(&self, peer: &Peer) -> Result<(), String> {
        match self.revocations.is_revoked(peer) {
            true => Err(format!("the certificate of {} was revoked", peer.identity)),
            false => Ok(()),
        }
    }

    /// Takes in what the coordinator revoked, in one write. It cannot lock this site out: nothing
    /// counts beyond this node's own clock, and where the site's authority is held here, the
    /// site's own nodes are not the coordinator's to revoke.
    pub fn take_revoked(&self, pushed: Vec<(Identity, Timestamp)>) -> Result<(), HomeError> {
        if pushed.len() > REVOKED_PUSHED_MAX {
            let why = format!("{} revocations at once, not taken", pushed.len());
            return Err(part("the pushed revocations", &self.dir)(why));
        }
        let (now, own) = (self.clock.now(), self.me().identity);
        let mut list = RevokedList::default();
        for (identity, until) in pushed {
            let is_ours = identity.org == own.org && identity.site == own.site;
            if !(is_ours && self.authority.is_some()) {
                list.identities.push((identity, until.min(now)));
            }
        }
        self.revocations.merge(&list).map_err(part("revocations", &self.dir))
    }

    /// Signs a first request for the identity a token granted.
    pub fn sign(
        &self,
        authority: &Authority,
        csr: &[u8],
        granted: &Identity,
    ) -> Result<Vec<Vec<u8>>, String> {
        let request = strongroom_certs::CertRequest::parse(csr).map_err(|e| e.to_string())?;
        let issued =
            authority.issue_request(&request, granted, self.clock.now(), self.certificate_seconds);
        let chain = issued.map_err(|error| error.to_string())?;
        Ok(vec![chain.leaf.to_vec(), chain.intermediate.to_vec(), authority.root_der().to_vec()])
    }

    /// When the node's own certificate should be renewed.
    pub fn renew_at(&self) -> Timestamp {
        self.credential.renew_at()
    }

    /// Renews the node's own certificate from the authority it holds.
    pub fn renew_own(&self) -> Result<(), HomeError> {
        let Some(authority) = &self.authority else { return Ok(()) };
        let identity = self.me().identity;
        let own = self_issued(authority, &identity, self.clock.now(), self.certificate_seconds)
            .map_err(part("the node's own certificate", &self.dir))?;
        self.install(&own)
    }

    /// New connections prove themselves with `credential`; those that stand are not touched.
    pub fn install(&self, credential: &Credential) -> Result<(), HomeError> {
        credential.save(&self.dir).map_err(part("the node's certificate", &self.dir))?;
        self.credential.replace(credential).map_err(part("the node's certificate", &self.dir))
    }

    /// Takes the answer to a renewal: checked against the root and the key asked for.
    pub fn install_renewed(&self, asked: Enrolment, chain: Vec<Vec<u8>>) -> Result<(), HomeError> {
        let credential = finish_enrolment(asked, chain, self.root.fingerprint(), self.clock.now())
            .map_err(|source| HomeError::Part {
                what: "the renewed certificate",
                path: self.dir.clone(),
                source,
            })?;
        self.install(&credential)
    }
}

/// Checks a chain (leaf, intermediate, root) that answers `asked`.
pub(crate) fn finish_enrolment(
    asked: Enrolment,
    chain: Vec<Vec<u8>>,
    pinned: strongroom_certs::RootFingerprint,
    now: Timestamp,
) -> Result<Credential, Box<dyn std::error::Error + Send + Sync>> {
    let [leaf, intermediate, root] = <[Vec<u8>; 3]>::try_from(chain)
        .map_err(|chain| format!("the answer has {} certificates, not 3", chain.len()))?;
    let chain = Chain {
        leaf: CertificateDer::from(leaf),
        intermediate: CertificateDer::from(intermediate),
    };
    Ok(asked.finish(chain, CertificateDer::from(root), pinned, now)?)
}

fn counts_at(peer: &Peer, now: Timestamp) -> bool {
    (peer.not_before..peer.not_after).contains(&now)
}

fn self_issued(
    authority: &Authority,
    identity: &Identity,
    now: Timestamp,
    seconds: i64,
) -> Result<Credential, Box<dyn std::error::Error + Send + Sync>> {
    let key = strongroom_certs::KeyPair::generate()?;
    let chain = authority.issue(identity, &key.public(), now, seconds)?;
    Ok(Credential::of(chain, key, authority.root().clone())?)
}

fn part<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    what: &'static str,
    path: &std::path::Path,
) -> impl FnOnce(E) -> HomeError {
    let path = path.to_owned();
    move |source| HomeError::Part { what, path, source: source.into() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail anywhere")]
mod tests {
    use strongroom_certs::{CertRequest, Cost, KeyPair, RecoveryKey, Root, Secret};
    use strongroom_protocol::FixedClock;

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

    /// The guard of a proxy of site `b`; with the site's authority.
    fn guard(dir: &std::path::Path) -> Guard {
        let (secret, recovery) = (Secret::new(b"word".to_vec()), RecoveryKey::generate().unwrap());
        let org = "acme".parse().unwrap();
        let root = Root::create(&org, &secret, &recovery, Cost::TESTING, NOW).unwrap();
        let text = "org = \"acme\"\nsite = \"b\"\nrole = \"proxy\"\nname = \"dr\"\n";
        std::fs::write(dir.join(crate::home::SETTINGS_FILE), text).unwrap();
        let home = Home::open(dir).unwrap();
        root.issue_site(&"b".parse().unwrap(), NOW).unwrap().save(&home.authority()).unwrap();
        Guard::open(&home, Arc::new(FixedClock::at(NOW))).unwrap()
    }

    fn identity(path: &str) -> Identity {
        format!("strongroom://acme/site/{path}").parse().unwrap()
    }

    #[test]
    fn a_pushed_list_does_not_lock_the_site_out() {
        let dir = tempfile::tempdir().unwrap();
        let guard = guard(dir.path());
        let far = NOW.plus_seconds(1_000_000);
        let other = identity("a/coordinator/main");
        let pushed = vec![(identity("b/operator/ann"), far), (guard.me().identity, far)];
        guard.take_revoked(pushed).unwrap();
        assert_eq!(guard.revocations().changes(), 0);
        guard.take_revoked(vec![(other.clone(), far), (identity("a/agent/db"), NOW)]).unwrap();
        assert_eq!(guard.revocations().changes(), 1, "a list is one write");
        assert!(guard.revocations().list().identities.contains(&(other, NOW)));
        let many = vec![(identity("a/agent/x"), NOW); REVOKED_PUSHED_MAX + 1];
        assert!(guard.take_revoked(many).is_err());
        assert_eq!(guard.revocations().changes(), 1);
    }

    #[test]
    fn a_revoked_node_is_not_renewed() {
        let dir = tempfile::tempdir().unwrap();
        let guard = guard(dir.path());
        let peer = Peer { identity: identity("b/agent/db"), ..guard.me() };
        let csr = CertRequest::make(&peer.identity, &KeyPair::generate().unwrap()).unwrap();
        assert_eq!(guard.renewed_until(&peer.identity), None);
        assert_eq!(guard.renew(&peer, &csr).unwrap().len(), 3);
        let until = guard.renewed_until(&peer.identity).unwrap();
        assert_eq!(until, NOW.plus_seconds(guard.certificate_seconds));
        guard.revocations().revoke_identity(&peer.identity, NOW).unwrap();
        assert!(guard.renew(&peer, &csr).unwrap_err().contains("revoked"));
    }
}
