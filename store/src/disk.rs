//! The seam under the repository: the few things asked of a disk, so that tests can take power
//! away at any of them. Paths are relative to the repository and use `/`. It promises nothing
//! about durability beyond `sync` of a file and `sync_dir` of a directory.

mod local;
pub mod sim;

use std::any::Any;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

pub use local::LocalDisk;

/// What failed on which path.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}")]
pub struct DiskError {
    pub action: &'static str,
    pub path: String,
    pub source: io::Error,
}

impl DiskError {
    /// Whether there was no room.
    pub fn is_full(&self) -> bool {
        let kind = self.source.kind();
        matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// Whether there was nothing of that name.
    pub fn is_missing(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
    }
}

/// A result of the disk.
pub type DiskResult<T> = Result<T, DiskError>;

/// A file being written at its end.
pub trait AppendFile: Send {
    /// Writes all of `bytes`; after an error a part of them may be there.
    fn append(&mut self, bytes: &[u8]) -> DiskResult<()>;
    /// Length in bytes.
    fn len(&self) -> u64;
    /// Whether nothing was written.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Cuts to `len` bytes.
    fn truncate(&mut self, len: u64) -> DiskResult<()>;
    /// Waits until the content is durable. After an error nothing may be believed of it.
    fn sync(&mut self) -> DiskResult<()>;
    /// Asks for what was written to be on its way, so that `sync` is short.
    fn start_writeback(&self);
}

/// A file being read at any place.
pub trait ReadFile: Send + Sync {
    /// Fills `buffer` from `offset`; an error when the file ends before.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> DiskResult<()>;
    /// Length in bytes.
    fn len(&self) -> DiskResult<u64>;
    /// Whether it holds nothing.
    fn is_empty(&self) -> DiskResult<bool> {
        Ok(self.len()? == 0)
    }
}

/// An entry of a directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Entry {
    pub name: String,
    pub kind: EntryKind,
}

/// What an entry is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum EntryKind {
    Directory,
    File,
}

/// Takes the bytes of a cold read, piece by piece, and says whether to go on.
pub type ColdSink<'s> = dyn FnMut(&[u8]) -> ControlFlow<()> + 's;

/// A held lock: dropping it lets go.
pub type Lock = Box<dyn Any + Send + Sync>;

/// Bytes written at once where room can only be taken by writing.
const ALLOCATE_BYTES: usize = 1 << 20;

/// A place for a repository.
pub trait Disk: Send + Sync {
    /// An empty file, made or emptied.
    fn create(&self, path: &str) -> DiskResult<Box<dyn AppendFile>>;
    /// An existing file, to go on at its end.
    fn append_to(&self, path: &str) -> DiskResult<Box<dyn AppendFile>>;
    /// An existing file, to read.
    fn open(&self, path: &str) -> DiskResult<Arc<dyn ReadFile>>;
    /// Hands on the bytes of a file from its beginning, as the medium gives them: what memory
    /// holds of it neither answers nor is driven out. `take` may end it early.
    fn read_cold(&self, path: &str, take: &mut ColdSink<'_>) -> DiskResult<()>;
    /// Moves a file, replacing what was there.
    fn rename(&self, from: &str, to: &str) -> DiskResult<()>;
    /// Removes a file.
    fn remove(&self, path: &str) -> DiskResult<()>;
    /// Makes a directory with all above it; gives the directories that changed by it, whose
    /// sync makes the new ones durable.
    fn create_dirs(&self, path: &str) -> DiskResult<Vec<String>>;
    /// Waits until the names in a directory are durable.
    fn sync_dir(&self, path: &str) -> DiskResult<()>;
    /// The entries of a directory by name; none when it is missing.
    fn list(&self, path: &str) -> DiskResult<Vec<Entry>>;
    /// Whether the path names something.
    fn exists(&self, path: &str) -> DiskResult<bool>;
    /// A file of so many bytes whose room is taken once this returns; what is in it means
    /// nothing. Nothing of it is left after an error.
    fn allocate(&self, path: &str, bytes: u64) -> DiskResult<()> {
        let written = (|| {
            let mut file = self.create(path)?;
            let mut noise = blake3::Hasher::new().finalize_xof();
            let mut piece = vec![0; ALLOCATE_BYTES];
            while file.len() < bytes {
                // A file system that compresses must find nothing to gain.
                noise.fill(&mut piece);
                let step = usize::try_from(bytes - file.len()).unwrap_or(usize::MAX);
                file.append(piece.get(..step.min(piece.len())).unwrap_or_default())?;
            }
            file.sync()
        })();
        if written.is_err() {
            drop(self.remove(path));
        }
        written
    }
    /// Bytes left, where known.
    fn free_bytes(&self) -> Option<u64>;
    /// Takes an exclusive lock, or nothing when another has it.
    fn lock(&self, path: &str) -> DiskResult<Option<Lock>>;
    /// The path as a person would find it.
    fn describe(&self, path: &str) -> String;
}

/// All bytes of a file, if no longer than `bytes_max`.
pub fn read_all(disk: &dyn Disk, path: &str, bytes_max: u64) -> DiskResult<Vec<u8>> {
    let file = disk.open(path)?;
    let len = file.len()?;
    let Some(size) = usize::try_from(len).ok().filter(|_| len <= bytes_max) else {
        let source = io::Error::from(io::ErrorKind::FileTooLarge);
        return Err(DiskError { action: "read", path: disk.describe(path), source });
    };
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Writes a whole file beside its place and moves it there; durable once the directory is
/// synced, which [`write_durably`] does too.
pub fn write_whole(disk: &dyn Disk, via: &str, path: &str, bytes: &[u8]) -> DiskResult<()> {
    let written = (|| {
        let mut file = disk.create(via)?;
        file.append(bytes)?;
        file.sync()?;
        drop(file);
        disk.rename(via, path)
    })();
    if written.is_err() {
        // What could not be finished takes no room; it is swept at the next open otherwise.
        drop(disk.remove(via));
    }
    written
}

/// As [`write_whole`], and waits until the name is durable.
pub fn write_durably(disk: &dyn Disk, via: &str, path: &str, bytes: &[u8]) -> DiskResult<()> {
    write_whole(disk, via, path, bytes)?;
    disk.sync_dir(parent(path))
}

/// The directory a path lies in; empty for the top.
pub fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}
