//! Where assignments arrive on an agent or a proxy: a newer generation replaces an older, a
//! stale one is dropped, a cancel reaches whoever works. The work itself is the
//! node's [`Worker`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use strongroom_protocol::control::{Ending, FromNode, Progress, StepNews, ToNode, Work};
use strongroom_protocol::member::{MemberAnswer, MemberQuestion};
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Generation, JobId, PointId, Timestamp};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::uplink::Uplink;

/// Members being looked at; each holds a session with a server.
const LOOKS_MAX: usize = 16;

/// One assignment, with the way to report.
#[derive(Clone)]
pub struct Task {
    pub job: JobId,
    pub generation: Generation,
    pub work: Work,
    pub cancelled: CancellationToken,
    pub uplink: Uplink,
}

impl Task {
    /// Reports a step.
    pub async fn step(&self, step: &str, news: StepNews) {
        let (job, generation) = (self.job, self.generation);
        let step = step.to_owned();
        self.uplink.say(FromNode::Step { job, generation, step, news }).await;
    }

    /// Reports how far it is, if that costs no wait.
    pub fn progress(&self, progress: Progress) {
        let (job, generation) = (self.job, self.generation);
        self.uplink.mention(FromNode::Progress { job, generation, progress });
    }
}

/// Does what the node's role does.
pub trait Worker: Send + Sync + 'static {
    /// Does the work to its end; stops soon after `task.cancelled`, undoing what must be.
    fn perform(self: Arc<Self>, task: Task) -> impl Future<Output = Ending> + Send;

    /// The coordinator has the proof of this point that was made then.
    fn proof_noted(&self, point: PointId, at: Timestamp) {
        tracing::debug!(%point, %at, "a proof was noted that nobody here told");
    }

    /// The policy in force at the coordinator, for whoever may have to lead one day.
    fn policy(&self, version: u64, file: String, _toml: String) {
        tracing::debug!(version, file, "this node keeps no policy");
    }

    /// Looks what a member of a cluster is now.
    fn member(
        self: Arc<Self>,
        question: MemberQuestion,
    ) -> impl Future<Output = MemberAnswer> + Send {
        let text = format!("no member of {} is looked at here", question.kind.as_str());
        std::future::ready(MemberAnswer::Refused(Refusal::new(RefusalKind::Invalid, text)))
    }
}

struct Live {
    generation: Generation,
    cancelled: CancellationToken,
    handle: JoinHandle<()>,
}

/// What is being done here.
#[derive(Clone, Default)]
pub struct Desk {
    live: Arc<Mutex<BTreeMap<JobId, Live>>>,
}

impl Desk {
    /// For the hello.
    pub fn live(&self) -> Vec<(JobId, Generation)> {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.iter().map(|(job, live)| (*job, live.generation)).collect()
    }

    /// Takes orders until the uplink ends or `stop`; then cancels what is under way and waits.
    pub async fn work<W: Worker>(
        &self,
        worker: Arc<W>,
        uplink: Uplink,
        mut heard: mpsc::Receiver<ToNode>,
        stop: CancellationToken,
    ) {
        let mut looks = JoinSet::new();
        while let Some(Some(message)) = stop.run_until_cancelled(heard.recv()).await {
            while looks.try_join_next().is_some() {}
            match message {
                ToNode::Assign { job, generation, work } => {
                    let cancelled = CancellationToken::new();
                    let uplink = uplink.clone();
                    let task = Task { job, generation, work, cancelled, uplink };
                    self.take(&worker, task);
                }
                ToNode::Cancel { job } => self.cancel(job),
                ToNode::Member(question) if looks.len() < LOOKS_MAX => {
                    let (worker, uplink) = (Arc::clone(&worker), uplink.clone());
                    looks.spawn(async move {
                        let number = question.number;
                        let answer = worker.member(*question).await;
                        uplink.say(FromNode::Member { number, answer }).await;
                    });
                }
                ToNode::Member(question) => {
                    let text = format!("{LOOKS_MAX} members are being looked at already");
                    let refusal = Refusal::new(RefusalKind::Unavailable, text);
                    let (number, answer) = (question.number, MemberAnswer::Refused(refusal));
                    uplink.say(FromNode::Member { number, answer }).await;
                }
                ToNode::ProofNoted { point, at } => worker.proof_noted(point, at),
                ToNode::Refused(refusal) => tracing::warn!(%refusal, "refused"),
                ToNode::Policy { version, file, toml } => worker.policy(version, file, toml),
                ToNode::Lead(_)
                | ToNode::Renewed { .. }
                | ToNode::Revoked { .. }
                | ToNode::Welcome(_) => {}
            }
        }
        let left = std::mem::take(&mut *self.live.lock().unwrap_or_else(PoisonError::into_inner));
        for live in left.values() {
            live.cancelled.cancel();
        }
        for (_, live) in left {
            // A task that panicked has nothing left to wait for.
            let _ = live.handle.await;
        }
    }

    fn cancel(&self, job: JobId) {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(live) = live.get(&job) {
            live.cancelled.cancel();
        }
    }

    fn take<W: Worker>(&self, worker: &Arc<W>, task: Task) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let (job, generation) = (task.job, task.generation);
        if live.get(&job).is_some_and(|current| current.generation >= generation) {
            tracing::debug!(%job, %generation, "a stale assignment was dropped");
            return;
        }
        let older = live.remove(&job);
        let cancelled = task.cancelled.clone();
        let (worker, desk) = (Arc::clone(worker), self.clone());
        let handle = tokio::task::spawn(async move {
            if let Some(older) = older {
                older.cancelled.cancel();
                let _ = older.handle.await;
            }
            let uplink = task.uplink.clone();
            let ending = worker.perform(task).await;
            desk.leave(job, generation);
            uplink.say(FromNode::Ended { job, generation, ending }).await;
        });
        live.insert(job, Live { generation, cancelled, handle });
    }

    fn leave(&self, job: JobId, generation: Generation) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if live.get(&job).is_some_and(|current| current.generation == generation) {
            live.remove(&job);
        }
    }
}
