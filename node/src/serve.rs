//! Gives the blobs of a point to a reader: coordinator and proxy alike. Blobs are opened
//! (the seal is checked) but not decompressed: the reader does that, and checks each name.
//! Reads go forward through the packs, whatever the order of the questions; one thread reads,
//! the crew opens, the stream sends, and none of them waits for another but for room.

use bytes::Bytes;
use strongroom_protocol::control::Naming;
use strongroom_protocol::data::{ASK_IDS_MAX, FromReader, ToReader};
use strongroom_protocol::link::{LinkError, Receiver, Sender};
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Chain, ChunkId, PointId};
use strongroom_store::budget::{ByteBudget, BytePermit};
use strongroom_store::index::Place;
use strongroom_store::repo::Repo;
use tokio::sync::{mpsc, oneshot};

use crate::crew::crew;

/// Bytes read ahead of the wire, for each reader: some tens of chunks, so that reading, opening
/// and sending go on side by side; the wire's own window comes on top.
const READ_AHEAD_BYTES: usize = 8 << 20;
/// Blobs read ahead of the wire: the small ones, which the bytes do not bound.
const READ_AHEAD_BLOBS: usize = 1024;
/// Questions that wait for the one being answered: what comes next is known before it is due.
const QUESTIONS_WAITING: usize = 4;

/// How chunks are named in `repo`, for agents and readers.
pub fn naming(repo: &Repo) -> Result<Naming, Refusal> {
    let keys = repo.agent_keys().map_err(|error| unavailable(&error))?;
    let cut = repo.config().cut;
    Ok(Naming { id_key: keys.id_key, cut_key: keys.cut_key, cut_min: cut.min, cut_max: cut.max })
}

fn unavailable(error: &dyn std::error::Error) -> Refusal {
    Refusal::new(RefusalKind::Unavailable, Chain(error).to_string())
}

/// The opened manifest of a point, as it travels.
pub fn manifest_body(repo: &Repo, point: PointId) -> Result<Bytes, Refusal> {
    let manifest = repo.point(point).map_err(|error| match &error {
        error if error.is_absent() => {
            Refusal::new(RefusalKind::Unknown, format!("no point {point} here"))
        }
        error if error.lacks_key() => unavailable(error),
        error => Refusal::new(RefusalKind::Damaged, Chain(error).to_string()),
    })?;
    let opened = postcard::to_stdvec(&(&manifest.head, &manifest.body));
    opened.map(Bytes::from).map_err(|error| unavailable(&error))
}

/// Answers a reader until it has no more questions.
pub async fn serve(
    repo: &Repo,
    body: Bytes,
    mut sender: Sender,
    mut receiver: Receiver,
) -> Result<(), LinkError> {
    // What is read stays until the reader is done, whatever is collected meanwhile.
    let session = repo.session();
    let repo: &Repo = &session;
    let naming = match naming(repo) {
        Ok(naming) => naming,
        Err(refusal) => return refuse(sender, refusal).await,
    };
    sender.send_with(&ToReader::Manifest(naming), body).await?;
    let (questions, waiting) = mpsc::channel(QUESTIONS_WAITING);
    let (found, mut finds) = mpsc::channel(READ_AHEAD_BLOBS);
    let repo = repo.clone();
    let mut reading = Some(tokio::task::spawn_blocking(move || read(&repo, waiting, &found)));
    let hear = async move {
        while let Some((FromReader::Want { number, ids }, _)) = receiver.next().await? {
            // A reader that asks too much, or nobody who reads any more: either way it ends.
            if ids.len() > ASK_IDS_MAX || questions.send((number, ids)).await.is_err() {
                break;
            }
        }
        Ok::<(), LinkError>(())
    };
    let tell = async {
        while let Some(find) = finds.recv().await {
            find.send(&mut sender).await?;
        }
        // Nothing more comes: there are no more questions, or the reading died of one. Its reader
        // is told by a stream that is reset, for nobody else would ever answer.
        if let Some(read) = reading.take()
            && let Err(died) = read.await
        {
            tracing::error!(error = %Chain(&died), "reading for a reader broke off");
            return Err(LinkError::Lost { reason: "reading the repository broke off".to_owned() });
        }
        Ok(())
    };
    let told = tokio::try_join!(hear, tell);
    drop(finds);
    if let Some(reading) = reading {
        // With nobody to hear of it, the reading ends at the next blob.
        let _ = reading.await;
    }
    told?;
    sender.finish();
    sender.delivered().await;
    Ok(())
}

/// Tells a reader that the point cannot be had: in the manifest's place.
pub async fn refuse(mut sender: Sender, refusal: Refusal) -> Result<(), LinkError> {
    let lost = ToReader::Lost { id: ChunkId([0; 32]), refusal };
    sender.send(&lost).await?;
    sender.finish();
    sender.delivered().await;
    Ok(())
}

/// Something for a reader, in its turn.
enum Find {
    /// A blob being opened, and the room it takes.
    Blob { id: ChunkId, opened: oneshot::Receiver<(ToReader, Bytes)>, permit: BytePermit },
    /// Anything without bulk.
    Word(ToReader),
}

impl Find {
    async fn send(self, sender: &mut Sender) -> Result<(), LinkError> {
        match self {
            Self::Word(word) => sender.send(&word).await,
            Self::Blob { id, opened, permit } => {
                let (message, payload) = opened.await.unwrap_or_else(|_| {
                    let refusal = Refusal::new(RefusalKind::Internal, "opening it broke off");
                    (ToReader::Lost { id, refusal }, Bytes::new())
                });
                sender.send_with(&message, payload).await?;
                drop(permit);
                Ok(())
            }
        }
    }
}

/// Reads what is asked for, question by question. Blocking.
fn read(
    repo: &Repo,
    mut questions: mpsc::Receiver<(u64, Vec<ChunkId>)>,
    found: &mpsc::Sender<Find>,
) {
    let budget = ByteBudget::new(READ_AHEAD_BYTES);
    while let Some((number, ids)) = questions.blocking_recv() {
        let answered = places(repo, ids).into_iter().all(|(id, place)| {
            let find = match place {
                Ok(place) => read_at(repo, id, place, &budget),
                Err(refusal) => Find::Word(ToReader::Lost { id, refusal }),
            };
            found.blocking_send(find).is_ok()
        });
        if !answered || found.blocking_send(Find::Word(ToReader::Done { number })).is_err() {
            return;
        }
    }
}

/// Each id once with its place, in the order of the packs; those without one come first.
fn places(repo: &Repo, mut ids: Vec<ChunkId>) -> Vec<(ChunkId, Result<Place, Refusal>)> {
    ids.sort_unstable();
    ids.dedup();
    let places = match repo.place(&ids) {
        Ok(places) => places,
        Err(error) => {
            let refusal = unavailable(&error);
            return ids.into_iter().map(|id| (id, Err(refusal.clone()))).collect();
        }
    };
    let absent = |id| Refusal::new(RefusalKind::Missing, format!("no blob {id} here"));
    let placed = ids.into_iter().zip(places);
    let mut placed: Vec<_> =
        placed.map(|(id, place)| (id, place.ok_or_else(|| absent(id)))).collect();
    placed.sort_by_key(|(_, place)| place.as_ref().ok().map(|place| (place.pack, place.offset)));
    placed
}

fn read_at(repo: &Repo, id: ChunkId, place: Place, budget: &std::sync::Arc<ByteBudget>) -> Find {
    let permit = budget.take(place.record_len as usize);
    let damaged = move |error: &dyn std::error::Error| {
        let refusal = Refusal::new(RefusalKind::Damaged, Chain(error).to_string());
        ToReader::Lost { id, refusal }
    };
    let record = match repo.read_record(&place) {
        Ok(record) => record,
        Err(error) => return Find::Word(damaged(&error)),
    };
    let repo = repo.clone();
    let opened = crew().call(move || match repo.open_at(&record, id, &place) {
        Ok(parcel) => (ToReader::Blob(parcel.head), parcel.payload),
        Err(error) => (damaged(&error), Bytes::new()),
    });
    Find::Blob { id, opened, permit }
}
