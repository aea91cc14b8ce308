//! Whose certificates no longer count: single ones by serial number (a site authority's too),
//! and all of an identity up to a moment. Shared between the verifiers and the sessions, which
//! poll [`Revocations::changes`]. A revocation is durable before it is in force; none is ever
//! taken back, a node that may return enrols again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use strongroom_protocol::{Identity, Timestamp};

use crate::files::{FileError, read_json, write_json};
use crate::peer::{Peer, Serial};

/// Everything revoked, as it is saved and as it is pushed to the other nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedList {
    /// Certificates by serial number, with the moment they were revoked.
    pub serials: BTreeMap<Serial, Timestamp>,
    /// Everything issued to this identity until the moment, that moment included.
    pub identities: Vec<(Identity, Timestamp)>,
}

impl RevokedList {
    fn add_serial(&mut self, serial: Serial, at: Timestamp) -> Change {
        if self.serials.contains_key(&serial) {
            return Change::None;
        }
        self.serials.insert(serial, at);
        Change::Some
    }

    fn add_identity(&mut self, identity: &Identity, until: Timestamp) -> Change {
        match self.identities.binary_search_by(|(known, _)| known.cmp(identity)) {
            Ok(index) => match self.identities.get_mut(index) {
                Some((_, known)) if *known < until => {
                    *known = until;
                    Change::Some
                }
                _ => Change::None,
            },
            Err(index) => {
                self.identities.insert(index, (identity.clone(), until));
                Change::Some
            }
        }
    }

    fn contains(&self, peer: &Peer) -> bool {
        self.serials.contains_key(&peer.serial)
            || self.serials.contains_key(&peer.issuer_serial)
            || self
                .identities
                .binary_search_by(|(known, _)| known.cmp(&peer.identity))
                .ok()
                .and_then(|index| self.identities.get(index))
                .is_some_and(|(_, until)| peer.issued() <= *until)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    None,
    Some,
}

/// The shared, durable list of what is revoked.
#[derive(Debug)]
pub struct Revocations {
    path: Option<PathBuf>,
    list: RwLock<RevokedList>,
    changes: AtomicU64,
    /// Orders writers, so that readers never wait for a disk.
    writing: Mutex<()>,
}

impl Revocations {
    /// A list that is kept nowhere: for tools and tests.
    pub const fn in_memory() -> Self {
        let list = RevokedList { serials: BTreeMap::new(), identities: Vec::new() };
        Self {
            path: None,
            list: RwLock::new(list),
            changes: AtomicU64::new(0),
            writing: Mutex::new(()),
        }
    }

    /// The list kept in `path`; empty when there is no such file yet.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let saved = match read_json::<RevokedList>(path, "a list of revocations") {
            Ok(saved) => saved,
            Err(error) if error.is_missing() => RevokedList::default(),
            Err(error) => return Err(error),
        };
        let revocations = Self { path: Some(path.to_owned()), ..Self::in_memory() };
        // Merged and not taken over: a file edited by hand may not be in order.
        let mut list = RevokedList::default();
        merge(&mut list, &saved);
        *revocations.list.write().unwrap_or_else(PoisonError::into_inner) = list;
        Ok(revocations)
    }

    /// Revokes one certificate, of a node or of a site authority.
    pub fn revoke_serial(&self, serial: Serial, now: Timestamp) -> Result<(), FileError> {
        self.change(|list| list.add_serial(serial, now))
    }

    /// Revokes everything issued to `identity` until `until`; later certificates count again.
    pub fn revoke_identity(&self, identity: &Identity, until: Timestamp) -> Result<(), FileError> {
        self.change(|list| list.add_identity(identity, until))
    }

    /// Adds what another node has revoked.
    pub fn merge(&self, other: &RevokedList) -> Result<(), FileError> {
        self.change(|list| merge(list, other))
    }

    /// True when the peer's certificate, or that of its issuer, no longer counts.
    pub fn is_revoked(&self, peer: &Peer) -> bool {
        self.list.read().unwrap_or_else(PoisonError::into_inner).contains(peer)
    }

    /// Rises with every change: a session that remembers it knows when to look again.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Everything revoked, to be pushed.
    pub fn list(&self) -> RevokedList {
        self.list.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, apply: impl FnOnce(&mut RevokedList) -> Change) -> Result<(), FileError> {
        let _writer = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = self.list();
        if apply(&mut next) == Change::None {
            return Ok(());
        }
        if let Some(path) = &self.path {
            write_json(path, &next)?;
        }
        *self.list.write().unwrap_or_else(PoisonError::into_inner) = next;
        self.changes.fetch_add(1, Ordering::Release);
        Ok(())
    }
}

fn merge(list: &mut RevokedList, other: &RevokedList) -> Change {
    let mut change = Change::None;
    let mut note = |more: Change| {
        if more == Change::Some {
            change = more;
        }
    };
    for (&serial, &at) in &other.serials {
        note(list.add_serial(serial, at));
    }
    for (identity, until) in &other.identities {
        note(list.add_identity(identity, *until));
    }
    change
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::PublicKey;

    fn peer(name: &str, issued: i64) -> Peer {
        let identity: Identity = format!("strongroom://acme/site/a/agent/{name}").parse().unwrap();
        Peer {
            issued_by: identity.site.clone(),
            identity,
            serial: Serial::generate().unwrap(),
            not_before: Timestamp::from_unix_seconds(issued - crate::peer::BACKDATED_SECONDS),
            not_after: Timestamp::from_unix_seconds(issued + 86_400),
            issuer_serial: Serial::generate().unwrap(),
            public_key: PublicKey([0; 32]),
        }
    }

    #[test]
    fn an_identity_returns_with_a_later_certificate_only() {
        let revocations = Revocations::in_memory();
        let (old, new, other) = (peer("db1", 1000), peer("db1", 1001), peer("db2", 900));
        let until = Timestamp::from_unix_seconds(1000);
        revocations.revoke_identity(&old.identity, until).unwrap();
        let revoked = [&old, &new, &other].map(|peer| revocations.is_revoked(peer));
        assert_eq!(revoked, [true, false, false]);
        // An earlier moment takes nothing back.
        revocations.revoke_identity(&old.identity, Timestamp::from_unix_seconds(5)).unwrap();
        assert!(revocations.is_revoked(&old));
        assert_eq!(revocations.changes(), 1);
    }

    #[test]
    fn a_serial_of_the_authority_revokes_what_it_issued() {
        let revocations = Revocations::in_memory();
        let (one, other) = (peer("db1", 1000), peer("db2", 1000));
        revocations.revoke_serial(one.issuer_serial, Timestamp(1)).unwrap();
        assert!(revocations.is_revoked(&one) && !revocations.is_revoked(&other));
        revocations.revoke_serial(other.serial, Timestamp(1)).unwrap();
        assert!(revocations.is_revoked(&other));
        assert_eq!(revocations.changes(), 2);
    }

    #[test]
    fn survives_a_restart_and_merges_what_others_know() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("revoked.json");
        let (one, two) = (peer("db1", 1000), peer("db0", 1000));
        let here = Revocations::open(&path).unwrap();
        here.revoke_identity(&one.identity, Timestamp::from_unix_seconds(2000)).unwrap();
        let there = Revocations::in_memory();
        there.revoke_identity(&two.identity, Timestamp::from_unix_seconds(2000)).unwrap();
        there.revoke_serial(two.serial, Timestamp(7)).unwrap();
        here.merge(&there.list()).unwrap();
        here.merge(&there.list()).unwrap();
        assert_eq!(here.changes(), 2, "nothing new is no change");
        let again = Revocations::open(&path).unwrap();
        assert!(again.is_revoked(&one) && again.is_revoked(&two));
        assert_eq!(again.list(), here.list());
        std::fs::write(&path, b"{").unwrap();
        assert!(matches!(Revocations::open(&path), Err(FileError::Malformed { .. })));
    }

    #[test]
    fn what_is_not_durable_is_not_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        let revocations = Revocations::open(&gone.join("revoked.json")).unwrap();
        let peer = peer("db1", 1000);
        assert!(revocations.revoke_serial(peer.serial, Timestamp(1)).is_err());
        assert!(!revocations.is_revoked(&peer));
        assert_eq!(revocations.changes(), 0);
    }
}
