//! A point mounted by the program as a person runs it, for tests that look into it.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Sites;

/// A mounted point ends, or is cleared up, within this.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running `strongroom mount`.
pub(crate) struct Mount {
    pub(crate) dir: PathBuf,
    process: Option<Child>,
    log: PathBuf,
}

impl Mount {
    /// Mounts at `dir`, which is made; returns once it is there.
    pub(crate) fn make(sites: &Sites, dir: &Path, words: &[&str]) -> Self {
        assert!(Path::new("/dev/fuse").exists(), "these tests need /dev/fuse: modprobe fuse");
        // A mount point that went stale is there and cannot be made.
        let _ = fs::create_dir_all(dir);
        let log = sites.dir.join("logs/mount.log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom"));
        command.arg("--home").arg(sites.dir.join("operator")).arg("mount").args(words).arg(dir);
        let file = fs::File::create(&log).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file);
        let mut process = command.spawn().unwrap();
        let mut line = String::new();
        let mut said = BufReader::new(process.stdout.take().unwrap());
        said.read_line(&mut line).unwrap();
        let mount = Self { dir: dir.to_owned(), process: Some(process), log };
        assert!(line.contains("Ctrl-C"), "{line:?}, {}", mount.log());
        mount
    }

    /// What it logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    /// The process that clears up after it.
    pub(crate) fn guard(&self) -> u32 {
        let pid = self.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let of_threads = || {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            let lists = tasks.map(|task| task.unwrap().path().join("children"));
            lists.map(|list| fs::read_to_string(list).unwrap_or_default()).collect::<String>()
        };
        let all = children.ok().filter(|list| !list.trim().is_empty()).unwrap_or_else(of_threads);
        all.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Sends a signal, and demands an orderly end.
    pub(crate) fn end_by(mut self, signal: &str) {
        super::oddities::sh(&format!("kill -{signal} {}", self.pid()), Path::new("/"));
        self.ended();
    }

    /// Waits for its orderly end.
    pub(crate) fn ended(&mut self) {
        let until = Instant::now() + PATIENCE;
        let mut process = self.process.take().unwrap();
        let status = loop {
            match process.try_wait().unwrap() {
                Some(status) => break status,
                None => assert!(Instant::now() < until, "it does not end: {}", self.log()),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        assert!(status.success(), "{status}: {}", self.log());
        assert!(!is_mounted(&self.dir), "it is mounted still");
    }

    /// SIGKILL; the file system goes by itself.
    pub(crate) fn kill(mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // On the way out of a test that failed.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Whether anything is mounted at a directory.
pub(crate) fn is_mounted(dir: &Path) -> bool {
    let mut table = String::new();
    fs::File::open("/proc/self/mountinfo").unwrap().read_to_string(&mut table).unwrap();
    let place = format!(" {} ", dir.display());
    table.lines().any(|line| line.contains(&place))
}

/// Waits until nothing is mounted at a directory.
pub(crate) fn await_unmounted(dir: &Path) {
    let until = Instant::now() + PATIENCE;
    while is_mounted(dir) {
        assert!(Instant::now() < until, "{} is mounted still", dir.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}
