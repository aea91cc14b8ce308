//! Lists directories ahead of the walk, by several threads: whoever is free takes the directory
//! that the walk comes to next. Promises that the walk never waits for a directory nobody is
//! at, and that what is listed ahead is bounded in entries, directories and bytes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use crate::workload::OWN_PREFIX;
use crate::workload::files::gap::GapReason;
use crate::workload::files::metadata::{
    FileKind, Own, Stat, flags_of, open_directory, stat_at, stat_of, xattrs_of,
};
use crate::workload::files::names::{NAMES_BYTES_MAX, Names};
use crate::workload::files::project::project_of;
use crate::workload::files::rules::Rules;

/// Entries of directories listed and not yet walked.
const AHEAD_ENTRIES_MAX: usize = 16 << 10;
/// Directories listed and not yet walked: each is an open descriptor.
const AHEAD_DIRECTORIES_MAX: usize = 128;
/// Directories noted to be listed; further ones wait until the walk is there.
const NOTED_MAX: usize = 32 << 10;
/// Entries of a directory that are looked at together; in longer ones each in its turn.
const TOGETHER_MAX: usize = 4096;
/// Bytes of listings held, by the walk and ahead of it, from which on only names are read.
const HELD_BYTES_MAX: usize = 8 << 20;
/// What one directory may hold in memory even when others hold much.
const NAMES_BYTES_MIN: usize = 1 << 20;

/// An entry of a directory.
#[derive(Debug)]
pub struct Found {
    pub stat: Result<Stat, GapReason>,
    /// Where it is listed, for a directory that may be entered.
    pub below: Option<Arc<Slot>>,
}

/// A directory that is open, and what lies in it.
#[derive(Debug)]
pub struct Listing {
    pub dir: Arc<OwnedFd>,
    pub stat: Stat,
    pub own: Own,
    /// An error met while listing.
    pub broken: Option<GapReason>,
    pub names: Names,
    /// For each name what it is; nothing if that is still to be asked.
    pub found: Vec<Found>,
    /// Whether a marker lies in it.
    pub is_marked: bool,
    pub held: Held,
}

/// Bytes of a listing, counted until this is dropped.
#[derive(Debug)]
pub struct Held {
    all: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// One directory to list.
#[derive(Debug)]
pub struct Slot {
    above: Arc<[u8]>,
    name: Box<[u8]>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
enum State {
    Done(Box<Listing>),
    Running,
    #[default]
    Waiting,
    Walked,
}

#[derive(Debug)]
struct Task {
    slot: Arc<Slot>,
    /// Its directory above, unless the walk had to close it.
    dir: Weak<OwnedFd>,
}

#[derive(Debug, Default)]
struct Pool {
    /// What the walk comes to next lies on top.
    noted: Vec<Task>,
    ahead_entries: usize,
    ahead_directories: usize,
    /// Whether it was full: then helpers rest until half of it was walked, for waking them
    /// costs more than listing a small directory.
    rests: bool,
    has_ended: bool,
}

impl Pool {
    fn next(&mut self) -> Option<Task> {
        let is_full = self.ahead_entries >= AHEAD_ENTRIES_MAX
            || self.ahead_directories >= AHEAD_DIRECTORIES_MAX;
        self.rests |= is_full;
        if self.rests { None } else { self.noted.pop() }
    }

    const fn has_half_the_room(&self) -> bool {
        self.ahead_entries <= AHEAD_ENTRIES_MAX / 2
            && self.ahead_directories <= AHEAD_DIRECTORIES_MAX / 2
    }
}

/// Shared by the walk and its helpers.
#[derive(Debug)]
pub struct Survey<'rules> {
    rules: &'rules Rules,
    pool: Mutex<Pool>,
    /// Something was noted, listed or walked, or the walk has ended.
    moved: Condvar,
    held: Arc<AtomicUsize>,
    helpers: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'rules> Survey<'rules> {
    /// A survey in which `helpers` threads will help.
    pub fn new(rules: &'rules Rules, helpers: usize) -> Self {
        let (pool, moved) = (Mutex::default(), Condvar::new());
        Self { rules, pool, moved, held: Arc::default(), helpers }
    }

    /// Lists ahead until the walk has ended.
    pub fn help(&self) {
        let mut pool = lock(&self.pool);
        while !pool.has_ended {
            let Some(task) = pool.next() else {
                pool = self.moved.wait(pool).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(pool);
            self.ahead(&task);
            pool = lock(&self.pool);
        }
    }

    /// The walk has ended: nobody needs help any more.
    pub fn end(&self) {
        lock(&self.pool).has_ended = true;
        self.moved.notify_all();
    }

    /// The root, or a directory that was not listed ahead, listed now.
    pub fn list(&self, dir: Arc<OwnedFd>, path: &[u8]) -> io::Result<Box<Listing>> {
        let listing = self.survey(dir, path)?;
        self.note(&listing);
        Ok(listing)
    }

    /// What `slot` lists, by whoever is at it, or now.
    pub fn take(&self, slot: &Slot, dir: BorrowedFd<'_>) -> io::Result<Box<Listing>> {
        loop {
            let mut state = lock(&slot.state);
            match std::mem::replace(&mut *state, State::Walked) {
                State::Waiting => {
                    drop(state);
                    let listing = self.open(slot, dir)?;
                    self.note(&listing);
                    return Ok(listing);
                }
                State::Done(listing) => {
                    drop(state);
                    self.walked(&listing);
                    return Ok(listing);
                }
                State::Running => *state = State::Running,
                State::Walked => return Err(io::ErrorKind::NotFound.into()),
            }
            drop(state);
            self.help_or_wait(slot);
        }
    }

    fn help_or_wait(&self, slot: &Slot) {
        let mut pool = lock(&self.pool);
        if let Some(task) = pool.next() {
            drop(pool);
            self.ahead(&task);
            return;
        }
        // Whoever is at it takes this lock between having listed it and telling so.
        while matches!(*lock(&slot.state), State::Running) {
            pool = self.moved.wait(pool).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn ahead(&self, task: &Task) {
        let Some(dir) = task.dir.upgrade() else { return };
        {
            let mut state = lock(&task.slot.state);
            if !matches!(*state, State::Waiting) {
                return;
            }
            *state = State::Running;
        }
        let listed = self.open(&task.slot, dir.as_fd());
        drop(dir);
        if let Ok(listing) = &listed {
            self.note(listing);
        }
        let mut pool = lock(&self.pool);
        // What did not work for a helper is for the walk to meet, in its turn.
        *lock(&task.slot.state) = listed.map_or(State::Waiting, |listing| {
            pool.ahead_entries += listing.found.len();
            pool.ahead_directories += 1;
            State::Done(listing)
        });
        drop(pool);
        self.moved.notify_all();
    }

    fn walked(&self, listing: &Listing) {
        let mut pool = lock(&self.pool);
        pool.ahead_entries = pool.ahead_entries.saturating_sub(listing.found.len());
        pool.ahead_directories = pool.ahead_directories.saturating_sub(1);
        let may_go_on = pool.rests && pool.has_half_the_room();
        if may_go_on {
            pool.rests = false;
            drop(pool);
            self.moved.notify_all();
        }
    }

    /// Notes the directories in a listing for the helpers.
    fn note(&self, listing: &Listing) {
        if self.helpers == 0 {
            return;
        }
        let below = listing.found.iter().rev().filter_map(|found| found.below.as_ref());
        let mut below = below.peekable();
        if below.peek().is_none() {
            return;
        }
        let mut pool = lock(&self.pool);
        let room = NOTED_MAX.saturating_sub(pool.noted.len());
        let dir = Arc::downgrade(&listing.dir);
        // The first come first: where there is no room for all, the last are not noted.
        let skipped = listing.found.iter().filter(|found| found.below.is_some()).count();
        let below = below.skip(skipped.saturating_sub(room));
        pool.noted.extend(below.map(|slot| Task { slot: Arc::clone(slot), dir: dir.clone() }));
        drop(pool);
        self.moved.notify_all();
    }

    fn open(&self, slot: &Slot, dir: BorrowedFd<'_>) -> io::Result<Box<Listing>> {
        let opened = Arc::new(open_directory(dir, &slot.name)?);
        self.survey(opened, &joined(&slot.above, &slot.name))
    }

    fn survey(&self, dir: Arc<OwnedFd>, path: &[u8]) -> io::Result<Box<Listing>> {
        // What was opened is what is protected, also when it was swapped in between.
        let stat = stat_of(dir.as_fd())?;
        let (flags, project) = (flags_of(dir.as_fd()), project_of(dir.as_fd()));
        let mut own = Own { flags, project, ..Own::default() };
        let mut broken = None;
        match xattrs_of(dir.as_fd()) {
            Ok(found) => own.xattrs = found,
            Err(error) => broken = Some(GapReason::from(&error)),
        }
        let all = Arc::clone(&self.held);
        let free = NAMES_BYTES_MAX.saturating_sub(all.load(Ordering::Relaxed));
        let read = Names::read(dir.as_fd(), free.max(NAMES_BYTES_MIN), self.rules.markers());
        let mut names = read.unwrap_or_else(|error| {
            broken = Some(GapReason::from(&error));
            Names::default()
        });
        let is_marked = names.has_marker();
        if is_marked {
            names = Names::default();
        }
        let mut found = Vec::new();
        let is_short = names.held_len().is_some_and(|count| count <= TOGETHER_MAX);
        if is_short && all.load(Ordering::Relaxed) < HELD_BYTES_MAX {
            let above: Arc<[u8]> = path.into();
            found.reserve_exact(names.held_len().unwrap_or(0));
            while let Some(name) = names.held_at(found.len()) {
                found.push(self.found(dir.as_fd(), &stat, &above, name));
            }
        }
        let bytes = names.held_bytes() + found.capacity() * size_of::<Found>();
        all.fetch_add(bytes, Ordering::Relaxed);
        let held = Held { all, bytes };
        Ok(Box::new(Listing { dir, stat, own, broken, names, found, is_marked, held }))
    }

    /// What an entry is.
    pub fn found(
        &self,
        dir: BorrowedFd<'_>,
        parent: &Stat,
        above: &Arc<[u8]>,
        name: &[u8],
    ) -> Found {
        if name.starts_with(OWN_PREFIX.as_bytes()) {
            // Never looked at: the walk passes it by its name.
            return Found { stat: Err(GapReason::Vanished), below: None };
        }
        let stat = match stat_at(dir, name) {
            Ok(stat) => stat,
            Err(error) => return Found { stat: Err(GapReason::from(&error)), below: None },
        };
        let is_below = stat.kind == FileKind::Directory
            && (stat.dev == parent.dev || self.rules.crosses_mounts())
            && !self.rules.excludes(&joined(above, name), stat.kind, stat.size);
        let below = is_below.then(|| {
            let (above, name) = (Arc::clone(above), name.into());
            Arc::new(Slot { above, name, state: Mutex::default() })
        });
        Found { stat: Ok(stat), below }
    }

    /// The rules it goes by.
    pub const fn rules(&self) -> &'rules Rules {
        self.rules
    }
}

fn joined(above: &[u8], name: &[u8]) -> Vec<u8> {
    let separator: &[u8] = if above.is_empty() { b"" } else { b"/" };
    [above, separator, name].concat()
}
