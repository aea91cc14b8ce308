//! A catalog that is damaged or lost, and cartridges that are: the way out is named, points keep
//! their ids, copies are found or made again, and one bad copy does not hurt the others.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};

use strongroom_protocol::PointId;
use strongroom_protocol::admin::CopyRow;
use strongroom_tests::lab::{Cast, Lab, files_below, flip, truncate};

/// Two points, each with its copies proven.
async fn copied() -> (Lab, Vec<PointId>) {
    let lab = Lab::start(Cast::TwoSites).await.unwrap();
    lab.write("file", 400_000, 1).unwrap();
    let first = lab.point().await.unwrap();
    lab.sites.await_copy("tape", "hash-verified").await.unwrap();
    lab.write("more", 400_000, 2).unwrap();
    let second = lab.point().await.unwrap();
    lab.sites.await_copy("secondary", "readable").await.unwrap();
    lab.sites.await_copy("tape", "hash-verified").await.unwrap();
    (lab, vec![second, first])
}

fn move_catalog_away(lab: &Lab) {
    let home = lab.sites.home("coordinator");
    for name in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let path = home.join(name);
        if path.exists() {
            std::fs::rename(&path, lab.dir.path().join(name)).unwrap();
        }
    }
}

async fn ids(lab: &Lab, node: &str) -> Vec<PointId> {
    lab.sites.points(node).await.unwrap().into_iter().map(|row| row.id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_catalog_names_the_way_out_and_a_lost_one_is_made_again() {
    let (mut lab, points) = copied().await;
    lab.stop_coordinator().await.unwrap();
    let catalog = lab.sites.home("coordinator").join("catalog.db");
    let mut bytes = std::fs::read(&catalog).unwrap();
    for byte in &mut bytes[..200] {
        *byte ^= 0x5a;
    }
    std::fs::write(&catalog, bytes).unwrap();
    let why = match lab.sites.start_coordinator() {
        Ok(_) => panic!("it started"),
        Err(error) => format!("{error:#}"),
    };
    assert!(why.contains("catalog.db") && why.contains("move it away"), "{why}");

    move_catalog_away(&lab);
    lab.start_coordinator().unwrap();
    lab.everybody().await.unwrap();
    assert_eq!(ids(&lab, "coordinator").await, points);
    let alarms = lab.status("coordinator").await.unwrap().alarms;
    assert!(alarms.iter().any(|alarm| alarm.contains("apply the policy again")), "{alarms:?}");
    lab.sites.apply(&lab.policy()).await.unwrap();
    lab.sites.await_copy("secondary", "readable").await.unwrap();
    lab.sites.await_copy("tape", "hash-verified").await.unwrap();
    assert_eq!(ids(&lab, "coordinator").await, points);
    assert_eq!(ids(&lab, "proxy").await, points);
    lab.restores_as("coordinator", points[0], &lab.source).await.unwrap();
    lab.restores_as("proxy", points[0], &lab.source).await.unwrap();
    let third = lab.point().await.unwrap();
    assert_eq!(lab.sites.await_copy("secondary", "readable").await.unwrap().id, third);
}

/// The cartridges that were written to, the fullest first.
fn cartridges(lab: &Lab) -> Vec<PathBuf> {
    let all = files_below(&lab.sites.home("proxy").join("library")).unwrap();
    let is_cartridge = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        name.starts_with('T') && path.metadata().unwrap().len() > 10_000
    };
    all.into_iter().filter(is_cartridge).collect()
}

/// Damages the fullest cartridge while everything is off, and has every copy proven anew, as a
/// coordinator without its catalog does; returns what it tells of the copy on tape, if anything.
async fn after(damage: impl Fn(&Path)) -> Option<String> {
    let (mut lab, points) = copied().await;
    lab.stop_coordinator().await.unwrap();
    lab.stop_proxy().await.unwrap();
    move_catalog_away(&lab);
    damage(&cartridges(&lab).remove(0));
    lab.start_coordinator().unwrap();
    lab.start_proxy().unwrap();
    lab.everybody().await.unwrap();
    lab.sites.apply(&lab.policy()).await.unwrap();
    let told = lab.sites.wait_for("a word about the copy on tape", async |_| {
        let status = lab.status("coordinator").await?;
        let mut words = status.alarms.into_iter().chain(status.debts);
        let told = words.find(|word| word.contains("tape") && word.contains(": "));
        let newest = lab.sites.points("coordinator").await?.into_iter().next();
        let proven = newest.is_some_and(|row| {
            let is_proven = |copy: &CopyRow| copy.proof == "hash-verified";
            row.copies.iter().any(|copy| copy.copy.as_str() == "tape" && is_proven(copy))
        });
        Ok((told.is_some() || proven).then_some(told))
    });
    let told = told.await.unwrap();
    lab.sites.await_copy("secondary", "readable").await.unwrap();
    lab.restores_as("coordinator", points[0], &lab.source).await.unwrap();
    lab.restores_as("proxy", points[0], &lab.source).await.unwrap();
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cartridge_flipped_cut_short_or_gone_is_told_or_written_again() {
    // Either the copy on tape is named with a reason, or every pack of it was read back whole.
    let flipped = after(|cartridge| flip(cartridge, 20).unwrap()).await;
    let short = after(|cartridge| truncate(cartridge, 20).unwrap()).await;
    let gone = after(|cartridge| std::fs::remove_file(cartridge).unwrap()).await;
    for told in [flipped, short, gone].into_iter().flatten() {
        assert!(told.len() > 40, "a sentence: {told}");
    }
}
