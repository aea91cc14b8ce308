//! Compares two trees on disk, name by name and byte by byte, and says each difference. Its
//! own walk and its own reading: it must not share a mistake with what it judges.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

/// Bytes of two files looked at a time.
const COMPARE_BYTES: usize = 256 << 10;
/// Longest list of attribute names, or value, the kernel has.
const XATTR_BYTES_MAX: usize = 64 << 10;

/// In what two entries differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Aspect {
    /// Names of one inode on one side are of two on the other.
    Links,
    Bytes,
    Device,
    Flags,
    Holes,
    Kind,
    /// Only on the left.
    Missing,
    Mode,
    Mtime,
    Owner,
    Size,
    /// Only on the right.
    Surplus,
    Target,
    /// One of the two cannot be read.
    Unreadable,
    Xattrs,
}

/// One difference.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    pub path: Vec<u8>,
    pub aspect: Aspect,
    /// Both sides, in words.
    pub detail: String,
}

/// How much was compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Compared {
    pub entries: u64,
    pub bytes: u64,
    pub differences: u64,
}

/// Compares all below `left` with all below `right`, the two directories themselves too.
///
/// # Errors
/// A root cannot be opened, or a directory cannot be gone back to.
pub fn compare(
    left: &Path,
    right: &Path,
    report: &mut dyn FnMut(Difference),
) -> io::Result<Compared> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |path: &Path| rustix::fs::open(path, flags, Mode::empty());
    let mut comparison = Comparison {
        report,
        path: Vec::new(),
        compared: Compared::default(),
        partners: HashMap::new(),
        buffers: (vec![0; COMPARE_BYTES], vec![0; COMPARE_BYTES]),
    };
    comparison.run((open(left)?, open(right)?))?;
    Ok(comparison.compared)
}

struct Comparison<'report> {
    report: &'report mut dyn FnMut(Difference),
    path: Vec<u8>,
    compared: Compared,
    /// The right inode of each left inode with several names.
    partners: HashMap<(u64, u64), (u64, u64)>,
    buffers: (Vec<u8>, Vec<u8>),
}

/// Names of a directory pair still to be compared, last first, and where its path ends.
struct Level {
    names: Vec<(Vec<u8>, Side)>,
    path_bytes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Both,
    Left,
    Right,
}

impl Comparison<'_> {
    fn run(&mut self, roots: (OwnedFd, OwnedFd)) -> io::Result<()> {
        let (mut left, mut right) = roots;
        let stats = (rustix::fs::fstat(&left)?, rustix::fs::fstat(&right)?);
        self.metadata(&stats.0, &stats.1);
        self.handles(left.as_fd(), right.as_fd());
        let names = merged(&left, &right)?;
        let mut levels = vec![Level { names, path_bytes: 0 }];
        while let Some(level) = levels.last_mut() {
            self.path.truncate(level.path_bytes);
            let Some((name, side)) = level.names.pop() else {
                levels.pop();
                if !levels.is_empty() {
                    // Trees under comparison hold still, so `..` is where we came from.
                    (left, right) = (above(&left)?, above(&right)?);
                }
                continue;
            };
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(&name);
            match side {
                Side::Left => self.differ(Aspect::Missing, "only on the left"),
                Side::Right => self.differ(Aspect::Surplus, "only on the right"),
                Side::Both => match self.entry(&left, &right, &name) {
                    Ok(Some(below)) => {
                        let names = merged(&below.0, &below.1)?;
                        (left, right) = below;
                        levels.push(Level { names, path_bytes: self.path.len() });
                    }
                    Ok(None) => {}
                    Err(error) => self.differ(Aspect::Unreadable, &error.to_string()),
                },
            }
        }
        Ok(())
    }

    fn differ(&mut self, aspect: Aspect, detail: &str) {
        self.compared.differences += 1;
        let difference = Difference { path: self.path.clone(), aspect, detail: detail.to_owned() };
        (self.report)(difference);
    }

    fn check<T: PartialEq + std::fmt::Debug>(&mut self, aspect: Aspect, left: T, right: T) {
        if left != right {
            self.differ(aspect, &format!("{left:?} and {right:?}"));
        }
    }

    /// Compares one name; the two directories, if they are to be gone into.
    fn entry(
        &mut self,
        left: &OwnedFd,
        right: &OwnedFd,
        name: &[u8],
    ) -> io::Result<Option<(OwnedFd, OwnedFd)>> {
        self.compared.entries += 1;
        let stat = |dir: &OwnedFd| rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
        let (a, b) = (stat(left)?, stat(right)?);
        let (kind, other) =
            (FileType::from_raw_mode(a.st_mode), FileType::from_raw_mode(b.st_mode));
        if kind != other {
            self.differ(Aspect::Kind, &format!("{kind:?} and {other:?}"));
            return Ok(None);
        }
        self.metadata(&a, &b);
        let handle = |dir: &OwnedFd| {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(dir, name, flags, Mode::empty())
        };
        let handles = (handle(left)?, handle(right)?);
        self.handles(handles.0.as_fd(), handles.1.as_fd());
        let open = |dir: &OwnedFd, flags| {
            let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(dir, name, flags, Mode::empty())
        };
        match kind {
            FileType::Directory => {
                let pair = (open(left, OFlags::DIRECTORY)?, open(right, OFlags::DIRECTORY)?);
                return Ok(Some(pair));
            }
            FileType::RegularFile => {
                self.links(&a, &b);
                let (a_file, b_file) =
                    (open(left, OFlags::NONBLOCK)?, open(right, OFlags::NONBLOCK)?);
                self.check(Aspect::Size, a.st_size, b.st_size);
                let flags = |file: &OwnedFd| {
                    let kept = rustix::fs::IFlags::NODUMP
                        | rustix::fs::IFlags::IMMUTABLE
                        | rustix::fs::IFlags::APPEND
                        | rustix::fs::IFlags::NOATIME
                        | rustix::fs::IFlags::NOCOW;
                    rustix::fs::ioctl_getflags(file).map_or(0, |found| (found & kept).bits())
                };
                self.check(Aspect::Flags, flags(&a_file), flags(&b_file));
                self.bytes(&a_file, &b_file)?;
            }
            FileType::Symlink => {
                self.links(&a, &b);
                let read = |dir: &OwnedFd| rustix::fs::readlinkat(dir, name, Vec::new());
                self.check(Aspect::Target, read(left)?, read(right)?);
            }
            _ => {
                self.links(&a, &b);
                self.check(Aspect::Device, a.st_rdev, b.st_rdev);
            }
        }
        Ok(None)
    }

    fn metadata(&mut self, a: &Stat, b: &Stat) {
        self.check(Aspect::Mode, a.st_mode & 0o7777, b.st_mode & 0o7777);
        self.check(Aspect::Owner, (a.st_uid, a.st_gid), (b.st_uid, b.st_gid));
        let times = ((a.st_mtime, a.st_mtime_nsec), (b.st_mtime, b.st_mtime_nsec));
        self.check(Aspect::Mtime, times.0, times.1);
    }

    fn links(&mut self, a: &Stat, b: &Stat) {
        if a.st_nlink < 2 && b.st_nlink < 2 {
            return;
        }
        let (left, right) = ((a.st_dev, a.st_ino), (b.st_dev, b.st_ino));
        let partner = *self.partners.entry(left).or_insert(right);
        if partner != right {
            self.differ(Aspect::Links, "names of one inode on the left, of two on the right");
        }
    }

    fn handles(&mut self, left: BorrowedFd<'_>, right: BorrowedFd<'_>) {
        match (xattrs(left), xattrs(right)) {
            (Ok(a), Ok(b)) => self.check(Aspect::Xattrs, a, b),
            (Err(error), _) | (_, Err(error)) => {
                self.differ(Aspect::Unreadable, &error.to_string());
            }
        }
    }

    fn bytes(&mut self, left: &OwnedFd, right: &OwnedFd) -> io::Result<()> {
        let (a, b) = (stretches(left)?, stretches(right)?);
        if a != b {
            let detail = format!("data in {} and in {} stretches", a.len(), b.len());
            self.differ(Aspect::Holes, &detail);
        }
        // Where neither side has data both read as zeros.
        let mut from = 0;
        let mut all: Vec<(u64, u64)> = a.into_iter().chain(b).collect();
        all.sort_unstable();
        for (start, end) in all {
            let mut at = start.max(from);
            from = from.max(end);
            while at < end {
                let length = usize::try_from(end - at).unwrap_or(usize::MAX).min(COMPARE_BYTES);
                let (one, other) = (&mut self.buffers.0, &mut self.buffers.1);
                let one = read_at(left, one.get_mut(..length).unwrap_or_default(), at)?;
                let other = read_at(right, other.get_mut(..length).unwrap_or_default(), at)?;
                if one != other {
                    self.differ(Aspect::Bytes, &format!("at or after byte {at}"));
                    return Ok(());
                }
                self.compared.bytes += length as u64;
                at += length as u64;
            }
        }
        Ok(())
    }
}

fn read_at<'b>(file: &OwnedFd, buffer: &'b mut [u8], at: u64) -> io::Result<&'b [u8]> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match rustix::io::pread(file, rest, at + done as u64)? {
            0 => break,
            count => done += count,
        }
    }
    Ok(buffer.get(..done).unwrap_or_default())
}

/// The stretches of a file that are not holes.
fn stretches(file: &OwnedFd) -> io::Result<Vec<(u64, u64)>> {
    let mut found = Vec::new();
    let mut at = 0;
    loop {
        match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => {
                at = rustix::fs::seek(file, SeekFrom::Hole(data))?;
                found.push((data, at));
            }
            Err(Errno::NXIO) => return Ok(found),
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn xattrs(handle: BorrowedFd<'_>) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
    let mut names = vec![0_u8; XATTR_BYTES_MAX];
    let length = match rustix::fs::listxattr(path.as_str(), names.as_mut_slice()) {
        Err(Errno::OPNOTSUPP) => 0,
        length => length?,
    };
    names.truncate(length);
    let mut all = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0_u8; XATTR_BYTES_MAX];
        let length = rustix::fs::getxattr(path.as_str(), name, value.as_mut_slice())?;
        value.truncate(length);
        all.push((name.to_vec(), value));
    }
    all.sort();
    Ok(all)
}

fn above(dir: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, "..", flags, Mode::empty())?)
}

/// The names of both, sorted so that the last is the first to be compared.
fn merged(left: &OwnedFd, right: &OwnedFd) -> io::Result<Vec<(Vec<u8>, Side)>> {
    let (left, right) = (names(left)?, names(right)?);
    let mut all = Vec::with_capacity(left.len().max(right.len()));
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    loop {
        let side = match (left.peek(), right.peek()) {
            (None, None) => break,
            (Some(_), None) => Side::Left,
            (None, Some(_)) => Side::Right,
            (Some(a), Some(b)) => match a.cmp(b) {
                std::cmp::Ordering::Less => Side::Left,
                std::cmp::Ordering::Equal => Side::Both,
                std::cmp::Ordering::Greater => Side::Right,
            },
        };
        let from_left = if side == Side::Right { None } else { left.next() };
        let from_right = if side == Side::Left { None } else { right.next() };
        all.extend(from_left.or(from_right).map(|name| (name, side)));
    }
    all.reverse();
    Ok(all)
}

fn names(dir: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}
