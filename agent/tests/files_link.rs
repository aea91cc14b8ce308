//! A link that dies in the middle of a restore: the restore ends and says so, and the next one
//! finishes it.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use strongroom_agent::restore::{Report, RestoreError, RestoreOptions, Restorer};
use strongroom_agent::workload::ChunkSink;
use strongroom_agent::workload::files::{Options, Progress, Protected, protect};
use strongroom_protocol::{BlobKind, ChunkId, Reference, SystemClock};
use strongroom_store::tree::{
    Blob, BlobSink as _, BlobSource, MemoryBlobs, SinkError, SourceError, Tree,
};

/// Chunks that can be had until the link is gone.
struct Link {
    blobs: Mutex<MemoryBlobs>,
    chunks_left: AtomicI64,
}

impl ChunkSink for Link {
    fn put(
        &self,
        kind: BlobKind,
        references: Vec<Reference>,
        plain: Vec<u8>,
    ) -> Result<ChunkId, SinkError> {
        self.blobs.lock().unwrap().put(kind, references, plain)
    }
}

impl BlobSource for Link {
    fn blob(&self, kind: BlobKind, id: ChunkId) -> Result<Blob, SourceError> {
        if kind == BlobKind::Data && self.chunks_left.fetch_sub(1, Ordering::Relaxed) <= 0 {
            return Err(SourceError::Unreachable { kind, id, source: "the link is gone".into() });
        }
        self.blobs.lock().unwrap().blob(kind, id)
    }
}

fn restore(link: &Link, point: &Protected, target: &Path) -> Result<Report, RestoreError> {
    let tree = Tree::new(link, point.root);
    let page = point.item.directory_page().unwrap();
    Restorer::new(RestoreOptions::new(target), Arc::default()).run(&tree, page, None)
}

#[test]
fn a_dead_link_ends_the_restore_and_the_next_one_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    fs::create_dir(&source).unwrap();
    for name in 0..6_u8 {
        let mut bytes = vec![0; 3 << 20];
        blake3::Hasher::new().update(&[name]).finalize_xof().fill(&mut bytes);
        fs::write(source.join(name.to_string()), bytes).unwrap();
    }
    let link = Link { blobs: Mutex::default(), chunks_left: AtomicI64::new(2) };
    let (options, stop) = (Options::new(&source, (17, 0x9e37_79b1)), AtomicBool::new(false));
    let point = protect(&options, &link, &Progress::default(), &stop, &SystemClock).unwrap();
    let ended = restore(&link, &point, &target).unwrap_err();
    assert!(matches!(ended, RestoreError::Unreachable { .. }), "{ended}");
    link.chunks_left.store(i64::MAX, Ordering::Relaxed);
    let report = restore(&link, &point, &target).unwrap();
    assert_eq!(report.problems, vec![]);
    for name in 0..6_u8 {
        let name = name.to_string();
        assert_eq!(fs::read(target.join(&name)).unwrap(), fs::read(source.join(&name)).unwrap());
    }
}
