//! What the machine does without us: a parallel walk with a stat of everything, and creating
//! and writing the same tree out of the page cache. Quoted beside protect and restore.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};

use anyhow::Result;
use rustix::fs::{AtFlags, Mode, OFlags, RawDir, StatxFlags};

use super::measure::bytes_below;
use super::{Figures, Place, Step, Tool};

/// Threads that create: more than processors, for some wait for the disk.
const WRITERS: usize = 4;
const WALKERS: usize = 2;

/// Directories waiting for a walker, and how many are being walked.
#[derive(Default)]
struct Queue {
    state: Mutex<(Vec<PathBuf>, usize)>,
    changed: Condvar,
}

impl Queue {
    /// Calls `visit` for every directory below the first, on several threads.
    fn run(
        first: PathBuf,
        threads: usize,
        visit: impl Fn(&Path) -> Result<Vec<PathBuf>> + Sync,
    ) -> Result<()> {
        let queue = Self { state: Mutex::new((vec![first], 0)), changed: Condvar::new() };
        std::thread::scope(|scope| {
            let work = || -> Result<()> {
                while let Some(dir) = queue.take() {
                    let found = visit(&dir);
                    let mut state = queue.state.lock().unwrap_or_else(PoisonError::into_inner);
                    state.1 -= 1;
                    state.0.extend(found.as_deref().unwrap_or_default().iter().cloned());
                    drop(state);
                    queue.changed.notify_all();
                    found?;
                }
                Ok(())
            };
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            threads.into_iter().try_for_each(|thread| match thread.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })
    }

    fn take(&self) -> Option<PathBuf> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(dir) = state.0.pop() {
                state.1 += 1;
                return Some(dir);
            }
            if state.1 == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Walks with getdents64 and statx relative to the directory.
fn walk(top: &Path) -> Result<()> {
    Queue::run(top.to_owned(), WALKERS, |dir| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOATIME | OFlags::CLOEXEC;
        let opened = rustix::fs::open(dir, flags, Mode::empty())?;
        let mut buffer = Vec::with_capacity(64 << 10);
        let mut entries = RawDir::new(&opened, buffer.spare_capacity_mut());
        let mut below = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let how = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::statx(&opened, name, how, StatxFlags::BASIC_STATS)?;
            if entry.file_type() == rustix::fs::FileType::Directory {
                below.push(dir.join(std::ffi::OsStr::new(name.to_str()?)));
            }
        }
        Ok(below)
    })
}

/// Creates and writes every file of `from` below `to`; mode and time are set, nothing else.
fn create(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    Queue::run(from.to_owned(), WRITERS, |dir| {
        let target = to.join(dir.strip_prefix(from)?);
        let mut below = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let (kind, copy) = (entry.file_type()?, target.join(entry.file_name()));
            if kind.is_dir() {
                fs::create_dir(&copy)?;
                below.push(entry.path());
            } else if kind.is_symlink() {
                std::os::unix::fs::symlink(fs::read_link(entry.path())?, copy)?;
            } else if !kind.is_fifo() {
                let mut source = File::open(entry.path())?;
                let meta = source.metadata()?;
                let mode = meta.mode() & 0o7777;
                let mut file =
                    OpenOptions::new().write(true).create_new(true).mode(mode).open(copy)?;
                // Through a buffer: what arrives from a repository cannot be cloned by the kernel.
                let mut buffer = vec![0; (meta.len() as usize).clamp(1, 1 << 20)];
                loop {
                    let read = std::io::Read::read(&mut source, &mut buffer)?;
                    let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
                        break;
                    };
                    std::io::Write::write_all(&mut file, bytes)?;
                }
                file.set_modified(meta.modified()?)?;
            }
        }
        Ok(below)
    })
}

/// The machine as a tool.
pub(crate) struct Bare<'a> {
    place: &'a Place,
}

/// This program as it runs: cargo may meanwhile have put another in its place, and the name it
/// was started by then leads nowhere.
const OWN: &str = "/proc/self/exe";

impl<'a> Bare<'a> {
    pub(crate) fn begin(place: &'a Place) -> Self {
        Self { place }
    }
}

/// What this program does when it is called to be measured.
pub(crate) fn act(what: &str, from: &Path, to: &Path) -> Result<()> {
    match what {
        "walk" => walk(from),
        _ => create(from, to),
    }
}

impl Tool for Bare<'_> {
    fn step(&mut self, step: Step) -> Result<Option<Figures>> {
        let what = match step {
            Step::Again => "walk",
            Step::Restore => "create",
            _ => return Ok(None),
        };
        // A process of its own, so that it is accounted like the others.
        let mut own = std::process::Command::new(OWN);
        own.args(["bench", "--bare", what]).arg(&self.place.tree).arg(&self.place.restored);
        let cost = super::measure::run(&mut own)?;
        let stored_bytes = if what == "create" { bytes_below(&self.place.restored)? } else { 0 };
        Ok(Some(Figures { cost, stored_bytes, note: what.to_owned() }))
    }
}
