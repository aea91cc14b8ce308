//! The disk is full or fails at every operation of a collection, and a disk without a byte left is
//! rescued by removing points.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod common;

use std::ops::ControlFlow;
use std::sync::Arc;

use common::{WORKLOAD, check_point, create, key, open, point_id, protect, write_small};
use strongroom_store::disk::Disk;
use strongroom_store::disk::sim::{Crash, Fault, FaultPlan, SimDisk};
use strongroom_store::repo::{CollectError, CollectLimits, CollectReport, Depth, Repo};

/// How many operations fail in a row.
const RUNS: [usize; 2] = [1, 9];

fn try_collect(repo: &Repo) -> Result<CollectReport, CollectError> {
    repo.collect(&CollectLimits::default(), &mut |_| ControlFlow::Continue(()))
}

fn prepared() -> SimDisk {
    let disk = SimDisk::new();
    create(&disk);
    let repo = open(&disk);
    for number in 1..=5 {
        protect(&repo, number).unwrap();
    }
    drop(repo);
    disk
}

/// What runs while the disk fails; the points whose removal was acknowledged.
fn job(repo: &Repo) -> (Vec<u8>, usize) {
    let mut failures = 0;
    let mut removed = Vec::new();
    for number in [1, 2, 4] {
        match repo.remove_point(WORKLOAD, point_id(number)) {
            Ok(()) => removed.push(number),
            Err(_) => failures += 1,
        }
    }
    failures += usize::from(try_collect(repo).is_err());
    failures += usize::from(protect(repo, 6).is_err());
    failures += usize::from(try_collect(repo).is_err());
    (removed, failures)
}

fn one_run(fault: Fault, first: usize, count: usize) -> usize {
    let name = format!("{fault:?} at {first} for {count}");
    let disk = prepared();
    let repo = open(&disk);
    let start = disk.op_count() + first;
    disk.fail(Some(FaultPlan { ops: start..start + count, fault }));
    let (removed, failures) = job(&repo);
    disk.fail(None);
    // Power goes at the worst moment: a removal that was not acknowledged may be undone by it,
    // and the point must be whole then.
    let worst = disk.crash_image(disk.log_len(), Crash::Drop);
    for (disk, repo) in [(worst.clone(), open(&worst)), (disk, repo)] {
        for number in [3, 5] {
            check_point(&repo, number).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        }
        for (_, point) in repo.points().unwrap() {
            let number = point.as_bytes()[0];
            assert!(!removed.contains(&number), "{name}: {number} is back");
            let checked = check_point(&repo, number);
            checked.unwrap_or_else(|error| panic!("{name}: {number}: {error:?}"));
        }
        // Two tries: the first may meet the report of what failed before.
        if try_collect(&repo).is_err() {
            try_collect(&repo).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        }
        if protect(&repo, 7).is_err() {
            protect(&repo, 7).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        }
        for number in [3, 5, 7] {
            check_point(&repo, number).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        }
        assert!(repo.verify(Depth::Plain).unwrap().is_sound(), "{name}");
        for (workload, point) in repo.points().unwrap() {
            repo.remove_point(workload, point).unwrap();
        }
        try_collect(&repo).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        drop(repo);
        // What could not be finished while the disk failed is found by the next opening.
        let repo = open(&disk);
        assert!(repo.health().is_sound(), "{name}: {:?}", repo.health());
        try_collect(&repo).unwrap();
        drop(repo);
        let left: Vec<String> =
            disk.paths().into_iter().filter(|path| path.starts_with("packs/")).collect();
        assert!(left.is_empty(), "{name}: {left:?}");
    }
    failures
}

#[test]
fn a_full_or_failing_disk_at_every_operation_of_a_collection() {
    let ops = {
        let disk = prepared();
        let repo = open(&disk);
        let before = disk.op_count();
        assert_eq!(job(&repo).1, 0);
        disk.op_count() - before
    };
    let (mut failures, mut runs) = (0, 0);
    for fault in [Fault::Full, Fault::Io] {
        for first in 0..ops {
            for count in RUNS {
                failures += one_run(fault, first, count);
                runs += 1;
            }
        }
    }
    println!("{ops} operations, {runs} runs, {failures} failures told");
    assert!(failures > ops, "{failures} failures of {runs}");
}

/// Fills the disk to its last byte.
fn fill(disk: &SimDisk) {
    let mut file = disk.create("of-somebody-else").unwrap();
    let left = usize::try_from(disk.free_bytes().unwrap()).unwrap();
    file.append(&vec![1; left]).unwrap();
    assert_eq!(disk.free_bytes(), Some(0));
}

#[test]
fn a_disk_without_a_byte_left_is_rescued() {
    for reopened in [false, true] {
        let disk = SimDisk::new();
        disk.set_capacity(Some(400_000));
        create(&disk);
        let mut repo = open(&disk);
        repo.set_reserve(8000);
        assert!(disk.exists("reserve").unwrap());
        for number in 1..=6 {
            protect(&repo, number).unwrap();
        }
        fill(&disk);
        assert!(protect(&repo, 7).is_err());
        if reopened {
            drop(repo);
            repo = open(&disk);
            repo.set_reserve(8000);
        }
        for number in [1, 2, 3, 6] {
            repo.remove_point(WORKLOAD, point_id(number)).unwrap();
        }
        let report = try_collect(&repo).unwrap();
        assert!(report.removed_bytes > 10_000, "{report:?}");
        assert!(disk.free_bytes().unwrap() > 10_000);
        assert!(repo.health().is_sound());
        for number in [4, 5] {
            check_point(&repo, number).unwrap();
        }
        // What it gave back is enough for the next job.
        protect(&repo, 9).unwrap();
        disk.remove("of-somebody-else").unwrap();
        try_collect(&repo).unwrap();
        assert!(disk.exists("reserve").unwrap(), "the reserve is there again");
        drop(repo);
        let repo = Repo::open(Arc::new(disk.clone()), &key(), write_small()).unwrap();
        assert!(repo.health().is_sound(), "{:?}", repo.health());
        for number in [4, 5, 9] {
            check_point(&repo, number).unwrap();
        }
    }
}

#[test]
fn without_a_reserve_a_full_disk_loses_nothing() {
    let disk = prepared();
    let repo = open(&disk);
    disk.set_capacity(Some(0));
    for number in [1, 2] {
        repo.remove_point(WORKLOAD, point_id(number)).unwrap();
    }
    let refused = try_collect(&repo);
    assert!(matches!(&refused, Err(CollectError::Repo(error)) if error.is_full()), "{refused:?}");
    for number in [3, 4, 5] {
        check_point(&repo, number).unwrap();
    }
    disk.set_capacity(None);
    assert!(!try_collect(&repo).unwrap().removed.is_empty());
    for number in [3, 4, 5] {
        check_point(&repo, number).unwrap();
    }
}
