//! Makes a secondary snap: asks what a point needs, fetches the packs that are not here,
//! checks each against its name, and commits the manifest only when everything it names is
//! durable. A broken link costs nothing that was already written: a pack goes on where it ended.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use strongroom_node::ask::{AskError, open};
use strongroom_node::desk::Task;
use strongroom_protocol::control::Progress;
use strongroom_protocol::data::{FromProxy, ToProxy};
use strongroom_protocol::link::{Link, LinkError, Receiver, Sender};
use strongroom_protocol::opening::{Opening, Refusal, RefusalKind};
use strongroom_protocol::{Chain, PackId, PointId, WorkloadId};
use strongroom_store::manifest::Manifest;
use strongroom_store::repo::{Begun, IncomingPack, Repo};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

/// Packs fetched side by side: the next one's first bytes are under way while one is checked.
const STREAMS: usize = 3;
/// Pieces between the wire and the disk, of each stream: some 4 MiB.
const PIECES_WAITING: usize = 4;
/// Points whose packs were checked complete again before the manifest is written.
const POINT_LISTED_PACKS_MAX: usize = 4_000_000;

/// Why a point was not replicated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ReplicateError {
    /// The link failed: it goes on later where it ended.
    #[error("the link to the coordinator failed")]
    Link(#[from] LinkError),
    /// A stream was not granted.
    #[error("the coordinator does not give packs")]
    Ask(#[from] AskError),
    /// The coordinator cannot give it.
    #[error("the coordinator refused")]
    Refused(#[source] Refusal),
    /// What came is not what was asked for.
    #[error("what came for {subject} is not what was asked for")]
    Wrong { subject: String },
    /// The repository here cannot take it.
    #[error("the repository at this site cannot take it")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Ordered to stop.
    #[error("cancelled")]
    Cancelled,
}

impl ReplicateError {
    /// As the coordinator is told.
    pub(crate) fn refusal(&self) -> Refusal {
        let kind = match self {
            Self::Link(_) | Self::Ask(_) | Self::Store(_) => RefusalKind::Unavailable,
            Self::Refused(refusal) => refusal.kind,
            Self::Wrong { .. } => RefusalKind::Damaged,
            Self::Cancelled => RefusalKind::Cancelled,
        };
        Refusal::new(kind, Chain(self).to_string())
    }
}

fn store<E: std::error::Error + Send + Sync + 'static>(error: E) -> ReplicateError {
    ReplicateError::Store(Box::new(error))
}

struct Needed {
    point: PointId,
    packs: Vec<(PackId, u64)>,
    workload: WorkloadId,
    manifest: Bytes,
}

/// Counts of one replication.
#[derive(Default)]
struct Counted {
    received: AtomicU64,
    total: AtomicU64,
}

/// Fetches `point` whole and commits it.
pub(crate) async fn replicate(
    repo: &Repo,
    task: &Task,
    point: PointId,
    bits_per_second_max: Option<u64>,
) -> Result<Progress, ReplicateError> {
    let link = task.uplink.contact().await.ok_or(ReplicateError::Cancelled)?.link;
    // Packs found or received stay until the point that needs them is committed.
    let session = repo.session();
    let repo: &Repo = &session;
    let (mut sender, mut receiver) = open(&link, Opening::Packs).await?;
    let needed = ask_need(&mut sender, &mut receiver, point).await?;
    if repo.has_point(point) {
        recheck(repo, task, &needed).await?;
    }
    let counted = Arc::new(Counted::default());
    let missing: Vec<_> = needed.packs.iter().filter(|(id, _)| !repo.has_pack(*id)).collect();
    let total: u64 = missing.iter().map(|(_, len)| *len).sum();
    counted.total.store(total, Ordering::Relaxed);
    let queue: Arc<Mutex<Vec<PackId>>> =
        Arc::new(Mutex::new(missing.iter().rev().map(|(id, _)| *id).collect()));
    let pace = Arc::new(Pace::new(bits_per_second_max));
    let mut fetching = JoinSet::new();
    for _ in 0..STREAMS {
        let (repo, link, queue) = (repo.clone(), link.clone(), Arc::clone(&queue));
        let (counted, pace, task) = (Arc::clone(&counted), Arc::clone(&pace), task.clone());
        fetching.spawn(fetch_all(repo, link, queue, counted, pace, task));
    }
    while let Some(fetched) = fetching.join_next().await {
        fetched.map_err(|_| ReplicateError::Cancelled)??;
    }
    commit(repo, needed).await?;
    Ok(progress(&counted))
}

/// Reads back the packs of a point that is here: it is ordered again because it was found lost.
/// What is hurt is known to the repository afterwards, and fetched like what is missing.
async fn recheck(repo: &Repo, task: &Task, needed: &Needed) -> Result<(), ReplicateError> {
    let (repo, cancelled) = (repo.clone(), task.cancelled.clone());
    let packs: Vec<PackId> = needed.packs.iter().map(|(pack, _)| *pack).collect();
    off_runtime(move || {
        repo.recheck_packs(&packs, &mut |_| match cancelled.is_cancelled() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        });
        Ok(())
    })
    .await
}

fn progress(counted: &Counted) -> Progress {
    let received = counted.received.load(Ordering::Relaxed);
    Progress {
        bytes_seen: received,
        bytes_read: received,
        bytes_sent: received,
        bytes_total: Some(counted.total.load(Ordering::Relaxed)),
        ..Progress::default()
    }
}

async fn ask_need(
    sender: &mut Sender,
    receiver: &mut Receiver,
    point: PointId,
) -> Result<Needed, ReplicateError> {
    sender.send(&FromProxy::Need { point }).await?;
    let mut packs = Vec::new();
    loop {
        match receiver.expect::<ToProxy>().await? {
            (ToProxy::Packs(more), _) if packs.len() < POINT_LISTED_PACKS_MAX => packs.extend(more),
            (ToProxy::Manifest { workload, point: given }, manifest) if given == point => {
                return Ok(Needed { point, packs, workload, manifest });
            }
            (ToProxy::Refused { refusal }, _) => return Err(ReplicateError::Refused(refusal)),
            _ => return Err(ReplicateError::Wrong { subject: format!("point {point}") }),
        }
    }
}

async fn fetch_all(
    repo: Repo,
    link: Link,
    queue: Arc<Mutex<Vec<PackId>>>,
    counted: Arc<Counted>,
    pace: Arc<Pace>,
    task: Task,
) -> Result<(), ReplicateError> {
    let (mut sender, mut receiver) = open(&link, Opening::Packs).await?;
    loop {
        let next = queue.lock().await.pop();
        let Some(id) = next else { return Ok(()) };
        if task.cancelled.is_cancelled() {
            return Err(ReplicateError::Cancelled);
        }
        fetch(&repo, &mut sender, &mut receiver, id, &counted, &pace).await?;
        task.progress(progress(&counted));
    }
}

async fn fetch(
    repo: &Repo,
    sender: &mut Sender,
    receiver: &mut Receiver,
    id: PackId,
    counted: &Counted,
    pace: &Pace,
) -> Result<(), ReplicateError> {
    let held = repo.clone();
    let begun = off_runtime(move || held.begin_pack(id).map_err(store)).await?;
    let Begun::Receiving(incoming) = begun else { return Ok(()) };
    let from = incoming.offset();
    sender.send(&FromProxy::Pack { id, offset: from }).await?;
    let (pieces, waiting) = mpsc::channel(PIECES_WAITING);
    let writing = tokio::task::spawn_blocking(move || write(incoming, waiting));
    let received = receive(receiver, id, from, &pieces, counted, pace).await;
    // What came before the link broke is written: the next attempt goes on behind it.
    drop(pieces);
    let incoming = writing.await.unwrap_or(Err(ReplicateError::Cancelled))?;
    received?;
    off_runtime(move || incoming.finish().map_err(store)).await
}

/// Takes a pack off the wire while what came before is hashed and written.
async fn receive(
    receiver: &mut Receiver,
    id: PackId,
    from: u64,
    pieces: &mpsc::Sender<Bytes>,
    counted: &Counted,
    pace: &Pace,
) -> Result<(), ReplicateError> {
    let wrong = || ReplicateError::Wrong { subject: format!("pack {id}") };
    let mut at = from;
    loop {
        match receiver.expect::<ToProxy>().await? {
            (ToProxy::Piece { id: of, offset }, piece) if of == id => {
                if offset != at {
                    return Err(wrong());
                }
                let len = piece.len() as u64;
                // Whoever writes says itself why it stopped.
                pieces.send(piece).await.map_err(|_| ReplicateError::Cancelled)?;
                at += len;
                counted.received.fetch_add(len, Ordering::Relaxed);
                pace.after(len).await;
            }
            (ToProxy::PackEnd { id: of, len }, _) if of == id && len == at => return Ok(()),
            (ToProxy::Refused { refusal }, _) => return Err(ReplicateError::Refused(refusal)),
            _ => return Err(wrong()),
        }
    }
}

/// Hashes and writes pieces until there are no more; blocking.
fn write(
    mut incoming: Box<IncomingPack>,
    mut waiting: mpsc::Receiver<Bytes>,
) -> Result<Box<IncomingPack>, ReplicateError> {
    while let Some(piece) = waiting.blocking_recv() {
        incoming.write(&piece).map_err(store)?;
    }
    Ok(incoming)
}

/// The closure is walked here again: what makes the point restorable must be at this site,
/// whatever the other one thought.
async fn commit(repo: &Repo, needed: Needed) -> Result<(), ReplicateError> {
    let repo = repo.clone();
    off_runtime(move || {
        let head = Manifest::decode_head(&needed.manifest).map_err(store)?;
        let named = (head.repo, head.workload, head.point);
        if named != (repo.id(), needed.workload, needed.point) {
            return Err(ReplicateError::Wrong { subject: format!("point {}", needed.point) });
        }
        repo.closure(&head.roots).map_err(store)?;
        repo.restore_point(head.workload, head.point, &needed.manifest).map_err(store)
    })
    .await
}

pub(crate) async fn off_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ReplicateError> + Send + 'static,
) -> Result<T, ReplicateError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(ReplicateError::Cancelled))
}

/// Keeps to a rate, where the policy asks for one.
struct Pace {
    bytes_per_second: Option<u64>,
    due: Mutex<Option<tokio::time::Instant>>,
}

impl Pace {
    fn new(bits_per_second: Option<u64>) -> Self {
        let bytes_per_second = bits_per_second.map(|bits| (bits / 8).max(1));
        Self { bytes_per_second, due: Mutex::new(None) }
    }

    async fn after(&self, bytes: u64) {
        let Some(rate) = self.bytes_per_second else { return };
        let cost = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let mut due = self.due.lock().await;
        let now = tokio::time::Instant::now();
        let until = due.unwrap_or(now).max(now) + cost;
        *due = Some(until);
        drop(due);
        tokio::time::sleep_until(until).await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail anywhere")]
mod tests {
    use strongroom_store::disk::sim::SimDisk;

    use super::*;
    use crate::aux::testing::{WORKLOAD, manifest, repo};

    #[tokio::test]
    async fn the_manifest_of_another_point_is_refused() {
        let repo = repo(&SimDisk::new());
        let [asked, other] = [5, 6].map(|n| PointId::from_bytes([n; 16]));
        let needed = |of: PointId| Needed {
            point: asked,
            packs: Vec::new(),
            workload: WORKLOAD,
            manifest: manifest(of).into(),
        };
        let refused = commit(&repo, needed(other)).await;
        assert!(matches!(refused, Err(ReplicateError::Wrong { .. })), "{refused:?}");
        assert!(repo.points().unwrap().is_empty());
        commit(&repo, needed(asked)).await.unwrap();
        assert_eq!(repo.points().unwrap(), [(WORKLOAD, asked)]);
    }
}
