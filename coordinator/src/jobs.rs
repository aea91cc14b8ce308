//! Carries the sagas on: asks the pure state machine what is next, writes the event, then acts.
//! An agent does quiesce, snapshot, thaw and stream by itself and reports; this room
//! assigns, commits, and sees to it that what an agent left behind counts as undone only
//! once the agent said so or came back without it.

use std::collections::BTreeMap;
use std::sync::Arc;

use strongroom_protocol::control::{Ending, StepNews, ToNode};
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{
    Chain, Generation, JobId, NodeName, PointId, Timestamp, WorkloadId, WorkloadName,
};

use crate::assign;
use crate::catalog::CatalogError;
use crate::foreman::{RecoverOrder, Reply};
use crate::job::{
    Cause, Event, FailClass, Job, Next, Output, RetryAdvice, RetryPolicy, Step, Task, WaitReason,
};
use crate::site::Site;

/// Tries of a job before a person must look: a host that reboots, a link that flaps, a night
/// without the far site are sat out.
const RETRY: RetryPolicy =
    RetryPolicy { attempts_max: 60, pause_seconds_first: 2, pause_seconds_max: 300 };

/// What an ingest stream is for.
#[derive(Debug, Clone)]
pub(crate) struct IngestPlan {
    pub(crate) job: JobId,
    pub(crate) point: PointId,
    pub(crate) workload: WorkloadId,
    pub(crate) name: WorkloadName,
    pub(crate) agent: NodeName,
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
    recover: Option<RecoverOrder>,
    workload: Option<WorkloadId>,
}

/// Every job that is not over.
pub(crate) struct Jobs {
    site: Arc<Site>,
    live: BTreeMap<JobId, Live>,
}

fn unavailable(error: &CatalogError) -> Refusal {
    Refusal::new(RefusalKind::Unavailable, Chain(error).to_string())
}

impl Jobs {
    pub(crate) const fn new(site: Arc<Site>) -> Self {
        Self { site, live: BTreeMap::new() }
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
        let live = Live { job, early: None, recover, workload: None };
        self.live.insert(live.job.id(), live);
    }

    /// The job that protects a workload now.
    pub(crate) fn protecting(&self, workload: &WorkloadName) -> Option<JobId> {
        let protects =
            |job: &Job| matches!(job.task(), Task::Protect { workload: of, .. } if of == workload);
        self.live.values().find(|live| protects(&live.job)).map(|live| live.job.id())
    }

    /// Creates a protect job.
    pub(crate) fn protect(
        &mut self,
        workload: &WorkloadName,
        slot: Option<Timestamp>,
        by: &str,
    ) -> Result<JobId, Refusal> {
        let in_force = self.site.in_force();
        let declared = in_force.declared.workloads.get(workload).ok_or_else(|| {
            let known = in_force.declared.workloads.keys().map(WorkloadName::as_str);
            let hint = closest(workload.as_str(), known);
            Refusal::new(RefusalKind::Unknown, format!("no workload {workload} is declared{hint}"))
        })?;
        if let Some(job) = self.protecting(workload) {
            let text = format!("job {} is protecting {workload} already", job.short());
            return Err(Refusal::new(RefusalKind::Unavailable, text));
        }
        let now = self.site.now();
        let task = Task::Protect {
            workload: workload.clone(),
            point: PointId::fresh(now.unix_ms()),
            policy: declared.policy.clone(),
            policy_version: in_force.version,
            agent: declared.agent.clone(),
            slot,
        };
        if slot.is_none() {
            self.site.record(by, "protect", workload.as_str(), "");
        }
        self.create(task, None)
    }

    /// Creates a recover job.
    pub(crate) fn recover(&mut self, order: RecoverOrder) -> Result<JobId, Refusal> {
        let target = String::from_utf8_lossy(&order.target).into_owned();
        let task = Task::Recover {
            workload: order.workload.clone(),
            point: order.point,
            copy: crate::policy::primary(),
            node: order.node.clone(),
            target: target.clone(),
            select: order.select.clone(),
            by: order.by.clone(),
        };
        let subject = format!("point {} to {}:{target}", order.point, order.node);
        self.site.record(&order.by, "recover", &subject, &order.select.join(" "));
        self.create(task, Some(order))
    }

    fn create(&mut self, task: Task, recover: Option<RecoverOrder>) -> Result<JobId, Refusal> {
        let now = self.site.now();
        let id = JobId::fresh(now.unix_ms());
        let event = Event::Created { job: id, task, retry: RETRY };
        let job = self.site.catalog.append_event(id, &event, now).map_err(|e| unavailable(&e))?;
        self.keep(job, recover);
        self.advance(id);
        Ok(id)
    }

    /// Asks a job to stop.
    pub(crate) fn cancel(&mut self, job: JobId, by: &str) -> Result<(), Refusal> {
        if !self.live.contains_key(&job) {
            let text = format!("job {} is not live", job.short());
            return Err(Refusal::new(RefusalKind::Unknown, text));
        }
        self.site.record(by, "cancel", &job.to_string(), "");
        self.event(job, Event::CancelAsked { by: by.to_owned() });
        if let Some(live) = self.live.get(&job) {
            self.site.sessions.say(live.job.task().node(), ToNode::Cancel { job });
        }
        self.advance(job);
        Ok(())
    }

    /// Whether an agent may read a point, for a restore an operator ordered.
    pub(crate) fn granted(
        &self,
        job: JobId,
        node: &NodeName,
        point: PointId,
    ) -> Result<(), Refusal> {
        let fits = |job: &Job| {
            matches!(job.task(), Task::Recover { point: of, node: at, .. }
                if *of == point && at == node)
        };
        match self.live.get(&job) {
            Some(live) if fits(&live.job) => Ok(()),
            _ => Err(strongroom_node::reader::not_granted(point)),
        }
    }

    /// Looks at every job that waits.
    pub(crate) fn tick(&mut self, now: Timestamp) {
        let due: Vec<JobId> = self
            .live
            .values()
            .filter(|live| match live.job.next_at(now) {
                Next::Wait(WaitReason::AgentAway { node }) => {
                    self.site.sessions.of(&node).is_some()
                }
                Next::Wait(_) => false,
                Next::Run(Step::Assign) | Next::Finished(_) => true,
                Next::Run(_) | Next::Undo(_) => false,
            })
            .map(|live| live.job.id())
            .collect();
        for job in due {
            self.advance(job);
        }
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
            self.site.sessions.say(node, ToNode::Cancel { job: *job });
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
                Some(Next::Undo(step)) => self.event(job, Event::Undone(step)),
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

    /// What a node reports of a step.
    pub(crate) fn step(
        &mut self,
        node: &NodeName,
        job: JobId,
        generation: Generation,
        step: &str,
        news: StepNews,
    ) {
        if !self.is_current(node, job, generation) {
            return;
        }
        let Some(step) = Step::ALL.iter().copied().find(|known| known.as_str() == step) else {
            return;
        };
        match news {
            StepNews::Started => self.event(job, Event::Started(step)),
            StepNews::Done(text) => self.event(job, Event::Done(step, Output { text, gaps: 0 })),
            StepNews::Undone => self.event(job, Event::Undone(step)),
            // The ending that follows says what is to become of it.
            StepNews::Failed(text) => tracing::info!(%job, %step, %text, "a step failed"),
        }
        self.admit_early(job);
    }

    fn is_current(&self, node: &NodeName, job: JobId, generation: Generation) -> bool {
        self.live.get(&job).is_some_and(|live| {
            live.job.task().node() == node && live.job.generation() == generation
        })
    }

    /// How an assignment ended at its node.
    pub(crate) fn ended(
        &mut self,
        node: &NodeName,
        job: JobId,
        generation: Generation,
        ending: Ending,
    ) {
        if !self.is_current(node, job, generation) {
            return;
        }
        match ending {
            Ending::Done { progress, text } => {
                self.site.note_progress(job, progress);
                let landed = self.live.get(&job).is_some_and(|live| live.job.has_landed());
                if !landed {
                    return self.lose(job, FailClass::Internal, "the node ended without a point");
                }
                self.event(job, Event::Started(Step::Release));
                self.event(job, Event::Done(Step::Release, Output { text, gaps: 0 }));
                self.advance(job);
            }
            Ending::Failed { refusal, retry } => {
                let class = match retry {
                    strongroom_protocol::control::RetryAdvice::Pointless => FailClass::Refused,
                    _ => FailClass::Source,
                };
                self.lose(job, class, &refusal.to_string());
                if retry == strongroom_protocol::control::RetryAdvice::AtOnce {
                    self.retry_now(job);
                }
            }
            Ending::Cancelled => {
                self.nothing_left(job);
                self.advance(job);
            }
        }
    }

    /// An agent wants to send its blobs: granted once its reports have come as far.
    pub(crate) fn ingest(
        &mut self,
        job: JobId,
        generation: Generation,
        node: &NodeName,
        reply: Reply<IngestPlan>,
    ) {
        if !self.is_current(node, job, generation) {
            let text = format!("job {} is not {node}'s in generation {generation}", job.short());
            let _ = reply.send(Err(Refusal::new(RefusalKind::Stale, text)));
            return;
        }
        if let Some(live) = self.live.get_mut(&job) {
            live.early = Some((generation, reply));
        }
        self.admit_early(job);
    }

    fn admit_early(&mut self, job: JobId) {
        let ready = self.live.get(&job).is_some_and(|live| {
            live.early.is_some() && live.job.next_once_ready() == Next::Run(Step::Stream)
        });
        if !ready {
            return;
        }
        self.event(job, Event::Started(Step::Stream));
        let Some(live) = self.live.get_mut(&job) else { return };
        let Some((_, reply)) = live.early.take() else { return };
        let now = self.site.now();
        let plan = assign::ingest_plan(&self.site, &live.job, live.workload, now);
        // The agent may have given up waiting.
        let _ = reply.send(plan);
    }

    /// Everything of the point is in the repository, and its commit begins.
    pub(crate) fn streamed(&mut self, job: JobId, generation: Generation) {
        if self.live.get(&job).is_some_and(|live| live.job.generation() == generation) {
            self.event(job, Event::Done(Step::Stream, Output::default()));
            self.event(job, Event::Started(Step::Commit));
        }
    }

    /// The commit's outcome: how many gaps, or why it was refused.
    pub(crate) fn committed(
        &mut self,
        job: JobId,
        generation: Generation,
        outcome: Result<u64, Refusal>,
    ) {
        if !self.live.get(&job).is_some_and(|live| live.job.generation() == generation) {
            return;
        }
        match outcome {
            Ok(gaps) => {
                let output = Output { text: "durable".to_owned(), gaps };
                self.event(job, Event::Done(Step::Commit, output));
            }
            // The agent is told, and its ending says what is to become of the job.
            Err(refusal) => tracing::warn!(%job, %refusal, "a point was not committed"),
        }
    }

    /// Moves a job on as far as it goes without anybody else.
    fn advance(&mut self, job: JobId) {
        let now = self.site.now();
        let Some(live) = self.live.get(&job) else { return };
        match live.job.next_at(now) {
            Next::Run(Step::Assign) => self.assign(job),
            Next::Wait(WaitReason::AgentAway { node })
                if self.site.sessions.of(&node).is_some() =>
            {
                self.assign(job);
            }
            Next::Finished(outcome) => {
                self.event(job, Event::Finished(outcome));
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
        let Some(live) = self.live.get(&job) else { return };
        let node = live.job.task().node().clone();
        if self.site.sessions.of(&node).is_none() {
            let away = WaitReason::AgentAway { node };
            if live.job.next() != Next::Wait(away.clone()) {
                self.event(job, Event::Waiting(away));
            }
            return;
        }
        let work = match assign::work(&self.site, &live.job, live.recover.as_ref()) {
            Ok((work, workload)) => {
                if let Some(live) = self.live.get_mut(&job) {
                    live.workload = workload;
                }
                work
            }
            Err(refusal) => {
                self.event(job, Event::Started(Step::Assign));
                let (class, retry) = (FailClass::Refused, RetryAdvice::Pointless);
                let text = refusal.to_string();
                self.event(job, Event::Failed(Step::Assign, Cause { class, text, retry }));
                self.nothing_left(job);
                return self.advance(job);
            }
        };
        let Some(generation) = self.live.get(&job).map(|live| live.job.generation().next()) else {
            return;
        };
        self.event(job, Event::Reassigned(generation));
        self.event(job, Event::Started(Step::Assign));
        let said = self.site.sessions.say(&node, ToNode::Assign { job, generation, work });
        if said {
            let output = Output { text: format!("to {node}"), gaps: 0 };
            self.event(job, Event::Done(Step::Assign, output));
        } else {
            self.lose(job, FailClass::NodeLost, "the node does not keep up");
        }
    }

    /// Writes an event and takes the job on; an event that cannot be is dropped and said.
    fn event(&mut self, job: JobId, event: Event) {
        match self.site.catalog.append_event(job, &event, self.site.now()) {
            Ok(next) => {
                if let Some(live) = self.live.get_mut(&job) {
                    live.job = next;
                }
            }
            Err(CatalogError::Illegal { source, .. }) => {
                tracing::debug!(%job, ?event, why = %source, "an event came out of turn");
            }
            Err(error) => {
                tracing::error!(%job, error = %Chain(&error), "the journal cannot be written");
            }
        }
    }
}

/// A hint at the name that was probably meant.
pub(crate) fn closest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> String {
    known
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .filter(|(distance, _)| *distance <= 3)
        .min()
        .map(|(_, known)| format!(" (did you mean {known}?)"))
        .unwrap_or_default()
}
