//! A file of the target, open to be written into or to be compared. Promises that what is opened
//! is a regular file and that nothing is followed to it; refuses anything else.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use crate::restore::bytes::{Had, read_at};

/// What is zeroed or looked at in one go where holes are not to be had.
const STRETCH_BYTES: u64 = 64 << 10;

/// What a file is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    /// It stays as it is.
    Compare,
    /// It is made where it is not there, and is to be so long.
    Write { size: u64 },
}

/// An open file.
pub(super) struct Opened {
    pub(super) file: OwnedFd,
    /// Bytes that were there before and may be right.
    pub(super) existing_bytes: u64,
}

impl Opened {
    pub(super) fn open(dir: BorrowedFd<'_>, name: &[u8], access: Access) -> io::Result<Self> {
        let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let flags = flags
            | match access {
                Access::Compare => OFlags::RDONLY,
                Access::Write { .. } => OFlags::RDWR | OFlags::CREATE,
            };
        let open = || rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR);
        let file = match open() {
            Err(Errno::LOOP | Errno::ISDIR) if access != Access::Compare => {
                rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
                open()?
            }
            opened => opened?,
        };
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("something else lies there now"));
        }
        let existing_bytes = u64::try_from(stat.st_size).unwrap_or(0);
        if let Access::Write { size } = access
            && existing_bytes != size
        {
            rustix::fs::ftruncate(&file, size)?;
        }
        Ok(Self { file, existing_bytes })
    }

    /// Where data begins in the stretch, if there is any.
    fn data_in(&self, at: u64, end: u64) -> Option<u64> {
        match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
            // A hole is there.
            Ok(data) if data >= end => None,
            Err(Errno::NXIO) => None,
            Ok(data) => Some(data),
            Err(_) => Some(at),
        }
    }

    /// Makes a hole of what was there.
    pub(super) fn punch(&self, at: u64, length: u64) -> io::Result<()> {
        let end = at.saturating_add(length).min(self.existing_bytes);
        if at >= end || self.data_in(at, end).is_none() {
            return Ok(());
        }
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.file, mode, at, end - at) {
            Err(Errno::OPNOTSUPP) => self.zero(at, end),
            punched => Ok(punched?),
        }
    }

    /// Zeros where the file system has no holes.
    fn zero(&self, mut from: u64, end: u64) -> io::Result<()> {
        let zeros = vec![0; STRETCH_BYTES as usize];
        while from < end {
            let count = usize::try_from((end - from).min(STRETCH_BYTES)).unwrap_or(0);
            let count = zeros.get(..count).unwrap_or(&zeros);
            from += rustix::io::pwrite(&self.file, count, from)? as u64;
        }
        Ok(())
    }

    /// Whether the stretch reads as zeros, hole or not.
    pub(super) fn is_zero(&self, at: u64, length: u64) -> io::Result<bool> {
        let end = at.saturating_add(length);
        let Some(mut from) = self.data_in(at, end) else { return Ok(true) };
        let mut buffer = vec![0; STRETCH_BYTES as usize];
        while from < end {
            let count = usize::try_from((end - from).min(STRETCH_BYTES)).unwrap_or(0);
            let part = buffer.get_mut(..count).unwrap_or_default();
            if !read_at(self.file.as_fd(), part, from, 0, &Had::default()) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if part.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            from += count as u64;
        }
        Ok(true)
    }
}
