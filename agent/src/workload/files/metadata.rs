//! What a file is besides its bytes, read through descriptors: one `statx`, every extended
//! attribute raw, the inode flags a person may set. Follows no symlink and interprets nothing.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use strongroom_store::content::{Meta, Xattr};

/// Extended attributes, name and value raw, sorted by name.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// The inode flags that are the user's, not the file system's own bookkeeping:
/// secrm, unrm, compr, sync, immutable, append, nodump, noatime, journal data, notail,
/// dirsync, topdir, nocow, projinherit, casefold.
const FLAGS_KEPT: u32 = 0x0000_00ff | 0x0003_c000 | 0x0080_0000 | 0x2000_0000 | 0x4000_0000;
/// Longest list of names and longest value the kernel hands out, in bytes.
const XATTR_BYTES_MAX: usize = 64 << 10;
/// First guess, so that most reads need one call.
const XATTR_BYTES_GUESS: usize = 512;

/// What a directory entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileKind {
    BlockDevice,
    CharDevice,
    Directory,
    Fifo,
    File,
    Socket,
    Symlink,
}

/// One `statx`, as far as it is kept or compared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stat {
    pub kind: FileKind,
    /// The low 12 bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub links: u32,
    pub dev: u64,
    pub ino: u64,
    pub device_major: u32,
    pub device_minor: u32,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    pub birth_ns: Option<i64>,
    /// Allocated, in units of 512 bytes.
    pub blocks: u64,
}

impl Stat {
    /// Whether the bytes may have changed between the two.
    pub fn same_content_as(&self, later: &Self) -> bool {
        self.size == later.size
            && self.mtime_ns == later.mtime_ns
            && self.ctime_ns == later.ctime_ns
            && self.is_same_inode(later)
    }

    /// Whether both name one inode.
    pub const fn is_same_inode(&self, other: &Self) -> bool {
        self.dev == other.dev && self.ino == other.ino
    }

    /// Whether less is allocated than the size asks for.
    pub const fn is_sparse(&self) -> bool {
        self.blocks.saturating_mul(512) < self.size
    }
}

/// What a handle says beside `statx`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Own {
    pub xattrs: Xattrs,
    pub flags: u32,
    pub project: u32,
}

/// What is kept of an entry beside its content.
pub fn meta_of(stat: &Stat, own: Own, link_group: u64) -> Meta {
    let xattrs = own.xattrs.into_iter().map(|(name, value)| Xattr { name, value });
    Meta {
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        mtime_ns: stat.mtime_ns,
        birth_ns: stat.birth_ns,
        flags: own.flags,
        project: own.project,
        xattrs: xattrs.collect(),
        link_group,
    }
}

/// What `statx` of a name in a directory says, without following a symlink.
///
/// # Errors
/// What the kernel answered.
pub fn stat_at(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Stat> {
    statx(dir, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT)
}

/// What `statx` of an open file says.
///
/// # Errors
/// What the kernel answered.
pub fn stat_of(file: BorrowedFd<'_>) -> io::Result<Stat> {
    statx(file, b"", AtFlags::EMPTY_PATH)
}

fn statx(dir: BorrowedFd<'_>, name: &[u8], flags: AtFlags) -> io::Result<Stat> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let raw = rustix::fs::statx(dir, name, flags, wanted)?;
    let kind = match u32::from(raw.stx_mode) & 0o170_000 {
        0o060_000 => FileKind::BlockDevice,
        0o020_000 => FileKind::CharDevice,
        0o040_000 => FileKind::Directory,
        0o010_000 => FileKind::Fifo,
        0o100_000 => FileKind::File,
        0o140_000 => FileKind::Socket,
        0o120_000 => FileKind::Symlink,
        _ => return Err(io::Error::from(io::ErrorKind::Unsupported)),
    };
    let nanos = |time: rustix::fs::StatxTimestamp| {
        time.tv_sec.saturating_mul(1_000_000_000).saturating_add(i64::from(time.tv_nsec))
    };
    let has_birth = raw.stx_mask & StatxFlags::BTIME.bits() != 0;
    Ok(Stat {
        kind,
        mode: u32::from(raw.stx_mode) & 0o7777,
        uid: raw.stx_uid,
        gid: raw.stx_gid,
        size: raw.stx_size,
        links: raw.stx_nlink,
        dev: (u64::from(raw.stx_dev_major) << 32) | u64::from(raw.stx_dev_minor),
        ino: raw.stx_ino,
        device_major: raw.stx_rdev_major,
        device_minor: raw.stx_rdev_minor,
        mtime_ns: nanos(raw.stx_mtime),
        ctime_ns: nanos(raw.stx_ctime),
        birth_ns: has_birth.then(|| nanos(raw.stx_btime)),
        blocks: raw.stx_blocks,
    })
}

/// Opens a directory below another without following a symlink or touching its atime.
///
/// # Errors
/// What the kernel answered.
pub fn open_directory(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    open_quietly(dir, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW)
}

/// Opens a regular file for reading; a fifo put in its place does not block.
///
/// # Errors
/// What the kernel answered.
pub fn open_file(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    open_quietly(dir, name, flags)
}

/// With `O_NOATIME` where we may (owner or CAP_FOWNER), without where not.
fn open_quietly(dir: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?),
        opened => Ok(opened?),
    }
}

/// A handle on anything, symlinks too, that gives no access to its bytes.
///
/// # Errors
/// What the kernel answered.
pub fn open_handle(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

/// The path by which calls without an `*at` form reach what a handle holds.
pub fn proc_path(handle: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", handle.as_raw_fd())
}

/// All extended attributes of an open file or directory.
///
/// # Errors
/// What the kernel answered; a file system without attributes has none.
pub fn xattrs_of(file: BorrowedFd<'_>) -> io::Result<Xattrs> {
    collect_xattrs(
        |buffer| rustix::fs::flistxattr(file, buffer),
        |name, buffer| rustix::fs::fgetxattr(file, name, buffer),
    )
}

/// All extended attributes of a symlink, device, fifo or socket, or of a file we may not open.
///
/// # Errors
/// What the kernel answered.
pub fn xattrs_at(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Xattrs> {
    let handle = open_handle(dir, name)?;
    let path = proc_path(handle.as_fd());
    collect_xattrs(
        |buffer| rustix::fs::listxattr(path.as_str(), buffer),
        |name, buffer| rustix::fs::getxattr(path.as_str(), name, buffer),
    )
}

fn collect_xattrs(
    mut list: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>,
    mut value: impl FnMut(&[u8], &mut [u8]) -> rustix::io::Result<usize>,
) -> io::Result<Xattrs> {
    let Some(names) = sized(&mut list)? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if let Some(bytes) = sized(|buffer: &mut [u8]| value(name, buffer))? {
            found.push((name.to_vec(), bytes));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Calls with a small buffer, then with the largest; nothing when there is nothing to have.
fn sized(
    mut call: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>,
) -> io::Result<Option<Vec<u8>>> {
    for bytes in [XATTR_BYTES_GUESS, XATTR_BYTES_MAX] {
        let mut buffer = vec![0_u8; bytes];
        match call(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(Some(buffer));
            }
            Err(Errno::RANGE) => {}
            // Gone since it was listed, or never offered by this file system.
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(Errno::RANGE.into())
}

/// The inode flags worth keeping; zero where the file system has none.
pub fn flags_of(file: BorrowedFd<'_>) -> u32 {
    rustix::fs::ioctl_getflags(file).map_or(0, |flags| flags.bits() & FLAGS_KEPT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::XattrFlags;

    #[test]
    fn symlinks_and_fifos_give_their_own_attributes_not_their_targets() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("target"), b"x").unwrap();
        std::os::unix::fs::symlink("target", dir.path().join("link")).unwrap();
        let target = dir.path().join("target");
        rustix::fs::setxattr(&target, "user.of", b"target", XattrFlags::empty()).unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        assert_eq!(xattrs_at(root.as_fd(), b"link").unwrap(), Xattrs::new());
        let of_target = vec![(b"user.of".to_vec(), b"target".to_vec())];
        assert_eq!(xattrs_at(root.as_fd(), b"target").unwrap(), of_target);
        let open = open_file(root.as_fd(), b"target").unwrap();
        assert_eq!(xattrs_of(open.as_fd()).unwrap(), of_target);
        assert!(open_file(root.as_fd(), b"link").is_err());
    }

    #[test]
    fn long_attributes_are_read_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, b"x").unwrap();
        let long = vec![7_u8; 2000];
        rustix::fs::setxattr(&file, "user.long", &long, XattrFlags::empty()).unwrap();
        let open = std::fs::File::open(&file).unwrap();
        assert_eq!(xattrs_of(open.as_fd()).unwrap(), vec![(b"user.long".to_vec(), long)]);
    }
}
