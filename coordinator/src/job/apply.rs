//! The transition and the decision: total, pure, and the same for a live job and a replayed one.

use std::collections::{BTreeMap, BTreeSet};

use strongroom_protocol::{Generation, Timestamp};

use crate::job::{
    After, Cause, Chosen, Course, Event, FailClass, Job, Next, Outcome, Output, RetryAdvice, Step,
    Task, WaitReason,
};

/// Why an event cannot have happened to this job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Illegal {
    #[error("the job is created already")]
    CreatedTwice,
    #[error("the journal does not begin with the creation of the job")]
    NotCreated,
    #[error("the {step} step is not running")]
    NotRunning { step: Step },
    #[error("the {step} step has nothing to undo now")]
    NothingToUndo { step: Step },
    #[error("the {step} step is out of order here")]
    OutOfOrder { step: Step },
    #[error("the job is over: {outcome}")]
    Over { outcome: Outcome },
    #[error("generation {offered} is not newer than {present}")]
    Stale { offered: Generation, present: Generation },
    #[error("the job cannot end yet, or not like that")]
    WrongEnd,
}

impl Job {
    /// A job from its first event.
    pub fn create(event: &Event, at: Timestamp) -> Result<Self, Illegal> {
        let Event::Created { job, task, retry } = event else { return Err(Illegal::NotCreated) };
        Ok(Self {
            id: *job,
            task: task.clone(),
            retry: *retry,
            created: at,
            changed: at,
            generation: Generation(1),
            course: Course::Forward,
            wait: None,
            running: None,
            done: BTreeMap::new(),
            open: BTreeSet::new(),
            failed: BTreeMap::new(),
            failed_undo: BTreeMap::new(),
            residue: Vec::new(),
            cancel_by: None,
            last_cause: None,
            chosen: None,
        })
    }

    /// A job from its journal, oldest event first.
    pub fn replay<'a>(
        journal: impl IntoIterator<Item = (&'a Event, Timestamp)>,
    ) -> Result<Self, Illegal> {
        let mut journal = journal.into_iter();
        let (first, at) = journal.next().ok_or(Illegal::NotCreated)?;
        let created = Self::create(first, at)?;
        journal.try_fold(created, |job, (event, at)| job.apply(event, at))
    }

    /// The job after the event. Repeated reports of what is known change nothing.
    pub fn apply(mut self, event: &Event, at: Timestamp) -> Result<Self, Illegal> {
        if let Course::Over(outcome) = self.course {
            let repeated = match event {
                Event::Finished(again) => *again == outcome,
                Event::Cancelled => outcome == Outcome::Cancelled,
                Event::Undone(_) => true,
                _ => false,
            };
            return if repeated { Ok(self) } else { Err(Illegal::Over { outcome }) };
        }
        match event {
            Event::Created { .. } => return Err(Illegal::CreatedTwice),
            Event::Queued(reason) | Event::Waiting(reason) => self.wait = Some(reason.clone()),
            Event::Started(step) => self.started(*step)?,
            Event::Done(step, output) => self.step_done(*step, output)?,
            Event::Failed(step, cause) => self.step_failed(*step, cause, at)?,
            Event::Undone(step) => self.undone(*step)?,
            Event::Stuck(step, cause) => self.stuck(*step, cause)?,
            Event::Reassigned(generation) => self.reassigned(*generation)?,
            Event::CancelAsked { by } => self.cancel_asked(by),
            Event::Cancelled => self.over(Outcome::Cancelled)?,
            Event::Finished(outcome) => self.over(*outcome)?,
            Event::Chosen(chosen) => self.choose(chosen)?,
        }
        self.settle();
        self.changed = self.changed.max(at);
        Ok(self)
    }

    /// What is to be done next; a wait counts until an event ends it.
    pub fn next(&self) -> Next {
        match (&self.course, &self.wait) {
            (Course::Forward | Course::Undoing(_), Some(reason)) => Next::Wait(reason.clone()),
            _ => self.next_once_ready(),
        }
    }

    /// As [`Self::next`], with a wait that has a date over once the date has come. A pause
    /// that would still last longer than the longest is over too: the clock went back since.
    pub fn next_at(&self, now: Timestamp) -> Next {
        let longest = now.plus_seconds(i64::from(self.retry.pause_seconds_max));
        match self.next() {
            Next::Wait(WaitReason::RetryAt { at, .. }) if at <= now || at > longest => {
                self.next_once_ready()
            }
            Next::Wait(WaitReason::Window { opens }) if opens <= now => self.next_once_ready(),
            next => next,
        }
    }

    /// What is to be done once the reason to wait, if any, is gone.
    pub fn next_once_ready(&self) -> Next {
        match &self.course {
            Course::Over(outcome) => Next::Finished(*outcome),
            Course::Forward => {
                self.expected().map_or_else(|| Next::Finished(self.success()), Next::Run)
            }
            Course::Undoing(after) => match (self.undo_first(), after) {
                (Some(step), _) => Next::Undo(step),
                (None, After::Finish(outcome)) => Next::Finished(*outcome),
                // Settling turns this back into going forward; the pause is all that is left.
                (None, After::Retry(pause)) => Next::Wait(pause.clone()),
            },
        }
    }

    /// The event a restarted coordinator records for a step it left in the middle.
    pub fn interrupted(&self) -> Option<Event> {
        let step = self.running.filter(|_| self.course == Course::Forward)?;
        let text = "the coordinator was restarted in the middle".to_owned();
        let (class, retry) = (FailClass::Interrupted, RetryAdvice::Later);
        Some(Event::Failed(step, Cause { class, text, retry }))
    }

    /// True once the job has done what it was for and only tidies up.
    pub fn has_landed(&self) -> bool {
        self.done.contains_key(&self.task.saga().landing())
    }

    fn expected(&self) -> Option<Step> {
        self.task.saga().steps().iter().copied().find(|step| !self.done.contains_key(step))
    }

    fn success(&self) -> Outcome {
        match self.done.values().map(|output| output.gaps).sum() {
            0 => Outcome::Succeeded,
            gaps => Outcome::SucceededWithGaps(gaps),
        }
    }

    /// The thaw before everything, then the last step first.
    fn undo_first(&self) -> Option<Step> {
        if self.open.contains(&Step::Quiesce) {
            return Some(Step::Quiesce);
        }
        self.task.saga().steps().iter().rev().copied().find(|step| self.open.contains(step))
    }

    fn started(&mut self, step: Step) -> Result<(), Illegal> {
        if self.course != Course::Forward || self.expected() != Some(step) {
            return Err(Illegal::OutOfOrder { step });
        }
        self.running = Some(step);
        self.wait = None;
        if step.ended_by().is_some() {
            self.open.insert(step);
        }
        Ok(())
    }

    fn step_done(&mut self, step: Step, output: &Output) -> Result<(), Illegal> {
        if self.done.contains_key(&step) {
            return Ok(());
        }
        if self.running != Some(step) {
            return Err(Illegal::NotRunning { step });
        }
        self.running = None;
        self.wait = None;
        self.done.insert(step, output.clone());
        self.open.retain(|open| open.ended_by() != Some(step));
        if matches!(self.course, Course::Undoing(_)) && self.has_landed() {
            // It landed while it was being cancelled: the point is there, and so it is said.
            self.course = Course::Undoing(After::Finish(self.success()));
        }
        Ok(())
    }

    fn step_failed(&mut self, step: Step, cause: &Cause, at: Timestamp) -> Result<(), Illegal> {
        if self.course != Course::Forward {
            return self.undo_failed(step, cause, at);
        }
        if self.running != Some(step) {
            return Err(Illegal::NotRunning { step });
        }
        self.running = None;
        self.last_cause = Some(cause.clone());
        let failures = self.failed.entry(step).or_default();
        *failures = failures.saturating_add(1);
        let failures = *failures;
        let again = match cause.retry {
            RetryAdvice::Later => self.retry.next_try(failures, at),
            RetryAdvice::Pointless => None,
        };
        let pause = again.map(|at| {
            let attempt = failures.saturating_add(1);
            WaitReason::RetryAt { attempt, at, last: cause.to_string() }
        });
        match pause {
            Some(pause) if from_the_start(step, cause.class) && !self.has_landed() => {
                self.wait = None;
                self.course = Course::Undoing(After::Retry(pause));
            }
            Some(pause) => self.wait = Some(pause),
            None => {
                self.wait = None;
                let outcome =
                    if self.has_landed() { self.success() } else { Outcome::Failed(cause.class) };
                self.course = Course::Undoing(After::Finish(outcome));
            }
        }
        Ok(())
    }

    /// A failure while undoing: of the undoing, or late news of the step that was running.
    fn undo_failed(&mut self, step: Step, cause: &Cause, at: Timestamp) -> Result<(), Illegal> {
        if self.running == Some(step) {
            self.running = None;
            return Ok(());
        }
        if !self.open.contains(&step) {
            return Err(Illegal::NotRunning { step });
        }
        self.last_cause = Some(cause.clone());
        let failures = self.failed_undo.entry(step).or_default();
        *failures = failures.saturating_add(1);
        let attempt = failures.saturating_add(1);
        match self.retry.next_try(*failures, at) {
            Some(at) => {
                self.wait = Some(WaitReason::RetryAt { attempt, at, last: cause.to_string() });
                Ok(())
            }
            None => self.stuck(step, cause),
        }
    }

    fn undone(&mut self, step: Step) -> Result<(), Illegal> {
        let leaves_something =
            step.ended_by().is_some() && self.task.saga().steps().contains(&step);
        let undoing = matches!(self.course, Course::Undoing(_));
        if !leaves_something || (!undoing && self.open.contains(&step)) {
            return Err(Illegal::NothingToUndo { step });
        }
        if undoing && self.open.remove(&step) {
            self.wait = None;
            self.failed_undo.remove(&step);
            self.running = self.running.filter(|running| *running != step);
        }
        Ok(())
    }

    fn stuck(&mut self, step: Step, cause: &Cause) -> Result<(), Illegal> {
        if matches!(self.course, Course::Undoing(_)) && self.open.remove(&step) {
            self.wait = None;
            self.residue.push((step, cause.clone()));
            return Ok(());
        }
        let known = self.residue.iter().any(|(stuck, _)| *stuck == step);
        if known { Ok(()) } else { Err(Illegal::NothingToUndo { step }) }
    }

    fn reassigned(&mut self, offered: Generation) -> Result<(), Illegal> {
        let present = self.generation;
        if offered <= present {
            return Err(Illegal::Stale { offered, present });
        }
        self.generation = offered;
        self.wait = None;
        Ok(())
    }

    /// Another node does the work from here on; not in the middle of an attempt.
    fn choose(&mut self, chosen: &Chosen) -> Result<(), Illegal> {
        let step = Step::Assign;
        let between = self.course == Course::Forward && self.expected() == Some(step);
        match &mut self.task {
            Task::Protect { agent, .. } if between && self.running.is_none() => {
                *agent = chosen.agent.clone();
            }
            _ => return Err(Illegal::OutOfOrder { step }),
        }
        self.chosen = Some(chosen.clone());
        self.wait = None;
        Ok(())
    }

    fn cancel_asked(&mut self, by: &str) {
        self.cancel_by.get_or_insert_with(|| by.to_owned());
        let too_late = self.has_landed();
        if !too_late && !matches!(self.course, Course::Undoing(After::Finish(_))) {
            self.wait = None;
            self.course = Course::Undoing(After::Finish(Outcome::Cancelled));
        }
    }

    fn over(&mut self, outcome: Outcome) -> Result<(), Illegal> {
        if self.next_once_ready() != Next::Finished(outcome) {
            return Err(Illegal::WrongEnd);
        }
        self.wait = None;
        self.running = None;
        self.course = Course::Over(outcome);
        Ok(())
    }

    /// With everything undone, a job to be tried again goes forward from its first step.
    fn settle(&mut self) {
        if let Course::Undoing(After::Retry(pause)) = &self.course
            && self.open.is_empty()
        {
            self.wait = Some(pause.clone());
            self.course = Course::Forward;
            self.done.clear();
            self.running = None;
        }
    }
}

/// Whether a step cannot be tried again by itself: inside the freeze nothing is retried, and
/// without its snapshot nothing can be read.
const fn from_the_start(step: Step, class: FailClass) -> bool {
    matches!(step, Step::Quiesce | Step::Snapshot | Step::Thaw)
        || matches!(class, FailClass::SnapshotLost)
}
