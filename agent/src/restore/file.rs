//! One file being restored: written in pieces, by any thread, in any order; what is already
//! there and right is left alone. A new file has its name only once it is whole: a short one is
//! made without a name and given it at the end, a long one is called by a name of ours before.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags, RenameFlags, SeekFrom};
use rustix::io::Errno;
use strongroom_store::content::Meta;

use crate::restore::apply::{apply_flags, apply_to, apply_to_new};
use crate::restore::bytes::{read_at, write_at, write_differing};
use crate::restore::directory::Directory;
use crate::restore::links::Group;
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
    /// What an earlier try left.
    Left,
    /// Nothing.
    Nothing,
    /// Something to be replaced.
    Other,
}

/// A file under way; finished when the last of its pieces lets go.
pub(crate) struct File {
    directory: Arc<Directory>,
    name: Vec<u8>,
    size: u64,
    meta: Meta,
    ground: Ground,
    /// None inside: it could not be opened, and that was told.
    opened: OnceLock<Option<Opened>>,
    failed: AtomicBool,
    /// Written and named in one go.
    done: AtomicBool,
    group: Option<Arc<Group>>,
}

/// A file open for writing.
struct Opened {
    file: OwnedFd,
    /// Bytes that were there before and may be right.
    existing_bytes: u64,
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
            done: AtomicBool::new(false),
            group,
        })
    }

    fn shared(&self) -> &Shared {
        &self.directory.shared
    }

    /// Whether bytes of it may be there already.
    pub(crate) const fn may_hold_some(&self) -> bool {
        matches!(self.ground, Ground::File | Ground::Left)
    }

    /// Whether nothing more is to be done for it.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// It will not be whole; told once, however many pieces fail.
    pub(crate) fn fail(&self, why: &(dyn std::error::Error + 'static)) {
        if !self.failed.swap(true, Ordering::Relaxed) {
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
        let dir = self.directory.dir.as_fd();
        let opened_name = match self.ground {
            Ground::File => self.name.clone(),
            Ground::Left | Ground::Nothing | Ground::Other => part_name(&self.name),
        };
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let mode = Mode::RUSR | Mode::WUSR;
        let open = || rustix::fs::openat(dir, &opened_name[..], flags | OFlags::CREATE, mode);
        let file = match open() {
            Err(Errno::LOOP | Errno::ISDIR) => {
                rustix::fs::unlinkat(dir, &opened_name[..], AtFlags::empty())?;
                open()?
            }
            opened => opened?,
        };
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("something else lies there now"));
        }
        let existing_bytes = u64::try_from(stat.st_size).unwrap_or(0);
        if existing_bytes != self.size {
            rustix::fs::ftruncate(&file, self.size)?;
        }
        Ok(Opened { file, existing_bytes })
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
    }

    /// Writes what is not there already.
    pub(crate) fn put(&self, bytes: &[u8], at: u64, scratch: &mut Vec<u8>) {
        if self.has_failed() {
            return;
        }
        let is_all = at == 0 && bytes.len() as u64 == self.size;
        let written = match is_all && !self.may_hold_some() {
            true => self.put_whole(bytes),
            false => self.put_piece(bytes, at, scratch),
        };
        if let Err(error) = written {
            self.fail(&error);
        }
    }

    fn put_piece(&self, bytes: &[u8], at: u64, scratch: &mut Vec<u8>) -> io::Result<()> {
        let Some(opened) = self.opened() else { return Ok(()) };
        let (file, shared) = (opened.file.as_fd(), self.shared());
        scratch.clear();
        let written = match self.existing(at, bytes.len(), scratch) {
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

    /// The whole file in one go, without a name until it is right in all.
    fn put_whole(&self, bytes: &[u8]) -> io::Result<()> {
        let (dir, shared) = (self.directory.dir.as_fd(), self.shared());
        if !shared.nameless.is_had() {
            return self.put_piece(bytes, 0, &mut Vec::new());
        }
        // Nobody else can open it before it has a name.
        let mode = Mode::from_raw_mode(self.meta.mode & 0o777);
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(dir, ".", flags, mode) {
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {
                shared.nameless.is_not_had();
                return self.put_piece(bytes, 0, &mut Vec::new());
            }
            opened => opened?,
        };
        write_at(file.as_fd(), bytes, 0, self.size, &shared.uncached)?;
        apply_to_new(file.as_fd(), &self.meta, &shared.options.owners, &self.directory.inherited)?;
        self.done.store(true, Ordering::Relaxed);
        shared.progress.bytes_written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        match shared.nameless.name(file.as_fd(), dir, &self.name) {
            Err(Errno::EXIST) if shared.options.overwrite == Overwrite::Never => {
                shared.progress.skipped.fetch_add(1, Ordering::Relaxed);
                return Ok(());
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
        self.flags(&file)
    }

    fn flags(&self, file: &OwnedFd) -> io::Result<()> {
        match self.meta.flags == 0 && self.directory.inherited.is_nothing() {
            true => Ok(()),
            false => apply_flags(file.as_fd(), &self.meta),
        }
    }

    fn finish(&self, opened: &Opened) -> io::Result<()> {
        let (shared, dir) = (self.shared(), &self.directory.dir);
        let (file, owners) = (opened.file.as_fd(), &shared.options.owners);
        match self.ground {
            Ground::Nothing => apply_to_new(file, &self.meta, owners, &self.directory.inherited)?,
            // What was there may have had anything set already.
            Ground::File | Ground::Left | Ground::Other => apply_to(file, &self.meta, owners)?,
        }
        if self.ground == Ground::File {
            return apply_flags(file, &self.meta);
        }
        let part = part_name(&self.name);
        let keeps = shared.options.overwrite == Overwrite::Never;
        let flags = if keeps { RenameFlags::NOREPLACE } else { RenameFlags::empty() };
        match rustix::fs::renameat_with(dir, &part[..], dir, &self.name[..], flags) {
            Err(Errno::EXIST) if keeps => {
                shared.progress.skipped.fetch_add(1, Ordering::Relaxed);
                return Ok(rustix::fs::unlinkat(dir, &part[..], AtFlags::empty())?);
            }
            // A file system that cannot promise not to replace.
            Err(Errno::INVAL | Errno::NOSYS) if keeps => {
                rustix::fs::renameat(dir, &part[..], dir, &self.name[..])?;
            }
            renamed => renamed?,
        }
        match self.ground {
            Ground::Nothing => self.flags(&opened.file),
            _ => apply_flags(file, &self.meta),
        }
    }

    /// Makes a hole of what was there.
    pub(crate) fn punch(&self, at: u64, length: u64) {
        let Some(opened) = self.opened() else { return };
        if let Err(error) = opened.punch(at, length) {
            self.fail(&error);
        }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let mut whole = !*self.failed.get_mut() && !self.shared().stopped();
        if whole && !*self.done.get_mut() {
            let finished = match self.opened.get() {
                Some(Some(opened)) => self.finish(opened),
                // Nothing of it was written, so nobody asked for it to be.
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            };
            if let Err(error) = finished {
                whole = false;
                self.fail(&error);
            }
        }
        let shared = self.shared();
        if whole {
            shared.progress.files.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(group) = &self.group {
            group.done(whole, shared);
        }
    }
}

impl Opened {
    fn punch(&self, at: u64, length: u64) -> io::Result<()> {
        let end = at.saturating_add(length).min(self.existing_bytes);
        if at >= end {
            return Ok(());
        }
        match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
            // A hole is there.
            Ok(data) if data >= end => return Ok(()),
            Err(Errno::NXIO) => return Ok(()),
            _ => {}
        }
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.file, mode, at, end - at) {
            Err(Errno::OPNOTSUPP) => self.zero(at, end),
            punched => Ok(punched?),
        }
    }

    /// Zeros where the file system has no holes.
    fn zero(&self, mut from: u64, end: u64) -> io::Result<()> {
        let zeros = vec![0; 64 << 10];
        while from < end {
            let count = usize::try_from(end - from).unwrap_or(zeros.len()).min(zeros.len());
            let count = zeros.get(..count).unwrap_or(&zeros);
            from += rustix::io::pwrite(&self.file, count, from)? as u64;
        }
        Ok(())
    }
}
