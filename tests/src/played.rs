//! What an agent that is played by hand sends: a page of one entry, and the draft of a manifest.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use bytes::Bytes;
use strongroom_protocol::blob::{BlobKind, Reference};
use strongroom_protocol::{ChunkId, NodeName, Timestamp, WorkloadName};
use strongroom_store::content::{Entry, FileContent, Meta, Node};
use strongroom_store::manifest::{Body, Consistency, GapList, Stats};
use strongroom_store::page::DirectoryBuilder;
use strongroom_store::tree::{BlobSink, SinkError};

/// The draft of a manifest over a root, as `agent` would send it.
pub fn draft(
    workload: &WorkloadName,
    agent: NodeName,
    policy: &str,
    consistency: Consistency,
    root: ChunkId,
) -> Bytes {
    let body = Body {
        workload_name: workload.clone(),
        agent,
        source: "nowhere".into(),
        consistency,
        frozen_ms: 0,
        root,
        stats: Stats::default(),
        gaps: GapList::Inline(vec![]),
        policy: policy.parse().unwrap(),
        policy_version: 1,
        previous: None,
        committed: Timestamp::default(),
        software: "0".into(),
        hooks: String::new(),
    };
    postcard::to_stdvec(&body).unwrap().into()
}

/// Keeps what a directory is made of.
#[derive(Default)]
struct Kept(Option<(Vec<Reference>, Vec<u8>)>);

impl BlobSink for Kept {
    fn put(
        &mut self,
        _: BlobKind,
        references: Vec<Reference>,
        plain: Vec<u8>,
    ) -> Result<ChunkId, SinkError> {
        self.0 = Some((references, plain));
        Ok(ChunkId([0; 32]))
    }
}

/// A page that lists one file or directory.
pub fn page_of(entry: &[u8], node: Node) -> (Vec<Reference>, Vec<u8>) {
    let mut kept = Kept::default();
    let mut builder = DirectoryBuilder::new();
    let entry = Entry { name: entry.to_vec(), node, meta: Meta { mode: 0o600, ..Meta::default() } };
    builder.push(entry, &mut kept).unwrap();
    builder.finish(&mut kept).unwrap();
    kept.0.unwrap()
}

/// A file with nothing in it.
pub const fn empty_file() -> Node {
    Node::File { size: 0, content: FileContent::Inline(vec![]) }
}
