//! Directories as pages: built in name order with one page per level in memory, read and
//! sought the same way. Promises that an unchanged stretch of names is the same page
//! again; refuses names out of order and anything in a page that is not in the format.

mod build;
mod read;
pub(crate) mod window;

use serde::{Deserialize, Serialize};
use strongroom_protocol::{BlobKind, ChunkId, Reference};

use crate::content::wire::{EntryV1, Table, Uses, parse};
use crate::content::{DecodeError, ENTRY_WEIGHT_MAX, Encoded, Entry, EntryError, name_is_usable};
use crate::tree::{SinkError, SourceError};

pub use build::DirectoryBuilder;
pub use read::DirectoryReader;

/// Lightest page that is not the last of its directory, in bytes of weight.
pub const PAGE_WEIGHT_MIN: usize = 32 << 10;
/// Heaviest page, unless a single entry is heavier, in bytes of weight.
pub const PAGE_WEIGHT_MAX: usize = 128 << 10;
/// Most levels of inner pages: with at least 100 children a page, more than can exist.
pub const PAGE_DEPTH_MAX: u8 = 8;

/// Longest plaintext of a page, in bytes: the weight of the heaviest, which is never less
/// than its length, and the count before the entries. Bounds what hostile bytes can cost.
pub const PAGE_BYTES_MAX: usize = PAGE_WEIGHT_MIN + ENTRY_WEIGHT_MAX + 16;

/// A decoded page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Page {
    /// Entries in name order.
    Leaf(Vec<Entry>),
    /// Pages below, each with its first name, in name order; `depth` levels to the leaves.
    Inner { depth: u8, children: Vec<Child> },
}

/// A page named by the one above it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Child {
    pub first: Vec<u8>,
    pub page: ChunkId,
}

/// Why a directory could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// An entry the format cannot hold.
    #[error("the entry cannot be kept")]
    Entry(#[from] EntryError),
    /// A page that cannot be encoded.
    #[error("a page of the directory cannot be encoded")]
    Encode(#[from] postcard::Error),
    /// A name not greater than the one before it.
    #[error("\"{}\" does not come after \"{}\"", .name.escape_ascii(), .previous.escape_ascii())]
    Order { name: Vec<u8>, previous: Vec<u8> },
    /// Whoever takes the pages did not.
    #[error("a page of the directory was not taken")]
    Sink(#[from] SinkError),
}

/// Why a page of a directory could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PageError {
    /// Not a page.
    #[error("page {page} cannot be decoded")]
    Decode { page: ChunkId, source: DecodeError },
    /// A page that holds other names, or lies at another depth, than the page above says.
    #[error("page {page} is not the one the page above it describes")]
    Misplaced { page: ChunkId },
    /// The blob could not be had.
    #[error("page {page} cannot be read")]
    Source { page: ChunkId, source: SourceError },
}

impl PageError {
    /// The page it is about.
    pub const fn page(&self) -> ChunkId {
        match self {
            Self::Decode { page, .. } | Self::Misplaced { page } | Self::Source { page, .. } => {
                *page
            }
        }
    }
}

#[derive(Serialize, Deserialize)]
enum PageV1<'a> {
    Leaf {
        #[serde(borrow)]
        entries: Vec<EntryV1<'a>>,
    },
    Inner {
        depth: u8,
        #[serde(borrow)]
        children: Vec<(&'a [u8], u32)>,
    },
}

/// The page a plaintext says, after every check; for bytes from anywhere.
pub fn decode_page(plain: &[u8], references: &[Reference]) -> Result<Page, DecodeError> {
    let mut uses = Uses::new(plain, PAGE_BYTES_MAX, references)?;
    let page = match parse(plain)? {
        PageV1::Leaf { entries } => {
            let entries = entries.into_iter().map(|entry| entry.resolve(&mut uses));
            let entries: Vec<Entry> = entries.collect::<Result<_, _>>()?;
            in_order(entries.iter().map(|entry| entry.name.as_slice()))?;
            Page::Leaf(entries)
        }
        PageV1::Inner { depth, children } => {
            if depth == 0 || depth > PAGE_DEPTH_MAX {
                return Err(DecodeError::Depth { depth });
            }
            if children.is_empty() {
                return Err(DecodeError::Empty);
            }
            in_order(children.iter().map(|(first, _)| *first))?;
            let child = |(first, position): (&[u8], u32)| match name_is_usable(first) {
                true => {
                    let page = uses.take(position, BlobKind::Page)?;
                    Ok(Child { first: first.to_vec(), page })
                }
                false => Err(DecodeError::Entry(EntryError::Name { name: first.to_vec() })),
            };
            let children = children.into_iter().map(child).collect::<Result<_, _>>()?;
            Page::Inner { depth, children }
        }
    };
    uses.finish()?;
    Ok(page)
}

/// The plaintext of a page and the references it needs.
pub(crate) fn encode_page(page: &Page) -> Result<Encoded, postcard::Error> {
    let mut table = Table::default();
    let body = match page {
        Page::Leaf(entries) => {
            let entries = entries.iter().map(|entry| EntryV1::new(entry, &mut table));
            PageV1::Leaf { entries: entries.collect() }
        }
        Page::Inner { depth, children } => {
            let child = |child: &Child| {
                // The closure borrows the table for as long as children are made.
                table.position(BlobKind::Page, child.page)
            };
            let positions: Vec<u32> = children.iter().map(child).collect();
            let names = children.iter().map(|child| child.first.as_slice());
            PageV1::Inner { depth: *depth, children: names.zip(positions).collect() }
        }
    };
    table.bind(&body)
}

fn in_order<'a>(names: impl Iterator<Item = &'a [u8]>) -> Result<(), DecodeError> {
    let mut previous: &[u8] = b"";
    for name in names {
        // No name is empty, so the first one is always greater.
        if name <= previous {
            return Err(DecodeError::Order { name: name.to_vec() });
        }
        previous = name;
    }
    Ok(())
}
