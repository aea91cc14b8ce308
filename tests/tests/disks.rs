//! Disks that fill up at the coordinator, the proxy and the target of a restore, and a target
//! that cannot be written: told by name, nothing earlier lost, and done without a hand once
//! there is room.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use strongroom_tests::lab::{Cast, Lab, copy_tree};
use strongroom_tests::mounted::Mounted;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_at_the_coordinator_delays_a_job_and_loses_nothing() {
    let mut lab = Lab::start(Cast::OneSite).await.unwrap();
    lab.write("first", 2_000_000, 1).unwrap();
    lab.stop_coordinator().await.unwrap();
    let repo = lab.sites.home("coordinator").join("repo");
    let mounted = Mounted::small_around(&repo, 32).unwrap();
    lab.start_coordinator().unwrap();
    lab.everybody().await.unwrap();
    let first = lab.point().await.unwrap();
    let expected = lab.dir.path().join("expected");
    copy_tree(&lab.source, &expected).unwrap();

    let ballast = mounted.fill_up_to(1024).unwrap();
    lab.write("second", 6_000_000, 2).unwrap();
    let job = lab.begin().await.unwrap();
    let path = repo.to_str().unwrap();
    let told = lab.sites.wait_for("a word about the full disk", async |_| {
        let (row, events) = lab.job(job).await?;
        assert!(row.ended.is_none(), "it waits: {row:?}");
        Ok(events.into_iter().find(|event| event.text.contains("full")))
    });
    let told = told.await.unwrap();
    assert!(told.text.contains(path), "{}", told.text);
    lab.restores_as("coordinator", first, &expected).await.unwrap();
    std::fs::remove_file(ballast).unwrap();
    let row = lab.ended(job).await.unwrap();
    assert_eq!(row.state, "succeeded", "{row:?}");
    lab.restores_as("coordinator", row.point.unwrap(), &lab.source).await.unwrap();
    lab.restores_as("coordinator", first, &expected).await.unwrap();
    lab.stop_coordinator().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_at_the_proxy_delays_the_copy_and_loses_nothing() {
    let mut lab = Lab::start(Cast::TwoSites).await.unwrap();
    lab.write("first", 2_000_000, 1).unwrap();
    lab.stop_proxy().await.unwrap();
    let repo = lab.sites.home("proxy").join("repo");
    let mounted = Mounted::small_around(&repo, 32).unwrap();
    lab.start_proxy().unwrap();
    lab.everybody().await.unwrap();
    let first = lab.point().await.unwrap();
    lab.sites.await_copy("secondary", "readable").await.unwrap();
    let expected = lab.dir.path().join("expected");
    copy_tree(&lab.source, &expected).unwrap();

    let ballast = mounted.fill_up_to(1024).unwrap();
    lab.write("second", 6_000_000, 2).unwrap();
    let second = lab.point().await.unwrap();
    let told = lab.sites.wait_for("a debt that says why", async |_| {
        let status = lab.status("coordinator").await?;
        Ok(status.debts.into_iter().find(|debt| debt.contains("full")))
    });
    let told = told.await.unwrap();
    assert!(told.contains("secondary") && told.contains(repo.to_str().unwrap()), "{told}");
    lab.restores_as("proxy", first, &expected).await.unwrap();
    std::fs::remove_file(ballast).unwrap();
    let row = lab.sites.await_copy("secondary", "readable").await.unwrap();
    assert_eq!(row.id, second);
    lab.restores_as("proxy", second, &lab.source).await.unwrap();
    lab.stop_proxy().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_into_a_full_or_read_only_target_says_so() {
    let lab = Lab::start(Cast::OneSite).await.unwrap();
    lab.write("file", 6_000_000, 1).unwrap();
    let point = lab.point().await.unwrap();
    let target = lab.dir.path().join("target");
    std::fs::create_dir(&target).unwrap();
    let mounted = Mounted::small(&target, 4).unwrap();
    let error = lab.restore_into("coordinator", point, &target).await.unwrap_err();
    let path = target.to_str().unwrap();
    let told = format!("{error:#}");
    assert!(told.contains(path) && told.contains("is full"), "{told}");
    assert!(!target.join("file").exists(), "a file is whole or not there");
    mounted.make_read_only().unwrap();
    let error = lab.restore_into("coordinator", point, &target).await.unwrap_err();
    let told = format!("{error:#}");
    assert!(told.contains(path) && told.to_lowercase().contains("read-only"), "{told}");
    drop(mounted);
    let problems = lab.restore_into("coordinator", point, &target).await.unwrap();
    assert_eq!(problems, Vec::<String>::new());
    let different = strongroom_tests::lab::differences(&lab.source, &target).unwrap();
    assert_eq!(different, Vec::<String>::new());
}
