//! A directory of the local machine: real fsync of files and directories, flock, pread. It
//! refuses to hide an error, but for the hint to start writing back.

mod cold;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, FallocateFlags, FlockOperation};

use super::{
    AppendFile, ColdSink, Disk, DiskError, DiskResult, Entry, EntryKind, Lock, ReadFile, parent,
};

/// A repository's directory.
#[derive(Clone, Debug)]
pub struct LocalDisk {
    root: PathBuf,
}

impl LocalDisk {
    /// The disk under `root`, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn full(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(path) }
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    move |source| DiskError { action, path: path.display().to_string(), source }
}

struct LocalAppend {
    file: File,
    path: PathBuf,
    len: u64,
}

impl AppendFile for LocalAppend {
    fn append(&mut self, bytes: &[u8]) -> DiskResult<()> {
        let mut left = bytes;
        while !left.is_empty() {
            match self.file.write(left) {
                Ok(0) => {
                    let source = io::Error::from(io::ErrorKind::WriteZero);
                    return Err(failed("write", &self.path)(source));
                }
                Ok(count) => {
                    self.len += count as u64;
                    left = left.get(count..).unwrap_or_default();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("write", &self.path)(error)),
            }
        }
        Ok(())
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn truncate(&mut self, len: u64) -> DiskResult<()> {
        self.file.set_len(len).map_err(failed("truncate", &self.path))?;
        self.len = len;
        Ok(())
    }

    fn sync(&mut self) -> DiskResult<()> {
        self.file.sync_all().map_err(failed("sync", &self.path))
    }

    fn start_writeback(&self) {
        // On Linux this advice starts writing dirty pages and drops only those already clean:
        // what sync_file_range would do, without unsafe code. It is a hint; sync is the promise.
        if let Err(errno) = rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed) {
            tracing::trace!(%errno, "no early writing back");
        }
    }
}

struct LocalRead {
    file: File,
    path: PathBuf,
}

impl ReadFile for LocalRead {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> DiskResult<()> {
        self.file.read_exact_at(buffer, offset).map_err(failed("read", &self.path))
    }

    fn len(&self) -> DiskResult<u64> {
        Ok(self.file.metadata().map_err(failed("read", &self.path))?.len())
    }
}

impl Disk for LocalDisk {
    fn create(&self, path: &str) -> DiskResult<Box<dyn AppendFile>> {
        let path = self.full(path);
        let options = fs::OpenOptions::new().append(true).create(true).clone();
        let file = options.open(&path).map_err(failed("create", &path))?;
        file.set_len(0).map_err(failed("create", &path))?;
        Ok(Box::new(LocalAppend { file, path, len: 0 }))
    }

    fn append_to(&self, path: &str) -> DiskResult<Box<dyn AppendFile>> {
        let path = self.full(path);
        let file =
            fs::OpenOptions::new().append(true).open(&path).map_err(failed("open", &path))?;
        let len = file.metadata().map_err(failed("open", &path))?.len();
        Ok(Box::new(LocalAppend { file, path, len }))
    }

    fn open(&self, path: &str) -> DiskResult<Arc<dyn ReadFile>> {
        let path = self.full(path);
        let file = File::open(&path).map_err(failed("open", &path))?;
        Ok(Arc::new(LocalRead { file, path }))
    }

    fn read_cold(&self, path: &str, take: &mut ColdSink<'_>) -> DiskResult<()> {
        let path = self.full(path);
        cold::read(&path, take).map_err(failed("read", &path))
    }

    fn rename(&self, from: &str, to: &str) -> DiskResult<()> {
        let to = self.full(to);
        fs::rename(self.full(from), &to).map_err(failed("rename to", &to))
    }

    fn remove(&self, path: &str) -> DiskResult<()> {
        let path = self.full(path);
        fs::remove_file(&path).map_err(failed("remove", &path))
    }

    fn create_dirs(&self, path: &str) -> DiskResult<Vec<String>> {
        let mut missing = Vec::new();
        let mut at = path;
        while !self.full(at).is_dir() {
            missing.push(at);
            if at.is_empty() {
                break;
            }
            at = parent(at);
        }
        let full = self.full(path);
        fs::create_dir_all(&full).map_err(failed("create directory", &full))?;
        Ok(missing.into_iter().map(|made| parent(made).to_owned()).collect())
    }

    fn sync_dir(&self, path: &str) -> DiskResult<()> {
        let path = self.full(path);
        let sync = || File::open(&path)?.sync_all();
        sync().map_err(failed("sync directory", &path))
    }

    fn list(&self, path: &str) -> DiskResult<Vec<Entry>> {
        let path = self.full(path);
        let mut entries = Vec::new();
        let listing = match fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(entries),
            listing => listing.map_err(failed("list", &path))?,
        };
        for entry in listing {
            let entry = entry.map_err(failed("list", &path))?;
            let file_type = entry.file_type().map_err(failed("list", &path))?;
            let kind = if file_type.is_dir() { EntryKind::Directory } else { EntryKind::File };
            // A name that is not text is none of ours.
            if let Ok(name) = entry.file_name().into_string() {
                entries.push(Entry { name, kind });
            }
        }
        entries.sort();
        Ok(entries)
    }

    fn exists(&self, path: &str) -> DiskResult<bool> {
        let path = self.full(path);
        path.try_exists().map_err(failed("look for", &path))
    }

    fn allocate(&self, path: &str, bytes: u64) -> DiskResult<()> {
        let full = self.full(path);
        let allocated = (|| {
            let options = fs::OpenOptions::new().write(true).create(true).truncate(true).clone();
            let file = options.open(&full)?;
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
            file.sync_all()
        })();
        allocated.map_err(|error| {
            drop(fs::remove_file(&full));
            failed("allocate", &full)(error)
        })
    }

    fn free_bytes(&self) -> Option<u64> {
        let stat = rustix::fs::statvfs(&self.root).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn lock(&self, path: &str) -> DiskResult<Option<Lock>> {
        let path = self.full(path);
        let options = fs::OpenOptions::new().write(true).create(true).truncate(false).clone();
        let file = options.open(&path).map_err(failed("lock", &path))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(failed("lock", &path)(errno.into())),
        }
    }

    fn describe(&self, path: &str) -> String {
        self.full(path).display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{read_all, write_durably};
    use super::*;

    #[test]
    fn writes_whole_files_and_reads_them_back() {
        let dir = tempfile::tempdir().unwrap();
        let disk = LocalDisk::new(dir.path().join("vault"));
        assert_eq!(disk.create_dirs("a/b").unwrap().len(), 3);
        assert!(disk.create_dirs("a/b").unwrap().is_empty());
        write_durably(&disk, "tmp", "a/b/file", b"hello").unwrap();
        assert_eq!(read_all(&disk, "a/b/file", 5).unwrap(), b"hello");
        assert!(read_all(&disk, "a/b/file", 4).is_err());
        let entry = Entry { name: "file".to_owned(), kind: EntryKind::File };
        assert_eq!(disk.list("a/b").unwrap(), [entry]);
        assert!(disk.list("nowhere").unwrap().is_empty());
        assert!(disk.free_bytes().is_some_and(|free| free > 0));
    }

    #[test]
    fn appends_after_a_truncation_at_the_new_end() {
        let dir = tempfile::tempdir().unwrap();
        let disk = LocalDisk::new(dir.path());
        let mut file = disk.create("f").unwrap();
        file.append(b"0123456789").unwrap();
        file.truncate(4).unwrap();
        file.append(b"x").unwrap();
        file.start_writeback();
        file.sync().unwrap();
        assert_eq!(read_all(&disk, "f", 100).unwrap(), b"0123x");
        assert_eq!(disk.append_to("f").unwrap().len(), 5);
    }

    #[test]
    fn a_lock_is_held_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let disk = LocalDisk::new(dir.path());
        let held = disk.lock("lock").unwrap();
        assert!(held.is_some());
        assert!(disk.lock("lock").unwrap().is_none());
        drop(held);
        assert!(disk.lock("lock").unwrap().is_some());
    }

    #[test]
    fn missing_is_told_from_broken() {
        let disk = LocalDisk::new("/nonexistent/strongroom");
        assert!(disk.open("config").err().unwrap().is_missing());
        assert!(!disk.exists("config").unwrap());
    }
}
