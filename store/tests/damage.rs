//! Every kind of file is flipped, cut and removed: wrong bytes are never returned, the index
//! mends itself, and what cannot be mended is named.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod common;

use std::sync::Arc;

use common::{
    WORKLOAD, check_point, commit, create, key, manifest, open, point_id, protect, tree,
    write_small,
};
use strongroom_protocol::id::WorkloadId;
use strongroom_store::disk::Disk;
use strongroom_store::disk::sim::{Crash, Damage, SimDisk};
use strongroom_store::keys::VaultKey;
use strongroom_store::repo::{Depth, InsertError, Mode, Repo, RepoError};

fn prepared() -> SimDisk {
    let disk = SimDisk::new();
    create(&disk);
    let repo = open(&disk);
    protect(&repo, 1).unwrap();
    protect(&repo, 2).unwrap();
    drop(repo);
    disk
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Flip(usize),
    Cut(usize),
    Remove,
}

const ACTS: [Act; 9] = [
    Act::Flip(0),
    Act::Flip(20),
    Act::Flip(300),
    Act::Flip(50),
    Act::Flip(99),
    Act::Cut(0),
    Act::Cut(50),
    Act::Cut(99),
    Act::Remove,
];

/// Places are per cent of the file.
fn damage(disk: &SimDisk, path: &str, act: Act) {
    match act {
        Act::Remove => disk.remove(path).unwrap(),
        Act::Cut(part) => {
            let done = disk.damage(path, |bytes| bytes.truncate(bytes.len() * part / 100));
            assert_eq!(done, Damage::Done);
        }
        Act::Flip(part) => {
            let done = disk.damage(path, |bytes| {
                let at = (bytes.len() * part / 100).min(bytes.len() - 1);
                bytes[at] ^= 0x10;
            });
            assert_eq!(done, Damage::Done);
        }
    }
}

/// Whether a point reads back whole; anything but an error or the right bytes fails the test.
fn reads(repo: &Repo, number: u8) -> bool {
    check_point(repo, number).is_ok()
}

#[test]
fn the_damage_matrix() {
    let whole = prepared();
    let paths = whole.paths();
    assert!(paths.iter().any(|path| path.starts_with("index/")), "{paths:?}");
    assert!(paths.iter().filter(|path| path.starts_with("packs/")).count() >= 4);
    for path in &paths {
        for act in ACTS {
            let disk = whole.crash_image(whole.log_len(), Crash::Keep);
            damage(&disk, path, act);
            let opened = Repo::open(Arc::new(disk.clone()), &key(), write_small());
            check_case(path, act, opened);
        }
    }
}

fn check_case(path: &str, act: Act, opened: Result<Repo, RepoError>) {
    let name = format!("{act:?} of {path}");
    if path == "config" || path == "keys" {
        let error = opened.err().unwrap_or_else(|| panic!("{name}: it opened"));
        let named =
            matches!(error, RepoError::DamagedFile { .. } | RepoError::NotARepository { .. });
        assert!(named, "{name}: {error:?}");
        return;
    }
    let repo = opened.unwrap_or_else(|error| panic!("{name}: {error:?}"));
    let (one, two) = (reads(&repo, 1), reads(&repo, 2));
    let report = repo.verify(Depth::Plain).unwrap();
    if path.starts_with("index/") {
        assert!(one && two && report.is_sound(), "{name}");
    } else if path.starts_with("points/") {
        assert!(one != two, "{name}: one of two manifests was damaged");
        assert!(matches!(act, Act::Remove) || report.damaged_points.len() == 1, "{name}");
    } else {
        assert!(!report.is_sound(), "{name}: {report:?}");
        let named = report.damaged_packs.iter().any(|d| path.ends_with(&d.pack.to_string()));
        assert!(named, "{name}: {report:?}");
    }
    // Sending everything again is refused or heals; never does a commit lie.
    if protect(&repo, 3).is_ok() && path.starts_with("index/") {
        assert!(reads(&repo, 3), "{name}");
    }
}

#[test]
fn losing_a_data_pack_makes_agents_send_again() {
    let disk = prepared();
    for path in disk.paths().iter().filter(|path| path.starts_with("packs/d/")) {
        disk.remove(path).unwrap();
    }
    let repo = open(&disk);
    assert!(!repo.health().is_sound());
    let root = tree(2).reference();
    assert_eq!(repo.has(&[root.id]).unwrap(), [false]);
    assert!(matches!(repo.closure(&[root]), Err(RepoError::Incomplete(_))));
    let again = point_id(77);
    let refused = repo.commit_point(WORKLOAD, again, &manifest(again, &[root]));
    assert!(matches!(refused, Err(RepoError::Incomplete(_))), "{refused:?}");
    protect(&repo, 2).unwrap();
    check_point(&repo, 2).unwrap();
}

#[test]
fn a_page_is_refused_before_what_it_needs() {
    let disk = prepared();
    let repo = open(&disk);
    let node = tree(5);
    let refused = common::insert(&repo, &node).unwrap_err();
    assert!(
        matches!(&refused, InsertError::MissingReferences { missing, .. } if missing.len() == 4),
        "{refused:?}"
    );
    assert!(matches!(commit(&repo, 5), Err(RepoError::Incomplete(_))));
}

#[test]
fn keys_locks_and_versions_are_told_apart() {
    let disk = prepared();
    let wrong = Repo::open(Arc::new(disk.clone()), &VaultKey::from_bytes([0; 32]), Mode::Read);
    assert!(matches!(wrong, Err(RepoError::WrongKey { .. })));
    let none = Repo::open(Arc::new(SimDisk::new()), &key(), Mode::Read);
    assert!(matches!(none, Err(RepoError::NotARepository { .. })));
    let writer = open(&disk);
    let second = Repo::open(Arc::new(disk.clone()), &key(), Mode::Write);
    assert!(matches!(second, Err(RepoError::InUse { .. })));
    let reader = Repo::open(Arc::new(disk.clone()), &key(), Mode::Read).unwrap();
    assert!(reads(&reader, 1));
    assert!(matches!(commit(&reader, 1), Err(RepoError::ReadOnly)));
    drop(writer);
    let keyless = Repo::open_keyless(Arc::new(disk.clone())).unwrap();
    assert!(keyless.verify(Depth::Hashes).unwrap().is_sound());
    assert!(matches!(keyless.get(tree(1).id()), Err(RepoError::NoKey)));
    assert!(keyless.closure(&[tree(1).reference()]).is_ok());
    let again = Repo::create(&disk, &common::setup(), &key());
    assert!(matches!(again, Err(RepoError::AlreadyThere { .. })));
}

#[test]
fn a_point_is_one_manifest() {
    let disk = prepared();
    let repo = open(&disk);
    commit(&repo, 1).unwrap();
    let other = manifest(point_id(1), &[tree(2).reference()]);
    let refused = repo.commit_point(WORKLOAD, point_id(1), &other);
    assert!(matches!(refused, Err(RepoError::PointExists { .. })));
    let misnamed = repo.commit_point(WORKLOAD, point_id(9), &other);
    assert!(matches!(misnamed, Err(RepoError::Manifest { .. })));
    assert_eq!(repo.points().unwrap().len(), 2);
    repo.remove_point(WORKLOAD, point_id(1)).unwrap();
    assert!(matches!(
        repo.manifest_bytes(WORKLOAD, point_id(1)),
        Err(RepoError::NoSuchPoint { .. })
    ));
}

#[test]
fn after_a_loss_only_metadata_is_remembered_as_proven() {
    let disk = prepared();
    let lost = disk.paths().into_iter().find(|path| path.starts_with("packs/")).unwrap();
    disk.remove(&lost).unwrap();
    let repo = open(&disk);
    assert!(!repo.health().is_sound());
    protect(&repo, 7).unwrap();
    protect(&repo, 7).unwrap();
    let metadata = 1 + tree(7).children.iter().filter(|node| node.kind.is_metadata()).count();
    assert_eq!(repo.index().proven_len(), metadata);
}

#[test]
fn a_point_is_found_by_its_path() {
    let repo = open(&prepared());
    let (there, other) = (point_id(1), WorkloadId::from_bytes([9; 16]));
    assert!(repo.has_point_of(WORKLOAD, there).unwrap());
    assert!(!repo.has_point_of(WORKLOAD, point_id(99)).unwrap());
    assert!(!repo.has_point_of(other, there).unwrap());
    let (workload, file) = repo.manifest_of(there).unwrap();
    assert_eq!((workload, file), (WORKLOAD, repo.manifest_bytes(WORKLOAD, there).unwrap()));
    assert!(repo.manifest_of(point_id(99)).unwrap_err().is_absent());
}
