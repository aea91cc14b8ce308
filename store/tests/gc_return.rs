//! A pack that was collected and is received again: from then on it is in place like any other,
//! and without it something is lost. No crash on the way makes a loss of its removal.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod common;

use std::ops::ControlFlow;

use common::{WORKLOAD, create, open, point_id, protect};
use strongroom_protocol::id::PackId;
use strongroom_store::disk::Disk;
use strongroom_store::disk::sim::{Crash, SimDisk};
use strongroom_store::repo::{Begun, CollectLimits, Repo};

/// A repository whose index names a pack that was collected, and the bytes of that pack.
fn collected() -> (SimDisk, PackId, Vec<u8>) {
    let disk = SimDisk::new();
    create(&disk);
    let repo = open(&disk);
    (1..=6).for_each(|number| protect(&repo, number).unwrap());
    repo.checkpoint().unwrap();
    let bytes = |pack| (pack, repo.read_pack(pack, 0, usize::MAX).unwrap().to_vec());
    let packs: Vec<(PackId, Vec<u8>)> = repo.packs().into_iter().map(bytes).collect();
    repo.remove_point(WORKLOAD, point_id(6)).unwrap();
    let limits = CollectLimits {
        data_live_percent_min: 0,
        metadata_live_percent_min: 0,
        ..CollectLimits::default()
    };
    let report = repo.collect(&limits, &mut |_| ControlFlow::Continue(())).unwrap();
    let gone = report.removed.first().unwrap().pack;
    assert!(report.removed.len() * 4 < packs.len(), "the segment is not written anew");
    drop(repo);
    let bytes = packs.into_iter().find(|(pack, _)| *pack == gone).unwrap().1;
    (disk.crash_image(disk.log_len(), Crash::Keep), gone, bytes)
}

fn receive(repo: &Repo, pack: PackId, bytes: &[u8]) {
    let Begun::Receiving(mut incoming) = repo.begin_pack(pack).unwrap() else { panic!() };
    incoming.write(bytes).unwrap();
    incoming.finish().unwrap();
    repo.barrier().unwrap();
}

/// Takes the pack away behind the repository's back.
fn lose(disk: &SimDisk, pack: PackId) {
    let path = disk.paths().into_iter().find(|path| path.ends_with(&pack.to_string())).unwrap();
    disk.remove(&path).unwrap();
}

#[test]
fn what_came_back_and_goes_again_is_lost() {
    let (disk, pack, bytes) = collected();
    let repo = open(&disk);
    assert!(repo.health().is_sound(), "a removal is no loss: {:?}", repo.health());
    receive(&repo, pack, &bytes);
    drop(repo);
    lose(&disk, pack);
    assert_eq!(open(&disk).health().missing_packs, [pack]);
}

#[test]
fn power_lost_at_every_step_of_coming_back() {
    let (disk, pack, bytes) = collected();
    let repo = open(&disk);
    let begun = disk.log_len();
    receive(&repo, pack, &bytes);
    let acknowledged = disk.log_len();
    let mut came_back = 0;
    for step in begun..=acknowledged {
        for crash in [Crash::Drop, Crash::Keep, Crash::Mix(5), Crash::Mix(42)] {
            let image = disk.crash_image(step, crash);
            let name = format!("{crash:?} after {step}");
            let repo = open(&image);
            assert!(repo.health().is_sound(), "{name}: {:?}", repo.health());
            let is_here = repo.packs().contains(&pack);
            assert!(is_here || step < acknowledged, "{name}: it is gone again");
            repo.barrier().unwrap();
            drop(repo);
            if is_here {
                came_back += 1;
                lose(&image, pack);
                assert_eq!(open(&image).health().missing_packs, [pack], "{name}");
            }
        }
    }
    assert!(came_back > 4, "{came_back} of the images have it");
}
