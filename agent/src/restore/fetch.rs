//! Chunks as the writers need them: fetched once though many small files lie in one, kept
//! only while few.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use strongroom_protocol::{BlobKind, ChunkId};
use strongroom_store::tree::{BlobSource, SourceError};

use crate::restore::RestoreProgress;

/// Chunks kept for the next file, at most 16 MiB of bundles.
const KEPT_MAX: usize = 12;

/// A source with a short memory.
pub(crate) struct Fetcher<'run, S> {
    source: &'run S,
    recent: Mutex<VecDeque<(ChunkId, Bytes)>>,
    progress: &'run RestoreProgress,
}

impl<'run, S: BlobSource> Fetcher<'run, S> {
    pub(crate) fn new(source: &'run S, progress: &'run RestoreProgress) -> Self {
        Self { source, recent: Mutex::default(), progress }
    }

    pub(crate) fn chunk(&self, id: ChunkId) -> Result<Bytes, SourceError> {
        let held = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bytes)) = held.iter().find(|(kept, _)| *kept == id) {
            return Ok(bytes.clone());
        }
        drop(held);
        let bytes = self.source.plain(BlobKind::Data, id)?;
        self.progress.chunks_fetched.fetch_add(1, Ordering::Relaxed);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() >= KEPT_MAX {
            recent.pop_front();
        }
        recent.push_back((id, bytes.clone()));
        Ok(bytes)
    }
}
