//! Power is lost at every change of the disk, in several ways: what was acknowledged is whole,
//! no manifest names what is missing, and the next commit works.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod common;

use common::{
    WORKLOAD, check_point, create, insert, key, open, point_id, protect, send, tree, write_small,
};
use std::sync::Arc;
use strongroom_store::disk::sim::{Crash, SimDisk};
use strongroom_store::repo::{Begun, Repo, RepoError};

const CRASHES: [Crash; 7] = [
    Crash::Drop,
    Crash::Keep,
    Crash::Mix(1),
    Crash::Mix(22),
    Crash::Mix(333),
    Crash::Mix(4444),
    Crash::Mix(55_555),
];

/// What was acknowledged after how many changes.
struct Acknowledged {
    created: usize,
    points: Vec<(usize, u8)>,
}

/// Commits points over three openings, leaves work behind uncommitted, receives packs.
fn script(disk: &SimDisk) -> Acknowledged {
    create(disk);
    let created = disk.log_len();
    let mut points = Vec::new();
    let mut protected = |repo: &Repo, number| {
        protect(repo, number).unwrap();
        points.push((disk.log_len(), number));
    };
    let repo = open(disk);
    protected(&repo, 1);
    protected(&repo, 2);
    drop(repo);
    let repo = open(disk);
    protected(&repo, 3);
    for child in &tree(8).children {
        send(&repo, child).unwrap();
    }
    repo.checkpoint().unwrap();
    protected(&repo, 4);
    receive(&repo);
    drop(repo);
    let repo = open(disk);
    protected(&repo, 6);
    protected(&repo, 5);
    repo.remove_point(WORKLOAD, point_id(6)).unwrap();
    points.retain(|(_, number)| *number != 6);
    send(&repo, &tree(9)).unwrap();
    drop(repo);
    Acknowledged { created, points }
}

/// Takes the metadata packs of another copy first: their pages need what is not here yet.
fn receive(repo: &Repo) {
    let other = SimDisk::new();
    create(&other);
    let source = open(&other);
    protect(&source, 5).unwrap();
    let mut packs = source.packs();
    packs.sort_by_key(|pack| {
        source.index().class(pack) == Some(strongroom_store::pack::PackClass::Data)
    });
    for pack in packs.into_iter().take(3) {
        let Begun::Receiving(mut incoming) = repo.begin_pack(pack).unwrap() else { continue };
        let len = usize::try_from(source.pack_len(pack).unwrap()).unwrap();
        let bytes = source.read_pack(pack, 0, len).unwrap();
        incoming.write(&bytes[..len / 2]).unwrap();
        drop(incoming);
        let Begun::Receiving(mut incoming) = repo.begin_pack(pack).unwrap() else { panic!() };
        incoming.write(&bytes[usize::try_from(incoming.offset()).unwrap()..]).unwrap();
        incoming.finish().unwrap();
    }
    repo.barrier().unwrap();
}

/// Opens an image and holds it to the promises.
fn check_image(image: &SimDisk, at: usize, crash: Crash, acknowledged: &Acknowledged) {
    let name = format!("{crash:?} after {at} changes");
    let repo = match Repo::open(Arc::new(image.clone()), &key(), write_small()) {
        Ok(repo) => repo,
        Err(RepoError::NotARepository { .. }) if at < acknowledged.created => return,
        Err(error) => panic!("{name}: {error:?}"),
    };
    for (_, number) in acknowledged.points.iter().filter(|(acked, _)| *acked <= at) {
        check_point(&repo, *number).unwrap_or_else(|error| panic!("{name}: {number}: {error:?}"));
    }
    for (workload, point) in repo.points().unwrap() {
        let roots = repo.point_roots(workload, point).unwrap();
        repo.closure(&roots).unwrap_or_else(|error| panic!("{name}: {point}: {error:?}"));
    }
    for number in [9, 5, 8] {
        protect(&repo, number).unwrap_or_else(|error| panic!("{name}: {number}: {error:?}"));
        check_point(&repo, number).unwrap_or_else(|error| panic!("{name}: {number}: {error:?}"));
    }
    assert!(repo.health().is_sound(), "{name}: {:?}", repo.health());
}

#[test]
fn every_crash_point_keeps_what_was_acknowledged() {
    let disk = SimDisk::new();
    let acknowledged = script(&disk);
    let mut images = 0;
    for at in 0..=disk.log_len() {
        for crash in CRASHES {
            check_image(&disk.crash_image(at, crash), at, crash, &acknowledged);
            images += 1;
        }
    }
    println!("{} changes, {images} images", disk.log_len());
    assert!(images > 1000);
}

#[test]
fn a_crash_while_recovering_from_a_crash_loses_nothing() {
    let disk = SimDisk::new();
    let acknowledged = script(&disk);
    let mut images = 0;
    for at in (0..=disk.log_len()).step_by(13) {
        let first = disk.crash_image(at, Crash::Mix(7));
        let Ok(repo) = Repo::open(Arc::new(first.clone()), &key(), write_small()) else { continue };
        drop(protect(&repo, 9));
        drop(repo);
        for again in (0..=first.log_len()).step_by(3) {
            for crash in [Crash::Drop, Crash::Mix(again as u64)] {
                let second = first.crash_image(again, crash);
                check_image(&second, at, crash, &acknowledged);
                images += 1;
            }
        }
    }
    println!("{images} images");
    assert!(images > 200);
}

#[test]
fn unfinished_packs_are_salvaged() {
    let disk = SimDisk::new();
    create(&disk);
    let repo = open(&disk);
    for n in 0..5 {
        insert(&repo, &common::Node::data(500 + n)).unwrap();
    }
    repo.barrier().unwrap();
    let mut salvaged = 0;
    for at in 0..disk.log_len() {
        let image = disk.crash_image(at, Crash::Keep);
        let Ok(reopened) = Repo::open(Arc::new(image), &key(), write_small()) else { continue };
        salvaged = salvaged.max(reopened.health().salvaged_blobs);
    }
    assert_eq!(salvaged, 5);
}
