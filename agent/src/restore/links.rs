//! Names of one inode, put together again: the first is restored as a file, the others are
//! linked to it once it is whole, or restored by themselves where it failed.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Where the first name of a group is, and whether it is whole.
pub(crate) struct Group {
    pub(crate) path: Vec<u8>,
    outcome: Mutex<Option<bool>>,
    settled: Condvar,
}

impl Group {
    /// To be called once the first name is there, or will not be.
    pub(crate) fn done(&self, whole: bool) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(whole);
        self.settled.notify_all();
    }

    /// Waits for the first name; whether it is whole.
    pub(crate) fn wait(&self) -> bool {
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match *outcome {
                Some(whole) => return whole,
                None => {
                    outcome = self.settled.wait(outcome).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
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
        let group = Arc::new(Group {
            path: path.to_vec(),
            outcome: Mutex::new(None),
            settled: Condvar::new(),
        });
        self.0.insert(number, Arc::clone(&group));
        Name::First(group)
    }
}
