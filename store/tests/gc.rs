//! Collecting: what no point needs goes, what a point or a session needs stays, sparse packs are
//! copied, doubt refuses, and a full disk is rescued.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod common;

use std::ops::ControlFlow;
use std::sync::Arc;

use common::{
    Node, WORKLOAD, check_point, commit, create, insert, key, manifest, open, point_id, protect,
    read_back, send, tree, write_small,
};
use strongroom_store::disk::sim::SimDisk;
use strongroom_store::disk::{Disk, read_all};
use strongroom_store::repo::{
    Begun, Collect, CollectError, CollectLimits, CollectReport, Depth, Removal, Repo, RepoError,
};

fn collect(repo: &Repo) -> CollectReport {
    repo.collect(&CollectLimits::default(), &mut |_| ControlFlow::Continue(())).unwrap()
}

fn remove(repo: &Repo, number: u8) {
    repo.remove_point(WORKLOAD, point_id(number)).unwrap();
}

fn pack_files(disk: &SimDisk) -> Vec<String> {
    disk.paths().into_iter().filter(|path| path.starts_with("packs/")).collect()
}

fn bytes_of(disk: &SimDisk) -> u64 {
    pack_files(disk).iter().map(|path| disk.open(path).unwrap().len().unwrap()).sum()
}

#[test]
fn what_no_point_needs_goes_and_the_rest_stays() {
    let disk = SimDisk::new();
    create(&disk);
    let repo = open(&disk);
    for number in 1..=6 {
        protect(&repo, number).unwrap();
    }
    let nothing = collect(&repo);
    assert!(nothing.removed.is_empty(), "{nothing:?}");
    let before = bytes_of(&disk);
    for number in [1, 2, 4, 6] {
        remove(&repo, number);
    }
    let plan = repo.collection_plan(&CollectLimits::default()).unwrap();
    assert!(plan.refusal.is_none() && !plan.remove.is_empty() && !plan.repack.is_empty());
    let report = collect(&repo);
    let after = bytes_of(&disk);
    assert!(after < before * 6 / 10, "{before} bytes became {after}");
    assert!(report.removed.iter().any(|gone| gone.removal == Removal::Unneeded));
    assert!(report.removed.iter().any(|gone| gone.removal == Removal::Repacked));
    assert_eq!(report.removed_bytes, report.removed.iter().map(|gone| gone.bytes).sum::<u64>());
    assert_eq!(report.removed.len(), plan.remove.len() + plan.repack.len());
    let idle = collect(&repo);
    assert!(idle.removed.is_empty() && idle.copied_bytes == 0, "{idle:?}");
    for kept in [3, 5] {
        check_point(&repo, kept).unwrap();
    }
    drop(repo);
    let repo = open(&disk);
    assert!(repo.health().is_sound(), "{:?}", repo.health());
    assert_eq!(repo.health().segments_dropped, 0, "a removal is not a loss");
    for kept in [3, 5] {
        check_point(&repo, kept).unwrap();
    }
    assert!(repo.verify(Depth::Plain).unwrap().is_sound());
    // What was removed is sent again, not thought to be here.
    for number in [1, 4, 7] {
        protect(&repo, number).unwrap();
        check_point(&repo, number).unwrap();
    }
}

#[test]
fn an_empty_repository_gives_everything_back() {
    let disk = SimDisk::new();
    create(&disk);
    let repo = open(&disk);
    for number in 1..=3 {
        protect(&repo, number).unwrap();
    }
    (1..=3).for_each(|number| remove(&repo, number));
    repo.checkpoint().unwrap();
    collect(&repo);
    assert_eq!(pack_files(&disk), Vec::<String>::new());
    drop(repo);
    let repo = open(&disk);
    assert!(repo.health().is_sound() && repo.packs().is_empty());
    protect(&repo, 2).unwrap();
    check_point(&repo, 2).unwrap();
}

#[test]
fn a_session_keeps_what_it_was_told_is_here() {
    let disk = SimDisk::new();
    create(&disk);
    let repo = open(&disk);
    protect(&repo, 1).unwrap();
    let session = repo.session();
    assert_eq!(session.has(&[tree(1).id(), Node::data(101).id()]).unwrap(), [true, true]);
    remove(&repo, 1);
    let report = collect(&repo);
    assert!(report.removed.is_empty() && report.waiting > 0, "{report:?}");
    // Whoever comes later does not count on it.
    let later = repo.session();
    assert_eq!(later.has(&[tree(1).id(), Node::data(101).id()]).unwrap(), [false, false]);
    drop(later);
    // The session goes on as if nothing had happened.
    commit(&session, 1).unwrap();
    drop(session);
    let report = collect(&repo);
    assert!(report.removed.is_empty(), "{report:?}");
    check_point(&repo, 1).unwrap();
    remove(&repo, 1);
    collect(&repo);
    assert!(pack_files(&disk).is_empty());
}

#[test]
fn a_session_that_ends_without_a_point_gives_its_packs_back() {
    let disk = SimDisk::new();
    create(&disk);
    let repo = open(&disk);
    protect(&repo, 1).unwrap();
    let session = repo.session();
    send(&session, &tree(9)).unwrap();
    session.barrier().unwrap();
    let report = collect(&repo);
    assert!(report.removed.is_empty() && report.waiting == 0, "young packs are left alone");
    let clone = Repo::clone(&session);
    drop(session);
    assert!(collect(&repo).removed.is_empty(), "a clone holds the session open");
    drop(clone);
    assert_eq!(repo.open_sessions(), 0);
    assert!(!collect(&repo).removed.is_empty());
    check_point(&repo, 1).unwrap();
    protect(&repo, 9).unwrap();
    check_point(&repo, 9).unwrap();
}

#[test]
fn a_proof_older_than_a_condemnation_is_not_believed() {
    let disk = SimDisk::new();
    create(&disk);
    let repo = open(&disk);
    // A page that stays in a pack with needed ones, over data that goes.
    let kept = Node::page(1, vec![Node::data(1)]);
    let (old, chunk) = (Node::page(2, vec![Node::data(2)]), Node::data(2));
    insert(&repo, &Node::data(1)).unwrap();
    repo.barrier().unwrap();
    insert(&repo, &chunk).unwrap();
    repo.barrier().unwrap();
    (3..8).for_each(|n| insert(&repo, &Node::page(n, vec![Node::data(1)])).unwrap());
    insert(&repo, &kept).unwrap();
    insert(&repo, &old).unwrap();
    let all: Vec<_> = (3..8).map(|n| Node::page(n, vec![Node::data(1)]).reference()).collect();
    let roots = [all.as_slice(), &[kept.reference()]].concat();
    repo.commit_point(WORKLOAD, point_id(1), &manifest(point_id(1), &roots)).unwrap();
    assert_eq!(repo.has(&[old.id()]).unwrap(), [true]);
    let late = repo.session();
    drop(late);
    let limits = CollectLimits { metadata_live_percent_min: 0, ..CollectLimits::default() };
    let report = repo.collect(&limits, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(report.removed.len(), 1, "the pack of one chunk");
    let check = |repo: &Repo| {
        let session = repo.session();
        assert_eq!(session.has(&[kept.id(), chunk.id()]).unwrap(), [true, false]);
        assert_eq!(session.has(&[old.id()]).unwrap(), [false], "its chunk is gone");
        let manifest = manifest(point_id(2), &[old.reference()]);
        let refused = session.commit_point(WORKLOAD, point_id(2), &manifest);
        assert!(matches!(refused, Err(RepoError::Incomplete(_))), "{refused:?}");
    };
    check(&repo);
    // Nor after a restart, clean or not.
    check(&open(&disk.crash_image(disk.log_len(), strongroom_store::disk::sim::Crash::Drop)));
    drop(repo);
    let repo = open(&disk);
    check(&repo);
    send(&repo, &old).unwrap();
    let manifest = manifest(point_id(2), &[old.reference()]);
    repo.commit_point(WORKLOAD, point_id(2), &manifest).unwrap();
    read_back(&repo, &old).unwrap();
}

#[test]
fn a_transfer_keeps_the_packs_it_found_and_brought() {
    let (disk, other) = (SimDisk::new(), SimDisk::new());
    create(&disk);
    create(&other);
    let (repo, source) = (open(&disk), open(&other));
    protect(&source, 5).unwrap();
    let session = repo.session();
    for (count, pack) in source.packs().into_iter().enumerate() {
        let Begun::Receiving(mut incoming) = session.begin_pack(pack).unwrap() else { panic!() };
        incoming.write(&source.read_pack(pack, 0, usize::MAX).unwrap()).unwrap();
        incoming.finish().unwrap();
        let report = collect(&repo);
        assert!(report.removed.is_empty() && report.waiting == 0, "after {count}: {report:?}");
    }
    // A transfer that broke off: another goes on, and finds what the first one brought.
    drop(session);
    let session = repo.session();
    let packs = source.packs();
    assert!(session.has_pack(packs[0]));
    let report = collect(&repo);
    assert!(report.removed.is_empty() && report.waiting == packs.len(), "{report:?}");
    for pack in packs {
        assert!(session.has_pack(pack));
        assert!(matches!(session.begin_pack(pack).unwrap(), Begun::Present));
    }
    commit(&session, 5).unwrap();
    drop(session);
    assert!(collect(&repo).removed.is_empty());
    check_point(&repo, 5).unwrap();
}

#[test]
fn anything_unreadable_keeps_everything() {
    let disk = SimDisk::new();
    create(&disk);
    let repo = open(&disk);
    for number in 1..=4 {
        protect(&repo, number).unwrap();
    }
    remove(&repo, 1);
    drop(repo);
    let refused = |change: &dyn Fn(&SimDisk)| {
        let image = disk.crash_image(disk.log_len(), strongroom_store::disk::sim::Crash::Keep);
        change(&image);
        let Ok(repo) = Repo::open(Arc::new(image.clone()), &key(), write_small()) else {
            panic!("damage does not prevent opening")
        };
        let before = pack_files(&image);
        let outcome = repo.collect(&CollectLimits::default(), &mut |_| ControlFlow::Continue(()));
        assert!(matches!(outcome, Err(CollectError::Doubtful { .. })), "{outcome:?}");
        let plan = repo.collection_plan(&CollectLimits::default()).unwrap();
        assert!(plan.refusal.is_some() && plan.remove.is_empty());
        assert_eq!(before, pack_files(&image));
    };
    let manifests: Vec<String> =
        disk.paths().into_iter().filter(|path| path.starts_with("points/")).collect();
    for path in &manifests {
        for at in 0..read_all(&disk, path, 1 << 20).unwrap().len() {
            if at % 17 == 0 {
                refused(&|image| {
                    image.damage(path, |bytes| bytes[at] ^= 4);
                });
            }
        }
        refused(&|image| {
            image.damage(path, |bytes| bytes.truncate(40));
        });
        refused(&|image| image.rename(path, &format!("{path}x")).unwrap());
    }
    // A needed pack that is gone.
    let repo = open(&disk);
    let mut cases = 0;
    for pack in repo.closure(&[tree(3).reference()]).unwrap().packs {
        let path = pack_files(&disk).into_iter().find(|path| path.ends_with(&pack.to_string()));
        refused(&|image| image.remove(path.as_ref().unwrap()).unwrap());
        cases += 1;
    }
    assert!(cases > 2 && manifests.len() == 3);
}

#[test]
fn a_collection_can_be_stopped_at_every_step_and_goes_on() {
    let mut steps = 0;
    loop {
        let disk = SimDisk::new();
        create(&disk);
        let repo = open(&disk);
        for number in 1..=6 {
            protect(&repo, number).unwrap();
        }
        for number in [1, 2, 4, 6] {
            remove(&repo, number);
        }
        let mut left = steps;
        let mut watch = |_: Collect| {
            left -= 1;
            if left < 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let stopped = repo.collect(&CollectLimits::default(), &mut watch).unwrap();
        for kept in [3, 5] {
            check_point(&repo, kept).unwrap();
        }
        collect(&repo);
        collect(&repo);
        let rest = repo.collection_plan(&CollectLimits::default()).unwrap();
        assert!(rest.remove.is_empty() && rest.repack.is_empty(), "stopped at {steps}: {rest}");
        for kept in [3, 5] {
            check_point(&repo, kept).unwrap();
        }
        if !stopped.stopped {
            break;
        }
        steps += 1;
    }
    assert!(steps > 4, "{steps} steps");
}

#[test]
fn what_is_hurt_is_not_kept_in_the_place_of_what_is_whole() {
    let disk = SimDisk::new();
    create(&disk);
    let repo = open(&disk);
    protect(&repo, 3).unwrap();
    let whole = repo.packs();
    // The same blobs again, in packs that the index finds first, and that rot.
    let other = SimDisk::new();
    create(&other);
    let source = open(&other);
    for child in &tree(3).children {
        send(&source, child).unwrap();
        source.barrier().unwrap();
    }
    protect(&source, 3).unwrap();
    let twins = source.packs();
    for pack in &twins {
        let Begun::Receiving(mut incoming) = repo.begin_pack(*pack).unwrap() else { panic!() };
        incoming.write(&source.read_pack(*pack, 0, usize::MAX).unwrap()).unwrap();
        incoming.finish().unwrap();
    }
    for path in pack_files(&disk) {
        if twins.iter().any(|pack| path.ends_with(&pack.to_string())) {
            disk.damage(&path, |bytes| *bytes.last_mut().unwrap() ^= 1);
        }
    }
    assert!(!repo.verify(Depth::Hashes).unwrap().is_sound());
    collect(&repo);
    for pack in whole {
        assert!(repo.packs().contains(&pack), "the only whole copy");
    }
    drop(repo);
    let repo = open(&disk);
    repo.verify(Depth::Hashes).unwrap();
    collect(&repo);
    check_point(&repo, 3).unwrap();
    check_point(&open_copy(&disk), 3).unwrap();
}

/// The repository as it would be found after the power went.
fn open_copy(disk: &SimDisk) -> Repo {
    open(&disk.crash_image(disk.log_len(), strongroom_store::disk::sim::Crash::Drop))
}

#[test]
fn a_damaged_pack_is_not_copied_under_a_new_name() {
    let disk = SimDisk::new();
    create(&disk);
    let repo = open(&disk);
    for number in 1..=6 {
        protect(&repo, number).unwrap();
    }
    for number in [1, 2, 4, 6] {
        remove(&repo, number);
    }
    let plan = repo.collection_plan(&CollectLimits::default()).unwrap();
    let victim = plan.repack.first().unwrap().pack;
    let path = pack_files(&disk).into_iter().find(|path| path.ends_with(&victim.to_string()));
    let path = path.unwrap();
    let len = usize::try_from(disk.open(&path).unwrap().len().unwrap()).unwrap();
    disk.damage(&path, |bytes| bytes[len / 2] ^= 1);
    let report = collect(&repo);
    assert_eq!(report.damaged, [victim]);
    assert!(repo.packs().contains(&victim));
}
