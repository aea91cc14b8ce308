//! The disk is full or fails at every operation: the caller is told, nothing acknowledged is
//! lost, and the same repository goes on when the disk does.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod common;

use common::anyhow_like::Failure;
use common::{Node, check_point, create, insert, open, protect, write_small};
use std::sync::Arc;
use strongroom_protocol::id::PackId;
use strongroom_store::disk::sim::{Crash, Fault, FaultPlan, SimDisk};
use strongroom_store::repo::{Begun, Depth, InsertError, Repo, RepoError};

/// How many operations fail in a row.
const RUNS: [usize; 2] = [1, 9];

fn prepared() -> SimDisk {
    let disk = SimDisk::new();
    create(&disk);
    let repo = open(&disk);
    protect(&repo, 1).unwrap();
    drop(repo);
    disk
}

/// Operations a healthy run takes.
fn healthy_ops() -> usize {
    let disk = prepared();
    let before = disk.op_count();
    let repo = open(&disk);
    protect(&repo, 2).unwrap();
    protect(&repo, 3).unwrap();
    disk.op_count() - before
}

fn one_run(fault: Fault, first: usize, count: usize) -> usize {
    let name = format!("{fault:?} at {first} for {count}");
    let disk = prepared();
    let start = disk.op_count() + first;
    disk.fail(Some(FaultPlan { ops: start..start + count, fault }));
    let Ok(repo) = Repo::open(Arc::new(disk.clone()), &common::key(), write_small()) else {
        return 1;
    };
    let mut refusals = 0;
    let mut acknowledged = vec![1];
    for number in [2, 3] {
        match protect(&repo, number) {
            Ok(()) => acknowledged.push(number),
            Err(failure) => refusals += usize::from(failure.is_about_the_disk()),
        }
    }
    disk.fail(None);
    // Two tries: the first may meet the report of what failed before.
    for number in [2, 3] {
        if protect(&repo, number).is_err() {
            protect(&repo, number).unwrap_or_else(|error| panic!("{name}: {number}: {error:?}"));
        }
        check_point(&repo, number).unwrap_or_else(|error| panic!("{name}: {error:?}"));
    }
    let worst = disk.crash_image(disk.log_len(), Crash::Drop);
    let reopened = open(&worst);
    for number in [1, 2, 3] {
        check_point(&reopened, number).unwrap_or_else(|error| panic!("{name}: {error:?}"));
    }
    assert!(reopened.verify(Depth::Plain).unwrap().is_sound(), "{name}");
    refusals
}

#[test]
fn a_full_or_failing_disk_at_every_operation() {
    let ops = healthy_ops();
    let mut refusals = 0;
    let mut runs = 0;
    for fault in [Fault::Full, Fault::Io] {
        for first in 0..ops {
            for count in RUNS {
                refusals += one_run(fault, first, count);
                runs += 1;
            }
        }
    }
    println!("{runs} runs, {refusals} refusals");
    assert!(refusals > ops, "{refusals} refusals of {runs}");
}

#[test]
fn a_full_disk_is_named_and_what_was_kept_stays() {
    let disk = prepared();
    let repo = open(&disk);
    let start = disk.op_count() + 2;
    disk.fail(Some(FaultPlan { ops: start..usize::MAX, fault: Fault::Full }));
    let failure = protect(&repo, 2).unwrap_err();
    assert!(failure.is_about_the_disk(), "{failure:?}");
    assert!(repo.barrier().is_ok(), "nothing is left to fail");
    check_point(&repo, 1).unwrap();
    disk.fail(None);
    protect(&repo, 2).unwrap();
    check_point(&repo, 2).unwrap();
}

#[test]
fn a_page_whose_chunk_the_disk_refused_is_refused_for_the_disk() {
    let disk = prepared();
    let repo = open(&disk);
    let (chunk, page) = {
        let chunk = Node::data(77);
        (chunk.clone(), Node::page(77, vec![chunk]))
    };
    disk.fail(Some(FaultPlan { ops: disk.op_count()..usize::MAX, fault: Fault::Full }));
    insert(&repo, &chunk).unwrap();
    while repo.has(&[chunk.id()]).unwrap() == [true] {
        std::thread::yield_now();
    }
    let refused = Failure::from(insert(&repo, &page).unwrap_err());
    assert!(refused.is_about_the_disk(), "{refused:?}");
    disk.fail(None);
    assert!(matches!(insert(&repo, &page), Err(InsertError::MissingReferences { .. })));
}

/// Receives a pack in two halves; what was under way when it failed is dropped.
fn receive(repo: &Repo, pack: PackId, bytes: &[u8]) -> Result<(), RepoError> {
    let Begun::Receiving(mut incoming) = repo.begin_pack(pack)? else { return Ok(()) };
    let (head, rest) = bytes.split_at(bytes.len() / 2);
    assert_eq!(incoming.offset(), 0);
    incoming.write(head)?;
    incoming.write(rest)?;
    incoming.finish()
}

#[test]
fn a_pack_that_met_an_error_is_received_from_its_start() {
    let source = open(&prepared());
    let packs: Vec<(PackId, Vec<u8>)> = source
        .packs()
        .into_iter()
        .map(|pack| (pack, source.read_pack(pack, 0, usize::MAX).unwrap().to_vec()))
        .collect();
    let (pack, bytes) = packs.first().unwrap();
    let mut failures = 0;
    for count in [1, 9] {
        for first in 0..12 {
            let disk = SimDisk::new();
            create(&disk);
            let copy = open(&disk);
            let start = disk.op_count() + first;
            disk.fail(Some(FaultPlan { ops: start..start + count, fault: Fault::Io }));
            let received = receive(&copy, *pack, bytes);
            disk.fail(None);
            if received.is_err() {
                failures += 1;
                let Begun::Receiving(again) = copy.begin_pack(*pack).unwrap() else { panic!() };
                assert_eq!(again.offset(), 0, "operation {first}, {count} in a row");
            }
            for (pack, bytes) in &packs {
                receive(&copy, *pack, bytes).unwrap();
            }
            common::commit(&copy, 1).unwrap();
            let worst = open(&disk.crash_image(disk.log_len(), Crash::Drop));
            check_point(&worst, 1).unwrap();
        }
    }
    assert!(failures >= 8, "{failures} failures: the test proved too little");
}
