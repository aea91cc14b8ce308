//! A real repository to media and back: what was staged opens, checks out and reads.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod media_kit;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use media_kit::{library, reader, shape};
use strongroom_protocol::{
    BlobKind, ChunkId, PointId, Reference, RepoId, SystemClock, Timestamp, WorkloadId,
};
use strongroom_store::cut::CutParams;
use strongroom_store::disk::LocalDisk;
use strongroom_store::keys::VaultKey;
use strongroom_store::manifest::Head;
use strongroom_store::media::{
    MediaIdentity, MediaReader, MediaSetWriter, Put, SetOrder, Spool, stage,
};
use strongroom_store::parcel::Compressor;
use strongroom_store::repo::{Depth, Mode, Options, Repo, RepoError, RepoKeys, RepoSetup};
use strongroom_store::seal::seal;
use strongroom_store::writer::WriterLimits;

const REPO: RepoId = RepoId::from_bytes([5; 16]);
const WORKLOAD: WorkloadId = WorkloadId::from_bytes([6; 16]);
const KEY: VaultKey = VaultKey::from_bytes([1; 32]);

fn open(root: &Path) -> Repo {
    let limits = WriterLimits {
        data_pack_bytes: 300_000,
        metadata_pack_bytes: 2_000,
        ..WriterLimits::default()
    };
    let disk = Arc::new(LocalDisk::new(root));
    Repo::open(disk, &KEY, Options { mode: Mode::Write, limits }).unwrap()
}

fn insert(repo: &Repo, kind: BlobKind, references: &[Reference], plain: &[u8]) -> Reference {
    let keys = KEY.agent_keys();
    let mut compressor = Compressor::new().unwrap();
    let parcel = compressor.pack(&keys, kind, references.to_vec(), plain, 1).unwrap();
    repo.insert(seal(&KEY, REPO, &parcel).unwrap(), references).unwrap();
    Reference { kind, id: parcel.head.id }
}

/// A point with a page over some chunks; returns its chunks.
fn protect(repo: &Repo, number: u8) -> Vec<ChunkId> {
    let chunks: Vec<Reference> = (0..8u8)
        .map(|i| {
            let mut plain = vec![0; 100_000];
            blake3::Hasher::new().update(&[number, i]).finalize_xof().fill(&mut plain);
            insert(repo, BlobKind::Data, &[], &plain)
        })
        .collect();
    let page = insert(repo, BlobKind::Page, &chunks, &[number; 100]);
    let head = Head {
        repo: REPO,
        workload: WORKLOAD,
        point: PointId::from_bytes([number; 16]),
        moment: Timestamp(5_000),
        kind: 0,
        roots: vec![page],
        key_epoch: 1,
        reader_version_min: 1,
    };
    let point = head.point;
    let head = postcard::to_stdvec(&head).unwrap();
    let mut manifest = b"SRPOIN01".to_vec();
    manifest.extend_from_slice(&u32::try_from(head.len()).unwrap().to_le_bytes());
    manifest.extend_from_slice(&head);
    manifest.extend_from_slice(&16u32.to_le_bytes());
    manifest.extend_from_slice(&[0; 12 + 16]);
    let hash = blake3::hash(&manifest);
    manifest.extend_from_slice(hash.as_bytes());
    repo.commit_point(WORKLOAD, point, &manifest).unwrap();
    chunks.into_iter().map(|chunk| chunk.id).collect()
}

/// What a caller does: everything the set lacks, packs before points.
fn copy(root: &Path, repo: &Repo, writer: &mut MediaSetWriter) -> (u64, u64) {
    assert!(root.join("config").exists());
    writer.begin(0).unwrap();
    let packs = repo.packs().into_iter().map(|pack| (pack, repo.pack_len(pack).unwrap()));
    Spool::run(repo, packs, |spool| {
        for (pack, bytes, source) in spool.packs() {
            let put = writer.put_pack(pack, bytes, &mut source.unwrap()).unwrap();
            assert_eq!(put == Put::AlreadyThere, writer.held().has_pack(&pack));
        }
    });
    for (workload, point) in repo.points().unwrap() {
        let manifest = repo.manifest_bytes(workload, point).unwrap();
        writer.put_manifest(workload, point, &manifest).unwrap();
    }
    let report = writer.finish().unwrap();
    (report.packs, report.points)
}

fn order(root: &Path) -> SetOrder {
    SetOrder {
        set: "yearly".parse().unwrap(),
        identity: MediaIdentity { org: "acme".parse().unwrap(), repo: REPO },
        config: std::fs::read(root.join("config")).unwrap(),
        keys: std::fs::read(root.join("keys")).unwrap(),
        released: std::collections::BTreeSet::new(),
    }
}

#[test]
fn a_repository_comes_back_from_media_alone() {
    let root = tempfile::tempdir().unwrap();
    let vault = root.path().join("vault");
    let setup = RepoSetup {
        repo: REPO,
        org: "acme".parse().unwrap(),
        cut: CutParams::FILES,
        created: Timestamp(1),
        wraps: vec![b"wrapped".to_vec()],
    };
    std::fs::create_dir(&vault).unwrap();
    Repo::create(&LocalDisk::new(&vault), &setup, &KEY).unwrap();
    let library = library(&root.path().join("library"), shape(1 << 20), 6);
    let repo = open(&vault);
    let first = protect(&repo, 1);
    let clock = Arc::new(SystemClock);
    let mut writer = MediaSetWriter::open(library.clone(), order(&vault), clock).unwrap();
    let (packs, points) = copy(&vault, &repo, &mut writer);
    assert_eq!((packs, points), (repo.packs().len() as u64, 1));
    let second = protect(&repo, 2);
    let (more, points) = copy(&vault, &repo, &mut writer);
    assert_eq!((packs + more, points), (repo.packs().len() as u64, 1), "only what is new");
    drop((writer, repo));
    std::fs::remove_dir_all(&vault).unwrap();

    let media = reader(&library);
    assert!(media.media().len() > 1, "the copy spans cartridges");
    check(&media, &root.path().join("one"), 1, &first);
    check(&media, &root.path().join("two"), 2, &second);
}

fn check(media: &MediaReader, staged: &Path, number: u8, chunks: &[ChunkId]) {
    let point = PointId::from_bytes([number; 16]);
    let base = media.stage_base(staged, point).unwrap();
    // The metadata alone tells which packs a selection needs.
    let keyless = Repo::open_keyless(Arc::new(LocalDisk::new(staged))).unwrap();
    let [page] = keyless.point_roots(WORKLOAD, point).unwrap().try_into().unwrap();
    let needed: Vec<ChunkId> =
        keyless.references(page.id).unwrap().into_iter().map(|reference| reference.id).collect();
    assert_eq!(needed, chunks);
    drop(keyless);
    assert!(base.metadata.missing.is_empty() && !base.data.is_empty());
    let (_, fetched) = stage(media, point, staged).unwrap();
    assert_eq!(fetched.missing, HashSet::new().into_iter().collect());

    let disk = Arc::new(LocalDisk::new(staged));
    let repo = Repo::open(disk, &KEY, Mode::Read).unwrap();
    assert_eq!(repo.keys_file().wraps, [b"wrapped".to_vec()]);
    for (index, chunk) in (0u8..).zip(chunks) {
        let mut plain = vec![0; 100_000];
        blake3::Hasher::new().update(&[number, index]).finalize_xof().fill(&mut plain);
        assert!(repo.plain(*chunk, BlobKind::Data).unwrap() == plain);
    }
    assert!(repo.verify(Depth::Plain).unwrap().is_sound());
}

/// Of one set: a session with the first keys, then one after a rotation.
#[test]
fn a_rotated_vault_comes_back_from_media_and_older_keys_stay_on_them() {
    let root = tempfile::tempdir().unwrap();
    let vault = root.path().join("vault");
    let setup = RepoSetup {
        repo: REPO,
        org: "acme".parse().unwrap(),
        cut: CutParams::FILES,
        created: Timestamp(1),
        wraps: vec![b"wrapped".to_vec()],
    };
    std::fs::create_dir(&vault).unwrap();
    let disk = LocalDisk::new(&vault);
    Repo::create(&disk, &setup, &KEY).unwrap();
    let library = library(&root.path().join("library"), shape(4 << 20), 2);
    let repo = open(&vault);
    let first = protect(&repo, 1);
    let clock = Arc::new(SystemClock);
    let mut writer = MediaSetWriter::open(library.clone(), order(&vault), clock.clone()).unwrap();
    copy(&vault, &repo, &mut writer);
    drop((writer, repo));

    let two = VaultKey::from_secret(&[[1; 32], [2; 32]].concat()).unwrap();
    let rotated = RepoKeys::of(REPO, &two, vec![b"rotated".to_vec()]);
    RepoKeys::change(&disk, |_, _| Ok::<_, RepoError>((rotated.clone(), ()))).unwrap();
    let repo = Repo::open(Arc::new(LocalDisk::new(&vault)), &two, Mode::Write).unwrap();
    let plain = vec![42; 1000];
    let mut compressor = Compressor::new().unwrap();
    let keys = two.agent_keys();
    let parcel = compressor.pack(&keys, BlobKind::Data, vec![], &plain, 1).unwrap();
    repo.insert(seal(&two, REPO, &parcel).unwrap(), &[]).unwrap();
    repo.barrier().unwrap();
    assert!(repo.packs().iter().any(|pack| repo.pack_epoch(*pack).unwrap() == 2));
    let mut writer = MediaSetWriter::open(library.clone(), order(&vault), clock).unwrap();
    protect(&repo, 2);
    copy(&vault, &repo, &mut writer);
    drop((writer, repo));

    let media = reader(&library);
    assert_eq!(RepoKeys::decode(&media.keys(REPO).unwrap(), "keys").unwrap(), rotated);
    let mut found = Vec::new();
    let mut look = |bytes: &[u8]| {
        found.push(RepoKeys::decode(bytes, "keys").unwrap().wraps);
        false
    };
    media.find_keys(REPO, &mut look).unwrap();
    assert_eq!(found, [vec![b"rotated".to_vec()], vec![b"wrapped".to_vec()]]);
    let staged = root.path().join("staged");
    let (_, fetched) = stage(&media, PointId::from_bytes([2; 16]), &staged).unwrap();
    assert!(fetched.missing.is_empty());
    let back = Repo::open(Arc::new(LocalDisk::new(&staged)), &two, Mode::Read).unwrap();
    assert_eq!(back.plain(parcel.head.id, BlobKind::Data).unwrap(), plain);
    assert!(back.verify(Depth::Plain).unwrap().is_sound());
    // Who has the older key only reads what was written under it, and is told of the rest.
    let old = Repo::open(Arc::new(LocalDisk::new(&staged)), &KEY, Mode::Read).unwrap();
    old.plain(first[0], BlobKind::Data).unwrap();
    let refused = old.plain(parcel.head.id, BlobKind::Data);
    assert!(matches!(refused, Err(RepoError::NewerEpoch { epoch: 2, .. })), "{refused:?}");
}
