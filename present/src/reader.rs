//! The bytes of one file of a point, from anywhere in it, with some fetched ahead.
//!
//! One [`Reader`] serves a whole point: it keeps decoded chunks and lists, bounded in bytes and
//! shared by all open files, and it has the threads that read ahead. [`Reader::open`] gives an
//! [`OpenFile`] by what a directory says of the file; nothing is fetched by that. Any number of
//! threads may read any number of open files at once, the same one too:
//!
//! ```no_run
//! # fn show(source: strongroom_present::reader::Source, entry: strongroom_store::content::Entry)
//! #     -> Result<(), Box<dyn std::error::Error>> {
//! use strongroom_present::reader::{BYTES_MAX, Reader};
//! use strongroom_store::content::Node;
//! let reader = Reader::new(source, BYTES_MAX)?;
//! let Node::File { size, content } = &entry.node else { return Ok(()) };
//! let file = reader.open(*size, content);
//! let mut block = vec![0; 4096];
//! let read = file.read_at(1 << 20, &mut block)?;
//! # Ok(()) }
//! ```
//!
//! Promises right bytes or an error for the range asked for: a chunk that is lost costs what it
//! holds. Who reads in order has several chunks on their way before asking for them, who jumps
//! about fetches what he touches. Every call but [`OpenFile::bytes_if_here`] may block for a round
//! trip to where the blobs are. Memory is bounded by what [`Reader::new`] was given, plus the
//! chunks, of 4 MiB at most, that calls under way are copying from.

mod ahead;
pub(crate) mod extents;
mod file;
pub(crate) mod kept;
mod stretch;

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use strongroom_protocol::{BlobKind, ChunkId};
use strongroom_store::content::FileContent;
use strongroom_store::list::ListError;
use strongroom_store::tree::{BlobSource, SourceError};

use ahead::{Ahead, Wanted};
use extents::Lists;
use kept::{Claim, Found, Kept};

pub use file::OpenFile;
pub use stretch::{Stretch, StretchKind};

/// Where blobs come from, shared by all threads.
pub type Source = Arc<dyn BlobSource + Send + Sync>;

/// Bytes a reader keeps and has on their way, unless told otherwise.
pub const BYTES_MAX: usize = 64 << 20;

/// Why a stretch of a file cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// A chunk that could not be had.
    #[error("chunk {id}, wanted at byte {at}, cannot be had")]
    Chunk { at: u64, id: ChunkId, source: Arc<SourceError> },
    /// What says where the bytes lie could not be had.
    #[error("where byte {at} lies cannot be found")]
    List { at: u64, source: Arc<ListError> },
    /// A chunk, or a list of them, shorter than the file says.
    #[error("what holds byte {at} is shorter than the file says")]
    Short { at: u64 },
}

impl ReadError {
    /// The blob it is about, where it is known.
    pub fn blob(&self) -> Option<ChunkId> {
        match self {
            Self::Chunk { id, .. } => Some(*id),
            Self::List { source, .. } => match &**source {
                ListError::Decode { list, .. }
                | ListError::Misplaced { list }
                | ListError::Source { list, .. } => Some(*list),
                _ => None,
            },
            Self::Short { .. } => None,
        }
    }
}

/// What reads the files of a point.
pub struct Reader {
    shared: Arc<Shared>,
}

struct Shared {
    source: Source,
    chunks: Arc<Kept<Bytes, SourceError>>,
    lists: Lists,
    ahead: Ahead,
}

impl Reader {
    /// A reader that keeps, and has on their way, at most `bytes_max` bytes; [`BYTES_MAX`] is
    /// a good bound. Fails where no threads can be started.
    pub fn new(source: Source, bytes_max: usize) -> io::Result<Self> {
        let lists_bytes = bytes_max / 16;
        let ahead_bytes = bytes_max / 16 * 7;
        let ahead = Ahead::new(&source, ahead_bytes)?;
        let chunks = Kept::new(bytes_max - lists_bytes - ahead_bytes);
        let lists = Kept::new(lists_bytes);
        Ok(Self { shared: Arc::new(Shared { source, chunks, lists, ahead }) })
    }

    /// A file of `size` bytes with this content; nothing is fetched yet.
    pub fn open(&self, size: u64, content: &FileContent) -> OpenFile {
        OpenFile::new(Arc::clone(&self.shared), size, content)
    }

    /// Has chunks fetched that will be wanted soon, as far as there is room: each with the bytes
    /// of it that are known to be wanted. Never blocks.
    pub fn expect(&self, chunks: impl IntoIterator<Item = (ChunkId, usize)>) {
        let mut batch = Vec::new();
        for (id, bytes) in chunks {
            let Some(room) = self.shared.ahead.room(bytes) else { break };
            if let Found::Absent(claim) = self.shared.chunks.find(id) {
                batch.push(Wanted { claim, room });
            }
        }
        self.shared.ahead.fetch(batch);
    }

    /// Where its blobs come from.
    pub fn source(&self) -> &Source {
        &self.shared.source
    }
}

impl Shared {
    /// A chunk: from here, from whoever fetches it, or fetched.
    fn chunk(&self, id: ChunkId) -> Result<Bytes, Arc<SourceError>> {
        self.chunks.get(id, || {
            let plain = self.source.plain(BlobKind::Data, id)?;
            let bytes = plain.len();
            Ok((plain, bytes))
        })
    }
}

/// Keeps what was fetched, or tells why it was not to be had.
fn settle(
    claim: Claim<Bytes, SourceError>,
    chunk: Result<Bytes, SourceError>,
) -> Result<Bytes, Arc<SourceError>> {
    match chunk {
        Ok(plain) => {
            let bytes = plain.len();
            Ok(claim.keep(plain, bytes))
        }
        Err(error) => Err(claim.fail(error)),
    }
}
