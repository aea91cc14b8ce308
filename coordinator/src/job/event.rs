//! The journal's vocabulary. Journals are stored and replayed by later versions: the order of
//! variants and fields is the format, append only.

use std::fmt;

use serde::{Deserialize, Serialize};
use strongroom_protocol::{Generation, JobId, NodeName, Timestamp};

use crate::job::{RetryPolicy, Step, Task};

/// What kind of trouble ended a step or a job.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum FailClass {
    /// The node went away.
    NodeLost,
    /// This coordinator was restarted in the middle.
    Interrupted,
    /// The link broke.
    Network,
    /// No space, or the disk refused.
    Disk,
    /// The source could not be read or written.
    Source,
    /// The application could not be made quiet as the policy requires.
    Consistency,
    /// The snapshot is gone: a new one is needed.
    SnapshotLost,
    /// It took longer than allowed.
    Timeout,
    /// The other side refused, for a reason that trying again does not change.
    Refused,
    /// Stored data is damaged.
    Damaged,
    /// A bug or something unforeseen.
    Internal,
}

impl FailClass {
    /// The word in tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NodeLost => "node lost",
            Self::Interrupted => "interrupted",
            Self::Network => "network",
            Self::Disk => "disk",
            Self::Source => "source",
            Self::Consistency => "consistency",
            Self::SnapshotLost => "snapshot lost",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Damaged => "damaged",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for FailClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Whether trying again may help.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum RetryAdvice {
    Pointless,
    Later,
}

/// Why a step failed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cause {
    pub class: FailClass,
    /// The sentence for people.
    pub text: String,
    pub retry: RetryAdvice,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.class, self.text)
    }
}

/// What a step said when it was done.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Output {
    pub text: String,
    /// Things that could not be read or written.
    pub gaps: u64,
}

/// Why nothing happens for now.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum WaitReason {
    /// The node is not connected.
    AgentAway { node: NodeName },
    /// Outside the hours it may run in.
    Window { opens: Timestamp },
    /// Enough others are running.
    Slot,
    /// After a failure.
    RetryAt { attempt: u32, at: Timestamp, last: String },
    /// Too little space to begin.
    Disk { free_bytes: u64, needed_bytes: u64 },
    /// Another job works on the same thing.
    Conflict { job: JobId },
    /// No member of the cluster can make the point now.
    NoMember { why: String },
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AgentAway { node } => write!(f, "node {node} is not connected"),
            Self::Window { opens } => write!(f, "outside its window, which opens at {opens}"),
            Self::Slot => f.write_str("enough other jobs are running"),
            Self::RetryAt { attempt, at, last } => {
                write!(f, "attempt {attempt} at {at} after: {last}")
            }
            Self::Disk { free_bytes, needed_bytes } => {
                write!(f, "{free_bytes} bytes free, {needed_bytes} needed")
            }
            Self::Conflict { job } => write!(f, "job {} works on the same thing", job.short()),
            Self::NoMember { why } => f.write_str(why),
        }
    }
}

/// How a job ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Outcome {
    Succeeded,
    /// The point is there and so many things in it could not be read.
    SucceededWithGaps(u64),
    Failed(FailClass),
    Cancelled,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Succeeded => f.write_str("succeeded"),
            Self::SucceededWithGaps(gaps) => write!(f, "succeeded with {gaps} gaps"),
            Self::Failed(class) => write!(f, "failed: {class}"),
            Self::Cancelled => f.write_str("cancelled"),
        }
    }
}

/// The member of a cluster that is to make the point.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Chosen {
    pub member: NodeName,
    /// The agent beside it.
    pub agent: NodeName,
    /// The identity of its cluster.
    pub cluster: String,
    /// The role in which it is wanted, in the word of the policy's `prefer`.
    pub role: String,
    /// Why it, and why not others, for people.
    pub why: String,
}

/// One line of the journal.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Event {
    Created {
        job: JobId,
        task: Task,
        retry: RetryPolicy,
    },
    Queued(WaitReason),
    Started(Step),
    Done(Step, Output),
    /// A try of the step failed, or, while undoing, a try of its undoing.
    Failed(Step, Cause),
    Undone(Step),
    /// The step cannot be undone; someone must look.
    Stuck(Step, Cause),
    Waiting(WaitReason),
    Reassigned(Generation),
    CancelAsked {
        by: String,
    },
    Cancelled,
    Finished(Outcome),
    /// Before it is assigned.
    Chosen(Chosen),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Created { task, .. } => {
                let node = task.node();
                write!(f, "created: {} {} on {node}", task.saga().as_str(), task.workload())
            }
            Self::Queued(reason) => write!(f, "queued: {reason}"),
            Self::Started(step) => write!(f, "{step} started"),
            Self::Done(step, output) if output.text.is_empty() => write!(f, "{step} done"),
            Self::Done(step, output) => write!(f, "{step} done: {}", output.text),
            Self::Failed(step, cause) => write!(f, "{step} failed: {cause}"),
            Self::Undone(step) => write!(f, "{step} undone"),
            Self::Stuck(step, cause) => write!(f, "{step} cannot be undone: {cause}"),
            Self::Waiting(reason) => write!(f, "waiting: {reason}"),
            Self::Reassigned(generation) => write!(f, "assigned again, generation {generation}"),
            Self::CancelAsked { by } => write!(f, "{by} asked to cancel"),
            Self::Cancelled => f.write_str("cancelled"),
            Self::Finished(outcome) => outcome.fmt(f),
            Self::Chosen(Chosen { member, why, .. }) => write!(f, "member {member}: {why}"),
        }
    }
}
