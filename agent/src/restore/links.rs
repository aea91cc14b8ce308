//! Names of one inode, put together again: the first is restored as a file, the others are
//! linked to it once it is whole, or restored by themselves where it failed.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::AtFlags;
use strongroom_store::content::Entry;

use crate::restore::directory::Directory;
use crate::restore::file::part_name;
use crate::restore::{Overwrite, Shared};
use crate::workload::files::metadata::{open_directory, stat_at};

/// Another name of an inode, with the directory it belongs into.
pub(crate) struct Follower {
    pub(crate) directory: Arc<Directory>,
    pub(crate) entry: Entry,
}

enum State {
    /// The first name is under way; these wait for it.
    Pending(Vec<Follower>),
    Whole,
    Lost,
}

/// Where the first name of a group is, and what became of it.
pub(crate) struct Group {
    path: Vec<u8>,
    state: Mutex<State>,
}

impl Group {
    /// To be called once the first name is there, or will not be: links who waited.
    pub(crate) fn done(&self, whole: bool, shared: &Shared) {
        let now = if whole { State::Whole } else { State::Lost };
        let before = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *state, now)
        };
        if let State::Pending(followers) = before {
            followers.into_iter().for_each(|follower| self.finish(follower, whole, shared));
        }
    }

    /// Links another name to the first: now, or as soon as that is whole.
    pub(crate) fn follow(&self, follower: Follower, shared: &Shared) {
        let whole = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *state {
                State::Pending(waiting) => return waiting.push(follower),
                State::Whole => true,
                State::Lost => false,
            }
        };
        self.finish(follower, whole, shared);
    }

    fn finish(&self, follower: Follower, whole: bool, shared: &Shared) {
        if whole && self.link(&follower, shared).is_ok() {
            shared.progress.links.fetch_add(1, Ordering::Relaxed);
        } else {
            shared.orphaned(follower);
        }
    }

    fn link(&self, follower: &Follower, shared: &Shared) -> io::Result<()> {
        let (dir, name) = (follower.directory.dir.as_fd(), &follower.entry.name);
        let there = stat_at(dir, name).ok();
        let mut from = Vec::new();
        let mut names = self.path.split(|byte| *byte == b'/').peekable();
        let mut open = rustix::io::dup(shared.root()?)?;
        while let Some(name) = names.next() {
            match names.peek() {
                Some(_) => open = open_directory(open.as_fd(), name)?,
                None => from = name.to_vec(),
            }
        }
        let first = stat_at(open.as_fd(), &from)?;
        match there {
            Some(found) if found.is_same_inode(&first) => return Ok(()),
            Some(_) if shared.options.overwrite == Overwrite::Never => return Ok(()),
            _ => {}
        }
        let part = part_name(name);
        // Left by an earlier try.
        let _ = rustix::fs::unlinkat(dir, &part[..], AtFlags::empty());
        rustix::fs::linkat(&open, &from[..], dir, &part[..], AtFlags::empty())?;
        Ok(rustix::fs::renameat(dir, &part[..], dir, &name[..])?)
    }
}

/// What a name is to its group.
pub(crate) enum Name {
    Single,
    First(Arc<Group>),
    Again(Arc<Group>),
}

/// The groups met so far.
#[derive(Default)]
pub(crate) struct Groups(HashMap<u64, Arc<Group>>);

impl Groups {
    pub(crate) fn meet(&mut self, number: u64, path: &[u8]) -> Name {
        if number == 0 {
            return Name::Single;
        }
        if let Some(group) = self.0.get(&number) {
            return Name::Again(Arc::clone(group));
        }
        let state = Mutex::new(State::Pending(Vec::new()));
        let group = Arc::new(Group { path: path.to_vec(), state });
        self.0.insert(number, Arc::clone(&group));
        Name::First(group)
    }
}
