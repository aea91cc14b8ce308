//! Gives a peer that heals what it asks for: sealed packs as they are, and what points need.
//! What is known to be hurt here is refused; everything is hashed again where it arrives.

use bytes::Bytes;
use strongroom_protocol::data::{FromProxy, PIECE_BYTES, ToProxy};
use strongroom_protocol::link::{LinkError, Receiver, Sender};
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Chain, PackId, PointId, WorkloadId};
use strongroom_store::manifest::Manifest;
use strongroom_store::repo::Repo;

/// Packs named in one message.
const PACKS_LISTED: usize = 2048;

/// What was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Given {
    pub packs: u64,
    pub bytes: u64,
}

/// Answers until the peer has no more questions.
pub async fn give(
    repo: &Repo,
    sender: &mut Sender,
    receiver: &mut Receiver,
) -> Result<Given, LinkError> {
    let mut given = Given::default();
    while let Some((question, _)) = receiver.next::<FromProxy>().await? {
        let refused = match question {
            FromProxy::Need { point } => give_need(repo, point, sender).await?,
            FromProxy::Pack { id, offset } => {
                give_pack(repo, id, offset, sender, &mut given).await?
            }
        };
        if let Some(refusal) = refused {
            sender.send(&ToProxy::Refused { refusal }).await?;
        }
    }
    sender.finish();
    sender.delivered().await;
    Ok(given)
}

async fn off_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(Refusal::new(RefusalKind::Internal, "a worker died")))
}

fn refused(kind: RefusalKind, error: &dyn std::error::Error) -> Refusal {
    Refusal::new(kind, Chain(error).to_string())
}

type Need = (Vec<(PackId, u64)>, WorkloadId, Bytes);

fn need(repo: &Repo, point: PointId) -> Result<Need, Refusal> {
    let missing = |error: &dyn std::error::Error| refused(RefusalKind::Missing, error);
    let damaged = |error: &dyn std::error::Error| refused(RefusalKind::Damaged, error);
    let (workload, manifest) = repo.manifest_of(point).map_err(|error| missing(&error))?;
    let head = Manifest::decode_head(&manifest).map_err(|error| damaged(&error))?;
    let closure = repo.closure(&head.roots).map_err(|error| damaged(&error))?;
    let mut packs = Vec::with_capacity(closure.packs.len());
    for id in closure.packs {
        packs.push((id, repo.pack_len(id).map_err(|error| missing(&error))?));
    }
    Ok((packs, workload, Bytes::from(manifest)))
}

async fn give_need(
    repo: &Repo,
    point: PointId,
    sender: &mut Sender,
) -> Result<Option<Refusal>, LinkError> {
    let held = repo.clone();
    let (packs, workload, manifest) = match off_runtime(move || need(&held, point)).await {
        Ok(need) => need,
        Err(refusal) => return Ok(Some(refusal)),
    };
    for packs in packs.chunks(PACKS_LISTED) {
        sender.send(&ToProxy::Packs(packs.to_vec())).await?;
    }
    sender.send_with(&ToProxy::Manifest { workload, point }, manifest).await?;
    Ok(None)
}

async fn give_pack(
    repo: &Repo,
    id: PackId,
    offset: u64,
    sender: &mut Sender,
    given: &mut Given,
) -> Result<Option<Refusal>, LinkError> {
    let len = match repo.pack_len(id) {
        Ok(len) if repo.has_pack(id) => len,
        Ok(_) => {
            let text = format!("pack {id} is hurt here too");
            return Ok(Some(Refusal::new(RefusalKind::Damaged, text)));
        }
        Err(error) => return Ok(Some(refused(RefusalKind::Missing, &error))),
    };
    let mut at = offset.min(len);
    while at < len {
        let held = repo.clone();
        let read = off_runtime(move || {
            let failed = |error| refused(RefusalKind::Unavailable, &error);
            held.read_pack(id, at, PIECE_BYTES).map_err(failed)
        });
        let piece = match read.await {
            Ok(piece) if !piece.is_empty() => piece,
            Ok(_) => {
                let text = format!("pack {id} is shorter than it was");
                return Ok(Some(Refusal::new(RefusalKind::Damaged, text)));
            }
            Err(refusal) => return Ok(Some(refusal)),
        };
        let sent = piece.len() as u64;
        sender.send_with(&ToProxy::Piece { id, offset: at }, piece).await?;
        at += sent;
        given.bytes += sent;
    }
    sender.send(&ToProxy::PackEnd { id, len }).await?;
    given.packs += 1;
    Ok(None)
}
