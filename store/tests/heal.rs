//! Replacing what is hurt over a simulated disk, with power lost or the disk failing at every
//! step: no point that was whole is lost, the hurt file is never lost, and the next try heals.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod common;
mod scrub_kit;

use common::{check_point, commit, point_id};
use scrub_kit::{DAY, Source, at, prepared, reopened, round};
use strongroom_store::disk::Disk;
use strongroom_store::disk::sim::{Crash, Fault, FaultPlan, SimDisk};
use strongroom_store::repo::Depth;

/// What is done to a file before it is healed.
#[derive(Clone, Copy, Debug)]
enum Act {
    Cut,
    Flip,
    Remove,
}

/// A disk with one file hurt for good, and the bytes it had then.
fn hurt(path: &str, act: Act) -> (SimDisk, Option<Vec<u8>>) {
    let disk = prepared();
    match act {
        Act::Cut => drop(disk.rot(path, |bytes| bytes.truncate(bytes.len() / 2))),
        Act::Flip => drop(disk.rot(path, |bytes| bytes[100] ^= 8)),
        Act::Remove => disk.remove(path).unwrap(),
    }
    let disk = match act {
        Act::Remove => disk.crash_image(disk.log_len(), Crash::Keep),
        Act::Cut | Act::Flip => disk,
    };
    let len = disk.open(path).ok().map(|file| file.len().unwrap());
    let bytes = len.map(|len| {
        let mut bytes = vec![0; usize::try_from(len).unwrap()];
        disk.open(path).unwrap().read_exact_at(&mut bytes, 0).unwrap();
        bytes
    });
    (disk, bytes)
}

fn holds(disk: &SimDisk, bytes: &[u8]) -> bool {
    disk.paths().iter().any(|path| {
        let file = disk.open(path).unwrap();
        let mut found = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read_exact_at(&mut found, 0).unwrap();
        found == bytes
    })
}

/// A pack of each class and a manifest, which is hurt by flips and cuts only: one that was
/// removed is not known to have been there.
fn cases() -> Vec<(String, Act)> {
    let disk = prepared();
    let first = |prefix: &str| disk.paths().into_iter().find(|path| path.starts_with(prefix));
    let mut cases = Vec::new();
    for act in [Act::Cut, Act::Flip, Act::Remove] {
        cases.push((first("packs/d/").unwrap(), act));
        cases.push((first("packs/m/").unwrap(), act));
    }
    cases.extend([Act::Cut, Act::Flip].map(|act| (first("points/").unwrap(), act)));
    cases
}

#[test]
fn power_lost_at_every_step_of_replacing() {
    let source = Source::of(&prepared());
    let (mut images, mut steps, mut finished) = (0, 0, 0);
    for (path, act) in cases() {
        let (disk, hurt_bytes) = hurt(&path, act);
        let repo = reopened(&disk);
        round(&repo, at(0));
        assert_eq!(source.heal(&repo).unwrap(), 1, "{path} {act:?}");
        repo.scrub_save().unwrap();
        let acknowledged = disk.log_len();
        drop(repo);
        steps += disk.log_len();
        for step in 0..=disk.log_len() {
            for crash in [Crash::Drop, Crash::Keep, Crash::Mix(3), Crash::Mix(77)] {
                let image = disk.crash_image(step, crash);
                let name = format!("{act:?} of {path}, {crash:?} after {step}");
                if let Some(bytes) = &hurt_bytes {
                    assert!(holds(&image, bytes), "{name}: the hurt file is lost");
                }
                let moved = image.paths().iter().any(|path| path.starts_with("quarantine/"));
                let is_between =
                    path.starts_with("packs/") && moved && !image.exists(&path).unwrap();
                let repo = reopened(&image);
                if is_between {
                    assert!(image.exists(&path).unwrap(), "{name}: the opening did not finish it");
                    finished += 1;
                }
                let left = round(&repo, at(DAY));
                assert!(left.len() <= 1, "{name}: {left:?}");
                if step >= acknowledged {
                    assert_eq!(left, [], "{name}");
                }
                // What a crash tore of a transfer is found out at its end, and sent again.
                if source.heal(&repo).is_err() {
                    source.heal(&repo).unwrap_or_else(|error| panic!("{name}: {error:?}"));
                }
                if path.starts_with("points/") && !repo.has_point(point_id(1)) {
                    // Moved away and not written: as if it had never been, and asked for anew.
                    commit(&repo, 1).unwrap();
                }
                for number in [1, 2] {
                    check_point(&repo, number)
                        .unwrap_or_else(|error| panic!("{name}: {number}: {error:?}"));
                }
                assert!(repo.verify(Depth::Plain).unwrap().is_sound(), "{name}");
                images += 1;
            }
        }
    }
    println!("{steps} changes, {images} images, {finished} finished by the opening");
    assert!(images > 400 && finished > 10, "{images}, {finished}");
}

#[test]
fn a_full_or_failing_disk_at_every_step_of_replacing() {
    let source = Source::of(&prepared());
    let (mut runs, mut failures) = (0, 0);
    for (path, act) in cases() {
        let ops = {
            let (disk, _) = hurt(&path, act);
            let repo = reopened(&disk);
            round(&repo, at(0));
            let before = disk.op_count();
            source.heal(&repo).unwrap();
            disk.op_count() - before
        };
        for fault in [Fault::Full, Fault::Io] {
            for (first, count) in (0..ops).flat_map(|first| [(first, 1), (first, 7)]) {
                let name = format!("{act:?} of {path}: {fault:?} at {first} for {count}");
                let (disk, hurt_bytes) = hurt(&path, act);
                let repo = reopened(&disk);
                round(&repo, at(0));
                let start = disk.op_count() + first;
                disk.fail(Some(FaultPlan { ops: start..start + count, fault }));
                failures += usize::from(source.heal(&repo).is_err());
                disk.fail(None);
                runs += 1;
                round(&repo, at(60));
                source.heal(&repo).unwrap_or_else(|error| panic!("{name}: {error:?}"));
                if path.starts_with("points/") && !repo.has_point(point_id(1)) {
                    commit(&repo, 1).unwrap();
                }
                drop(repo);
                if let Some(bytes) = &hurt_bytes {
                    assert!(holds(&disk, bytes), "{name}: the hurt file is lost");
                }
                let worst = reopened(&disk.crash_image(disk.log_len(), Crash::Drop));
                for number in [1, 2] {
                    check_point(&worst, number)
                        .unwrap_or_else(|error| panic!("{name}: {number}: {error:?}"));
                }
                assert_eq!(round(&worst, at(DAY)), [], "{name}");
            }
        }
    }
    println!("{runs} runs, {failures} failures");
    assert!(failures * 2 > runs, "{failures} failures of {runs} runs");
}
