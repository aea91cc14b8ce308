//! Gives sealed packs to another node: what a point needs, and the bytes of a pack from any
//! offset. Packs go as they are; nothing is opened. What is known to be hurt here is refused;
//! everything is hashed again where it arrives.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use strongroom_protocol::data::{FromProxy, PIECE_BYTES, ToProxy};
use strongroom_protocol::lead::Reseeded;
use strongroom_protocol::link::{LinkError, Receiver, Sender};
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Chain, PackId, PointId, WorkloadId};
use strongroom_store::manifest::Manifest;
use strongroom_store::repo::Repo;

/// Packs named in one message.
const PACKS_LISTED: usize = 2048;
/// Points named in one message.
const POINTS_LISTED: usize = 4096;
/// Buffers of one stream kept for the next pieces: those that a full window of the connection has
/// in flight.
const BUFFERS_KEPT: usize = 16;

/// What was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    pub packs: u64,
    pub bytes: u64,
    /// What the peer said it holds now, where it asked for everything.
    pub reseeded: Option<Reseeded>,
}

/// Answers until the peer has no more questions.
pub async fn give(
    repo: &Repo,
    sender: &mut Sender,
    receiver: &mut Receiver,
) -> Result<Given, LinkError> {
    // The packs of a point that was asked for stay while the asker may fetch them.
    let session = repo.session();
    let mut giver =
        Giver { repo: &session, sender, buffers: Buffers::default(), given: Given::default() };
    while let Some((question, _)) = receiver.next::<FromProxy>().await? {
        let answered = match question {
            FromProxy::Need { point } => giver.need(point).await,
            FromProxy::Pack { id, offset } => giver.pack(id, offset).await,
            FromProxy::Points => giver.points().await,
            FromProxy::Reseeded(reseeded) => {
                giver.given.reseeded = Some(reseeded);
                Ok(())
            }
        };
        match answered {
            Ok(()) => {}
            Err(Failure::Link(error)) => return Err(error),
            Err(Failure::Refused(refusal)) => {
                giver.sender.send(&ToProxy::Refused { refusal }).await?;
            }
        }
    }
    let Giver { sender, given, .. } = giver;
    sender.finish();
    sender.delivered().await;
    Ok(given)
}

/// Why a question was not answered.
enum Failure {
    Link(LinkError),
    Refused(Refusal),
}

impl From<LinkError> for Failure {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

fn refused(kind: RefusalKind, error: &dyn std::error::Error) -> Refusal {
    Refusal::new(kind, Chain(error).to_string())
}

async fn off_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(Refusal::new(RefusalKind::Internal, "a worker died")))
}

struct Need {
    packs: Vec<(PackId, u64)>,
    workload: WorkloadId,
    manifest: Bytes,
}

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
    Ok(Need { packs, workload, manifest: Bytes::from(manifest) })
}

/// One peer's.
struct Giver<'g> {
    repo: &'g Repo,
    sender: &'g mut Sender,
    buffers: Buffers,
    given: Given,
}

impl Giver<'_> {
    async fn need(&mut self, point: PointId) -> Result<(), Failure> {
        let held = self.repo.clone();
        let need = off_runtime(move || need(&held, point)).await?;
        for packs in need.packs.chunks(PACKS_LISTED) {
            self.sender.send(&ToProxy::Packs(packs.to_vec())).await?;
        }
        let end = ToProxy::Manifest { workload: need.workload, point };
        Ok(self.sender.send_with(&end, need.manifest).await?)
    }

    async fn points(&mut self) -> Result<(), Failure> {
        let held = self.repo.clone();
        let unavailable = |error: &dyn std::error::Error| refused(RefusalKind::Unavailable, error);
        let points =
            off_runtime(move || held.points().map_err(|error| unavailable(&error))).await?;
        for points in points.chunks(POINTS_LISTED) {
            self.sender.send(&ToProxy::Points(points.to_vec())).await?;
        }
        Ok(self.sender.send(&ToProxy::Points(Vec::new())).await?)
    }

    async fn pack(&mut self, id: PackId, offset: u64) -> Result<(), Failure> {
        let len = self.repo.pack_len(id).map_err(|error| refused(RefusalKind::Missing, &error))?;
        if !self.repo.has_pack(id) {
            let text = format!("pack {id} is hurt here");
            return Err(Refusal::new(RefusalKind::Damaged, text).into());
        }
        // The next piece is read while this one is sent.
        let read = |repo: &Repo, buffers: &Buffers, at: u64| {
            let (repo, buffers) = (repo.clone(), buffers.clone());
            let take = PIECE_BYTES.min(usize::try_from(len - at).unwrap_or(usize::MAX));
            tokio::task::spawn_blocking(move || buffers.read(&repo, id, at, take))
        };
        let mut at = offset.min(len);
        let mut reading = (at < len).then(|| read(self.repo, &self.buffers, at));
        while let Some(piece) = reading.take() {
            let piece = piece
                .await
                .unwrap_or_else(|_| Err(Refusal::new(RefusalKind::Internal, "a worker died")))?;
            if piece.is_empty() {
                let text = format!("pack {id} ends before its length");
                return Err(Refusal::new(RefusalKind::Damaged, text).into());
            }
            let next = at + piece.len() as u64;
            if next < len {
                reading = Some(read(self.repo, &self.buffers, next));
            }
            self.given.bytes += piece.len() as u64;
            self.sender.send_with(&ToProxy::Piece { id, offset: at }, piece).await?;
            at = next;
        }
        self.sender.send(&ToProxy::PackEnd { id, len }).await?;
        self.given.packs += 1;
        Ok(())
    }
}

/// Buffers that packs are read into. They come back when the peer has what was in them: memory
/// that is new costs more than reading into it.
#[derive(Clone, Default)]
struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl Buffers {
    fn read(&self, repo: &Repo, id: PackId, at: u64, len: usize) -> Result<Bytes, Refusal> {
        let mut lent = Lent { bytes: self.take(), home: self.clone() };
        repo.read_pack_into(id, at, len, &mut lent.bytes)
            .map_err(|error| refused(RefusalKind::Unavailable, &error))?;
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
