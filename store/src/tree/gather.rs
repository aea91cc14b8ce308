//! Chunks asked for by the thousand and taken as they come. Promises each of them once, by any
//! number of threads, in whatever order suits where they lie; refuses nothing: what cannot be
//! had comes as an error under its own name.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use strongroom_protocol::{BlobKind, ChunkId};

use crate::tree::{BlobSource, SourceError};

/// A chunk, or why it cannot be had.
pub type Gathered = (ChunkId, Result<Bytes, SourceError>);

/// Data chunks on their way.
pub trait Gather: Send + Sync {
    /// The next chunk, opened and checked by the thread that takes it; none once all were given.
    fn next(&self) -> Option<Gathered>;
}

/// Reads chunks one after another, in an order given, each thread one of its own.
pub struct InOrder<'s, S: ?Sized> {
    source: &'s S,
    left: Mutex<std::vec::IntoIter<ChunkId>>,
}

impl<'s, S: BlobSource + ?Sized> InOrder<'s, S> {
    /// These chunks of the source.
    pub fn new(source: &'s S, ids: Vec<ChunkId>) -> Self {
        Self { source, left: Mutex::new(ids.into_iter()) }
    }
}

impl<S: BlobSource + ?Sized> Gather for InOrder<'_, S> {
    fn next(&self) -> Option<Gathered> {
        let id = self.left.lock().unwrap_or_else(PoisonError::into_inner).next()?;
        Some((id, self.source.plain(BlobKind::Data, id)))
    }
}
