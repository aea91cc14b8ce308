//! Jobs that are stopped or lose their coordinator in the middle: they end as ordered or go on by
//! themselves, and the journal tells the story.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use strongroom_protocol::JobId;
use strongroom_protocol::admin::Request;
use strongroom_tests::lab::{Cast, Lab};

fn with_slow_hook(lab: &Lab, seconds: u32) -> String {
    let hook = format!("pre_hook = [\"/bin/sleep\", \"{seconds}\"]\none_file_system");
    lab.policy().replace("one_file_system", &hook)
}

async fn await_text(lab: &Lab, job: JobId, text: &str) {
    let there = lab.sites.wait_for(text, async |_| {
        let (_, events) = lab.job(job).await?;
        Ok(events.iter().any(|event| event.text.contains(text)).then_some(()))
    });
    there.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_job_ends_without_a_point_and_the_next_one_works() {
    let lab = Lab::start(Cast::OneSite).await.unwrap();
    for n in 0..400 {
        lab.write(&format!("f{n}"), 200_000, n).unwrap();
    }
    let job = lab.begin().await.unwrap();
    await_text(&lab, job, "stream").await;
    lab.sites.ask("coordinator", &Request::Cancel { job }).await.unwrap();
    let row = lab.ended(job).await.unwrap();
    let (_, events) = lab.job(job).await.unwrap();
    let text: Vec<_> = events.iter().map(|event| event.text.as_str()).collect();
    // A job whose point was durable before it heard keeps it.
    let points = lab.sites.points("coordinator").await.unwrap();
    match row.state.as_str() {
        "cancelled" => assert_eq!(points, vec![]),
        state => assert!(state == "succeeded" && points.len() == 1, "{row:?} {text:?}"),
    }
    assert!(text.iter().any(|line| line.contains("cancel")), "{text:?}");
    lab.audited("cancel", &job.to_string()).await.unwrap();
    let point = lab.point().await.unwrap();
    lab.restores_as("coordinator", point, &lab.source).await.unwrap();
    let refusal = lab.refused("coordinator", &Request::Cancel { job }).await.unwrap();
    assert!(refusal.text.contains("is not live"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_cancelled_while_the_application_is_quiet_lets_go_of_it() {
    let lab = Lab::start(Cast::OneSite).await.unwrap();
    lab.write("file", 5000, 1).unwrap();
    lab.sites.apply(&with_slow_hook(&lab, 2)).await.unwrap();
    let job = lab.begin().await.unwrap();
    await_text(&lab, job, "assign").await;
    lab.sites.ask("coordinator", &Request::Cancel { job }).await.unwrap();
    let row = lab.ended(job).await.unwrap();
    assert_eq!(row.state, "cancelled", "{row:?}");
    assert_eq!(lab.sites.points("coordinator").await.unwrap(), vec![]);
    lab.sites.apply(&lab.policy()).await.unwrap();
    lab.point().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_restarted_in_the_middle_of_a_protect_job_completes_it() {
    let mut lab = Lab::start(Cast::OneSite).await.unwrap();
    for n in 0..100 {
        lab.write(&format!("f{n}"), 200_000, n).unwrap();
    }
    lab.sites.apply(&with_slow_hook(&lab, 1)).await.unwrap();
    let job = lab.begin().await.unwrap();
    for moment in ["assign", "stream"] {
        await_text(&lab, job, moment).await;
        lab.stop_coordinator().await.unwrap();
        lab.start_coordinator().unwrap();
    }
    let row = lab.ended(job).await.unwrap();
    assert_eq!(row.state, "succeeded", "{row:?}");
    let (_, events) = lab.job(job).await.unwrap();
    let text: Vec<_> = events.iter().map(|event| event.text.as_str()).collect();
    assert!(text.len() > 10 && text[0].contains("tree@host1"), "{text:?}");
    let begun = text.iter().filter(|line| line.contains("assign")).count();
    assert!(begun >= 4, "it was assigned again: {text:?}");
    let points = lab.sites.points("coordinator").await.unwrap();
    assert_eq!(points.len(), 1, "one job, one point");
    lab.restores_as("coordinator", row.point.unwrap(), &lab.source).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_restarted_in_the_middle_of_a_replication_completes_it() {
    let mut lab = Lab::start(Cast::TwoSites).await.unwrap();
    let slowly = lab.policy().replacen(
        "node = \"proxy\"",
        "node = \"proxy\"\nthrottle = [{ from = \"00:00\", to = \"24:00\", mbit = 16 }]",
        1,
    );
    lab.sites.apply(&slowly).await.unwrap();
    for n in 0..60 {
        lab.write(&format!("f{n}"), 200_000, n).unwrap();
    }
    let point = lab.point().await.unwrap();
    let under_way = lab.sites.wait_for("the replication", async |_| {
        let jobs = lab.jobs().await?;
        let copying = jobs.iter().find(|job| job.kind == "replicate");
        Ok(copying.filter(|job| job.progress.bytes_sent > 0 || job.ended.is_none()).cloned())
    });
    under_way.await.unwrap();
    lab.stop_coordinator().await.unwrap();
    lab.start_coordinator().unwrap();
    lab.everybody().await.unwrap();
    let row = lab.sites.await_copy("secondary", "readable").await.unwrap();
    assert_eq!(row.id, point);
    lab.restores_as("proxy", point, &lab.source).await.unwrap();
}
