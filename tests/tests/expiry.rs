//! What nothing keeps goes, at both sites, after a grace at each; what anything keeps stays, and
//! the other site keeps more than it is told to. Clocks are the test's own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::Arc;

use strongroom_coordinator::catalog::{Catalog, CopyEvent};
use strongroom_coordinator::policy::primary;
use strongroom_protocol::admin::{
    CopyRow, Pinned, PointRef, PruneOrder, Request, Response, SpaceOrder,
};
use strongroom_protocol::{Clock as _, CopyName, PointId};
use strongroom_store::disk::LocalDisk;
use strongroom_store::keys::VaultKey;
use strongroom_store::repo::{Mode, Repo};
use strongroom_tests::ageing::{Ageing, SHORT_FLOOR, expired, in_grace};
use strongroom_tests::lab::{Cast, Lab, copy_tree, files_below};
use strongroom_tests::mounted::Mounted;
use strongroom_tests::site::name;

const DAY: i64 = 24 * 3600;

/// Bytes of the packs at a site, as the disk has them.
fn stored_bytes(lab: &Lab, node: &str) -> u64 {
    let packs = files_below(&lab.sites.home(node).join("repo/packs")).unwrap_or_default();
    packs.iter().filter_map(|path| std::fs::metadata(path).ok()).map(|meta| meta.len()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn points_age_out_at_both_sites_and_a_hold_in_the_grace_rescues() {
    let ageing = Ageing::start(Cast::TwoSites, "newest = 1", SHORT_FLOOR).await;
    let lab = &ageing.lab;
    let first = ageing.point(1).await;
    let expected = lab.dir.path().join("first");
    copy_tree(&lab.source, &expected).unwrap();
    let second = ageing.point(2).await;
    let stored = ["coordinator", "proxy"].map(|node| (node, stored_bytes(lab, node)));
    let row = ageing.until(first, "primary", in_grace).await;
    assert!(row.detail.contains("among the newest 1"), "what ended: {}", row.detail);
    let hold = Request::HoldPlace {
        name: "case".to_owned(),
        why: "court".to_owned(),
        points: vec![PointRef::Id(first.to_string())],
    };
    ageing.order(hold).await;
    ageing.hours(8).await;
    assert_eq!(ageing.copy(first, "primary").await.detail, "");
    for node in ["coordinator", "proxy"] {
        lab.restores_as(node, first, &expected).await.unwrap();
    }
    ageing.order(Request::HoldRelease { name: "case".to_owned() }).await;
    ageing.until(first, "primary", expired).await;
    ageing.until(first, "secondary", expired).await;
    assert_eq!(ageing.there("proxy").await, [second]);
    for (node, before) in stored {
        let back = lab.sites.wait_for("the space to come back", async |_| {
            let now = stored_bytes(lab, node);
            Ok((now + 2_500_000 < before).then_some(now))
        });
        let now = back.await.unwrap_or_else(|e| panic!("{node}: {e}: {before}"));
        assert!(now > 2_500_000, "{node}: the second point needs {now}");
        let report = lab.sites.wait_for("the collection to end", async |_| {
            let request = Request::Space { order: SpaceOrder::Show };
            match lab.sites.ask(node, &request).await {
                Ok(Response::Space(report)) => Ok(report.last.is_some().then_some(report)),
                _ => Ok(None),
            }
        });
        let report = report.await.unwrap();
        assert!(report.last.is_some_and(|last| last.text.contains("no more")));
        assert_eq!((report.points, report.refusal), (1, None));
    }
    lab.audited("collect", "no more").await.unwrap();
    for copy in ["primary", "secondary"] {
        let record = lab.audited("expire", &format!("{copy} of point {first}")).await.unwrap();
        assert!(record.detail.contains("what kept it"), "{record:?}");
    }
    lab.audited("expire.order", &first.to_string()).await.unwrap();
    let late = Request::HoldPlace {
        name: "late".to_owned(),
        why: "court".to_owned(),
        points: vec![PointRef::Id(first.to_string())],
    };
    let refusal = lab.refused("coordinator", &late).await.unwrap();
    assert!(refusal.text.contains("gone"), "{refusal}");
    for node in ["coordinator", "proxy"] {
        lab.restores_as(node, second, &lab.source).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_site_keeps_its_floor_and_the_ledger_says_until_when() {
    let ageing = Ageing::start(Cast::TwoSites, "newest = 1", "").await;
    let mut points = Vec::new();
    for seed in 1..=4 {
        points.push(ageing.point(seed).await);
    }
    for point in &points[..3] {
        ageing.until(*point, "primary", expired).await;
    }
    let row = ageing.until(points[0], "secondary", |row| row.detail.contains("kept by")).await;
    assert_eq!(row.state, "going", "{row:?}");
    assert!(row.detail.contains("kept by proxy until"), "{}", row.detail);
    ageing.hours(24).await;
    let mut there = ageing.there("proxy").await;
    there.sort();
    points.sort();
    assert_eq!(there, points, "nothing goes before it has been there for a week");
    ageing.lab.audited("expire.refused", &points[0].to_string()).await.unwrap();
    let journal = ageing.lab.sites.home("proxy").join("expiry.log");
    let journal = std::fs::read_to_string(journal).unwrap();
    assert!(journal.contains("has not been here long enough"), "{journal}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_a_crash_left_in_the_middle_is_finished_at_the_next_start() {
    let mut ageing = Ageing::start(Cast::TwoSites, "newest = 1", SHORT_FLOOR).await;
    ageing.grace("10d").await;
    let mut points = Vec::new();
    for seed in 1..=4 {
        points.push(ageing.point(seed).await);
    }
    for point in &points[..3] {
        ageing.until(*point, "primary", |row| row.state == "going").await;
    }
    ageing.until(points[2], "secondary", |row| row.state == "going").await;
    ageing.lab.stop_coordinator().await.unwrap();
    let home = ageing.lab.sites.home("coordinator");
    {
        // Decided; decided and the manifest gone; and an order to the other site without answer.
        let catalog = Catalog::open(&home.join("catalog.db")).unwrap();
        let removing = |point: PointId, copy: &CopyName| {
            let event = CopyEvent::Removing;
            catalog.record_copy(point, copy, &event, ageing.clock.now()).unwrap();
        };
        removing(points[0], &primary());
        removing(points[1], &primary());
        removing(points[2], &name("secondary"));
        let key = std::fs::read(home.join("vault.key")).unwrap();
        let key = VaultKey::from_bytes(key.try_into().unwrap());
        let disk = Arc::new(LocalDisk::new(home.join("repo")));
        let repo = Repo::open(disk, &key, Mode::Write).unwrap();
        let (workload, _) = repo.points().unwrap()[0];
        repo.remove_point(workload, points[1]).unwrap();
    }
    ageing.lab.start_coordinator().unwrap();
    ageing.lab.everybody().await.unwrap();
    for point in &points[..2] {
        assert_eq!(ageing.copy(*point, "primary").await.state, "expired");
        ageing.lab.audited("expire", &format!("primary of point {point}")).await.unwrap();
    }
    let asked = ageing.lab.sites.wait_for("the other site to be asked", async |_| {
        ageing.pass(10).await;
        Ok((ageing.copy(points[2], "secondary").await.state == "going").then_some(()))
    });
    asked.await.unwrap();
    ageing.grace("30m").await;
    for point in &points[..3] {
        ageing.until(*point, "secondary", expired).await;
    }
    for node in ["coordinator", "proxy"] {
        ageing.lab.restores_as(node, points[3], &ageing.lab.source).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_forward_expires_nothing_until_somebody_believes_it() {
    let mut ageing = Ageing::start(Cast::OneSite, "newest = 1, min_age = \"60d\"", "").await;
    let first = ageing.point(1).await;
    ageing.point(2).await;
    let start = ageing.clock.now();
    ageing.clock.set(start.plus_seconds(80 * DAY));
    let doubted = |row: &CopyRow| row.detail.contains("while the clock is doubted");
    ageing.until(first, "primary", doubted).await;
    ageing.hours(5).await;
    let alarms = ageing.lab.status("coordinator").await.unwrap().alarms;
    assert!(alarms.iter().any(|alarm| alarm.contains("--believe-clock")), "{alarms:?}");
    let prune = Request::Prune { order: PruneOrder::Apply };
    let Response::Plan { changes, .. } = ageing.order(prune).await else { panic!() };
    assert_eq!(changes, Vec::<String>::new());

    // Its own certificate is of a time to come: it makes another when it starts.
    ageing.lab.stop_coordinator().await.unwrap();
    ageing.clock.set(start.plus_seconds(600));
    ageing.lab.start_coordinator().unwrap();
    ageing.until(first, "primary", |row| row.detail.is_empty()).await;
    let alarms = ageing.lab.status("coordinator").await.unwrap().alarms;
    assert!(!alarms.iter().any(|alarm| alarm.contains("clock")), "{alarms:?}");

    ageing.clock.set(start.plus_seconds(80 * DAY));
    ageing.until(first, "primary", doubted).await;
    ageing.order(Request::Prune { order: PruneOrder::BelieveClock }).await;
    ageing.until(first, "primary", in_grace).await;
    ageing.until(first, "primary", expired).await;
    ageing.lab.audited("prune.believe-clock", "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_what_is_new_and_still_lets_go() {
    let mut ageing = Ageing::start(Cast::OneSite, "newest = 1", "").await;
    ageing.lab.stop_coordinator().await.unwrap();
    let home = ageing.lab.sites.home("coordinator");
    let mounted = Mounted::small_around(&home, 64).unwrap();
    ageing.lab.start_coordinator().unwrap();
    ageing.lab.everybody().await.unwrap();
    let mut points = Vec::new();
    for seed in 1..=3 {
        points.push(ageing.point(seed).await);
        let point = PointRef::Id(points.last().unwrap().to_string());
        ageing.order(Request::Pin { point, pinned: Pinned::Yes }).await;
    }
    let ballast = mounted.fill_up_to(2048).unwrap();
    ageing.lab.write("file", 3_000_000, 4).unwrap();
    let job = ageing.lab.begin().await.unwrap();
    let told = ageing.lab.sites.wait_for("a word about the full disk", async |_| {
        let (_, events) = ageing.lab.job(job).await?;
        Ok(events.into_iter().find(|event| event.text.contains("is full")))
    });
    let told = told.await.unwrap();
    assert!(told.text.contains("strongroom space"), "{}", told.text);
    for point in &points[..2] {
        let point = PointRef::Id(point.to_string());
        ageing.order(Request::Pin { point, pinned: Pinned::No }).await;
    }
    ageing.until(points[0], "primary", in_grace).await;
    let rest = mounted.at().join("rest");
    let free = std::fs::write(&rest, vec![1; 8 << 20]);
    assert!(free.is_err(), "not a byte is left");
    let before = stored_bytes(&ageing.lab, "coordinator");
    for point in &points[..2] {
        ageing.until(*point, "primary", expired).await;
    }
    let back = ageing.lab.sites.wait_for("the space to come back", async |_| {
        let now = stored_bytes(&ageing.lab, "coordinator");
        Ok((now + 5_000_000 < before).then_some(()))
    });
    back.await.unwrap();
    ageing.lab.audited("expire", &points[0].to_string()).await.unwrap();
    for file in [ballast, rest] {
        std::fs::remove_file(file).unwrap();
    }
    let done = ageing.lab.sites.wait_for("the job to go on", async |_| {
        ageing.pass(30).await;
        let (row, _) = ageing.lab.job(job).await?;
        Ok(row.ended.is_some().then_some(row))
    });
    let row = done.await.unwrap();
    assert_eq!(row.state, "succeeded", "{row:?}");
    ageing.lab.restores_as("coordinator", row.point.unwrap(), &ageing.lab.source).await.unwrap();
    ageing.lab.stop_coordinator().await.unwrap();
}
