//! From named chunks to the coordinator: asks in batches which are missing, compresses those
//! off the runtime, sends them in the order they were put. Bounded in bytes: `put` waits while
//! the wire is behind. Children are put before the pages that name them, and so they travel.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use strongroom_node::crew::crew;
use strongroom_protocol::blob::{BlobKind, Parcel, Reference};
use strongroom_protocol::data::{FromAgent, ToAgent};
use strongroom_protocol::link::{LinkError, Receiver, Sender};
use strongroom_protocol::opening::Refusal;
use strongroom_protocol::{Chain, ChunkId, PointId};
use strongroom_store::keys::AgentKeys;
use strongroom_store::parcel::Compressor;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

/// Bytes between `put` and the wire, plain until they are compressed: what a link of 150 ms and
/// 1 Gbit/s needs.
const IN_FLIGHT_BYTES: usize = 16 << 20;
/// Questions before their answers: a bound on items, far above what the bytes allow.
const BATCHES_PENDING: usize = 64;
/// Ids in one question.
const BATCH_IDS: usize = 1024;
/// Messages waiting for the wire.
const OUTGOING: usize = 64;
/// Ids of this run remembered so that nothing is asked twice: what fills a table of 2 MiB.
const SEEN_IDS_MAX: usize = 57_000;

/// How long an answer is waited for once the coordinator hears no more.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// Why the pipeline stopped.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// The link failed; the same job may be tried again.
    #[error("the link to the coordinator failed")]
    Link(#[from] LinkError),
    /// The coordinator refused the point.
    #[error("the coordinator refused the point")]
    Refused {
        #[source]
        refusal: Refusal,
        lacking: Vec<Reference>,
    },
    /// Compression failed.
    #[error("cannot compress a chunk: {reason}")]
    Compress { reason: String },
    /// The conversation did not follow the protocol.
    #[error("the coordinator answered out of turn")]
    OutOfTurn,
    /// The other half stopped first; its error is the one to report.
    #[error("the pipeline has stopped")]
    Stopped,
}

/// What went through, readable while it runs.
#[derive(Debug, Default)]
pub struct Counters {
    /// Chunks and objects put.
    pub chunks: AtomicU64,
    /// Of them, sent.
    pub chunks_sent: AtomicU64,
    /// Plaintext of what was sent, in bytes.
    pub new_bytes: AtomicU64,
    /// Payload on the wire, in bytes.
    pub sent_bytes: AtomicU64,
}

struct Item {
    reference: Reference,
    references: Vec<Reference>,
    plain: Bytes,
    permit: OwnedSemaphorePermit,
}

enum Queued {
    Chunk(Item),
    End { root: Reference, draft: Bytes },
}

enum Batch {
    Asked { number: u64, items: Vec<Item> },
    End { root: Reference, draft: Bytes },
}

/// A chunk being compressed, with the permit for what it weighs then.
type Packing = oneshot::Receiver<Result<(Parcel, OwnedSemaphorePermit), PipelineError>>;

enum Outgoing {
    Ask { number: u64, ids: Vec<ChunkId> },
    Blob(Packing),
    End { root: Reference, draft: Bytes },
}

/// The near end: called from the workload's threads, never from the runtime's.
pub struct WireSink {
    keys: AgentKeys,
    queue: mpsc::Sender<Queued>,
    budget: Arc<Semaphore>,
    seen: Mutex<HashSet<ChunkId>>,
    counters: Arc<Counters>,
    runtime: Handle,
}

impl WireSink {
    /// Names the chunk and queues it; waits while the wire is behind.
    pub fn put(
        &self,
        kind: BlobKind,
        references: Vec<Reference>,
        plain: Bytes,
    ) -> Result<ChunkId, PipelineError> {
        let id = self.keys.id(kind, &references, &plain);
        self.counters.chunks.fetch_add(1, Ordering::Relaxed);
        if !self.first_seen(id) {
            return Ok(id);
        }
        let weight = u32::try_from(plain.len().max(64)).unwrap_or(u32::MAX);
        let weight = weight.min(u32::try_from(IN_FLIGHT_BYTES).unwrap_or(u32::MAX));
        let permit = self
            .runtime
            .block_on(Arc::clone(&self.budget).acquire_many_owned(weight))
            .map_err(|_| PipelineError::Stopped)?;
        let item = Item { reference: Reference { kind, id }, references, plain, permit };
        self.queue.blocking_send(Queued::Chunk(item)).map_err(|_| PipelineError::Stopped)?;
        Ok(id)
    }

    /// Nothing more will be put: ends the point with its root and the manifest's draft.
    pub fn end(&self, root: Reference, draft: Bytes) -> Result<(), PipelineError> {
        let end = Queued::End { root, draft };
        self.queue.blocking_send(end).map_err(|_| PipelineError::Stopped)
    }

    /// What went through so far.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    fn first_seen(&self, id: ChunkId) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= SEEN_IDS_MAX {
            seen.clear();
        }
        seen.insert(id)
    }
}

/// The far end: a task that lives as long as the stream.
pub struct Driver {
    task: JoinHandle<Result<PointId, PipelineError>>,
}

impl Driver {
    /// Waits for the coordinator's word that the point is durable.
    pub async fn committed(self) -> Result<PointId, PipelineError> {
        self.task.await.unwrap_or(Err(PipelineError::Stopped))
    }
}

/// Starts the pipeline over an ingest stream that was granted.
pub fn start(keys: AgentKeys, sender: Sender, receiver: Receiver) -> (Arc<WireSink>, Driver) {
    let counters = Arc::new(Counters::default());
    let budget = Arc::new(Semaphore::new(IN_FLIGHT_BYTES));
    let (queue, queued) = mpsc::channel(BATCH_IDS);
    let sink = WireSink {
        keys,
        queue,
        budget: Arc::clone(&budget),
        seen: Mutex::default(),
        counters: Arc::clone(&counters),
        runtime: Handle::current(),
    };
    let task = tokio::task::spawn(async move {
        let (asked, pending) = mpsc::channel(BATCHES_PENDING);
        let (outgoing, to_send) = mpsc::channel(OUTGOING);
        let asking = ask(queued, asked, outgoing.clone());
        let sending = send(sender, to_send, &counters);
        let answering = answer(receiver, pending, outgoing);
        let result = tokio::select! {
            biased;
            answered = answering => answered,
            Err(error) = async { tokio::try_join!(sending, asking) } => Err(error),
        };
        budget.close();
        result
    });
    (Arc::new(sink), Driver { task })
}

async fn ask(
    mut queued: mpsc::Receiver<Queued>,
    asked: mpsc::Sender<Batch>,
    outgoing: mpsc::Sender<Outgoing>,
) -> Result<(), PipelineError> {
    let mut number = 0;
    let mut taken = Vec::new();
    loop {
        taken.clear();
        if queued.recv_many(&mut taken, BATCH_IDS).await == 0 {
            // Dropped without an end: the run was given up, and so the stream is.
            return Err(PipelineError::Stopped);
        }
        let mut items = Vec::with_capacity(taken.len());
        let mut end = None;
        for queued in taken.drain(..) {
            match queued {
                Queued::Chunk(item) => items.push(item),
                Queued::End { root, draft } => end = Some(Batch::End { root, draft }),
            }
        }
        if !items.is_empty() {
            number += 1;
            let ids = items.iter().map(|item| item.reference.id).collect();
            let batch = Batch::Asked { number, items };
            asked.send(batch).await.map_err(|_| PipelineError::Stopped)?;
            let ask = Outgoing::Ask { number, ids };
            outgoing.send(ask).await.map_err(|_| PipelineError::Stopped)?;
        }
        if let Some(end) = end {
            return asked.send(end).await.map_err(|_| PipelineError::Stopped);
        }
    }
}

async fn answer(
    mut receiver: Receiver,
    mut pending: mpsc::Receiver<Batch>,
    outgoing: mpsc::Sender<Outgoing>,
) -> Result<PointId, PipelineError> {
    loop {
        match pending.recv().await {
            Some(Batch::Asked { number, items }) => {
                let wanted = wanted(&mut receiver, number).await?;
                for (position, item) in items.into_iter().enumerate() {
                    let byte = wanted.get(position / 8).copied().unwrap_or(0);
                    if byte & (1 << (position % 8)) != 0 {
                        let blob = Outgoing::Blob(pack(item));
                        outgoing.send(blob).await.map_err(|_| PipelineError::Stopped)?;
                    }
                }
            }
            Some(Batch::End { root, draft }) => {
                let end = Outgoing::End { root, draft };
                outgoing.send(end).await.map_err(|_| PipelineError::Stopped)?;
                return match receiver.expect::<ToAgent>().await?.0 {
                    ToAgent::Committed { point } => Ok(point),
                    ToAgent::Refused { refusal, lacking } => {
                        Err(PipelineError::Refused { refusal, lacking })
                    }
                    ToAgent::Missing { .. } => Err(PipelineError::OutOfTurn),
                };
            }
            // The asker ended without an end: its error is the one reported.
            None => return std::future::pending().await,
        }
    }
}

async fn wanted(receiver: &mut Receiver, expected: u64) -> Result<Vec<u8>, PipelineError> {
    match receiver.expect::<ToAgent>().await?.0 {
        ToAgent::Missing { number, wanted } if number == expected => Ok(wanted),
        ToAgent::Refused { refusal, lacking } => Err(PipelineError::Refused { refusal, lacking }),
        ToAgent::Missing { .. } | ToAgent::Committed { .. } => Err(PipelineError::OutOfTurn),
    }
}

fn pack(item: Item) -> Packing {
    thread_local! {
        static COMPRESSOR: std::cell::RefCell<Option<Compressor>> =
            const { std::cell::RefCell::new(None) };
    }
    let Item { reference, references, plain, mut permit } = item;
    crew().call(move || {
        let packed = COMPRESSOR
            .with_borrow_mut(|kept| {
                let mut compressor = kept.take().map_or_else(Compressor::new, Ok)?;
                let Reference { kind, id } = reference;
                let packed = compressor.pack_named(id, kind, references, &plain);
                *kept = Some(compressor);
                packed
            })
            .map_err(|error| PipelineError::Compress { reason: Chain(&error).to_string() })?;
        drop(plain);
        let spare = permit.num_permits().saturating_sub(packed.payload.len());
        drop(permit.split(spare));
        Ok((packed, permit))
    })
}

/// Sends until the stream breaks. One that the coordinator no longer hears has its answer on the
/// way: what is still queued is let go, so that the answer is read, and is what is reported.
async fn send(
    sender: Sender,
    mut outgoing: mpsc::Receiver<Outgoing>,
    counters: &Counters,
) -> Result<(), PipelineError> {
    let sent = send_all(sender, &mut outgoing, counters).await;
    if matches!(sent, Err(PipelineError::Link(LinkError::Stopped { .. }))) {
        let let_go = async { while outgoing.recv().await.is_some() {} };
        // The link may be lost as well: then no answer comes.
        let _ = tokio::time::timeout(ANSWER_PATIENCE, let_go).await;
    }
    sent
}

async fn send_all(
    mut sender: Sender,
    outgoing: &mut mpsc::Receiver<Outgoing>,
    counters: &Counters,
) -> Result<(), PipelineError> {
    while let Some(next) = outgoing.recv().await {
        match next {
            Outgoing::Ask { number, ids } => {
                sender.send(&FromAgent::Ask { number, ids }).await?;
            }
            Outgoing::Blob(packing) => {
                let (parcel, permit) = packing.await.map_err(|_| PipelineError::Stopped)??;
                counters.chunks_sent.fetch_add(1, Ordering::Relaxed);
                counters.new_bytes.fetch_add(u64::from(parcel.head.plain_len), Ordering::Relaxed);
                counters.sent_bytes.fetch_add(parcel.payload.len() as u64, Ordering::Relaxed);
                sender.send_with(&FromAgent::Blob(parcel.head), parcel.payload).await?;
                drop(permit);
            }
            Outgoing::End { root, draft } => {
                sender.send_with(&FromAgent::End { root }, draft).await?;
                sender.finish();
                // The stream stays open for the answer; nothing more goes out.
                return std::future::pending().await;
            }
        }
    }
    Err(PipelineError::Stopped)
}
