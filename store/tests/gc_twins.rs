//! A blob that nothing needs lies in two packs; one goes, and while the other is copied a new
//! point asks for the blob. It was told that it is here, and so it stays.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod common;

use std::ops::ControlFlow;

use common::{Node, WORKLOAD, create, manifest, open, point_id, read_back, send};
use strongroom_protocol::id::PackId;
use strongroom_store::disk::sim::SimDisk;
use strongroom_store::repo::{Begun, Collect, CollectLimits, Depth, Repo};

/// Sends and commits a point of these.
fn keep(repo: &Repo, number: u8, top: &Node) {
    let session = repo.session();
    send(&session, top).unwrap();
    let point = point_id(number);
    session.commit_point(WORKLOAD, point, &manifest(point, &[top.reference()])).unwrap();
}

/// A repository of its own with one point, whose packs another is given whole.
fn given(to: &Repo, top: &Node) -> Vec<PackId> {
    let disk = SimDisk::new();
    create(&disk);
    let from = open(&disk);
    keep(&from, 90, top);
    let packs = from.packs();
    for pack in &packs {
        let Begun::Receiving(mut incoming) = to.begin_pack(*pack).unwrap() else { continue };
        incoming.write(&from.read_pack(*pack, 0, usize::MAX).unwrap()).unwrap();
        incoming.finish().unwrap();
    }
    to.barrier().unwrap();
    packs
}

#[test]
fn a_point_made_while_packs_are_copied_keeps_the_twin_that_is_left() {
    let disk = SimDisk::new();
    create(&disk);
    let repo = open(&disk);
    let twin = Node::data(1);
    // The older pack has the twin beside much that nothing needs, and one thing that is needed.
    let needed = Node::data(2);
    let dead = (3..7).map(Node::data);
    let older = [twin.clone(), needed.clone()].into_iter().chain(dead).collect();
    given(&repo, &Node::page(1, older));
    repo.checkpoint().unwrap();
    // The newer one has the twin alone.
    let newer = given(&repo, &Node::page(2, vec![twin.clone()]));
    keep(&repo, 1, &Node::page(3, vec![needed.clone()]));

    let wanted = Node::page(4, vec![twin]);
    let mut is_kept = false;
    let limits = CollectLimits::default();
    let report = repo.collect(&limits, &mut |progress| {
        if matches!(progress, Collect::Repacking { .. }) && !is_kept {
            keep(&repo, 2, &wanted);
            is_kept = true;
        }
        ControlFlow::Continue(())
    });
    let report = report.unwrap();
    assert!(is_kept, "nothing was copied: {report:?}");
    let gone = |pack: &PackId| report.removed.iter().any(|removed| removed.pack == *pack);
    assert!(newer.iter().any(gone), "the newer pack went first: {report:?}");
    read_back(&repo, &wanted).unwrap();
    read_back(&repo, &Node::page(3, vec![needed])).unwrap();
    assert!(repo.verify(Depth::Plain).unwrap().is_sound());
    drop(repo);
    let again = open(&disk);
    assert!(again.health().is_sound());
    read_back(&again, &wanted).unwrap();
}
