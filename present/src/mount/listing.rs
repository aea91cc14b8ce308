//! Directories being listed. Promises every name once, in order, with bounded memory: of a
//! directory that is open it is remembered where its leaves begin. A leaf that is lost fails the
//! listing there, for a listing without it would say that its names do not exist.

use std::sync::{Mutex, PoisonError};

use fuser::{Errno, FileAttr, FileType};
use strongroom_protocol::ChunkId;
use strongroom_store::content::{Entry, FileContent, Node};

use super::attributes::{attributes, kind_of, written_bytes};
use super::inodes::ROOT;
use super::pages::{Leaf, entries_of};
use super::view::{Miss, View};
use crate::reader::extents::Fetch;

/// Places of "." and ".." before the entries.
const DOTS: u64 = 2;

/// An open directory.
pub(super) struct Directory {
    number: u64,
    /// Where its leaves begin: how many entries are before, and the first name.
    leaves: Mutex<Vec<(u64, Vec<u8>)>>,
}

/// Some of the names of a directory.
pub(super) struct Batch {
    directory: u64,
    parent: u64,
    /// The place asked for.
    from: u64,
    /// The entries before the leaf, and the leaf; none behind the last.
    leaf: Option<(u64, Leaf)>,
}

/// A name of a directory, as `readdir` gives it.
pub(super) struct Name<'b> {
    pub(super) number: u64,
    /// Where the next name is.
    pub(super) next: u64,
    pub(super) kind: FileType,
    pub(super) name: &'b [u8],
}

/// What the attributes of a name are worth.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Worth {
    /// They are right.
    Lasting,
    /// They are to be asked for again: how much of the file is holes was not looked up.
    Passing,
}

impl Directory {
    fn start_of(&self, place: u64) -> (u64, Vec<u8>) {
        let leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        let past = leaves.partition_point(|(before, _)| *before <= place);
        leaves.get(past.saturating_sub(1)).cloned().unwrap_or_default()
    }

    fn know(&self, before: u64, first: &[u8]) {
        let mut leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        if leaves.last().is_some_and(|(last, _)| *last < before) {
            leaves.push((before, first.to_vec()));
        }
    }
}

impl View {
    /// Opens a directory; beside its number the pages that will be wanted after it.
    pub(super) fn open_directory(
        &self,
        number: u64,
        fetch: Fetch,
    ) -> Result<(u64, Vec<ChunkId>), Miss> {
        let entry = self.entry(number, fetch)?;
        if entry.directory_page().is_none() {
            return Err(Miss::Errno(Errno::ENOTDIR));
        }
        let mut wanted = Vec::new();
        if let Some(inode) = self.inodes.find(number)
            && let Ok(Some(page)) = self.pages.page(inode.page, Fetch::Nothing)
        {
            let entries = entries_of(&page);
            wanted = self.foresight.after_directory(inode.page, inode.index, entries);
        }
        let leaves = Mutex::new(vec![(0, Vec::new())]);
        Ok((self.directories.open(Directory { number, leaves }), wanted))
    }

    /// The names of a directory from a place on; some, or none behind the last.
    pub(super) fn list(
        &self,
        directory: &Directory,
        from: u64,
        fetch: Fetch,
    ) -> Result<Batch, Miss> {
        let number = directory.number;
        let parent = self.inodes.find(number).map_or(ROOT, |inode| inode.parent);
        let batch = |leaf| Batch { directory: number, parent, from, leaf };
        let place = from.saturating_sub(DOTS);
        let (mut before, mut first) = directory.start_of(place);
        loop {
            let leaf = self.leaf(number, &first, fetch)?;
            let count = leaf.entries().len() as u64;
            if place < before + count {
                return Ok(batch(Some((before, leaf))));
            }
            let Some(next) = leaf.next else { return Ok(batch(None)) };
            before += count;
            directory.know(before, &next);
            first = next;
        }
    }
}

impl Batch {
    /// Pages that will be wanted by who goes on; none in the middle of a leaf.
    pub(super) fn following(&self) -> &[ChunkId] {
        match &self.leaf {
            Some((before, leaf)) if self.from.saturating_sub(DOTS) <= *before => &leaf.following,
            _ => &[],
        }
    }

    /// "." and "..", as far as they are asked for.
    pub(super) fn dots(&self) -> impl Iterator<Item = Name<'_>> {
        let dots = [(self.directory, b".".as_slice()), (self.parent, b"..".as_slice())];
        let placed = dots.into_iter().zip(1..).skip(usize::try_from(self.from).unwrap_or(2));
        placed.map(|((number, name), next)| {
            let kind = FileType::Directory;
            Name { number, next, kind, name }
        })
    }

    /// The other names, each with its entry.
    fn entries(&self) -> impl Iterator<Item = (u64, usize, &Leaf, &Entry)> {
        let place = self.from.saturating_sub(DOTS);
        self.leaf.iter().flat_map(move |(before, leaf)| {
            let skipped = usize::try_from(place.saturating_sub(*before)).unwrap_or(usize::MAX);
            let entries = leaf.entries().iter().enumerate().skip(skipped);
            entries
                .map(move |(index, entry)| (*before + index as u64 + DOTS + 1, index, leaf, entry))
        })
    }

    /// The other names. What is listed is not yet known to the kernel.
    pub(super) fn names<'b>(&'b self, view: &'b View) -> impl Iterator<Item = Name<'b>> {
        self.entries().map(move |(next, index, leaf, entry)| {
            let inode = view.inode(self.directory, leaf, index, entry);
            let number = view.inodes.number(&entry.name, &inode);
            Name { number, next, kind: kind_of(&entry.node), name: &entry.name }
        })
    }

    /// Gives the other names with their attributes, until `add` says that it is full: what it
    /// took the kernel knows.
    pub(super) fn meet(
        &self,
        view: &View,
        mut add: impl FnMut(&Name<'_>, &FileAttr, Worth) -> Full,
    ) {
        for (next, index, leaf, entry) in self.entries() {
            let inode = view.inode(self.directory, leaf, index, entry);
            let number = view.inodes.meet(&entry.name, inode);
            let name = Name { number, next, kind: kind_of(&entry.node), name: &entry.name };
            let (written, worth) = match &entry.node {
                Node::File { content: FileContent::Listed { .. }, .. } => (None, Worth::Passing),
                Node::File { content, .. } => (written_bytes(content), Worth::Lasting),
                _ => (None, Worth::Lasting),
            };
            if add(&name, &attributes(number, entry, written), worth) == Full::Yes {
                view.inodes.forget(number, 1);
                return;
            }
        }
    }
}

/// Whether there was no room for a name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    No,
    Yes,
}
