//! Every step of every saga is failed, crashed, repeated and undone twice; random histories never
//! reach a state without a way on, and a journal always replays to the same job.

#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

use proptest::prelude::*;
use strongroom_coordinator::job::{
    Cause, Event, FailClass, Illegal, Job, Next, Outcome, Output, RetryAdvice, RetryPolicy, Saga,
    State, Step, Task, WaitReason,
};
use strongroom_protocol::{Generation, JobId, PointId, Timestamp};

const RETRY: RetryPolicy =
    RetryPolicy { attempts_max: 3, pause_seconds_first: 10, pause_seconds_max: 100 };
/// More steps than any job can take with three tries a step.
const TURNS_MAX: usize = 500;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(1_780_000_000 + seconds)
}

fn creation(saga: Saga) -> Event {
    let job = JobId::from_bytes([1; 16]);
    let point = PointId::from_bytes([2; 16]);
    let workload = "docs@fs1".parse().unwrap();
    let task = match saga {
        Saga::Protect => Task::Protect {
            workload,
            point,
            policy: "standard".parse().unwrap(),
            policy_version: 1,
            agent: "fs1".parse().unwrap(),
            slot: None,
        },
        Saga::Recover => Task::Recover {
            workload,
            point,
            copy: "primary".parse().unwrap(),
            node: "fs1".parse().unwrap(),
            target: "/restored".into(),
            select: vec![],
            by: "ann".into(),
        },
    };
    Event::Created { job, task, retry: RETRY }
}

fn cause(class: FailClass, retry: RetryAdvice) -> Cause {
    Cause { class, text: "the test says so".into(), retry }
}

fn done(step: Step) -> Event {
    Event::Done(step, Output::default())
}

/// A job with its journal, as the catalog would keep it.
struct Run {
    job: Job,
    journal: Vec<(Event, Timestamp)>,
    seconds: i64,
    /// What the world looks like: effects that exist outside.
    effects: Vec<Step>,
}

impl Run {
    fn new(saga: Saga) -> Self {
        let first = creation(saga);
        let job = Job::create(&first, at(0)).unwrap();
        Self { job, journal: vec![(first, at(0))], seconds: 0, effects: vec![] }
    }

    fn tell(&mut self, event: Event) {
        self.try_tell(event).unwrap();
    }

    fn try_tell(&mut self, event: Event) -> Result<(), Illegal> {
        self.seconds += 1;
        let now = at(self.seconds);
        self.job = self.job.clone().apply(&event, now)?;
        self.journal.push((event, now));
        Ok(())
    }

    /// The effect of running a step, which happens whether or not it is reported.
    fn act(&mut self, step: Step) {
        if step.ended_by().is_some() && !self.effects.contains(&step) {
            self.effects.push(step);
        }
    }

    fn report(&mut self, step: Step) {
        self.effects.retain(|effect| effect.ended_by() != Some(step));
        self.tell(done(step));
    }

    /// The step the job is at, begun and not reported.
    fn up_to(saga: Saga, last: Step) -> Self {
        let mut run = Self::new(saga);
        for step in saga.steps() {
            run.tell(Event::Started(*step));
            run.act(*step);
            if *step == last {
                break;
            }
            run.report(*step);
        }
        run
    }

    /// Everything works from here on; returns the outcome and checks what must hold at the end.
    fn finish(mut self) -> Outcome {
        for _ in 0..TURNS_MAX {
            let next = match self.job.next_at(at(self.seconds)) {
                // The slot is free by now.
                Next::Wait(WaitReason::Slot) => self.job.next_once_ready(),
                next => next,
            };
            match next {
                Next::Run(step) => {
                    self.tell(Event::Started(step));
                    self.act(step);
                    self.report(step);
                }
                Next::Undo(step) => {
                    if self.effects.contains(&Step::Quiesce) {
                        assert_eq!(step, Step::Quiesce, "the thaw comes first");
                    }
                    self.effects.retain(|effect| *effect != step);
                    self.tell(Event::Undone(step));
                    self.tell(Event::Undone(step));
                }
                Next::Wait(_) => self.seconds += 50,
                Next::Finished(outcome) => {
                    self.tell(Event::Finished(outcome));
                    self.tell(Event::Finished(outcome));
                    assert_eq!(self.effects, [], "something was left behind");
                    assert!(!self.job.state().is_live());
                    let journal = self.journal.iter().map(|(event, at)| (event, *at));
                    assert_eq!(Job::replay(journal).unwrap(), self.job);
                    return outcome;
                }
            }
        }
        panic!("the job never ends: {:?}", self.job);
    }
}

fn every_step() -> impl Iterator<Item = (Saga, Step)> {
    let of = |saga: Saga| saga.steps().iter().map(move |step| (saga, *step));
    of(Saga::Protect).chain(of(Saga::Recover))
}

/// Whether failing for good at this step comes too late to lose the job.
fn landed_before(saga: Saga, step: Step) -> bool {
    let place = |wanted: Step| saga.steps().iter().position(|step| *step == wanted).unwrap();
    place(step) > place(saga.landing())
}

#[test]
fn everything_in_order_succeeds() {
    for saga in [Saga::Protect, Saga::Recover] {
        assert_eq!(Run::new(saga).finish(), Outcome::Succeeded);
    }
}

#[test]
fn each_step_failed_for_good_leaves_nothing() {
    for (saga, step) in every_step() {
        let mut run = Run::up_to(saga, step);
        run.tell(Event::Failed(step, cause(FailClass::Source, RetryAdvice::Pointless)));
        let expected = if landed_before(saga, step) {
            Outcome::Succeeded
        } else {
            Outcome::Failed(FailClass::Source)
        };
        assert_eq!(run.finish(), expected, "{saga:?} {step}");
    }
}

#[test]
fn each_step_failed_once_succeeds_after_a_pause() {
    for (saga, step) in every_step() {
        for class in [FailClass::Network, FailClass::SnapshotLost] {
            let mut run = Run::up_to(saga, step);
            run.tell(Event::Failed(step, cause(class, RetryAdvice::Later)));
            assert!(!matches!(run.job.next_at(at(run.seconds)), Next::Run(_)), "at once");
            assert_eq!(run.finish(), Outcome::Succeeded, "{saga:?} {step}");
        }
    }
}

#[test]
fn each_step_failing_always_ends_with_its_class() {
    for (saga, step) in every_step() {
        let mut run = Run::new(saga);
        for _ in 0..TURNS_MAX {
            match run.job.next_at(at(run.seconds)) {
                Next::Run(next) if next == step => {
                    run.tell(Event::Started(step));
                    run.act(step);
                    let cause = cause(FailClass::Timeout, RetryAdvice::Later);
                    run.tell(Event::Failed(step, cause));
                }
                Next::Run(next) => {
                    run.tell(Event::Started(next));
                    run.act(next);
                    run.report(next);
                }
                Next::Undo(next) => {
                    run.effects.retain(|effect| *effect != next);
                    run.tell(Event::Undone(next));
                }
                Next::Wait(_) => run.seconds += 50,
                Next::Finished(_) => break,
            }
        }
        let tries = run.journal.iter().filter(|(e, _)| matches!(e, Event::Failed(..))).count();
        assert_eq!(tries, 3, "{saga:?} {step}");
        let expected = if landed_before(saga, step) {
            Outcome::Succeeded
        } else {
            Outcome::Failed(FailClass::Timeout)
        };
        assert_eq!(run.finish(), expected, "{saga:?} {step}");
    }
}

#[test]
fn a_crash_after_each_start_undoes_a_freeze_and_goes_on() {
    for (saga, step) in every_step() {
        let mut run = Run::up_to(saga, step);
        let journal = run.journal.iter().map(|(event, at)| (event, *at));
        run.job = Job::replay(journal).unwrap();
        let interrupted = run.job.interrupted().unwrap();
        run.tell(interrupted);
        run.tell(Event::Reassigned(run.job.generation().next()));
        if run.effects.contains(&Step::Quiesce) {
            assert_eq!(run.job.next_once_ready(), Next::Undo(Step::Quiesce), "{step}");
        }
        assert_eq!(run.finish(), Outcome::Succeeded, "{saga:?} {step}");
    }
}

#[test]
fn each_step_may_be_started_and_reported_twice() {
    for (saga, step) in every_step() {
        let mut run = Run::up_to(saga, step);
        run.tell(Event::Started(step));
        run.report(step);
        run.tell(done(step));
        assert_eq!(run.finish(), Outcome::Succeeded, "{saga:?} {step}");
    }
}

#[test]
fn a_cancel_at_each_step_undoes_everything_unless_it_has_landed() {
    for (saga, step) in every_step() {
        let mut run = Run::up_to(saga, step);
        run.tell(Event::CancelAsked { by: "ann".into() });
        run.tell(Event::CancelAsked { by: "bob".into() });
        assert_eq!(run.job.cancel_by(), Some("ann"));
        let expected =
            if landed_before(saga, step) { Outcome::Succeeded } else { Outcome::Cancelled };
        assert_eq!(run.finish(), expected, "{saga:?} {step}");
    }
}

#[test]
fn a_commit_that_overtakes_a_cancel_is_a_success() {
    let mut run = Run::up_to(Saga::Protect, Step::Commit);
    run.tell(Event::CancelAsked { by: "ann".into() });
    run.report(Step::Commit);
    assert_eq!(run.finish(), Outcome::Succeeded);
}

#[test]
fn an_undo_that_cannot_be_done_is_named_and_does_not_stop_the_others() {
    let mut run = Run::up_to(Saga::Protect, Step::Snapshot);
    run.tell(Event::CancelAsked { by: "ann".into() });
    for _ in 0..RETRY.attempts_max {
        assert_eq!(run.job.next_once_ready(), Next::Undo(Step::Quiesce));
        let cause = cause(FailClass::NodeLost, RetryAdvice::Later);
        run.tell(Event::Failed(Step::Quiesce, cause));
    }
    assert_eq!(run.job.residue().len(), 1);
    assert_eq!(run.job.next(), Next::Undo(Step::Snapshot));
    let cause = cause(FailClass::Refused, RetryAdvice::Pointless);
    run.tell(Event::Stuck(Step::Snapshot, cause.clone()));
    run.tell(Event::Stuck(Step::Snapshot, cause));
    assert_eq!(run.job.residue().len(), 2);
    run.effects = vec![Step::Assign];
    assert_eq!(run.finish(), Outcome::Cancelled);
}

#[test]
fn gaps_are_never_a_plain_success() {
    let mut run = Run::up_to(Saga::Protect, Step::Stream);
    run.tell(Event::Done(Step::Stream, Output { text: "3 unreadable".into(), gaps: 3 }));
    assert_eq!(run.finish(), Outcome::SucceededWithGaps(3));
}

#[test]
fn waits_have_reasons_and_end_by_starting() {
    let mut run = Run::new(Saga::Protect);
    assert_eq!(run.job.state(), State::Queued);
    let away = WaitReason::AgentAway { node: "fs1".parse().unwrap() };
    run.tell(Event::Waiting(away.clone()));
    assert_eq!((run.job.state(), run.job.next()), (State::Waiting, Next::Wait(away)));
    assert_eq!(run.job.next_once_ready(), Next::Run(Step::Assign));
    run.tell(Event::Started(Step::Assign));
    assert_eq!(run.job.state(), State::Running);
    let opens = at(100);
    run.tell(Event::Waiting(WaitReason::Window { opens }));
    assert!(matches!(run.job.next_at(at(99)), Next::Wait(_)));
    assert_eq!(run.job.next_at(opens), Next::Run(Step::Assign));
}

#[test]
fn what_cannot_have_happened_is_refused() {
    let mut run = Run::up_to(Saga::Protect, Step::Quiesce);
    for event in [
        creation(Saga::Protect),
        Event::Started(Step::Commit),
        Event::Started(Step::Assign),
        Event::Started(Step::Write),
        done(Step::Commit),
        Event::Failed(Step::Stream, cause(FailClass::Disk, RetryAdvice::Later)),
        Event::Undone(Step::Assign),
        Event::Undone(Step::Stream),
        Event::Stuck(Step::Assign, cause(FailClass::Disk, RetryAdvice::Later)),
        Event::Reassigned(Generation(1)),
        Event::Cancelled,
        Event::Finished(Outcome::Succeeded),
    ] {
        assert!(run.try_tell(event.clone()).is_err(), "{event}");
    }
    let over = run.try_tell(done(Step::Quiesce)).map(|()| run.finish());
    assert_eq!(over, Ok(Outcome::Succeeded));
}

fn any_event() -> impl Strategy<Value = Event> {
    let step = proptest::sample::select(Step::ALL.to_vec());
    let retry = prop_oneof![Just(RetryAdvice::Later), Just(RetryAdvice::Pointless)];
    let class = prop_oneof![Just(FailClass::Network), Just(FailClass::SnapshotLost)];
    (step, class, retry, 0..11_u8, 0..4_u64).prop_map(|(step, class, retry, kind, n)| match kind {
        0 | 1 => Event::Started(step),
        2 | 3 => Event::Done(step, Output { text: String::new(), gaps: n / 3 }),
        4 => Event::Failed(step, cause(class, retry)),
        5 => Event::Undone(step),
        6 => Event::Stuck(step, cause(class, retry)),
        7 => Event::Reassigned(Generation(n)),
        8 => Event::CancelAsked { by: "ann".into() },
        9 => Event::Waiting(WaitReason::Slot),
        _ => Event::Finished(Outcome::Succeeded),
    })
}

proptest! {
    /// Whatever is told in whatever order: no panic, the journal of what was accepted replays to
    /// the same job, survives JSON and postcard, and from there the job can be brought to an end.
    #[test]
    fn any_history_replays_and_can_be_ended(
        recover in any::<bool>(),
        events in proptest::collection::vec(any_event(), 0..60),
    ) {
        let mut run = Run::new(if recover { Saga::Recover } else { Saga::Protect });
        for event in events {
            let event = match (run.job.next_once_ready(), event) {
                // Half of the histories follow the job's own will, so that they get anywhere.
                (Next::Run(step), Event::Started(_)) => Event::Started(step),
                (Next::Run(step), Event::Done(_, output)) => Event::Done(step, output),
                (Next::Run(step), Event::Failed(_, cause)) => Event::Failed(step, cause),
                (Next::Undo(step), Event::Undone(_)) => Event::Undone(step),
                (_, event) => event,
            };
            let before = run.job.clone();
            if run.try_tell(event).is_err() {
                prop_assert_eq!(&run.job, &before);
            }
        }
        for (event, _) in &run.journal {
            let json = serde_json::to_string(event).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Event>(&json).unwrap(), event);
            let bytes = postcard::to_stdvec(event).unwrap();
            prop_assert_eq!(&postcard::from_bytes::<Event>(&bytes).unwrap(), event);
        }
        if run.job.state().is_live() {
            // The effects of a random history are the job's own idea of them.
            run.effects.clear();
            run.finish();
        }
    }
}
