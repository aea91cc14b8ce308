//! Receiving whole packs from another copy. A transfer that was cut off resumes where its file
//! ends; a pack takes its place only when its bytes hash to its name. A pack that is here and
//! hurt is received as if it were not, and replaced. One that met an error of the disk starts
//! afresh: what could not be written back may read well until power is lost.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use strongroom_protocol::id::PackId;

use super::error::RepoError;
use super::salvage::PART;
use super::scrub::Subject;
use super::{Inner, Repo};
use crate::disk::{AppendFile, parent};
use crate::index::{Doubt, Rescue};
use crate::pack::{PACK_BYTES_MAX, hash_range, pack_path, read_footer};

/// Writing back is asked for each time this many bytes came in.
const WRITEBACK_BYTES: u64 = 8 << 20;

/// What came of asking to receive a pack.
#[derive(Debug)]
pub enum Begun {
    /// It is here already.
    Present,
    /// Send it from the transfer's offset on.
    Receiving(Box<IncomingPack>),
}

/// A pack on its way in.
pub struct IncomingPack {
    inner: Arc<Inner>,
    pack: PackId,
    path: String,
    file: Box<dyn AppendFile>,
    hasher: blake3::Hasher,
    writeback_at: u64,
    claim: Claim,
}

/// The transfers of one repository.
#[derive(Default)]
pub(super) struct Transfers {
    under_way: HashSet<PackId>,
    /// Their file met an error and could not be removed.
    spoiled: HashSet<PackId>,
}

/// Keeps a second transfer of the same pack out.
pub(super) struct Claim {
    transfers: Arc<Mutex<Transfers>>,
    pack: PackId,
}

impl Claim {
    pub(super) fn of(transfers: &Arc<Mutex<Transfers>>, pack: PackId) -> Option<Self> {
        let transfers = Arc::clone(transfers);
        let mut all = transfers.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = all.under_way.insert(pack);
        drop(all);
        is_new.then_some(Self { transfers, pack })
    }

    fn all(&self) -> MutexGuard<'_, Transfers> {
        self.transfers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.all().under_way.remove(&self.pack);
    }
}

impl Repo {
    /// Begins or resumes receiving a pack.
    pub fn begin_pack(&self, pack: PackId) -> Result<Begun, RepoError> {
        let inner = &self.inner;
        inner.writer()?;
        let claim = Claim::of(&inner.incoming, pack).ok_or(RepoError::Busy { pack })?;
        let is_here = !inner.is_hurt(Subject::Pack(pack)) && self.pack_len(pack).is_ok();
        if is_here && inner.index.rescue(&pack) == Rescue::Kept {
            return Ok(Begun::Present);
        }
        let path = format!("tmp/{pack}{PART}");
        let mut hasher = blake3::Hasher::new();
        let is_spoiled = claim.all().spoiled.contains(&pack);
        let file = if inner.disk.exists(&path)? && !is_spoiled {
            let file = inner.disk.append_to(&path)?;
            let reader = inner.disk.open(&path)?;
            hash_range(&*reader, &mut hasher, file.len())?;
            file
        } else {
            let file = inner.disk.create(&path)?;
            claim.all().spoiled.remove(&pack);
            file
        };
        let writeback_at = file.len() + WRITEBACK_BYTES;
        let inner = Arc::clone(inner);
        let incoming = IncomingPack { inner, pack, path, file, hasher, writeback_at, claim };
        Ok(Begun::Receiving(Box::new(incoming)))
    }
}

impl IncomingPack {
    /// Bytes that are here: send from there on.
    pub fn offset(&self) -> u64 {
        self.file.len()
    }

    /// Takes the next bytes. After an error the transfer is begun again, from the start.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), RepoError> {
        if self.file.len() + bytes.len() as u64 > PACK_BYTES_MAX {
            self.spoil();
            return Err(self.refused("it is longer than a pack may be"));
        }
        if let Err(error) = self.file.append(bytes) {
            self.spoil();
            return Err(error.into());
        }
        self.hasher.update(bytes);
        if self.file.len() >= self.writeback_at {
            self.file.start_writeback();
            self.writeback_at = self.file.len() + WRITEBACK_BYTES;
        }
        Ok(())
    }

    /// Checks the whole and puts it in its place; its name is durable at the next barrier. What
    /// does not hash to its name, or cannot be synced, is removed, so that the next transfer
    /// starts afresh.
    pub fn finish(mut self) -> Result<(), RepoError> {
        let placed = self.take_place();
        if placed.is_err() {
            self.spoil();
        }
        placed
    }

    fn take_place(&mut self) -> Result<(), RepoError> {
        if *self.hasher.finalize().as_bytes() != self.pack.0 {
            return Err(self.refused("its hash is another"));
        }
        let disk = &self.inner.disk;
        let reader = disk.open(&self.path)?;
        let Ok((class, entries)) = read_footer(&*reader, self.inner.config.repo) else {
            return Err(self.refused("it is no pack of this repository"));
        };
        self.file.sync()?;
        let path = pack_path(class, self.pack);
        let directory = parent(&path);
        let mut dirs = disk.create_dirs(directory)?;
        if disk.exists(&path)? {
            // The replacement must be found after a crash before what it replaces goes.
            disk.sync_dir("tmp")?;
            self.inner.quarantine(&path)?;
        }
        disk.rename(&self.path, &path)?;
        dirs.extend([directory.to_owned(), parent(directory).to_owned()]);
        self.inner.writer()?.dirty_dirs(dirs)?;
        self.inner.index.publish(self.pack, class, &entries, Doubt::Doubted);
        self.inner.replaced(Subject::Pack(self.pack));
        Ok(())
    }

    /// Forgets what came in.
    pub fn abandon(self) -> Result<(), RepoError> {
        Ok(self.inner.disk.remove(&self.path)?)
    }

    /// Removes the file: a failed sync is reported once, and the next one of the same bytes
    /// would succeed though they never reached the disk.
    fn spoil(&self) {
        if let Err(error) = self.inner.disk.remove(&self.path)
            && !error.is_missing()
        {
            tracing::warn!(pack = %self.pack, %error, "a spoiled transfer was not removed");
            self.claim.all().spoiled.insert(self.pack);
        }
    }

    const fn refused(&self, reason: &'static str) -> RepoError {
        RepoError::NotThePack { pack: self.pack, reason }
    }
}

impl std::fmt::Debug for IncomingPack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IncomingPack").field("pack", &self.pack).finish_non_exhaustive()
    }
}
