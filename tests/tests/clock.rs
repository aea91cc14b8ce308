//! Clocks that are set forward and back by a year between runs: one run is made up for, there is no
//! storm, and no point is lost or expired by it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::Arc;
use std::time::Duration;

use strongroom_protocol::admin::{PruneOrder, Request, Response};
use strongroom_protocol::{Clock, FixedClock, SystemClock, Timestamp};
use strongroom_tests::lab::{Cast, Lab};

const YEAR: i64 = 365 * 24 * 3600;
/// The longest life a node's certificate may have.
const LIFE_SECONDS: u32 = 90 * 24 * 3600;

/// The site as it is after its clock was set while everything was off.
async fn wake_at(lab: &mut Lab, clock: &FixedClock, moment: Timestamp) {
    lab.stop_agent().await.unwrap();
    lab.stop_coordinator().await.unwrap();
    clock.set(moment);
    lab.start_coordinator().unwrap();
    // Its certificate has ended, or is of a time to come: it enrols anew.
    lab.sites.enrol_agent("host1").await.unwrap();
    lab.start_agent().unwrap();
    lab.everybody().await.unwrap();
}

async fn points(lab: &Lab) -> usize {
    lab.sites.points("coordinator").await.unwrap().len()
}

async fn await_points(lab: &Lab, clock: &FixedClock, count: usize) {
    let there = lab.sites.wait_for("the run that is due", async |_| {
        // A job that met the agent on its way waits a moment, which must pass.
        clock.set(clock.now().plus_seconds(1));
        let jobs = lab.jobs().await?;
        let over = jobs.iter().all(|job| job.ended.is_some());
        Ok((points(lab).await >= count && over).then_some(()))
    });
    there.await.unwrap();
    // Four looks at the schedule: whatever storms has begun by then.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(points(lab).await, count, "no more than what is due");
}

async fn nothing_is_pruned(lab: &Lab) {
    let request = Request::Prune { order: PruneOrder::Apply };
    let answer = lab.sites.ask("coordinator", &request).await.unwrap();
    let Response::Plan { changes, .. } = answer else { panic!("{answer:?}") };
    assert_eq!(changes, Vec::<String>::new());
    for point in lab.sites.points("coordinator").await.unwrap() {
        lab.restores_as("coordinator", point.id, &lab.source).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_year_forward_and_back_makes_no_storm_and_loses_no_point() {
    let start = SystemClock.now();
    let clock = Arc::new(FixedClock::at(start));
    let shared: Arc<dyn Clock> = Arc::<FixedClock>::clone(&clock);
    let mut lab = Lab::start_with(Cast::OneSite, shared, LIFE_SECONDS).await.unwrap();
    lab.write("file", 50_000, 1).unwrap();
    let hourly = lab.policy().replace("monthly 1 03:00", "every 1h");
    lab.sites.apply(&hourly).await.unwrap();
    await_points(&lab, &clock, 1).await;

    wake_at(&mut lab, &clock, start.plus_seconds(YEAR)).await;
    await_points(&lab, &clock, 2).await;
    nothing_is_pruned(&lab).await;

    wake_at(&mut lab, &clock, start.plus_seconds(60)).await;
    await_points(&lab, &clock, 2).await;
    nothing_is_pruned(&lab).await;
    clock.set(start.plus_seconds(4500));
    await_points(&lab, &clock, 3).await;
    clock.set(start.plus_seconds(9500));
    await_points(&lab, &clock, 4).await;
    nothing_is_pruned(&lab).await;
    lab.point().await.unwrap();
    await_points(&lab, &clock, 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_set_back_under_a_waiting_job_does_not_make_it_wait_as_long() {
    let start = SystemClock.now();
    let clock = Arc::new(FixedClock::at(start));
    let shared: Arc<dyn Clock> = Arc::<FixedClock>::clone(&clock);
    let lab = Lab::start_with(Cast::OneSite, shared, LIFE_SECONDS).await.unwrap();
    lab.write("file", 50_000, 1).unwrap();
    let failing = lab.policy().replace(
        "one_file_system",
        &format!("pre_hook = [\"/bin/ls\", \"{}/go\"]\none_file_system", lab.dir.path().display()),
    );
    lab.sites.apply(&failing).await.unwrap();
    clock.set(start.plus_seconds(7200));
    let job = lab.begin().await.unwrap();
    let waits = lab.sites.wait_for("the job to wait", async |_| {
        Ok((lab.job(job).await?.0.state == "waiting").then_some(()))
    });
    waits.await.unwrap();
    std::fs::write(lab.dir.path().join("go"), "").unwrap();
    clock.set(start.plus_seconds(10));
    let row = lab.ended(job).await.unwrap();
    assert_eq!(row.state, "succeeded", "{row:?}");
}
