//! Trees for tests, made in memory.
#![allow(dead_code, reason = "each test file uses a part of it")]

use strongroom_protocol::{BlobKind, ChunkId};
use strongroom_store::content::{ChunkExtent, Entry, FileContent, Meta, Node};
use strongroom_store::page::DirectoryBuilder;
use strongroom_store::tree::{BlobSink, MemoryBlobs};

/// An entry with plain metadata.
pub(crate) fn entry(name: impl Into<Vec<u8>>, node: Node) -> Entry {
    let meta = Meta { mode: 0o644, uid: 1000, gid: 1000, mtime_ns: -5, ..Meta::default() };
    Entry { name: name.into(), node, meta }
}

/// A file of a few bytes.
pub(crate) fn small(name: impl Into<Vec<u8>>, bytes: &[u8]) -> Entry {
    let content = FileContent::Inline(bytes.to_vec());
    entry(name, Node::File { size: bytes.len() as u64, content })
}

/// A file of the extents.
pub(crate) fn file(name: impl Into<Vec<u8>>, extents: Vec<ChunkExtent>) -> Entry {
    let size = extents.iter().map(ChunkExtent::length).sum();
    entry(name, Node::File { size, content: FileContent::Extents(extents) })
}

/// A directory of the entries.
pub(crate) fn directory(blobs: &mut MemoryBlobs, name: &str, entries: Vec<Entry>) -> Entry {
    let page = page_of(blobs, entries);
    entry(name, Node::Directory { page })
}

/// The page of a directory of the entries.
pub(crate) fn page_of(blobs: &mut MemoryBlobs, entries: Vec<Entry>) -> ChunkId {
    let mut builder = DirectoryBuilder::new();
    for entry in entries {
        builder.push(entry, blobs).unwrap();
    }
    builder.finish(blobs).unwrap()
}

/// A data chunk of the bytes, whole.
pub(crate) fn chunk(blobs: &mut MemoryBlobs, bytes: &[u8]) -> ChunkExtent {
    let id = blobs.put(BlobKind::Data, Vec::new(), bytes.to_vec()).unwrap();
    ChunkExtent::Chunk { id, offset: 0, length: u32::try_from(bytes.len()).unwrap() }
}

/// A chunk that is named and nowhere.
pub(crate) fn named(number: u64, length: u32) -> ChunkExtent {
    let id = ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes());
    ChunkExtent::Chunk { id, offset: 0, length }
}

/// How many blobs of `new` are not in `old`.
pub(crate) fn new_blobs(old: &MemoryBlobs, new: &MemoryBlobs) -> usize {
    let old: std::collections::BTreeSet<_> = old.ids().collect();
    new.ids().filter(|id| !old.contains(id)).count()
}
