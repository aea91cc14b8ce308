//! A view of one moment, read after the thaw. The one thing that a run does with a workload
//! once it is going again: give its blobs to the sink, say what was found on the way, and hear
//! whether the point was committed.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use strongroom_protocol::{Clock, PointId, RepoId, WorkloadId};
use strongroom_store::cut::CutParams;

use crate::quiesce::{Consistency, Evidence};
use crate::workload::ChunkSink;
use crate::workload::files::cache::CacheKey;
use crate::workload::files::{CachePlace, Options, Progress, ProtectError, Protected};

/// A view that can be read. Dropping it gives up what holds it: a snapshot, a session.
pub trait Moment: Send {
    /// Where the data was, in words, for the manifest.
    fn source(&self) -> String;

    /// The best this view can claim.
    fn consistency(&self) -> Consistency;

    /// Reads it. What is seen on the way that lessens or explains the claim goes into the
    /// evidence; a claim never grows here.
    ///
    /// # Errors
    /// Only what costs the whole run: a part that cannot be read is a gap.
    fn read(
        &mut self,
        reading: &Reading<'_>,
        evidence: &mut Evidence,
    ) -> Result<Protected, ProtectError>;

    /// The point is durable: what the next run is to start from may move on. Never called
    /// for a point that was not committed.
    fn committed(&mut self) {}
}

/// What a run gives to whoever reads.
pub struct Reading<'run> {
    pub sink: &'run dyn ChunkSink,
    pub progress: &'run Progress,
    /// Raised when the run is to end early.
    pub stop: &'run AtomicBool,
    pub clock: &'run dyn Clock,
    pub cut: CutParams,
    /// From the agent's keys.
    pub cut_key: (u32, u32),
    pub memory: Memory,
}

impl Reading<'_> {
    /// How to read a tree below `root` as the part `part` of the workload.
    pub fn options(&self, root: impl Into<PathBuf>, part: &str) -> Options {
        let cache = Some(self.memory.cache(part));
        Options { cut: self.cut, cache, ..Options::new(root, self.cut_key) }
    }
}

/// Where an agent remembers runs of a workload, and between which points this one is.
#[derive(Clone, Debug)]
pub struct Memory {
    /// Holds files the agent may lose at any time.
    pub dir: PathBuf,
    pub repo: RepoId,
    pub workload: WorkloadId,
    /// The newest committed point: what was remembered with another is not believed.
    pub previous: Option<PointId>,
    pub point: PointId,
}

impl Memory {
    /// Where the part called `part` is remembered, a word usable in a file name.
    pub fn path(&self, part: &str) -> PathBuf {
        self.dir.join(format!("{}.{part}", self.workload))
    }

    /// The cache of a tree that is a part of the workload.
    pub fn cache(&self, part: &str) -> CachePlace {
        let key = |point| CacheKey { repo: self.repo, workload: self.workload, point };
        CachePlace { path: self.path(part), last: self.previous.map(key), this: key(self.point) }
    }

    /// Forgets every part: what was believed was not so.
    pub fn forget(&self) {
        let own = format!("{}.", self.workload);
        let listed = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        for entry in listed.filter(|entry| entry.file_name().to_string_lossy().starts_with(&own)) {
            if let Err(error) = std::fs::remove_file(entry.path()) {
                let path = entry.path();
                tracing::warn!(%error, path = %path.display(), "a stale cache was not removed");
            }
        }
    }
}
