//! Runs with the cache of the last one: what they find is what a run without a cache finds,
//! whatever changed in between, and what did not change costs neither reading nor a page.

#![allow(clippy::unwrap_used, reason = "tests and what they share")]

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use proptest::prelude::*;
use strongroom_agent::oddities;
use strongroom_agent::workload::ChunkSink;
use strongroom_agent::workload::files::cache::CacheKey;
use strongroom_agent::workload::files::{
    CachePlace, Committed, Options, Progress, Protected, protect,
};
use strongroom_protocol::{
    BlobKind, ChunkId, Clock, PointId, Reference, RepoId, SystemClock, Timestamp, WorkloadId,
};
use strongroom_store::keys::AgentKeys;
use strongroom_store::tree::SinkError;

/// Longer than the kernel's tick, within which two changes may bear one time.
const TICK: Duration = Duration::from_millis(15);

fn keys() -> AgentKeys {
    AgentKeys { id_key: [3; 32], cut_key: (17, 0x9e37_79b1) }
}

/// A clock so far ahead that every change lies longer ago than the granularity of times.
struct Ahead;

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        Timestamp(SystemClock.now().0 + 10_000_000_000)
    }
}

/// Counts what is put, refuses a page whose references it has not seen, and may meddle.
#[derive(Default)]
struct Sink {
    known: Mutex<HashMap<ChunkId, usize>>,
    meddle: Mutex<Option<PathBuf>>,
}

impl Sink {
    fn puts(&self) -> usize {
        self.known.lock().unwrap().values().sum()
    }
}

impl ChunkSink for Sink {
    fn put(
        &self,
        kind: BlobKind,
        references: Vec<Reference>,
        plain: Vec<u8>,
    ) -> Result<ChunkId, SinkError> {
        let id = keys().id(kind, &references, &plain);
        let mut known = self.known.lock().unwrap();
        assert!(references.iter().all(|reference| known.contains_key(&reference.id)));
        *known.entry(id).or_default() += 1;
        if plain.len() > 100_000
            && let Some(path) = self.meddle.lock().unwrap().as_ref()
        {
            fs::File::options().write(true).open(path).unwrap().write_all_at(b"no", 0).unwrap();
        }
        Ok(id)
    }
}

/// A tree with its cache.
struct Place {
    dir: tempfile::TempDir,
    sink: Sink,
    runs: u8,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tree")).unwrap();
        Self { dir, sink: Sink::default(), runs: 0 }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join("tree").join(path)
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        fs::write(self.at(path), bytes).unwrap();
    }

    fn options(&self) -> Options {
        Options::new(self.at(""), keys().cut_key)
    }

    fn run(&self, options: &Options, clock: &dyn Clock) -> Protected {
        let progress = Progress::default();
        protect(options, &self.sink, &progress, &AtomicBool::new(false), clock).unwrap()
    }

    fn plain(&self) -> Protected {
        self.run(&self.options(), &SystemClock)
    }

    fn again_by(&mut self, clock: &dyn Clock) -> Protected {
        std::thread::sleep(TICK);
        let key = |run: u8| CacheKey {
            repo: RepoId::from_bytes([1; 16]),
            workload: WorkloadId::from_bytes([2; 16]),
            point: PointId::from_bytes([run; 16]),
        };
        let (last, this) = (Some(key(self.runs)), key(self.runs + 1));
        self.runs += 1;
        let cache = Some(CachePlace { path: self.dir.path().join("cache"), last, this });
        let done = self.run(&Options { cache, ..self.options() }, clock);
        std::thread::sleep(TICK);
        done
    }

    /// A committed run with the cache of the one before.
    fn again(&mut self) -> (ChunkId, strongroom_agent::workload::files::Statistics) {
        let done = self.again_by(&Ahead);
        let (root, statistics) = (done.root, done.statistics);
        done.finish(Committed::Yes).unwrap();
        (root, statistics)
    }
}

#[test]
fn however_many_threads_list_the_tree_is_the_same() {
    let place = Place::new();
    oddities::make(&place.at("")).unwrap();
    for number in 0..3000 {
        place.write(&format!("wide/{}/{}/{number}", number % 40, number % 7), b"x");
    }
    let by = |listers| place.run(&Options { listers, ..place.options() }, &SystemClock);
    let alone = by(0);
    for listers in [1, 4] {
        let many = by(listers);
        assert_eq!(many.root, alone.root, "{listers}");
        assert_eq!(many.gaps, alone.gaps);
        assert_eq!(many.statistics.directories, alone.statistics.directories);
    }
}

#[test]
fn what_did_not_change_costs_no_page_and_a_change_only_those_above_it() {
    let mut place = Place::new();
    for number in 0..200 {
        place.write(&format!("a/b{}/c{}/{number}", number % 5, number % 2), b"as it was");
    }
    symlink("nowhere", place.at("a/link")).unwrap();
    let (first, read) = place.again();
    assert_eq!(read.unchanged, 0);
    let before = place.sink.puts();
    let (second, counts) = place.again();
    assert_eq!((second, place.sink.puts() - before), (first, 1), "the item's own page");
    let fields = |counts: strongroom_agent::workload::files::Statistics| {
        (counts.files, counts.file_bytes, counts.others, counts.directories)
    };
    assert_eq!(fields(counts), fields(read));
    assert_eq!((counts.unchanged, counts.read_bytes), (200, 0));
    fs::write(place.at("a/b3/c1/3"), b"as it is").unwrap();
    let before = place.sink.puts();
    let (third, counts) = place.again();
    assert_eq!((counts.unchanged, counts.read_bytes), (199, 8));
    assert_eq!(place.sink.puts() - before, 5, "c1, b3, a, the root and the item");
    assert_eq!(third, place.plain().root);
    // What was kept in mind and then built is kept for the next run as well.
    let (fourth, counts) = place.again();
    assert_eq!((fourth, counts.unchanged), (third, 200));
}

#[test]
fn what_changed_too_close_to_the_last_run_is_read_again() {
    let mut place = Place::new();
    place.write("a/file", b"0123");
    place.again_by(&SystemClock).finish(Committed::Yes).unwrap();
    fs::write(place.at("a/file"), b"3210").unwrap();
    let done = place.again_by(&SystemClock);
    assert_eq!((done.statistics.unchanged, done.statistics.read_bytes), (0, 4));
    assert_eq!(done.root, place.plain().root);
    done.finish(Committed::Yes).unwrap();
    // Nothing changed since, and still no run may believe so.
    let done = place.again_by(&SystemClock);
    assert_eq!((done.statistics.unchanged, done.statistics.read_bytes), (0, 4));
}

#[test]
fn a_renamed_directory_is_read_and_its_old_name_is_gone() {
    let mut place = Place::new();
    for name in ["a/x", "b/x", "b/deep/y", "c/z"] {
        place.write(name, name.as_bytes());
    }
    place.again();
    fs::rename(place.at("b"), place.at("moved")).unwrap();
    let (root, counts) = place.again();
    assert_eq!((counts.files, counts.unchanged), (4, 2));
    assert_eq!(root, place.plain().root);
    fs::rename(place.at("moved/deep"), place.at("a/deep")).unwrap();
    let (root, counts) = place.again();
    assert_eq!((counts.files, counts.unchanged), (4, 3));
    assert_eq!(root, place.plain().root);
}

#[test]
fn a_file_that_did_not_hold_still_is_read_by_the_next_run() {
    let mut place = Place::new();
    place.write("a/long", &vec![7; 1 << 20]);
    place.write("a/short", b"x");
    *place.sink.meddle.lock().unwrap() = Some(place.at("a/long"));
    let (_, counts) = place.again();
    assert_eq!(counts.gaps, 1);
    *place.sink.meddle.lock().unwrap() = None;
    let (root, counts) = place.again();
    assert_eq!((counts.gaps, counts.unchanged, counts.read_bytes), (0, 1, 1 << 20));
    assert_eq!(root, place.plain().root);
}

#[test]
fn a_directory_too_long_to_be_kept_in_mind_is_the_same_too() {
    let mut place = Place::new();
    for number in 0..30_000 {
        place.write(&format!("long/{number:0100}"), b"x");
    }
    place.write("long/m/below", b"x");
    let (first, _) = place.again();
    let (second, counts) = place.again();
    assert_eq!((second, counts.unchanged), (first, 30_001));
    fs::remove_file(place.at(&format!("long/{:0100}", 20_000))).unwrap();
    let (third, counts) = place.again();
    assert_eq!(counts.unchanged, 30_000);
    assert_eq!(third, place.plain().root);
}

/// Something a person does to a tree.
#[derive(Clone, Debug)]
enum Deed {
    Chmod(String),
    Link(String, String),
    Move(String, String),
    Remove(String),
    Symlink(String),
    Write(String, u8),
}

fn deed() -> impl Strategy<Value = Deed> {
    // A name may hold a point, and is never one that leads elsewhere.
    let name = "[a-c](/[a-c][a-c.]?){0,2}";
    prop_oneof![
        1 => name.prop_map(Deed::Chmod),
        1 => (name, name).prop_map(|(from, to)| Deed::Link(from, to)),
        1 => (name, name).prop_map(|(from, to)| Deed::Move(from, to)),
        1 => name.prop_map(Deed::Remove),
        1 => name.prop_map(Deed::Symlink),
        4 => (name, any::<u8>()).prop_map(|(path, byte)| Deed::Write(path, byte)),
    ]
}

/// Does it where it can be done.
fn carry_out(place: &Place, deed: &Deed) {
    let parent = |path: &str| drop(fs::create_dir_all(place.at(path).parent().unwrap()));
    let _ = match deed {
        Deed::Chmod(path) => fs::set_permissions(place.at(path), fs::Permissions::from_mode(0o711)),
        Deed::Link(from, to) => fs::hard_link(place.at(from), place.at(to)),
        Deed::Move(from, to) => fs::rename(place.at(from), place.at(to)),
        Deed::Remove(path) => {
            fs::remove_file(place.at(path)).or_else(|_| fs::remove_dir_all(place.at(path)))
        }
        Deed::Symlink(path) => symlink("target", place.at(path)),
        Deed::Write(path, byte) => {
            parent(path);
            fs::write(place.at(path), [*byte; 9])
        }
    };
}

fn tell(root: &Path) -> Vec<PathBuf> {
    let mut found = vec![root.to_path_buf()];
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        found.extend(if entry.path().is_dir() { tell(&entry.path()) } else { vec![entry.path()] });
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_is_done_to_a_tree_the_cache_changes_nothing(
        rounds in proptest::collection::vec(proptest::collection::vec(deed(), 0..12), 1..6),
    ) {
        let mut place = Place::new();
        for deeds in rounds {
            deeds.iter().for_each(|deed| carry_out(&place, deed));
            let (cached, counts) = place.again();
            let plain = place.plain();
            prop_assert_eq!(cached, plain.root, "{:?}", tell(&place.at("")));
            prop_assert_eq!(counts.files, plain.statistics.files);
            prop_assert_eq!(counts.others, plain.statistics.others);
            prop_assert_eq!(counts.directories, plain.statistics.directories);
        }
    }
}
