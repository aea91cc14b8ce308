//! Bytes into and out of files, and what of it a file system may not have: long files pass the
//! page cache by, for fresh pages cost more than the copy; short new files have no name until
//! they are whole. What is not had is found out once and done without.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, CWD};
use rustix::io::{Errno, ReadWriteFlags};

/// Files from this size on pass the page cache by: shorter ones end with a page that is shared
/// with nothing anyhow, and each write of them would start an input of its own.
const UNCACHED_BYTES_MIN: u64 = 256 << 10;
/// Shorter writes go through the page cache all the same: each that does not is an output of its
/// own, and a finely cut image of 4 GiB took 12.8 s by those and 7.3 s without.
const UNCACHED_WRITE_BYTES_MIN: usize = 128 << 10;
/// `RWF_DONTCACHE`, since Linux 6.14: the pages are let go of once they are written or read.
const DONT_CACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);
/// What is compared and written at once where a file differs.
const BLOCK_BYTES: u64 = 4 << 10;

/// Something a file system may not have; had until it is found missing.
#[derive(Debug, Default)]
pub(crate) struct Had {
    missing: AtomicBool,
}

impl Had {
    pub(crate) fn is_had(&self) -> bool {
        !self.missing.load(Ordering::Relaxed)
    }

    pub(crate) fn is_not_had(&self) {
        self.missing.store(true, Ordering::Relaxed);
    }
}

/// Files without a name, and how they get one.
#[derive(Debug, Default)]
pub(crate) struct Nameless {
    files: Had,
    /// Naming by the descriptor itself, which older kernels reserve for root.
    by_descriptor: Had,
}

impl Nameless {
    pub(crate) fn is_had(&self) -> bool {
        self.files.is_had()
    }

    pub(crate) fn is_not_had(&self) {
        self.files.is_not_had();
    }

    /// Gives a file made without a name its name, unless there is something of that name.
    pub(crate) fn name(
        &self,
        file: BorrowedFd<'_>,
        dir: BorrowedFd<'_>,
        name: &[u8],
    ) -> rustix::io::Result<()> {
        if self.by_descriptor.is_had() {
            match rustix::fs::linkat(file, "", dir, name, AtFlags::EMPTY_PATH) {
                Err(Errno::NOENT | Errno::PERM) => self.by_descriptor.is_not_had(),
                named => return named,
            }
        }
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        rustix::fs::linkat(CWD, path.as_str(), dir, name, AtFlags::SYMLINK_FOLLOW)
    }
}

/// Fills the buffer; whether all of it was there.
pub(crate) fn read_at(
    file: BorrowedFd<'_>,
    buffer: &mut [u8],
    at: u64,
    file_bytes: u64,
    uncached: &Had,
) -> bool {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let from = at + done as u64;
        let read = match file_bytes >= UNCACHED_BYTES_MIN && uncached.is_had() {
            true => {
                let mut rest = [io::IoSliceMut::new(rest)];
                rustix::io::preadv2(file, &mut rest, from, DONT_CACHE)
            }
            false => rustix::io::pread(file, rest, from),
        };
        match read {
            Ok(count) if count > 0 => done += count,
            Err(Errno::OPNOTSUPP) if uncached.is_had() => uncached.is_not_had(),
            Err(Errno::INTR) => {}
            _ => return false,
        }
    }
    true
}

/// Writes all of the bytes.
pub(crate) fn write_at(
    file: BorrowedFd<'_>,
    bytes: &[u8],
    at: u64,
    file_bytes: u64,
    uncached: &Had,
) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        let from = at + done as u64;
        let is_long = file_bytes >= UNCACHED_BYTES_MIN && rest.len() >= UNCACHED_WRITE_BYTES_MIN;
        let written = match is_long && uncached.is_had() {
            true => rustix::io::pwritev2(file, &[io::IoSlice::new(rest)], from, DONT_CACHE),
            false => rustix::io::pwrite(file, rest, from),
        };
        match written {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => done += count,
            Err(Errno::OPNOTSUPP) if uncached.is_had() => uncached.is_not_had(),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Writes those blocks that are not there already; how many bytes that were.
pub(crate) fn write_differing(
    file: BorrowedFd<'_>,
    bytes: &[u8],
    there: &[u8],
    at: u64,
) -> io::Result<u64> {
    if bytes == there {
        return Ok(0);
    }
    let (mut written, mut from, mut begin) = (0, 0, None);
    while from < bytes.len() {
        // Blocks of the file, so that none is written in part where all of it is known.
        let left = BLOCK_BYTES - (at + from as u64) % BLOCK_BYTES;
        let end = bytes.len().min(from + usize::try_from(left).unwrap_or(1));
        let differs = bytes.get(from..end) != there.get(from..end);
        if differs && begin.is_none() {
            begin = Some(from);
        }
        let run_ends = if differs { end == bytes.len() } else { true };
        if let (Some(first), true) = (begin, run_ends) {
            let last = if differs { end } else { from };
            let run = bytes.get(first..last).unwrap_or_default();
            write_at(file, run, at + first as u64, 0, &Had::default())?;
            written += run.len() as u64;
            begin = None;
        }
        from = end;
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn only_blocks_that_differ_are_written() {
        let file = tempfile::tempfile().unwrap();
        let old = vec![1_u8; 40_000];
        let mut new = old.clone();
        new[5000] = 2;
        new[9000] = 3;
        new[39_999] = 4;
        let at = 100;
        let written = write_differing(file.as_fd(), &new, &old, at).unwrap();
        // Blocks of the file 1 and 2 whole, and the last one as far as it goes.
        assert_eq!(written, 8192 + (40_100 - 36_864));
        let mut found = vec![0; 40_100];
        assert!(read_at(file.as_fd(), &mut found, 0, 0, &Had::default()));
        assert_eq!(found[at as usize + 5000], 2);
        assert_eq!(found[at as usize + 39_999], 4);
        assert_eq!(found[at as usize + 20_000], 0, "not written");
        assert_eq!(write_differing(file.as_fd(), &new, &new, at).unwrap(), 0);
    }

    #[test]
    fn long_files_are_written_and_read_past_the_cache_or_not() {
        let file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..600_000_u32).map(|n| (n % 251) as u8).collect();
        let long = 1 << 30;
        write_at(file.as_fd(), &bytes, 77, long, &Had::default()).unwrap();
        for uncached in [Had::default(), Had { missing: AtomicBool::new(true) }] {
            let mut found = vec![0; bytes.len()];
            assert!(read_at(file.as_fd(), &mut found, 77, long, &uncached));
            assert_eq!(found, bytes);
            assert!(!read_at(file.as_fd(), &mut found, 78, long, &uncached), "past the end");
        }
    }
}
