//! Real threads over a real directory: four writers that send much the same, points removed under
//! them, and collections all the while. Whatever was committed and not removed restores, and no
//! writer is ever told that what it counted on is gone.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod common;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use common::{WORKLOAD, create, key, manifest, read_back, send, tree, write_small};
use strongroom_protocol::id::PointId;
use strongroom_store::disk::LocalDisk;
use strongroom_store::repo::{CollectLimits, Depth, Repo};

const WRITERS: u8 = 4;
const POINTS_EACH: u8 = 150;
/// Trees there are: every one is sent again and again, and shares much with its neighbours.
const TREES: u64 = 30;

struct Shared {
    repo: Repo,
    /// Points that are committed and not removed, and the trees they hold.
    points: Mutex<BTreeMap<PointId, u64>>,
    writing: AtomicBool,
    removed_packs: AtomicU64,
    rescued_packs: AtomicU64,
    waiting_packs: AtomicU64,
    collections: AtomicU64,
}

fn write(shared: &Shared, writer: u8) {
    for round in 0..POINTS_EACH {
        let number = (u64::from(round) * 7 + u64::from(writer) * 3) % TREES + 1;
        let point =
            PointId::from_bytes([writer + 1, round, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let session = shared.repo.session();
        // Asked before the rest is sent: what is here now must be here at the end.
        drop(session.has(&[tree(number).id()]).unwrap());
        send(&session, &tree(number)).unwrap();
        let manifest = manifest(point, &[tree(number).reference()]);
        session.commit_point(WORKLOAD, point, &manifest).unwrap();
        shared.points.lock().unwrap().insert(point, number);
    }
}

/// Removes points as they come, so that few are left at any time.
fn remove(shared: &Shared) {
    while shared.writing.load(Ordering::SeqCst) {
        let victim = {
            let mut points = shared.points.lock().unwrap();
            if points.len() > 3 { points.pop_first() } else { None }
        };
        match victim {
            Some((point, _)) => shared.repo.remove_point(WORKLOAD, point).unwrap(),
            None => std::thread::yield_now(),
        }
    }
}

fn collect(shared: &Shared) {
    while shared.writing.load(Ordering::SeqCst) {
        let report = shared
            .repo
            .collect(&CollectLimits::default(), &mut |_| ControlFlow::Continue(()))
            .unwrap();
        shared.removed_packs.fetch_add(report.removed.len() as u64, Ordering::Relaxed);
        shared.waiting_packs.fetch_add(report.waiting as u64, Ordering::Relaxed);
        shared.rescued_packs.fetch_add(report.rescued.len() as u64, Ordering::Relaxed);
        shared.collections.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn writers_never_notice_that_others_remove_and_collect() {
    let dir = tempfile::tempdir().unwrap();
    let disk = LocalDisk::new(dir.path());
    create(&disk);
    let repo = Repo::open(Arc::new(disk.clone()), &key(), write_small()).unwrap();
    let shared = Shared {
        repo,
        points: Mutex::default(),
        writing: AtomicBool::new(true),
        removed_packs: AtomicU64::new(0),
        rescued_packs: AtomicU64::new(0),
        waiting_packs: AtomicU64::new(0),
        collections: AtomicU64::new(0),
    };
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let shared = &shared;
                scope.spawn(move || write(shared, writer))
            })
            .collect();
        scope.spawn(|| remove(&shared));
        scope.spawn(|| collect(&shared));
        let outcomes: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        shared.writing.store(false, Ordering::SeqCst);
        outcomes.into_iter().for_each(|outcome| outcome.unwrap());
    });
    let [collections, removed, rescued] =
        [&shared.collections, &shared.removed_packs, &shared.rescued_packs]
            .map(|count| count.load(Ordering::SeqCst));
    let waiting = shared.waiting_packs.load(Ordering::SeqCst);
    println!("{collections} collections, {removed} removed, {rescued} rescued, {waiting} waited");
    assert!(removed > 20, "{removed} packs removed: the test proved too little");
    let Shared { repo, points, .. } = shared;
    let points = points.into_inner().unwrap();
    let check = |repo: &Repo| {
        assert_eq!(repo.points().unwrap().len(), points.len());
        for number in points.values() {
            read_back(repo, &tree(*number)).unwrap();
        }
        assert!(repo.verify(Depth::Plain).unwrap().is_sound());
        assert!(repo.health().is_sound(), "{:?}", repo.health());
    };
    check(&repo);
    drop(repo);
    let repo = Repo::open(Arc::new(disk), &key(), write_small()).unwrap();
    check(&repo);
    for point in points.keys() {
        repo.remove_point(WORKLOAD, *point).unwrap();
    }
    repo.collect(&CollectLimits::default(), &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(repo.packs().is_empty());
}
