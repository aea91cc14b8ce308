//! Which key epoch opens what: the header of a pack says it for all its records. What is sealed
//! under an epoch newer than the keys at hand is named as that, never taken for damage.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use strongroom_protocol::id::PackId;

use super::error::RepoError;
use super::open::Mode;
use super::wraps::{RepoKeys, read_keys};
use super::{Inner, Repo};
use crate::disk::Disk;
use crate::keys::VaultKey;
use crate::pack::{PackError, hash_file, read_epoch};

/// The epochs of packs that were asked for; packs never change.
#[derive(Default)]
pub(super) struct Epochs(Mutex<HashMap<PackId, u32>>);

impl Repo {
    /// The wrapped vault key as it is stored now: it may be changed while the repository is open.
    pub fn keys_now(&self) -> Result<RepoKeys, RepoError> {
        read_keys(&*self.inner.disk, self.id())
    }

    /// The key epoch all records of a pack are sealed under.
    pub fn pack_epoch(&self, pack: PackId) -> Result<u32, RepoError> {
        self.inner.pack_epoch(pack)
    }

    /// The epoch to open a record of a pack with.
    pub(super) fn opening_epoch(&self, pack: PackId) -> Result<u32, RepoError> {
        // A vault that was never rotated need not look.
        match self.vault_key()?.epoch() {
            1 => Ok(1),
            _ => self.pack_epoch(pack),
        }
    }

    /// Why a record did not open, when its pack says that another key is needed.
    pub(super) fn closed_by_epoch(&self, pack: PackId) -> Option<RepoError> {
        let (known, epoch) = (self.vault_key().ok()?.epoch(), self.pack_epoch(pack).ok()?);
        (epoch > known).then_some(RepoError::NewerEpoch { pack, epoch, known })
    }

    /// An error when the pack is whole and sealed under an epoch that the keys here do not hold.
    pub(super) fn check_epoch(&self, pack: PackId) -> Result<(), RepoError> {
        let Some(newer) = self.closed_by_epoch(pack) else { return Ok(()) };
        match hash_file(&*self.inner.reader(pack)?) {
            Ok(found) if found == pack => Err(newer),
            _ => Ok(()),
        }
    }
}

impl Inner {
    /// The key epoch of a pack, from its header.
    pub(super) fn pack_epoch(&self, pack: PackId) -> Result<u32, RepoError> {
        if let Some(epoch) = self.epochs.all().get(&pack) {
            return Ok(*epoch);
        }
        let file = self.reader(pack)?;
        let epoch = read_epoch(&*file, self.config.repo).map_err(|error| match error {
            PackError::Disk(error) => error.into(),
            _ => RepoError::DamagedFile {
                path: self.disk.describe(&pack.to_string()),
                reason: "the header of the pack does not hold",
            },
        })?;
        self.epochs.all().insert(pack, epoch);
        Ok(epoch)
    }
}

impl Epochs {
    fn all(&self) -> MutexGuard<'_, HashMap<PackId, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of packs that are gone.
    pub(super) fn forget(&self, gone: &HashSet<PackId>) {
        self.all().retain(|pack, _| !gone.contains(pack));
    }
}

/// Holds a key against the `keys` file it is to be used with. Writing under an epoch that is
/// wrapped for nobody would make copies that no recipient opens, so that is refused.
pub(super) fn check_key(
    disk: &dyn Disk,
    keys: &RepoKeys,
    key: &VaultKey,
    mode: Mode,
) -> Result<(), RepoError> {
    if !keys.agrees_with(key) {
        return Err(RepoError::WrongKey { path: disk.describe("") });
    }
    let (wrapped, held) = (keys.epochs(), key.epoch());
    if mode == Mode::Write && held > wrapped {
        return Err(RepoError::Unwrapped { path: disk.describe("keys"), wrapped, held });
    }
    if held < wrapped {
        tracing::warn!(held, wrapped, "the vault key lacks key epochs that the keys file wraps");
    }
    Ok(())
}
