//! Long content as lists of extents, in as many levels as it takes. Promises bounded
//! memory for any length and that a change rewrites the lists around it alone; refuses
//! extents of no length and lists that do not add up to what names them.

mod build;
mod read;

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use strongroom_protocol::{BlobKind, ChunkId, Reference};

use crate::content::wire::{ExtentV1, Table, Uses, parse};
use crate::content::{ChunkExtent, DecodeError, Encoded, FILE_BYTES_MAX};
use crate::tree::{Blob, SinkError, SourceError};

pub use build::ListBuilder;
pub use read::{ExtentReader, PlacedExtent};

/// Fewest members of a list that is not the last of its content.
pub const LIST_MEMBERS_MIN: usize = 1024;
/// Most members of a list: half of what references allow.
pub const LIST_MEMBERS_MAX: usize = 4096;
/// Most levels of lists of lists: three already hold more than the longest file.
pub const LIST_DEPTH_MAX: u8 = 8;

/// Longest plaintext of a list, in bytes: no member takes 16.
pub const LIST_BYTES_MAX: usize = LIST_MEMBERS_MAX * 16;

/// A decoded list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum List {
    /// Extents in file order.
    Extents(Vec<ChunkExtent>),
    /// Lists below, in file order; `depth` levels to the extents.
    Inner { depth: u8, children: Vec<ListChild> },
}

/// A list named by the one above it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListChild {
    pub list: ChunkId,
    /// Bytes of the file it describes.
    pub bytes: u64,
}

/// Why long content could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// Not a list.
    #[error("list {list} cannot be decoded")]
    Decode { list: ChunkId, source: DecodeError },
    /// A list that cannot be encoded.
    #[error("a list cannot be encoded")]
    Encode(#[from] postcard::Error),
    /// An extent of no length, or past the longest file.
    #[error("the extent at byte {offset} is empty or too long")]
    Extent { offset: u64 },
    /// A list of another depth or length than what names it says.
    #[error("list {list} is not the one that was named")]
    Misplaced { list: ChunkId },
    /// Whoever takes the lists did not.
    #[error("a list was not taken")]
    Sink(#[from] SinkError),
    /// The blob could not be had.
    #[error("list {list} cannot be read")]
    Source { list: ChunkId, source: SourceError },
}

impl List {
    /// Bytes of the file it describes; none past the longest file.
    pub fn bytes(&self) -> Option<u64> {
        let add = |sum: u64, bytes: u64| sum.checked_add(bytes).filter(|s| *s <= FILE_BYTES_MAX);
        match self {
            Self::Extents(extents) => extents.iter().map(ChunkExtent::length).try_fold(0, add),
            Self::Inner { children, .. } => children.iter().map(|c| c.bytes).try_fold(0, add),
        }
    }

    /// As a blob, for who makes lists as they are wanted.
    ///
    /// # Errors
    /// It cannot be encoded.
    pub fn blob(&self) -> Result<Blob, postcard::Error> {
        let Encoded { references, plain } = encode_list(self)?;
        Ok(Blob { references, plain: plain.into() })
    }

    const fn depth(&self) -> u8 {
        match self {
            Self::Extents(_) => 0,
            Self::Inner { depth, .. } => *depth,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct ListV1 {
    depth: u8,
    members: MembersV1,
}

#[derive(Serialize, Deserialize)]
enum MembersV1 {
    Extents(Vec<ExtentV1>),
    Lists(Vec<(u32, u64)>),
}

/// The list a plaintext says, after every check; for bytes from anywhere.
pub fn decode_list(plain: &[u8], references: &[Reference]) -> Result<List, DecodeError> {
    let mut uses = Uses::new(plain, LIST_BYTES_MAX, references)?;
    let ListV1 { depth, members } = parse(plain)?;
    let list = match members {
        MembersV1::Extents(extents) => {
            fits(depth, 0..=0, extents.len())?;
            let extents = extents.into_iter().map(|extent| extent.resolve(&mut uses));
            List::Extents(extents.collect::<Result<_, _>>()?)
        }
        MembersV1::Lists(lists) => {
            fits(depth, 1..=LIST_DEPTH_MAX, lists.len())?;
            let child = |(position, bytes)| match bytes {
                0 => Err(DecodeError::Extent),
                _ => Ok(ListChild { list: uses.take(position, BlobKind::List)?, bytes }),
            };
            let children = lists.into_iter().map(child).collect::<Result<_, _>>()?;
            List::Inner { depth, children }
        }
    };
    uses.finish()?;
    list.bytes().ok_or(DecodeError::Extent)?;
    Ok(list)
}

/// The plaintext of a list and the references it needs.
pub(crate) fn encode_list(list: &List) -> Result<Encoded, postcard::Error> {
    let mut table = Table::default();
    let members = match list {
        List::Extents(extents) => {
            let extents = extents.iter().map(|extent| ExtentV1::new(extent, &mut table));
            MembersV1::Extents(extents.collect())
        }
        List::Inner { children, .. } => {
            let mut member =
                |child: &ListChild| (table.position(BlobKind::List, child.list), child.bytes);
            MembersV1::Lists(children.iter().map(&mut member).collect())
        }
    };
    table.bind(&ListV1 { depth: list.depth(), members })
}

fn fits(depth: u8, depths: RangeInclusive<u8>, members: usize) -> Result<(), DecodeError> {
    match members {
        _ if !depths.contains(&depth) => Err(DecodeError::Depth { depth }),
        0 => Err(DecodeError::Empty),
        1..=LIST_MEMBERS_MAX => Ok(()),
        _ => Err(DecodeError::TooLong),
    }
}
