//! One record of the cache: a directory begins, a directory ends, or an entry. Its name and
//! signature lie where they can be compared without decoding the rest.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use strongroom_protocol::ChunkId;
use strongroom_store::content::{ChunkExtent, Entry, FileContent, Meta, Node, Xattr};

use super::{SIGNATURE_BYTES, Signature};
use crate::workload::files::gather::size_of;

const LENGTH_BYTES: usize = 4;
const NAME_LENGTH_BYTES: usize = 2;
const TAG_ENTER: u8 = 0;
const TAG_LEAVE: u8 = 1;
const TAG_ENTRY: u8 = 2;

/// A record that is not one, in a block whose hash holds: a fault of ours.
#[derive(Debug, thiserror::Error)]
#[error("a record of the cache cannot be decoded")]
pub struct Damaged;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tag {
    Enter,
    Entry,
    Leave,
}

/// Where the parts of a record lie in its block.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) tag: Tag,
    pub(super) name: Range<usize>,
    /// What follows the name.
    pub(super) rest: Range<usize>,
}

/// The record at `at`; nothing where there is none.
pub(super) fn shape(plain: &[u8], at: usize) -> Option<Shape> {
    let head = plain.get(at..)?;
    let length = u32::from_le_bytes(*head.first_chunk::<LENGTH_BYTES>()?) as usize;
    let start = at + LENGTH_BYTES;
    let body = plain.get(start..start.checked_add(length)?)?;
    let (tag, rest) = body.split_first()?;
    let tag = match *tag {
        TAG_ENTER => Tag::Enter,
        TAG_LEAVE => Tag::Leave,
        TAG_ENTRY => Tag::Entry,
        _ => return None,
    };
    let name_at = start + 1 + NAME_LENGTH_BYTES;
    let named = usize::from(u16::from_le_bytes(*rest.first_chunk::<NAME_LENGTH_BYTES>()?));
    let name = name_at..name_at + named;
    let rest = name.end..start + length;
    (rest.start <= rest.end).then_some(Shape { tag, name, rest })
}

fn append(block: &mut Vec<u8>, tag: u8, name: &[u8], rest: &[&[u8]]) {
    let bytes: usize = rest.iter().map(|part| part.len()).sum();
    // No entry is heavier than a mebibyte, no name longer than the kernel's.
    let length = u32::try_from(1 + NAME_LENGTH_BYTES + name.len() + bytes).unwrap_or(u32::MAX);
    let named = u16::try_from(name.len()).unwrap_or(u16::MAX);
    block.extend_from_slice(&length.to_le_bytes());
    block.push(tag);
    block.extend_from_slice(&named.to_le_bytes());
    block.extend_from_slice(name);
    rest.iter().for_each(|part| block.extend_from_slice(part));
}

pub(super) fn append_enter(block: &mut Vec<u8>, name: &[u8], meta: &[u8]) {
    append(block, TAG_ENTER, name, &[meta]);
}

pub(super) fn append_leave(block: &mut Vec<u8>, page: ChunkId) {
    append(block, TAG_LEAVE, b"", &[&page.0]);
}

pub(super) fn append_entry(
    block: &mut Vec<u8>,
    signature: Signature,
    entry: &Entry,
) -> Result<(), postcard::Error> {
    let Meta { mode, uid, gid, mtime_ns, birth_ns, flags, project, .. } = entry.meta;
    let Some(node) = Content::of(&entry.node) else { return Ok(()) };
    let xattrs = pairs(&entry.meta.xattrs);
    let kept = Rest { mode, uid, gid, mtime_ns, birth_ns, flags, project, xattrs, node };
    let rest = postcard::to_allocvec(&kept)?;
    append(block, TAG_ENTRY, &entry.name, &[&signature.0, &rest]);
    Ok(())
}

/// What is kept of a directory, as bytes that are equal when it is.
pub fn encode_meta(meta: &Meta) -> Vec<u8> {
    let Meta { mode, uid, gid, mtime_ns, birth_ns, flags, project, .. } = *meta;
    let xattrs = pairs(&meta.xattrs);
    let node = Content::Fifo;
    let kept = Rest { mode, uid, gid, mtime_ns, birth_ns, flags, project, xattrs, node };
    // Serialising into memory does not fail; an empty meta equals no other.
    postcard::to_allocvec(&kept).unwrap_or_default()
}

fn pairs(xattrs: &[Xattr]) -> Vec<(Vec<u8>, Vec<u8>)> {
    xattrs.iter().map(|xattr| (xattr.name.clone(), xattr.value.clone())).collect()
}

/// The entries of some records, in their order.
pub struct Records<'bytes> {
    bytes: &'bytes [u8],
    at: usize,
}

impl<'bytes> Records<'bytes> {
    /// The entries in `bytes`.
    pub const fn of(bytes: &'bytes [u8]) -> Self {
        Self { bytes, at: 0 }
    }
}

impl Iterator for Records<'_> {
    type Item = Result<Entry, Damaged>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let Some(shape) = shape(self.bytes, self.at) else {
            self.at = self.bytes.len();
            return Some(Err(Damaged));
        };
        self.at = shape.rest.end;
        Some(decode(self.bytes, &shape).ok_or(Damaged))
    }
}

fn decode(bytes: &[u8], shape: &Shape) -> Option<Entry> {
    let name = bytes.get(shape.name.clone())?.to_vec();
    let rest = bytes.get(shape.rest.clone())?.get(SIGNATURE_BYTES..)?;
    let rest = postcard::from_bytes::<Rest>(rest).ok()?;
    let Rest { mode, uid, gid, mtime_ns, birth_ns, flags, project, xattrs, node } = rest;
    let xattrs = xattrs.into_iter().map(|(name, value)| Xattr { name, value }).collect();
    let meta = Meta { mode, uid, gid, mtime_ns, birth_ns, flags, project, xattrs, link_group: 0 };
    Some(Entry { name, node: node.into(), meta })
}

#[derive(Serialize, Deserialize)]
struct Rest {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime_ns: i64,
    birth_ns: Option<i64>,
    flags: u32,
    project: u32,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    node: Content,
}

#[derive(Serialize, Deserialize)]
enum Content {
    Inline(Vec<u8>),
    Extents(Vec<Extent>),
    Listed(ChunkId, u64),
    Symlink(Vec<u8>),
    Fifo,
    Socket,
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
}

#[derive(Serialize, Deserialize)]
enum Extent {
    Chunk(ChunkId, u32, u32),
    Hole(u64),
}

impl Content {
    fn of(node: &Node) -> Option<Self> {
        Some(match node {
            Node::Directory { .. } => return None,
            Node::File { content: FileContent::Inline(bytes), .. } => Self::Inline(bytes.clone()),
            Node::File { content: FileContent::Listed { list, size }, .. } => {
                Self::Listed(*list, *size)
            }
            Node::File { content: FileContent::Extents(extents), .. } => {
                Self::Extents(extents.iter().copied().map(Extent::from).collect())
            }
            Node::Symlink { target } => Self::Symlink(target.clone()),
            Node::Fifo => Self::Fifo,
            Node::Socket => Self::Socket,
            Node::CharDevice { major, minor } => Self::CharDevice(*major, *minor),
            Node::BlockDevice { major, minor } => Self::BlockDevice(*major, *minor),
        })
    }
}

impl From<Content> for Node {
    fn from(content: Content) -> Self {
        let content = match content {
            Content::Inline(bytes) => FileContent::Inline(bytes),
            Content::Listed(list, size) => FileContent::Listed { list, size },
            Content::Extents(extents) => {
                FileContent::Extents(extents.into_iter().map(ChunkExtent::from).collect())
            }
            Content::Symlink(target) => return Self::Symlink { target },
            Content::Fifo => return Self::Fifo,
            Content::Socket => return Self::Socket,
            Content::CharDevice(major, minor) => return Self::CharDevice { major, minor },
            Content::BlockDevice(major, minor) => return Self::BlockDevice { major, minor },
        };
        Self::File { size: size_of(&content), content }
    }
}

impl From<ChunkExtent> for Extent {
    fn from(extent: ChunkExtent) -> Self {
        match extent {
            ChunkExtent::Chunk { id, offset, length } => Self::Chunk(id, offset, length),
            ChunkExtent::Hole { length } => Self::Hole(length),
        }
    }
}

impl From<Extent> for ChunkExtent {
    fn from(extent: Extent) -> Self {
        match extent {
            Extent::Chunk(id, offset, length) => Self::Chunk { id, offset, length },
            Extent::Hole(length) => Self::Hole { length },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_as_it_was_and_a_broken_one_is_told() {
        let meta = Meta {
            mode: 0o644,
            birth_ns: Some(-7),
            xattrs: vec![Xattr { name: b"user.x".to_vec(), value: b"y".to_vec() }],
            ..Meta::default()
        };
        let node = Node::Symlink { target: b"there".to_vec() };
        let entry = Entry { name: b"link".to_vec(), node, meta };
        let mut bytes = Vec::new();
        append_entry(&mut bytes, Signature::NEVER, &entry).unwrap();
        append_entry(&mut bytes, Signature::NEVER, &entry).unwrap();
        let found: Vec<Entry> = Records::of(&bytes).map(Result::unwrap).collect();
        assert_eq!(found, [entry.clone(), entry]);
        bytes.pop();
        assert_eq!(Records::of(&bytes).filter(Result::is_ok).count(), 1);
        assert_eq!(Records::of(&bytes).filter(Result::is_err).count(), 1);
    }
}
