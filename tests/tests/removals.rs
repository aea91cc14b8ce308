//! Removals that nobody could finish: a copy that is declared no more while it is being removed,
//! and a copy on media, which nothing here can remove.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use strongroom_coordinator::catalog::{Catalog, CopyEvent};
use strongroom_protocol::{Clock as _, CopyName};
use strongroom_tests::ageing::{Ageing, SHORT_FLOOR, expired};
use strongroom_tests::lab::Cast;
use strongroom_tests::site::name;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_declared_no_more_does_not_stay_in_the_middle_of_its_removal() {
    let mut ageing = Ageing::start(Cast::TwoSites, "newest = 1", SHORT_FLOOR).await;
    ageing.grace("10d").await;
    let first = ageing.point(1).await;
    ageing.point(2).await;
    ageing.until(first, "secondary", |row| row.state == "going").await;
    ageing.lab.stop_coordinator().await.unwrap();
    {
        // Ordered away, and the answer did not come.
        let home = ageing.lab.sites.home("coordinator");
        let catalog = Catalog::open(&home.join("catalog.db")).unwrap();
        let copy: CopyName = name("secondary");
        catalog.record_copy(first, &copy, &CopyEvent::Removing, ageing.clock.now()).unwrap();
    }
    // Not here to answer before the policy names the copy no more.
    ageing.lab.stop_proxy().await.unwrap();
    ageing.lab.start_coordinator().unwrap();
    let (head, rest) = ageing.policy.split_once("[policy.standard.copy.secondary]").unwrap();
    let policy = format!("{head}{}", rest.split_at(rest.find("[workload").unwrap()).1);
    let applied = ageing
        .lab
        .sites
        .wait_for("the coordinator", async |sites| Ok(sites.apply(&policy).await.ok()));
    applied.await.unwrap();
    assert_eq!(ageing.copy(first, "secondary").await.state, "removing");
    ageing.lab.start_proxy().unwrap();
    ageing.lab.everybody().await.unwrap();
    // It lies there still: whoever declares it no more decides about it.
    let row = ageing.until(first, "secondary", |row| row.state == "present").await;
    assert_eq!(row.kind, "no longer declared");
    assert!(ageing.there("proxy").await.contains(&first));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_on_media_that_nothing_keeps_leaves_the_books() {
    let ageing = Ageing::start_with_media("newest = 1", SHORT_FLOOR).await;
    let first = ageing.point(1).await;
    ageing.until(first, "tape", |row| row.state == "present").await;
    let second = ageing.point(2).await;
    ageing.until(second, "tape", |row| row.state == "present").await;
    ageing.until(first, "tape", expired).await;
    assert_eq!(ageing.copy(second, "tape").await.state, "present");
    let subject = format!("tape of point {first}");
    let record = ageing.lab.audited("expire", &subject).await.unwrap();
    assert!(record.detail.contains("let go on media set"), "{record:?}");
    // With every copy of it gone, the point itself is listed no more after a while.
    for copy in ["primary", "secondary"] {
        ageing.until(first, copy, expired).await;
    }
}
