//! Makes a point: quiet, one moment, thaw, then read and send. Nothing between quiet and thaw
//! waits for the network; what happened there is reported afterwards.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use strongroom_node::ask::open;
use strongroom_node::desk::Task;
use strongroom_node::uplink::{Contact, SOFTWARE};
use strongroom_protocol::control::{Ending, Progress, ProtectWork, RetryAdvice, StepNews};
use strongroom_protocol::opening::{Opening, Refusal, RefusalKind};
use strongroom_protocol::{BlobKind, Chain, ChunkId, NodeName, PolicyName, Reference, Timestamp};
use strongroom_store::cut::{Blocks, CutParams};
use strongroom_store::keys::AgentKeys;
use strongroom_store::manifest::{self, Body, GAPS_INLINE_MAX, GapList, Stats, encode_gaps};
use strongroom_store::tree::SinkError;

use crate::hooks::{Hook, HookPair};
use crate::orders::{Hands, StopFlag, failed};
use crate::pipeline::{self, Counters, PipelineError, WireSink};
use crate::quiesce::{Consistency, Evidence, Viewed};
use crate::workload::files::cache::CacheKey;
use crate::workload::files::rules::{Mounts, RuleSet};
use crate::workload::files::{
    self, CachePlace, Committed, FilesView, FilesWorkload, GapReason, Options, ProtectError,
    Protected,
};
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
    work: ProtectWork,
    blocks: Blocks,
) -> Ending {
    let Some(contact) = task.uplink.contact().await else { return Ending::Cancelled };
    let Some(naming) = contact.welcome.naming.clone() else {
        let text = "the coordinator did not say how chunks are named";
        return failed(Refusal::new(RefusalKind::Invalid, text), RetryAdvice::Later);
    };
    let viewed = match take_view(hands, task, &work).await {
        Ok(viewed) => viewed,
        // A path that is not there is for a person to look at; the next run tries again.
        Err(refusal) if refusal.kind == RefusalKind::Invalid => {
            return failed(refusal, RetryAdvice::Pointless);
        }
        Err(refusal) => return failed(refusal, RetryAdvice::Later),
    };
    let keys = AgentKeys { id_key: naming.id_key, cut_key: naming.cut_key };
    let cut = CutParams { min: naming.cut_min, max: naming.cut_max, blocks };
    let options = options(hands, &contact, &work, &viewed.view, cut, &keys);
    match stream(hands, task, &contact, &work, viewed, keys, options).await {
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

fn root_of(work: &ProtectWork) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(&work.source.path))
}

fn hooks_of(task: &Task, work: &ProtectWork) -> Option<HookPair> {
    let deadline_seconds = work.source.hook_seconds_max;
    let hook = |command: &Vec<String>| {
        (!command.is_empty()).then(|| Hook { command: command.clone(), deadline_seconds })
    };
    let (pre, post) = (hook(&work.source.pre_hook), hook(&work.source.post_hook));
    let any = pre.is_some() || post.is_some();
    any.then(|| HookPair { name: task.job.to_string(), pre, post })
}

/// Quiet, view, thaw; then the reports.
async fn take_view(
    hands: &Arc<Hands>,
    task: &Task,
    work: &ProtectWork,
) -> Result<Viewed<FilesView>, Refusal> {
    let workload = FilesWorkload {
        root: root_of(work),
        job: task.job,
        freeze: hooks_of(task, work),
        journal: hands.journal.clone(),
        clock: Arc::clone(&hands.clock),
    };
    let unavailable = |error: &dyn std::error::Error| {
        Refusal::new(RefusalKind::Unavailable, Chain(error).to_string())
    };
    let taken = tokio::task::spawn_blocking(move || {
        workload
            .discover()
            .map_err(|error| Refusal::new(RefusalKind::Invalid, Chain(&error).to_string()))?;
        let quiesced = workload.quiesce().map_err(|error| unavailable(&error))?;
        quiesced
            .view(|| {
                let view = workload.view()?;
                let reached = view.consistency();
                Ok::<_, files::ViewError>((view, reached))
            })
            .map_err(|error| unavailable(&error))
    });
    let viewed = taken
        .await
        .unwrap_or_else(|_| Err(Refusal::new(RefusalKind::Internal, "taking the view failed")))?;
    let evidence = &viewed.evidence;
    let hooks: Vec<String> =
        evidence.hooks.iter().map(crate::hooks::HookOutcome::describe).collect();
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

const fn consistency_of(evidence: &Evidence) -> manifest::Consistency {
    match evidence.consistency {
        Consistency::Application => manifest::Consistency::Application,
        Consistency::Crash => manifest::Consistency::Crash,
        Consistency::Filesystem => manifest::Consistency::Filesystem,
        Consistency::Fuzzy => manifest::Consistency::Fuzzy,
    }
}

fn options(
    hands: &Hands,
    contact: &Contact,
    work: &ProtectWork,
    view: &FilesView,
    cut: CutParams,
    keys: &AgentKeys,
) -> Options {
    let (repo, workload) = (contact.welcome.repo, work.workload);
    let path = hands.cache.join(format!("{workload}.files"));
    if let Err(error) = std::fs::create_dir_all(&hands.cache) {
        tracing::warn!(%error, "no cache can be kept");
    }
    let key = |point| CacheKey { repo, workload, point };
    Options {
        rules: RuleSet {
            exclude: work.source.exclude.clone(),
            exclude_if_present: work.source.exclude_if_present.clone(),
            exclude_larger_bytes: work.source.exclude_larger_bytes,
            mounts: match work.source.mounts {
                strongroom_protocol::control::Mounts::Cross => Mounts::Cross,
                strongroom_protocol::control::Mounts::Stay => Mounts::Stop,
            },
        },
        cut,
        cache: Some(CachePlace { path, last: work.previous.map(key), this: key(work.point) }),
        ..Options::new(view.root(), keys.cut_key)
    }
}

/// Reads and sends the view; returns once the coordinator has the point.
async fn stream(
    hands: &Arc<Hands>,
    task: &Task,
    contact: &Contact,
    work: &ProtectWork,
    viewed: Viewed<FilesView>,
    keys: AgentKeys,
    options: Options,
) -> Result<Progress, Trouble> {
    let opening = Opening::Ingest { job: task.job, generation: task.generation };
    let (sender, receiver) = open(&contact.link, opening).await.map_err(|error| later(&error))?;
    let (sink, driver) = pipeline::start(keys, sender, receiver);
    let stop = StopFlag::of(task);
    let run = Run {
        hands: Arc::clone(hands),
        sink: Arc::clone(&sink),
        stop: Arc::clone(&stop.flag),
        counts: Arc::default(),
    };
    let counters = sink.counters();
    drop(sink);
    let ticking = tick(task.clone(), Arc::clone(&run.counts), Arc::clone(&counters));
    let draft = Draft::of(work, &viewed.evidence, contact);
    let counts = Arc::clone(&run.counts);
    let reading = tokio::task::spawn_blocking(move || {
        let read = run.read(&options, draft);
        // Only now may the snapshot go.
        drop(viewed);
        read
    });
    let read = async {
        tokio::select! {
            read = reading => read.unwrap_or(Err(ProtectError::Stopped)),
            () = ticking => Err(ProtectError::Stopped),
        }
    };
    let (read, committed) = tokio::join!(read, driver.committed());
    let outcome = conclude(read, committed, task);
    if outcome.is_ok() {
        return Ok(told(&counts.statistics(), &counters, Progress::default()));
    }
    if let Err(Trouble::Refused(_, RetryAdvice::AtOnce)) = &outcome {
        forget_cache(hands, work);
    }
    outcome.map(|()| Progress::default())
}

fn forget_cache(hands: &Hands, work: &ProtectWork) {
    let path = hands.cache.join(format!("{}.files", work.workload));
    if let Err(error) = std::fs::remove_file(&path) {
        tracing::warn!(%error, path = %path.display(), "a stale cache was not removed");
    }
}

/// What became of it, from both halves: the wire's word explains the reader's.
fn conclude(
    read: Result<Protected, ProtectError>,
    committed: Result<strongroom_protocol::PointId, PipelineError>,
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

/// The manifest's body as far as the agent knows it.
struct Draft {
    work: ProtectWork,
    consistency: manifest::Consistency,
    frozen_ms: u64,
    hooks: String,
}

impl Draft {
    fn of(work: &ProtectWork, evidence: &Evidence, _contact: &Contact) -> Self {
        let mut said: Vec<String> =
            evidence.hooks.iter().map(crate::hooks::HookOutcome::describe).collect();
        said.extend(evidence.broken.iter().cloned());
        Self {
            work: work.clone(),
            consistency: consistency_of(evidence),
            frozen_ms: evidence.frozen_ms,
            hooks: said.join("; "),
        }
    }

    fn body(&self, protected: &Protected, gaps: GapList) -> Option<Body> {
        let counts = protected.statistics;
        let nobody: NodeName = "agent".parse().ok()?;
        let policy: PolicyName = self.work.policy.parse().ok()?;
        Some(Body {
            workload_name: self.work.name.clone(),
            // The coordinator writes in who it talks to.
            agent: nobody,
            source: String::from_utf8_lossy(&self.work.source.path).into_owned(),
            consistency: self.consistency,
            frozen_ms: self.frozen_ms,
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
            hooks: self.hooks.clone(),
        })
    }
}

/// The reading half, on a thread of its own.
struct Run {
    hands: Arc<Hands>,
    sink: Arc<WireSink>,
    stop: Arc<AtomicBool>,
    counts: Arc<files::Progress>,
}

impl Run {
    fn read(&self, options: &Options, draft: Draft) -> Result<Protected, ProtectError> {
        let clock = self.hands.clock.as_ref();
        let sink: &WireSink = &self.sink;
        let protected = files::protect(options, sink, &self.counts, &self.stop, clock)?;
        let gaps = self.gaps(&protected)?;
        let body = draft.body(&protected, gaps).ok_or(ProtectError::Stopped)?;
        let bytes = postcard::to_allocvec(&body).map_err(|_| ProtectError::Stopped)?;
        let root = Reference { kind: BlobKind::Page, id: protected.root };
        self.sink.end(root, Bytes::from(bytes)).map_err(|_| ProtectError::Stopped)?;
        Ok(protected)
    }

    /// Few gaps go into the manifest, many into a blob of their own.
    fn gaps(&self, protected: &Protected) -> Result<GapList, ProtectError> {
        let gaps: Vec<manifest::Gap> = protected.gaps.iter().map(kept_gap).collect();
        let all = protected.statistics.gaps.max(gaps.len() as u64);
        if gaps.len() <= GAPS_INLINE_MAX && all == gaps.len() as u64 {
            return Ok(GapList::Inline(gaps));
        }
        let closed = || ProtectError::Sink(SinkError::Closed);
        let (plain, _) = encode_gaps(&gaps).map_err(|_| closed())?;
        let id = ChunkSink::put(&*self.sink, BlobKind::Gaps, Vec::new(), plain)?;
        Ok(GapList::Blob { id, count: all })
    }
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
