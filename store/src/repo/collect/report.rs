//! What a collection says while it runs, when it refuses, and at its end.

use strongroom_protocol::id::PackId;

use super::tally::Tally;
use crate::pack::PackClass;
use crate::repo::RepoError;

/// How far a collection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Collect {
    /// So many pages and lists were read.
    Marking { pages: u64 },
    /// So many packs were removed.
    Removing { packs: u64 },
    /// So many bytes were copied out of packs that are mostly unneeded.
    Repacking { bytes: u64 },
}

/// Why a collection did not run to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CollectError {
    /// Another one is running.
    #[error("a collection is running already")]
    Busy,
    /// What is needed cannot be told, so nothing may go.
    #[error("nothing is removed while {subject} is in doubt: {reason}")]
    Doubtful { subject: String, reason: String },
    /// The repository failed.
    #[error("the repository cannot be collected")]
    Repo(#[from] RepoError),
    /// It was told to stop before it had removed anything.
    #[error("the collection was stopped")]
    Stopped,
}

/// Why a pack was removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Removal {
    /// What was needed of it is in other packs now.
    Repacked,
    /// No point needs anything in it.
    Unneeded,
}

/// A pack that is no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RemovedPack {
    pub pack: PackId,
    pub class: PackClass,
    pub bytes: u64,
    pub removal: Removal,
}

/// What a collection did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CollectReport {
    pub points: u64,
    /// Records in place, and those of them that points need.
    pub records: u64,
    pub live_records: u64,
    /// Pages and lists read.
    pub pages: u64,
    /// Memory the marks took.
    pub mark_bytes: u64,
    /// What is no more, in the order it went.
    pub removed: Vec<RemovedPack>,
    /// Bytes of the packs removed.
    pub removed_bytes: u64,
    /// Bytes that were copied into new packs.
    pub copied_bytes: u64,
    /// Condemned packs that a point or a session was found to need.
    pub rescued: Vec<PackId>,
    /// Packs that do not read back as their names say: they were not repacked.
    pub damaged: Vec<PackId>,
    /// Condemned packs that an open session may count on still.
    pub waiting: usize,
    /// It was told to stop; the next one goes on.
    pub stopped: bool,
}

impl CollectReport {
    pub(super) fn begin(&mut self, tally: &Tally, mark_bytes: usize) {
        self.points = tally.points;
        self.pages = tally.pages;
        self.mark_bytes = mark_bytes as u64;
        self.records = tally.packs.iter().map(|pack| pack.records).sum();
        self.live_records = tally.packs.iter().map(|pack| pack.live_records).sum();
    }
}
