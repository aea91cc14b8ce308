//! Power is lost at every change of the disk while points are removed and collected: what was
//! acknowledged restores, what was not is not shown, the next job and the next collection run,
//! and no room is lost for ever.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod common;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use common::{
    WORKLOAD, check_point, commit, create, key, open, point_id, protect, send, tree, write_small,
};
use strongroom_protocol::id::{PointId, WorkloadId};
use strongroom_store::disk::sim::{Crash, SimDisk};
use strongroom_store::repo::{CollectLimits, CollectReport, Repo, RepoError};

const CRASHES: [Crash; 5] =
    [Crash::Drop, Crash::Keep, Crash::Mix(1), Crash::Mix(22), Crash::Mix(333)];

/// What was begun and acknowledged after how many changes.
#[derive(Default)]
struct Story {
    created: usize,
    committed: Vec<(usize, u8)>,
    /// When its removal began, and when it was acknowledged.
    removed: Vec<(usize, usize, u8)>,
}

impl Story {
    fn protect(&mut self, disk: &SimDisk, repo: &Repo, number: u8) {
        protect(repo, number).unwrap();
        self.committed.push((disk.log_len(), number));
    }

    fn remove(&mut self, disk: &SimDisk, repo: &Repo, number: u8) {
        let begun = disk.log_len();
        repo.remove_point(WORKLOAD, point_id(number)).unwrap();
        self.removed.push((begun, disk.log_len(), number));
    }

    /// Points that are there for certain after so many changes, and those that may be.
    fn at(&self, at: usize) -> (BTreeSet<u8>, BTreeSet<u8>) {
        let committed = self.committed.iter().filter(|(done, _)| *done <= at);
        let mut certain: BTreeSet<u8> = committed.map(|(_, number)| *number).collect();
        let first_later = self.committed.iter().find(|(done, _)| *done > at);
        let mut possible = certain.clone();
        possible.extend(first_later.map(|(_, number)| *number));
        for (begun, done, number) in &self.removed {
            if *begun < at {
                certain.remove(number);
            }
            if *done <= at {
                possible.remove(number);
            }
        }
        (certain, possible)
    }
}

fn collect(repo: &Repo) -> CollectReport {
    repo.collect(&CollectLimits::default(), &mut |_| ControlFlow::Continue(())).unwrap()
}

/// Removes and collects with and without sessions, over three openings.
fn script(disk: &SimDisk) -> Story {
    create(disk);
    let mut story = Story { created: disk.log_len(), ..Story::default() };
    let repo = open(disk);
    for number in 1..=5 {
        story.protect(disk, &repo, number);
    }
    for number in [1, 2, 4] {
        story.remove(disk, &repo, number);
    }
    let report = collect(&repo);
    assert!(report.copied_bytes > 0 && report.removed.len() > 3, "{report:?}");
    story.protect(disk, &repo, 6);
    drop(repo);
    let repo = open(disk);
    story.remove(disk, &repo, 3);
    repo.checkpoint().unwrap();
    // Condemned while a session may count on it, which then commits a part of it again.
    let session = repo.session();
    assert_eq!(session.has(&[tree(3).children[1].id()]).unwrap(), [true]);
    assert!(collect(&repo).waiting > 0);
    send(&session, &tree(9)).unwrap();
    commit(&session, 9).unwrap();
    story.committed.push((disk.log_len(), 9));
    drop(session);
    assert!(!collect(&repo).removed.is_empty());
    drop(repo);
    let repo = open(disk);
    story.remove(disk, &repo, 5);
    collect(&repo);
    story.protect(disk, &repo, 8);
    drop(repo);
    story
}

fn points(repo: &Repo) -> BTreeSet<u8> {
    repo.points().unwrap().iter().map(|(_, point)| point.as_bytes()[0]).collect()
}

/// Nothing is left of a repository without points but what it always has.
fn check_no_leak(disk: &SimDisk, repo: Repo, name: &str) {
    let all: Vec<(WorkloadId, PointId)> = repo.points().unwrap();
    for (workload, point) in all {
        repo.remove_point(workload, point).unwrap();
    }
    collect(&repo);
    drop(repo);
    let left = disk.paths();
    let leaked: Vec<&String> =
        left.iter().filter(|path| path.starts_with("packs/") || path.starts_with("tmp/")).collect();
    assert!(leaked.is_empty(), "{name}: {leaked:?}");
}

fn check_image(disk: &SimDisk, at: usize, crash: Crash, story: &Story) {
    let name = format!("after {at} changes, {crash:?}");
    let repo = match Repo::open(Arc::new(disk.clone()), &key(), write_small()) {
        Ok(repo) => repo,
        Err(RepoError::NotARepository { .. }) if at < story.created => return,
        Err(error) => panic!("{name}: {error}"),
    };
    let (certain, possible) = story.at(at);
    let found = points(&repo);
    assert!(found.is_superset(&certain), "{name}: {found:?} lacks some of {certain:?}");
    assert!(found.is_subset(&possible), "{name}: {found:?} has more than {possible:?}");
    for number in &found {
        check_point(&repo, *number).unwrap_or_else(|error| panic!("{name}: {number}: {error:?}"));
    }
    // A young session counts on what it is told, whatever an earlier process had condemned.
    let session = repo.session();
    send(&session, &tree(3)).unwrap_or_else(|error| panic!("{name}: {error:?}"));
    let report = repo
        .collect(&CollectLimits::default(), &mut |_| ControlFlow::Continue(()))
        .unwrap_or_else(|error| panic!("{name}: {error:?}"));
    commit(&session, 3).unwrap_or_else(|error| panic!("{name}: {error:?}"));
    drop(session);
    collect(&repo);
    for number in found.iter().copied().chain([3]) {
        let checked = check_point(&repo, number);
        checked.unwrap_or_else(|error| panic!("{name}: {number}: {error:?}, {report:?}"));
    }
    assert!(repo.health().is_sound(), "{name}: {:?}", repo.health());
    check_no_leak(disk, repo, &name);
}

#[test]
fn every_crash_point_of_a_collection_keeps_what_was_acknowledged() {
    let disk = SimDisk::new();
    let story = script(&disk);
    let mut images = 0;
    for at in story.created..=disk.log_len() {
        for crash in CRASHES {
            check_image(&disk.crash_image(at, crash), at, crash, &story);
            images += 1;
        }
    }
    println!("{} changes, {images} images", disk.log_len());
    assert!(images > 1000);
}

#[test]
fn a_crash_while_collecting_after_a_crash_loses_nothing() {
    let disk = SimDisk::new();
    let story = script(&disk);
    let mut images = 0;
    for at in (story.created..=disk.log_len()).step_by(11) {
        let first = disk.crash_image(at, Crash::Mix(7));
        let Ok(repo) = Repo::open(Arc::new(first.clone()), &key(), write_small()) else { continue };
        collect(&repo);
        drop(repo);
        for again in (0..=first.log_len()).step_by(2) {
            for crash in [Crash::Drop, Crash::Mix(again as u64)] {
                check_image(&first.crash_image(again, crash), at, crash, &story);
                images += 1;
            }
        }
    }
    println!("{images} images");
    assert!(images > 200);
}
