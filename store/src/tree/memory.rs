//! Blobs in memory: for tests, and for trees that are made and read in one breath. Names
//! blobs as a repository does, by a fixed key; keeps count of what was asked of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use strongroom_protocol::{BlobKind, ChunkId, Reference};

use crate::keys::AgentKeys;
use crate::tree::{Blob, BlobSink, BlobSource, SinkError, SourceError};

/// The keys of blobs that never leave memory.
const KEYS: AgentKeys = AgentKeys { id_key: [0; 32], cut_key: (0, 1) };

/// A source and sink of blobs.
#[derive(Debug, Default)]
pub struct MemoryBlobs {
    blobs: BTreeMap<(BlobKind, ChunkId), Blob>,
    reads: AtomicU64,
}

impl MemoryBlobs {
    /// Without blobs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every blob it has.
    pub fn ids(&self) -> impl Iterator<Item = (BlobKind, ChunkId)> {
        self.blobs.keys().copied()
    }

    /// Takes a blob away; whether it was there.
    pub fn remove(&mut self, kind: BlobKind, id: ChunkId) -> bool {
        self.blobs.remove(&(kind, id)).is_some()
    }

    /// Lays other bytes under a name: damage.
    pub fn replace(&mut self, kind: BlobKind, id: ChunkId, blob: Blob) {
        self.blobs.insert((kind, id), blob);
    }

    /// How many blobs were read so far.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }
}

impl BlobSource for MemoryBlobs {
    fn blob(&self, kind: BlobKind, id: ChunkId) -> Result<Blob, SourceError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.blobs.get(&(kind, id)).cloned().ok_or(SourceError::Missing { kind, id })
    }
}

impl BlobSink for MemoryBlobs {
    fn put(
        &mut self,
        kind: BlobKind,
        references: Vec<Reference>,
        plain: Vec<u8>,
    ) -> Result<ChunkId, SinkError> {
        let id = KEYS.id(kind, &references, &plain);
        self.blobs.insert((kind, id), Blob { references, plain: Bytes::from(plain) });
        Ok(id)
    }
}
