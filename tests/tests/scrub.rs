//! Scrubbing at two sites without any order: what is flipped, cut or removed at either is found,
//! healed from the other and reported; what cannot be healed is named, costs the ledger its
//! copy and raises an alarm; copies that vanished behind the coordinator's back are made again.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};

use strongroom_node::scrubber::ScrubSettings;
use strongroom_protocol::PointId;
use strongroom_protocol::admin::{Request, Response, ScrubReport};
use strongroom_tests::lab::{Cast, Lab, copy_tree, differences, files_below, flip, truncate};

const FILES: usize = 6;
const FILE_BYTES: usize = 300_000;

/// Everything is read back all the time.
const EAGER: ScrubSettings = ScrubSettings {
    period_seconds: 1,
    new_seconds: 0,
    look_seconds: 1,
    bytes_per_second: 1 << 30,
    proof_seconds: 24 * 3600,
};

/// Two sites that scrub as `settings` say, one point copied and proven, and what it must hold.
async fn protected(settings: ScrubSettings) -> (Lab, PointId, PathBuf) {
    let mut lab = Lab::start(Cast::TwoSites).await.unwrap();
    lab.set_scrub(settings).await.unwrap();
    for n in 0..FILES {
        lab.write(&format!("file{n}"), FILE_BYTES, n as u64).unwrap();
    }
    lab.write("deep/below/small", 700, 99).unwrap();
    let point = lab.point().await.unwrap();
    lab.sites.await_copy("secondary", "readable").await.unwrap();
    lab.sites.await_copy("tape", "hash-verified").await.unwrap();
    let expected = lab.dir.path().join("expected");
    copy_tree(&lab.source, &expected).unwrap();
    (lab, point, expected)
}

fn packs(lab: &Lab, node: &str, class: &str) -> Vec<PathBuf> {
    files_below(&lab.sites.home(node).join("repo/packs").join(class)).unwrap()
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

fn in_quarantine(lab: &Lab, node: &str, name: &str) -> usize {
    let dir = lab.sites.home(node).join("repo/quarantine");
    let found = if dir.exists() { files_below(&dir).unwrap() } else { Vec::new() };
    found.iter().filter(|path| name_of(path).starts_with(name)).count()
}

async fn scrubbed(lab: &Lab, node: &str) -> ScrubReport {
    match lab.sites.ask(node, &Request::Scrub).await.unwrap() {
        Response::Scrub(report) => report,
        other => panic!("{other:?}"),
    }
}

/// Waits until a file is what its twin is and nothing is hurt at the node any more.
async fn await_healed(lab: &Lab, node: &str, path: &Path, whole: &[u8]) {
    lab.sites
        .wait_for("healing", async |_| {
            let is_same = std::fs::read(path).is_ok_and(|bytes| bytes == whole);
            Ok((is_same && scrubbed(lab, node).await.hurt.is_empty()).then_some(()))
        })
        .await
        .unwrap();
}

/// How often the audit log has an action of a pack.
async fn records(lab: &Lab, action: &str, pack: &str) -> usize {
    let records = lab.audit().await.unwrap().into_iter();
    records.filter(|row| row.action == action && row.detail.contains(pack)).count()
}

/// Waits until a node looked at everything once more.
async fn await_round(lab: &Lab, node: &str) {
    let before = scrubbed(lab, node).await.rounds;
    lab.sites
        .wait_for("a round", async |_| {
            Ok((scrubbed(lab, node).await.rounds >= before + 2).then_some(()))
        })
        .await
        .unwrap();
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Cut,
    Flip,
    Remove,
}

fn hurt(path: &Path, act: Act) {
    match act {
        Act::Cut => truncate(path, 60).unwrap(),
        Act::Flip => flip(path, 40).unwrap(),
        Act::Remove => std::fs::remove_file(path).unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_at_either_site_is_found_and_healed_from_the_other_without_an_order() {
    let (lab, point, expected) = protected(EAGER).await;
    for (node, other) in [("coordinator", "proxy"), ("proxy", "coordinator")] {
        for (nth, act) in [Act::Flip, Act::Cut, Act::Remove].into_iter().enumerate() {
            for class in ["d", "m"] {
                let case = format!("{act:?} of {class} at {node}");
                let pack = packs(&lab, node, class).remove(0);
                let name = name_of(&pack);
                let twin = packs(&lab, other, class);
                let twin = twin.iter().find(|path| name_of(path) == name).unwrap();
                let whole = std::fs::read(twin).unwrap();
                let kept = in_quarantine(&lab, node, &name);
                let told = records(&lab, "scrub.healed", &name).await;
                hurt(&pack, act);
                await_healed(&lab, node, &pack, &whole).await;
                let expected_kept = kept + usize::from(!matches!(act, Act::Remove));
                assert_eq!(in_quarantine(&lab, node, &name), expected_kept, "{case}");
                lab.sites
                    .wait_for("the records", async |_| {
                        let found = records(&lab, "scrub.found", &name).await;
                        let healed = records(&lab, "scrub.healed", &name).await;
                        Ok((found > told && healed == told + 1).then_some(()))
                    })
                    .await
                    .unwrap();
                lab.restores_as(node, point, &expected).await.unwrap();
                assert!(scrubbed(&lab, node).await.healed > 2 * nth as u64, "{case}");
            }
        }
        await_round(&lab, node).await;
        let status = lab.status(node).await.unwrap();
        assert_eq!(status.alarms, Vec::<String>::new(), "{node}");
    }
    let lost = lab.audit().await.unwrap().into_iter().filter(|row| row.action == "copy.lost");
    assert_eq!(lost.count(), 0, "what is healed was never lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_is_healed_at_either_site_and_missed_where_the_ledger_knows_it() {
    let (lab, point, expected) = protected(EAGER).await;
    for (node, act) in
        [("coordinator", Act::Flip), ("coordinator", Act::Remove), ("proxy", Act::Cut)]
    {
        let manifests = files_below(&lab.sites.home(node).join("repo/points")).unwrap();
        let manifest = manifests.iter().find(|path| path.ends_with(point.to_string())).unwrap();
        let before = std::fs::read(manifest).unwrap();
        hurt(manifest, act);
        lab.sites
            .wait_for("the manifest", async |_| {
                Ok(std::fs::read(manifest).is_ok_and(|now| now == before).then_some(()))
            })
            .await
            .unwrap();
        lab.restores_as(node, point, &expected).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_pack_hurt_at_both_sites_is_named_and_nothing_wrong_is_restored() {
    let (lab, point, expected) = protected(EAGER).await;
    let pack = packs(&lab, "coordinator", "d").remove(0);
    let name = name_of(&pack);
    let twin = packs(&lab, "proxy", "d").into_iter().find(|path| name_of(path) == name).unwrap();
    let whole = std::fs::read(&twin).unwrap();
    hurt(&twin, Act::Flip);
    hurt(&pack, Act::Cut);
    lab.audited("copy.lost", "secondary").await.unwrap();
    lab.audited("copy.lost", "primary").await.unwrap();
    for node in ["coordinator", "proxy"] {
        let alarms = lab
            .sites
            .wait_for("the alarms", async |_| {
                let alarms = lab.status(node).await?.alarms;
                let is_told = |text: &str| alarms.iter().any(|line| line.contains(text));
                let is_point = node == "proxy" || is_told(&point.to_string());
                Ok((is_told(&name) && is_point).then_some(alarms))
            })
            .await
            .unwrap();
        if node == "coordinator" {
            assert!(alarms.iter().any(|line| line.contains("/file")), "{alarms:?}");
        }
        let (target, problems) = lab.restore(node, point).await.unwrap();
        assert!(!problems.is_empty());
        for difference in differences(&expected, &target).unwrap() {
            let aspect = difference.split(' ').nth(1).unwrap();
            assert!(matches!(aspect, "Missing" | "Surplus"), "{difference}");
        }
        assert!(pack.exists() && twin.exists(), "nothing is put away without a replacement");
    }
    let debts = lab.status("coordinator").await.unwrap().debts;
    assert!(debts.iter().any(|debt| debt.contains("primary")), "{debts:?}");

    // Somebody finds the bytes elsewhere: everything comes right by itself.
    std::fs::write(&twin, whole).unwrap();
    lab.audited("copy.restored", "primary").await.unwrap();
    lab.sites.await_copy("secondary", "readable").await.unwrap();
    for node in ["coordinator", "proxy"] {
        lab.restores_as(node, point, &expected).await.unwrap();
    }
    lab.sites
        .wait_for("quiet", async |_| {
            let status = lab.status("coordinator").await?;
            Ok((status.alarms.is_empty() && status.debts.is_empty()).then_some(()))
        })
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_bytes_from_the_proxy_are_refused_and_replace_nothing() {
    let (mut lab, point, expected) = protected(EAGER).await;
    // The proxy does not look, and so does not know better.
    lab.restart_proxy(ScrubSettings::default()).await.unwrap();
    let pack = packs(&lab, "coordinator", "d").remove(0);
    let name = name_of(&pack);
    let twin = packs(&lab, "proxy", "d").into_iter().find(|path| name_of(path) == name).unwrap();
    let whole = std::fs::read(&twin).unwrap();
    hurt(&twin, Act::Flip);
    hurt(&pack, Act::Cut);
    let kept = std::fs::read(&pack).unwrap();
    let refused = lab.audited("heal.refused", "are not pack").await.unwrap();
    assert!(refused.detail.contains(&name), "{refused:?}");
    assert_eq!(std::fs::read(&pack).unwrap(), kept);
    assert_eq!(in_quarantine(&lab, "coordinator", &name), 0);
    std::fs::write(&twin, &whole).unwrap();
    await_healed(&lab, "coordinator", &pack, &whole).await;
    assert_eq!(in_quarantine(&lab, "coordinator", &name), 1);
    lab.restores_as("coordinator", point, &expected).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_secondary_is_lost_and_made_again() {
    let (mut lab, point, expected) = protected(ScrubSettings::default()).await;
    lab.stop_proxy().await.unwrap();
    let repo = lab.sites.home("proxy").join("repo");
    for part in ["packs", "points", "index"] {
        std::fs::remove_dir_all(repo.join(part)).unwrap();
    }
    lab.start_proxy().unwrap();
    lab.everybody().await.unwrap();
    lab.audited("copy.lost", "secondary").await.unwrap();
    lab.sites.await_copy("secondary", "readable").await.unwrap();
    lab.restores_as("proxy", point, &expected).await.unwrap();
    assert!(lab.status("coordinator").await.unwrap().debts.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cartridge_that_is_gone_costs_its_copy_which_is_made_again_on_another() {
    let settings = ScrubSettings { proof_seconds: 2, ..ScrubSettings::default() };
    let (lab, _, _) = protected(settings).await;
    let library = lab.sites.home("proxy").join("library");
    let mut tapes = files_below(&library).unwrap().into_iter();
    let tape = tapes.find(|path| path.extension().is_some_and(|ext| ext == "tape")).unwrap();
    std::fs::remove_file(&tape).unwrap();
    lab.audited("copy.lost", "tape").await.unwrap();
    lab.sites
        .wait_for("the tape copy", async |_| {
            let points = lab.sites.points("coordinator").await?;
            let copies = points.iter().flat_map(|point| &point.copies);
            let there = copies.clone().any(|row| {
                row.copy.as_str() == "tape"
                    && row.state == "present"
                    && row.proof == "hash-verified"
            });
            Ok(there.then_some(()))
        })
        .await
        .unwrap();
    let left = files_below(&library).unwrap();
    let written = left.iter().filter(|path| {
        path.extension().is_some_and(|ext| ext == "tape") && path.metadata().unwrap().len() > 0
    });
    assert_eq!(written.count(), 1, "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_proofs_are_made_again() {
    let settings = ScrubSettings { proof_seconds: 2, ..ScrubSettings::default() };
    let (lab, point, _) = protected(settings).await;
    let proven = async || {
        let points = lab.sites.points("coordinator").await.unwrap();
        let row = points.iter().find(|row| row.id == point).unwrap();
        let dates = row.copies.iter().filter(|row| row.copy.as_str() != "primary");
        dates.map(|row| row.proven.unwrap()).collect::<Vec<_>>()
    };
    let before = proven().await;
    assert_eq!(before.len(), 2);
    lab.sites
        .wait_for("newer proofs", async |_| {
            let now = proven().await;
            Ok(now.iter().zip(&before).all(|(now, before)| now > before).then_some(()))
        })
        .await
        .unwrap();
    // A proof by reading finds what a look cannot see, and the copy is made whole again.
    let pack = packs(&lab, "proxy", "d").remove(0);
    flip(&pack, 50).unwrap();
    lab.audited("copy.lost", "secondary").await.unwrap();
    lab.sites.await_copy("secondary", "readable").await.unwrap();
    let twin = packs(&lab, "coordinator", "d").remove(0);
    assert_eq!(std::fs::read(&pack).unwrap(), std::fs::read(&twin).unwrap());
}
