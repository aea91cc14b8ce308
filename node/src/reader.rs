//! Reads a point from another node: a [`BlobSource`] whose questions are gathered into
//! batches, so that many threads together fill the link whatever its round trip. Every blob
//! is decompressed and its name recomputed here before it is believed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use strongroom_protocol::blob::{BlobKind, Parcel};
use strongroom_protocol::data::{ASK_IDS_MAX, FromReader, ToReader};
use strongroom_protocol::link::{Link, LinkError, Receiver, Sender};
use strongroom_protocol::opening::{Opening, Refusal, RefusalKind};
use strongroom_protocol::{ChunkId, JobId, PointId};
use strongroom_store::keys::AgentKeys;
use strongroom_store::manifest::Manifest;
use strongroom_store::parcel;
use strongroom_store::tree::{Blob, BlobSource, SourceError};
use tokio::sync::{mpsc, oneshot};

use crate::ask::{AskError, open};

/// Questions gathered before they are sent.
const QUEUE_IDS: usize = 8192;

type Answer = Result<Parcel, Refusal>;
type Waiting = HashMap<ChunkId, Vec<oneshot::Sender<Answer>>>;

/// A point at another node, readable from any thread that is not the runtime's.
#[derive(Clone, Debug)]
pub struct RemotePoint {
    wants: mpsc::Sender<(ChunkId, oneshot::Sender<Answer>)>,
    keys: AgentKeys,
    received_bytes: Arc<std::sync::atomic::AtomicU64>,
}

impl RemotePoint {
    /// Opens `point` at the far end of `link`; returns its manifest beside it.
    pub async fn open(
        link: &Link,
        point: PointId,
        grant: Option<JobId>,
    ) -> Result<(Manifest, Self), AskError> {
        let (sender, mut receiver) = open(link, Opening::Fetch { point, grant }).await?;
        let (message, body) = receiver.expect::<ToReader>().await?;
        let naming = match message {
            ToReader::Manifest(naming) => naming,
            ToReader::Lost { refusal, .. } => return Err(AskError::Refused(refusal)),
            _ => return Err(LinkError::Ended { expected: "a manifest" }.into()),
        };
        let manifest = point_of(&body).ok_or(LinkError::Ended { expected: "a manifest" })?;
        let keys = AgentKeys { id_key: naming.id_key, cut_key: naming.cut_key };
        let (wants, queue) = mpsc::channel(QUEUE_IDS);
        let waiting = Arc::new(Mutex::new(Some(Waiting::new())));
        let received_bytes = Arc::default();
        tokio::task::spawn(answer(receiver, Arc::clone(&waiting), Arc::clone(&received_bytes)));
        tokio::task::spawn(question(sender, queue, waiting));
        Ok((manifest, Self { wants, keys, received_bytes }))
    }

    /// By which blobs are named here: what is there already need not be fetched.
    pub const fn keys(&self) -> &AgentKeys {
        &self.keys
    }

    /// Payload bytes received so far.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn ask(&self, kind: BlobKind, id: ChunkId) -> Result<oneshot::Receiver<Answer>, SourceError> {
        let (reply, answer) = oneshot::channel();
        self.wants.blocking_send((id, reply)).map_err(|_| lost_link(kind, id))?;
        Ok(answer)
    }

    fn believe(
        &self,
        kind: BlobKind,
        id: ChunkId,
        answer: Option<Answer>,
    ) -> Result<Blob, SourceError> {
        let damaged = |source| SourceError::Damaged { kind, id, source };
        match answer {
            None => Err(lost_link(kind, id)),
            Some(Err(refusal)) => Err(match refusal.kind {
                RefusalKind::Damaged => damaged(Some(Box::new(refusal))),
                RefusalKind::Missing => SourceError::Missing { kind, id },
                _ => SourceError::Unreachable { kind, id, source: Box::new(refusal) },
            }),
            Some(Ok(found)) if found.head.kind != kind || found.head.id != id => Err(damaged(None)),
            Some(Ok(found)) => match parcel::open(&found, &self.keys) {
                Ok(plain) => Ok(Blob { references: found.head.references, plain }),
                Err(error) => Err(damaged(Some(Box::new(error)))),
            },
        }
    }
}

fn lost_link(kind: BlobKind, id: ChunkId) -> SourceError {
    let source = Box::new(LinkError::Ended { expected: "a blob" });
    SourceError::Unreachable { kind, id, source }
}

impl BlobSource for RemotePoint {
    fn blob(&self, kind: BlobKind, id: ChunkId) -> Result<Blob, SourceError> {
        let answer = self.ask(kind, id)?;
        self.believe(kind, id, answer.blocking_recv().ok())
    }
}

async fn question(
    mut sender: Sender,
    mut queue: mpsc::Receiver<(ChunkId, oneshot::Sender<Answer>)>,
    waiting: Arc<Mutex<Option<Waiting>>>,
) {
    let mut number = 0;
    let mut batch = Vec::new();
    loop {
        batch.clear();
        if queue.recv_many(&mut batch, ASK_IDS_MAX).await == 0 {
            sender.finish();
            return sender.delivered().await;
        }
        let ids = {
            let mut guard = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            // Without a table the receiving half has failed: dropping the batch tells the askers.
            let Some(table) = guard.as_mut() else { return };
            register(table, &mut batch)
        };
        number += 1;
        if !ids.is_empty() && sender.send(&FromReader::Want { number, ids }).await.is_err() {
            *waiting.lock().unwrap_or_else(PoisonError::into_inner) = None;
            return;
        }
    }
}

/// Notes who waits for what; returns the ids nobody asked for yet.
fn register(
    table: &mut Waiting,
    batch: &mut Vec<(ChunkId, oneshot::Sender<Answer>)>,
) -> Vec<ChunkId> {
    let mut ids = Vec::with_capacity(batch.len());
    for (id, reply) in batch.drain(..) {
        let askers = table.entry(id).or_default();
        if askers.is_empty() {
            ids.push(id);
        }
        askers.push(reply);
    }
    ids
}

async fn answer(
    mut receiver: Receiver,
    waiting: Arc<Mutex<Option<Waiting>>>,
    received_bytes: Arc<std::sync::atomic::AtomicU64>,
) {
    loop {
        let (id, answer) = match receiver.next::<ToReader>().await {
            Ok(Some((ToReader::Blob(head), payload))) => {
                let len = payload.len() as u64;
                received_bytes.fetch_add(len, std::sync::atomic::Ordering::Relaxed);
                (head.id, Ok(Parcel { head, payload }))
            }
            Ok(Some((ToReader::Lost { id, refusal }, _))) => (id, Err(refusal)),
            Ok(Some((ToReader::Done { .. }, _))) => continue,
            Ok(Some((ToReader::Manifest(_), _))) | Ok(None) | Err(_) => {
                *waiting.lock().unwrap_or_else(PoisonError::into_inner) = None;
                return;
            }
        };
        let mut guard = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let askers = guard.as_mut().and_then(|table| table.remove(&id)).unwrap_or_default();
        drop(guard);
        for asker in askers {
            // An asker that gave up no longer listens.
            let _ = asker.send(answer.clone());
        }
    }
}

fn point_of(body: &[u8]) -> Option<Manifest> {
    let (head, body) = postcard::from_bytes(body).ok()?;
    Some(Manifest { head, body })
}

/// A refusal for a reader whose grant does not hold.
pub fn not_granted(point: PointId) -> Refusal {
    Refusal::new(RefusalKind::Forbidden, format!("no operator granted reading point {point}"))
}
