//! The one thread that moves jobs and copies on. It hears of everything in order, writes each
//! event to the journal before acting on it, and never waits for the network: what it says to
//! nodes is queued, what it cannot say is said when they come back.

use std::sync::Arc;
use std::time::Duration;

use strongroom_node::uplink::SOFTWARE;
use strongroom_protocol::control::{FromNode, Overwrite};
use strongroom_protocol::opening::Refusal;
use strongroom_protocol::{
    Chain, CopyName, Generation, Identity, JobId, NodeName, PointId, Role, Timestamp, WorkloadName,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::ability::lacking_of_proxy;
use crate::catalog::NodeNote;
use crate::copies::Copies;
use crate::drills::Drills;
use crate::expire::far::Far;
use crate::jobs::{IngestPlan, Jobs, Report};
use crate::lead;
use crate::marked;
use crate::proofs;
use crate::schedule;
use crate::scrub;
use crate::sessions::{Heard, Session};
use crate::site::Site;

/// How often waits, schedules and debts are looked at.
const TICK: Duration = Duration::from_millis(500);
/// News waiting for the foreman.
const NEWS_MAX: usize = 1024;

/// A restore as an operator ordered it.
#[derive(Debug)]
pub(crate) struct RecoverOrder {
    pub(crate) point: PointId,
    pub(crate) workload: WorkloadName,
    pub(crate) node: NodeName,
    pub(crate) target: Vec<u8>,
    pub(crate) select: Vec<String>,
    pub(crate) overwrite: Overwrite,
    pub(crate) by: String,
}

/// The answer to an order.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// What the foreman is told or asked.
#[derive(Debug)]
pub(crate) enum News {
    Cancel {
        job: JobId,
        by: String,
        reply: Reply<()>,
    },
    /// The point is durable and in the catalog, or it is not.
    Committed {
        job: JobId,
        generation: Generation,
        outcome: Result<u64, Refusal>,
    },
    /// An agent on another host asks for blobs of a point.
    Granted {
        job: JobId,
        node: NodeName,
        point: PointId,
        reply: Reply<()>,
    },
    /// An operator wants a drill of a workload's newest point.
    Drill {
        workload: WorkloadName,
        copy: Option<CopyName>,
        by: String,
        reply: Reply<JobId>,
    },
    Heard(Heard),
    /// An agent wants to send the blobs of its assignment.
    Ingest {
        job: JobId,
        generation: Generation,
        node: NodeName,
        reply: Reply<IngestPlan>,
    },
    /// An order changed what is wanted: debts are looked at anew.
    Reconsider,
    Protect {
        workload: WorkloadName,
        by: String,
        reply: Reply<JobId>,
    },
    Recover {
        order: RecoverOrder,
        reply: Reply<JobId>,
    },
    /// Everything an ingest stream carried is in the repository: may it be committed?
    Streamed {
        job: JobId,
        generation: Generation,
        reply: Reply<()>,
    },
    Tick,
}

/// How everybody else reaches the foreman.
#[derive(Clone, Debug)]
pub(crate) struct ForemanDesk {
    news: mpsc::Sender<News>,
}

impl ForemanDesk {
    /// Tells the foreman something.
    pub(crate) async fn tell(&self, news: News) {
        // Fails only when the coordinator is stopping.
        let _ = self.news.send(news).await;
    }

    /// Asks and waits for the answer.
    pub(crate) async fn ask<T>(
        &self,
        question: impl FnOnce(Reply<T>) -> News,
    ) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.tell(question(reply)).await;
        answer.await.unwrap_or_else(|_| {
            let kind = strongroom_protocol::opening::RefusalKind::Unavailable;
            Err(Refusal::new(kind, "the coordinator is stopping"))
        })
    }
}

struct Foreman {
    site: Arc<Site>,
    jobs: Jobs,
    copies: Copies,
    drills: Drills,
    far: Far,
}

/// Starts the foreman's thread and its clock. The thread ends when everybody who could tell
/// it something is gone.
pub(crate) fn start(
    site: Arc<Site>,
    stop: CancellationToken,
) -> std::io::Result<(ForemanDesk, std::thread::JoinHandle<()>)> {
    let (news, mut heard) = mpsc::channel(NEWS_MAX);
    let mut foreman = Foreman {
        jobs: Jobs::new(Arc::clone(&site)),
        copies: Copies::new(Arc::clone(&site)),
        drills: Drills::new(Arc::clone(&site)),
        far: Far::new(Arc::clone(&site)),
        site,
    };
    let thread = std::thread::Builder::new().name("foreman".to_owned()).spawn(move || {
        foreman.take_up();
        while let Some(news) = heard.blocking_recv() {
            foreman.hear(news);
        }
    })?;
    let ticking = news.clone();
    tokio::task::spawn(async move {
        let mut tick = tokio::time::interval(TICK);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            if ticking.send(News::Tick).await.is_err() {
                return;
            }
        }
    });
    Ok((ForemanDesk { news }, thread))
}

impl Foreman {
    /// What an earlier run of the coordinator left in the middle.
    fn take_up(&mut self) {
        self.jobs.take_up();
        self.copies.take_up();
        self.drills.take_up();
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Cancel { job, by, reply } => answer(reply, self.cancel(job, &by)),
            News::Committed { job, generation, outcome } => {
                self.jobs.report(Report::Committed { job, generation, outcome });
                self.copies.reconsider();
            }
            News::Granted { job, node, point, reply } => {
                answer(reply, self.jobs.granted(job, &node, point));
            }
            News::Drill { workload, copy, by, reply } => {
                let may = self.may("no drill is ordered");
                let order = |()| self.drills.wanted(&workload, copy.as_ref(), &by);
                answer(reply, may.and_then(order));
            }
            News::Heard(heard) => self.hear_node(heard),
            News::Ingest { job, generation, node, reply } => match self.may("no point is taken") {
                Ok(()) => self.jobs.ingest(job, generation, &node, reply),
                Err(refusal) => answer(reply, Err(refusal)),
            },
            News::Reconsider => {
                self.copies.reconsider();
                self.far.reconsider();
            }
            News::Protect { workload, by, reply } => {
                let may = self.may("no point is made");
                answer(reply, may.and_then(|()| self.jobs.protect(&workload, None, &by)));
            }
            News::Recover { order, reply } => answer(reply, self.jobs.recover(order)),
            News::Streamed { job, generation, reply } => {
                let may = self.may("no point is taken");
                answer(reply, may.and_then(|()| self.jobs.streamed(job, generation)));
            }
            News::Tick => self.tick(),
        }
    }

    fn tick(&mut self) {
        // What waits goes on when this site leads again.
        if !self.site.lead.leads() {
            return;
        }
        let now = self.site.now();
        self.start_what_is_due(now);
        self.jobs.tick(now);
        self.copies.tick(now);
        self.drills.tick(now);
        if self.site.lets_go() {
            self.far.tick(now);
        }
    }

    fn cancel(&mut self, job: JobId, by: &str) -> Result<(), Refusal> {
        if self.drills.cancel(job, by) { Ok(()) } else { self.jobs.cancel(job, by) }
    }

    fn may(&self, what: &str) -> Result<(), Refusal> {
        self.site.lead.while_leading(what, || ())
    }

    fn start_what_is_due(&mut self, now: Timestamp) {
        let in_force = self.site.in_force();
        if in_force.declared.workloads.is_empty() {
            return;
        }
        let histories = match self.site.catalog.histories(now) {
            Ok(histories) => histories,
            Err(error) => {
                tracing::error!(error = %Chain(&error), "the catalog does not answer");
                return;
            }
        };
        for due in schedule::due(&in_force.declared, &histories, now) {
            if self.jobs.protecting(&due.workload).is_some() {
                continue;
            }
            if let Some(note) = due.note {
                tracing::warn!(workload = %due.workload, %note, "schedule");
            }
            let started = self.jobs.protect(&due.workload, Some(due.slot), "schedule");
            if let Err(refusal) = started {
                let workload = &due.workload;
                tracing::error!(%workload, %refusal, "a scheduled run did not start");
            }
        }
    }

    fn hear_node(&mut self, heard: Heard) {
        match heard {
            Heard::Came { session, live } => {
                self.note(&session);
                let node = session.identity.name.clone();
                match session.identity.role {
                    Role::Agent => self.jobs.came(&node, &live),
                    _ => {
                        self.copies.came(&node, &live);
                        self.drills.came(&node, &live);
                        self.far.came(&node, &live);
                    }
                }
            }
            Heard::Left { identity } => {
                tracing::info!(node = %identity, "left");
            }
            Heard::Said { identity, message } => self.hear_message(identity, message),
        }
    }

    fn hear_message(&mut self, identity: Identity, message: FromNode) {
        let from = identity.clone();
        let (node, is_agent) = (identity.name, identity.role == Role::Agent);
        match message {
            FromNode::Progress { job, generation, progress } if is_agent => {
                self.jobs.progress(&node, job, generation, progress);
            }
            FromNode::Progress { job, progress, .. } => {
                self.copies.progress(&node, job, progress);
            }
            FromNode::Step { job, generation, step, news } if is_agent => {
                self.jobs.report(Report::Step { node, job, generation, step, news });
            }
            FromNode::Ended { job, generation, ending } if is_agent => {
                self.jobs.report(Report::Ended { node, job, generation, ending });
            }
            FromNode::Ended { job, ending, .. } => {
                self.copies.ended(&node, job, &ending);
                self.drills.ended(&node, job, &ending);
                self.far.ended(&node, job, &ending);
            }
            FromNode::Expired { job, answers, .. } if !is_agent => {
                self.far.answered(&node, job, &answers);
            }
            FromNode::Lost { job, points, .. } if !is_agent => {
                self.copies.looked(&node, job, points);
            }
            FromNode::Scrubbed(news) if !is_agent => {
                if let Err(error) = scrub::hear(&self.site, &node, &news) {
                    tracing::error!(error = %Chain(&error), "a proxy's scrubbing was not booked");
                }
                self.copies.reconsider();
            }
            FromNode::Proven(news) if !is_agent => {
                if let Err(error) = proofs::hear(&self.site, &node, &news) {
                    tracing::error!(error = %Chain(&error), "a proof was not booked");
                }
                self.copies.reconsider();
            }
            FromNode::Returned if !is_agent => self.copies.returned(&node),
            FromNode::Lead(said) => lead::hear(&self.site, &from, &said),
            FromNode::Marked(mark) => marked::hear(&self.site, &from, mark),
            FromNode::HandBack(next) => lead::handed_back(&self.site, &from, &next),
            FromNode::Member { number, answer } if is_agent => {
                self.jobs.answered(&node, number, answer);
            }
            FromNode::Expired { .. }
            | FromNode::Hello { .. }
            | FromNode::Lost { .. }
            | FromNode::Member { .. }
            | FromNode::Proven(_)
            | FromNode::Renew { .. }
            | FromNode::Returned
            | FromNode::Scrubbed(_)
            | FromNode::Step { .. } => {}
        }
    }

    fn note(&self, session: &Session) {
        let note = NodeNote {
            identity: session.identity.clone(),
            serial: session.peer.serial.to_string(),
            software: session.software.clone(),
            host: session.host.clone(),
            certificate_until: Some(session.peer.not_after),
        };
        if session.software != SOFTWARE {
            tracing::warn!(node = %session.identity, software = %session.software,
                ours = SOFTWARE, "a node runs another version");
        }
        if session.identity.role == Role::Proxy {
            let subject = format!("software of {}", session.identity.name);
            match lacking_of_proxy(&session.software) {
                Some(why) => self.site.alarm(&subject, format!("{}: {why}", session.identity)),
                None => self.site.all_clear(&subject),
            }
        }
        tracing::info!(node = %session.identity, host = %session.host, "connected");
        if let Err(error) = self.site.catalog.note_node(&note, self.site.now()) {
            tracing::error!(error = %Chain(&error), "a node was not noted");
        }
    }
}

fn answer<T>(reply: Reply<T>, answer: Result<T, Refusal>) {
    // Who asked may have gone.
    let _ = reply.send(answer);
}
