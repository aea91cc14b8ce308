//! A repository: blobs and points in a directory. Promises: a point that was acknowledged can be
//! read back after a power loss; bytes are never returned under a name that is not theirs; a
//! point is refused while anything it needs is missing. Clones share one repository.

mod closure;
mod collect;
mod config;
mod epochs;
mod error;
mod heal;
mod hurt;
mod incoming;
mod insert;
mod open;
mod points;
mod read;
mod removals;
mod reserve;
mod salvage;
mod scrub;
mod session;
mod verify;
mod wraps;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use strongroom_protocol::id::{PackId, RepoId};

use crate::disk::{Disk, Lock, ReadFile};
use crate::index::Index;
use crate::keys::{AgentKeys, VaultKey};
use crate::writer::Writer;

pub use closure::{Closure, Incomplete};
pub use collect::{
    Collect, CollectError, CollectLimits, CollectReport, CollectionPlan, PackTally, Removal,
    RemovedPack,
};
pub use config::{RepoConfig, RepoSetup};
pub use error::{InsertError, RepoError};
pub use incoming::{Begun, IncomingPack};
pub use insert::Inserted;
pub use open::{Mode, Options};
pub use reserve::RESERVE_BYTES;
pub use scrub::{Checked, ScrubAge, ScrubTerms, Subject};
pub use session::Session;
pub use verify::{DamagedPack, DamagedPoint, Depth, VerifyReport};
pub use wraps::RepoKeys;

/// Open pack files kept for reading.
const READERS_MAX: usize = 64;

/// A repository that was opened; cheap to clone.
#[derive(Clone)]
pub struct Repo {
    inner: Arc<Inner>,
    /// Of a repository as a session sees it.
    lease: Option<Arc<session::Lease>>,
}

struct Inner {
    disk: Arc<dyn Disk>,
    config: RepoConfig,
    wraps: RepoKeys,
    keys: Option<(VaultKey, AgentKeys)>,
    index: Arc<Index>,
    writer: Option<Writer>,
    readers: Mutex<VecDeque<(PackId, Arc<dyn ReadFile>)>>,
    epochs: epochs::Epochs,
    incoming: Arc<Mutex<incoming::Transfers>>,
    health: Mutex<Health>,
    book: OnceLock<Mutex<scrub::Book>>,
    flushing: AtomicBool,
    collecting: AtomicBool,
    reserve_bytes: AtomicU64,
    committing: points::Committing,
    _lock: Option<Lock>,
}

/// What was found wrong, and how it was met.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Health {
    /// Packs in place that are not whole, and why.
    pub unreadable_packs: Vec<(PackId, String)>,
    /// Packs the index knew that are gone.
    pub missing_packs: Vec<PackId>,
    /// Index segments that were dropped and rebuilt from packs.
    pub segments_dropped: usize,
    /// Blobs saved from packs that a crash left unfinished.
    pub salvaged_blobs: usize,
    /// Blobs in such packs that could not be saved, or need others that are missing.
    pub abandoned_blobs: usize,
    /// What scrubbing found hurt since, and how.
    pub hurt: BTreeMap<Subject, String>,
}

impl Health {
    /// Whether nothing that was stored is known to be lost.
    pub fn is_sound(&self) -> bool {
        self.unreadable_packs.is_empty() && self.missing_packs.is_empty() && self.hurt.is_empty()
    }
}

impl Repo {
    /// What `config` says.
    pub fn config(&self) -> &RepoConfig {
        &self.inner.config
    }

    /// The repository's id.
    pub fn id(&self) -> RepoId {
        self.inner.config.repo
    }

    /// The wrapped vault key, as stored when the repository was opened.
    pub fn keys_file(&self) -> &RepoKeys {
        &self.inner.wraps
    }

    /// What agents need to name and cut as this vault does.
    pub fn agent_keys(&self) -> Result<&AgentKeys, RepoError> {
        self.inner.keys.as_ref().map(|(_, agent)| agent).ok_or(RepoError::NoKey)
    }

    /// The vault key it was opened with.
    pub fn vault_key(&self) -> Result<&VaultKey, RepoError> {
        self.inner.keys.as_ref().map(|(vault, _)| vault).ok_or(RepoError::NoKey)
    }

    /// What is known to be wrong.
    pub fn health(&self) -> Health {
        self.inner.health().clone()
    }

    /// The index, for its figures.
    pub fn index(&self) -> &Index {
        &self.inner.index
    }

    /// Bytes left on the disk, where known.
    pub fn free_bytes(&self) -> Option<u64> {
        self.inner.disk.free_bytes()
    }
}

impl Inner {
    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> Result<&Writer, RepoError> {
        self.writer.as_ref().ok_or(RepoError::ReadOnly)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let Some(writer) = &self.writer else { return };
        let flushable = self.index.flushable();
        match writer.barrier() {
            Ok(()) => {
                if let Err(error) = self.index.write_segment(&flushable) {
                    tracing::warn!(%error, "the index was not saved; it is rebuilt when opened");
                }
            }
            Err(error) => tracing::warn!(%error, "what was not committed was not kept"),
        }
        writer.stop();
    }
}

impl std::fmt::Debug for Repo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repo").field("id", &self.id()).finish_non_exhaustive()
    }
}
