//! A disk in memory that remembers what was made durable. It gives crash images (what a machine
//! could find after losing power at any operation: unsynced writes kept, dropped, torn or
//! reordered by a seed), fails operations on order, and is full where it was given an end.

mod cold;
mod image;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{
    AppendFile, ColdSink, Disk, DiskError, DiskResult, Entry, EntryKind, Lock, ReadFile, parent,
};

type Inode = u64;

/// One change of the disk, as it was asked for.
#[derive(Clone, Debug)]
enum Op {
    Append(Inode, Bytes),
    Create(String, Inode),
    MakeDir(String),
    Remove(String),
    Rename(String, String),
    SyncDir(String),
    SyncFile(Inode),
    Truncate(Inode, u64),
}

/// What a failing operation says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// ENOSPC; half of an append is there.
    Full,
    /// EIO; half of an append is there.
    Io,
}

impl Fault {
    fn error(self) -> io::Error {
        match self {
            Self::Full => io::Error::from(io::ErrorKind::StorageFull),
            Self::Io => io::Error::other("input/output error"),
        }
    }
}

/// Which operations fail: those numbered in the range.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FaultPlan {
    pub ops: std::ops::Range<usize>,
    pub fault: Fault,
}

#[derive(Default)]
struct State {
    files: BTreeMap<Inode, Vec<u8>>,
    names: BTreeMap<String, Inode>,
    dirs: BTreeSet<String>,
    log: Vec<Op>,
    asked: usize,
    next_inode: Inode,
    plan: Option<FaultPlan>,
    locks: HashSet<String>,
    capacity: Option<u64>,
    base: image::Image,
    cold: BTreeMap<Inode, Vec<u8>>,
    unreadable: BTreeSet<Inode>,
}

/// The disk; clones are the same disk.
#[derive(Clone, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

/// How a crash treats what was not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// All of it is gone.
    Drop,
    /// All of it is there.
    Keep,
    /// The seed decides for each write and name, torn writes and holes among them.
    Mix(u64),
}

impl SimDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes asked for so far, the failed ones too.
    pub fn op_count(&self) -> usize {
        self.state().asked
    }

    /// Changes that took place: the crash points.
    pub fn log_len(&self) -> usize {
        self.state().log.len()
    }

    /// From now on fails as planned; `None` heals.
    pub fn fail(&self, plan: Option<FaultPlan>) {
        self.state().plan = plan;
    }

    /// How many bytes of files there is room for; `None` for any number.
    pub fn set_capacity(&self, capacity: Option<u64>) {
        self.state().capacity = capacity;
    }

    /// What is found when power was lost after the first `ops` changes.
    pub fn crash_image(&self, ops: usize, crash: Crash) -> Self {
        let (base, log) = {
            let state = self.state();
            (state.base.clone(), state.log.iter().take(ops).cloned().collect::<Vec<_>>())
        };
        let base = image::replay(&base, &log, crash);
        let (files, names, dirs) = base.clone();
        let next_inode = files.keys().next_back().map_or(0, |last| last + 1);
        let state = State { files, names, dirs, next_inode, base, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// The names of all files.
    pub fn paths(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }

    /// Changes the bytes of a file behind everybody's back; false when there is none.
    pub fn damage(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) -> Damage {
        let mut state = self.state();
        let inode = state.names.get(path).copied();
        match inode.and_then(|inode| state.files.get_mut(&inode)) {
            Some(bytes) => {
                change(bytes);
                Damage::Done
            }
            None => Damage::NoSuchFile,
        }
    }
}

/// Whether damage was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Damage {
    Done,
    NoSuchFile,
}

impl State {
    /// Counts an operation and fails it if planned.
    fn begin(&mut self, action: &'static str, path: &str) -> DiskResult<()> {
        let number = self.asked;
        self.asked += 1;
        match &self.plan {
            Some(plan) if plan.ops.contains(&number) => {
                Err(DiskError { action, path: path.to_owned(), source: plan.fault.error() })
            }
            _ => Ok(()),
        }
    }

    /// Bytes left, where there is an end to them.
    fn room(&self) -> Option<u64> {
        let len = |inode| self.files.get(inode).map_or(0, |file| file.len() as u64);
        Some(self.capacity?.saturating_sub(self.names.values().map(len).sum()))
    }

    fn require_dir(&self, action: &'static str, path: &str) -> DiskResult<()> {
        let dir = parent(path);
        if dir.is_empty() || self.dirs.contains(dir) { Ok(()) } else { Err(missing(action, path)) }
    }

    fn inode(&self, action: &'static str, path: &str) -> DiskResult<Inode> {
        self.names.get(path).copied().ok_or_else(|| missing(action, path))
    }
}

fn missing(action: &'static str, path: &str) -> DiskError {
    let source = io::Error::from(io::ErrorKind::NotFound);
    DiskError { action, path: path.to_owned(), source }
}

struct SimAppend {
    disk: SimDisk,
    inode: Inode,
    path: String,
    len: u64,
}

impl SimAppend {
    fn write(&mut self, state: &mut State, bytes: &[u8]) {
        if let Some(file) = state.files.get_mut(&self.inode) {
            file.extend_from_slice(bytes);
            self.len = file.len() as u64;
        }
        state.log.push(Op::Append(self.inode, Bytes::copy_from_slice(bytes)));
    }
}

impl AppendFile for SimAppend {
    fn append(&mut self, bytes: &[u8]) -> DiskResult<()> {
        let disk = self.disk.clone();
        let mut state = disk.state();
        let mut outcome = state.begin("write", &self.path);
        let mut written = if outcome.is_ok() { bytes.len() } else { bytes.len() / 2 };
        if let Some(room) = state.room().and_then(|room| usize::try_from(room).ok())
            && room < written
        {
            let (action, path, source) = ("write", self.path.clone(), Fault::Full.error());
            (outcome, written) = (Err(DiskError { action, path, source }), room);
        }
        self.write(&mut state, bytes.get(..written).unwrap_or_default());
        outcome
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn truncate(&mut self, len: u64) -> DiskResult<()> {
        let mut state = self.disk.state();
        state.begin("truncate", &self.path)?;
        if let Some(file) = state.files.get_mut(&self.inode) {
            file.truncate(usize::try_from(len).unwrap_or(usize::MAX));
        }
        state.log.push(Op::Truncate(self.inode, len));
        self.len = len;
        Ok(())
    }

    fn sync(&mut self) -> DiskResult<()> {
        let mut state = self.disk.state();
        state.begin("sync", &self.path)?;
        state.log.push(Op::SyncFile(self.inode));
        Ok(())
    }

    fn start_writeback(&self) {}
}

struct SimRead {
    disk: SimDisk,
    inode: Inode,
    path: String,
}

impl ReadFile for SimRead {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> DiskResult<()> {
        let state = self.disk.state();
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let file = state.files.get(&self.inode);
        let bytes = file.and_then(|file| file.get(start..start.checked_add(buffer.len())?));
        match bytes {
            Some(bytes) => {
                buffer.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(DiskError {
                action: "read",
                path: self.path.clone(),
                source: io::Error::from(io::ErrorKind::UnexpectedEof),
            }),
        }
    }

    fn len(&self) -> DiskResult<u64> {
        Ok(self.disk.state().files.get(&self.inode).map_or(0, |file| file.len() as u64))
    }
}

struct SimLock {
    disk: SimDisk,
    path: String,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.state().locks.remove(&self.path);
    }
}

impl Disk for SimDisk {
    fn create(&self, path: &str) -> DiskResult<Box<dyn AppendFile>> {
        let mut state = self.state();
        state.begin("create", path)?;
        state.require_dir("create", path)?;
        let inode = state.next_inode;
        state.next_inode += 1;
        state.files.insert(inode, Vec::new());
        state.names.insert(path.to_owned(), inode);
        state.log.push(Op::Create(path.to_owned(), inode));
        Ok(Box::new(SimAppend { disk: self.clone(), inode, path: path.to_owned(), len: 0 }))
    }

    fn append_to(&self, path: &str) -> DiskResult<Box<dyn AppendFile>> {
        let state = self.state();
        let inode = state.inode("open", path)?;
        let len = state.files.get(&inode).map_or(0, |file| file.len() as u64);
        Ok(Box::new(SimAppend { disk: self.clone(), inode, path: path.to_owned(), len }))
    }

    fn open(&self, path: &str) -> DiskResult<Arc<dyn ReadFile>> {
        let inode = self.state().inode("open", path)?;
        Ok(Arc::new(SimRead { disk: self.clone(), inode, path: path.to_owned() }))
    }

    fn read_cold(&self, path: &str, take: &mut ColdSink<'_>) -> DiskResult<()> {
        self.stream_cold(path, take)
    }

    fn rename(&self, from: &str, to: &str) -> DiskResult<()> {
        let mut state = self.state();
        state.begin("rename to", to)?;
        state.require_dir("rename to", to)?;
        let inode = state.inode("rename", from)?;
        state.names.remove(from);
        state.names.insert(to.to_owned(), inode);
        state.log.push(Op::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &str) -> DiskResult<()> {
        let mut state = self.state();
        state.begin("remove", path)?;
        state.inode("remove", path)?;
        state.names.remove(path);
        state.log.push(Op::Remove(path.to_owned()));
        Ok(())
    }

    fn create_dirs(&self, path: &str) -> DiskResult<Vec<String>> {
        let mut state = self.state();
        let mut made = Vec::new();
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for dir in ends.filter_map(|end| path.get(..end)).filter(|dir| !dir.is_empty()) {
            if !state.dirs.contains(dir) {
                state.begin("create directory", dir)?;
                state.dirs.insert(dir.to_owned());
                state.log.push(Op::MakeDir(dir.to_owned()));
                made.push(parent(dir).to_owned());
            }
        }
        Ok(made)
    }

    fn sync_dir(&self, path: &str) -> DiskResult<()> {
        let mut state = self.state();
        state.begin("sync directory", path)?;
        state.log.push(Op::SyncDir(path.to_owned()));
        Ok(())
    }

    fn list(&self, path: &str) -> DiskResult<Vec<Entry>> {
        let state = self.state();
        let within = |name: &String| (!name.is_empty() && parent(name) == path).then(|| leaf(name));
        let files = state.names.keys().filter_map(within);
        let files = files.map(|name| Entry { name, kind: EntryKind::File });
        let dirs = state.dirs.iter().filter_map(within);
        let dirs = dirs.map(|name| Entry { name, kind: EntryKind::Directory });
        let mut entries: Vec<Entry> = files.chain(dirs).collect();
        entries.sort();
        Ok(entries)
    }

    fn exists(&self, path: &str) -> DiskResult<bool> {
        let state = self.state();
        Ok(state.names.contains_key(path) || state.dirs.contains(path))
    }

    fn free_bytes(&self) -> Option<u64> {
        self.state().room()
    }

    fn lock(&self, path: &str) -> DiskResult<Option<Lock>> {
        if !self.state().locks.insert(path.to_owned()) {
            return Ok(None);
        }
        Ok(Some(Box::new(SimLock { disk: self.clone(), path: path.to_owned() })))
    }

    fn describe(&self, path: &str) -> String {
        path.to_owned()
    }
}

fn leaf(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).to_owned()
}
