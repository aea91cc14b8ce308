//! Gives the blobs of a point to a reader: coordinator and proxy alike. Blobs are opened
//! (the seal is checked) but not decompressed: the reader does that, and checks each name.
//! Reads go in the order of the packs, whatever the order of the questions.

use bytes::Bytes;
use strongroom_protocol::control::Naming;
use strongroom_protocol::data::{ASK_IDS_MAX, FromReader, ToReader};
use strongroom_protocol::link::{LinkError, Receiver, Sender};
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Chain, ChunkId, Parcel, PointId};
use strongroom_store::index::Place;
use strongroom_store::repo::{Repo, RepoError};
use tokio::sync::mpsc;

/// Blobs read ahead of the wire: with [`strongroom_protocol::blob::PLAIN_BYTES_MAX`] a bound
/// in bytes, in practice a few MiB.
const READ_AHEAD_BLOBS: usize = 32;

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
    while let Some((FromReader::Want { number, ids }, _)) = receiver.next().await? {
        if ids.len() > ASK_IDS_MAX {
            return Ok(());
        }
        let (found, mut finds) = mpsc::channel(READ_AHEAD_BLOBS);
        let repo = repo.clone();
        let reading = tokio::task::spawn_blocking(move || read_blobs(&repo, ids, &found));
        while let Some((message, payload)) = finds.recv().await {
            sender.send_with(&message, payload).await?;
        }
        drop(reading);
        sender.send(&ToReader::Done { number }).await?;
    }
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

fn open_at(repo: &Repo, id: ChunkId, place: &Place) -> Result<Parcel, RepoError> {
    let record = repo.read_record(place)?;
    repo.open_at(&record, id, place)
}

fn read_blobs(repo: &Repo, mut ids: Vec<ChunkId>, found: &mpsc::Sender<(ToReader, Bytes)>) {
    ids.sort_unstable();
    ids.dedup();
    let places = repo.place(&ids);
    let places = match places {
        Ok(places) => places,
        Err(error) => {
            let refusal = Refusal::new(RefusalKind::Unavailable, Chain(&error).to_string());
            for id in ids {
                let lost = ToReader::Lost { id, refusal: refusal.clone() };
                if found.blocking_send((lost, Bytes::new())).is_err() {
                    return;
                }
            }
            return;
        }
    };
    let mut placed: Vec<_> = ids.into_iter().zip(places).collect();
    placed.sort_by_key(|(_, place)| place.as_ref().map(|place| (place.pack, place.offset)));
    for (id, place) in placed {
        let message = match place {
            None => {
                let text = format!("no blob {id} here");
                (
                    ToReader::Lost { id, refusal: Refusal::new(RefusalKind::Missing, text) },
                    Bytes::new(),
                )
            }
            Some(place) => match open_at(repo, id, &place) {
                Ok(parcel) => (ToReader::Blob(parcel.head), parcel.payload),
                Err(error) => {
                    let refusal = Refusal::new(RefusalKind::Damaged, Chain(&error).to_string());
                    (ToReader::Lost { id, refusal }, Bytes::new())
                }
            },
        };
        if found.blocking_send(message).is_err() {
            return;
        }
    }
}
