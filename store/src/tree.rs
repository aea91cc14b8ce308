//! The tree of a point, over anything that has its blobs: listing, looking up, walking,
//! finding and reading. Promises bounded memory and that damage is reported with its path
//! and costs nothing but what it holds; refuses bytes that do not fit what names them.

mod gather;
mod memory;
mod walk;

use bytes::Bytes;
use strongroom_protocol::{BlobKind, ChunkId, Reference};

use crate::content::{ChunkExtent, Entry, FileContent, Node};
use crate::list::{ExtentReader, ListError};
use crate::page::{DirectoryReader, PageError};

pub use gather::{Gather, Gathered, InOrder};
pub use memory::MemoryBlobs;
pub use walk::{Damage, DamageCause, Find, Flow, Step, Visitor, WALK_DEPTH_MAX, Walk};

/// Most bytes read at once: what a caller may be made to hold.
pub const READ_BYTES_MAX: u64 = 64 << 20;

/// Opened plaintext with the references beside it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Blob {
    pub references: Vec<Reference>,
    pub plain: Bytes,
}

/// Where blobs come from. What it gives was checked against the id.
pub trait BlobSource: Sync {
    /// The blob, opened and checked.
    fn blob(&self, kind: BlobKind, id: ChunkId) -> Result<Blob, SourceError>;

    /// The plaintext alone.
    fn plain(&self, kind: BlobKind, id: ChunkId) -> Result<Bytes, SourceError> {
        self.blob(kind, id).map(|blob| blob.plain)
    }

    /// Says that a walk of a whole tree in its own order begins, so that what it will want can be
    /// asked for before; to be said once a source. Nothing to do where reading is near.
    fn walked_in_order(&self) {}

    /// All of these data chunks, each named once, in whatever order suits where they lie.
    fn gather<'s>(&'s self, ids: Vec<ChunkId>) -> Box<dyn Gather + 's> {
        Box::new(InOrder::new(self, ids))
    }
}

impl<S: BlobSource + ?Sized> BlobSource for &S {
    fn blob(&self, kind: BlobKind, id: ChunkId) -> Result<Blob, SourceError> {
        (**self).blob(kind, id)
    }
    fn plain(&self, kind: BlobKind, id: ChunkId) -> Result<Bytes, SourceError> {
        (**self).plain(kind, id)
    }
    fn gather<'s>(&'s self, ids: Vec<ChunkId>) -> Box<dyn Gather + 's> {
        (**self).gather(ids)
    }
    fn walked_in_order(&self) {
        (**self).walked_in_order();
    }
}

impl<S: BlobSource + Send + ?Sized> BlobSource for std::sync::Arc<S> {
    fn blob(&self, kind: BlobKind, id: ChunkId) -> Result<Blob, SourceError> {
        (**self).blob(kind, id)
    }
    fn plain(&self, kind: BlobKind, id: ChunkId) -> Result<Bytes, SourceError> {
        (**self).plain(kind, id)
    }
    fn gather<'s>(&'s self, ids: Vec<ChunkId>) -> Box<dyn Gather + 's> {
        (**self).gather(ids)
    }
    fn walked_in_order(&self) {
        (**self).walked_in_order();
    }
}

/// Where blobs go.
pub trait BlobSink {
    /// Takes a blob and names it; taking it twice is the same as once.
    fn put(
        &mut self,
        kind: BlobKind,
        references: Vec<Reference>,
        plain: Vec<u8>,
    ) -> Result<ChunkId, SinkError>;
}

impl<K: BlobSink + ?Sized> BlobSink for &mut K {
    fn put(
        &mut self,
        kind: BlobKind,
        references: Vec<Reference>,
        plain: Vec<u8>,
    ) -> Result<ChunkId, SinkError> {
        (**self).put(kind, references, plain)
    }
}

/// What went wrong below, whoever it was.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a blob could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// It is there and is not what its name says.
    #[error("{kind:?} {id} is damaged")]
    Damaged { kind: BlobKind, id: ChunkId, source: Option<Cause> },
    /// Nobody has it.
    #[error("{kind:?} {id} is missing")]
    Missing { kind: BlobKind, id: ChunkId },
    /// It may be there, and cannot be had now.
    #[error("{kind:?} {id} cannot be reached")]
    Unreachable { kind: BlobKind, id: ChunkId, source: Cause },
}

/// Why a blob was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// Whoever takes blobs has stopped.
    #[error("nobody takes blobs any more")]
    Closed,
    /// It could not be kept or sent.
    #[error("a blob of kind {kind:?} could not be kept")]
    Failed { kind: BlobKind, source: Cause },
}

/// Why something in a tree could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// A data chunk that could not be had.
    #[error("bytes at {at} cannot be read")]
    Chunk { at: u64, source: SourceError },
    /// The extents of a file.
    #[error("the content of the file cannot be found")]
    List(#[from] ListError),
    /// A part of a path, other than the last, that is not a directory.
    #[error("\"{}\" is not a directory", .path.escape_ascii())]
    NotDirectory { path: Vec<u8> },
    /// Reading something that is not a regular file.
    #[error("\"{}\" is not a regular file", .name.escape_ascii())]
    NotFile { name: Vec<u8> },
    /// A directory.
    #[error("directory \"{}\" cannot be read", .path.escape_ascii())]
    Page { path: Vec<u8>, source: PageError },
    /// A chunk shorter than the extent that names it.
    #[error("chunk {id} is shorter than the file says at {at}")]
    Short { at: u64, id: ChunkId },
    /// More than may be read at once.
    #[error("{bytes} bytes are more than may be read at once")]
    TooMuch { bytes: u64 },
}

/// A tree by its root page. The root page lists the items of the point; it has no entry
/// of its own, so that what was protected keeps its metadata as an entry in it.
#[derive(Clone, Copy, Debug)]
pub struct Tree<S> {
    source: S,
    root: ChunkId,
}

impl<S: BlobSource> Tree<S> {
    /// The tree whose root page is `root`; nothing is read yet.
    pub const fn new(source: S, root: ChunkId) -> Self {
        Self { source, root }
    }

    /// Where its blobs come from.
    pub const fn source(&self) -> &S {
        &self.source
    }

    /// The root page.
    pub const fn root(&self) -> ChunkId {
        self.root
    }

    /// The entries of the directory `page`, which may be [`Tree::root`].
    pub fn directory(&self, page: ChunkId) -> DirectoryReader<'_, S> {
        DirectoryReader::new(&self.source, page)
    }

    /// The entry at a path of names joined by '/'; none if there is no such path. The
    /// root itself has no entry.
    pub fn lookup(&self, path: &[u8]) -> Result<Option<Entry>, TreeError> {
        let mut at: Option<Entry> = None;
        let mut walked: Vec<u8> = Vec::new();
        for name in names_of(path) {
            let page = match &at {
                None => self.root,
                Some(entry) => entry
                    .directory_page()
                    .ok_or_else(|| TreeError::NotDirectory { path: walked.clone() })?,
            };
            let found = self.directory(page).find(name);
            let found = found.map_err(|source| TreeError::Page { path: walked.clone(), source })?;
            let Some(entry) = found else { return Ok(None) };
            join(&mut walked, name);
            at = Some(entry);
        }
        Ok(at)
    }

    /// Every entry, depth first, in name order.
    pub fn walk(&self) -> Walk<'_, S> {
        Walk::new(&self.source, self.root)
    }

    /// Every entry below the directory `page`, with paths that begin with `prefix`.
    pub fn walk_from(&self, page: ChunkId, prefix: &[u8]) -> Walk<'_, S> {
        Walk::below(&self.source, page, prefix)
    }

    /// Shows every entry and every damage to the visitor, depth first.
    pub fn visit(&self, visitor: &mut impl Visitor) {
        self.walk().show(visitor);
    }

    /// The entries of which the predicate (a glob, say) holds, as they are met.
    pub fn find<P: FnMut(&[u8], &Entry) -> bool>(&self, matches: P) -> Find<'_, S, P> {
        Find::new(self.walk(), matches)
    }

    /// The extents of a file, in order.
    pub fn extents(&self, content: &FileContent) -> ExtentReader<'_, S> {
        ExtentReader::new(&self.source, content)
    }

    /// Up to `length` bytes of a regular file from `offset`; fewer only at its end.
    pub fn read_file(&self, entry: &Entry, offset: u64, length: u64) -> Result<Vec<u8>, TreeError> {
        let Node::File { size, content } = &entry.node else {
            return Err(TreeError::NotFile { name: entry.name.clone() });
        };
        let bytes = size.saturating_sub(offset).min(length);
        if bytes > READ_BYTES_MAX {
            return Err(TreeError::TooMuch { bytes });
        }
        if let FileContent::Inline(inline) = content {
            return Ok(slice(inline, offset, bytes).unwrap_or_default().to_vec());
        }
        let mut read = Vec::new();
        let mut extents = self.extents(content);
        if bytes > 0 {
            extents.seek(offset)?;
        }
        while (read.len() as u64) < bytes {
            let Some(placed) = extents.next().transpose()? else { break };
            let at = offset + read.len() as u64;
            let within = at.saturating_sub(placed.at);
            let rest = placed.extent.length().saturating_sub(within);
            let wanted = rest.min(bytes - read.len() as u64);
            self.append(&mut read, placed.extent, within, wanted, at)?;
        }
        Ok(read)
    }

    /// Appends `wanted` bytes of the extent from byte `within` of it.
    fn append(
        &self,
        read: &mut Vec<u8>,
        extent: ChunkExtent,
        within: u64,
        wanted: u64,
        at: u64,
    ) -> Result<(), TreeError> {
        match extent {
            ChunkExtent::Hole { .. } => {
                let end = read.len().saturating_add(usize::try_from(wanted).unwrap_or(0));
                read.resize(end, 0);
            }
            ChunkExtent::Chunk { id, offset, .. } => {
                let plain = self.source.plain(BlobKind::Data, id);
                let plain = plain.map_err(|source| TreeError::Chunk { at, source })?;
                let part = slice(&plain, u64::from(offset) + within, wanted);
                read.extend_from_slice(part.ok_or(TreeError::Short { at, id })?);
            }
        }
        Ok(())
    }
}

/// The names of a path; empty ones (doubled or leading slashes) are nothing.
pub(crate) fn names_of(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
}

/// Appends a name to a path.
pub(crate) fn join(path: &mut Vec<u8>, name: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
}

fn slice(bytes: &[u8], offset: u64, length: u64) -> Option<&[u8]> {
    let from = usize::try_from(offset).ok()?;
    let to = from.checked_add(usize::try_from(length).ok()?)?;
    bytes.get(from..to)
}
