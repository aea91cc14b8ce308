//! Several sessions at once over a real directory, and a whole copy made of packs.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod common;

use std::sync::Arc;

use common::{
    WORKLOAD, check_point, commit, create, key, point_id, protect, send, tree, write_small,
};
use strongroom_store::disk::LocalDisk;
use strongroom_store::repo::{Begun, Depth, Repo, RepoError};

#[test]
fn concurrent_sessions_share_what_they_send() {
    let dir = tempfile::tempdir().unwrap();
    let disk = LocalDisk::new(dir.path());
    create(&disk);
    let repo = Repo::open(Arc::new(disk.clone()), &key(), write_small()).unwrap();
    std::thread::scope(|scope| {
        for session in 0..6u8 {
            let repo = repo.clone();
            scope.spawn(move || {
                for number in 0..6 {
                    // Each number is sent by two sessions.
                    protect(&repo, session / 2 * 10 + number + 1).unwrap();
                }
            });
        }
    });
    drop(repo);
    let repo = Repo::open(Arc::new(disk), &key(), write_small()).unwrap();
    assert_eq!(repo.points().unwrap().len(), 18);
    for (_, point) in repo.points().unwrap() {
        check_point(&repo, point.as_bytes()[0]).unwrap();
    }
    let report = repo.verify(Depth::Plain).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(repo.index().recent_len(), 0);
}

#[test]
fn a_copy_made_of_packs_is_whole_and_not_before() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let open = |dir: &tempfile::TempDir| {
        let disk = LocalDisk::new(dir.path());
        if Repo::open_keyless(Arc::new(disk.clone())).is_err() {
            create(&disk);
        }
        Repo::open(Arc::new(disk), &key(), write_small()).unwrap()
    };
    let source = open(&here);
    protect(&source, 1).unwrap();
    let copy = open(&there);
    let closure = source.closure(&[tree(1).reference()]).unwrap();
    assert!(closure.packs.len() > 3 && closure.blobs > 10);
    for (count, pack) in closure.packs.iter().enumerate() {
        assert!(matches!(commit(&copy, 1), Err(RepoError::Incomplete(_))), "after {count} packs");
        let Begun::Receiving(mut incoming) = copy.begin_pack(*pack).unwrap() else { panic!() };
        assert!(matches!(copy.begin_pack(*pack), Err(RepoError::Busy { .. })));
        let bytes = source.read_pack(*pack, 0, usize::MAX).unwrap();
        incoming.write(&bytes).unwrap();
        incoming.finish().unwrap();
        assert!(matches!(copy.begin_pack(*pack).unwrap(), Begun::Present));
    }
    commit(&copy, 1).unwrap();
    drop(copy);
    let copy = open(&there);
    check_point(&copy, 1).unwrap();
    assert_eq!(copy.points().unwrap(), [(WORKLOAD, point_id(1))]);
    send(&copy, &tree(1)).unwrap();
}

#[test]
fn other_bytes_are_not_taken_for_a_pack() {
    let dir = tempfile::tempdir().unwrap();
    let disk = LocalDisk::new(dir.path());
    create(&disk);
    let repo = Repo::open(Arc::new(disk), &key(), write_small()).unwrap();
    let pack = strongroom_protocol::id::PackId([1; 32]);
    let Begun::Receiving(mut incoming) = repo.begin_pack(pack).unwrap() else { panic!() };
    incoming.write(b"not a pack").unwrap();
    assert!(matches!(incoming.finish(), Err(RepoError::NotThePack { .. })));
    let Begun::Receiving(again) = repo.begin_pack(pack).unwrap() else { panic!() };
    assert_eq!(again.offset(), 0);
    assert!(repo.packs().is_empty());
}
