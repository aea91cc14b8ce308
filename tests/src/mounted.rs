//! File systems mounted for a test and gone with it: small ones to fill, read-only ones, single
//! files of the kernel. Needs root, and says so.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// The smallest that mkfs.btrfs makes is a third of this.
const BTRFS_BYTES: u64 = 300 << 20;

/// Something mounted; unmounted when dropped.
#[derive(Debug)]
pub struct Mounted {
    at: PathBuf,
}

fn run(program: &str, arguments: &[&OsStr]) -> anyhow::Result<()> {
    let done = Command::new(program).args(arguments).output().context("these tests need mount")?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        bail!("{program} {arguments:?}: {said} (these tests mount, and so run as root)");
    }
    Ok(())
}

impl Mounted {
    /// A file system in memory of so many MiB, instead of what is there.
    pub fn small(at: &Path, mib: u32) -> anyhow::Result<Self> {
        let size = format!("size={mib}m");
        let words = ["-t", "tmpfs", "-o", &size, "tmpfs"].map(OsStr::new);
        run("mount", &[&words[..], &[at.as_os_str()]].concat())?;
        Ok(Self { at: at.to_owned() })
    }

    /// The same, holding what was in the directory before.
    pub fn small_around(at: &Path, mib: u32) -> anyhow::Result<Self> {
        let aside = at.with_extension("aside");
        std::fs::rename(at, &aside)?;
        // What was set aside on a large disk has no room on a small one.
        for reserve in ["reserve", "repo/reserve"] {
            let _ = std::fs::remove_file(aside.join(reserve));
        }
        std::fs::create_dir(at)?;
        let mounted = Self::small(at, mib)?;
        run("cp", &[OsStr::new("-a"), aside.join(".").as_os_str(), at.as_os_str()])?;
        Ok(mounted)
    }

    /// A new file system with snapshots in the file `image`, over what is there.
    pub fn btrfs(image: &Path, at: &Path) -> anyhow::Result<Self> {
        std::fs::File::create(image)?.set_len(BTRFS_BYTES)?;
        run("mkfs.btrfs", &[OsStr::new("-q"), image.as_os_str()])?;
        let words = ["-o", "loop"].map(OsStr::new);
        run("mount", &[&words[..], &[image.as_os_str(), at.as_os_str()]].concat())?;
        Ok(Self { at: at.to_owned() })
    }

    /// One file or directory over another.
    pub fn bind(from: &Path, at: &Path) -> anyhow::Result<Self> {
        run("mount", &[OsStr::new("--bind"), from.as_os_str(), at.as_os_str()])?;
        Ok(Self { at: at.to_owned() })
    }

    /// Where it is mounted.
    pub fn at(&self) -> &Path {
        &self.at
    }

    /// From now on nothing can be written.
    pub fn make_read_only(&self) -> anyhow::Result<()> {
        run("mount", &[OsStr::new("-o"), OsStr::new("remount,ro"), self.at.as_os_str()])
    }

    /// A file that leaves so many KiB free.
    pub fn fill_up_to(&self, free_kib: u64) -> anyhow::Result<PathBuf> {
        let ballast = self.at.join("ballast");
        let stat = rustix::fs::statvfs(&self.at)?;
        let free = stat.f_bavail * stat.f_frsize;
        std::fs::write(&ballast, vec![1; usize::try_from(free.saturating_sub(free_kib << 10))?])?;
        Ok(ballast)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a node that still holds a file there must not keep the mount for ever.
        let _ = run("umount", &[OsStr::new("-l"), self.at.as_os_str()]);
    }
}
