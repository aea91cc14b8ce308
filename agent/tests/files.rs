//! Protect, restore and compare on the real file system, with the chunks in memory; judged
//! by our own comparison and, where it is installed, by rsync.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests and what they share")]

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use strongroom_agent::oddities;
use strongroom_agent::restore::compare::compare;
use strongroom_agent::restore::select::Selection;
use strongroom_agent::restore::{Overwrite, Report, RestoreOptions, Restorer};
use strongroom_agent::workload::ChunkSink;
use strongroom_agent::workload::files::cache::CacheKey;
use strongroom_agent::workload::files::{
    CachePlace, Committed, GapReason, Options, Progress, Protected, protect,
};
use strongroom_protocol::{BlobKind, ChunkId, PointId, Reference, RepoId, SystemClock, WorkloadId};
use strongroom_store::content::{Entry, FileContent, Meta, Node};
use strongroom_store::keys::AgentKeys;
use strongroom_store::page::DirectoryBuilder;
use strongroom_store::tree::{Blob, BlobSource, SinkError, SourceError, Tree};

fn keys() -> AgentKeys {
    AgentKeys { id_key: [3; 32], cut_key: (17, 0x9e37_79b1) }
}

/// Blobs in memory that refuses a blob whose references it has not seen.
#[derive(Default)]
struct Blobs(Mutex<HashMap<(BlobKind, ChunkId), Blob>>);

impl ChunkSink for Blobs {
    fn put(
        &self,
        kind: BlobKind,
        references: Vec<Reference>,
        plain: Vec<u8>,
    ) -> Result<ChunkId, SinkError> {
        let id = keys().id(kind, &references, &plain);
        let mut blobs = self.0.lock().unwrap();
        for reference in &references {
            assert!(blobs.contains_key(&(reference.kind, reference.id)), "child after parent");
        }
        blobs.insert((kind, id), Blob { references, plain: plain.into() });
        Ok(id)
    }
}

impl BlobSource for Blobs {
    fn blob(&self, kind: BlobKind, id: ChunkId) -> Result<Blob, SourceError> {
        let blobs = self.0.lock().unwrap();
        blobs.get(&(kind, id)).cloned().ok_or(SourceError::Missing { kind, id })
    }
}

/// Writes to a file whenever a chunk of it is taken.
struct Meddling {
    blobs: Blobs,
    path: PathBuf,
}

impl ChunkSink for Meddling {
    fn put(
        &self,
        kind: BlobKind,
        references: Vec<Reference>,
        plain: Vec<u8>,
    ) -> Result<ChunkId, SinkError> {
        if plain.len() > 100_000 {
            let file = fs::File::options().write(true).open(&self.path).unwrap();
            file.write_all_at(b"meddled", 0).unwrap();
        }
        self.blobs.put(kind, references, plain)
    }
}

fn run(options: &Options, blobs: &Blobs) -> Protected {
    let progress = Progress::default();
    protect(options, blobs, &progress, &AtomicBool::new(false), &SystemClock).unwrap()
}

fn options(root: &Path) -> Options {
    Options::new(root, keys().cut_key)
}

fn restore(blobs: &Blobs, protected: &Protected, options: RestoreOptions) -> Report {
    let tree = Tree::new(blobs, protected.root);
    let page = protected.item.directory_page().unwrap();
    let restorer = Restorer::new(options, Arc::new(AtomicBool::new(false)));
    restorer.run(&tree, page, Some(protected.item.meta.clone())).unwrap()
}

fn differences(left: &Path, right: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut note = |difference: strongroom_agent::restore::compare::Difference| {
        let path = difference.path.escape_ascii().to_string();
        let tail = &path[path.len().saturating_sub(100)..];
        found.push(format!("{tail}: {:?} {}", difference.aspect, difference.detail));
    };
    let compared = compare(left, right, &mut note).unwrap();
    assert!(compared.entries > 0);
    found
}

fn rsync_sees_no_difference(left: &Path, right: &Path) {
    let output = Command::new("rsync")
        .args(["-aHAXn", "--checksum", "--delete", "--itemize-changes", "--exclude=deep"])
        .arg("--exclude=huge")
        .arg(format!("{}/", left.display()))
        .arg(format!("{}/", right.display()))
        .output();
    let Ok(output) = output else { return };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
}

fn odd() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    fs::create_dir(&source).unwrap();
    eprintln!("not made: {:?}", oddities::make(&source).unwrap());
    (dir, source, target)
}

#[test]
fn every_odd_file_comes_back_as_it_was() {
    let (_dir, source, target) = odd();
    let blobs = Blobs::default();
    let protected = run(&options(&source), &blobs);
    assert_eq!(protected.gaps, vec![]);
    let report = restore(&blobs, &protected, RestoreOptions::new(&target));
    assert_eq!(report.problems, vec![]);
    assert_eq!(differences(&source, &target), Vec::<String>::new());
    rsync_sees_no_difference(&source, &target);
    assert!(report.links > 5, "{report:?}");
    let again = run(&options(&source), &blobs);
    assert_eq!(again.root, protected.root, "an unchanged tree is the same page");
}

#[test]
fn comparison_and_its_judge_see_what_was_changed() {
    let (_dir, source, target) = odd();
    let blobs = Blobs::default();
    let protected = run(&options(&source), &blobs);
    restore(&blobs, &protected, RestoreOptions::new(&target));
    let file = target.join("sizes/4096");
    let kept = fs::metadata(&file).unwrap().modified().unwrap();
    let open = fs::File::options().write(true).open(&file).unwrap();
    open.write_all_at(b"!", 100).unwrap();
    open.set_modified(kept).unwrap();
    fs::remove_file(target.join("names/order-before")).unwrap();
    let found = differences(&source, &target);
    assert!(found.iter().any(|d| d.contains("4096: Bytes")), "{found:?}");
    assert!(found.iter().any(|d| d.contains("order-before: Missing")), "{found:?}");
}

#[test]
fn a_second_run_with_the_cache_reads_only_what_changed() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    oddities::make(&source).unwrap();
    // Older than the granularity of time stamps.
    std::thread::sleep(std::time::Duration::from_millis(2200));
    let key = |point: u64| CacheKey {
        repo: RepoId::from_bytes([1; 16]),
        workload: WorkloadId::from_bytes([2; 16]),
        point: PointId::from_bytes([u8::try_from(point).unwrap(); 16]),
    };
    let cached = |last: Option<u64>, this: u64| {
        let mut options = options(&source);
        let path = dir.path().join("cache");
        options.cache = Some(CachePlace { path, last: last.map(key), this: key(this) });
        options
    };
    let blobs = Blobs::default();
    let first = run(&cached(None, 1), &blobs);
    assert!(first.statistics.read_bytes > 1 << 20);
    let root = first.root;
    first.finish(Committed::Yes).unwrap();
    let second = run(&cached(Some(1), 2), &blobs);
    assert_eq!(second.root, root);
    assert_eq!(second.statistics.read_bytes, 0);
    assert_eq!(second.statistics.unchanged, second.statistics.files);
    second.finish(Committed::No).unwrap();
    // Not committed: the cache is still that of the first point.
    let lost = run(&cached(Some(2), 3), &blobs);
    assert_eq!((lost.root, lost.statistics.unchanged), (root, 0));
    drop(lost);
    fs::write(source.join("sizes/4096"), b"new content").unwrap();
    let third = run(&cached(Some(1), 3), &blobs);
    assert_eq!(third.statistics.read_bytes, 11);
    assert_ne!(third.root, root);
    drop(third);
    let path = dir.path().join("cache");
    let mut damaged = fs::read(&path).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(&path, damaged).unwrap();
    let fourth = run(&cached(Some(1), 4), &blobs);
    assert!(fourth.statistics.read_bytes > 11);
    let plain = run(&options(&source), &blobs);
    assert_eq!(plain.statistics.file_bytes, fourth.statistics.file_bytes);
}

#[test]
fn in_place_restore_writes_only_what_differs() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("s"), dir.path().join("t"));
    fs::create_dir(&source).unwrap();
    let mut bytes = vec![0; 20 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    fs::write(source.join("long"), &bytes).unwrap();
    fs::write(source.join("small"), &bytes[..5000]).unwrap();
    let blobs = Blobs::default();
    let protected = run(&options(&source), &blobs);
    let in_place = || RestoreOptions {
        overwrite: Overwrite::IfDifferent,
        keys: Some(keys()),
        ..RestoreOptions::new(&target)
    };
    assert_eq!(restore(&blobs, &protected, in_place()).bytes_written, bytes.len() as u64 + 5000);
    let before = fs::metadata(target.join("long")).unwrap().ino();
    let open = fs::File::options().write(true).open(target.join("long")).unwrap();
    open.write_all_at(b"damage", 7 << 20).unwrap();
    let report = restore(&blobs, &protected, in_place());
    assert!(report.bytes_written <= 768 << 10, "{report:?}");
    assert!(report.chunks_fetched <= 2, "{report:?}");
    assert_eq!(fs::metadata(target.join("long")).unwrap().ino(), before);
    assert_eq!(differences(&source, &target), Vec::<String>::new());
    fs::write(target.join("small"), b"mine").unwrap();
    let never = restore(&blobs, &protected, RestoreOptions::new(&target));
    assert_eq!((never.skipped, never.bytes_written), (2, 0));
    assert_eq!(fs::read(target.join("small")).unwrap(), b"mine");
}

#[test]
fn selection_restores_what_was_asked_and_the_way_to_it() {
    let (_dir, source, target) = odd();
    let blobs = Blobs::default();
    let protected = run(&options(&source), &blobs);
    let paths = vec![b"links/a".to_vec(), b"sizes/4096".to_vec()];
    let selection = Selection::new(paths, &["before-*".to_owned()]).unwrap();
    let report =
        restore(&blobs, &protected, RestoreOptions { selection, ..RestoreOptions::new(&target) });
    assert_eq!(report.problems, vec![]);
    let mut top: Vec<_> = fs::read_dir(&target).unwrap().map(|e| e.unwrap().file_name()).collect();
    top.sort();
    assert_eq!(top, ["links", "sizes", "times"]);
    assert_eq!(fs::read_dir(target.join("sizes")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(target.join("times")).unwrap().count(), 2);
    assert!(!target.join("links/b").exists());
    assert!(target.join("links/a/long-beside").exists());
}

#[test]
fn what_changes_while_it_is_read_is_a_gap_and_the_rest_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("still"), vec![1; 1000]).unwrap();
    fs::write(dir.path().join("busy"), vec![2; 8 << 20]).unwrap();
    let blobs = Meddling { blobs: Blobs::default(), path: dir.path().join("busy") };
    let progress = Progress::default();
    let never = AtomicBool::new(false);
    let options = options(dir.path());
    let protected = protect(&options, &blobs, &progress, &never, &SystemClock).unwrap();
    let blobs = blobs.blobs;
    assert!(protected.statistics.read_bytes >= 3 * (8 << 20), "read again twice");
    assert_eq!(protected.gaps.len(), 1);
    assert_eq!(protected.gaps[0].path, b"busy");
    assert_eq!(protected.gaps[0].reason, GapReason::Changed);
    assert_eq!((protected.statistics.files, protected.statistics.gaps), (1, 1));
    assert!(Tree::new(&blobs, protected.root).lookup(b"files/busy").unwrap().is_some());
}

#[test]
fn a_restore_never_leaves_its_target() {
    let dir = tempfile::tempdir().unwrap();
    let (target, outside) = (dir.path().join("t"), dir.path().join("outside"));
    fs::create_dir_all(&target).unwrap();
    fs::create_dir_all(&outside).unwrap();
    // A symlink laid where the tree has a directory and a file.
    std::os::unix::fs::symlink(&outside, target.join("dir")).unwrap();
    std::os::unix::fs::symlink(outside.join("file"), target.join("file")).unwrap();
    let source = dir.path().join("s");
    fs::create_dir_all(source.join("dir")).unwrap();
    fs::write(source.join("dir/inside"), b"x").unwrap();
    fs::write(source.join("file"), b"y").unwrap();
    let blobs = Blobs::default();
    let protected = run(&options(&source), &blobs);
    for overwrite in [Overwrite::Never, Overwrite::IfDifferent] {
        let options = RestoreOptions { overwrite, ..RestoreOptions::new(&target) };
        let report = restore(&blobs, &protected, options);
        assert!(report.problem_count > 0, "{report:?}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }
    let options = RestoreOptions { overwrite: Overwrite::Always, ..RestoreOptions::new(&target) };
    let report = restore(&blobs, &protected, options);
    assert_eq!(report.problems, vec![]);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert_eq!(differences(&source, &target), Vec::<String>::new());
}

#[test]
fn a_missing_chunk_costs_its_file_alone() {
    let (_dir, source, target) = odd();
    let blobs = Blobs::default();
    let protected = run(&options(&source), &blobs);
    let tree = Tree::new(&blobs, protected.root);
    let entry = tree.lookup(b"files/sizes/3000001").unwrap().unwrap();
    let Node::File { content: FileContent::Extents(extents), .. } = &entry.node else { panic!() };
    let strongroom_store::content::ChunkExtent::Chunk { id, .. } = extents[1] else { panic!() };
    blobs.0.lock().unwrap().remove(&(BlobKind::Data, id)).unwrap();
    let report = restore(&blobs, &protected, RestoreOptions::new(&target));
    let paths: Vec<_> = report.problems.iter().map(|problem| problem.path.clone()).collect();
    assert_eq!(paths.len(), 2, "the file and its copy: {paths:?}");
    assert!(!target.join("sizes/3000001").exists(), "never there without being whole");
    assert!(target.join("sizes/1048576").exists());
}

#[test]
fn hostile_names_never_reach_the_file_system() {
    for name in ["..", ".", "a/b", ""] {
        let meta = Meta::default();
        let entry = Entry { name: name.into(), node: Node::Fifo, meta };
        let mut sink = strongroom_store::tree::MemoryBlobs::new();
        assert!(DirectoryBuilder::new().push(entry, &mut sink).is_err(), "{name:?}");
    }
}

/// Runs as nobody when started by the test below.
#[test]
fn child_without_rights() {
    let Some(place) = std::env::var_os("STRONGROOM_DENIED") else { return };
    let blobs = Blobs::default();
    let protected = run(&options(Path::new(&place)), &blobs);
    let gaps: Vec<_> = protected.gaps.iter().map(|gap| (&gap.path[..], &gap.reason)).collect();
    assert_eq!(gaps, [(&b"closed"[..], &GapReason::Denied), (&b"secret"[..], &GapReason::Denied)]);
    assert_eq!((protected.statistics.files, protected.statistics.gaps), (1, 2));
}

#[test]
fn what_may_not_be_read_is_a_gap_and_the_rest_is_kept() {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    let dir = tempfile::tempdir().unwrap();
    if fs::metadata(dir.path()).unwrap().uid() != 0 {
        return;
    }
    mode(dir.path(), 0o755).unwrap();
    fs::create_dir(dir.path().join("closed")).unwrap();
    fs::write(dir.path().join("closed/inside"), b"x").unwrap();
    mode(&dir.path().join("closed"), 0o700).unwrap();
    for (name, bits) in [("open", 0o644), ("secret", 0o600)] {
        fs::write(dir.path().join(name), b"x").unwrap();
        mode(&dir.path().join(name), bits).unwrap();
    }
    // A copy that nobody may reach and run.
    let program = dir.path().join("../").canonicalize().unwrap();
    let program = program.join(format!("strongroom-denied-{}", std::process::id()));
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let child = Command::new(&program)
        .args(["--exact", "child_without_rights"])
        .env("STRONGROOM_DENIED", dir.path())
        .current_dir("/")
        .gid(65534)
        .uid(65534)
        .output();
    fs::remove_file(&program).unwrap();
    let child = child.unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
}
