//! A real tree to a repository, to cartridges, and back with nothing but the cartridges and the
//! recovery key or the passphrase.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use strongroom_agent::restore::compare::compare;
use strongroom_agent::workload::ChunkSink;
use strongroom_agent::workload::files::{Options as Reading, protect};
use strongroom_certs::{Cost, RecoveryKey};
use strongroom_protocol::{
    BlobKind, ChunkId, PackId, PointId, Reference, RepoId, SystemClock, Timestamp, WorkloadId,
};
use strongroom_store::cut::CutParams;
use strongroom_store::disk::LocalDisk;
use strongroom_store::keys::VaultKey;
use strongroom_store::manifest::{Body, Consistency, GapList, Head, Manifest, Stats};
use strongroom_store::media::{MediaIdentity, MediaReader, MediaSetWriter, RepoPack, SetOrder};
use strongroom_store::pack::{PackBuilder, PackClass};
use strongroom_store::parcel::Compressor;
use strongroom_store::repo::{Mode, Options, Repo, RepoKeys, RepoSetup};
use strongroom_store::seal::seal;
use strongroom_store::tape::{Barcode, Shape, VirtualLibrary};
use strongroom_store::tree::SinkError;
use strongroom_store::writer::WriterLimits;

use super::*;
use crate::commands::media::verify::read_all;
use crate::output::Format;

#[path = "fetching_tests.rs"]
mod fetching;

const REPO: RepoId = RepoId::from_bytes([5; 16]);
const WORKLOAD: WorkloadId = WorkloadId::from_bytes([6; 16]);
const POINT: PointId = PointId::from_bytes([7; 16]);
const KEY: VaultKey = VaultKey::from_bytes([1; 32]);
const RECOVERY: RecoveryKey = RecoveryKey::from_bytes([2; 32]);

struct RepoSink(Repo);

impl ChunkSink for RepoSink {
    fn put(
        &self,
        kind: BlobKind,
        references: Vec<Reference>,
        plain: Vec<u8>,
    ) -> Result<ChunkId, SinkError> {
        let mut compressor = Compressor::new().unwrap();
        let keys = KEY.agent_keys();
        let parcel = compressor.pack(&keys, kind, references.clone(), &plain, 1).unwrap();
        let id = parcel.head.id;
        self.0.insert(seal(&KEY, REPO, &parcel).unwrap(), &references).unwrap();
        Ok(id)
    }
}

/// Files of `bytes` bytes that do not compress, a link, and a directory.
fn grow(dir: &Path) {
    std::fs::create_dir_all(dir.join("etc/nginx")).unwrap();
    std::fs::write(dir.join("etc/hosts"), "127.0.0.1 localhost\n").unwrap();
    std::os::unix::fs::symlink("hosts", dir.join("etc/names")).unwrap();
    for number in 0..6_u8 {
        let mut bytes = vec![0; 1_500_000];
        blake3::Hasher::new().update(&[number]).finalize_xof().fill(&mut bytes);
        std::fs::write(dir.join(format!("etc/nginx/{number}.bin")), bytes).unwrap();
    }
}

fn commit(repo: &Repo, tree: &Path) {
    let mut options = Reading::new(tree, KEY.agent_keys().cut_key);
    // One reader: which chunks share a pack is then the same each time.
    options.readers = 1;
    let sink = RepoSink(repo.clone());
    let progress = strongroom_agent::workload::files::Progress::default();
    let stop = AtomicBool::new(false);
    let made = protect(&options, &sink, &progress, &stop, &SystemClock).unwrap();
    assert!(made.gaps.is_empty(), "{:?}", made.gaps);
    repo.barrier().unwrap();
    let head = Head {
        repo: REPO,
        workload: WORKLOAD,
        point: POINT,
        moment: Timestamp::from_unix_seconds(1_800_000_000),
        kind: 0,
        roots: vec![Reference { kind: BlobKind::Page, id: made.root }],
        key_epoch: 1,
        reader_version_min: 1,
    };
    let body = Body {
        workload_name: "web".parse().unwrap(),
        agent: "db1".parse().unwrap(),
        source: "/srv".to_owned(),
        consistency: Consistency::Crash,
        frozen_ms: 0,
        root: made.root,
        stats: Stats { files: 7, bytes: 9_000_020, ..Stats::default() },
        gaps: GapList::Inline(vec![]),
        policy: "gold".parse().unwrap(),
        policy_version: 1,
        previous: None,
        committed: Timestamp::from_unix_seconds(1_800_000_001),
        software: "test".to_owned(),
        hooks: String::new(),
    };
    let manifest = Manifest { head, body }.encode(&KEY).unwrap();
    repo.commit_point(WORKLOAD, POINT, &manifest).unwrap();
}

/// Cartridges that hold a point of `tree`, and nothing else anywhere.
fn to_media(root: &Path, tree: &Path) -> PathBuf {
    let vault = root.join("vault");
    let wraps = crate::vault::wrap(&KEY, REPO, &"horse battery".into(), &RECOVERY, Cost::TESTING);
    let setup = RepoSetup {
        repo: REPO,
        org: "acme".parse().unwrap(),
        cut: CutParams::FILES,
        created: Timestamp(1),
        wraps: wraps.unwrap(),
    };
    std::fs::create_dir(&vault).unwrap();
    Repo::create(&LocalDisk::new(&vault), &setup, &KEY).unwrap();
    let limits = WriterLimits { data_pack_bytes: 2_000_000, ..WriterLimits::default() };
    let options = Options { mode: Mode::Write, limits };
    let repo = Repo::open(Arc::new(LocalDisk::new(&vault)), &KEY, options).unwrap();
    commit(&repo, tree);
    let media = root.join("library");
    let blanks: Vec<Barcode> = (1..=6).map(|n| format!("SR{n:04}").parse().unwrap()).collect();
    let library = VirtualLibrary::create(&media, Shape::with_capacity(6 << 20), &blanks).unwrap();
    let order = SetOrder {
        set: "yearly".parse().unwrap(),
        identity: MediaIdentity { org: "acme".parse().unwrap(), repo: REPO },
        config: std::fs::read(vault.join("config")).unwrap(),
        keys: std::fs::read(vault.join("keys")).unwrap(),
        released: std::collections::BTreeSet::new(),
    };
    let library = Arc::new(library);
    let mut writer = MediaSetWriter::open(library, order, Arc::new(SystemClock)).unwrap();
    writer.begin(0).unwrap();
    for pack in repo.packs() {
        let mut source = RepoPack::new(&repo, pack).unwrap();
        writer.put_pack(pack, source.bytes(), &mut source).unwrap();
    }
    let bytes = repo.manifest_bytes(WORKLOAD, POINT).unwrap();
    writer.put_manifest(WORKLOAD, POINT, &bytes).unwrap();
    writer.finish().unwrap();
    drop((writer, repo));
    std::fs::remove_dir_all(&vault).unwrap();
    media
}

struct Fixture {
    root: tempfile::TempDir,
    tree: PathBuf,
    media: PathBuf,
    session: Session,
}

fn fixture() -> Fixture {
    let root = tempfile::tempdir().unwrap();
    let tree = root.path().join("tree");
    grow(&tree);
    let media = to_media(root.path(), &tree);
    let session = Session {
        home: root.path().join("nowhere"),
        site: None,
        out: Output::new(Format::People, Timestamp::from_unix_seconds(1_800_000_000)),
        clock: Arc::new(SystemClock),
    };
    Fixture { root, tree, media, session }
}

impl Fixture {
    fn order(&self, path: &[u8], select: &[&str]) -> Order {
        Order {
            point: PointRef::Latest("web".parse().unwrap()),
            path: path.to_vec(),
            select: select.iter().map(|glob| (*glob).to_owned()).collect(),
            overwrite: Overwrite::Never,
            target: self.root.path().join("back"),
        }
    }

    async fn run(&self, order: Order, opener: Opener) -> Result<Ending, Failure> {
        let staging = self.root.path().join("staging");
        from_media(&self.session, order, self.media.clone(), opener, (staging, false, None)).await
    }

    fn packs_staged(&self) -> usize {
        let shelves = std::fs::read_dir(self.root.path().join("staging/packs/d")).unwrap();
        shelves.map(|shelf| std::fs::read_dir(shelf.unwrap().path()).unwrap().count()).sum()
    }
}

#[tokio::test]
async fn a_point_comes_back_from_cartridges_and_paper_alone() {
    let fixture = fixture();
    let order = fixture.order(b"", &[]);
    let ended = fixture.run(order.clone(), Opener::Recovery(RECOVERY)).await.unwrap();
    assert_eq!(ended, Ending::Done);
    let mut differences = Vec::new();
    compare(&fixture.tree, &order.target, &mut |found| differences.push(found)).unwrap();
    assert_eq!(differences, vec![]);
    assert!(!fixture.root.path().join("staging").exists(), "nothing is left to do");
    let passphrase = || Opener::Passphrase("horse battery".into());
    let again = fixture.run(order.clone(), passphrase()).await.unwrap();
    assert_eq!(again, Ending::Done, "what is there was compared, and is the same");
    let changed = order.target.join("etc/hosts");
    std::fs::write(&changed, "mine").unwrap();
    let again = fixture.run(order, passphrase()).await.unwrap();
    assert_eq!(again, Ending::Gaps, "what differs was left alone, and that is said");
    assert_eq!(std::fs::read(changed).unwrap(), b"mine");
}

#[tokio::test]
async fn a_selection_stages_only_what_it_needs() {
    let fixture = fixture();
    let wrong = Opener::Passphrase("donkey".into());
    let refused = fixture.run(fixture.order(b"", &[]), wrong).await.unwrap_err();
    assert!(refused.to_string().contains("the passphrase is wrong"), "{refused}");
    let order = fixture.order(b"etc", &["3.bin"]);
    let staging = fixture.root.path().join("staging");
    let (opener, media) = (Opener::Recovery(RECOVERY), fixture.media.clone());
    let ended =
        from_media(&fixture.session, order, media, opener, (staging, true, None)).await.unwrap();
    assert_eq!(ended, Ending::Done);
    let read = |path: &Path| std::fs::read(path).unwrap();
    let back = fixture.root.path().join("back");
    let same = read(&back.join("nginx/3.bin")) == read(&fixture.tree.join("etc/nginx/3.bin"));
    assert!(same && !back.join("hosts").exists() && !back.join("nginx/2.bin").exists());
    assert!((1..=2).contains(&fixture.packs_staged()), "{}", fixture.packs_staged());
    let one = fixture.order(b"etc/hosts", &[]);
    let ended = fixture.run(one, Opener::Recovery(RECOVERY)).await.unwrap();
    assert_eq!(ended, Ending::Done);
    assert!(read(&back.join("hosts")).starts_with(b"127.0.0.1"));
}

#[tokio::test]
async fn cartridges_that_are_elsewhere_are_named_and_the_rest_goes_on() {
    let fixture = fixture();
    let shelf = Shelf::open(&fixture.media).unwrap();
    let media = shelf.media();
    assert!(media.len() > 1, "the copy spans cartridges");
    let last = media.last().unwrap().barcode.to_string();
    // The first cartridge holds data; the last has the catalog that knows of it.
    let first = media[0].barcode.to_string();
    assert_ne!(first, last);
    drop(shelf);
    let file = fixture.media.join(format!("{first}.tape"));
    let away = fixture.root.path().join("away.tape");
    std::fs::rename(&file, &away).unwrap();
    let order = Order { overwrite: Overwrite::IfDifferent, ..fixture.order(b"", &[]) };
    let partly = fixture.run(order.clone(), Opener::Recovery(RECOVERY)).await;
    let needs_metadata = match partly {
        Ok(ended) => {
            assert_eq!(ended, Ending::Gaps);
            false
        }
        Err(failure) => {
            assert!(failure.to_string().contains(&first), "{failure}");
            true
        }
    };
    let staged = fixture.root.path().join("staging").exists();
    assert!(staged || needs_metadata, "what was brought is kept for the next run");
    std::fs::rename(&away, &file).unwrap();
    let ended = fixture.run(order.clone(), Opener::Recovery(RECOVERY)).await.unwrap();
    assert_eq!(ended, Ending::Done);
    let mut differences = Vec::new();
    compare(&fixture.tree, &order.target, &mut |found| differences.push(found)).unwrap();
    assert_eq!(differences, vec![]);
}

#[test]
fn points_on_media_have_names_only_with_a_key() {
    let fixture = fixture();
    let shelf = Shelf::open(&fixture.media).unwrap();
    let without = shelf.points(None).unwrap();
    assert_eq!(without.len(), 1);
    assert!(without[0].manifest.is_none() && without[0].point == POINT);
    let with = shelf.points(Some(&Opener::Recovery(RECOVERY))).unwrap();
    assert_eq!(with[0].manifest.as_ref().unwrap().body.workload_name.as_str(), "web");
    let lacking =
        Brought { lacking: 3, wanted: ["SR0002".to_owned()].into(), ..Brought::default() };
    assert!(lacks(&lacking)[0].contains("insert SR0002"));
}

#[test]
fn cartridges_are_read_through_and_what_is_damaged_is_named() {
    let fixture = fixture();
    let read = |barcodes: &[String]| {
        let shelf = Shelf::open(&fixture.media).unwrap();
        read_all(&shelf, barcodes, &mut |_| {})
    };
    let whole = read(&[]).unwrap();
    assert!(whole.len() > 1 && whole.iter().all(|one| one.damaged.is_empty()));
    let first = whole[0].barcode.clone();
    let unknown = read(&["SR9999".to_owned()]).unwrap_err();
    assert!(unknown.to_string().contains("SR9999"), "{unknown}");
    assert!(unknown.to_string().contains(&first), "{unknown}");
    let file = fixture.media.join(format!("{first}.tape"));
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let hurt = read(std::slice::from_ref(&first)).unwrap();
    assert!(hurt.len() == 1 && hurt[0].damaged.len() == 1, "{hurt:?}");
    assert!(hurt[0].damaged[0].pack.is_some(), "{hurt:?}");
    let rest = read(&[]).unwrap();
    assert_eq!(rest.iter().filter(|one| !one.damaged.is_empty()).count(), 1);
}

/// A later session on the same cartridges, whose keys have other recipients.
fn change_keys(media: &Path, passphrase: &str, recovery: &RecoveryKey) {
    let library = Arc::new(VirtualLibrary::open(media).unwrap());
    let config = MediaReader::open(library.clone()).unwrap().config(REPO).unwrap();
    let wraps = crate::vault::wrap(&KEY, REPO, &passphrase.into(), recovery, Cost::TESTING);
    let order = SetOrder {
        set: "yearly".parse().unwrap(),
        identity: MediaIdentity { org: "acme".parse().unwrap(), repo: REPO },
        config,
        keys: RepoKeys::new(REPO, wraps.unwrap()).encode(),
        released: std::collections::BTreeSet::new(),
    };
    let mut writer = MediaSetWriter::open(library, order, Arc::new(SystemClock)).unwrap();
    writer.begin(0).unwrap();
    let plain = b"a pack of its own".to_vec();
    let (pack, bytes) = one_pack(plain);
    writer.put_pack(pack, bytes.len() as u64, &mut std::io::Cursor::new(bytes)).unwrap();
    writer.finish().unwrap();
}

fn one_pack(plain: Vec<u8>) -> (PackId, Vec<u8>) {
    let parcel = Compressor::new()
        .unwrap()
        .pack(&KEY.agent_keys(), BlobKind::Data, vec![], &plain, 1)
        .unwrap();
    let sealed = seal(&KEY, REPO, &parcel).unwrap();
    let (mut builder, header) = PackBuilder::begin(REPO, PackClass::Data, 1);
    builder.push(&sealed).unwrap();
    let (tail, pack, _) = builder.take_finished();
    (pack, [&header[..], &sealed.bytes, &tail].concat())
}

#[tokio::test]
async fn media_open_with_the_newest_secrets_and_with_those_of_older_sessions() {
    let fixture = fixture();
    let second = RecoveryKey::from_bytes([3; 32]);
    change_keys(&fixture.media, "battery staple", &second);
    let shelf = Shelf::open(&fixture.media).unwrap();
    for opener in [
        Opener::Passphrase("battery staple".into()),
        Opener::Passphrase("horse battery".into()),
        Opener::Recovery(second),
        Opener::Recovery(RECOVERY),
    ] {
        assert_eq!(shelf.vault_key(REPO, &opener).unwrap().checks(), KEY.checks());
    }
    drop(shelf);
    for (opener, says, do_this) in [
        (Opener::Passphrase("donkey".into()), "the passphrase is wrong", "--recovery-key-file"),
        (
            Opener::Recovery(RecoveryKey::from_bytes([9; 32])),
            "the recovery key is not the one",
            "another organisation's",
        ),
    ] {
        let refused = fixture.run(fixture.order(b"", &[]), opener).await.unwrap_err().to_string();
        let (line, hint) = refused.split_once("\n  hint: ").unwrap();
        assert!(line.contains(says) && hint.contains(do_this), "{refused}");
    }
    assert!(!fixture.root.path().join("back").exists(), "nothing is written with a wrong key");
}
