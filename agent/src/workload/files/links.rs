//! Which names are one inode: groups by device and inode for everything with more than one
//! link. A group is forgotten once all its names were seen; past a limit new groups are
//! refused, so that memory stays bounded, and the walk says so.

use std::collections::HashMap;

use crate::workload::files::metadata::{FileKind, Stat};

/// Most groups remembered at a time: about 48 bytes each, so 24 MiB.
pub const GROUPS_MAX: usize = 500_000;

/// What a name is to its inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Link {
    /// The only name.
    Single,
    /// The first of several met.
    First { group: u64 },
    /// Another name of a group met before; `last` when no more are to come.
    Again { group: u64, last: Last },
    /// One of several, but no group could be remembered.
    Forgotten,
}

/// Whether more names of a group may come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Last {
    Yes,
    No,
}

impl Link {
    /// The number kept in the entry; 0 for none.
    pub const fn group(self) -> u64 {
        match self {
            Self::First { group } | Self::Again { group, .. } => group,
            Self::Single | Self::Forgotten => 0,
        }
    }
}

/// The groups met so far.
#[derive(Debug, Default)]
pub struct Links {
    groups: HashMap<(u64, u64), (u64, u32)>,
}

impl Links {
    /// Says what the name at `path` is.
    pub fn meet(&mut self, stat: &Stat, path: &[u8]) -> Link {
        if stat.links < 2 || stat.kind == FileKind::Directory {
            return Link::Single;
        }
        let key = (stat.dev, stat.ino);
        if let Some((group, left)) = self.groups.get_mut(&key) {
            let group = *group;
            *left = left.saturating_sub(1);
            if *left > 0 {
                return Link::Again { group, last: Last::No };
            }
            self.groups.remove(&key);
            return Link::Again { group, last: Last::Yes };
        }
        if self.groups.len() >= GROUPS_MAX {
            return Link::Forgotten;
        }
        let group = group_of(path);
        self.groups.insert(key, (group, stat.links - 1));
        Link::First { group }
    }
}

/// The group's number: from the path first met, so that it is the same in the next point.
fn group_of(path: &[u8]) -> u64 {
    let hash = blake3::hash(path);
    let bytes = hash.as_bytes().first_chunk::<8>().copied().unwrap_or_default();
    u64::from_le_bytes(bytes).max(1)
}
