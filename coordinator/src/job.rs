//! A job as a saga: a fixed list of idempotent steps, an append-only journal of events, one pure
//! transition ([`Job::apply`]) and one pure decision ([`Job::next`]). What a step left behind is
//! undone alike after a failure, a cancel and a crash, the thaw before everything else. Refuses
//! an event that cannot have happened; replaying a journal gives the same job. Does nothing itself:
//! whoever runs it writes the event before acting on its consequence.

mod apply;
mod event;
mod retry;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use strongroom_protocol::{
    CopyName, Generation, JobId, NodeName, PointId, PolicyName, Timestamp, WorkloadName,
};

pub use apply::Illegal;
pub use event::{Cause, Chosen, Event, FailClass, Outcome, Output, RetryAdvice, WaitReason};
pub use retry::RetryPolicy;

/// One step of a saga. The order is the journal's: append only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Step {
    /// A node accepted the work.
    Assign,
    /// The application holds still.
    Quiesce,
    /// The moment is frozen.
    Snapshot,
    /// The application goes on.
    Thaw,
    /// The moment is read and sent.
    Stream,
    /// The point is durable and in the catalog.
    Commit,
    /// The snapshot, the staging area and the assignment are given back.
    Release,
    /// A place to write to is prepared.
    Stage,
    /// The data is written.
    Write,
    /// What was written is checked.
    Verify,
}

impl Step {
    /// Every step.
    pub const ALL: &[Self] = &[
        Self::Assign,
        Self::Quiesce,
        Self::Snapshot,
        Self::Thaw,
        Self::Stream,
        Self::Commit,
        Self::Release,
        Self::Stage,
        Self::Write,
        Self::Verify,
    ];

    /// The word in tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Assign => "assign",
            Self::Quiesce => "quiesce",
            Self::Snapshot => "snapshot",
            Self::Thaw => "thaw",
            Self::Stream => "stream",
            Self::Commit => "commit",
            Self::Release => "release",
            Self::Stage => "stage",
            Self::Write => "write",
            Self::Verify => "verify",
        }
    }

    /// The later step that ends what this one leaves behind; none when it leaves nothing.
    pub const fn ended_by(self) -> Option<Self> {
        match self {
            Self::Quiesce => Some(Self::Thaw),
            Self::Assign | Self::Snapshot | Self::Stage => Some(Self::Release),
            _ => None,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Which list of steps.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Saga {
    Protect,
    Recover,
}

impl Saga {
    /// The steps in order.
    pub const fn steps(self) -> &'static [Step] {
        match self {
            Self::Protect => &[
                Step::Assign,
                Step::Quiesce,
                Step::Snapshot,
                Step::Thaw,
                Step::Stream,
                Step::Commit,
                Step::Release,
            ],
            Self::Recover => &[Step::Assign, Step::Stage, Step::Write, Step::Verify, Step::Release],
        }
    }

    /// The step after which the job has done what it was for: from there it only tidies up.
    pub const fn landing(self) -> Step {
        match self {
            Self::Protect => Step::Commit,
            Self::Recover => Step::Verify,
        }
    }

    /// The word in tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Protect => "protect",
            Self::Recover => "recover",
        }
    }
}

/// What a job is for. The order is the journal's: append only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Task {
    /// Make a point.
    Protect {
        workload: WorkloadName,
        point: PointId,
        policy: PolicyName,
        policy_version: u64,
        agent: NodeName,
        /// The time of the schedule; none when a person asked.
        slot: Option<Timestamp>,
    },
    /// Write (part of) a point back.
    Recover {
        workload: WorkloadName,
        point: PointId,
        copy: CopyName,
        node: NodeName,
        /// Directory to write into, as the operator gave it.
        target: String,
        /// Paths or globs; empty: everything.
        select: Vec<String>,
        by: String,
    },
}

impl Task {
    /// The list of steps it takes.
    pub const fn saga(&self) -> Saga {
        match self {
            Self::Protect { .. } => Saga::Protect,
            Self::Recover { .. } => Saga::Recover,
        }
    }

    /// The workload it is about.
    pub const fn workload(&self) -> &WorkloadName {
        match self {
            Self::Protect { workload, .. } | Self::Recover { workload, .. } => workload,
        }
    }

    /// The node that does the work.
    pub const fn node(&self) -> &NodeName {
        match self {
            Self::Protect { agent, .. } => agent,
            Self::Recover { node, .. } => node,
        }
    }

    /// The point it makes or reads.
    pub const fn point(&self) -> PointId {
        match self {
            Self::Protect { point, .. } | Self::Recover { point, .. } => *point,
        }
    }
}

/// What is to be done next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    /// Run this step; it may have been begun before, and is idempotent.
    Run(Step),
    /// Undo what this step may have left; idempotent.
    Undo(Step),
    /// Nothing, until the reason is gone.
    Wait(WaitReason),
    /// Record the outcome; nothing is left to do.
    Finished(Outcome),
}

/// Where a job is, in one word.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum State {
    Queued,
    Waiting,
    Running,
    Undoing,
    Succeeded,
    SucceededWithGaps,
    Failed,
    Cancelled,
}

impl State {
    /// The word in tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Undoing => "undoing",
            Self::Succeeded => "succeeded",
            Self::SucceededWithGaps => "succeeded-with-gaps",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// True while something is left to do.
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Queued | Self::Waiting | Self::Running | Self::Undoing)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Where undoing leads.
#[derive(Clone, PartialEq, Eq, Debug)]
enum After {
    Finish(Outcome),
    Retry(WaitReason),
}

/// Which way the job moves.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Course {
    Forward,
    Over(Outcome),
    Undoing(After),
}

/// A job as its journal tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Job {
    id: JobId,
    task: Task,
    retry: RetryPolicy,
    created: Timestamp,
    changed: Timestamp,
    generation: Generation,
    course: Course,
    wait: Option<WaitReason>,
    running: Option<Step>,
    /// Steps done in the present attempt.
    done: BTreeMap<Step, Output>,
    /// Steps begun whose effects may still be there.
    open: BTreeSet<Step>,
    /// Failed tries, forward and undoing.
    failed: BTreeMap<Step, u32>,
    failed_undo: BTreeMap<Step, u32>,
    residue: Vec<(Step, Cause)>,
    cancel_by: Option<String>,
    last_cause: Option<Cause>,
    chosen: Option<Chosen>,
}

impl Job {
    /// The id.
    pub const fn id(&self) -> JobId {
        self.id
    }

    /// What it is for.
    pub const fn task(&self) -> &Task {
        &self.task
    }

    /// When it was created.
    pub const fn created(&self) -> Timestamp {
        self.created
    }

    /// When it ended, if it did.
    pub fn ended(&self) -> Option<Timestamp> {
        matches!(self.course, Course::Over(_)).then_some(self.changed)
    }

    /// The assignment in force; results of an older one are refused.
    pub const fn generation(&self) -> Generation {
        self.generation
    }

    /// The step begun and not ended.
    pub const fn running(&self) -> Option<Step> {
        self.running
    }

    /// What a step of the present attempt said when it was done.
    pub fn output(&self, step: Step) -> Option<&Output> {
        self.done.get(&step)
    }

    /// What could not be undone: to be reaped, and seen by a person.
    pub fn residue(&self) -> &[(Step, Cause)] {
        &self.residue
    }

    /// Who asked to cancel it.
    pub fn cancel_by(&self) -> Option<&str> {
        self.cancel_by.as_deref()
    }

    /// The last failure, if any.
    pub const fn last_cause(&self) -> Option<&Cause> {
        self.last_cause.as_ref()
    }

    /// The member of a cluster that was chosen last.
    pub const fn chosen(&self) -> Option<&Chosen> {
        self.chosen.as_ref()
    }

    /// The outcome, once it is over.
    pub const fn outcome(&self) -> Option<Outcome> {
        match self.course {
            Course::Over(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// Where it is, in one word.
    pub fn state(&self) -> State {
        match (&self.course, &self.wait) {
            (Course::Over(Outcome::Succeeded), _) => State::Succeeded,
            (Course::Over(Outcome::SucceededWithGaps(_)), _) => State::SucceededWithGaps,
            (Course::Over(Outcome::Failed(_)), _) => State::Failed,
            (Course::Over(Outcome::Cancelled), _) => State::Cancelled,
            (Course::Undoing(_), _) => State::Undoing,
            (Course::Forward, Some(_)) => State::Waiting,
            (Course::Forward, None) if self.open.is_empty() && self.done.is_empty() => {
                State::Queued
            }
            (Course::Forward, None) => State::Running,
        }
    }
}
