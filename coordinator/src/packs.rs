//! Gives sealed packs to a proxy: what a point needs, and the bytes of a pack from any offset.
//! Packs go as they are; nothing is opened.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use strongroom_protocol::data::{FromProxy, PIECE_BYTES, ToProxy};
use strongroom_protocol::link::{LinkError, Receiver, Sender};
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Chain, PackId, PointId, WorkloadId};
use strongroom_store::manifest::Manifest;
use strongroom_store::repo::Repo;

/// Packs named in one message.
const PACKS_LISTED: usize = 2048;
/// Buffers of one stream kept for the next pieces: those that a full window of the connection has
/// in flight.
const BUFFERS_KEPT: usize = 16;

/// Answers a proxy until it has no more questions.
pub(crate) async fn serve(
    repo: &Repo,
    mut sender: Sender,
    mut receiver: Receiver,
) -> Result<(), LinkError> {
    // The packs of a point that was asked for stay while the asker may fetch them.
    let session = repo.session();
    let repo: &Repo = &session;
    let buffers = Buffers::default();
    while let Some((question, _)) = receiver.next::<FromProxy>().await? {
        let refused = match question {
            FromProxy::Need { point } => send_need(repo, point, &mut sender).await?,
            FromProxy::Pack { id, offset } => {
                send_pack(repo, &buffers, id, offset, &mut sender).await?
            }
        };
        if let Some(refusal) = refused {
            sender.send(&ToProxy::Refused { refusal }).await?;
        }
    }
    sender.finish();
    sender.delivered().await;
    Ok(())
}

type Sent = Result<Option<Refusal>, LinkError>;

async fn off_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(Refusal::new(RefusalKind::Internal, "a worker died")))
}

fn unavailable(error: &dyn std::error::Error) -> Refusal {
    Refusal::new(RefusalKind::Unavailable, Chain(error).to_string())
}

struct Need {
    packs: Vec<(PackId, u64)>,
    workload: WorkloadId,
    manifest: Bytes,
}

fn need(repo: &Repo, point: PointId) -> Result<Need, Refusal> {
    let (workload, manifest) = repo.manifest_of(point).map_err(|error| unavailable(&error))?;
    let head = Manifest::decode_head(&manifest)
        .map_err(|error| Refusal::new(RefusalKind::Damaged, Chain(&error).to_string()))?;
    let closure = repo
        .closure(&head.roots)
        .map_err(|error| Refusal::new(RefusalKind::Damaged, Chain(&error).to_string()))?;
    let mut packs = Vec::with_capacity(closure.packs.len());
    for id in closure.packs {
        let len = repo.pack_len(id).map_err(|error| unavailable(&error))?;
        packs.push((id, len));
    }
    Ok(Need { packs, workload, manifest: Bytes::from(manifest) })
}

async fn send_need(repo: &Repo, point: PointId, sender: &mut Sender) -> Sent {
    let held = repo.clone();
    let need = match off_runtime(move || need(&held, point)).await {
        Ok(need) => need,
        Err(refusal) => return Ok(Some(refusal)),
    };
    for packs in need.packs.chunks(PACKS_LISTED) {
        sender.send(&ToProxy::Packs(packs.to_vec())).await?;
    }
    let end = ToProxy::Manifest { workload: need.workload, point };
    sender.send_with(&end, need.manifest).await?;
    Ok(None)
}

async fn send_pack(
    repo: &Repo,
    buffers: &Buffers,
    id: PackId,
    offset: u64,
    sender: &mut Sender,
) -> Sent {
    let len = match repo.pack_len(id) {
        Ok(len) => len,
        Err(error) => return Ok(Some(unavailable(&error))),
    };
    // The next piece is read while this one is sent.
    let read = |at: u64| {
        let (repo, buffers) = (repo.clone(), buffers.clone());
        let take = PIECE_BYTES.min(usize::try_from(len - at).unwrap_or(usize::MAX));
        tokio::task::spawn_blocking(move || buffers.read(&repo, id, at, take))
    };
    let mut at = offset.min(len);
    let mut reading = (at < len).then(|| read(at));
    while let Some(piece) = reading.take() {
        let piece = match piece.await {
            Ok(Ok(piece)) if !piece.is_empty() => piece,
            Ok(Ok(_)) => {
                let text = format!("pack {id} ends before its length");
                return Ok(Some(Refusal::new(RefusalKind::Unavailable, text)));
            }
            Ok(Err(refusal)) => return Ok(Some(refusal)),
            Err(_) => return Ok(Some(Refusal::new(RefusalKind::Internal, "a worker died"))),
        };
        let next = at + piece.len() as u64;
        if next < len {
            reading = Some(read(next));
        }
        sender.send_with(&ToProxy::Piece { id, offset: at }, piece).await?;
        at = next;
    }
    sender.send(&ToProxy::PackEnd { id, len }).await?;
    Ok(None)
}

/// Buffers that packs are read into. They come back when the peer has what was in them: memory
/// that is new costs more than reading into it.
#[derive(Clone, Default)]
struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl Buffers {
    fn read(&self, repo: &Repo, id: PackId, at: u64, len: usize) -> Result<Bytes, Refusal> {
        let mut lent = Lent { bytes: self.take(), home: self.clone() };
        repo.read_pack_into(id, at, len, &mut lent.bytes).map_err(|error| unavailable(&error))?;
        Ok(Bytes::from_owner(lent))
    }

    fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn give(&self, bytes: Vec<u8>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < BUFFERS_KEPT {
            kept.push(bytes);
        }
    }
}

struct Lent {
    bytes: Vec<u8>,
    home: Buffers,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.home.give(std::mem::take(&mut self.bytes));
    }
}
