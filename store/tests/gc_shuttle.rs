//! Writers, sessions and collections in every order a scheduler can think of, over the real
//! repository: its locks and counters are the scheduler's (`store/src/sync.rs`), its disk is in
//! memory. Run: `cargo test -p strongroom-store --features shuttle --test gc_shuttle`.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod common;

use std::ops::ControlFlow;

use common::{Node, WORKLOAD, create, insert, manifest, open, point_id, read_back, send};
use shuttle::thread;
use strongroom_store::disk::sim::SimDisk;
use strongroom_store::repo::{CollectLimits, Repo};

/// Schedules tried of each story.
const SCHEDULES: usize = 3000;

fn page(name: u64) -> Node {
    Node::page(name, vec![Node::data(1), Node::data(2)])
}

fn commit(repo: &Repo, number: u8, root: &Node) {
    let manifest = manifest(point_id(number), &[root.reference()]);
    repo.commit_point(WORKLOAD, point_id(number), &manifest).unwrap();
}

fn collect(repo: &Repo) {
    let limits = CollectLimits {
        data_live_percent_min: 100,
        metadata_live_percent_min: 100,
        ..CollectLimits::default()
    };
    repo.collect(&limits, &mut |_| ControlFlow::Continue(())).unwrap();
}

/// A repository in which one removed point has left everything the stories want.
fn leftovers() -> Repo {
    let disk = SimDisk::new();
    create(&disk);
    let repo = open(&disk);
    insert(&repo, &Node::data(1)).unwrap();
    repo.barrier().unwrap();
    insert(&repo, &Node::data(2)).unwrap();
    insert(&repo, &Node::data(3)).unwrap();
    insert(&repo, &page(10)).unwrap();
    let kept = Node::page(11, vec![Node::data(3)]);
    insert(&repo, &kept).unwrap();
    commit(&repo, 1, &page(10));
    commit(&repo, 2, &kept);
    repo.remove_point(WORKLOAD, point_id(1)).unwrap();
    repo
}

fn check(repo: &Repo, points: &[(u8, Node)]) {
    for (number, root) in points {
        assert_eq!(repo.point_roots(WORKLOAD, point_id(*number)).unwrap(), [root.reference()]);
        repo.closure(&[root.reference()]).unwrap();
        read_back(repo, root).unwrap();
    }
}

/// Sends under a session and commits: never told that something is missing.
fn write(repo: &Repo, number: u8, root: Node) -> thread::JoinHandle<(u8, Node)> {
    let repo = repo.clone();
    thread::spawn(move || {
        let session = repo.session();
        send(&session, &root).unwrap();
        commit(&session, number, &root);
        (number, root)
    })
}

#[test]
fn a_session_against_two_collections() {
    shuttle::check_random(
        || {
            let repo = leftovers();
            let writer = write(&repo, 3, page(10));
            let collector = {
                let repo = repo.clone();
                thread::spawn(move || {
                    collect(&repo);
                    collect(&repo);
                })
            };
            let written = writer.join().unwrap();
            collector.join().unwrap();
            check(&repo, &[written, (2, Node::page(11, vec![Node::data(3)]))]);
            collect(&repo);
            check(&repo, &[(3, page(10))]);
        },
        SCHEDULES,
    );
}

#[test]
fn sessions_that_share_against_a_collection_and_a_removal() {
    shuttle::check_random(
        || {
            let repo = leftovers();
            let top = Node::page(12, vec![page(10), Node::data(3)]);
            let writers = [write(&repo, 3, page(10)), write(&repo, 4, top)];
            let remover = {
                let repo = repo.clone();
                thread::spawn(move || repo.remove_point(WORKLOAD, point_id(2)).unwrap())
            };
            collect(&repo);
            let written = writers.map(|writer| writer.join().unwrap());
            remover.join().unwrap();
            collect(&repo);
            check(&repo, &written);
        },
        SCHEDULES,
    );
}

#[test]
fn a_session_that_gives_up_leaves_no_proof_behind() {
    shuttle::check_random(
        || {
            let repo = leftovers();
            let quitter = {
                let repo = repo.clone();
                thread::spawn(move || {
                    let session = repo.session();
                    // Proves the page, rests on its data, and goes.
                    drop(send(&session, &Node::page(13, vec![page(10)])));
                })
            };
            let collector = {
                let repo = repo.clone();
                thread::spawn(move || {
                    collect(&repo);
                    collect(&repo);
                })
            };
            let top = Node::page(13, vec![page(10)]);
            let written = write(&repo, 5, top).join().unwrap();
            quitter.join().unwrap();
            collector.join().unwrap();
            check(&repo, &[written]);
        },
        SCHEDULES,
    );
}
