//! Gives sealed packs to a proxy: what a point needs, and the bytes of a pack from any offset.
//! Packs go as they are; nothing is opened.

use bytes::Bytes;
use strongroom_protocol::data::{FromProxy, PIECE_BYTES, ToProxy};
use strongroom_protocol::link::{LinkError, Receiver, Sender};
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Chain, PackId, PointId, WorkloadId};
use strongroom_store::manifest::Manifest;
use strongroom_store::repo::Repo;

/// Packs named in one message.
const PACKS_LISTED: usize = 2048;

/// Answers a proxy until it has no more questions.
pub(crate) async fn serve(
    repo: &Repo,
    mut sender: Sender,
    mut receiver: Receiver,
) -> Result<(), LinkError> {
    // The packs of a point that was asked for stay while the asker may fetch them.
    let session = repo.session();
    let repo: &Repo = &session;
    while let Some((question, _)) = receiver.next::<FromProxy>().await? {
        let refused = match question {
            FromProxy::Need { point } => send_need(repo, point, &mut sender).await?,
            FromProxy::Pack { id, offset } => send_pack(repo, id, offset, &mut sender).await?,
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

async fn send_pack(repo: &Repo, id: PackId, offset: u64, sender: &mut Sender) -> Sent {
    let len = match repo.pack_len(id) {
        Ok(len) => len,
        Err(error) => return Ok(Some(unavailable(&error))),
    };
    let mut at = offset.min(len);
    while at < len {
        let held = repo.clone();
        let take = PIECE_BYTES.min(usize::try_from(len - at).unwrap_or(usize::MAX));
        let piece =
            off_runtime(move || held.read_pack(id, at, take).map_err(|error| unavailable(&error)));
        let piece = match piece.await {
            Ok(piece) => piece,
            Err(refusal) => return Ok(Some(refusal)),
        };
        let sent = piece.len() as u64;
        sender.send_with(&ToProxy::Piece { id, offset: at }, piece).await?;
        at += sent;
    }
    sender.send(&ToProxy::PackEnd { id, len }).await?;
    Ok(None)
}
