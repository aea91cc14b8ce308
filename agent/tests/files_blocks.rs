//! Files of blocks (images of disks, files of databases) are cut finer, so that a block that
//! changed costs little; and whatever is read together, each file keeps its own place.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use strongroom_agent::workload::ChunkSink;
use strongroom_agent::workload::files::{Options, Progress, Protected, protect};
use strongroom_protocol::{BlobKind, ChunkId, Reference, SystemClock};
use strongroom_store::cut::{Blocks, CutParams};
use strongroom_store::keys::AgentKeys;
use strongroom_store::tree::{Blob, BlobSource, SinkError, SourceError, Tree};

const KEYS: AgentKeys = AgentKeys { id_key: [3; 32], cut_key: (17, 0x9e37_79b1) };
/// Bytes of the image, most of them a hole.
const IMAGE_BYTES: u64 = 64 << 20;
/// Bytes of it that are written.
const WRITTEN_BYTES: usize = 8 << 20;

#[derive(Default)]
struct Blobs(Mutex<HashMap<(BlobKind, ChunkId), Blob>>);

impl Blobs {
    fn data(&self) -> HashMap<ChunkId, usize> {
        let blobs = self.0.lock().unwrap();
        let data = blobs.iter().filter(|((kind, _), _)| *kind == BlobKind::Data);
        data.map(|((_, id), blob)| (*id, blob.plain.len())).collect()
    }
}

impl ChunkSink for Blobs {
    fn put(
        &self,
        kind: BlobKind,
        references: Vec<Reference>,
        plain: Vec<u8>,
    ) -> Result<ChunkId, SinkError> {
        let id = KEYS.id(kind, &references, &plain);
        let blob = Blob { references, plain: plain.into() };
        self.0.lock().unwrap().insert((kind, id), blob);
        Ok(id)
    }
}

impl BlobSource for Blobs {
    fn blob(&self, kind: BlobKind, id: ChunkId) -> Result<Blob, SourceError> {
        let blobs = self.0.lock().unwrap();
        blobs.get(&(kind, id)).cloned().ok_or(SourceError::Missing { kind, id })
    }
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    noise
}

fn protected(root: &Path, cut: CutParams) -> (Blobs, Protected) {
    let blobs = Blobs::default();
    let options = Options { cut, ..Options::new(root, KEYS.cut_key) };
    let stop = AtomicBool::new(false);
    let made = protect(&options, &blobs, &Progress::default(), &stop, &SystemClock).unwrap();
    (blobs, made)
}

#[test]
fn a_changed_block_of_an_image_costs_a_small_chunk() {
    let dir = tempfile::tempdir().unwrap();
    let image = File::create(dir.path().join("disk.img")).unwrap();
    image.set_len(IMAGE_BYTES).unwrap();
    image.write_all_at(&noise(WRITTEN_BYTES), 1 << 20).unwrap();
    let (before, _) = protected(dir.path(), CutParams::FILES);
    image.write_all_at(&[7; 4096], (1 << 20) + (3 << 20)).unwrap();
    let (after, _) = protected(dir.path(), CutParams::FILES);
    let (before, after) = (before.data(), after.data());
    assert!(after.len() > WRITTEN_BYTES / (96 << 10), "{} chunks", after.len());
    assert!(after.values().all(|length| *length <= 96 << 10));
    let new: usize = after.iter().filter(|(id, _)| !before.contains_key(*id)).map(|(_, n)| n).sum();
    assert!((4096..=3 * (96 << 10)).contains(&new), "{new} bytes are new");

    // The first algorithm knows no blocks, and neither is a file of blocks one byte longer.
    let as_files = CutParams { blocks: Blocks::AsFiles, ..CutParams::FILES };
    let (first, _) = protected(dir.path(), as_files);
    image.set_len(IMAGE_BYTES + 1).unwrap();
    let (odd, _) = protected(dir.path(), CutParams::FILES);
    for blobs in [first, odd] {
        assert!(blobs.data().values().any(|length| *length >= 256 << 10));
    }
}

#[test]
fn files_read_by_the_stretch_keep_their_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let noise = noise(700_000);
    // Longer and shorter than a bundle takes, empty, and inline: many stretches, in any order.
    let content = |number: usize| {
        let bytes = [0, 10, 300, 4000, 70_000, 300_000][number % 6];
        &noise[number..number + bytes]
    };
    for number in 0..600 {
        let parent = dir.path().join(format!("d{:02}", number % 23));
        std::fs::create_dir_all(&parent).unwrap();
        std::fs::write(parent.join(format!("f{number:04}")), content(number)).unwrap();
    }
    let (blobs, made) = protected(dir.path(), CutParams::FILES);
    assert_eq!(made.statistics.files, 600);
    let tree = Tree::new(&blobs, made.root);
    for number in 0..600 {
        let path = format!("files/d{:02}/f{number:04}", number % 23);
        let entry = tree.lookup(path.as_bytes()).unwrap().unwrap();
        let bytes = tree.read_file(&entry, 0, u64::MAX >> 1).unwrap();
        assert!(bytes == content(number), "{path}");
    }
}
