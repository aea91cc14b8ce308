//! The end of a hurt pack whose blobs came to lie in whole ones: its file goes to quarantine, and
//! the index forgets it at once. No crash and no failing disk on the way costs anything.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod common;
mod scrub_kit;

use common::{check_point, send, tree};
use scrub_kit::{DAY, at, pack_of, pack_paths, prepared, reopened, round};
use strongroom_protocol::id::PackId;
use strongroom_store::disk::Disk;
use strongroom_store::disk::sim::{Crash, Fault, FaultPlan, SimDisk};
use strongroom_store::repo::{Repo, Subject};

/// How a pack is hurt.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// Its footer holds.
    Flip,
    /// Its footer does not.
    FlipLast,
    Remove,
}

/// A repository with a hurt pack of this class, known to be hurt, whose blobs were sent again.
fn sent_again(class: &str, act: Act) -> (SimDisk, Repo, PackId) {
    let disk = prepared();
    let path = pack_paths(&disk).into_iter().find(|path| path.starts_with(class)).unwrap();
    let repo = reopened(&disk);
    match act {
        Act::Flip => drop(disk.rot(&path, |bytes| bytes[70] ^= 1)),
        Act::FlipLast => drop(disk.rot(&path, |bytes| *bytes.last_mut().unwrap() ^= 1)),
        Act::Remove => {
            disk.remove(&path).unwrap();
            disk.sync_dir(path.rsplit_once('/').unwrap().0).unwrap();
        }
    }
    let pack = pack_of(&path);
    assert_eq!(round(&repo, at(0)), [Subject::Pack(pack)]);
    repo.retire_hurt(pack).unwrap();
    assert!(repo.packs().contains(&pack), "something is to be had from it still");
    for number in [1, 2] {
        send(&repo, &tree(number)).unwrap();
    }
    repo.barrier().unwrap();
    (disk, repo, pack)
}

fn cases() -> impl Iterator<Item = (&'static str, Act)> {
    let acts = [Act::Flip, Act::FlipLast, Act::Remove];
    ["packs/d/", "packs/m/"].into_iter().flat_map(move |class| acts.map(|act| (class, act)))
}

fn is_whole(disk: &SimDisk, repo: &Repo, name: &str) {
    assert!(repo.health().is_sound(), "{name}: {:?}", repo.health());
    for number in [1, 2] {
        check_point(repo, number).unwrap_or_else(|error| panic!("{name}: {error:?}"));
    }
    assert!(disk.exists("config").unwrap());
}

#[test]
fn a_hurt_pack_leaves_the_index_with_its_file() {
    for (class, act) in cases() {
        let (disk, repo, pack) = sent_again(class, act);
        let name = format!("{act:?} in {class}");
        repo.retire_hurt(pack).unwrap();
        assert!(repo.hurt().is_empty(), "{name}: {:?}", repo.hurt());
        assert!(!repo.packs().contains(&pack), "{name}: the index names it still");
        assert!(!pack_paths(&disk).iter().any(|path| pack_of(path) == pack), "{name}");
        let moved = disk.paths().iter().any(|path| path.starts_with("quarantine/"));
        assert_eq!(moved, !matches!(act, Act::Remove), "{name}");
        assert_eq!(round(&repo, at(DAY)), [], "{name}");
        assert_eq!(repo.hurt_points().unwrap(), [], "{name}");
        is_whole(&disk, &repo, &name);
        drop(repo);
        let repo = reopened(&disk);
        assert_eq!(repo.health().segments_dropped, 0, "{name}: it counts as lost");
        is_whole(&disk, &repo, &name);
    }
}

#[test]
fn power_lost_and_a_disk_that_fails_at_every_step() {
    let (mut images, mut failures) = (0, 0);
    for (class, act) in cases() {
        let (disk, repo, pack) = sent_again(class, act);
        let (begun, ops) = (disk.log_len(), disk.op_count());
        repo.retire_hurt(pack).unwrap();
        let ops = disk.op_count() - ops;
        for step in begun..=disk.log_len() {
            for crash in [Crash::Drop, Crash::Keep, Crash::Mix(9), Crash::Mix(61)] {
                let image = disk.crash_image(step, crash);
                let name = format!("{act:?} in {class}, {crash:?} after {step}");
                let again = reopened(&image);
                let left = round(&again, at(DAY));
                assert!(left.iter().all(|subject| *subject == Subject::Pack(pack)), "{name}");
                again.retire_hurt(pack).unwrap();
                // One that a damaged index does not know is told by what the points need.
                assert!(again.hurt().is_empty(), "{name}: {:?}", again.hurt());
                is_whole(&image, &again, &name);
                images += 1;
            }
        }
        for first in 0..ops {
            let (disk, repo, pack) = sent_again(class, act);
            let name = format!("{act:?} in {class}, failing at {first}");
            let start = disk.op_count() + first;
            disk.fail(Some(FaultPlan { ops: start..start + 1, fault: Fault::Io }));
            failures += usize::from(repo.retire_hurt(pack).is_err());
            disk.fail(None);
            for number in [1, 2] {
                check_point(&repo, number).unwrap_or_else(|error| panic!("{name}: {error:?}"));
            }
            round(&repo, at(60));
            repo.retire_hurt(pack).unwrap();
            assert!(repo.hurt().is_empty() && !repo.packs().contains(&pack), "{name}");
            drop(repo);
            is_whole(&disk, &reopened(&disk), &name);
        }
    }
    assert!(images > 100 && failures > 5, "{images} images, {failures} failures");
}
