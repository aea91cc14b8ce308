//! A repository in memory, and points that need nothing, for tests.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use strongroom_node::home::{Floor, MediaSettings};
use strongroom_protocol::{
    BlobKind, FixedClock, PointId, Reference, RepoId, Timestamp, WorkloadId,
};
use strongroom_store::cut::CutParams;
use strongroom_store::disk::LocalDisk;
use strongroom_store::disk::sim::SimDisk;
use strongroom_store::keys::VaultKey;
use strongroom_store::parcel::Compressor;
use strongroom_store::repo::{Mode, Options, Repo, RepoError, RepoSetup};
use strongroom_store::seal::seal;
use strongroom_store::tape::TapeLibrary;
use strongroom_store::writer::WriterLimits;

use crate::cartridges::Cartridges;
use crate::expire::MediaKeeper;
use crate::orders::Media;

const REPO: RepoId = RepoId::from_bytes([1; 16]);
const KEY: VaultKey = VaultKey::from_bytes([3; 32]);
pub(crate) const WORKLOAD: WorkloadId = WorkloadId::from_bytes([2; 16]);

pub(crate) fn repo(disk: &SimDisk) -> Repo {
    Repo::create(disk, &setup(), &KEY).unwrap();
    Repo::open(Arc::new(disk.clone()), &KEY, options()).unwrap()
}

/// A repository in a folder, made if it is not there.
pub(crate) fn repo_in(folder: &Path) -> Repo {
    let disk = LocalDisk::new(folder);
    if !folder.join("config").exists() {
        std::fs::create_dir_all(folder).unwrap();
        Repo::create(&disk, &setup(), &KEY).unwrap();
    }
    // A process that another test is just starting has its lock until it is another program.
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        match Repo::open(Arc::new(LocalDisk::new(folder)), &KEY, options()) {
            Err(RepoError::InUse { .. }) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(10));
            }
            opened => return opened.unwrap(),
        }
    }
}

fn setup() -> RepoSetup {
    RepoSetup {
        repo: REPO,
        org: "acme".parse().unwrap(),
        cut: CutParams::FILES,
        created: Timestamp(1),
        wraps: vec![vec![1]],
    }
}

fn options() -> Options {
    Options { mode: Mode::Write, limits: WriterLimits::default() }
}

/// A page that needs nothing.
pub(crate) fn page(repo: &Repo) -> Reference {
    let (keys, mut compressor) = (KEY.agent_keys(), Compressor::new().unwrap());
    let parcel = compressor.pack(&keys, BlobKind::Page, Vec::new(), &[7; 100], 1).unwrap();
    repo.insert(seal(&KEY, REPO, &parcel).unwrap(), &[]).unwrap();
    Reference { kind: BlobKind::Page, id: parcel.head.id }
}

/// A chunk of bytes that neither compress nor repeat.
pub(crate) fn chunk(repo: &Repo, seed: u8, length: usize) -> Reference {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    let (keys, mut compressor) = (KEY.agent_keys(), Compressor::new().unwrap());
    let parcel = compressor.pack(&keys, BlobKind::Data, Vec::new(), &bytes, 1).unwrap();
    repo.insert(seal(&KEY, REPO, &parcel).unwrap(), &[]).unwrap();
    Reference { kind: BlobKind::Data, id: parcel.head.id }
}

/// Of a point that needs nothing.
pub(crate) fn manifest(point: PointId) -> Vec<u8> {
    manifest_over(point, &[])
}

/// Framed as the format says.
pub(crate) fn manifest_over(point: PointId, roots: &[Reference]) -> Vec<u8> {
    manifest_of(WORKLOAD, point, roots)
}

/// The same of any workload.
pub(crate) fn manifest_of(workload: WorkloadId, point: PointId, roots: &[Reference]) -> Vec<u8> {
    let names = (*REPO.as_bytes(), *workload.as_bytes(), *point.as_bytes());
    let head = postcard::to_stdvec(&(names, 5_i64, 0_u8, roots, 1_u32, 1_u32)).unwrap();
    let mut bytes = b"SRPOIN01".to_vec();
    bytes.extend_from_slice(&u32::try_from(head.len()).unwrap().to_le_bytes());
    bytes.extend_from_slice(&head);
    bytes.extend_from_slice(&16_u32.to_le_bytes());
    bytes.extend_from_slice(&[0; 28]);
    let hash = blake3::hash(&bytes);
    bytes.extend_from_slice(hash.as_bytes());
    bytes
}

/// Work on a library, with the book of cartridges in this file.
pub(crate) fn media_of(book: &Path, library: Arc<dyn TapeLibrary>) -> Media {
    Media {
        library,
        cartridges: Arc::new(Cartridges::open(book).unwrap()),
        keeper: media_keeper(book),
        settings: MediaSettings::default(),
        clock: Arc::new(FixedClock::at(Timestamp::from_unix_seconds(1_800_000_000))),
    }
}

/// What was let go on media, beside a book of cartridges; whoever orders it is obeyed at once.
pub(crate) fn media_keeper(book: &Path) -> Arc<MediaKeeper> {
    let clock = FixedClock::at(Timestamp::from_unix_seconds(1_800_000_000));
    let floor = Floor {
        min_age_seconds: 0,
        newest: 0,
        grace_seconds: 0,
        points_an_order_max: 64,
        points_a_day_max: u32::MAX,
    };
    let folder = book.with_file_name("media-expiry");
    Arc::new(MediaKeeper::open(&folder, floor, Arc::new(clock)).unwrap())
}
