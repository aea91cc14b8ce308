//! What nodes and ingest streams report of jobs. News of an older generation is not heard.

use strongroom_protocol::control::{Ending, Progress, RetryAdvice as Advice, StepNews};
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Generation, JobId, NodeName};

use super::{IngestPlan, Jobs};
use crate::assign;
use crate::foreman::Reply;
use crate::job::{Event, FailClass, Next, Output, Saga, Step};

/// What is reported of a job. Taken again after the journal failed: each is the same once or
/// twice.
#[derive(Debug, Clone)]
pub(crate) enum Report {
    /// The commit's outcome: how many gaps, or why it was refused.
    Committed { job: JobId, generation: Generation, outcome: Result<u64, Refusal> },
    /// How an assignment ended at its node.
    Ended { node: NodeName, job: JobId, generation: Generation, ending: Ending },
    /// What a node says of a step.
    Step { node: NodeName, job: JobId, generation: Generation, step: String, news: StepNews },
}

/// The steps a node does by itself; of the others the coordinator knows better.
const STEPS_OF_NODES: [Step; 6] =
    [Step::Quiesce, Step::Snapshot, Step::Thaw, Step::Stage, Step::Write, Step::Verify];

impl Jobs {
    /// Takes a report, now or, while the journal cannot be written, later and in order.
    pub(crate) fn report(&mut self, report: Report) {
        if self.deferred.is_empty() && self.take(report.clone()) {
            return;
        }
        self.deferred.push_back(report);
    }

    /// Takes what was deferred, as far as the journal goes.
    pub(super) fn take_deferred(&mut self) {
        while let Some(report) = self.deferred.front().cloned() {
            if !self.take(report) {
                return;
            }
            self.deferred.pop_front();
        }
    }

    /// Takes a report; false if the journal failed on the way.
    fn take(&mut self, report: Report) -> bool {
        self.journal_failed = false;
        match report {
            Report::Committed { job, generation, outcome } => {
                self.committed(job, generation, outcome);
            }
            Report::Ended { node, job, generation, ending } => {
                self.ended(&node, job, generation, ending);
            }
            Report::Step { node, job, generation, step, news } => {
                self.step(&node, job, generation, &step, news);
            }
        }
        !self.journal_failed
    }

    /// Notes how far an assignment is, if it is the node's.
    pub(crate) fn progress(
        &self,
        node: &NodeName,
        job: JobId,
        generation: Generation,
        progress: Progress,
    ) {
        if self.is_current(node, job, generation) {
            self.site.note_progress(job, progress);
        }
    }

    fn step(
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
        let Some(step) = STEPS_OF_NODES.into_iter().find(|known| known.as_str() == step) else {
            return;
        };
        match news {
            StepNews::Started => drop(self.event(job, Event::Started(step))),
            StepNews::Done(text) => {
                self.event(job, Event::Done(step, Output { text, gaps: 0 }));
            }
            StepNews::Undone => drop(self.event(job, Event::Undone(step))),
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

    fn ended(&mut self, node: &NodeName, job: JobId, generation: Generation, ending: Ending) {
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
                // A protect job's gaps came with its commit.
                let saga = self.live.get(&job).map(|live| live.job.task().saga());
                let gaps = if saga == Some(Saga::Recover) { progress.gaps } else { 0 };
                self.event(job, Event::Done(Step::Release, Output { text, gaps }));
                self.advance(job);
            }
            Ending::Failed { refusal, retry } => {
                let others = self.failed_before_streaming(job, &refusal, retry);
                let class = match retry {
                    Advice::Pointless if !others => FailClass::Refused,
                    _ => FailClass::Source,
                };
                self.lose(job, class, &refusal.to_string());
                if others || retry == Advice::AtOnce {
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
            if live.streaming == Some(generation) {
                let text = format!("job {} has its stream already", job.short());
                let _ = reply.send(Err(Refusal::new(RefusalKind::Stale, text)));
                return;
            }
            live.early = Some((generation, reply));
        }
        self.admit_early(job);
    }

    /// Lets a stream in that came before its job was ready, or could not be put on record.
    pub(super) fn admit_early(&mut self, job: JobId) {
        let ready = self.live.get(&job).is_some_and(|live| {
            live.early.is_some() && live.job.next_once_ready() == Next::Run(Step::Stream)
        });
        if !ready {
            return;
        }
        if !self.event(job, Event::Started(Step::Stream)) {
            return;
        }
        let Some(live) = self.live.get_mut(&job) else { return };
        let Some((generation, reply)) = live.early.take() else { return };
        live.streaming = Some(generation);
        let now = self.site.now();
        let plan = assign::ingest_plan(&self.site, &live.job, live.workload, now);
        // The agent may have given up waiting.
        let _ = reply.send(plan);
    }

    /// Everything of the point is in the repository: may it be committed? Only the newest
    /// generation of a job that nobody cancelled may, and only once the journal says so.
    pub(crate) fn streamed(&mut self, job: JobId, generation: Generation) -> Result<(), Refusal> {
        let stale = || {
            let text = format!("job {} goes on without generation {generation}", job.short());
            Refusal::new(RefusalKind::Stale, text)
        };
        if self.live.get(&job).is_none_or(|live| live.job.generation() != generation) {
            return Err(stale());
        }
        self.event(job, Event::Done(Step::Stream, Output::default()));
        match self.event(job, Event::Started(Step::Commit)) {
            true => Ok(()),
            false => Err(stale()),
        }
    }

    fn committed(&mut self, job: JobId, generation: Generation, outcome: Result<u64, Refusal>) {
        if self.live.get(&job).is_none_or(|live| live.job.generation() != generation) {
            return;
        }
        match outcome {
            Ok(gaps) => {
                self.note_cluster(job);
                let output = Output { text: "durable".to_owned(), gaps };
                self.event(job, Event::Done(Step::Commit, output));
            }
            // The agent is told, and its ending says what is to become of the job.
            Err(refusal) => tracing::warn!(%job, %refusal, "a point was not committed"),
        }
    }
}
