//! A freeze that would outlive its holder, noted on tmpfs: gone with the power, as the freeze
//! is. Whoever minds it holds the lock; a note without one is ended by the next start.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::Order;
use super::child::{Held, thaw};

/// What a note's name ends with.
const SUFFIX: &str = ".freeze";

/// A note whose lock is held.
#[derive(Debug)]
pub(super) struct Note {
    path: PathBuf,
    _lock: File,
}

impl Note {
    /// Notes the order, before anything is frozen.
    pub(super) fn write(path: &Path, order: &Order) -> io::Result<Self> {
        let path = path.with_extension(SUFFIX.trim_start_matches('.'));
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let file =
            File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
        let busy = |_| io::Error::new(io::ErrorKind::AlreadyExists, "another freeze of it is held");
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(busy)?;
        let text = serde_json::to_vec(order).map_err(io::Error::other)?;
        file.set_len(0)?;
        io::Write::write_all(&mut &file, &text)?;
        file.sync_all()?;
        Ok(Self { path, _lock: file })
    }

    pub(super) fn forget(self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "an ended freeze stays noted");
        }
    }
}

/// Ends the freezes whose holders are gone; the notes that were ended, and those that could not
/// be, with why. To be called at start, before anything else is frozen.
///
/// # Errors
/// The directory is there and cannot be listed.
pub fn reap(dir: &Path, held: Held) -> io::Result<Vec<(PathBuf, Result<(), String>)>> {
    let listing = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing?,
    };
    let mut ended = Vec::new();
    for entry in listing {
        let path = entry?.path();
        let noted = path.to_string_lossy().ends_with(SUFFIX);
        let Some(file) = noted.then(|| File::open(&path).ok()).flatten() else { continue };
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        let outcome = end(&path, held);
        if outcome.is_ok() {
            Note { path: path.clone(), _lock: file }.forget();
        }
        ended.push((path, outcome));
    }
    Ok(ended)
}

/// Ends the freeze of this note, if there is one whose holder is gone.
pub fn reap_note(path: &Path, held: Held) {
    let path = path.with_extension(SUFFIX.trim_start_matches('.'));
    let Ok(file) = File::open(&path) else { return };
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        return;
    }
    match end(&path, held) {
        Ok(()) => Note { path, _lock: file }.forget(),
        Err(why) => {
            tracing::error!(path = %path.display(), why, "a freeze left behind stays");
        }
    }
}

fn end(path: &Path, held: Held) -> Result<(), String> {
    let text = fs::read(path).map_err(|error| error.to_string())?;
    // Never whole: nothing was frozen yet.
    let Ok(order) = serde_json::from_slice::<Order>(&text) else { return Ok(()) };
    let holding = held(&order.what, &order.about);
    let mut holding = holding.ok_or_else(|| format!("nothing is known of {:?}", order.what))??;
    thaw(holding.as_mut()).map(drop)
}
