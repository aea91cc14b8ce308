//! The file of what became of cartridges: a line of JSON for each, appended and synced. A torn last
//! line never counted and is cut away. Refuses to go on over a line it does not understand: what is
//! vaulted must not be taken for lost.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use strongroom_protocol::Timestamp;
use strongroom_store::tape::Barcode;

use super::What;

/// Why the book of cartridges cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// It cannot be read or written.
    #[error("{}: input or output failed", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// Damaged, or of a newer version.
    #[error(
        "{}: line {line} cannot be understood; move the file away to begin another, in which \
         cartridges in a vault count as lost until `strongroom media vault` names them again",
        path.display()
    )]
    Line { path: PathBuf, line: usize, source: serde_json::Error },
}

/// One line.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Line {
    pub(super) at: Timestamp,
    /// Who said so: an operator, or `inventory`.
    pub(super) by: String,
    pub(super) barcode: Barcode,
    #[serde(flatten)]
    pub(super) what: What,
}

pub(super) struct Journal {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Journal {
    /// Opens or begins it; `tell` hears every line.
    pub(super) fn open(path: &Path, tell: impl FnMut(Line)) -> Result<Self, JournalError> {
        let failed = |source| JournalError::Io { path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true);
        let mut file = options.open(path).map_err(failed)?;
        let bytes = read(path, &mut file, tell)?;
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        Ok(Self { path: path.to_owned(), file, bytes })
    }

    /// Writes a line and waits until it is on disk.
    pub(super) fn append(
        &mut self,
        at: Timestamp,
        by: &str,
        barcode: &Barcode,
        what: &What,
    ) -> Result<(), JournalError> {
        let failed = |source| JournalError::Io { path: self.path.clone(), source };
        let (by, barcode, what) = (by.to_owned(), barcode.clone(), what.clone());
        let line = Line { at, by, barcode, what };
        let mut text = serde_json::to_vec(&line).map_err(|error| failed(error.into()))?;
        text.push(b'\n');
        // Cut first: a torn line, or an append that failed half way.
        let start = self.bytes;
        let written = self
            .file
            .set_len(start)
            .and_then(|()| self.file.seek(SeekFrom::Start(start)))
            .and_then(|_| self.file.write_all(&text))
            .and_then(|()| self.file.sync_data());
        written.map_err(failed)?;
        self.bytes += text.len() as u64;
        Ok(())
    }
}

/// Reads every whole line; how many bytes they are.
pub(super) fn read(
    path: &Path,
    file: &mut File,
    mut tell: impl FnMut(Line),
) -> Result<u64, JournalError> {
    let mut text = Vec::new();
    let failed = |source| JournalError::Io { path: path.to_owned(), source };
    file.read_to_end(&mut text).map_err(failed)?;
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    for (number, line) in text[..whole].split_inclusive(|byte| *byte == b'\n').enumerate() {
        tell(serde_json::from_slice(line).map_err(|source| JournalError::Line {
            path: path.to_owned(),
            line: number + 1,
            source,
        })?);
    }
    Ok(whole as u64)
}
