//! Media read without this program: a point of a whole site, put on cartridges of a directory
//! and of a SCSI library (tgt), comes back by a second reader that was written from the
//! documents (`tests/reader/medium.py`), equal in everything; and by this program from SCSI.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../../store/tests/scsi_kit/mod.rs"]
mod scsi_kit;

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::fs::{CWD, FileType, Mode};
use scsi_kit::Tgt;
use strongroom_agent::recover::item;
use strongroom_agent::restore::compare::compare;
use strongroom_agent::restore::{RestoreOptions, Restorer};
use strongroom_node::home::{Home, Settings};
use strongroom_protocol::PointId;
use strongroom_store::disk::LocalDisk;
use strongroom_store::keys::VaultKey;
use strongroom_store::media::{MediaReader, stage};
use strongroom_store::repo::{Mode as Access, Repo};
use strongroom_store::tree::Tree;
use strongroom_tests::site::{TwoSites, policy};

/// Bytes that neither compress nor repeat.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Of every way in which content and entries are kept, a little: the reader is slow on purpose.
fn plant(dir: &Path) {
    let put = |name: &str, bytes: &[u8]| fs::write(dir.join(name), bytes).unwrap();
    put("empty", b"");
    put("inline", &noise(256, 1));
    put("chunks", &noise(600_000, 2));
    put("zeros", &[0; 300_000]);
    (0..30).for_each(|n| put(&format!("bundled-{n}"), &noise(2000, 100 + n)));
    let sparse = File::create(dir.join("sparse")).unwrap();
    sparse.set_len(3 << 20).unwrap();
    sparse.write_all_at(&noise(5000, 3), 2 << 20).unwrap();
    fs::write(dir.join(std::ffi::OsStr::from_bytes(b"\xff\nodd")), b"name").unwrap();
    symlink("nowhere/at all", dir.join("link")).unwrap();
    fs::hard_link(dir.join("chunks"), dir.join("linked")).unwrap();
    rustix::fs::mknodat(CWD, dir.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o604), 0)
        .unwrap();
    fs::create_dir_all(dir.join("deep/er/and deeper")).unwrap();
    fs::set_permissions(dir.join("deep"), fs::Permissions::from_mode(0o2750)).unwrap();
    // More than one page of names.
    fs::create_dir(dir.join("many")).unwrap();
    for n in 0..900 {
        File::create(dir.join(format!("many/{n:04}-{}", "x".repeat(60)))).unwrap();
    }
}

/// Protects `source` and waits for the copy on media; both sites are stopped then.
async fn on_media(sites: &TwoSites, source: &Path) -> PointId {
    let coordinator = sites.start_coordinator().unwrap();
    sites.enrol_agent("host1").await.unwrap();
    let agent = sites.start_agent("host1").unwrap();
    sites.introduce_proxy().await.unwrap();
    let proxy = sites.start_proxy().unwrap();
    sites.await_nodes(2).await.unwrap();
    sites.apply(&policy(source)).await.unwrap();
    let job = sites.protect("tree@host1").await.unwrap();
    assert_eq!(job.state, "succeeded", "{job:?}");
    let point = sites.await_copy("tape", "hash-verified").await.unwrap().id;
    agent.stop().await.unwrap();
    coordinator.stop().await.unwrap();
    proxy.stop().await.unwrap();
    point
}

/// Python is among the packages of the tests.
fn script() -> Command {
    let mut command = Command::new("python3");
    command.arg("-B").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("reader/medium.py"));
    command
}

fn second_reader(key: &str, into: &Path, cartridge: &Path) -> Output {
    let mut command = script();
    command.args(["--recovery-key", key, "--into"]).arg(into).arg(cartridge);
    command.output().unwrap()
}

fn same(source: &Path, target: &Path) {
    let mut differences = Vec::new();
    compare(source, target, &mut |difference| differences.push(difference)).unwrap();
    assert_eq!(differences, vec![], "{} differs", target.display());
}

#[test]
fn a_second_reader_opens_media_of_every_released_format() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/vault");
    let text = "A line that comes again and again, as in a log.\n".repeat(400);
    for (format, keys) in [("v01", vec![[0x44; 32]]), ("v01-epochs", vec![[0x44; 32], [0x88; 32]])]
    {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("vault.key");
        fs::write(&key, keys.concat()).unwrap();
        let into = dir.path().join("into");
        let mut command = script();
        command.arg("--vault-key").arg(&key).arg("--into").arg(&into);
        let output = command.arg(golden.join(format).join("library/G00001L9.tape")).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let log = fs::read(into.join("log")).unwrap();
        assert!(log == [vec![0; 4096], text.clone().into_bytes()].concat(), "{format}");
        assert_eq!(fs::read_link(into.join("link")).unwrap(), Path::new("../elsewhere"));
    }
}

/// What the second reader restored equals the source; nothing but the item is there.
fn restores_by_itself(sites: &TwoSites, source: &Path, cartridge: &Path) {
    let into = sites.dir.join("by-another-reader");
    let output = second_reader(&sites.recovery.to_text(), &into, cartridge);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let items = fs::read_dir(&into).unwrap();
    let items: Vec<PathBuf> = items.map(|item| item.unwrap().path()).collect();
    assert_eq!(items.len(), 1, "{items:?}");
    same(source, &items[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_reader_restores_a_point_from_a_cartridge_alone() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    plant(&source);
    let sites = TwoSites::make(dir.path()).unwrap();
    on_media(&sites, &source).await;
    let cartridge = sites.home("proxy").join("library/T00001L9.tape");
    restores_by_itself(&sites, &source, &cartridge);

    let other = strongroom_certs::RecoveryKey::generate().unwrap();
    let into = dir.path().join("wrong-key");
    let refused = second_reader(&other.to_text(), &into, &cartridge);
    assert!(!refused.status.success() && !into.exists());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("seal does not hold"));
    let mut bytes = fs::read(&cartridge).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let hurt = dir.path().join("hurt.tape");
    fs::write(&hurt, bytes).unwrap();
    let refused = second_reader(&sites.recovery.to_text(), &into, &hurt);
    assert!(!refused.status.success() && !into.exists());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("does not hold"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_on_a_scsi_library_comes_back_by_both_readers() {
    let tgt = Tgt::start(2, 64);
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    plant(&source);
    let sites = TwoSites::make(dir.path()).unwrap();
    let settings = Home::open(&sites.home("proxy")).unwrap().settings().clone();
    let library = Some(PathBuf::from(tgt.text()));
    Home::create(&sites.home("proxy"), Settings { library, ..settings }).unwrap();
    let point = on_media(&sites, &source).await;
    restores_by_itself(&sites, &source, &tgt.cartridge(1));

    let key = fs::read(sites.home("proxy").join("vault.key")).unwrap();
    let reader = MediaReader::open(tgt.library()).unwrap();
    let staged = dir.path().join("staged");
    let (_, data) = stage(&reader, point, &staged).unwrap();
    assert!(data.missing.is_empty(), "{data:?}");
    let key = VaultKey::from_secret(&key).unwrap();
    let repo = Repo::open(Arc::new(LocalDisk::new(&staged)), &key, Access::Read).unwrap();
    let root = repo.point(point).unwrap().body.root;
    let tree = Tree::new(repo, root);
    let (page, meta) = item(&tree).unwrap();
    let target = dir.path().join("from-scsi");
    let restorer = Restorer::new(RestoreOptions::new(&target), Arc::new(AtomicBool::new(false)));
    assert_eq!(restorer.run(&tree, page, Some(meta)).unwrap().problems, vec![]);
    same(&source, &target);
}
