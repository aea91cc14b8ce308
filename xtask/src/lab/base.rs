//! The image of the lab, made of what the machine has, for no registry may be in reach: the
//! program, the libraries it loads, and Debian's static busybox in place of a system.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::lab::engine::Engine;
use crate::parts::{must, root};

/// What the program stands on.
const BASE: &str = "strongroom:lab-base";
/// What the set-up has to protect, besides /etc.
const ZONES: &str = "/usr/share/zoneinfo";

/// Builds the base and the image above it.
pub(super) fn build(engine: &Engine, exe: &Path) -> Result<()> {
    let place = tempfile::tempdir()?;
    let system = place.path().join("system");
    system_of(&system, exe)?;
    let archive = place.path().join("system.tar");
    let mut tar = Command::new("tar");
    tar.arg("--create").arg("--file").arg(&archive).arg("--directory").arg(&system);
    must(tar.args(["--owner=0", "--group=0", "."]))?;
    engine.docker(&["import", &archive.to_string_lossy(), BASE])?;
    let context = place.path().join("context");
    let lab = context.join("docs/lab");
    fs::create_dir_all(&lab)?;
    fs::copy(exe, context.join("strongroom"))?;
    for file in fs::read_dir(root().join("docs/lab"))? {
        let file = file?;
        fs::copy(file.path(), lab.join(file.file_name()))?;
    }
    engine.build(&context, "docs/lab/Dockerfile", BASE)
}

/// A system of busybox with the libraries of `exe`.
fn system_of(system: &Path, exe: &Path) -> Result<()> {
    for dir in ["bin", "etc", "root", "srv", "tmp", "usr/bin", "usr/local/bin", "usr/share"] {
        fs::create_dir_all(system.join(dir))?;
    }
    fs::set_permissions(system.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    fs::write(system.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::write(system.join("etc/group"), "root:x:0:\n")?;
    let busybox = Path::new("/bin/busybox");
    fs::copy(busybox, system.join("bin/busybox"))
        .with_context(|| format!("{}: Debian's busybox-static brings it", busybox.display()))?;
    let listed = Command::new(busybox).arg("--list").output()?;
    for applet in String::from_utf8_lossy(&listed.stdout).lines() {
        if applet != "busybox" {
            symlink("busybox", system.join("bin").join(applet))?;
        }
    }
    for library in libraries(exe)? {
        let to = system.join(library.strip_prefix("/").unwrap_or(&library));
        fs::create_dir_all(to.parent().unwrap_or(system))?;
        fs::copy(&library, &to).with_context(|| format!("{}", library.display()))?;
    }
    if Path::new(ZONES).exists() {
        let mut copy = Command::new("cp");
        must(copy.arg("-a").arg(ZONES).arg(system.join("usr/share")))?;
    }
    Ok(())
}

/// The files the loader opens for a program, itself among them.
fn libraries(exe: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(exe).output().context("cannot start `ldd`")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let words = text.lines().filter_map(|line| line.split(" (").next());
    let paths = words.filter_map(|line| line.rsplit(' ').next().map(str::trim));
    let found: Vec<PathBuf> =
        paths.filter(|path| path.starts_with('/')).map(PathBuf::from).collect();
    match found.is_empty() {
        true => bail!("`ldd {}` named no library: {text}", exe.display()),
        false => Ok(found),
    }
}
