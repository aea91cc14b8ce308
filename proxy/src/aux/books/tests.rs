//! A set of a few cartridges, each with room for one point: what was let go is written over, what
//! is kept never, also when the process is killed.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

#[path = "../../../../store/tests/scsi_kit/mod.rs"]
mod scsi_kit;

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use strongroom_protocol::control::{ExpireOrder, ExpireOutcome};
use strongroom_protocol::{JobId, MediaSetName};
use strongroom_store::media::{MediaReader, MediumInfo};
use strongroom_store::repo::Repo;
use strongroom_store::tape::{Barcode, Shape, TapeLibrary, VirtualLibrary};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::aux::testing::{WORKLOAD, chunk, manifest_over, media_of, repo_in};
use crate::aux::{Tally, write_points};
use crate::cartridges::CARTRIDGES_FILE;
use crate::{look, prove, release};

/// The directory of a child that is to be killed.
const KILLED: &str = "STRONGROOM_KILLED_IN";
/// Points that there are; each has a chunk of its own, and every fourth the one of the one before.
const POINTS: u8 = 12;
const CHUNK_BYTES: usize = 600_000;
/// A cartridge has room for one point.
const CARTRIDGE_BYTES: u64 = 1_100_000;

const fn point(n: u8) -> PointId {
    PointId::from_bytes([n; 16])
}

fn set() -> MediaSetName {
    "weekly".parse().unwrap()
}

/// In a folder, so that it is the same for every process.
fn points(dir: &Path) -> Repo {
    let repo = repo_in(&dir.join("repo"));
    let mut before = None;
    for n in 1..=POINTS {
        if repo.has_point(point(n)) {
            continue;
        }
        let own = chunk(&repo, n, CHUNK_BYTES);
        let roots: Vec<_> = before.filter(|_| n % 4 == 0).into_iter().chain([own]).collect();
        repo.commit_point(WORKLOAD, point(n), &manifest_over(point(n), &roots)).unwrap();
        before = Some(own);
    }
    repo
}

struct Shelf {
    repo: Repo,
    media: Media,
}

impl Shelf {
    fn open(dir: &Path) -> Self {
        let library: Arc<dyn TapeLibrary> =
            Arc::new(VirtualLibrary::open(&dir.join("library")).unwrap());
        Self { repo: points(dir), media: media_of(&dir.join(CARTRIDGES_FILE), library) }
    }

    fn begin(cartridges: u32) -> (TempDir, Self) {
        let dir = tempfile::tempdir().unwrap();
        let blanks: Vec<Barcode> =
            (1..=cartridges).map(|n| format!("SR{n:04}L9").parse().unwrap()).collect();
        let shape = Shape { drives: 1, mail_slots: 2, ..Shape::with_capacity(CARTRIDGE_BYTES) };
        drop(VirtualLibrary::create(&dir.path().join("library"), shape, &blanks).unwrap());
        let shelf = Self::open(dir.path());
        (dir, shelf)
    }

    fn write(&self, n: u8) -> Result<(), Refusal> {
        let tally = Tally::new(CancellationToken::new(), |_| {});
        write_points(&self.repo, &self.media, set(), &[point(n)], &tally).map(drop)
    }

    fn let_go(&self, n: u8) {
        let job = JobId::from_bytes([1; 16]);
        let told =
            release::obey(&self.media, job, &set(), &[point(n)], ExpireOrder::Remove).unwrap();
        assert_eq!(told[0].outcome, ExpireOutcome::Gone, "point {n}");
    }

    /// Why a point is not whole on media; none if it is.
    fn trouble(&self, n: u8) -> Option<String> {
        let lost = look::media(&self.repo, &self.media, &[point(n)]).unwrap();
        let lost = lost.into_iter().map(|(_, why)| why).next();
        lost.or_else(|| {
            let read = prove::read_media(&self.repo, &self.media, point(n));
            read.err().map(|refusal| refusal.to_string())
        })
    }

    fn media(&self) -> Vec<MediumInfo> {
        MediaReader::open(Arc::clone(&self.media.library)).unwrap().media()
    }
}

#[test]
fn a_cartridge_is_written_anew_once_nothing_that_is_kept_needs_it() {
    let (dir, shelf) = Shelf::begin(4);
    (1..=3).for_each(|n| shelf.write(n).unwrap());
    // It needs the chunk of point 3 too.
    shelf.write(4).unwrap();
    let before = shelf.media();
    let full = shelf.write(5).unwrap_err();
    assert!(full.text.contains("needs a blank cartridge"), "{full}");
    shelf.let_go(3);
    let full = shelf.write(5).unwrap_err();
    assert!(full.text.contains("needs a blank cartridge"), "point 4 needs what 3 wrote: {full}");
    shelf.let_go(1);
    shelf.write(5).unwrap();
    for n in [2, 3, 4, 5] {
        assert_eq!(shelf.trouble(n), None, "point {n}");
    }
    assert!(shelf.trouble(1).is_some(), "it is written over");
    // Its number is a new one, and nothing is thought to be on what was written over.
    let newest = shelf.media().into_iter().max_by_key(|medium| medium.sequence).unwrap();
    assert_eq!(newest.sequence, 5);
    assert!(before.iter().any(|medium| medium.barcode == newest.barcode));
    let again = Shelf::open_again(dir.path(), shelf);
    again.let_go(4);
    again.write(6).unwrap();
    again.write(7).unwrap();
    for n in [2, 5, 6, 7] {
        assert_eq!(again.trouble(n), None, "point {n}");
    }
    // Wanted again after it was let go: from the repository.
    again.let_go(2);
    again.let_go(5);
    again.write(4).unwrap();
    for n in [4, 6, 7] {
        assert_eq!(again.trouble(n), None, "point {n}");
    }
}

#[test]
fn a_set_that_is_written_once_is_never_written_over() {
    let (_dir, mut shelf) = Shelf::begin(1);
    shelf.media.settings.write_once.insert(set());
    shelf.write(1).unwrap();
    shelf.let_go(1);
    let full = shelf.write(2).unwrap_err();
    assert!(full.text.contains("needs a blank cartridge"), "{full}");
    assert_eq!(shelf.trouble(1), None);
}

impl Shelf {
    /// As after a start of the node: the library is locked for one at a time.
    fn open_again(dir: &Path, before: Self) -> Self {
        drop(before);
        Self::open(dir)
    }
}

#[test]
fn a_cartridge_of_a_scsi_library_is_written_anew() {
    let tgt = scsi_kit::Tgt::start(2, 2);
    let dir = tempfile::tempdir().unwrap();
    let book = dir.path().join(CARTRIDGES_FILE);
    let shelf = Shelf { repo: points(dir.path()), media: media_of(&book, tgt.library()) };
    // As many as there is room for.
    let mut written = Vec::new();
    let full = loop {
        let next = written.last().map_or(1, |last| last + 1);
        match shelf.write(next) {
            Ok(()) => written.push(next),
            Err(refusal) => break refusal,
        }
    };
    assert!(full.text.contains("needs a blank cartridge"), "{full}");
    let first = shelf.media().into_iter().min_by_key(|medium| medium.sequence).unwrap();
    let on_first = u8::try_from(first.points).unwrap();
    assert!(on_first > 0 && usize::from(on_first) < written.len(), "{first:?} {written:?}");
    // All but one of those on it: it stays.
    let next = written.last().unwrap() + 1;
    (2..=on_first).for_each(|n| shelf.let_go(n));
    assert!(shelf.write(next).unwrap_err().text.contains("needs a blank cartridge"));
    assert_eq!(shelf.trouble(1), None);
    shelf.let_go(1);
    // What begins on the first and ends on the second goes with it.
    shelf.let_go(on_first + 1);
    shelf.write(next).unwrap();
    assert_eq!(shelf.trouble(next), None);
    assert!(shelf.trouble(1).is_some());
    let last = shelf.media().into_iter().max_by_key(|medium| medium.sequence).unwrap();
    assert_eq!((last.barcode, last.sequence), (first.barcode, 3));
    for n in on_first + 2..=*written.last().unwrap() {
        assert_eq!(shelf.trouble(n), None, "point {n}");
    }
}

/// The ledger of the test: what is present, each line on disk before the next thing is done.
struct Ledger(File);

impl Ledger {
    fn open(dir: &Path) -> Self {
        let path = dir.join("ledger");
        Self(OpenOptions::new().create(true).append(true).open(path).unwrap())
    }

    fn note(&mut self, sign: char, n: u8) {
        self.0.write_all(format!("{sign}{n}\n").as_bytes()).unwrap();
        self.0.sync_data().unwrap();
    }

    /// What is present, oldest first.
    fn present(dir: &Path) -> Vec<u8> {
        let text = fs::read_to_string(dir.join("ledger")).unwrap_or_default();
        let mut present = Vec::new();
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            let (sign, n) = line.split_at(1);
            let n: u8 = n.parse().unwrap();
            present.retain(|other| *other != n);
            if sign == "+" {
                present.push(n);
            }
        }
        present
    }
}

/// Writes one point after another and lets the oldest go, until it is killed.
fn rotate_without_end(dir: &Path) {
    let shelf = Shelf::open(dir);
    let mut ledger = Ledger::open(dir);
    // As the coordinator does: what was ordered away without an answer is ordered again.
    let present = Ledger::present(dir);
    (1..=POINTS).filter(|n| !present.contains(n)).for_each(|n| shelf.let_go(n));
    loop {
        let present = Ledger::present(dir);
        let next = present.last().map_or(1, |last| last % POINTS + 1);
        while Ledger::present(dir).len() > 2 {
            let oldest = Ledger::present(dir)[0];
            ledger.note('-', oldest);
            shelf.let_go(oldest);
        }
        shelf.write(next).unwrap();
        ledger.note('+', next);
    }
}

#[test]
fn killed_at_any_moment_nothing_that_the_ledger_has_is_written_over() {
    if let Some(dir) = std::env::var_os(KILLED) {
        rotate_without_end(Path::new(&dir));
        return;
    }
    let (dir, shelf) = Shelf::begin(6);
    drop(shelf);
    for round in 0..10_u64 {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "--test-threads=1"]);
        command.arg(std::thread::current().name().unwrap());
        command.env(KILLED, dir.path()).stdout(std::process::Stdio::null());
        let mut child = command.spawn().unwrap();
        // At some moment after its first entry of this round.
        let path = dir.path().join("ledger");
        let before = fs::metadata(&path).map_or(0, |of| of.len());
        while fs::metadata(&path).map_or(0, |of| of.len()) == before {
            assert!(child.try_wait().unwrap().is_none(), "round {round}: it ended by itself");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        std::thread::sleep(std::time::Duration::from_millis(round * 137 % 500));
        assert!(child.try_wait().unwrap().is_none(), "round {round}: it ended by itself");
        child.kill().unwrap();
        child.wait().unwrap();
        let shelf = Shelf::open(dir.path());
        for n in Ledger::present(dir.path()) {
            assert_eq!(shelf.trouble(n), None, "round {round}, point {n}");
        }
    }
    let known = Shelf::open(dir.path()).media.cartridges.known();
    assert!(!known.lapsed.is_empty(), "no cartridge was written anew");
}
