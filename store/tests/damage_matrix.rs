//! The damage matrix: every way of hurting every file, and then every thing one may do next. Never
//! do wrong bytes come back as right; whatever does not need what was hurt goes on restoring; what
//! is hurt is named; and no collection, protection or replication makes it worse.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod common;
mod scrub_kit;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use common::{
    WORKLOAD, check_point, create, key, manifest, open, point_id, protect, tree, write_small,
};
use scrub_kit::{DAY, at, pack_of, round};
use strongroom_protocol::id::PackId;
use strongroom_store::disk::sim::{Crash, Damage, SimDisk};
use strongroom_store::disk::{Disk, read_all};
use strongroom_store::repo::{Begun, CollectLimits, Depth, Repo, RepoError, Subject};

/// Points that are there when the damage is done; another was removed and collected.
const POINTS: [u8; 4] = [1, 2, 4, 5];
const REMOVED: u8 = 3;
/// What a protection after the damage makes.
const NEXT: u8 = 6;

/// How a file is hurt; places are per cent of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Act {
    Cut(usize),
    Delete,
    /// Another file of its folder lies there twice.
    Duplicate,
    Flip(usize),
    /// It and another of its folder have each other's bytes.
    Swap,
}

const ACTS: [Act; 9] = [
    Act::Cut(0),
    Act::Cut(60),
    Act::Delete,
    Act::Duplicate,
    Act::Flip(1),
    Act::Flip(35),
    Act::Flip(70),
    Act::Flip(99),
    Act::Swap,
];

/// What is done next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    Collect,
    Open,
    Protect,
    Replicate,
    Restore,
    Scrub,
}

const NEXTS: [Next; 6] =
    [Next::Collect, Next::Open, Next::Protect, Next::Replicate, Next::Restore, Next::Scrub];

/// A repository with a past: points removed and collected, ages of scrubbing, an index saved.
struct Whole {
    disk: SimDisk,
    /// The packs each point needs.
    needs: BTreeMap<u8, BTreeSet<PackId>>,
}

fn prepared() -> Whole {
    let disk = SimDisk::new();
    create(&disk);
    let repo = open(&disk);
    for number in 1..=REMOVED {
        protect(&repo, number).unwrap();
    }
    round(&repo, at(0));
    drop(repo);
    let repo = open(&disk);
    for number in POINTS.into_iter().filter(|number| *number > REMOVED) {
        protect(&repo, number).unwrap();
    }
    repo.remove_point(WORKLOAD, point_id(REMOVED)).unwrap();
    repo.collect(&CollectLimits::default(), &mut |_| ControlFlow::Continue(())).unwrap();
    round(&repo, at(DAY));
    let needs = POINTS.into_iter().map(|number| {
        let closure = repo.closure(&[tree(u64::from(number)).reference()]).unwrap();
        (number, closure.packs)
    });
    let needs = needs.collect();
    drop(repo);
    Whole { disk: disk.crash_image(disk.log_len(), Crash::Keep), needs }
}

fn bytes(disk: &SimDisk, path: &str) -> Vec<u8> {
    read_all(disk, path, 1 << 30).unwrap()
}

/// Another file of the same folder, or of a folder beside it.
fn neighbour(disk: &SimDisk, path: &str) -> Option<String> {
    let top = path.split('/').next()?;
    let mut others = disk.paths().into_iter().filter(|other| other != path);
    others.find(|other| other.split('/').next() == Some(top) && other.contains('/'))
}

/// Hurts the file for good; gives every file that is not as it was, none if it cannot be done.
fn hurt(disk: &SimDisk, path: &str, act: Act) -> Option<Vec<String>> {
    let put = |path: &str, new: Vec<u8>| {
        assert_eq!(disk.rot(path, |bytes| bytes.clone_from(&new)), Damage::Done);
    };
    let old = bytes(disk, path);
    match act {
        Act::Cut(part) => put(path, old.get(..old.len() * part / 100)?.to_vec()),
        Act::Delete => disk.remove(path).unwrap(),
        Act::Duplicate => put(path, bytes(disk, &neighbour(disk, path)?)),
        Act::Flip(part) => {
            let mut new = old;
            let at = (new.len() * part / 100).min(new.len().checked_sub(1)?);
            new[at] ^= 0x10;
            put(path, new);
        }
        Act::Swap => {
            let other = neighbour(disk, path)?;
            put(path, bytes(disk, &other));
            put(&other, old);
            return Some(vec![path.to_owned(), other]);
        }
    }
    Some(vec![path.to_owned()])
}

/// Whether the point comes back. Wrong bytes fail the test inside.
fn reads(repo: &Repo, number: u8) -> bool {
    check_point(repo, number).is_ok()
}

fn reading(repo: &Repo) -> BTreeSet<u8> {
    POINTS.into_iter().filter(|number| reads(repo, *number)).collect()
}

impl Whole {
    /// Points that need nothing of what was hurt.
    fn untouched(&self, hurt: &[String]) -> BTreeSet<u8> {
        let needs = |number: u8, path: &str| {
            let pack = path.starts_with("packs/").then(|| pack_of(path));
            let own = format!("points/{WORKLOAD}/{}", point_id(number));
            pack.is_some_and(|pack| self.needs[&number].contains(&pack)) || path == own
        };
        let whole = |number: &u8| !hurt.iter().any(|path| needs(*number, path));
        POINTS.into_iter().filter(whole).collect()
    }
}

/// A second repository of the same vault takes what it can get, as a proxy does.
fn replicate(repo: &Repo) {
    let disk = SimDisk::new();
    create(&disk);
    let copy = open(&disk);
    for number in POINTS {
        let done = send_point(repo, &copy, number);
        if done.is_ok() {
            check_point(&copy, number).unwrap();
        }
    }
    assert!(copy.verify(Depth::Plain).unwrap().is_sound(), "damage travelled");
}

fn send_point(repo: &Repo, copy: &Repo, number: u8) -> Result<(), RepoError> {
    let roots = repo.point_roots(WORKLOAD, point_id(number))?;
    for pack in repo.closure(&roots)?.packs {
        if let Begun::Receiving(mut incoming) = copy.begin_pack(pack)? {
            incoming.write(&repo.read_pack(pack, 0, usize::MAX)?)?;
            incoming.finish()?;
        }
    }
    copy.barrier()?;
    copy.restore_point(WORKLOAD, point_id(number), &manifest(point_id(number), &roots))
}

/// Whether scrubbing must name it: what is gone without a trace cannot be.
fn must_be_named(path: &str, act: Act) -> bool {
    path.starts_with("packs/") || (path.starts_with("points/") && act != Act::Delete)
}

fn named(repo: &Repo, path: &str) -> bool {
    round(repo, at(400 * DAY)).into_iter().any(|subject| match subject {
        Subject::Pack(pack) => path.ends_with(&pack.to_string()),
        Subject::Point(_, point) => path.ends_with(&point.to_string()),
    })
}

fn go_on(repo: &Repo, next: Next, hurt: &[String], act: Act, case: &str) {
    match next {
        Next::Open | Next::Restore => {}
        Next::Protect => {
            // What rotted unseen may be counted on; then it is named, with the point it costs.
            if protect(repo, NEXT).is_ok() && !reads(repo, NEXT) {
                round(repo, at(400 * DAY));
                let costs = repo.hurt_points().unwrap();
                let told = costs.iter().any(|(_, point, _)| *point == point_id(NEXT));
                assert!(told, "{case}: nobody is told: {costs:?}");
            }
        }
        Next::Replicate => replicate(repo),
        Next::Collect => {
            let before = reading(repo);
            let limits = CollectLimits::default();
            let done = repo.collect(&limits, &mut |_| ControlFlow::Continue(()));
            assert_eq!(reading(repo), before, "{case}: {done:?}");
        }
        Next::Scrub => {
            for path in hurt.iter().filter(|path| must_be_named(path, act)) {
                assert!(named(repo, path), "{case}: {path} is not named");
            }
        }
    }
}

#[test]
fn every_damage_then_every_next_thing() {
    let whole = prepared();
    let paths = whole.disk.paths();
    for kind in ["config", "keys", "packs/d/", "packs/m/", "points/", "index/", "scrub"] {
        assert!(paths.iter().any(|path| path.starts_with(kind)), "no {kind} among {paths:?}");
    }
    let (mut cases, mut refused) = (0, 0);
    for path in paths.iter().filter(|path| *path != "lock") {
        for act in ACTS {
            for next in NEXTS {
                let disk = whole.disk.crash_image(0, Crash::Keep);
                let Some(changed) = hurt(&disk, path, act) else { continue };
                cases += 1;
                let case = format!("{act:?} of {path}, then {next:?}");
                let opened = Repo::open(Arc::new(disk.clone()), &key(), write_small());
                let repo = match opened {
                    Ok(repo) => repo,
                    Err(error) => {
                        let may = path == "config" || path == "keys";
                        assert!(may, "{case}: {error:?}");
                        refused += 1;
                        continue;
                    }
                };
                go_on(&repo, next, &changed, act, &case);
                let left = reading(&repo);
                let untouched = whole.untouched(&changed);
                assert!(untouched.is_subset(&left), "{case}: {left:?} of {untouched:?}");
                drop(repo);
                let again = open(&disk);
                assert!(left.is_subset(&reading(&again)), "{case}: less after opening again");
            }
        }
    }
    println!("{cases} cases of damage, {refused} refused at once with a reason");
    assert!(cases > 1000, "only {cases} cases");
}

/// Hurts the index under the eyes of a repository that has it open.
fn hurt_open_index(disk: &SimDisk, path: &str, at: Option<usize>) {
    disk.damage(path, |bytes| match at {
        Some(at) => bytes[at] ^= 4,
        None => bytes.truncate(100),
    });
}

#[test]
fn a_collection_that_meets_a_damaged_index_rebuilds_it() {
    let whole = prepared();
    let index = |path: &&String| path.starts_with("index/");
    let paths: Vec<String> = whole.disk.paths().iter().filter(index).cloned().collect();
    assert!(!paths.is_empty());
    let mut rebuilt = 0;
    for path in &paths {
        let len = bytes(&whole.disk, path).len();
        // The last places lie in what is read at open only.
        for at in (0..len).step_by(600).map(Some).chain([None]) {
            let case = format!("{at:?} of {path}");
            let disk = whole.disk.crash_image(0, Crash::Keep);
            let repo = open(&disk);
            hurt_open_index(&disk, path, at);
            let limits = CollectLimits::default();
            for round in ["first", "second"] {
                let done = repo.collect(&limits, &mut |_| ControlFlow::Continue(()));
                assert!(done.is_ok(), "{case}, {round}: {done:?}");
            }
            repo.collection_plan(&limits).unwrap();
            rebuilt += usize::from(!disk.exists(path).unwrap());
            for number in POINTS {
                check_point(&repo, number).unwrap_or_else(|error| panic!("{case}: {error:?}"));
            }
            assert!(repo.health().is_sound(), "{case}");
            drop(repo);
            assert!(open(&disk).health().is_sound(), "{case}");
        }
    }
    assert!(rebuilt > 3, "{rebuilt} rebuilt");
}
