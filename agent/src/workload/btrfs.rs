//! Read-only snapshots of btrfs subvolumes by ioctl. Every snapshot carries the job's name,
//! so that one left behind by a killed agent is found and removed, and nobody else's is.

#![allow(unsafe_code)]

use std::ffi::{CStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, RawDir};
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};
use strongroom_protocol::JobId;

use crate::workload::OWN_PREFIX;
use crate::workload::files::metadata::{open_directory, stat_of};

/// `statfs` of a btrfs.
const MAGIC: u64 = 0x9123_683e;
/// The inode number of every subvolume's root.
const SUBVOLUME_INO: u64 = 256;
/// `BTRFS_SUBVOL_RDONLY`.
const READ_ONLY: u64 = 2;
const NAME_BYTES: usize = 4040;
const LISTING_BYTES: usize = 32 << 10;

/// `struct btrfs_ioctl_vol_args_v2`.
#[repr(C)]
struct Arguments {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; NAME_BYTES],
}

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct ArgumentsV1 {
    fd: i64,
    name: [u8; 4088],
}

const SNAP_CREATE_V2: Opcode = opcode::write::<Arguments>(0x94, 23);
const SNAP_DESTROY: Opcode = opcode::write::<ArgumentsV1>(0x94, 15);

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The root lies on another file system.
    #[error("{} does not lie on btrfs", .root.display())]
    NotBtrfs { root: PathBuf },
    /// The kernel refused.
    #[error("no snapshot for {} could be {what}", .root.display())]
    Refused { root: PathBuf, what: &'static str, source: io::Error },
}

/// A read-only snapshot; removed when dropped.
#[derive(Debug)]
pub struct Snapshot {
    subvolume: OwnedFd,
    name: String,
    path: PathBuf,
}

impl Snapshot {
    /// Snapshots the subvolume `root` lies in.
    ///
    /// # Errors
    /// [`SnapshotError`]: then the tree is read live.
    pub fn create(root: &Path, job: JobId) -> Result<Self, SnapshotError> {
        let refused = |what| {
            move |source: io::Error| SnapshotError::Refused { root: root.to_owned(), what, source }
        };
        let (subvolume, above, below) = subvolume_of(root)?;
        let name = format!("{OWN_PREFIX}{job}");
        let mut arguments = Arguments {
            fd: i64::from(subvolume.as_raw_fd()),
            transid: 0,
            flags: READ_ONLY,
            unused: [0; 4],
            name: [0; NAME_BYTES],
        };
        put_name(&mut arguments.name, name.as_bytes());
        // SAFETY: BTRFS_IOC_SNAP_CREATE_V2 reads one `struct btrfs_ioctl_vol_args_v2`, which
        // `Arguments` is; the descriptor in it stays open during the call.
        let created =
            unsafe { ioctl(&subvolume, Setter::<SNAP_CREATE_V2, Arguments>::new(arguments)) };
        created.map_err(io::Error::from).map_err(refused("created"))?;
        let path = above.join(&name).join(below);
        Ok(Self { subvolume, name, path })
    }

    /// Where the tree is inside the snapshot.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if let Err(error) = destroy(self.subvolume.as_fd(), self.name.as_bytes()) {
            let name = &self.name;
            tracing::warn!(%error, %name, "a snapshot stays until the next start of the agent");
        }
    }
}

/// Removes the snapshots of jobs that no longer run from the subvolume `root` lies in;
/// their names.
///
/// # Errors
/// The root does not lie on btrfs, or its subvolume cannot be listed.
pub fn reap(root: &Path, is_live: &dyn Fn(JobId) -> bool) -> Result<Vec<String>, SnapshotError> {
    let (subvolume, _, _) = subvolume_of(root)?;
    let mut left_behind = Vec::new();
    let mut buffer = Vec::with_capacity(LISTING_BYTES);
    let mut listing = RawDir::new(&subvolume, buffer.spare_capacity_mut());
    while let Some(entry) = listing.next() {
        let entry = entry.map_err(|errno| SnapshotError::Refused {
            root: root.to_owned(),
            what: "listed",
            source: errno.into(),
        })?;
        left_behind.extend(owner_of(entry.file_name()).filter(|job| !is_live(*job)));
    }
    let mut reaped = Vec::new();
    for job in left_behind {
        let name = format!("{OWN_PREFIX}{job}");
        let snapshot = open_directory(subvolume.as_fd(), name.as_bytes());
        let is_subvolume = snapshot.as_ref().is_ok_and(|found| is_subvolume(found.as_fd()));
        drop(snapshot);
        match is_subvolume.then(|| destroy(subvolume.as_fd(), name.as_bytes())) {
            Some(Ok(())) => reaped.push(name),
            Some(Err(error)) => tracing::warn!(%error, %name, "a snapshot could not be removed"),
            None => {}
        }
    }
    Ok(reaped)
}

fn owner_of(name: &CStr) -> Option<JobId> {
    name.to_str().ok()?.strip_prefix(OWN_PREFIX)?.parse().ok()
}

fn destroy(subvolume: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    let mut arguments = ArgumentsV1 { fd: 0, name: [0; 4088] };
    put_name(&mut arguments.name, name);
    // SAFETY: BTRFS_IOC_SNAP_DESTROY reads one `struct btrfs_ioctl_vol_args`, which
    // `ArgumentsV1` is.
    let destroyed =
        unsafe { ioctl(subvolume, Setter::<SNAP_DESTROY, ArgumentsV1>::new(arguments)) };
    Ok(destroyed?)
}

/// Names end with a zero byte, which the rest of the field is.
fn put_name(field: &mut [u8], name: &[u8]) {
    for (byte, from) in field.iter_mut().zip(name) {
        *byte = *from;
    }
}

fn is_subvolume(dir: BorrowedFd<'_>) -> bool {
    stat_of(dir).is_ok_and(|stat| stat.ino == SUBVOLUME_INO)
}

/// The subvolume's root above `root`, its path, and the path of `root` below it.
fn subvolume_of(root: &Path) -> Result<(OwnedFd, PathBuf, PathBuf), SnapshotError> {
    let refused = |source: io::Error| SnapshotError::Refused {
        root: root.to_owned(),
        what: "looked for",
        source,
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = std::fs::canonicalize(root).map_err(refused)?;
    let mut below: Vec<OsString> = Vec::new();
    loop {
        let dir = rustix::fs::open(&at, flags, Mode::empty()).map_err(|e| refused(e.into()))?;
        let place = rustix::fs::fstatfs(&dir).map_err(|errno| refused(errno.into()))?;
        #[expect(clippy::cast_sign_loss, reason = "a magic number is a bit pattern")]
        if (place.f_type as u64) & 0xffff_ffff != MAGIC {
            return Err(SnapshotError::NotBtrfs { root: root.to_owned() });
        }
        if is_subvolume(dir.as_fd()) {
            return Ok((dir, at, below.iter().rev().collect()));
        }
        let Some(name) = at.file_name() else {
            return Err(SnapshotError::NotBtrfs { root: root.to_owned() });
        };
        debug_assert!(!name.as_bytes().contains(&b'/'));
        below.push(name.to_owned());
        at.pop();
    }
}
