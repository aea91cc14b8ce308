//! Where a point is mounted. Promises that what a process left behind that was killed is cleared
//! away, and that nothing else is: another's file system, or one that is alive, is named.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, umount2};

/// The kind of our file systems in the table of mounts.
pub(super) const KIND: &str = "fuse.strongroom";
/// The table of mounts of this process.
const TABLE: &str = "/proc/self/mountinfo";
/// The device every file system in user space needs.
const DEVICE: &str = "/dev/fuse";
/// Mounts and unmounts for users who are not root.
const HELPER: &str = "fusermount3";
/// How far the kernel reads ahead of who reads in order, in KiB: the longest request it makes.
const READ_AHEAD_KIB: &str = "1024";
/// File systems over one another that are cleared from one place.
const STALE_MAX: usize = 16;

/// Why a directory cannot become a file system.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// Something of another kind is mounted there and does not answer.
    #[error("{} does not answer: a file system of kind {kind} is stale there", dir.display())]
    Foreign { dir: PathBuf, kind: String },
    /// A point, or something else, is mounted there.
    #[error("{} is mounted at {} already; name a directory of its own", source_name, dir.display())]
    Mounted { dir: PathBuf, source_name: String },
    /// No device for file systems in user space.
    #[error("this host has no {DEVICE}")]
    NoDevice,
    /// Not a directory.
    #[error("{} is not a directory", dir.display())]
    NotDirectory { dir: PathBuf },
    /// The directory cannot be looked at.
    #[error("{} cannot be used", dir.display())]
    Unusable { dir: PathBuf, source: io::Error },
}

/// A line of the table of mounts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct MountLine {
    /// `major:minor`, which no other file system has.
    pub(super) device: String,
    kind: String,
    source: String,
}

/// Makes sure that a point can be mounted at a directory; its absolute path.
pub(super) fn prepare(dir: &Path) -> Result<PathBuf, PlaceError> {
    if !Path::new(DEVICE).exists() {
        return Err(PlaceError::NoDevice);
    }
    let unusable = |source| PlaceError::Unusable { dir: dir.to_owned(), source };
    for _ in 0..STALE_MAX {
        match fs::metadata(dir) {
            Ok(found) if !found.is_dir() => {
                return Err(PlaceError::NotDirectory { dir: dir.to_owned() });
            }
            Ok(_) => {
                let dir = fs::canonicalize(dir).map_err(unusable)?;
                // Also one of another kind: who lets go of a point might take it along.
                return match mount_at(&dir) {
                    Some(line) => Err(PlaceError::Mounted { dir, source_name: line.source }),
                    None => Ok(dir),
                };
            }
            Err(error) if is_stale(&error) => clear(&beside_stale(dir).map_err(unusable)?)?,
            Err(error) => return Err(unusable(error)),
        }
    }
    Err(unusable(io::ErrorKind::NotConnected.into()))
}

/// Takes what a process that died left at a path away.
fn clear(dir: &Path) -> Result<(), PlaceError> {
    let line = mount_at(dir);
    if let Some(MountLine { kind, .. }) = line.filter(|line| line.kind != KIND) {
        return Err(PlaceError::Foreign { dir: dir.to_owned(), kind });
    }
    tracing::info!(dir = %dir.display(), "cleared what a process that died left mounted");
    detach(dir).map_err(|source| PlaceError::Unusable { dir: dir.to_owned(), source })
}

/// Takes what is mounted at a path out of sight, whoever still uses it.
fn detach(dir: &Path) -> io::Result<()> {
    match umount2(dir, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        // Who is not root mounted by this program, which lets them go by it too.
        Err(nix::errno::Errno::EPERM) => {
            let ended = Command::new(HELPER).args(["-u", "-z", "--"]).arg(dir).status()?;
            match ended.success() {
                true => Ok(()),
                false => Err(io::Error::other(format!("{HELPER} ended with {ended}"))),
            }
        }
        other => Ok(other?),
    }
}

/// Takes the file system of this device away from a path, if it is still there.
pub(super) fn release(dir: &Path, device: &str) -> io::Result<()> {
    match mount_at(dir) {
        Some(line) if line.device == device => detach(dir),
        _ => Ok(()),
    }
}

/// The error of everything in a file system whose process has gone.
fn is_stale(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotConnected || error.raw_os_error() == Some(ECONNABORTED)
}

/// What a path says while the connection is being torn down.
const ECONNABORTED: i32 = nix::errno::Errno::ECONNABORTED as i32;

/// The absolute path of a directory that cannot be looked at itself.
fn beside_stale(dir: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(dir)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => Ok(fs::canonicalize(parent)?.join(name)),
        _ => Ok(absolute),
    }
}

/// What is mounted at a path, uppermost.
pub(super) fn mount_at(dir: &Path) -> Option<MountLine> {
    uppermost(&fs::read(TABLE).ok()?, dir)
}

fn uppermost(table: &[u8], dir: &Path) -> Option<MountLine> {
    let lines = table.split(|byte| *byte == b'\n');
    lines.filter_map(parse).rfind(|(at, _)| at == dir).map(|(_, line)| line)
}

/// A line: id, parent, device, root, place, options, marks, "-", kind, source, options.
fn parse(line: &[u8]) -> Option<(PathBuf, MountLine)> {
    let text = |word: &[u8]| String::from_utf8_lossy(&unescaped(word)).into_owned();
    let mut words = line.split(|byte| *byte == b' ');
    let device = text(words.nth(2)?);
    let at = PathBuf::from(std::ffi::OsString::from_vec(unescaped(words.nth(1)?)));
    let mut behind = words.skip_while(|word| *word != b"-").skip(1);
    let (kind, source) = (text(behind.next()?), text(behind.next()?));
    Some((at, MountLine { device, kind, source }))
}

/// A word of the table, in which spaces and the like stand as three octal digits.
fn unescaped(word: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.filter(|_| *first == b'\\');
        match escaped.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

/// Has the kernel read as far ahead as its longest request is. Where it does not let us, reading
/// in order is only slower.
pub(super) fn widen_read_ahead(device: &str) {
    let path = format!("/sys/class/bdi/{device}/read_ahead_kb");
    if let Err(error) = fs::write(&path, READ_AHEAD_KIB) {
        tracing::debug!(path, %error, "the kernel reads ahead as it likes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &[u8] = b"25 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
        40 25 0:50 / /mnt/a\\040b rw,nosuid shared:2 master:1 - fuse.strongroom strongroom:1 ro\n\
        41 25 0:51 / /mnt/a\\040b ro - fuse.other x ro\n\
        42 25 0:52 / /mnt/c rw - fuse.strongroom strongroom:2 ro\n";

    #[test]
    fn the_uppermost_is_found_by_its_path_with_spaces() {
        let at = |dir: &str| uppermost(LINES, Path::new(dir));
        assert_eq!(at("/mnt/a b").unwrap().kind, "fuse.other");
        let line = at("/mnt/c").unwrap();
        assert_eq!((line.device.as_str(), line.source.as_str()), ("0:52", "strongroom:2"));
        assert_eq!(at("/mnt"), None);
    }

    #[test]
    fn a_file_is_no_place_and_neither_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        assert!(matches!(prepare(&file), Err(PlaceError::NotDirectory { .. })));
        let absent = prepare(&dir.path().join("absent"));
        assert!(matches!(absent, Err(PlaceError::Unusable { .. })));
        assert_eq!(prepare(dir.path()).unwrap(), fs::canonicalize(dir.path()).unwrap());
    }
}
