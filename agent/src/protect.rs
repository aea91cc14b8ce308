//! Makes a point: quiet, one moment, thaw, then read and send. Nothing between quiet and thaw
//! waits for the network; what happened there is reported afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use strongroom_node::ask::open;
use strongroom_node::desk::Task;
use strongroom_node::uplink::{Contact, SOFTWARE};
use strongroom_protocol::control::{Ending, Progress, RetryAdvice, StepNews};
use strongroom_protocol::opening::{Opening, Refusal, RefusalKind};
use strongroom_protocol::{
    BlobKind, Chain, ChunkId, NodeName, PointId, PolicyName, Reference, Timestamp,
};
use strongroom_store::cut::CutParams;
use strongroom_store::keys::AgentKeys;
use strongroom_store::manifest::{self, Body, GAPS_INLINE_MAX, GapList, Stats, encode_gaps};
use strongroom_store::tree::SinkError;

use crate::assignment::{Assignment, Source, files_workload};
use crate::hooks::HookOutcome;
use crate::orders::{Hands, StopFlag, failed};
use crate::pipeline::{self, Counters, PipelineError, WireSink};
use crate::quiesce::{Consistency, Evidence, Viewed};
use crate::workload::apps::{self, Place};
use crate::workload::files::{self, Committed, GapReason, ProtectError, Protected};
use crate::workload::moment::{Memory, Moment, Reading};
use crate::workload::{ChunkSink, Workload};

/// How often progress is told.
const PROGRESS: Duration = Duration::from_millis(500);

impl ChunkSink for WireSink {
    fn put(
        &self,
        kind: BlobKind,
        references: Vec<Reference>,
        plain: Vec<u8>,
    ) -> Result<ChunkId, SinkError> {
        Self::put(self, kind, references, Bytes::from(plain)).map_err(|error| match error {
            PipelineError::Stopped => SinkError::Closed,
            other => SinkError::Failed { kind, source: Box::new(other) },
        })
    }
}

/// Carries out a protect assignment.
pub(crate) async fn perform(
    hands: &Arc<Hands>,
    task: &Task,
    (work, source): (Assignment, Source),
) -> Ending {
    let Some(contact) = task.uplink.contact().await else { return Ending::Cancelled };
    let Some(naming) = contact.welcome.naming.clone() else {
        let text = "the coordinator did not say how chunks are named";
        return failed(Refusal::new(RefusalKind::Invalid, text), RetryAdvice::Later);
    };
    let memory = Memory {
        dir: hands.cache.clone(),
        repo: contact.welcome.repo,
        workload: work.workload,
        previous: work.previous,
        point: work.point,
    };
    let viewed = match take_view(hands, task, &memory, source).await {
        Ok(viewed) => viewed,
        Err(refusal) => {
            let retry = match refusal.kind {
                RefusalKind::Invalid | RefusalKind::Forbidden => RetryAdvice::Pointless,
                _ => RetryAdvice::Later,
            };
            return failed(refusal, retry);
        }
    };
    let run = Run {
        hands: Arc::clone(hands),
        keys: AgentKeys { id_key: naming.id_key, cut_key: naming.cut_key },
        cut: CutParams { min: naming.cut_min, max: naming.cut_max, blocks: work.blocks },
        memory,
        work,
        counts: Arc::default(),
    };
    match stream(task, &contact, run, viewed).await {
        Ok(progress) => Ending::Done { progress, text: "durable at the coordinator".to_owned() },
        Err(Trouble::Cancelled) => Ending::Cancelled,
        Err(Trouble::Refused(refusal, retry)) => failed(refusal, retry),
    }
}

enum Trouble {
    Cancelled,
    Refused(Refusal, RetryAdvice),
}

fn later(error: &dyn std::error::Error) -> Trouble {
    let refusal = Refusal::new(RefusalKind::Unavailable, Chain(error).to_string());
    Trouble::Refused(refusal, RetryAdvice::Later)
}

/// Quiet, view, thaw; then the reports.
async fn take_view(
    hands: &Arc<Hands>,
    task: &Task,
    memory: &Memory,
    source: Source,
) -> Result<Viewed<Box<dyn Moment>>, Refusal> {
    if let Err(error) = std::fs::create_dir_all(&hands.cache) {
        tracing::warn!(%error, "no cache can be kept");
    }
    let (hands, job, memory) = (Arc::clone(hands), task.clone(), memory.clone());
    let taken = tokio::task::spawn_blocking(move || match &source {
        Source::App { kind, settings } => {
            apps::view(*kind, settings, &Place { job: job.job, hands: &hands, memory: &memory })
        }
        Source::Files(source) => view(&files_workload(&hands, &job, source)),
    });
    let viewed = taken
        .await
        .unwrap_or_else(|_| Err(Refusal::new(RefusalKind::Internal, "taking the view failed")))?;
    let evidence = &viewed.evidence;
    let hooks: Vec<String> = evidence.hooks.iter().map(HookOutcome::describe).collect();
    for (step, text) in [
        ("quiesce", hooks.join("; ")),
        ("snapshot", consistency_of(evidence).as_str().to_owned()),
        ("thaw", format!("held still for {} ms", evidence.frozen_ms)),
    ] {
        task.step(step, StepNews::Started).await;
        task.step(step, StepNews::Done(text)).await;
    }
    Ok(viewed)
}

/// An error of a workload as whoever ordered the point is told.
pub(crate) fn refusal<W: Workload>(error: &W::Error) -> Refusal {
    Refusal::new(W::refusal(error), Chain(error).to_string())
}

/// Makes a workload quiet, takes its view, lets it go.
pub(crate) fn view<W: Workload>(workload: &W) -> Result<Viewed<Box<dyn Moment>>, Refusal> {
    workload.discover().map_err(|error| refusal::<W>(&error))?;
    let quiesced = workload.quiesce().map_err(|error| refusal::<W>(&error))?;
    let viewed = quiesced.view(|| {
        let view = workload.view()?;
        let reached = view.consistency();
        Ok::<_, W::Error>((view, reached))
    });
    let Viewed { view, evidence } = viewed.map_err(|error| {
        let kind = W::refusal(&error.source);
        Refusal::new(kind, Chain(&error).to_string())
    })?;
    Ok(Viewed { view: Box::new(view), evidence })
}

const fn consistency_of(evidence: &Evidence) -> manifest::Consistency {
    use manifest::Consistency as Kept;
    match evidence.consistency {
        Consistency::Application => Kept::Application,
        Consistency::Crash => Kept::Crash,
        Consistency::Filesystem => Kept::Filesystem,
        Consistency::Fuzzy => Kept::Fuzzy,
    }
}

/// Reads and sends the view; returns once the coordinator has the point.
async fn stream(
    task: &Task,
    contact: &Contact,
    run: Run,
    viewed: Viewed<Box<dyn Moment>>,
) -> Result<Progress, Trouble> {
    let opening = Opening::Ingest { job: task.job, generation: task.generation };
    let (sender, receiver) = open(&contact.link, opening).await.map_err(|error| later(&error))?;
    let (sink, driver) = pipeline::start(run.keys.clone(), sender, receiver);
    let stop = StopFlag::of(task);
    let counters = sink.counters();
    let (counts, memory) = (Arc::clone(&run.counts), run.memory.clone());
    let ticking = tick(task.clone(), Arc::clone(&counts), Arc::clone(&counters));
    let flag = Arc::clone(&stop.flag);
    // The view comes back: only after the commit may what holds it go.
    let reading = tokio::task::spawn_blocking(move || {
        let mut viewed = viewed;
        let read = run.read(&sink, &flag, &mut viewed);
        (read, viewed.view)
    });
    let read = async {
        tokio::select! {
            read = reading => match read {
                Ok((read, view)) => (read, Some(view)),
                Err(_) => (Err(ProtectError::Stopped), None),
            },
            () = ticking => (Err(ProtectError::Stopped), None),
        }
    };
    let ((read, view), committed) = tokio::join!(read, driver.committed());
    let outcome = conclude(read, committed, task);
    match &outcome {
        Ok(()) => {
            let moved = tokio::task::spawn_blocking(move || {
                if let Some(mut view) = view {
                    view.committed();
                }
            });
            if moved.await.is_err() {
                tracing::warn!("what the next run starts from could not be moved on");
            }
            return Ok(told(&counts.statistics(), &counters, Progress::default()));
        }
        Err(Trouble::Refused(_, RetryAdvice::AtOnce)) => memory.forget(),
        Err(_) => {}
    }
    outcome.map(|()| Progress::default())
}

/// What became of it, from both halves: the wire's word explains the reader's.
fn conclude(
    read: Result<Protected, ProtectError>,
    committed: Result<PointId, PipelineError>,
    task: &Task,
) -> Result<(), Trouble> {
    match (read, committed) {
        (Ok(protected), Ok(_)) => {
            if let Err(error) = protected.finish(Committed::Yes) {
                tracing::warn!(%error, "the cache was not kept; the next run reads everything");
            }
            Ok(())
        }
        _ if task.cancelled.is_cancelled() => Err(Trouble::Cancelled),
        (_, Err(PipelineError::Refused { refusal, lacking })) => {
            // What the cache promised is not there any more: once more without it.
            let retry = match refusal.kind {
                RefusalKind::Missing if !lacking.is_empty() => RetryAdvice::AtOnce,
                RefusalKind::Invalid | RefusalKind::Forbidden => RetryAdvice::Pointless,
                _ => RetryAdvice::Later,
            };
            Err(Trouble::Refused(refusal, retry))
        }
        (Err(error @ (ProtectError::Root { .. } | ProtectError::Rules(_))), _) => {
            let refusal = Refusal::new(RefusalKind::Invalid, Chain(&error).to_string());
            Err(Trouble::Refused(refusal, RetryAdvice::Pointless))
        }
        (_, Err(error)) if !matches!(error, PipelineError::Stopped) => Err(later(&error)),
        (Err(error), _) => Err(later(&error)),
        (Ok(_), Err(_)) => {
            let refusal = Refusal::new(RefusalKind::Unavailable, "the stream ended early");
            Err(Trouble::Refused(refusal, RetryAdvice::Later))
        }
    }
}

async fn tick(task: Task, counts: Arc<files::Progress>, counters: Arc<Counters>) {
    let mut tick = tokio::time::interval(PROGRESS);
    loop {
        tick.tick().await;
        task.progress(told(&counts.statistics(), &counters, Progress::default()));
    }
}

fn told(counts: &files::Statistics, counters: &Counters, base: Progress) -> Progress {
    Progress {
        files: counts.files,
        bytes_seen: counts.file_bytes,
        bytes_read: counts.read_bytes,
        bytes_sent: counters.sent_bytes.load(Ordering::Relaxed),
        gaps: counts.gaps,
        ..base
    }
}

/// The reading half, on a thread of its own.
struct Run {
    hands: Arc<Hands>,
    work: Assignment,
    keys: AgentKeys,
    cut: CutParams,
    memory: Memory,
    counts: Arc<files::Progress>,
}

impl Run {
    fn read(
        &self,
        sink: &Arc<WireSink>,
        stop: &AtomicBool,
        viewed: &mut Viewed<Box<dyn Moment>>,
    ) -> Result<Protected, ProtectError> {
        let reading = Reading {
            sink: &**sink,
            progress: &self.counts,
            stop,
            clock: self.hands.clock.as_ref(),
            cut: self.cut,
            cut_key: self.keys.cut_key,
            memory: self.memory.clone(),
        };
        let protected = viewed.view.read(&reading, &mut viewed.evidence)?;
        let gaps = gaps(sink, &protected)?;
        let source = viewed.view.source();
        let body = self.body(source, &viewed.evidence, &protected, gaps);
        let body = body.ok_or(ProtectError::Stopped)?;
        let bytes = postcard::to_allocvec(&body).map_err(|_| ProtectError::Stopped)?;
        let root = Reference { kind: BlobKind::Page, id: protected.root };
        sink.end(root, Bytes::from(bytes)).map_err(|_| ProtectError::Stopped)?;
        Ok(protected)
    }

    /// The manifest's body as far as the agent knows it.
    fn body(
        &self,
        source: String,
        evidence: &Evidence,
        protected: &Protected,
        gaps: GapList,
    ) -> Option<Body> {
        let counts = protected.statistics;
        let nobody: NodeName = "agent".parse().ok()?;
        let policy: PolicyName = self.work.policy.parse().ok()?;
        let mut said: Vec<String> = evidence.hooks.iter().map(HookOutcome::describe).collect();
        said.extend(evidence.broken.iter().cloned());
        Some(Body {
            workload_name: self.work.name.clone(),
            // The coordinator writes in who it talks to.
            agent: nobody,
            source,
            consistency: consistency_of(evidence),
            frozen_ms: evidence.frozen_ms,
            root: protected.root,
            stats: Stats {
                files: counts.files,
                directories: counts.directories,
                specials: counts.others,
                bytes: counts.file_bytes,
                read_bytes: counts.read_bytes,
                chunks: counts.chunks,
                ..Stats::default()
            },
            gaps,
            policy,
            policy_version: u32::try_from(self.work.policy_version).unwrap_or(u32::MAX),
            previous: self.work.previous,
            committed: Timestamp::default(),
            software: SOFTWARE.to_owned(),
            hooks: said.join("; "),
        })
    }
}

/// Few gaps go into the manifest, many into a blob of their own.
fn gaps(sink: &WireSink, protected: &Protected) -> Result<GapList, ProtectError> {
    let gaps: Vec<manifest::Gap> = protected.gaps.iter().map(kept_gap).collect();
    let all = protected.statistics.gaps.max(gaps.len() as u64);
    if gaps.len() <= GAPS_INLINE_MAX && all == gaps.len() as u64 {
        return Ok(GapList::Inline(gaps));
    }
    let closed = || ProtectError::Sink(SinkError::Closed);
    let (plain, _) = encode_gaps(&gaps).map_err(|_| closed())?;
    let id = ChunkSink::put(sink, BlobKind::Gaps, Vec::new(), plain)?;
    Ok(GapList::Blob { id, count: all })
}

fn kept_gap(gap: &files::Gap) -> manifest::Gap {
    let reason = match &gap.reason {
        GapReason::Changed => manifest::GapReason::Changed,
        GapReason::Denied => manifest::GapReason::Permission,
        GapReason::LinkForgotten => manifest::GapReason::LinkForgotten,
        GapReason::Moved => manifest::GapReason::Moved,
        GapReason::Unfit => manifest::GapReason::Unsupported,
        GapReason::Vanished => manifest::GapReason::Vanished,
        _ => manifest::GapReason::Unreadable,
    };
    manifest::Gap::new(&gap.path, reason, &gap.reason.describe())
}
