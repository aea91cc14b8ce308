//! Inode numbers, and what the kernel knows by them. Promises that a name has the same number as
//! long as the file system is mounted, and the names of one inode the same; remembers no more
//! than the kernel does, some 80 bytes each.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use strongroom_protocol::ChunkId;

/// The number of the root, by the protocol.
pub(super) const ROOT: u64 = 1;

/// Where something is in the tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Inode {
    /// Number of the directory it was met in.
    pub(super) parent: u64,
    /// The leaf that describes it, and where in that.
    pub(super) page: ChunkId,
    pub(super) index: u32,
    /// Names of one group are one inode; 0 for none.
    pub(super) group: u64,
}

/// The inodes the kernel knows.
pub(super) struct Inodes {
    hasher: RandomState,
    known: Mutex<HashMap<u64, Known>>,
}

struct Known {
    inode: Inode,
    lookups: u64,
}

impl Inodes {
    pub(super) fn new() -> Self {
        Self { hasher: RandomState::new(), known: Mutex::default() }
    }

    /// What a number stands for; none for the root and for what the kernel has forgotten.
    pub(super) fn find(&self, number: u64) -> Option<Inode> {
        self.lock().get(&number).map(|known| known.inode)
    }

    /// The number of what is met by this name, as far as it does not matter that it may be
    /// another's for the moment.
    pub(super) fn number(&self, name: &[u8], inode: &Inode) -> u64 {
        let lock = self.lock();
        self.free(&lock, name, inode)
    }

    /// The number of what is met by this name, which the kernel knows from now on.
    pub(super) fn meet(&self, name: &[u8], inode: Inode) -> u64 {
        let mut lock = self.lock();
        let number = self.free(&lock, name, &inode);
        lock.entry(number).or_insert(Known { inode, lookups: 0 }).lookups += 1;
        number
    }

    /// The kernel forgets what it met so many times.
    pub(super) fn forget(&self, number: u64, lookups: u64) {
        let mut lock = self.lock();
        if let Some(known) = lock.get_mut(&number) {
            known.lookups = known.lookups.saturating_sub(lookups);
            if known.lookups == 0 {
                lock.remove(&number);
            }
        }
    }

    /// How many the kernel knows.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    /// The first number for it that is not another's.
    fn free(&self, known: &HashMap<u64, Known>, name: &[u8], inode: &Inode) -> u64 {
        let mut round = 0_u32;
        loop {
            let number = match inode.group {
                0 => self.hasher.hash_one((round, inode.parent, name)),
                group => self.hasher.hash_one((round, group)),
            };
            let taken = known.get(&number).is_some_and(|known| !known.inode.is_same(inode));
            if number > ROOT && !taken {
                return number;
            }
            round = round.wrapping_add(1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inode {
    fn is_same(&self, other: &Self) -> bool {
        match self.group {
            0 => self == other,
            group => group == other.group,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inode(parent: u64, index: u32, group: u64) -> Inode {
        Inode { parent, page: ChunkId([1; 32]), index, group }
    }

    #[test]
    fn a_name_keeps_its_number_and_what_is_forgotten_takes_no_room() {
        let inodes = Inodes::new();
        let first = inodes.meet(b"a", inode(ROOT, 0, 0));
        assert_eq!(inodes.number(b"a", &inode(ROOT, 0, 0)), first);
        assert_eq!(inodes.meet(b"a", inode(ROOT, 0, 0)), first);
        assert_ne!(inodes.meet(b"a", inode(7, 0, 0)), first, "elsewhere it is another");
        inodes.forget(first, 1);
        assert!(inodes.find(first).is_some(), "it was met twice");
        inodes.forget(first, 1);
        assert!(inodes.find(first).is_none() && inodes.count() == 1);
        assert_eq!(inodes.meet(b"a", inode(ROOT, 0, 0)), first, "the same number as before");
    }

    #[test]
    fn names_of_one_group_are_one_inode() {
        let inodes = Inodes::new();
        let first = inodes.meet(b"a", inode(ROOT, 0, 9));
        assert_eq!(inodes.meet(b"b", inode(4, 3, 9)), first);
        assert_ne!(inodes.meet(b"b", inode(4, 3, 8)), first);
    }
}
