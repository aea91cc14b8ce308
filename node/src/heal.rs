//! Healing a repository from another copy over one stream: asks for packs by name, and for
//! points where names alone do not help, hashes what arrives and puts it in place. What was not
//! asked for ends the stream; what is not what its name says is refused and costs that pack only.

use bytes::Bytes;
use strongroom_protocol::data::{FromProxy, ToProxy};
use strongroom_protocol::link::{LinkError, Receiver, Sender};
use strongroom_protocol::{Chain, PackId, PointId, WorkloadId};
use strongroom_store::manifest::Manifest;
use strongroom_store::repo::{Begun, IncomingPack, Repo, RepoError};
use tokio_util::sync::CancellationToken;

/// Packs one point may need: bounds what a peer can make us remember.
const POINT_PACKS_MAX: usize = 4_000_000;
/// Points a peer may offer: bounds the same.
const POINTS_OFFERED_MAX: usize = 16_000_000;

/// What is to be brought back.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// By name.
    pub packs: Vec<PackId>,
    /// With whatever they need that is not here, their manifests too.
    pub points: Vec<PointId>,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Healed {
    pub packs: Vec<PackId>,
    pub points: Vec<PointId>,
    /// What did not come, each in a sentence.
    pub refused: Vec<String>,
}

/// Why the conversation broke off; what was healed before stays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HealError {
    /// The link failed.
    #[error("the link failed")]
    Link(#[from] LinkError),
    /// The peer does not say what it has.
    #[error("the peer refused: {why}")]
    Refused { why: String },
    /// The peer sent what was not asked for.
    #[error("the peer sent what was not asked for")]
    OutOfTurn,
    /// The repository here takes no more of it.
    #[error("the repository here cannot take it: {why}")]
    Store { why: String },
    /// The node is stopping.
    #[error("stopped")]
    Stopped,
}

/// Asks for all that is wanted, one thing after another.
pub async fn heal(
    repo: &Repo,
    sender: &mut Sender,
    receiver: &mut Receiver,
    wanted: Wanted,
    stop: &CancellationToken,
) -> (Healed, Result<(), HealError>) {
    // What comes is counted on until the points that need it are whole.
    let session = repo.session();
    let repo: &Repo = &session;
    let mut asking = Asking { repo, sender, receiver, stop, healed: Healed::default() };
    let outcome = asking.all(wanted).await;
    let mut healed = asking.healed;
    let held = repo.clone();
    let settled = blocking(move || held.barrier()).await;
    if let Err(error) = settled {
        // What is not known to be durable is not healed; the next round looks again.
        healed.refused.push(error);
        (healed.packs, healed.points) = (Vec::new(), Vec::new());
    }
    (healed, outcome)
}

/// Asks which points there are, then for those that are `wanted` of them.
pub async fn reseed(
    repo: &Repo,
    sender: &mut Sender,
    receiver: &mut Receiver,
    wanted: impl FnOnce(&[(WorkloadId, PointId)]) -> Vec<PointId>,
    stop: &CancellationToken,
) -> Result<(Healed, Vec<PointId>), HealError> {
    sender.send(&FromProxy::Points).await?;
    let mut offered = Vec::new();
    loop {
        match receiver.expect::<ToProxy>().await? {
            (ToProxy::Points(more), _) if more.is_empty() => break,
            (ToProxy::Points(more), _) if offered.len() < POINTS_OFFERED_MAX => {
                offered.extend(more);
            }
            (ToProxy::Refused { refusal }, _) => {
                return Err(HealError::Refused { why: refusal.to_string() });
            }
            _ => return Err(HealError::OutOfTurn),
        }
    }
    let points = wanted(&offered);
    let session = repo.session();
    let repo: &Repo = &session;
    let mut asking = Asking { repo, sender, receiver, stop, healed: Healed::default() };
    let outcome = asking.points(points).await;
    let healed = asking.healed;
    let held = repo.clone();
    let settled = blocking(move || held.barrier()).await;
    outcome?;
    settled.map_err(|why| HealError::Store { why })?;
    Ok((healed, offered.into_iter().map(|(_, point)| point).collect()))
}

/// One conversation.
struct Asking<'a> {
    repo: &'a Repo,
    sender: &'a mut Sender,
    receiver: &'a mut Receiver,
    stop: &'a CancellationToken,
    healed: Healed,
}

/// What a point needs, as the peer says.
struct Need {
    packs: Vec<PackId>,
    workload: WorkloadId,
    manifest: Bytes,
}

impl Asking<'_> {
    async fn all(&mut self, wanted: Wanted) -> Result<(), HealError> {
        for pack in &wanted.packs {
            if let Err(why) = self.pack(*pack).await? {
                self.healed.refused.push(format!("pack {pack}: {why}"));
            }
        }
        self.points(wanted.points).await?;
        self.sender.finish();
        Ok(())
    }

    async fn points(&mut self, points: Vec<PointId>) -> Result<(), HealError> {
        for point in points {
            match self.point(point).await? {
                Ok(()) => self.healed.points.push(point),
                Err(why) => self.healed.refused.push(format!("point {point}: {why}")),
            }
        }
        Ok(())
    }

    /// Brings a pack back; the inner error is about this pack alone.
    async fn pack(&mut self, pack: PackId) -> Result<Result<(), String>, HealError> {
        let held = self.repo.clone();
        let mut incoming = match blocking(move || held.begin_pack(pack)).await {
            Ok(Begun::Present) => return Ok(Ok(())),
            Ok(Begun::Receiving(incoming)) => incoming,
            Err(why) => return Ok(Err(why)),
        };
        let mut at = incoming.offset();
        self.sender.send(&FromProxy::Pack { id: pack, offset: at }).await?;
        loop {
            if self.stop.is_cancelled() {
                return Err(HealError::Stopped);
            }
            match self.receiver.expect::<ToProxy>().await? {
                (ToProxy::Piece { id, offset }, piece) if id == pack && offset == at => {
                    at += piece.len() as u64;
                    // The stream has more of it: nothing else can be asked on it now.
                    incoming = match taken(incoming, piece).await {
                        Ok(incoming) => incoming,
                        Err(why) => return Err(HealError::Store { why }),
                    };
                }
                (ToProxy::PackEnd { id, len }, _) if id == pack && len == at => {
                    let finished = blocking(move || incoming.finish()).await;
                    if finished.is_ok() {
                        self.healed.packs.push(pack);
                    }
                    return Ok(finished);
                }
                (ToProxy::Refused { refusal }, _) => return Ok(Err(refusal.to_string())),
                _ => return Err(HealError::OutOfTurn),
            }
        }
    }

    /// Brings back what a point needs and is not here, and its manifest.
    async fn point(&mut self, point: PointId) -> Result<Result<(), String>, HealError> {
        let need = match self.need(point).await? {
            Ok(need) => need,
            Err(why) => return Ok(Err(why)),
        };
        for pack in need.packs {
            if self.repo.has_pack(pack) {
                continue;
            }
            if let Err(why) = self.pack(pack).await? {
                return Ok(Err(format!("pack {pack}: {why}")));
            }
        }
        let repo = self.repo.clone();
        let restored = blocking(move || {
            let head = Manifest::decode_head(&need.manifest).ok();
            let head = head.filter(|head| {
                (head.repo, head.workload, head.point) == (repo.id(), need.workload, point)
            });
            let Some(head) = head else {
                return Err(RepoError::Manifest { point, reason: "it names another point" });
            };
            repo.closure(&head.roots)?;
            repo.restore_point(head.workload, point, &need.manifest)
        });
        Ok(restored.await)
    }

    async fn need(&mut self, point: PointId) -> Result<Result<Need, String>, HealError> {
        self.sender.send(&FromProxy::Need { point }).await?;
        let mut packs = Vec::new();
        loop {
            match self.receiver.expect::<ToProxy>().await? {
                (ToProxy::Packs(more), _) if packs.len() < POINT_PACKS_MAX => {
                    packs.extend(more.into_iter().map(|(pack, _)| pack));
                }
                (ToProxy::Manifest { workload, point: given }, manifest) if given == point => {
                    return Ok(Ok(Need { packs, workload, manifest }));
                }
                (ToProxy::Refused { refusal }, _) => return Ok(Err(refusal.to_string())),
                _ => return Err(HealError::OutOfTurn),
            }
        }
    }
}

async fn taken(mut incoming: Box<IncomingPack>, piece: Bytes) -> Result<Box<IncomingPack>, String> {
    blocking(move || {
        incoming.write(&piece)?;
        Ok(incoming)
    })
    .await
}

/// Off the runtime; the error in a sentence.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RepoError> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| Chain(&error).to_string()),
        Err(_) => Err("a worker died".to_owned()),
    }
}

/// Moves those hurt packs away whose blobs came in other packs. Blocking.
pub fn retire(repo: &Repo, hurt: &[PackId]) -> Result<(), RepoError> {
    for pack in hurt.iter().filter(|pack| !repo.has_pack(**pack)) {
        repo.retire_hurt(*pack)?;
    }
    Ok(())
}
