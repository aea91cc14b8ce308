//! What nodes and ingest streams report of jobs. News of an older generation is not heard.

use strongroom_protocol::control::{Ending, RetryAdvice as Advice, StepNews};
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Generation, JobId, NodeName};

use super::{IngestPlan, Jobs};
use crate::assign;
use crate::foreman::Reply;
use crate::job::{Event, FailClass, Next, Output, Step};

impl Jobs {
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
                    Advice::Pointless => FailClass::Refused,
                    _ => FailClass::Source,
                };
                self.lose(job, class, &refusal.to_string());
                if retry == Advice::AtOnce {
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
}
