//! Puts back what belongs to a file beside its bytes, in the order the kernel needs: owner
//! before mode, for that clears setuid; both before attributes, for a capability does not
//! survive a new owner; time last but for flags that forbid everything.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::fs::{AtFlags, Gid, IFlags, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use strongroom_store::content::{MODE_MASK, Meta};

use crate::workload::files::metadata::{flags_of, open_handle, proc_path, xattrs_at, xattrs_of};
use crate::workload::files::project::set_project;

const NANOS: i64 = 1_000_000_000;
/// Labels are the host's, not the file's.
const LABEL: &[u8] = b"security.selinux";

/// Who is to own what is restored.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Owners {
    /// Whoever restores.
    Restorer,
    /// Who owned it, by number.
    #[default]
    Stored,
    /// By number, with these numbers exchanged.
    Mapped { users: HashMap<u32, u32>, groups: HashMap<u32, u32> },
}

impl Owners {
    fn of(&self, meta: &Meta) -> Option<(u32, u32)> {
        match self {
            Self::Restorer => None,
            Self::Stored => Some((meta.uid, meta.gid)),
            Self::Mapped { users, groups } => Some((
                users.get(&meta.uid).copied().unwrap_or(meta.uid),
                groups.get(&meta.gid).copied().unwrap_or(meta.gid),
            )),
        }
    }
}

/// Everything but the flags, to an open file or directory. Goes on after an error.
///
/// # Errors
/// The first that went wrong.
pub fn apply_to(file: BorrowedFd<'_>, meta: &Meta, owners: &Owners) -> io::Result<()> {
    let mut first = Ok(());
    let mut keep = |result: io::Result<()>| {
        if first.is_ok() {
            first = result;
        }
    };
    if let Some((user, group)) = owners.of(meta) {
        let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
        keep(rustix::fs::fchown(file, Some(user), Some(group)).map_err(Into::into));
    }
    keep(rustix::fs::fchmod(file, Mode::from_raw_mode(meta.mode)).map_err(Into::into));
    for (name, _) in xattrs_of(file).unwrap_or_default() {
        if is_surplus(&name, meta) {
            keep(rustix::fs::fremovexattr(file, name.as_slice()).map_err(Into::into));
        }
    }
    for xattr in &meta.xattrs {
        let set =
            rustix::fs::fsetxattr(file, xattr.name.as_slice(), &xattr.value, XattrFlags::empty());
        keep(set.map_err(Into::into));
    }
    if meta.project != 0 {
        keep(set_project(file, meta.project));
    }
    keep(rustix::fs::futimens(file, &times(meta)).map_err(Into::into));
    first
}

/// What files made in a directory get from it unasked: attributes by its default list of rights,
/// flags by its own. Found out with the first file, for it is the same with all.
#[derive(Debug, Default)]
pub struct Inherited(AtomicU8);

impl Inherited {
    const NOTHING: u8 = 1;
    const SOMETHING: u8 = 2;

    /// Whether they are known to get nothing.
    pub fn is_nothing(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Self::NOTHING
    }

    fn learn(&self, file: BorrowedFd<'_>) {
        if self.0.load(Ordering::Relaxed) != 0 {
            return;
        }
        let label = |name: &[u8]| name == LABEL;
        let none = xattrs_of(file).is_ok_and(|found| found.iter().all(|(name, _)| label(name)));
        let found = if none && flags_of(file) == 0 { Self::NOTHING } else { Self::SOMETHING };
        self.0.store(found, Ordering::Relaxed);
    }
}

/// As [`apply_to`] to a file just made, where fewer calls do: what it has already is left.
///
/// # Errors
/// The first that went wrong.
pub fn apply_to_new(
    file: BorrowedFd<'_>,
    meta: &Meta,
    owners: &Owners,
    inherited: &Inherited,
) -> io::Result<()> {
    inherited.learn(file);
    let stat = rustix::fs::fstat(file)?;
    let is_owned = owners.of(meta).is_none_or(|owner| owner == (stat.st_uid, stat.st_gid));
    if !is_owned || !inherited.is_nothing() || !meta.xattrs.is_empty() || meta.project != 0 {
        return apply_to(file, meta, owners);
    }
    if stat.st_mode & MODE_MASK != meta.mode {
        rustix::fs::fchmod(file, Mode::from_raw_mode(meta.mode))?;
    }
    Ok(rustix::fs::futimens(file, &times(meta))?)
}

/// The flags, once nothing more is to be done to it.
///
/// # Errors
/// What the kernel answered.
pub fn apply_flags(file: BorrowedFd<'_>, meta: &Meta) -> io::Result<()> {
    if flags_of(file) == meta.flags {
        return Ok(());
    }
    let now = rustix::fs::ioctl_getflags(file)?;
    let kept = now.bits() & !flags_of(file);
    Ok(rustix::fs::ioctl_setflags(file, IFlags::from_bits_retain(kept | meta.flags))?)
}

/// Everything, to a symlink, fifo, socket or device by its name.
///
/// # Errors
/// The first that went wrong.
pub fn apply_at(
    dir: BorrowedFd<'_>,
    name: &[u8],
    meta: &Meta,
    owners: &Owners,
    is_symlink: Symlink,
) -> io::Result<()> {
    let handle = open_handle(dir, name)?;
    let path = proc_path(handle.as_fd());
    if let Some((user, group)) = owners.of(meta) {
        let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
        rustix::fs::chownat(dir, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    if is_symlink == Symlink::No {
        rustix::fs::chmod(path.as_str(), Mode::from_raw_mode(meta.mode))?;
    }
    for (found, _) in xattrs_at(dir, name).unwrap_or_default() {
        if is_surplus(&found, meta) {
            rustix::fs::removexattr(path.as_str(), found.as_slice())?;
        }
    }
    for xattr in &meta.xattrs {
        let value = &xattr.value;
        rustix::fs::setxattr(path.as_str(), xattr.name.as_slice(), value, XattrFlags::empty())?;
    }
    Ok(rustix::fs::utimensat(dir, name, &times(meta), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Whether a mode can be set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Symlink {
    No,
    Yes,
}

/// Attributes a new file got from its directory or label policy; labels are the host's.
fn is_surplus(name: &[u8], meta: &Meta) -> bool {
    name != LABEL && !meta.xattrs.iter().any(|xattr| xattr.name == name)
}

fn times(meta: &Meta) -> Timestamps {
    let stamp = Timespec {
        tv_sec: meta.mtime_ns.div_euclid(NANOS),
        tv_nsec: meta.mtime_ns.rem_euclid(NANOS),
    };
    let omitted = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    Timestamps { last_access: omitted, last_modification: stamp }
}
