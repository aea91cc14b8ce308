//! Journals in the catalog: on disk before anyone acts on them, and the schedule's memory.

#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

use strongroom_coordinator::catalog::{Catalog, CatalogError, JobFilter};
use strongroom_coordinator::job::{
    Cause, Event, FailClass, Next, Output, RetryAdvice, RetryPolicy, State, Step, Task,
};
use strongroom_protocol::{JobId, PointId, Timestamp, WorkloadId};

const START: i64 = 1_780_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(START + seconds)
}

fn created(job: JobId) -> Event {
    let task = Task::Protect {
        workload: "docs@fs1".parse().unwrap(),
        point: PointId::from_bytes([1; 16]),
        policy: "standard".parse().unwrap(),
        policy_version: 1,
        agent: "fs1".parse().unwrap(),
        slot: Some(at(0)),
    };
    Event::Created { job, task, retry: RetryPolicy::default() }
}

#[test]
fn a_journal_is_on_disk_before_the_job_moves_and_replays_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.db");
    let job = JobId::from_bytes([9; 16]);
    let text = |text: &str| Output { text: text.into(), gaps: 0 };
    let before = {
        let catalog = Catalog::open(&path).unwrap();
        catalog.append_event(job, &created(job), at(0)).unwrap();
        assert!(catalog.append_event(job, &created(job), at(0)).is_err());
        catalog.append_event(job, &Event::Started(Step::Assign), at(1)).unwrap();
        catalog.append_event(job, &Event::Done(Step::Assign, text("fs1")), at(2)).unwrap();
        catalog.append_event(job, &Event::Done(Step::Assign, text("fs1")), at(2)).unwrap();
        let wrong = catalog.append_event(job, &Event::Started(Step::Commit), at(3));
        assert!(matches!(wrong, Err(CatalogError::Illegal { .. })));
        catalog.append_event(job, &Event::Started(Step::Quiesce), at(4)).unwrap()
    };
    let catalog = Catalog::open(&path).unwrap();
    assert_eq!(catalog.replay(job).unwrap(), before);
    assert_eq!(catalog.live_jobs().unwrap(), std::slice::from_ref(&before));
    assert_eq!(catalog.journal(job).unwrap().len(), 4, "repeats and refusals are not written");
    let interrupted = before.interrupted().unwrap();
    let after = catalog.append_event(job, &interrupted, at(5)).unwrap();
    assert_eq!(after.next(), Next::Undo(Step::Quiesce));
    catalog.append_event(job, &Event::CancelAsked { by: "ann".into() }, at(6)).unwrap();
    catalog.append_event(job, &Event::Undone(Step::Quiesce), at(7)).unwrap();
    catalog.append_event(job, &Event::Undone(Step::Assign), at(8)).unwrap();
    let ended = catalog.append_event(job, &Event::Cancelled, at(9)).unwrap();
    assert_eq!(ended.state(), State::Cancelled);
    assert!(catalog.live_jobs().unwrap().is_empty());
    assert_eq!(catalog.jobs(&JobFilter::default()).unwrap(), [ended]);
    let unknown = catalog.replay(JobId::from_bytes([1; 16]));
    assert!(matches!(unknown, Err(CatalogError::Unknown { .. })));
}

#[test]
fn histories_tell_a_clock_that_went_back() {
    let catalog = Catalog::in_memory().unwrap();
    let id = WorkloadId::from_bytes([5; 16]);
    let name = "docs@fs1".parse().unwrap();
    let known = catalog.ensure_workload(&name, id, at(0)).unwrap();
    let again = catalog.ensure_workload(&name, WorkloadId::from_bytes([6; 16]), at(9)).unwrap();
    assert_eq!(known, again);
    for (n, seconds) in [(1, 100), (2, 90_000)] {
        let job = JobId::from_bytes([n; 16]);
        catalog.append_event(job, &created(job), at(seconds)).unwrap();
    }
    let history = catalog.histories(at(200)).unwrap()[&name];
    assert_eq!(
        (history.since, history.last, history.ahead),
        (at(0), Some(at(100)), Some(at(90_000)))
    );
    let history = catalog.histories(at(99_000)).unwrap()[&name];
    assert_eq!((history.last, history.ahead), (Some(at(90_000)), None));
}

#[test]
fn old_jobs_are_forgotten_but_not_the_last_run() {
    let catalog = Catalog::in_memory().unwrap();
    let cause =
        Cause { class: FailClass::Refused, text: "no".into(), retry: RetryAdvice::Pointless };
    for n in 1..=3 {
        let job = JobId::from_bytes([n; 16]);
        let time = at(i64::from(n) * 10);
        catalog.append_event(job, &created(job), time).unwrap();
        catalog.append_event(job, &Event::Started(Step::Assign), time).unwrap();
        catalog.append_event(job, &Event::Failed(Step::Assign, cause.clone()), time).unwrap();
        let job_now = catalog.append_event(job, &Event::Undone(Step::Assign), time).unwrap();
        let Next::Finished(outcome) = job_now.next() else { panic!("{:?}", job_now.next()) };
        catalog.append_event(job, &Event::Finished(outcome), time).unwrap();
    }
    assert_eq!(catalog.forget_jobs(at(20), 10).unwrap(), 1, "the one that ended before");
    assert_eq!(catalog.forget_jobs(at(1000), 0).unwrap(), 0, "no more than was asked for");
    assert_eq!(catalog.forget_jobs(at(1000), 10).unwrap(), 1);
    for n in 1..=2 {
        assert_eq!(catalog.journal(JobId::from_bytes([n; 16])).unwrap(), [], "its lines with it");
    }
    assert_eq!(catalog.jobs(&JobFilter::default()).unwrap().len(), 1);
}
