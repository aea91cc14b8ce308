//! A directory while it is assembled. One that the last run had is only kept in mind at first:
//! if at its end nothing in it differs, its page is the one it had, neither encoded nor named
//! again. Else what was kept in mind is built, and the rest as it comes.

use strongroom_protocol::ChunkId;
use strongroom_store::content::{Entry, Meta};
use strongroom_store::page::DirectoryBuilder;

use crate::workload::files::cache::{Damaged, Piece, Records};

/// What an entry costs beside its bytes, about.
const ENTRY_BYTES: usize = 256;

/// A part of a directory, in name order.
enum Part {
    Directory(Entry),
    Records(Vec<u8>),
}

enum Pages {
    Built(DirectoryBuilder),
    Same(Vec<Part>),
}

/// Where the page of a directory comes from.
pub enum Page {
    Built(DirectoryBuilder),
    /// That of the last run.
    Same(ChunkId),
}

/// A directory under way.
pub struct Level {
    pub name: Vec<u8>,
    pub meta: Meta,
    /// Length of the path of the directory above.
    pub path_above: usize,
    /// Whether an entry had to be left out: the next run is to say so too.
    pub lacks: bool,
    /// Whether all that is kept of the directory itself is as it was.
    pub same_meta: bool,
    pages: Pages,
    held_bytes: usize,
}

/// What a directory starts from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    Known,
    New,
}

impl Level {
    /// A directory that begins.
    pub const fn new(name: Vec<u8>, meta: Meta, path_above: usize, start: Start) -> Self {
        let pages = match start {
            Start::Known => Pages::Same(Vec::new()),
            Start::New => Pages::Built(DirectoryBuilder::new()),
        };
        let (lacks, same_meta, held_bytes) = (false, false, 0);
        Self { name, meta, path_above, lacks, same_meta, pages, held_bytes }
    }

    /// Whether nothing in it differed so far.
    pub const fn is_same(&self) -> bool {
        matches!(self.pages, Pages::Same(_))
    }

    /// Bytes kept in mind.
    pub const fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Keeps records in mind.
    pub fn keep(&mut self, piece: &Piece) {
        let Pages::Same(parts) = &mut self.pages else { return };
        let bytes = piece.bytes();
        self.held_bytes += bytes.len();
        match parts.last_mut() {
            Some(Part::Records(held)) => held.extend_from_slice(bytes),
            _ => parts.push(Part::Records(bytes.to_vec())),
        }
    }

    /// Keeps a directory in mind that is as it was.
    pub fn keep_directory(&mut self, entry: Entry) {
        let Pages::Same(parts) = &mut self.pages else { return };
        self.held_bytes += ENTRY_BYTES + entry.name.len();
        parts.push(Part::Directory(entry));
    }

    /// Something in it differs: gives all that was kept in mind, to be built.
    pub fn differ(&mut self) -> impl Iterator<Item = Result<Entry, Damaged>> + use<> {
        self.held_bytes = 0;
        let parts = match std::mem::replace(&mut self.pages, Pages::Built(DirectoryBuilder::new()))
        {
            Pages::Same(parts) => parts,
            built @ Pages::Built(_) => {
                self.pages = built;
                Vec::new()
            }
        };
        parts.into_iter().flat_map(|part| match part {
            Part::Directory(entry) => vec![Ok(entry)],
            Part::Records(bytes) => Records::of(&bytes).collect(),
        })
    }

    /// What builds it; nothing while nothing differs.
    pub const fn builder(&mut self) -> Option<&mut DirectoryBuilder> {
        match &mut self.pages {
            Pages::Built(builder) => Some(builder),
            Pages::Same(_) => None,
        }
    }

    /// Ends it; `was` is its page of the last run.
    pub fn end(self, was: Option<ChunkId>) -> Option<Page> {
        match (self.pages, was) {
            (Pages::Built(builder), _) => Some(Page::Built(builder)),
            (Pages::Same(_), Some(page)) => Some(Page::Same(page)),
            (Pages::Same(_), None) => None,
        }
    }
}
