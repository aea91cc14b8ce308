//! Blobs in memory, and a target that is slow.

#![allow(clippy::unwrap_used, reason = "what tests share")]

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use strongroom_agent::workload::ChunkSink;
use strongroom_protocol::{BlobKind, ChunkId, Reference};
use strongroom_store::keys::AgentKeys;
use strongroom_store::tree::{Blob, BlobSource, SinkError, SourceError};

pub(crate) fn keys() -> AgentKeys {
    AgentKeys { id_key: [3; 32], cut_key: (17, 0x9e37_79b1) }
}

/// Blobs in memory that refuses a blob whose references it has not seen.
#[derive(Default)]
pub(crate) struct Blobs(Mutex<HashMap<(BlobKind, ChunkId), Blob>>);

impl ChunkSink for Blobs {
    fn put(
        &self,
        kind: BlobKind,
        references: Vec<Reference>,
        plain: Vec<u8>,
    ) -> Result<ChunkId, SinkError> {
        let id = keys().id(kind, &references, &plain);
        let mut blobs = self.0.lock().unwrap();
        for reference in &references {
            assert!(blobs.contains_key(&(reference.kind, reference.id)), "child after parent");
        }
        blobs.insert((kind, id), Blob { references, plain: plain.into() });
        Ok(id)
    }
}

impl BlobSource for Blobs {
    fn blob(&self, kind: BlobKind, id: ChunkId) -> Result<Blob, SourceError> {
        let blobs = self.0.lock().unwrap();
        blobs.get(&(kind, id)).cloned().ok_or(SourceError::Missing { kind, id })
    }
}

/// A target that is slow.
pub(crate) struct Slow<'b>(pub(crate) &'b Blobs);

impl ChunkSink for Slow<'_> {
    fn put(
        &self,
        kind: BlobKind,
        references: Vec<Reference>,
        plain: Vec<u8>,
    ) -> Result<ChunkId, SinkError> {
        std::thread::sleep(Duration::from_millis(100));
        self.0.put(kind, references, plain)
    }
}
