//! Receiving whole packs from another copy. A transfer that was cut off resumes where its file
//! ends; a pack takes its place only when its bytes hash to its name.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use strongroom_protocol::id::PackId;

use super::error::RepoError;
use super::salvage::PART;
use super::{Inner, Repo};
use crate::disk::{AppendFile, parent};
use crate::index::Doubt;
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
    _claim: Claim,
}

/// Keeps a second transfer of the same pack out.
struct Claim {
    claims: Arc<Mutex<HashSet<PackId>>>,
    pack: PackId,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.pack);
    }
}

impl Repo {
    /// Begins or resumes receiving a pack.
    pub fn begin_pack(&self, pack: PackId) -> Result<Begun, RepoError> {
        let inner = &self.inner;
        inner.writer()?;
        let claims = Arc::clone(&inner.incoming);
        if !claims.lock().unwrap_or_else(PoisonError::into_inner).insert(pack) {
            return Err(RepoError::Busy { pack });
        }
        let claim = Claim { claims, pack };
        if inner.index.class(&pack).is_some() {
            return Ok(Begun::Present);
        }
        let path = format!("tmp/{pack}{PART}");
        let mut hasher = blake3::Hasher::new();
        let file = if inner.disk.exists(&path)? {
            let file = inner.disk.append_to(&path)?;
            let reader = inner.disk.open(&path)?;
            hash_range(&*reader, &mut hasher, file.len())?;
            file
        } else {
            inner.disk.create(&path)?
        };
        let writeback_at = file.len() + WRITEBACK_BYTES;
        let inner = Arc::clone(inner);
        let incoming =
            IncomingPack { inner, pack, path, file, hasher, writeback_at, _claim: claim };
        Ok(Begun::Receiving(Box::new(incoming)))
    }
}

impl IncomingPack {
    /// Bytes that are here: send from there on.
    pub fn offset(&self) -> u64 {
        self.file.len()
    }

    /// Takes the next bytes. After an error the transfer is begun again.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), RepoError> {
        if self.file.len() + bytes.len() as u64 > PACK_BYTES_MAX {
            return Err(self.refused("it is longer than a pack may be"));
        }
        self.file.append(bytes)?;
        self.hasher.update(bytes);
        if self.file.len() >= self.writeback_at {
            self.file.start_writeback();
            self.writeback_at = self.file.len() + WRITEBACK_BYTES;
        }
        Ok(())
    }

    /// Checks the whole and puts it in its place; its name is durable at the next barrier. What
    /// does not hash to its name is removed, so that the next transfer starts afresh.
    pub fn finish(mut self) -> Result<(), RepoError> {
        if *self.hasher.finalize().as_bytes() != self.pack.0 {
            self.inner.disk.remove(&self.path)?;
            return Err(self.refused("its hash is another"));
        }
        let disk = &self.inner.disk;
        let reader = disk.open(&self.path)?;
        let Ok((class, entries)) = read_footer(&*reader, self.inner.config.repo) else {
            disk.remove(&self.path)?;
            return Err(self.refused("it is no pack of this repository"));
        };
        self.file.sync()?;
        let path = pack_path(class, self.pack);
        let directory = parent(&path);
        let mut dirs = disk.create_dirs(directory)?;
        disk.rename(&self.path, &path)?;
        dirs.extend([directory.to_owned(), parent(directory).to_owned()]);
        self.inner.writer()?.dirty_dirs(dirs)?;
        self.inner.index.publish(self.pack, class, &entries, Doubt::Doubted);
        Ok(())
    }

    /// Forgets what came in.
    pub fn abandon(self) -> Result<(), RepoError> {
        Ok(self.inner.disk.remove(&self.path)?)
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
