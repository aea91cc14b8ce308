//! Entries and extents as they lie in a blob: content by position in the table of
//! references. Promises that what is decoded passed every check of the format; refuses
//! references out of range, of the wrong kind, out of order or unused.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use strongroom_protocol::blob::REFERENCES_MAX;
use strongroom_protocol::{BlobKind, ChunkId, Reference};

use crate::content::{ChunkExtent, DecodeError, Encoded, Entry, FileContent, Meta, Node, Xattr};

#[derive(Serialize, Deserialize)]
pub(crate) struct EntryV1<'a> {
    #[serde(borrow)]
    name: &'a [u8],
    #[serde(borrow)]
    node: NodeV1<'a>,
    #[serde(borrow)]
    meta: MetaV1<'a>,
}

#[derive(Serialize, Deserialize)]
enum NodeV1<'a> {
    Directory {
        page: u32,
    },
    File {
        size: u64,
        #[serde(borrow)]
        content: ContentV1<'a>,
    },
    Symlink {
        target: &'a [u8],
    },
    Fifo,
    Socket,
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
}

#[derive(Serialize, Deserialize)]
enum ContentV1<'a> {
    Inline(&'a [u8]),
    Extents(Vec<ExtentV1>),
    Listed { list: u32 },
}

#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) enum ExtentV1 {
    Chunk { reference: u32, offset: u32, length: u32 },
    Hole { length: u64 },
}

#[derive(Serialize, Deserialize)]
struct MetaV1<'a> {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime_ns: i64,
    birth_ns: Option<i64>,
    flags: u32,
    project: u32,
    #[serde(borrow)]
    xattrs: Vec<(&'a [u8], &'a [u8])>,
    link_group: u64,
}

/// The references of a blob being made, in the order first used.
#[derive(Default)]
pub(crate) struct Table {
    positions: HashMap<Reference, u32>,
    references: Vec<Reference>,
}

impl Table {
    /// Where the reference stands; appended if new.
    pub(crate) fn position(&mut self, kind: BlobKind, id: ChunkId) -> u32 {
        let reference = Reference { kind, id };
        let next = u32::try_from(self.references.len()).unwrap_or(u32::MAX);
        let position = *self.positions.entry(reference).or_insert(next);
        if position == next {
            self.references.push(reference);
        }
        position
    }

    /// The body with its references.
    pub(crate) fn bind(self, body: &impl Serialize) -> Result<Encoded, postcard::Error> {
        let plain = postcard::to_stdvec(body)?;
        Ok(Encoded { references: self.references, plain })
    }
}

/// The references of a blob being read: each must first be used in its turn.
pub(crate) struct Uses<'a> {
    references: &'a [Reference],
    used: usize,
}

impl<'a> Uses<'a> {
    /// The uses of a blob's references, unless the blob is longer than its kind may be.
    pub(crate) const fn new(
        plain: &[u8],
        bytes_max: usize,
        references: &'a [Reference],
    ) -> Result<Self, DecodeError> {
        if plain.len() > bytes_max || references.len() > REFERENCES_MAX {
            return Err(DecodeError::TooLong);
        }
        Ok(Self { references, used: 0 })
    }

    /// The reference at `position`, which must be of the kind.
    pub(crate) fn take(&mut self, position: u32, kind: BlobKind) -> Result<ChunkId, DecodeError> {
        let wrong = DecodeError::Reference { position: position.into(), expected: kind };
        let at = usize::try_from(position).unwrap_or(usize::MAX);
        match self.references.get(at) {
            Some(reference) if reference.kind == kind && at <= self.used => {
                self.used = self.used.max(at + 1);
                Ok(reference.id)
            }
            _ => Err(wrong),
        }
    }

    /// Refuses references that nothing used.
    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        match self.used == self.references.len() {
            true => Ok(()),
            false => Err(DecodeError::Unused { used: self.used }),
        }
    }
}

/// The structure, and nothing after it.
pub(crate) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, DecodeError> {
    let (value, rest) = postcard::take_from_bytes(body)?;
    match rest.len() {
        0 => Ok(value),
        bytes => Err(DecodeError::Trailing { bytes }),
    }
}

impl ExtentV1 {
    pub(crate) fn new(extent: &ChunkExtent, table: &mut Table) -> Self {
        match *extent {
            ChunkExtent::Chunk { id, offset, length } => {
                Self::Chunk { reference: table.position(BlobKind::Data, id), offset, length }
            }
            ChunkExtent::Hole { length } => Self::Hole { length },
        }
    }

    pub(crate) fn resolve(self, uses: &mut Uses<'_>) -> Result<ChunkExtent, DecodeError> {
        let extent = match self {
            Self::Chunk { reference, offset, length } => {
                ChunkExtent::Chunk { id: uses.take(reference, BlobKind::Data)?, offset, length }
            }
            Self::Hole { length } => ChunkExtent::Hole { length },
        };
        if extent.is_usable() { Ok(extent) } else { Err(DecodeError::Extent) }
    }
}

impl<'a> EntryV1<'a> {
    pub(crate) fn new(entry: &'a Entry, table: &mut Table) -> Self {
        let node = match &entry.node {
            Node::Directory { page } => {
                NodeV1::Directory { page: table.position(BlobKind::Page, *page) }
            }
            Node::File { size, content } => {
                NodeV1::File { size: *size, content: ContentV1::new(content, table) }
            }
            Node::Symlink { target } => NodeV1::Symlink { target },
            Node::Fifo => NodeV1::Fifo,
            Node::Socket => NodeV1::Socket,
            Node::CharDevice { major, minor } => {
                NodeV1::CharDevice { major: *major, minor: *minor }
            }
            Node::BlockDevice { major, minor } => {
                NodeV1::BlockDevice { major: *major, minor: *minor }
            }
        };
        Self { name: &entry.name, node, meta: MetaV1::new(&entry.meta) }
    }

    pub(crate) fn resolve(self, uses: &mut Uses<'_>) -> Result<Entry, DecodeError> {
        let node = match self.node {
            NodeV1::Directory { page } => {
                Node::Directory { page: uses.take(page, BlobKind::Page)? }
            }
            NodeV1::File { size, content } => {
                Node::File { size, content: content.resolve(size, uses)? }
            }
            NodeV1::Symlink { target } => Node::Symlink { target: target.to_vec() },
            NodeV1::Fifo => Node::Fifo,
            NodeV1::Socket => Node::Socket,
            NodeV1::CharDevice { major, minor } => Node::CharDevice { major, minor },
            NodeV1::BlockDevice { major, minor } => Node::BlockDevice { major, minor },
        };
        let entry = Entry { name: self.name.to_vec(), node, meta: self.meta.resolve() };
        entry.check()?;
        Ok(entry)
    }
}

impl<'a> ContentV1<'a> {
    fn new(content: &'a FileContent, table: &mut Table) -> Self {
        match content {
            FileContent::Inline(bytes) => Self::Inline(bytes),
            FileContent::Extents(extents) => {
                Self::Extents(extents.iter().map(|e| ExtentV1::new(e, table)).collect())
            }
            FileContent::Listed { list, .. } => {
                Self::Listed { list: table.position(BlobKind::List, *list) }
            }
        }
    }

    fn resolve(self, size: u64, uses: &mut Uses<'_>) -> Result<FileContent, DecodeError> {
        Ok(match self {
            Self::Inline(bytes) => FileContent::Inline(bytes.to_vec()),
            Self::Extents(extents) => {
                let extents = extents.into_iter().map(|extent| extent.resolve(uses));
                FileContent::Extents(extents.collect::<Result<_, _>>()?)
            }
            Self::Listed { list } => {
                FileContent::Listed { list: uses.take(list, BlobKind::List)?, size }
            }
        })
    }
}

impl<'a> MetaV1<'a> {
    fn new(meta: &'a Meta) -> Self {
        let xattrs = meta.xattrs.iter().map(|x| (x.name.as_slice(), x.value.as_slice()));
        Self {
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            mtime_ns: meta.mtime_ns,
            birth_ns: meta.birth_ns,
            flags: meta.flags,
            project: meta.project,
            xattrs: xattrs.collect(),
            link_group: meta.link_group,
        }
    }

    fn resolve(self) -> Meta {
        let xattr =
            |(name, value): (&[u8], &[u8])| Xattr { name: name.to_vec(), value: value.to_vec() };
        Meta {
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            mtime_ns: self.mtime_ns,
            birth_ns: self.birth_ns,
            flags: self.flags,
            project: self.project,
            xattrs: self.xattrs.into_iter().map(xattr).collect(),
            link_group: self.link_group,
        }
    }
}
