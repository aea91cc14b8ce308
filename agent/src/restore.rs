//! Writes a tree of a point into a directory. Promises that nothing is written outside of
//! it, that a file is whole when it has its name, that what is there and right is left
//! alone, that one bad file costs itself, and that what it says is restored outlives a power
//! cut; refuses to go on when the target is full or the source is out of reach.

pub mod apply;
mod bytes;
pub mod compare;
mod directory;
mod file;
mod links;
mod look;
mod opened;
pub mod select;
mod systems;
mod walk;
mod window;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crossbeam_channel::{Sender, bounded};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};
use strongroom_protocol::{Chain, ChunkId};
use strongroom_store::content::Meta;
use strongroom_store::keys::AgentKeys;
use strongroom_store::tree::{BlobSource, SourceError, Tree};

use crate::restore::apply::Owners;
use crate::restore::bytes::{Had, Nameless};
use crate::restore::directory::Directory;
use crate::restore::links::Follower;
use crate::restore::systems::Systems;
use crate::restore::walk::RestoreWalk;
use crate::restore::window::Work;

pub use crate::restore::select::Selection;

/// Threads that open, check and write.
pub const WRITERS_DEFAULT: usize = 3;
/// Windows planned ahead of the writers, each of some MiB, so that their chunks are under way.
const WINDOWS_WAITING_MAX: usize = 1;
/// Problems kept with their path; more are only counted.
pub const PROBLEMS_KEPT_MAX: usize = 10_000;

/// What to do with a file that is already there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Overwrite {
    /// Put the restored one in its place, whole.
    Always,
    /// Write into it, only where it differs.
    IfDifferent,
    /// Leave it; with keys it is compared, and told where it is not what was to be restored.
    #[default]
    Never,
}

/// What to restore, where and how.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// Made if it is not there.
    pub target: PathBuf,
    pub selection: Selection,
    pub overwrite: Overwrite,
    pub owners: Owners,
    /// With these, chunks already there are known by their names and not fetched.
    pub keys: Option<AgentKeys>,
    pub writers: usize,
}

impl RestoreOptions {
    /// Everything, owners as stored, nothing overwritten.
    pub fn new(target: impl Into<PathBuf>) -> Self {
        Self {
            target: target.into(),
            selection: Selection::default(),
            overwrite: Overwrite::default(),
            owners: Owners::default(),
            keys: None,
            writers: WRITERS_DEFAULT,
        }
    }
}

/// Why nothing, or nothing more, could be restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// No room, or not enough quota, on the target.
    #[error("the file system of {} is full", .target.display())]
    Full { target: PathBuf },
    /// The target cannot be written to at all.
    #[error("the file system of {} is read-only", .target.display())]
    ReadOnly { target: PathBuf },
    /// Somebody asked to stop.
    #[error("the restore was stopped")]
    Stopped,
    /// Where the chunks come from is out of reach: a later try goes on where this one ended.
    #[error("the source cannot be reached: {reason}")]
    Unreachable { reason: String },
    /// It was written, and the disk did not say that it holds it.
    #[error("what was restored to {} is not safe on its disk", .target.display())]
    Unsynced { target: PathBuf, source: io::Error },
    /// The target is not there and cannot be made, or is no directory.
    #[error("the target {} cannot be opened", .target.display())]
    Target { target: PathBuf, source: io::Error },
}

/// How far a restore is.
#[derive(Debug, Default)]
pub struct RestoreProgress {
    pub files: AtomicU64,
    pub directories: AtomicU64,
    pub others: AtomicU64,
    pub links: AtomicU64,
    /// Left alone because something was there that is not known to be the same.
    pub skipped: AtomicU64,
    pub bytes_written: AtomicU64,
    /// Found there and right.
    pub bytes_kept: AtomicU64,
    pub chunks_fetched: AtomicU64,
    /// What the chunks fetched hold.
    pub bytes_fetched: AtomicU64,
    pub problems: AtomicU64,
}

impl RestoreProgress {
    pub(crate) fn kept(&self, bytes: u64) {
        self.bytes_kept.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Something not restored, or not as it was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    pub path: Vec<u8>,
    pub why: String,
}

/// What came of a restore.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    pub files: u64,
    pub directories: u64,
    pub others: u64,
    pub links: u64,
    pub skipped: u64,
    pub bytes_written: u64,
    pub bytes_kept: u64,
    pub chunks_fetched: u64,
    pub bytes_fetched: u64,
    /// All there were; up to [`PROBLEMS_KEPT_MAX`] of them follow.
    pub problem_count: u64,
    pub problems: Vec<Problem>,
}

/// What all threads of a restore share.
pub(crate) struct Shared {
    pub(crate) options: RestoreOptions,
    pub(crate) progress: Arc<RestoreProgress>,
    problems: Mutex<Vec<Problem>>,
    fatal: Mutex<Option<RestoreError>>,
    stop: Arc<AtomicBool>,
    /// The target, once it is open.
    root: OnceLock<OwnedFd>,
    /// Names of files whose first name was not to be had.
    orphans: Mutex<Vec<Follower>>,
    pub(crate) nameless: Nameless,
    pub(crate) uncached: Had,
    pub(crate) systems: Systems,
}

impl Shared {
    /// The target.
    pub(crate) fn root(&self) -> io::Result<&OwnedFd> {
        self.root.get().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(crate) fn orphaned(&self, follower: Follower) {
        self.orphans.lock().unwrap_or_else(PoisonError::into_inner).push(follower);
    }

    fn take_orphans(&self) -> Vec<Follower> {
        std::mem::take(&mut *self.orphans.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Notes a problem; stops everything if it is one of the whole target or source.
    pub(crate) fn problem(&self, path: &[u8], error: &(dyn std::error::Error + 'static)) {
        let target = self.options.target.clone();
        let errno = error.downcast_ref::<io::Error>().and_then(errno_of);
        let fatal = match errno {
            Some(Errno::NOSPC | Errno::DQUOT) => Some(RestoreError::Full { target }),
            Some(Errno::ROFS) => Some(RestoreError::ReadOnly { target }),
            _ if is_unreachable(error) => {
                Some(RestoreError::Unreachable { reason: Chain(error).to_string() })
            }
            _ => None,
        };
        if let Some(fatal) = fatal {
            let mut first = self.fatal.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(fatal);
            self.stop.store(true, Ordering::Relaxed);
            return;
        }
        self.progress.problems.fetch_add(1, Ordering::Relaxed);
        let why = Chain(error).to_string();
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        if problems.len() < PROBLEMS_KEPT_MAX {
            problems.push(Problem { path: path.to_vec(), why });
        }
    }
}

fn errno_of(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw_os_error)
}

/// Whether the source could not be reached, as against having lost something.
pub fn is_unreachable(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| {
        let of_source = error.downcast_ref::<SourceError>();
        matches!(of_source, Some(SourceError::Unreachable { .. }))
    })
}

/// A restore to be run.
pub struct Restorer {
    shared: Arc<Shared>,
}

impl Restorer {
    /// With these options; setting `stop` ends it early.
    pub fn new(options: RestoreOptions, stop: Arc<AtomicBool>) -> Self {
        let shared = Shared {
            options,
            progress: Arc::default(),
            problems: Mutex::default(),
            fatal: Mutex::default(),
            stop,
            root: OnceLock::new(),
            orphans: Mutex::default(),
            nameless: Nameless::default(),
            uncached: Had::default(),
            systems: Systems::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Numbers that count up while it runs.
    pub fn progress(&self) -> Arc<RestoreProgress> {
        Arc::clone(&self.shared.progress)
    }

    /// Restores what the directory `page` of the tree holds into the target; with `meta`,
    /// the target becomes that directory. Files that failed are in the report.
    ///
    /// # Errors
    /// Only what ends the whole restore.
    pub fn run<S: BlobSource>(
        self,
        tree: &Tree<S>,
        page: ChunkId,
        meta: Option<Meta>,
    ) -> Result<Report, RestoreError> {
        let shared = &self.shared;
        raise_descriptor_limit();
        let target = &shared.options.target;
        let failed = |source| RestoreError::Target { target: target.clone(), source };
        let root = open_target(target).map_err(failed)?;
        shared.systems.note(root.as_fd()).map_err(failed)?;
        let again = rustix::io::dup(&root).map_err(|errno| failed(errno.into()))?;
        shared.root.get_or_init(|| again);
        let root = Directory::root(root, meta, shared);
        if shared.options.selection.is_all() {
            tree.source().walked_in_order();
        }
        with_writers(shared, |writers| {
            RestoreWalk::new(tree, Arc::clone(&root), page, writers, shared).run();
        });
        // Whatever a name of several waited for has been written, or has failed, by now.
        loop {
            let orphans = shared.take_orphans();
            if orphans.is_empty() || shared.stopped() {
                break;
            }
            with_writers(shared, |writers| {
                let walk = RestoreWalk::new(tree, Arc::clone(&root), page, writers, shared);
                walk.restore_alone(orphans);
            });
        }
        drop(root);
        self.conclude()
    }

    fn conclude(self) -> Result<Report, RestoreError> {
        let shared = self.shared;
        let fatal = shared.fatal.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(fatal) = fatal {
            return Err(fatal);
        }
        if shared.stopped() {
            return Err(RestoreError::Stopped);
        }
        let target = &shared.options.target;
        shared.systems.sync().map_err(|source| match errno_of(&source) {
            Some(Errno::NOSPC | Errno::DQUOT) => RestoreError::Full { target: target.clone() },
            _ => RestoreError::Unsynced { target: target.clone(), source },
        })?;
        let problems = shared.problems.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let progress = &shared.progress;
        Ok(Report {
            files: count(&progress.files),
            directories: count(&progress.directories),
            others: count(&progress.others),
            links: count(&progress.links),
            skipped: count(&progress.skipped),
            bytes_written: count(&progress.bytes_written),
            bytes_kept: count(&progress.bytes_kept),
            chunks_fetched: count(&progress.chunks_fetched),
            bytes_fetched: count(&progress.bytes_fetched),
            problem_count: count(&progress.problems),
            problems,
        })
    }
}

/// Has windows carried out by several threads while `plan` makes more of them.
fn with_writers<'s>(shared: &Arc<Shared>, plan: impl FnOnce(Vec<Sender<Arc<Work<'s>>>>)) {
    std::thread::scope(|scope| {
        let mut writers = Vec::new();
        for _ in 0..shared.options.writers.max(1) {
            let (writer, waiting) = bounded::<Arc<Work<'s>>>(WINDOWS_WAITING_MAX);
            writers.push(writer);
            scope.spawn(move || {
                let mut scratch = Vec::new();
                for work in waiting {
                    work.carry_out(shared, &mut scratch);
                }
            });
        }
        plan(writers);
    });
}

fn open_target(target: &Path) -> io::Result<OwnedFd> {
    std::fs::create_dir_all(target)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(target, flags, Mode::empty())?)
}

/// A branch holds one descriptor a level until the last file in it is written.
fn raise_descriptor_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Without it only trees deeper than the limit fail, and say so.
    let _ = rustix::process::setrlimit(Resource::Nofile, raised);
}
