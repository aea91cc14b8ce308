//! The image of the lab, made of what the machine has, for no registry may be in reach: the
//! program, the libraries it loads, Debian's static busybox in place of a system, and the server of
//! PostgreSQL that the tests run too.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::lab::engine::Engine;
use crate::parts::{must, root};

/// What the program stands on.
const BASE: &str = "strongroom:lab-base";
/// The server to protect: its programs, and what they read.
const SERVER: &str = "/usr/lib/postgresql/15";
const SERVER_READS: &str = "/usr/share/postgresql/15";
/// Of a server's programs, those that the lab starts.
const SERVER_PROGRAMS: &[&str] = &["initdb", "pg_basebackup", "pg_ctl", "postgres", "psql"];
/// What is there before anything is put into it.
const DIRS: &[&str] = &[
    "bin",
    "etc",
    "root",
    "srv",
    "tmp",
    "usr/bin",
    "usr/local/bin",
    "usr/share",
    "var/lib/postgresql",
    "var/run",
];
/// Who runs a server; the number is nobody's on the host.
const ACCOUNTS: &str = "root:x:0:0:root:/root:/bin/sh\n\
                        postgres:x:901:901:postgres:/var/lib/postgresql:/bin/sh\n";
const GROUPS: &str = "root:x:0:\npostgres:x:901:\n";
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
    for dir in DIRS {
        fs::create_dir_all(system.join(dir))?;
    }
    fs::set_permissions(system.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    fs::write(system.join("etc/passwd"), ACCOUNTS)?;
    fs::write(system.join("etc/group"), GROUPS)?;
    let busybox = Path::new("/bin/busybox");
    fs::copy(busybox, system.join("bin/busybox"))
        .with_context(|| format!("{}: Debian's busybox-static brings it", busybox.display()))?;
    let listed = Command::new(busybox).arg("--list").output()?;
    for applet in String::from_utf8_lossy(&listed.stdout).lines() {
        if applet != "busybox" {
            symlink("busybox", system.join("bin").join(applet))?;
        }
    }
    take_libraries(system, exe)?;
    take_server(system)?;
    if Path::new(ZONES).exists() {
        let mut copy = Command::new("cp");
        must(copy.arg("-a").arg(ZONES).arg(system.join("usr/share")))?;
    }
    Ok(())
}

/// The server's programs, the modules it loads and the files it reads.
fn take_server(system: &Path) -> Result<()> {
    let (server, reads) = (Path::new(SERVER), Path::new(SERVER_READS));
    for dir in [&server.join("lib"), reads] {
        let to = system.join(dir.strip_prefix("/")?);
        let parent = to.parent().unwrap_or(system);
        fs::create_dir_all(parent)?;
        must(Command::new("cp").arg("--archive").arg(dir).arg(parent))?;
    }
    // A compiler at run time would want all of LLVM.
    let modules = system.join(server.strip_prefix("/")?).join("lib");
    fs::remove_dir_all(modules.join("bitcode"))?;
    fs::remove_file(modules.join("llvmjit.so"))?;
    let programs = server.join("bin");
    let to = system.join(programs.strip_prefix("/")?);
    fs::create_dir_all(&to)?;
    for name in SERVER_PROGRAMS {
        fs::copy(programs.join(name), to.join(name))?;
        take_libraries(system, &programs.join(name))?;
    }
    Ok(())
}

/// Puts the libraries of a program where the loader looks for them.
fn take_libraries(system: &Path, exe: &Path) -> Result<()> {
    for library in libraries(exe)? {
        let to = system.join(library.strip_prefix("/").unwrap_or(&library));
        if !to.exists() {
            fs::create_dir_all(to.parent().unwrap_or(system))?;
            fs::copy(&library, &to).with_context(|| format!("{}", library.display()))?;
        }
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
