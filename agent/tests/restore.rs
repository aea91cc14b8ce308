//! Restores by windows: chunks that come in any order, chunks that many files need, chunks that
//! are gone, targets that hold most of it already, restores that are killed, and memory.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests and what they share")]

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use strongroom_agent::restore::compare::compare;
use strongroom_agent::restore::{Overwrite, Report, RestoreOptions, Restorer};
use strongroom_agent::workload::ChunkSink;
use strongroom_agent::workload::files::{Options, Progress, Protected, protect};
use strongroom_protocol::{BlobKind, ChunkId, Reference, SystemClock};
use strongroom_store::content::{ChunkExtent, Entry, Node};
use strongroom_store::keys::AgentKeys;
use strongroom_store::tree::{
    Blob, BlobSource, Gather, InOrder, SinkError, SourceError, Step, Tree,
};

fn keys() -> AgentKeys {
    AgentKeys { id_key: [3; 32], cut_key: (17, 0x9e37_79b1) }
}

/// Blobs in memory that come in an order of no meaning, and are counted.
#[derive(Default)]
struct Blobs {
    held: Mutex<HashMap<(BlobKind, ChunkId), Blob>>,
    chunks_given: AtomicU64,
    slow: AtomicBool,
}

impl ChunkSink for Blobs {
    fn put(
        &self,
        kind: BlobKind,
        references: Vec<Reference>,
        plain: Vec<u8>,
    ) -> Result<ChunkId, SinkError> {
        let id = keys().id(kind, &references, &plain);
        self.held.lock().unwrap().insert((kind, id), Blob { references, plain: plain.into() });
        Ok(id)
    }
}

impl BlobSource for Blobs {
    fn blob(&self, kind: BlobKind, id: ChunkId) -> Result<Blob, SourceError> {
        if kind == BlobKind::Data {
            self.chunks_given.fetch_add(1, Ordering::Relaxed);
            if self.slow.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        let held = self.held.lock().unwrap();
        held.get(&(kind, id)).cloned().ok_or(SourceError::Missing { kind, id })
    }

    fn gather<'s>(&'s self, mut ids: Vec<ChunkId>) -> Box<dyn Gather + 's> {
        // Names are hashes: their order is none of the tree's.
        ids.sort_unstable_by_key(|id| blake3::hash(&id.0).as_bytes().to_owned());
        Box::new(InOrder::new(self, ids))
    }
}

fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut noise);
    noise
}

fn run(source: &Path, blobs: &Blobs) -> Protected {
    let (options, stop) = (Options::new(source, keys().cut_key), AtomicBool::new(false));
    protect(&options, blobs, &Progress::default(), &stop, &SystemClock).unwrap()
}

fn restore(blobs: &Blobs, protected: &Protected, options: RestoreOptions) -> Report {
    let tree = Tree::new(blobs, protected.root);
    let page = protected.item.directory_page().unwrap();
    let restorer = Restorer::new(options, Arc::default());
    restorer.run(&tree, page, Some(protected.item.meta.clone())).unwrap()
}

fn in_place(target: &Path) -> RestoreOptions {
    let keys = Some(keys());
    RestoreOptions { overwrite: Overwrite::IfDifferent, keys, ..RestoreOptions::new(target) }
}

fn differences(left: &Path, right: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut note = |difference: strongroom_agent::restore::compare::Difference| {
        let path = difference.path.escape_ascii();
        found.push(format!("{path}: {:?} {}", difference.aspect, difference.detail));
    };
    compare(left, right, &mut note).unwrap();
    found
}

/// Forty directories of fifty short files and some long ones.
fn tree(source: &Path) {
    for dir in 0..40_u64 {
        let path = source.join(format!("dir-{dir:02}"));
        fs::create_dir_all(&path).unwrap();
        for file in 0..50_u64 {
            let bytes = 300 + (dir * 977 + file * 131) % 9000;
            let content = noise(usize::try_from(bytes).unwrap(), dir * 1000 + file);
            fs::write(path.join(format!("file-{file:02}")), content).unwrap();
        }
        if dir % 10 == 0 {
            fs::write(path.join("long"), noise(5 << 20, dir)).unwrap();
        }
    }
}

#[test]
fn chunks_may_come_in_any_order_and_each_comes_once() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("s"), dir.path().join("t"));
    tree(&source);
    let blobs = Blobs::default();
    let protected = run(&source, &blobs);
    let chunks = blobs.held.lock().unwrap().keys().filter(|key| key.0 == BlobKind::Data).count();
    let report = restore(&blobs, &protected, RestoreOptions::new(&target));
    assert_eq!(report.problems, vec![]);
    assert_eq!(report.files, 40 * 50 + 4);
    assert_eq!(differences(&source, &target), Vec::<String>::new());
    assert_eq!(report.chunks_fetched, chunks as u64);
    assert_eq!(blobs.chunks_given.load(Ordering::Relaxed), chunks as u64);
}

#[test]
fn a_chunk_with_thousands_of_places_is_had_once() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("s"), dir.path().join("t"));
    fs::create_dir(&source).unwrap();
    for file in 0..2500 {
        fs::write(source.join(format!("same-{file}")), noise(1000, 7)).unwrap();
    }
    // A long file of one stretch again and again.
    fs::write(source.join("again"), noise(1 << 20, 9).repeat(24)).unwrap();
    let blobs = Blobs::default();
    let protected = run(&source, &blobs);
    let chunks = blobs.held.lock().unwrap().keys().filter(|key| key.0 == BlobKind::Data).count();
    let report = restore(&blobs, &protected, RestoreOptions::new(&target));
    assert_eq!(differences(&source, &target), Vec::<String>::new());
    assert_eq!((report.files, report.chunks_fetched), (2501, chunks as u64));
    assert!(report.bytes_fetched < 6 << 20, "{report:?}");
}

/// The paths whose content lies in the chunk.
fn need(blobs: &Blobs, protected: &Protected, chunk: ChunkId) -> BTreeSet<Vec<u8>> {
    let tree = Tree::new(blobs, protected.root);
    let mut paths = BTreeSet::new();
    for step in tree.walk_from(protected.item.directory_page().unwrap(), b"") {
        let Step::Enter { path, entry } = step else { continue };
        let Node::File { content, .. } = &entry.node else { continue };
        let mut extents = tree.extents(content).map(|placed| placed.unwrap().extent);
        if extents.any(|extent| matches!(extent, ChunkExtent::Chunk { id, .. } if id == chunk)) {
            paths.insert(path);
        }
    }
    paths
}

fn bytes_in(source: &Path, path: &[u8]) -> u64 {
    fs::metadata(source.join(std::str::from_utf8(path).unwrap())).unwrap().len()
}

fn first_chunk(blobs: &Blobs, protected: &Protected, path: &[u8]) -> ChunkId {
    let tree = Tree::new(blobs, protected.root);
    let Entry { node, .. } = tree.lookup(path).unwrap().unwrap();
    let Node::File { content, .. } = node else { panic!("no file") };
    match tree.extents(&content).next().unwrap().unwrap().extent {
        ChunkExtent::Chunk { id, .. } => id,
        ChunkExtent::Hole { .. } => panic!("no chunk"),
    }
}

#[test]
fn a_lost_chunk_costs_exactly_the_files_that_need_it() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("s");
    tree(&source);
    let blobs = Blobs::default();
    let protected = run(&source, &blobs);
    for (number, path) in [&b"files/dir-07/file-11"[..], b"files/dir-10/long"].iter().enumerate() {
        let target = dir.path().join(format!("t{number}"));
        let chunk = first_chunk(&blobs, &protected, path);
        let hurt = need(&blobs, &protected, chunk);
        let lost = blobs.held.lock().unwrap().remove(&(BlobKind::Data, chunk)).unwrap();
        let report = restore(&blobs, &protected, RestoreOptions::new(&target));
        let named: BTreeSet<Vec<u8>> =
            report.problems.iter().map(|problem| problem.path.clone()).collect();
        assert_eq!(named, hurt);
        assert_eq!(report.problem_count, hurt.len() as u64, "each is named once");
        assert_eq!(report.files, 2004 - hurt.len() as u64);
        // What is not named is right, and what is has no name.
        let different = differences(&source, &target);
        let missing = different.iter().filter(|line| line.contains("Missing")).count();
        assert_eq!(missing, hurt.len(), "{different:?}");
        blobs.held.lock().unwrap().insert((BlobKind::Data, chunk), lost);
        // The next try makes it whole, and asks for nothing but what these files are made of.
        let report = restore(&blobs, &protected, in_place(&target));
        assert_eq!(report.problems, vec![]);
        let whole: u64 = hurt.iter().map(|path| bytes_in(&source, path)).sum();
        assert!(report.bytes_fetched <= whole + (1 << 20), "{report:?}");
        assert_eq!(differences(&source, &target), Vec::<String>::new());
    }
}

#[test]
fn in_place_only_what_differs_is_fetched_and_written() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("s"), dir.path().join("t"));
    tree(&source);
    let blobs = Blobs::default();
    let protected = run(&source, &blobs);
    restore(&blobs, &protected, RestoreOptions::new(&target));
    let nothing = restore(&blobs, &protected, in_place(&target));
    assert_eq!((nothing.chunks_fetched, nothing.bytes_written), (0, 0), "{nothing:?}");
    assert_eq!(nothing.files, 2004);

    // A short file with one byte changed, one that is gone, one that is longer, and a long one
    // with a block overwritten and its end cut off.
    let short = fs::File::options().write(true).open(target.join("dir-03/file-20")).unwrap();
    short.write_all_at(b"x", 100).unwrap();
    fs::remove_file(target.join("dir-03/file-21")).unwrap();
    fs::write(target.join("dir-03/file-22"), noise(20_000, 1)).unwrap();
    let long = fs::File::options().write(true).open(target.join("dir-20/long")).unwrap();
    long.write_all_at(&[0; 4096], 1 << 20).unwrap();
    long.set_len((5 << 20) - 1000).unwrap();
    let size = |name: &str| fs::metadata(source.join(name)).unwrap().len();
    let short_bytes = size("dir-03/file-20").min(4096) + size("dir-03/file-21");
    let report = restore(&blobs, &protected, in_place(&target));
    assert_eq!(report.problems, vec![]);
    assert_eq!(differences(&source, &target), Vec::<String>::new());
    // The bundle of the short files, and two chunks of the long one.
    assert!(report.chunks_fetched <= 5, "{report:?}");
    let most = short_bytes + size("dir-03/file-22") + 2 * 4096 + (2 << 20);
    assert!(report.bytes_written <= most, "{report:?}");
    assert!(report.bytes_written >= 1000 + 4096, "{report:?}");
    assert!(report.bytes_fetched <= 8 << 20, "{report:?}");
}

#[test]
fn a_second_try_that_overwrites_nothing_says_what_of_the_first_is_not_right() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("s"), dir.path().join("t"));
    tree(&source);
    fs::write(source.join("empty"), b"").unwrap();
    fs::File::create(source.join("hole")).unwrap().set_len(1 << 20).unwrap();
    std::os::unix::fs::symlink("empty", source.join("link")).unwrap();
    std::os::unix::fs::symlink("hole", source.join("other-link")).unwrap();
    let blobs = Blobs::default();
    let protected = run(&source, &blobs);
    let again = || RestoreOptions { keys: Some(keys()), ..RestoreOptions::new(&target) };
    let first = restore(&blobs, &protected, again());
    assert_eq!(first.problems, vec![]);
    let second = restore(&blobs, &protected, again());
    assert_eq!(second.problems, vec![]);
    assert_eq!((second.files, second.others, second.skipped), (2006, 2, 0), "{second:?}");
    assert_eq!((second.chunks_fetched, second.bytes_written), (0, 0), "{second:?}");

    // As a power cut may leave them: names without their bytes. And what was never there.
    fs::File::options()
        .write(true)
        .open(target.join("dir-03/file-20"))
        .unwrap()
        .set_len(0)
        .unwrap();
    let long = fs::File::options().write(true).open(target.join("dir-20/long")).unwrap();
    long.write_all_at(&[0; 4096], 1 << 20).unwrap();
    let hole = fs::File::options().write(true).open(target.join("hole")).unwrap();
    hole.write_all_at(b"x", 1000).unwrap();
    fs::remove_file(target.join("other-link")).unwrap();
    std::os::unix::fs::symlink("elsewhere", target.join("other-link")).unwrap();
    fs::remove_file(target.join("dir-05/file-10")).unwrap();
    let third = restore(&blobs, &protected, again());
    let mut named: Vec<&[u8]> = third.problems.iter().map(|of| &of.path[..]).collect();
    named.sort_unstable();
    let wrong = [&b"dir-03/file-20"[..], b"dir-20/long", b"hole", b"other-link"];
    assert_eq!(named, wrong, "{:?}", third.problems);
    assert_eq!((third.files, third.others, third.skipped), (2003, 1, 4), "{third:?}");
    assert_eq!(fs::metadata(target.join("dir-03/file-20")).unwrap().len(), 0, "left alone");
    assert!(target.join("dir-05/file-10").exists());
    assert!(third.bytes_fetched < 8 << 20, "{third:?}");
    let mended = restore(&blobs, &protected, in_place(&target));
    assert_eq!(mended.problems, vec![]);
    assert_eq!(differences(&source, &target), Vec::<String>::new());
}

/// Restores slowly, to be killed by the test below.
#[test]
fn child_restores() {
    let Some(place) = std::env::var_os("STRONGROOM_RESTORES") else { return };
    let dir = Path::new(&place);
    let blobs = Blobs::default();
    let protected = run(&dir.join("s"), &blobs);
    blobs.slow.store(true, Ordering::Relaxed);
    println!("begins");
    restore(&blobs, &protected, RestoreOptions::new(dir.join("t")));
}

#[test]
fn a_killed_restore_leaves_only_whole_files_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("s"), dir.path().join("t"));
    tree(&source);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_restores", "--nocapture"])
        .env("STRONGROOM_RESTORES", dir.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let count = || -> usize {
        let Ok(dirs) = fs::read_dir(&target) else { return 0 };
        dirs.flatten().filter_map(|dir| fs::read_dir(dir.path()).ok()).map(Iterator::count).sum()
    };
    for _ in 0..3000 {
        if count() > 300 {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!((300..2004).contains(&count()), "killed in the middle: {}", count());
    for entry in fs::read_dir(&target).unwrap() {
        let dir = entry.unwrap();
        for file in fs::read_dir(dir.path()).unwrap() {
            let file = file.unwrap();
            let name = file.file_name();
            if name.to_string_lossy().starts_with(".strongroom-") {
                continue;
            }
            let expected = source.join(dir.file_name()).join(&name);
            assert!(fs::read(file.path()).unwrap() == fs::read(expected).unwrap(), "{name:?}");
        }
    }
    let blobs = Blobs::default();
    let protected = run(&source, &blobs);
    let chunks = blobs.held.lock().unwrap().keys().filter(|key| key.0 == BlobKind::Data).count();
    let report = restore(&blobs, &protected, in_place(&target));
    assert_eq!(report.problems, vec![]);
    assert!(report.chunks_fetched < chunks as u64, "{report:?}");
    assert_eq!(differences(&source, &target), Vec::<String>::new());
}
