//! Carries the sagas on: asks the pure state machine what is next, writes the event, then acts.
//! An agent does quiesce, snapshot, thaw and stream by itself and reports; this room
//! assigns, commits, and sees to it that what an agent left behind counts as undone only
//! once the agent said so or came back without it.

mod choosing;
mod orders;
mod reports;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use strongroom_protocol::control::ToNode;
use strongroom_protocol::{
    Chain, Generation, JobId, NodeName, PointId, Timestamp, WorkloadId, WorkloadName,
};

use crate::assign;
use crate::catalog::CatalogError;
use crate::foreman::{RecoverOrder, Reply};
use crate::job::{
    Cause, Event, FailClass, Job, Next, Output, RetryAdvice, Saga, Step, Task, WaitReason,
};
use crate::site::Site;

use choosing::Round;
pub(crate) use reports::Report;

/// What an ingest stream is for.
#[derive(Debug, Clone)]
pub(crate) struct IngestPlan {
    pub(crate) job: JobId,
    pub(crate) point: PointId,
    pub(crate) workload: WorkloadId,
    pub(crate) name: WorkloadName,
    pub(crate) agent: NodeName,
    /// Which member of a cluster, and why that one.
    pub(crate) member: Option<String>,
    pub(crate) policy: strongroom_protocol::PolicyName,
    pub(crate) policy_version: u64,
    pub(crate) previous: Option<PointId>,
    /// By the coordinator's clock: an agent's word does not date a point.
    pub(crate) moment: Timestamp,
    pub(crate) opened: Timestamp,
}

struct Live {
    job: Job,
    /// An agent whose stream came before its reports.
    early: Option<(Generation, Reply<IngestPlan>)>,
    /// The generation whose stream was granted: there is one stream a generation.
    streaming: Option<Generation>,
    recover: Option<RecoverOrder>,
    workload: Option<WorkloadId>,
    /// Which member of a cluster is asked, tried, or away.
    round: Round,
}

/// Every job that is not over.
pub(crate) struct Jobs {
    site: Arc<Site>,
    live: BTreeMap<JobId, Live>,
    /// Reports that could not be written into the journal yet, in order.
    deferred: VecDeque<Report>,
    /// Whether the journal failed since this was last looked at.
    journal_failed: bool,
    /// Questions to members so far.
    asked: u64,
}

impl Jobs {
    pub(crate) const fn new(site: Arc<Site>) -> Self {
        let deferred = VecDeque::new();
        Self { site, live: BTreeMap::new(), deferred, journal_failed: false, asked: 0 }
    }

    /// Takes up what an earlier run left; steps in the middle are settled when the node comes.
    pub(crate) fn take_up(&mut self) {
        match self.site.catalog.live_jobs() {
            Ok(jobs) => {
                for job in jobs {
                    tracing::info!(job = %job.id(), state = %job.state(), "taken up");
                    self.keep(job, None);
                }
            }
            Err(error) => tracing::error!(error = %Chain(&error), "jobs cannot be taken up"),
        }
        let landed: Vec<_> = self
            .live
            .values()
            .filter(|live| live.job.running() == Some(Step::Commit))
            .filter(|live| self.site.repo.has_point(live.job.task().point()))
            .map(|live| live.job.id())
            .collect();
        for job in landed {
            self.event(job, Event::Done(Step::Commit, Output::default()));
        }
    }

    fn keep(&mut self, job: Job, recover: Option<RecoverOrder>) {
        let (workload, round) = (None, Round::default());
        let live = Live { job, early: None, streaming: None, recover, workload, round };
        self.live.insert(live.job.id(), live);
    }

    /// Looks at every job that waits.
    pub(crate) fn tick(&mut self, now: Timestamp) {
        self.take_deferred();
        // A stream that could not be put on record is let in once it can be.
        let early: Vec<JobId> =
            self.live.iter().filter(|(_, live)| live.early.is_some()).map(|(id, _)| *id).collect();
        for job in early {
            self.admit_early(job);
        }
        let due: Vec<JobId> = self
            .live
            .values()
            .filter(|live| match live.job.next_at(now) {
                Next::Wait(WaitReason::AgentAway { node }) => {
                    self.site.sessions.agent(&node).is_some()
                }
                Next::Wait(WaitReason::NoMember { .. }) => live.round.is_due(now),
                Next::Wait(_) => false,
                Next::Run(Step::Assign) | Next::Finished(_) => true,
                Next::Run(_) | Next::Undo(_) => false,
            })
            .map(|live| live.job.id())
            .collect();
        for job in due {
            self.advance(job);
        }
        self.pass_on_what_is_away(now);
    }

    /// A node is here. What it no longer works on, it lost.
    pub(crate) fn came(&mut self, node: &NodeName, still: &[(JobId, Generation)]) {
        let mine: Vec<(JobId, Generation)> = self
            .live
            .values()
            .filter(|live| live.job.task().node() == node)
            .map(|live| (live.job.id(), live.job.generation()))
            .collect();
        for (job, generation) in &mine {
            if still.contains(&(*job, *generation)) {
                continue;
            }
            self.lose(*job, FailClass::NodeLost, "the node came back without it");
            self.retry_now(*job);
        }
        for (job, _) in still.iter().filter(|(job, _)| !mine.iter().any(|(of, _)| of == job)) {
            self.site.sessions.say_agent(node, ToNode::Cancel { job: *job });
        }
    }

    /// An attempt is lost: it begins again from its first step, or ends.
    fn lose(&mut self, job: JobId, class: FailClass, text: &str) {
        let Some(live) = self.live.get(&job) else { return };
        let begun = live.job.running().is_some() || live.job.output(Step::Assign).is_some();
        if !begun {
            return;
        }
        if live.job.has_landed() {
            // The point is there; what was left to give back went with the attempt.
            self.event(job, Event::Started(Step::Release));
            self.event(job, Event::Done(Step::Release, Output::default()));
            return self.advance(job);
        }
        let (class, retry) = match class {
            FailClass::Refused | FailClass::Damaged => (class, RetryAdvice::Pointless),
            _ => (FailClass::SnapshotLost, RetryAdvice::Later),
        };
        let text = text.to_owned();
        if let Next::Run(step) = live.job.next_once_ready() {
            if live.job.running() != Some(step) {
                self.event(job, Event::Started(step));
            }
            self.event(job, Event::Failed(step, Cause { class, text, retry }));
        }
        self.nothing_left(job);
        self.advance(job);
    }

    /// The node no longer works on the job: all it held is given back.
    fn nothing_left(&mut self, job: JobId) {
        for _ in 0..Step::ALL.len() {
            match self.live.get(&job).map(|live| live.job.next_once_ready()) {
                Some(Next::Undo(step)) if self.event(job, Event::Undone(step)) => {}
                _ => return,
            }
        }
    }

    /// Ends the pause of a job whose reason to wait is known to be gone.
    fn retry_now(&mut self, job: JobId) {
        let Some(live) = self.live.get(&job) else { return };
        if let Next::Wait(WaitReason::RetryAt { .. }) = live.job.next()
            && live.job.next_once_ready() == Next::Run(Step::Assign)
        {
            self.assign(job);
        }
    }

    /// Moves a job on as far as it goes without anybody else.
    fn advance(&mut self, job: JobId) {
        let now = self.site.now();
        let Some(live) = self.live.get(&job) else { return };
        match live.job.next_at(now) {
            Next::Run(Step::Assign) => self.assign(job),
            Next::Wait(WaitReason::AgentAway { node })
                if self.site.sessions.agent(&node).is_some() =>
            {
                self.assign(job);
            }
            Next::Wait(WaitReason::NoMember { .. }) => self.assign(job),
            Next::Finished(outcome) => {
                if !self.event(job, Event::Finished(outcome)) {
                    return;
                }
                self.site.trim_progress();
                if let Some(live) = self.live.remove(&job) {
                    tracing::info!(%job, saga = live.job.task().saga().as_str(),
                        subject = %live.job.task().workload(), %outcome, "over");
                }
            }
            // Nodes do these by themselves and say so.
            Next::Run(_) | Next::Undo(_) | Next::Wait(_) => {}
        }
    }

    fn assign(&mut self, job: JobId) {
        if !self.is_settled(job) {
            return self.choose(job);
        }
        let Some(live) = self.live.get(&job) else { return };
        let node = live.job.task().node().clone();
        if self.site.sessions.agent(&node).is_none() {
            if self.is_unsettled(job) {
                return;
            }
            let away = WaitReason::AgentAway { node };
            let Some(live) = self.live.get(&job) else { return };
            if live.job.next() != Next::Wait(away.clone()) {
                self.event(job, Event::Waiting(away));
            }
            return;
        }
        if self.has_its_point(job) {
            return self.land(job);
        }
        let Some(live) = self.live.get(&job) else { return };
        let work = match assign::work(&self.site, &live.job, live.recover.as_ref()) {
            Ok((work, workload)) => {
                if let Some(live) = self.live.get_mut(&job) {
                    live.workload = workload;
                }
                work
            }
            Err(refusal) => return self.give_up(job, refusal.to_string()),
        };
        let Some(generation) = self.live.get(&job).map(|live| live.job.generation().next()) else {
            return;
        };
        if let Some(live) = self.live.get_mut(&job) {
            // A member is chosen anew for every attempt.
            live.round.settled = false;
        }
        // Not a word to the node before the journal has it.
        let written = self.event(job, Event::Reassigned(generation))
            && self.event(job, Event::Started(Step::Assign));
        if !written {
            return;
        }
        let said = self.site.sessions.say_agent(&node, ToNode::Assign { job, generation, work });
        if said {
            let output = Output { text: format!("to {node}"), gaps: 0 };
            self.event(job, Event::Done(Step::Assign, output));
        } else {
            self.lose(job, FailClass::NodeLost, "the node does not keep up");
        }
    }

    /// No node is to be ordered, now or later.
    fn give_up(&mut self, job: JobId, text: String) {
        self.event(job, Event::Started(Step::Assign));
        let (class, retry) = (FailClass::Refused, RetryAdvice::Pointless);
        self.event(job, Event::Failed(Step::Assign, Cause { class, text, retry }));
        self.nothing_left(job);
        self.advance(job);
    }

    /// Whether an earlier attempt's point is there: its commit outlived what ordered it.
    fn has_its_point(&self, job: JobId) -> bool {
        self.live.get(&job).is_some_and(|live| {
            let task = live.job.task();
            matches!(task, Task::Protect { .. }) && self.site.repo.has_point(task.point())
        })
    }

    /// The point of an earlier attempt is the job's point.
    fn land(&mut self, job: JobId) {
        if let Err(error) = crate::commit::catch_up(&self.site) {
            tracing::error!(%job, %error, "the catalog cannot be brought up");
            return;
        }
        let text = "an earlier attempt's commit was found".to_owned();
        for step in Saga::Protect.steps() {
            let done = Event::Done(*step, Output { text: text.clone(), gaps: 0 });
            if !(self.event(job, Event::Started(*step)) && self.event(job, done)) {
                return;
            }
        }
        self.advance(job);
    }

    /// Writes an event and takes the job on; says whether it stands in the journal now. An event
    /// out of turn is dropped and said.
    fn event(&mut self, job: JobId, event: Event) -> bool {
        match self.site.catalog.append_event(job, &event, self.site.now()) {
            Ok(next) => {
                if let Some(live) = self.live.get_mut(&job) {
                    live.job = next;
                }
                self.site.all_clear("journal");
                true
            }
            Err(CatalogError::Illegal { source, .. }) => {
                tracing::debug!(%job, ?event, why = %source, "an event came out of turn");
                false
            }
            Err(error) => {
                self.journal_failed = true;
                let text = format!("the journal cannot be written: {}", Chain(&error));
                tracing::error!(%job, "{text}");
                self.site.alarm("journal", text);
                false
            }
        }
    }
}
