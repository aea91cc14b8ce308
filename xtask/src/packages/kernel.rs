//! A kernel for guests: its Debian package unpacked below the build's own directory, not
//! installed.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::parts::{must, root};

/// Where it is, for the tests too.
pub(crate) fn dir() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.unwrap_or_else(|| root().join("target")).join("vm-kernel")
}

/// Downloads and unpacks it, unless it is there.
pub(super) fn ensure() -> Result<()> {
    let dir = dir();
    if image(&dir).is_ok() {
        return Ok(());
    }
    println!("    missing: a kernel for guests");
    std::fs::create_dir_all(&dir)?;
    must(super::apt_get(&["update"])?.stdout(Stdio::null()))?;
    let mut depends = Command::new("apt-cache");
    depends.args(["depends", "linux-image-cloud-amd64"]);
    let named = depends.output().context("cannot run apt-cache")?.stdout;
    let named = String::from_utf8_lossy(&named).into_owned();
    let package = named.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    let package = package.context("no linux-image-cloud-amd64 is known")?;
    let mut download = Command::new("apt-get");
    must(download.args(["download", package]).current_dir(&dir).stdout(Stdio::null()))?;
    for entry in std::fs::read_dir(&dir)?.flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "deb") {
            must(Command::new("dpkg-deb").arg("-x").arg(entry.path()).arg(&dir))?;
            std::fs::remove_file(entry.path())?;
        }
    }
    image(&dir).map(drop)
}

/// The kernel and its version.
pub(crate) fn image(dir: &std::path::Path) -> Result<(PathBuf, String)> {
    let boot = dir.join("boot");
    let listing = std::fs::read_dir(&boot).with_context(|| format!("{}", boot.display()))?;
    let found = listing.flatten().find_map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        Some((entry.path(), name.strip_prefix("vmlinuz-")?.to_owned()))
    });
    found.with_context(|| format!("no kernel is in {}", boot.display()))
}
