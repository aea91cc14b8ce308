//! One file being restored: written in parts, by any thread, in any order; what is already
//! there and right is left alone. New files have a name of ours until they are whole.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use strongroom_protocol::BlobKind;
use strongroom_store::content::{ChunkExtent, Meta};
use strongroom_store::list::PlacedExtent;
use strongroom_store::tree::BlobSource;

use crate::restore::apply::{apply_flags, apply_to};
use crate::restore::directory::Directory;
use crate::restore::fetch::Fetcher;
use crate::restore::links::Group;
use crate::restore::{Overwrite, Shared};
use crate::workload::OWN_PREFIX;
use crate::workload::files::metadata::{FileKind, stat_at};

/// What a file is called until it is whole: the same in the next try, which goes on with it.
pub(crate) fn part_name(name: &[u8]) -> Vec<u8> {
    let hash = blake3::hash(name).to_hex();
    format!("{OWN_PREFIX}{}.part", hash.get(..16).unwrap_or_default()).into_bytes()
}

/// A file under way; finished when the last of its parts lets go.
pub(crate) struct Target {
    file: OwnedFd,
    directory: Arc<Directory>,
    name: Vec<u8>,
    path: Vec<u8>,
    meta: Meta,
    in_place: bool,
    /// Bytes that were there before and may be right.
    existing_bytes: u64,
    failed: AtomicBool,
    group: Option<Arc<Group>>,
    shared: Arc<Shared>,
}

/// Some extents of a file.
pub(crate) struct Part {
    pub(crate) target: Arc<Target>,
    pub(crate) extents: Vec<PlacedExtent>,
    pub(crate) inline: Vec<u8>,
}

impl Target {
    /// Opens or makes the file; none if it is to be left alone.
    pub(crate) fn open(
        directory: &Arc<Directory>,
        name: &[u8],
        path: &[u8],
        size: u64,
        meta: Meta,
        group: Option<Arc<Group>>,
        shared: &Arc<Shared>,
    ) -> io::Result<Option<Arc<Self>>> {
        let dir = directory.dir.as_fd();
        let found = stat_at(dir, name).ok();
        let overwrite = shared.options.overwrite;
        if found.is_some() && overwrite == Overwrite::Never {
            return Ok(None);
        }
        // A file of several names may have names outside of what is restored.
        let is_own = found.is_some_and(|stat| stat.kind == FileKind::File && stat.links == 1);
        let in_place = is_own && overwrite == Overwrite::IfDifferent;
        let opened_name = if in_place { name.to_vec() } else { part_name(name) };
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
        let existing_bytes = u64::try_from(stat.st_size).unwrap_or(0);
        rustix::fs::ftruncate(&file, size)?;
        Ok(Some(Arc::new(Self {
            file,
            directory: Arc::clone(directory),
            name: name.to_vec(),
            path: path.to_vec(),
            meta,
            in_place,
            existing_bytes,
            failed: AtomicBool::new(false),
            group,
            shared: Arc::clone(shared),
        })))
    }

    pub(crate) fn fail(&self, why: &(dyn std::error::Error + 'static)) {
        self.failed.store(true, Ordering::Relaxed);
        self.shared.problem(&self.path, why);
    }

    fn finish(&self) -> io::Result<()> {
        apply_to(self.file.as_fd(), &self.meta, &self.shared.options.owners)?;
        if !self.in_place {
            let dir = &self.directory.dir;
            rustix::fs::renameat(dir, &part_name(&self.name)[..], dir, &self.name[..])?;
        }
        apply_flags(self.file.as_fd(), &self.meta)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let mut whole = !*self.failed.get_mut() && !self.shared.stopped();
        if whole && let Err(error) = self.finish() {
            whole = false;
            self.shared.problem(&self.path, &error);
        }
        if whole {
            self.shared.progress.files.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(group) = &self.group {
            group.done(whole);
        }
    }
}

impl Part {
    /// Writes what is not there already.
    pub(crate) fn write<S: BlobSource>(&self, fetcher: &Fetcher<'_, S>, buffer: &mut Vec<u8>) {
        let target = &self.target;
        if !self.inline.is_empty()
            && let Err(error) = target.put(&self.inline, 0, buffer)
        {
            return target.fail(&error);
        }
        for placed in &self.extents {
            if target.shared.stopped() || target.failed.load(Ordering::Relaxed) {
                return;
            }
            let at = placed.at;
            let written = match placed.extent {
                ChunkExtent::Hole { length } => target.punch(at, length),
                ChunkExtent::Chunk { id, offset, length } => {
                    if offset == 0 && target.holds(id, at, length, buffer) {
                        target.shared.progress.kept(u64::from(length));
                        continue;
                    }
                    let chunk = match fetcher.chunk(id) {
                        Ok(chunk) => chunk,
                        Err(error) => return target.fail(&error),
                    };
                    let from = offset as usize;
                    match chunk.get(from..from + length as usize) {
                        Some(bytes) => target.put(bytes, at, buffer),
                        None => Err(io::ErrorKind::UnexpectedEof.into()),
                    }
                }
            };
            if let Err(error) = written {
                return target.fail(&error);
            }
        }
    }
}

impl Target {
    /// Whether the chunk lies there already, as its name says. Only a chunk used whole can
    /// be told by its name.
    fn holds(
        &self,
        id: strongroom_protocol::ChunkId,
        at: u64,
        length: u32,
        buffer: &mut Vec<u8>,
    ) -> bool {
        let Some(keys) = &self.shared.options.keys else { return false };
        self.existing(at, length as usize, buffer)
            .is_some_and(|there| keys.id(BlobKind::Data, &[], there) == id)
    }

    /// What was there before, if all of the stretch was.
    fn existing<'b>(&self, at: u64, length: usize, buffer: &'b mut Vec<u8>) -> Option<&'b [u8]> {
        if at + length as u64 > self.existing_bytes {
            return None;
        }
        buffer.resize(length, 0);
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match rustix::io::pread(&self.file, rest, at + done as u64) {
                Ok(count) if count > 0 => done += count,
                _ => return None,
            }
        }
        Some(buffer.as_slice())
    }

    fn put(&self, bytes: &[u8], at: u64, buffer: &mut Vec<u8>) -> io::Result<()> {
        let progress = &self.shared.progress;
        if self.existing(at, bytes.len(), buffer).is_some_and(|there| there == bytes) {
            progress.kept(bytes.len() as u64);
            return Ok(());
        }
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            match rustix::io::pwrite(&self.file, rest, at + done as u64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        progress.bytes_written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn punch(&self, at: u64, length: u64) -> io::Result<()> {
        if at >= self.existing_bytes {
            return Ok(());
        }
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.file, mode, at, length) {
            Err(Errno::OPNOTSUPP) => self.zero(at, length),
            punched => Ok(punched?),
        }
    }

    /// Zeros where the file system has no holes.
    fn zero(&self, at: u64, length: u64) -> io::Result<()> {
        let zeros = vec![0; 64 << 10];
        let end = (at + length).min(self.existing_bytes);
        let mut from = at;
        while from < end {
            let count = usize::try_from(end - from).unwrap_or(zeros.len()).min(zeros.len());
            from +=
                rustix::io::pwrite(&self.file, zeros.get(..count).unwrap_or(&zeros), from)? as u64;
        }
        Ok(())
    }
}
