//! What a chunk or object looks like between nodes: its head and its bytes after the
//! compressor, not yet sealed. The same parcel is what a restore receives.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::ChunkId;

/// Longest plaintext of one blob, in bytes.
pub const PLAIN_BYTES_MAX: usize = 4 << 20;
/// Most references one blob may carry: a list page's members.
pub const REFERENCES_MAX: usize = 8192;

/// What a blob is. The order is the wire and the disk: append only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum BlobKind {
    /// Bytes of files and images.
    Data,
    /// A page of a directory.
    Page,
    /// The chunks of a long content.
    List,
    /// What a point did not protect, and why.
    Gaps,
}

impl BlobKind {
    /// The byte on disk.
    pub const fn code(self) -> u8 {
        match self {
            Self::Data => 0,
            Self::Page => 1,
            Self::List => 2,
            Self::Gaps => 3,
        }
    }

    /// From the byte on disk.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Data),
            1 => Some(Self::Page),
            2 => Some(Self::List),
            3 => Some(Self::Gaps),
            _ => None,
        }
    }

    /// Whether the blob lies in metadata packs.
    pub const fn is_metadata(self) -> bool {
        !matches!(self, Self::Data)
    }
}

/// How a payload was compressed. The order is the wire and the disk: append only.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Algorithm {
    /// As it was.
    Stored,
    /// One zstd frame.
    Zstd,
}

impl Algorithm {
    /// The byte on disk.
    pub const fn code(self) -> u8 {
        match self {
            Self::Stored => 0,
            Self::Zstd => 1,
        }
    }

    /// From the byte on disk.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Stored),
            1 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// One blob that another needs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Reference {
    pub kind: BlobKind,
    pub id: ChunkId,
}

/// What is known of a blob without its bytes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ParcelHead {
    pub id: ChunkId,
    pub kind: BlobKind,
    pub algorithm: Algorithm,
    /// Length before compression, in bytes.
    pub plain_len: u32,
    /// The blobs this one needs, in the order first used; empty for `Data` and `Gaps`.
    pub references: Vec<Reference>,
}

/// A blob on its way: compressed, not sealed. Not to be believed before
/// its id was recomputed from the plaintext.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parcel {
    pub head: ParcelHead,
    pub payload: Bytes,
}
