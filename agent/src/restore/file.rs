//! One file being restored: written in pieces, by any thread, in any order; what is already
//! there and right is left alone. A new file has its name only once all of its bytes were
//! delivered, and whoever delivers the last of them finishes it: one that is let go of before
//! never gets it. A short one is made without a name and given it at the end, a long one is
//! called by a name of ours before.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use strongroom_store::content::Meta;

use crate::restore::apply::{apply_flags, apply_to, apply_to_new};
use crate::restore::bytes::{read_at, write_at, write_differing};
use crate::restore::directory::Directory;
use crate::restore::links::Group;
use crate::restore::opened::{Access, Opened};
use crate::restore::{Overwrite, Shared};
use crate::workload::OWN_PREFIX;

/// What a file is called until it is whole: the same in the next try, which goes on with it.
pub(crate) fn part_name(name: &[u8]) -> Vec<u8> {
    let hash = blake3::hash(name).to_hex();
    format!("{OWN_PREFIX}{}.part", hash.get(..16).unwrap_or_default()).into_bytes()
}

/// What lies where the file is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ground {
    /// A file of its own to write into.
    File,
    /// A file that stays as it is: whether it is what it is to be is found out.
    Kept,
    /// What an earlier try left.
    Left,
    /// Nothing.
    Nothing,
    /// Something to be replaced.
    Other,
}

/// A file that is there, stays, and is not what was to be restored.
#[derive(Debug, thiserror::Error)]
#[error("something else is there, and nothing is to be overwritten")]
pub(crate) struct Differs;

/// What became of a file whose bytes are all there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Finished {
    /// It has its name.
    Named,
    /// Something of that name came meanwhile, and stays.
    Skipped,
}

/// A file under way; finished by whoever delivers the last of its bytes.
pub(crate) struct File {
    directory: Arc<Directory>,
    name: Vec<u8>,
    size: u64,
    meta: Meta,
    ground: Ground,
    /// None inside: it could not be opened, and that was told.
    opened: OnceLock<Option<Opened>>,
    failed: AtomicBool,
    /// Bytes that are where they belong, holes with them.
    delivered: AtomicU64,
    /// It is finished, or could not be.
    over: AtomicBool,
    group: Option<Arc<Group>>,
}

impl File {
    pub(crate) fn new(
        directory: &Arc<Directory>,
        name: Vec<u8>,
        size: u64,
        meta: Meta,
        ground: Ground,
        group: Option<Arc<Group>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            directory: Arc::clone(directory),
            name,
            size,
            meta,
            ground,
            opened: OnceLock::new(),
            failed: AtomicBool::new(false),
            delivered: AtomicU64::new(0),
            over: AtomicBool::new(false),
            group,
        })
    }

    fn shared(&self) -> &Shared {
        &self.directory.shared
    }

    /// Whether bytes of it may be there already.
    pub(crate) const fn may_hold_some(&self) -> bool {
        matches!(self.ground, Ground::File | Ground::Kept | Ground::Left)
    }

    /// Whether nothing more is to be done for it.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// It will not be whole; told once, however many pieces fail.
    pub(crate) fn fail(&self, why: &(dyn std::error::Error + 'static)) {
        if !self.failed.swap(true, Ordering::Relaxed) {
            if self.ground == Ground::Kept {
                self.shared().progress.skipped.fetch_add(1, Ordering::Relaxed);
            }
            self.shared().problem(&self.directory.path_of(&self.name), why);
        }
    }

    fn opened(&self) -> Option<&Opened> {
        let opened = self.opened.get_or_init(|| match self.open() {
            Ok(opened) => Some(opened),
            Err(error) => {
                self.fail(&error);
                None
            }
        });
        opened.as_ref()
    }

    fn open(&self) -> io::Result<Opened> {
        let (name, access) = match self.ground {
            Ground::File => (self.name.clone(), Access::Write { size: self.size }),
            Ground::Kept => (self.name.clone(), Access::Compare),
            Ground::Left | Ground::Nothing | Ground::Other => {
                (part_name(&self.name), Access::Write { size: self.size })
            }
        };
        let opened = Opened::open(self.directory.dir.as_fd(), &name, access)?;
        match self.ground == Ground::Kept && opened.existing_bytes != self.size {
            true => Err(io::Error::other(Differs)),
            false => Ok(opened),
        }
    }

    /// What was there before, if all of the stretch was; appended to the buffer.
    pub(crate) fn existing(&self, at: u64, length: usize, buffer: &mut Vec<u8>) -> bool {
        let Some(opened) = self.opened() else { return false };
        let begin = buffer.len();
        if at + length as u64 > opened.existing_bytes {
            return false;
        }
        buffer.resize(begin + length, 0);
        let room = buffer.get_mut(begin..).unwrap_or_default();
        let read = read_at(opened.file.as_fd(), room, at, self.size, &self.shared().uncached);
        if !read {
            buffer.truncate(begin);
        }
        read
    }

    /// That many bytes of it were there and right.
    pub(crate) fn keep(&self, bytes: u64) {
        self.shared().progress.kept(bytes);
        self.deliver(bytes);
    }

    /// Writes what is not there already.
    pub(crate) fn put(&self, bytes: &[u8], at: u64, scratch: &mut Vec<u8>) {
        if self.has_failed() {
            return;
        }
        let is_all = at == 0 && bytes.len() as u64 == self.size;
        if is_all && !self.may_hold_some() && self.shared().nameless.is_had() {
            match self.put_whole(bytes) {
                Ok(None) => {}
                Ok(Some(finished)) => return self.conclude(Ok(finished)),
                Err(error) => return self.conclude(Err(error)),
            }
        }
        match self.put_piece(bytes, at, scratch) {
            Ok(()) => self.deliver(bytes.len() as u64),
            Err(error) => self.fail(&error),
        }
    }

    fn put_piece(&self, bytes: &[u8], at: u64, scratch: &mut Vec<u8>) -> io::Result<()> {
        // Why it could not be opened was told.
        let opened = self.opened().ok_or(io::ErrorKind::NotFound)?;
        let (file, shared) = (opened.file.as_fd(), self.shared());
        scratch.clear();
        let is_there = self.existing(at, bytes.len(), scratch);
        if self.ground == Ground::Kept {
            if !is_there || bytes != scratch.as_slice() {
                return Err(io::Error::other(Differs));
            }
            shared.progress.kept(bytes.len() as u64);
            return Ok(());
        }
        let written = match is_there {
            true => write_differing(file, bytes, scratch, at)?,
            false => {
                write_at(file, bytes, at, self.size, &shared.uncached)?;
                bytes.len() as u64
            }
        };
        shared.progress.kept(bytes.len() as u64 - written);
        shared.progress.bytes_written.fetch_add(written, Ordering::Relaxed);
        Ok(())
    }

    /// That many more bytes are where they belong; finishes it with the last of them.
    fn deliver(&self, bytes: u64) {
        let delivered = self.delivered.fetch_add(bytes, Ordering::AcqRel) + bytes;
        if delivered < self.size || self.has_failed() {
            return;
        }
        let finished = match self.opened() {
            Some(opened) => self.finish(opened),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        self.conclude(finished);
    }

    /// Says what became of it, once.
    fn conclude(&self, finished: io::Result<Finished>) {
        if self.over.swap(true, Ordering::AcqRel) {
            return;
        }
        let progress = &self.shared().progress;
        match &finished {
            Ok(Finished::Named) => progress.files.fetch_add(1, Ordering::Relaxed),
            Ok(Finished::Skipped) => progress.skipped.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                self.fail(error);
                0
            }
        };
        if let Some(group) = &self.group {
            group.done(finished.is_ok(), self.shared());
        }
    }

    /// The whole file in one go, without a name until it is right in all; none where the file
    /// system has no files without a name.
    fn put_whole(&self, bytes: &[u8]) -> io::Result<Option<Finished>> {
        let (dir, shared) = (self.directory.dir.as_fd(), self.shared());
        // Nobody else can open it before it has a name.
        let mode = Mode::from_raw_mode(self.meta.mode & 0o777);
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(dir, ".", flags, mode) {
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {
                shared.nameless.is_not_had();
                return Ok(None);
            }
            opened => opened?,
        };
        write_at(file.as_fd(), bytes, 0, self.size, &shared.uncached)?;
        apply_to_new(file.as_fd(), &self.meta, &shared.options.owners, &self.directory.inherited)?;
        shared.progress.bytes_written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        match shared.nameless.name(file.as_fd(), dir, &self.name) {
            Err(Errno::EXIST) if shared.options.overwrite == Overwrite::Never => {
                return Ok(Some(Finished::Skipped));
            }
            Err(Errno::EXIST) => {
                let part = part_name(&self.name);
                // Left by an earlier try.
                let _ = rustix::fs::unlinkat(dir, &part[..], AtFlags::empty());
                shared.nameless.name(file.as_fd(), dir, &part)?;
                rustix::fs::renameat(dir, &part[..], dir, &self.name[..])?;
            }
            named => named?,
        }
        self.flags(&file)?;
        Ok(Some(Finished::Named))
    }

    fn flags(&self, file: &OwnedFd) -> io::Result<()> {
        match self.meta.flags == 0 && self.directory.inherited.is_nothing() {
            true => Ok(()),
            false => apply_flags(file.as_fd(), &self.meta),
        }
    }

    fn finish(&self, opened: &Opened) -> io::Result<Finished> {
        let (shared, dir) = (self.shared(), &self.directory.dir);
        let (file, owners) = (opened.file.as_fd(), &shared.options.owners);
        match self.ground {
            Ground::Nothing => apply_to_new(file, &self.meta, owners, &self.directory.inherited)?,
            Ground::Kept => return Ok(Finished::Named),
            // What was there may have had anything set already.
            Ground::File | Ground::Left | Ground::Other => apply_to(file, &self.meta, owners)?,
        }
        if self.ground == Ground::File {
            apply_flags(file, &self.meta)?;
            return Ok(Finished::Named);
        }
        let part = part_name(&self.name);
        let keeps = shared.options.overwrite == Overwrite::Never;
        let flags = if keeps { RenameFlags::NOREPLACE } else { RenameFlags::empty() };
        match rustix::fs::renameat_with(dir, &part[..], dir, &self.name[..], flags) {
            Err(Errno::EXIST) if keeps => {
                rustix::fs::unlinkat(dir, &part[..], AtFlags::empty())?;
                return Ok(Finished::Skipped);
            }
            // A file system that cannot promise not to replace.
            Err(Errno::INVAL | Errno::NOSYS) if keeps => {
                rustix::fs::renameat(dir, &part[..], dir, &self.name[..])?;
            }
            renamed => renamed?,
        }
        match self.ground {
            Ground::Nothing => self.flags(&opened.file)?,
            _ => apply_flags(file, &self.meta)?,
        }
        Ok(Finished::Named)
    }

    /// Makes a hole of what was there.
    pub(crate) fn punch(&self, at: u64, length: u64) {
        let Some(opened) = self.opened() else { return };
        let punched = match self.ground {
            Ground::Kept => match opened.is_zero(at, length) {
                Ok(false) => Err(io::Error::other(Differs)),
                looked => looked.map(drop),
            },
            _ => opened.punch(at, length),
        };
        match punched {
            Ok(()) => self.deliver(length),
            Err(error) => self.fail(&error),
        }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if *self.over.get_mut() {
            return;
        }
        // Whoever stops a restore is told that, and not file by file.
        if !self.shared().stopped() {
            self.fail(&io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        if let Some(group) = &self.group {
            group.done(false, self.shared());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::{RestoreOptions, Restorer, open_target};

    #[test]
    fn a_file_let_go_of_before_its_last_byte_never_has_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let restorer = Restorer::new(RestoreOptions::new(dir.path()), Arc::default());
        let root = Directory::root(open_target(dir.path()).unwrap(), None, &restorer.shared);
        let file =
            |name: &str| File::new(&root, name.into(), 8, Meta::default(), Ground::Nothing, None);
        let (half, whole, hole) = (file("half"), file("whole"), file("hole"));
        half.put(b"half", 0, &mut Vec::new());
        whole.put(b"ends", 4, &mut Vec::new());
        hole.punch(0, 8);
        assert!(!dir.path().join("whole").exists(), "not before the last byte");
        whole.put(b"half", 0, &mut Vec::new());
        assert_eq!(std::fs::read(dir.path().join("whole")).unwrap(), b"halfends");
        assert_eq!(std::fs::read(dir.path().join("hole")).unwrap(), [0; 8]);
        drop((half, whole, hole));
        assert!(!dir.path().join("half").exists());
        drop(root);
        let report = restorer.conclude().unwrap();
        let named: Vec<_> = report.problems.iter().map(|problem| &problem.path[..]).collect();
        assert_eq!((report.files, named), (2, vec![&b"half"[..]]));
    }
}
