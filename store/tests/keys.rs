//! The keys of a repository: the file is the old one or the new one at every crash point, and a
//! vault with several key epochs keeps names, packs and points apart as the format says.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod common;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use common::{
    REPO, WORKLOAD, check_point, commit, create, key, manifest, noise, open, point_id, protect,
    read_back, send, tree, write_small,
};
use strongroom_protocol::blob::BlobKind;
use strongroom_store::disk::Disk;
use strongroom_store::disk::sim::{Crash, Damage, SimDisk};
use strongroom_store::keys::VaultKey;
use strongroom_store::pack::read_epoch;
use strongroom_store::parcel::Compressor;
use strongroom_store::repo::{Begun, CollectLimits, Depth, Mode, Repo, RepoError, RepoKeys};
use strongroom_store::seal::seal;

const CRASHES: [Crash; 7] = [
    Crash::Drop,
    Crash::Keep,
    Crash::Mix(1),
    Crash::Mix(22),
    Crash::Mix(333),
    Crash::Mix(4444),
    Crash::Mix(55_555),
];

fn set(disk: &SimDisk, keys: RepoKeys) -> Result<(), RepoError> {
    RepoKeys::change(disk, |_, _| Ok((keys, ())))
}

/// The second epoch of the test vault, the same each time.
fn second() -> VaultKey {
    VaultKey::from_secret(&[[0x33; 32], [0x34; 32]].concat()).unwrap()
}

fn open_with(disk: &SimDisk, key: &VaultKey) -> Result<Repo, RepoError> {
    Repo::open(Arc::new(disk.clone()), key, write_small())
}

#[test]
fn a_change_of_keys_is_whole_or_not_at_every_crash_point() {
    let disk = SimDisk::new();
    create(&disk);
    let repo = open(&disk);
    protect(&repo, 1).unwrap();
    let first = RepoKeys::read(&disk).unwrap();
    // What the file is after how many changes of the disk.
    let mut versions = vec![(disk.log_len(), first)];
    let two = second();
    for keys in [
        RepoKeys::new(REPO, vec![noise(300, 1)]),
        RepoKeys::new(REPO, vec![noise(300, 1), noise(200, 2)]),
        RepoKeys::of(REPO, &two, vec![noise(900, 3)]),
        RepoKeys::of(REPO, &two, vec![noise(900, 3), noise(10, 4)]),
    ] {
        set(&disk, keys.clone()).unwrap();
        assert_eq!(repo.keys_now().unwrap(), keys, "an open repository reads what is there now");
        versions.push((disk.log_len(), keys));
        if versions.len() == 3 {
            protect(&repo, 2).unwrap();
        }
    }
    drop(repo);
    let mut images = 0;
    for at in versions[0].0..=disk.log_len() {
        for crash in CRASHES {
            let name = format!("{crash:?} after {at} changes");
            let image = disk.crash_image(at, crash);
            let found = RepoKeys::read(&image).unwrap_or_else(|error| panic!("{name}: {error}"));
            let acknowledged = versions.iter().rposition(|(done, _)| *done <= at).unwrap();
            let next = versions.get(acknowledged + 1);
            let known = [Some(&versions[acknowledged]), next];
            let known = known.into_iter().flatten().any(|(_, keys)| *keys == found);
            assert!(known, "{name}: neither the old keys nor the new");
            let repo = open_with(&image, &key()).unwrap_or_else(|e| panic!("{name}: {e:?}"));
            check_point(&repo, 1).unwrap();
            let last = RepoKeys::of(REPO, &two, vec![noise(10, 5)]);
            set(&image, last.clone()).unwrap();
            assert_eq!(RepoKeys::read(&image).unwrap(), last, "{name}");
            images += 1;
        }
    }
    println!("{} changes, {images} images", disk.log_len() - versions[0].0);
    assert!(images > 100);
}

#[test]
fn keys_are_refused_that_nobody_opens_or_that_are_of_another_repository() {
    let disk = SimDisk::new();
    create(&disk);
    let before = RepoKeys::read(&disk).unwrap();
    let none = set(&disk, RepoKeys::new(REPO, vec![]));
    assert!(matches!(none, Err(RepoError::NoRecipient { .. })));
    let other = strongroom_protocol::id::RepoId::from_bytes([9; 16]);
    let refused = set(&disk, RepoKeys::new(other, vec![vec![1]]));
    assert!(matches!(refused, Err(RepoError::OtherRepository { found, .. }) if found == other));
    let lock = disk.lock("keys.lock").unwrap().unwrap();
    let busy = set(&disk, RepoKeys::new(REPO, vec![vec![1]]));
    assert!(matches!(busy, Err(RepoError::KeysBusy { .. })));
    drop(lock);
    assert_eq!(RepoKeys::read(&disk).unwrap(), before);
}

#[test]
fn a_wrong_key_a_damaged_file_and_a_stranger_are_told_apart() {
    let disk = SimDisk::new();
    create(&disk);
    let wrong = open_with(&disk, &VaultKey::from_bytes([1; 32]));
    assert!(matches!(wrong, Err(RepoError::WrongKey { .. })));
    let stranger = RepoKeys::new(strongroom_protocol::id::RepoId::from_bytes([9; 16]), vec![]);
    let whole = stranger.encode();
    assert_eq!(disk.damage("keys", |bytes| *bytes = whole), Damage::Done);
    let refused = open_with(&disk, &key());
    assert!(matches!(refused, Err(RepoError::OtherRepository { .. })), "{refused:?}");
    assert_eq!(disk.damage("keys", |bytes| bytes[9] ^= 1), Damage::Done);
    let refused = open_with(&disk, &key());
    assert!(matches!(refused, Err(RepoError::DamagedFile { .. })), "{refused:?}");
    disk.remove("keys").unwrap();
    let refused = open_with(&disk, &key());
    let missing = matches!(
        &refused,
        Err(RepoError::DamagedFile { reason, .. }) if *reason == "it is missing"
    );
    assert!(missing, "{refused:?}");
    // What is damaged or missing is replaced by the next change.
    set(&disk, RepoKeys::new(REPO, vec![vec![1]])).unwrap();
    open_with(&disk, &key()).unwrap();
}

/// A repository of two epochs: points 1 and 2 of the first, 3 of the second.
fn rotated() -> SimDisk {
    let disk = SimDisk::new();
    create(&disk);
    let repo = open(&disk);
    protect(&repo, 1).unwrap();
    protect(&repo, 2).unwrap();
    drop(repo);
    set(&disk, RepoKeys::of(REPO, &second(), vec![vec![7]])).unwrap();
    let repo = open_with(&disk, &second()).unwrap();
    protect_with(&repo, &second(), 3);
    drop(repo);
    disk
}

fn protect_with(repo: &Repo, key: &VaultKey, number: u8) {
    send_with(repo, key, &tree(u64::from(number)));
    commit(repo, number).unwrap();
}

fn send_with(repo: &Repo, key: &VaultKey, node: &common::Node) {
    if repo.has(&[node.id()]).unwrap()[0] {
        return;
    }
    for child in &node.children {
        send_with(repo, key, child);
    }
    let parcel = node.parcel();
    repo.insert(seal(key, REPO, &parcel).unwrap(), &parcel.head.references).unwrap();
}

#[test]
fn epochs_lie_in_packs_of_their_own_and_all_stay_readable() {
    let disk = rotated();
    let repo = open_with(&disk, &second()).unwrap();
    let mut seen = [0, 0];
    for pack in repo.packs() {
        seen[repo.pack_epoch(pack).unwrap() as usize - 1] += 1;
    }
    assert!(seen[0] > 1 && seen[1] > 1, "{seen:?}");
    for number in 1..=3 {
        check_point(&repo, number).unwrap();
    }
    assert!(repo.verify(Depth::Plain).unwrap().is_sound());
    // What is the same has the same name in every epoch: nothing of point 1 is sent again.
    let packs = repo.packs().len();
    protect_with(&repo, &second(), 1);
    repo.barrier().unwrap();
    assert_eq!(repo.packs().len(), packs);
}

#[test]
fn a_pack_never_holds_records_of_two_epochs() {
    let disk = SimDisk::new();
    create(&disk);
    set(&disk, RepoKeys::of(REPO, &second(), vec![vec![7]])).unwrap();
    let repo = open_with(&disk, &second()).unwrap();
    // As a repack hands them over: records of both epochs, mixed.
    let mut compressor = Compressor::new().unwrap();
    for n in 0..40u8 {
        let agent = key().agent_keys();
        let plain = noise(60, u64::from(n));
        let parcel = compressor.pack(&agent, BlobKind::Data, vec![], &plain, 1).unwrap();
        let with = if n % 3 == 0 { second() } else { key() };
        repo.insert(seal(&with, REPO, &parcel).unwrap(), &[]).unwrap();
    }
    repo.barrier().unwrap();
    let report = repo.verify(Depth::Plain).unwrap();
    assert!(report.is_sound() && report.blobs == 40, "{report:?}");
    let epochs: Vec<u32> =
        repo.packs().into_iter().map(|pack| repo.pack_epoch(pack).unwrap()).collect();
    assert!(epochs.contains(&1) && epochs.contains(&2), "{epochs:?}");
}

#[test]
fn what_is_repacked_keeps_its_epoch() {
    let disk = rotated();
    let repo = open_with(&disk, &second()).unwrap();
    for number in [4, 5] {
        protect_with(&repo, &second(), number);
    }
    for number in [2, 4] {
        repo.remove_point(WORKLOAD, point_id(number)).unwrap();
    }
    let limits = CollectLimits {
        data_live_percent_min: 100,
        metadata_live_percent_min: 100,
        ..CollectLimits::default()
    };
    let report = repo.collect(&limits, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(report.copied_bytes > 0 && !report.removed.is_empty(), "{report:?}");
    let epochs: BTreeSet<u32> =
        repo.packs().into_iter().map(|pack| repo.pack_epoch(pack).unwrap()).collect();
    assert_eq!(epochs, [1, 2].into());
    drop(repo);
    let repo = open_with(&disk, &second()).unwrap();
    assert!(repo.verify(Depth::Plain).unwrap().is_sound());
    for number in [1, 3, 5] {
        check_point(&repo, number).unwrap();
    }
    // A node without the newer key collects too: it opens nothing.
    drop(repo);
    let repo = open_with(&disk, &key()).unwrap();
    repo.remove_point(WORKLOAD, point_id(3)).unwrap();
    repo.collect(&limits, &mut |_| ControlFlow::Continue(())).unwrap();
    drop(repo);
    let repo = open_with(&disk, &second()).unwrap();
    assert!(repo.verify(Depth::Plain).unwrap().is_sound());
    check_point(&repo, 5).unwrap();
}

#[test]
fn what_a_crash_left_unfinished_is_saved_in_its_own_epoch() {
    let disk = rotated();
    let repo = open_with(&disk, &second()).unwrap();
    send_with(&repo, &second(), &tree(8));
    repo.barrier().unwrap();
    // One more record, in an open pack, when power is lost.
    send_with(&repo, &second(), &tree(9));
    let image = loop {
        let image = disk.crash_image(disk.log_len(), Crash::Keep);
        let open = image.list("tmp").unwrap().into_iter().find(|e| e.name.ends_with(".open"));
        if let Some(open) = open {
            let path = format!("tmp/{}", open.name);
            let file = image.open(&path).unwrap();
            if file.len().unwrap() > 64 {
                assert_eq!(read_epoch(&*file, REPO).unwrap(), 2);
                break image;
            }
        }
        send_with(&repo, &second(), &tree(u64::from(unsent(&disk))));
    };
    let saved = open_with(&image, &second()).unwrap();
    assert!(saved.health().salvaged_blobs + saved.health().abandoned_blobs > 0);
    assert!(saved.verify(Depth::Plain).unwrap().is_sound());
}

/// Numbers of trees that were not sent yet.
fn unsent(disk: &SimDisk) -> u16 {
    u16::try_from(disk.log_len() % 60_000).unwrap() + 10
}

#[test]
fn a_newer_epoch_is_named_and_never_taken_for_damage() {
    let disk = rotated();
    // The keys file was taken over, vault.key not yet: what is old reads, what is new is named.
    let repo = open_with(&disk, &key()).unwrap();
    check_point(&repo, 1).unwrap();
    let read = read_back(&repo, &tree(3));
    assert!(matches!(read, Err(RepoError::NewerEpoch { epoch: 2, known: 1, .. })), "{read:?}");
    let verified = repo.verify(Depth::Plain);
    assert!(matches!(verified, Err(RepoError::NewerEpoch { .. })), "{verified:?}");
    assert!(repo.verify(Depth::Hashes).unwrap().is_sound());
    // It goes on sealing under the epoch it has, which everybody who has the newer one reads.
    protect(&repo, 4).unwrap();
    drop(repo);
    check_point(&open_with(&disk, &second()).unwrap(), 4).unwrap();
}

#[test]
fn nothing_is_written_under_an_epoch_that_no_recipient_opens() {
    let disk = SimDisk::new();
    create(&disk);
    let refused = open_with(&disk, &second());
    assert!(
        matches!(refused, Err(RepoError::Unwrapped { wrapped: 1, held: 2, .. })),
        "{refused:?}"
    );
    Repo::open(Arc::new(disk.clone()), &second(), Mode::Read).unwrap();
    let third = VaultKey::from_secret(&[[0x33; 32], [0x99; 32]].concat()).unwrap();
    set(&disk, RepoKeys::of(REPO, &third, vec![vec![7]])).unwrap();
    let refused = open_with(&disk, &second());
    assert!(matches!(refused, Err(RepoError::WrongKey { .. })), "{refused:?}");
}

#[test]
fn packs_of_every_epoch_are_copied_as_they_lie() {
    let disk = rotated();
    let source = open_with(&disk, &second()).unwrap();
    let copy = SimDisk::new();
    create(&copy);
    // The other site has not taken the keys over yet: copying needs no key.
    let target = open(&copy);
    for pack in source.packs() {
        let Begun::Receiving(mut incoming) = target.begin_pack(pack).unwrap() else { panic!() };
        let len = usize::try_from(source.pack_len(pack).unwrap()).unwrap();
        incoming.write(&source.read_pack(pack, 0, len).unwrap()).unwrap();
        incoming.finish().unwrap();
    }
    let root = tree(3).reference();
    target.commit_point(WORKLOAD, point_id(3), &manifest(point_id(3), &[root])).unwrap();
    assert!(matches!(read_back(&target, &tree(3)), Err(RepoError::NewerEpoch { .. })));
    drop(target);
    set(&copy, RepoKeys::of(REPO, &second(), vec![vec![7]])).unwrap();
    let target = open_with(&copy, &second()).unwrap();
    check_point(&target, 3).unwrap();
    assert!(target.verify(Depth::Plain).unwrap().is_sound());
}

#[test]
fn a_flipped_epoch_in_a_header_is_damage() {
    let disk = rotated();
    let repo = open_with(&disk, &second()).unwrap();
    let packs = repo.packs();
    drop(repo);
    for pack in packs {
        for class in ["d", "m"] {
            let path = format!("packs/{class}/{}/{pack}", &pack.to_string()[..2]);
            if disk.damage(&path, |bytes| bytes[28] ^= 4) != Damage::Done {
                continue;
            }
            let repo = open_with(&disk, &second()).unwrap();
            let report = repo.verify(Depth::Plain).unwrap();
            assert_eq!(report.damaged_packs.len(), 1, "{report:?}");
            assert_eq!(report.damaged_packs[0].pack, pack);
            drop(repo);
            assert_eq!(disk.damage(&path, |bytes| bytes[28] ^= 4), Damage::Done);
        }
    }
    let repo = open_with(&disk, &second()).unwrap();
    send(&repo, &tree(1)).unwrap();
    assert!(repo.verify(Depth::Plain).unwrap().is_sound());
}
