//! Commands run before and after. Promises that whoever ran a pre hook has its post hook
//! run on every path, also after `kill -9`: the window is noted, durably and on tmpfs,
//! before the pre hook starts, and the next start of the agent closes what was left open.
//! Refuses to wait past a deadline: the hook's whole process group is killed.

mod run;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use strongroom_protocol::{Clock, Timestamp};

pub use run::{HookExit, HookOutcome};

/// How often a post hook is tried before it is left to the next start of the agent.
pub const POST_TRIES_MAX: u32 = 3;
/// Name of a noted window.
const MARKER_SUFFIX: &str = ".window";

/// One command.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// Program and arguments; no shell unless one is named.
    pub command: Vec<String>,
    /// Killed when it takes longer.
    #[serde(default = "deadline_default_seconds")]
    pub deadline_seconds: u32,
}

const fn deadline_default_seconds() -> u32 {
    30
}

/// What is run around something.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookPair {
    /// Unique among windows open at a time: the job and what it is around.
    pub name: String,
    pub pre: Option<Hook>,
    pub post: Option<Hook>,
}

/// Why a window is not open, or not closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HookError {
    /// The window cannot be noted, so the pre hook was not run.
    #[error("the hook window cannot be noted in {}", .path.display())]
    Journal { path: PathBuf, source: io::Error },
    /// A window of this name is open.
    #[error("another window {name:?} is open")]
    Open { name: String },
    /// The pre hook failed; the post hook was run.
    #[error("pre hook: {}", .outcome.describe())]
    Pre { outcome: Box<HookOutcome> },
    /// The post hook failed each time; the next start of the agent tries again.
    #[error("post hook: {}", .outcome.describe())]
    Post { outcome: Box<HookOutcome> },
}

/// What is noted of an open window.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Marker {
    name: String,
    post: Option<Hook>,
    opened: Timestamp,
    /// The pre hook under way, so that it does not outlive its window.
    running: Option<run::ProcessMark>,
}

/// Between the pre hook and the post hook. Dropping it runs the post hook.
#[derive(Debug)]
pub struct HookWindow {
    note: Option<Note>,
    outcomes: Vec<HookOutcome>,
}

#[derive(Debug)]
struct Note {
    marker: Marker,
    path: PathBuf,
    /// Locked as long as somebody minds the window.
    lock: File,
}

impl HookWindow {
    /// Notes the window, then runs the pre hook.
    ///
    /// # Errors
    /// The window could not be noted; or the pre hook failed, and the post hook was run.
    pub fn open(pair: &HookPair, journal: &Path, clock: &dyn Clock) -> Result<Self, HookError> {
        let path = journal.join(format!("{}{MARKER_SUFFIX}", file_name(&pair.name)));
        let noted = |source| HookError::Journal { path: path.clone(), source };
        fs::create_dir_all(journal).map_err(noted)?;
        let marker = Marker {
            name: pair.name.clone(),
            post: pair.post.clone(),
            opened: clock.now(),
            running: None,
        };
        let lock = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let lock = lock.map_err(noted)?;
        if !is_ours(&path, &lock) {
            return Err(HookError::Open { name: pair.name.clone() });
        }
        let left_open = lock.metadata().is_ok_and(|found| found.len() > 0);
        if left_open {
            // Left by a killed agent: closed first, or its post hook would be forgotten.
            reap_one(&path, lock).ok_or_else(|| HookError::Open { name: pair.name.clone() })?;
            return Self::open(pair, journal, clock);
        }
        let mut note = Note { marker, path: path.clone(), lock };
        note.write().map_err(noted)?;
        sync_directory(journal).map_err(noted)?;
        let mut window = Self { note: Some(note), outcomes: Vec::new() };
        let Some(pre) = &pair.pre else { return Ok(window) };
        let outcome = run::run(pre, "pre", |process| {
            if let Some(note) = &mut window.note {
                note.marker.running = Some(process);
                if let Err(error) = note.write() {
                    tracing::warn!(%error, "the running pre hook could not be noted");
                }
            }
        });
        window.outcomes.push(outcome.clone());
        if outcome.succeeded() {
            return Ok(window);
        }
        let _ = window.close();
        Err(HookError::Pre { outcome: Box::new(outcome) })
    }

    /// The hooks run so far.
    pub fn outcomes(&self) -> &[HookOutcome] {
        &self.outcomes
    }

    /// Runs the post hook; what came of it, none if there is none.
    ///
    /// # Errors
    /// It failed each time; the window stays noted.
    pub fn close(mut self) -> Result<Option<HookOutcome>, HookError> {
        self.end()
    }

    fn end(&mut self) -> Result<Option<HookOutcome>, HookError> {
        let Some(note) = self.note.take() else { return Ok(None) };
        let outcome = note.marker.post.as_ref().map(run_post);
        match outcome {
            Some(outcome) if !outcome.succeeded() => {
                Err(HookError::Post { outcome: Box::new(outcome) })
            }
            outcome => {
                note.forget();
                Ok(outcome)
            }
        }
    }
}

impl Drop for HookWindow {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(%error, "a hook window stays open until the next start");
        }
    }
}

impl Note {
    /// In place, under the lock: a torn write is still a window left open, and is closed by
    /// name only if it can be read, so the length comes last.
    fn write(&mut self) -> io::Result<()> {
        let mut text = serde_json::to_vec(&self.marker).map_err(io::Error::other)?;
        text.push(b'\n');
        let mut beside = self.path.clone();
        beside.set_extension("new");
        let mut file = File::create(&beside)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&beside, &self.path)?;
        self.lock = file;
        Ok(())
    }

    fn forget(self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, "a closed hook window stays noted");
        }
    }
}

/// A window found open at start and closed now.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reaped {
    pub name: String,
    pub opened: Timestamp,
    /// None if the window had no post hook.
    pub outcome: Option<HookOutcome>,
}

/// Closes the windows of agents that are gone; to be called at start. A post hook that
/// fails leaves its window for the next start.
///
/// # Errors
/// The journal is there and cannot be listed.
pub fn reap(journal: &Path) -> io::Result<Vec<Reaped>> {
    let listing = match fs::read_dir(journal) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing?,
    };
    let mut reaped = Vec::new();
    for entry in listing {
        let path = entry?.path();
        let is_marker = path.to_string_lossy().ends_with(MARKER_SUFFIX);
        let Some(lock) = is_marker.then(|| File::open(&path).ok()).flatten() else { continue };
        if is_ours(&path, &lock) {
            reaped.extend(reap_one(&path, lock));
        }
    }
    Ok(reaped)
}

/// Closes one window whose lock is held; none if it stays.
fn reap_one(path: &Path, lock: File) -> Option<Reaped> {
    let text = fs::read(path).ok()?;
    let Ok(marker) = serde_json::from_slice::<Marker>(&text) else {
        // Never whole, so the pre hook was never started.
        fs::remove_file(path).ok()?;
        return Some(Reaped {
            name: path.display().to_string(),
            opened: Timestamp::default(),
            outcome: None,
        });
    };
    if let Some(process) = &marker.running {
        process.kill();
    }
    tracing::warn!(name = %marker.name, "closing a hook window left open");
    let outcome = marker.post.as_ref().map(run_post);
    let reaped = Reaped { name: marker.name.clone(), opened: marker.opened, outcome };
    if reaped.outcome.as_ref().is_none_or(HookOutcome::succeeded) {
        Note { marker, path: path.to_owned(), lock }.forget();
    }
    Some(reaped)
}

fn run_post(post: &Hook) -> HookOutcome {
    let mut outcome = run::run(post, "post", |_| {});
    for _ in 1..POST_TRIES_MAX {
        if outcome.succeeded() {
            break;
        }
        outcome = run::run(post, "post", |_| {});
    }
    outcome
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Takes the lock of a marker; false if somebody minds it, or it was replaced meanwhile.
fn is_ours(path: &Path, lock: &File) -> bool {
    let inode = |found: fs::Metadata| (found.dev(), found.ino());
    rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive).is_ok()
        && match (fs::metadata(path), lock.metadata()) {
            (Ok(named), Ok(held)) => inode(named) == inode(held),
            _ => false,
        }
}

/// A name as a file name.
fn file_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    name.chars().map(plain).collect()
}
