//! Repositories and media of every released format, kept as they were written: today's code opens
//! them and gives what was put in. `STRONGROOM_GOLDEN_VAULT=make` writes those of the
//! present format where there are none; what is there is never written again.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use strongroom_protocol::{
    BlobKind, ChunkId, FixedClock, PointId, Reference, RepoId, Timestamp, WorkloadId,
};
use strongroom_store::content::{ChunkExtent, Entry, FileContent, Meta, Node, Xattr};
use strongroom_store::cut::CutParams;
use strongroom_store::disk::LocalDisk;
use strongroom_store::keys::VaultKey;
use strongroom_store::manifest::{
    Body, Consistency, GapList, Head, Manifest, READER_VERSION, Stats,
};
use strongroom_store::media::{
    MediaIdentity, MediaReader, MediaSetWriter, RepoPack, SetOrder, stage,
};
use strongroom_store::page::DirectoryBuilder;
use strongroom_store::parcel::Compressor;
use strongroom_store::repo::{Depth, Mode, Repo, RepoError, RepoKeys, RepoSetup};
use strongroom_store::seal::seal;
use strongroom_store::tape::{Shape, VirtualLibrary};
use strongroom_store::tree::{BlobSink, SinkError, Tree};

const KEY: VaultKey = VaultKey::from_bytes([0x44; 32]);
const REPO: RepoId = RepoId::from_bytes([0x55; 16]);
const WORKLOAD: WorkloadId = WorkloadId::from_bytes([0x66; 16]);
const POINT: PointId = PointId::from_bytes([0x77; 16]);
/// Every released format, oldest first; the second has two key epochs.
const RELEASED: [&str; 2] = ["v01", "v01-epochs"];

fn key_of(format: &str) -> VaultKey {
    match format {
        "v01" => KEY,
        _ => VaultKey::from_secret(&[[0x44; 32], [0x88; 32]].concat()).unwrap(),
    }
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/vault")
}

fn long_text() -> Vec<u8> {
    "A line that comes again and again, as in a log.\n".repeat(400).into_bytes()
}

struct Into<'r>(&'r Repo, VaultKey);

impl BlobSink for Into<'_> {
    fn put(
        &mut self,
        kind: BlobKind,
        references: Vec<Reference>,
        plain: Vec<u8>,
    ) -> Result<ChunkId, SinkError> {
        let mut compressor = Compressor::new().unwrap();
        let keys = KEY.agent_keys();
        let parcel = compressor.pack(&keys, kind, references.clone(), &plain, 3).unwrap();
        self.0.insert(seal(&self.1, REPO, &parcel).unwrap(), &references).unwrap();
        Ok(parcel.head.id)
    }
}

fn entry(name: &[u8], node: Node) -> Entry {
    let xattrs = vec![Xattr { name: b"user.note".to_vec(), value: b"kept".to_vec() }];
    let meta = Meta {
        mode: 0o640,
        uid: 7,
        gid: 8,
        mtime_ns: -1_234_567_890_123,
        xattrs,
        ..Meta::default()
    };
    Entry { name: name.to_vec(), node, meta }
}

fn make_vault(dir: &Path) {
    let disk = LocalDisk::new(dir);
    let (org, cut, created) = ("acme".parse().unwrap(), CutParams::FILES, Timestamp(1));
    let setup = RepoSetup { repo: REPO, org, cut, created, wraps: vec![b"opaque".to_vec()] };
    Repo::create(&disk, &setup, &KEY).unwrap();
    let repo = Repo::open(Arc::new(disk), &KEY, Mode::Write).unwrap();
    let chunk = Into(&repo, KEY).put(BlobKind::Data, Vec::new(), long_text()).unwrap();
    drop(repo);
    let (disk, key) = (LocalDisk::new(dir), key_of(RELEASED.last().unwrap()));
    let rotated = RepoKeys::of(REPO, &key, vec![b"opaque too".to_vec()]);
    RepoKeys::change(&disk, |_, _| Ok::<_, RepoError>((rotated, ()))).unwrap();
    let repo = Repo::open(Arc::new(disk), &key, Mode::Write).unwrap();
    let mut sink = Into(&repo, key.clone());
    let length = u32::try_from(long_text().len()).unwrap();
    let extents = vec![
        ChunkExtent::Hole { length: 4096 },
        ChunkExtent::Chunk { id: chunk, offset: 0, length },
    ];
    let size = 4096 + u64::from(length);
    let mut builder = DirectoryBuilder::new();
    let inline = FileContent::Inline(b"small".to_vec());
    for entry in [
        entry(b"link", Node::Symlink { target: b"../elsewhere".to_vec() }),
        entry(b"log", Node::File { size, content: FileContent::Extents(extents) }),
        entry(b"pipe", Node::Fifo),
        entry(b"small-\xff", Node::File { size: 5, content: inline }),
    ] {
        builder.push(entry, &mut sink).unwrap();
    }
    let root = builder.finish(&mut sink).unwrap();
    let roots = vec![Reference { kind: BlobKind::Page, id: root }];
    let manifest = Manifest { head: head(roots), body: body(root) };
    let file = manifest.encode(&key).unwrap();
    repo.commit_point(WORKLOAD, POINT, &file).unwrap();
}

fn head(roots: Vec<Reference>) -> Head {
    Head {
        repo: REPO,
        workload: WORKLOAD,
        point: POINT,
        moment: Timestamp(5),
        kind: 0,
        roots,
        key_epoch: 2,
        reader_version_min: READER_VERSION,
    }
}

fn body(root: ChunkId) -> Body {
    Body {
        workload_name: "docs@fs1".parse().unwrap(),
        agent: "fs1".parse().unwrap(),
        source: "/srv/docs".to_owned(),
        consistency: Consistency::Crash,
        frozen_ms: 12,
        root,
        stats: Stats { files: 2, ..Stats::default() },
        gaps: GapList::Inline(Vec::new()),
        policy: "standard".parse().unwrap(),
        policy_version: 3,
        previous: None,
        committed: Timestamp(6),
        software: "0.1.0".to_owned(),
        hooks: String::new(),
    }
}

fn make_media(vault: &Path, dir: &Path) {
    let barcode = "G00001L9".parse().unwrap();
    let library = VirtualLibrary::create(dir, Shape::with_capacity(8 << 20), &[barcode]).unwrap();
    let repo = Repo::open(Arc::new(LocalDisk::new(vault)), &KEY, Mode::Read).unwrap();
    let order = SetOrder {
        set: "weekly".parse().unwrap(),
        identity: MediaIdentity { org: "acme".parse().unwrap(), repo: REPO },
        config: repo.config().encode(),
        keys: repo.keys_file().encode(),
        released: std::collections::BTreeSet::new(),
    };
    let clock = Arc::new(FixedClock::at(Timestamp(9)));
    let mut writer = MediaSetWriter::open(Arc::new(library), order, clock).unwrap();
    writer.begin(0).unwrap();
    for pack in repo.packs() {
        let mut source = RepoPack::new(&repo, pack).unwrap();
        writer.put_pack(pack, source.bytes(), &mut source).unwrap();
    }
    let manifest = repo.manifest_bytes(WORKLOAD, POINT).unwrap();
    writer.put_manifest(WORKLOAD, POINT, &manifest).unwrap();
    writer.finish().unwrap();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

/// A repository has these directories; git keeps none that are empty.
fn whole(dir: &Path) {
    for part in ["index", "packs/d", "packs/m", "points", "tmp"] {
        std::fs::create_dir_all(dir.join(part)).unwrap();
    }
}

fn check(vault: &Path, key: &VaultKey) {
    let repo = Repo::open(Arc::new(LocalDisk::new(vault)), key, Mode::Read).unwrap();
    assert!(repo.verify(Depth::Plain).unwrap().is_sound());
    assert_eq!(repo.points().unwrap(), [(WORKLOAD, POINT)]);
    let manifest = repo.point(POINT).unwrap();
    assert_eq!(manifest.body, body(manifest.body.root));
    let tree = Tree::new(repo, manifest.body.root);
    let log = tree.lookup(b"log").unwrap().unwrap();
    assert_eq!((log.meta.mtime_ns, log.meta.mode), (-1_234_567_890_123, 0o640));
    let bytes = tree.read_file(&log, 0, 1 << 20).unwrap();
    assert!(bytes == [vec![0; 4096], long_text()].concat());
    let small = tree.lookup(b"small-\xff").unwrap().unwrap();
    assert_eq!(tree.read_file(&small, 0, 100).unwrap(), b"small");
    assert_eq!(small.meta.xattrs[0].value, b"kept");
    let link = tree.lookup(b"link").unwrap().unwrap();
    assert_eq!(link.node, Node::Symlink { target: b"../elsewhere".to_vec() });
    assert_eq!(tree.lookup(b"pipe").unwrap().unwrap().node, Node::Fifo);
}

#[test]
fn every_released_format_still_opens() {
    if std::env::var_os("STRONGROOM_GOLDEN_VAULT").is_some_and(|word| word == "make") {
        let dir = golden().join(RELEASED.last().unwrap());
        assert!(!dir.exists(), "{} is there and is not written again", dir.display());
        make_vault(&dir.join("repo"));
        make_media(&dir.join("repo"), &dir.join("library"));
    }
    let mut kept: Vec<_> = std::fs::read_dir(golden())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    kept.sort();
    assert_eq!(kept, RELEASED, "every released format has its repository, and no other");
    for format in RELEASED {
        let scratch = tempfile::tempdir().unwrap();
        let (vault, library) = (scratch.path().join("repo"), scratch.path().join("library"));
        copy(&golden().join(format).join("repo"), &vault);
        whole(&vault);
        check(&vault, &key_of(format));
        copy(&golden().join(format).join("library"), &library);
        let library = Arc::new(VirtualLibrary::open(&library).unwrap());
        let reader = MediaReader::open(library).unwrap();
        let staged = scratch.path().join("staged");
        let (_, fetched) = stage(&reader, POINT, &staged).unwrap();
        assert!(fetched.missing.is_empty());
        check(&staged, &key_of(format));
    }
}
