//! Questions and answers on one stream. Promises that an answer reaches all who asked, and that
//! no more bytes wait here than there is room for: then the stream waits, and with it the far
//! end. What was asked for first comes first, so that who waits for it is never behind others.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use strongroom_protocol::ChunkId;
use strongroom_protocol::blob::Parcel;
use strongroom_protocol::data::{ASK_IDS_MAX, FromReader, ToReader};
use strongroom_protocol::link::{Receiver, Sender};
use strongroom_protocol::opening::Refusal;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// Questions waiting to be sent: of one blob or of thousands.
const QUESTIONS_WAITING: usize = 8192;
/// Compressed bytes received and not yet taken: enough to bridge a writer that is slow once, on
/// top of the stream's own window, which fills the link.
const ARRIVED_BYTES_MAX: usize = 4 << 20;
/// The unit in which room is counted, for a semaphore counts to 2^29 only.
const ROOM_BYTES: usize = 1 << 10;

pub(super) type Answer = Result<Parcel, Refusal>;

/// An answer, with the room it takes until it is opened.
pub(super) struct Arrival {
    pub(super) id: ChunkId,
    pub(super) answer: Answer,
    pub(super) room: Option<OwnedSemaphorePermit>,
}

/// Who asked. One asks a blob at a time: all who wait for it have the same answer. Who asks for
/// many has an answer of his own to each, in the order of the questions: shared with one who
/// asked later, it would take room that the earlier one's next answer needs.
enum Asker {
    Many(crossbeam_channel::Sender<Arrival>),
    One(oneshot::Sender<Answer>),
}

/// A question as it is asked here.
enum Question {
    Many(Vec<ChunkId>, crossbeam_channel::Sender<Arrival>),
    One(ChunkId, oneshot::Sender<Answer>),
}

/// Who waits for what; none once the stream has ended.
type Table = Arc<Mutex<Option<HashMap<ChunkId, VecDeque<Asker>>>>>;

/// The asking end of a stream; it ends with the last copy of this.
#[derive(Clone, Debug)]
pub(super) struct Questions(mpsc::Sender<Question>);

impl Questions {
    pub(super) fn over(sender: Sender, receiver: Receiver, received_bytes: Arc<AtomicU64>) -> Self {
        let (questions, queue) = mpsc::channel(QUESTIONS_WAITING);
        let table = Arc::new(Mutex::new(Some(HashMap::new())));
        tokio::task::spawn(hear(receiver, Arc::clone(&table), received_bytes));
        tokio::task::spawn(ask(sender, queue, table));
        Self(questions)
    }

    /// Asks for one blob; nothing comes if the link is lost. Blocking while thousands of
    /// questions wait.
    pub(super) fn ask(&self, id: ChunkId) -> oneshot::Receiver<Answer> {
        let (reply, answer) = oneshot::channel();
        // Not sent where the stream has ended: the answer never comes.
        let _ = self.0.blocking_send(Question::One(id, reply));
        answer
    }

    /// Asks for many; the answers come in any order, and end early if the link is lost.
    /// Blocking while thousands of questions wait.
    pub(super) fn ask_many(&self, ids: Vec<ChunkId>) -> crossbeam_channel::Receiver<Arrival> {
        // What waits in it is bounded in bytes by the room each answer takes.
        let (arrived, arrivals) = crossbeam_channel::unbounded();
        // Not sent where the stream has ended: the answers end at once.
        let _ = self.0.blocking_send(Question::Many(ids, arrived));
        arrivals
    }
}

async fn ask(mut sender: Sender, mut queue: mpsc::Receiver<Question>, table: Table) {
    let (mut number, mut batch) = (0, Vec::new());
    while queue.recv_many(&mut batch, ASK_IDS_MAX).await > 0 {
        let wants = {
            let mut guard = table.lock().unwrap_or_else(PoisonError::into_inner);
            // Without a table the hearing half has failed: dropping the batch tells the askers.
            let Some(table) = guard.as_mut() else { return };
            register(table, &mut batch)
        };
        for ids in wants {
            number += 1;
            if sender.send(&FromReader::Want { number, ids }).await.is_err() {
                *table.lock().unwrap_or_else(PoisonError::into_inner) = None;
                return;
            }
        }
    }
    // Nobody is left to take an answer.
    *table.lock().unwrap_or_else(PoisonError::into_inner) = None;
    sender.finish();
    sender.delivered().await;
}

/// Notes who waits for what; returns what to ask, no id twice in one question.
fn register(
    table: &mut HashMap<ChunkId, VecDeque<Asker>>,
    batch: &mut Vec<Question>,
) -> Vec<Vec<ChunkId>> {
    let (mut wants, mut single) = (Vec::new(), Vec::new());
    for question in batch.drain(..) {
        match question {
            Question::One(id, reply) => {
                let askers = table.entry(id).or_default();
                if askers.is_empty() {
                    single.push(id);
                }
                askers.push_back(Asker::One(reply));
            }
            Question::Many(ids, arrived) => {
                for id in &ids {
                    table.entry(*id).or_default().push_back(Asker::Many(arrived.clone()));
                }
                wants.extend(ids.chunks(ASK_IDS_MAX).map(<[ChunkId]>::to_vec));
            }
        }
    }
    if !single.is_empty() {
        wants.push(single);
    }
    wants
}

async fn hear(mut receiver: Receiver, table: Table, received_bytes: Arc<AtomicU64>) {
    let room = Arc::new(Semaphore::new(ARRIVED_BYTES_MAX / ROOM_BYTES));
    loop {
        let (id, answer) = match receiver.next::<ToReader>().await {
            Ok(Some((ToReader::Blob(head), payload))) => {
                received_bytes.fetch_add(payload.len() as u64, Ordering::Relaxed);
                (head.id, Ok(Parcel { head, payload }))
            }
            Ok(Some((ToReader::Lost { id, refusal }, _))) => (id, Err(refusal)),
            Ok(Some((ToReader::Done { .. }, _))) => continue,
            Ok(Some((ToReader::Manifest(_), _))) | Ok(None) | Err(_) => break,
        };
        let askers = {
            let mut guard = table.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(table) = guard.as_mut() else { break };
            whose(table, id)
        };
        for asker in askers {
            match asker {
                // An asker that gave up no longer listens.
                Asker::One(reply) => drop(reply.send(answer.clone())),
                Asker::Many(arrived) => {
                    let answer = answer.clone();
                    let bytes = answer.as_ref().map_or(0, |parcel| parcel.payload.len());
                    let units = bytes.div_ceil(ROOM_BYTES).min(ARRIVED_BYTES_MAX / ROOM_BYTES);
                    let units = u32::try_from(units).unwrap_or(0);
                    let room = Arc::clone(&room).acquire_many_owned(units).await.ok();
                    drop(arrived.send(Arrival { id, answer, room }));
                }
            }
        }
    }
    *table.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// Whose an answer is: the first of those who asked for many, or all who asked for one.
fn whose(table: &mut HashMap<ChunkId, VecDeque<Asker>>, id: ChunkId) -> VecDeque<Asker> {
    let Some(askers) = table.get_mut(&id) else { return VecDeque::new() };
    let first = match askers.front() {
        Some(Asker::Many(_)) => askers.pop_front(),
        _ => return table.remove(&id).unwrap_or_default(),
    };
    if askers.is_empty() {
        table.remove(&id);
    }
    first.into_iter().collect()
}
