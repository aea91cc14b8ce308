//! Fake repositories and small libraries for the media tests.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::expect_used, reason = "a test may stop")]

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use strongroom_protocol::{FixedClock, PackId, PointId, RepoId, Timestamp, WorkloadId};
use strongroom_store::media::{
    FetchReport, MediaError, MediaIdentity, MediaReader, MediaSetWriter, SessionReport, SetOrder,
};
use strongroom_store::tape::virtual_library::Telling;
use strongroom_store::tape::{Barcode, Shape, VirtualLibrary};

pub(crate) const FRAME: usize = 32;
pub(crate) const REPO: RepoId = RepoId::from_bytes([7; 16]);
pub(crate) const WORKLOAD: WorkloadId = WorkloadId::from_bytes([9; 16]);

pub(crate) fn barcode(number: usize) -> Barcode {
    format!("SR{number:04}L9").parse().expect("a barcode")
}

pub(crate) fn shape(capacity_bytes: u64) -> Shape {
    Shape { early_warning_bytes: capacity_bytes / 8, ..Shape::with_capacity(capacity_bytes) }
}

pub(crate) fn untold(capacity_bytes: u64) -> Shape {
    Shape { position: Telling::Untold, ..shape(capacity_bytes) }
}

pub(crate) fn library(root: &Path, shape: Shape, cartridges: usize) -> Arc<VirtualLibrary> {
    let blanks: Vec<Barcode> = (1..=cartridges).map(barcode).collect();
    Arc::new(VirtualLibrary::create(root, shape, &blanks).expect("a library"))
}

pub(crate) fn reopen(root: &Path) -> Arc<VirtualLibrary> {
    Arc::new(VirtualLibrary::open(root).expect("the library again"))
}

fn hashed(mut bytes: Vec<u8>) -> Vec<u8> {
    let hash = blake3::hash(&bytes);
    bytes.extend_from_slice(hash.as_bytes());
    bytes
}

pub(crate) fn config(repo: RepoId) -> Vec<u8> {
    let mut bytes = b"SRCONF01".to_vec();
    bytes.extend_from_slice(repo.as_bytes());
    bytes.extend_from_slice(b"\x04acmerest");
    hashed(bytes)
}

pub(crate) fn keys(repo: RepoId, wraps: &[u8]) -> Vec<u8> {
    let mut bytes = b"SRKEYS01".to_vec();
    bytes.extend_from_slice(repo.as_bytes());
    bytes.extend_from_slice(wraps);
    hashed(bytes)
}

pub(crate) fn pack(seed: u64, class: u8, length: usize) -> (PackId, Vec<u8>) {
    let mut bytes = b"SRPACK01".to_vec();
    bytes.extend_from_slice(REPO.as_bytes());
    bytes.push(class);
    bytes.resize(64, 0);
    let mut rest = vec![0; length - 64];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).finalize_xof().fill(&mut rest);
    bytes.extend_from_slice(&rest);
    (PackId(*blake3::hash(&bytes).as_bytes()), bytes)
}

pub(crate) fn point(number: u8) -> PointId {
    PointId::from_bytes([number; 16])
}

pub(crate) fn manifest(number: u8) -> Vec<u8> {
    let head = (*REPO.as_bytes(), *WORKLOAD.as_bytes(), [number; 16], i64::from(number) * 1000);
    let head = postcard::to_stdvec(&head).expect("a head");
    let mut bytes = b"SRPOIN01".to_vec();
    bytes.extend_from_slice(&u32::try_from(head.len()).expect("short").to_le_bytes());
    bytes.extend_from_slice(&head);
    bytes.extend_from_slice(b"sealed");
    hashed(bytes)
}

pub(crate) fn order(set: &str) -> SetOrder {
    let identity = MediaIdentity { org: "acme".parse().expect("a name"), repo: REPO };
    let set = set.parse().expect("a name");
    let (config, keys) = (config(REPO), keys(REPO, b"first"));
    SetOrder { set, identity, config, keys, released: BTreeSet::new() }
}

pub(crate) fn try_writer(library: &Arc<VirtualLibrary>) -> Result<MediaSetWriter, MediaError> {
    let clock = Arc::new(FixedClock::at(Timestamp::from_unix_seconds(1_800_000_000)));
    MediaSetWriter::open(library.clone(), order("weekly"), clock)
}

pub(crate) fn writer(library: &Arc<VirtualLibrary>) -> MediaSetWriter {
    try_writer(library).expect("a writer")
}

pub(crate) fn reader(library: &Arc<VirtualLibrary>) -> MediaReader {
    MediaReader::open(library.clone()).expect("a reader")
}

/// What a session is to write: packs, then one point.
#[derive(Clone)]
pub(crate) struct Load {
    pub(crate) packs: Vec<(PackId, Vec<u8>)>,
    pub(crate) number: u8,
}

impl Load {
    pub(crate) fn new(number: u8, packs: u64, length: usize) -> Self {
        let seed = u64::from(number) * 1000;
        let packs = (0..packs).map(|i| pack(seed + i, u8::from(i == 0), length)).collect();
        Self { packs, number }
    }

    pub(crate) fn put(&self, writer: &mut MediaSetWriter) -> Result<(), MediaError> {
        for (id, bytes) in &self.packs {
            writer.put_pack(*id, bytes.len() as u64, &mut Cursor::new(bytes))?;
        }
        writer.put_manifest(WORKLOAD, point(self.number), &manifest(self.number)).map(drop)
    }

    pub(crate) fn session(&self, writer: &mut MediaSetWriter) -> Result<SessionReport, MediaError> {
        writer.begin(self.packs.iter().map(|(_, bytes)| bytes.len() as u64).sum())?;
        self.put(writer)?;
        writer.finish()
    }

    pub(crate) fn ids(&self) -> HashSet<PackId> {
        self.packs.iter().map(|(id, _)| *id).collect()
    }

    /// Everything of this load is listed as held and reads back.
    pub(crate) fn assert_readable(&self, reader: &MediaReader) {
        let (report, got) = fetch(reader, &self.ids());
        assert_eq!(report.missing.len(), 0, "load {}: {report:?}", self.number);
        for (id, bytes) in &self.packs {
            assert!(got.get(id) == Some(bytes), "pack {id:?} differs");
        }
        let read = reader.manifest(point(self.number)).expect("a manifest");
        assert_eq!(read, manifest(self.number));
    }
}

/// Packs as a careful receiver keeps them: only those that ended regularly.
pub(crate) fn fetch(
    reader: &MediaReader,
    wanted: &HashSet<PackId>,
) -> (FetchReport, BTreeMap<PackId, Vec<u8>>) {
    let mut got = BTreeMap::new();
    let report = reader.fetch_packs(wanted, &mut |id, source: &mut dyn Read| {
        let mut bytes = Vec::new();
        source.read_to_end(&mut bytes)?;
        assert!(id.0 == *blake3::hash(&bytes).as_bytes(), "wrong bytes ended regularly");
        assert!(got.insert(id, bytes).is_none(), "a pack came twice");
        Ok(())
    });
    (report.expect("fetching"), got)
}

pub(crate) fn cartridge(root: &Path, number: usize) -> PathBuf {
    root.join(format!("{}.tape", barcode(number)))
}

/// Offset, bytes after the head, and whether it is a filemark, of every record.
pub(crate) fn records(cartridge: &[u8]) -> Vec<(usize, usize, bool)> {
    let mut records = Vec::new();
    let mut at = 0;
    while at + FRAME <= cartridge.len() {
        let length = cartridge[at + 8..at + 12].try_into().map(u32::from_le_bytes);
        let length = length.expect("four bytes") as usize;
        records.push((at, length, cartridge[at + 4] == 2));
        at += FRAME + length;
    }
    records
}

/// The offset of the first block of a file.
pub(crate) fn file_offset(cartridge: &[u8], file: usize) -> usize {
    let records = records(cartridge);
    let marks = records.iter().filter(|(_, _, mark)| *mark).map(|(at, _, _)| at + FRAME);
    std::iter::once(0).chain(marks).nth(file).expect("the file")
}

pub(crate) fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).expect("a cartridge");
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).expect("a damaged cartridge");
}
