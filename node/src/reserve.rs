//! The reserve of a home: a file whose only use is to be given up when the disk is full, so that
//! what must be on record before something may go can be written. Never an error: a precaution.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// The reserve's file.
pub const RESERVE_FILE: &str = "reserve";
/// Room for some thousand records and pages of a catalog.
const RESERVE_BYTES: usize = 4 << 20;
const PIECE_BYTES: usize = 64 << 10;

/// The reserve of one home.
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
}

impl Reserve {
    /// The reserve of the home in `dir`; [`Self::make`] makes it.
    pub fn of(dir: &Path) -> Self {
        Self { path: dir.join(RESERVE_FILE) }
    }

    /// Makes it, if it is not there and there is room.
    pub fn make(&self) {
        if self.path.exists() {
            return;
        }
        let aside = self.path.with_extension("part");
        if let Err(error) = fill(&aside).and_then(|()| std::fs::rename(&aside, &self.path)) {
            tracing::warn!(%error, "no reserve could be set aside");
            drop(std::fs::remove_file(&aside));
        }
    }

    /// Gives it up; false when there was none.
    pub fn give_up(&self) -> bool {
        let given = std::fs::remove_file(&self.path).is_ok();
        if given {
            tracing::warn!("the disk is full: the reserve is given up");
        }
        given
    }
}

/// Whether an error says that there is no room.
pub fn has_no_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether an error, or one below it, says that there is no room.
pub fn tells_of_no_room(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.downcast_ref::<io::Error>().is_some_and(has_no_room) {
            return true;
        }
        next = error.source();
    }
    false
}

/// A file system that compresses must find nothing to gain.
fn fill(path: &Path) -> io::Result<()> {
    let mut file = File::create(path)?;
    let mut word = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..RESERVE_BYTES / PIECE_BYTES {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        while piece.len() < PIECE_BYTES {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            piece.extend_from_slice(&word.to_le_bytes());
        }
        file.write_all(&piece)?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_given_up_once_and_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::of(dir.path());
        assert!(!reserve.give_up());
        reserve.make();
        let length = std::fs::metadata(dir.path().join(RESERVE_FILE)).unwrap().len();
        assert_eq!(length, RESERVE_BYTES as u64);
        assert!(reserve.give_up() && !reserve.give_up());
        reserve.make();
        assert!(reserve.give_up());
    }
}
