//! Reads a point from another node: a [`BlobSource`] whose questions are gathered into
//! batches, so that many threads together fill the link whatever its round trip. Pages and
//! lists come by one stream, chunks asked for by the thousand by another, so that neither
//! waits behind the other. Every blob is decompressed and its name recomputed here, by the
//! thread that takes it, before it is believed.

mod ahead;
mod gathering;
mod stream;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use strongroom_protocol::blob::{BlobKind, Parcel};
use strongroom_protocol::data::ToReader;
use strongroom_protocol::link::{Link, LinkError};
use strongroom_protocol::opening::{Opening, Refusal, RefusalKind};
use strongroom_protocol::{Chain, ChunkId, JobId, PointId};
use strongroom_store::keys::AgentKeys;
use strongroom_store::manifest::Manifest;
use strongroom_store::parcel;
use strongroom_store::tree::{Blob, BlobSource, Gather, SourceError};
use tokio::runtime::Handle;

use crate::ask::{AskError, open};
use crate::reader::ahead::{Ahead, Taken};
use crate::reader::gathering::{Gathering, Nothing};
use crate::reader::stream::{Answer, Questions};

/// A point at another node, readable from any thread that is not the runtime's.
#[derive(Clone)]
pub struct RemotePoint {
    /// One blob at a time.
    single: Questions,
    /// Chunks by the thousand; opened when first wanted.
    bulk: Arc<OnceLock<Result<Questions, Refusal>>>,
    /// What a walk in tree order will want; once there is one.
    ahead: Arc<OnceLock<Mutex<Ahead>>>,
    link: Link,
    point: PointId,
    grant: Option<JobId>,
    runtime: Handle,
    keys: AgentKeys,
    received_bytes: Arc<AtomicU64>,
}

impl RemotePoint {
    /// Opens `point` at the far end of `link`; returns its manifest beside it.
    pub async fn open(
        link: &Link,
        point: PointId,
        grant: Option<JobId>,
    ) -> Result<(Manifest, Self), AskError> {
        let received_bytes = Arc::default();
        let (manifest, keys, single) = begin(link, point, grant, &received_bytes).await?;
        let (link, runtime) = (link.clone(), Handle::current());
        let (bulk, ahead) = (Arc::default(), Arc::default());
        let opened =
            Self { single, bulk, ahead, link, point, grant, runtime, keys, received_bytes };
        Ok((manifest, opened))
    }

    /// By which blobs are named here: what is there already need not be fetched.
    pub const fn keys(&self) -> &AgentKeys {
        &self.keys
    }

    /// Payload bytes received so far.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }

    /// The stream for chunks. Blocking.
    fn bulk(&self) -> Result<&Questions, Refusal> {
        let opened = self.bulk.get_or_init(|| {
            let (point, grant) = (self.point, self.grant);
            let begun =
                self.runtime.block_on(begin(&self.link, point, grant, &self.received_bytes));
            let refused = |error| Refusal::new(RefusalKind::Unavailable, Chain(&error).to_string());
            begun.map(|(_, _, questions)| questions).map_err(refused)
        });
        opened.as_ref().map_err(Clone::clone)
    }
}

/// Opens a stream that gives blobs of the point.
async fn begin(
    link: &Link,
    point: PointId,
    grant: Option<JobId>,
    received_bytes: &Arc<AtomicU64>,
) -> Result<(Manifest, AgentKeys, Questions), AskError> {
    let (sender, mut receiver) = open(link, Opening::Fetch { point, grant }).await?;
    let (message, body) = receiver.expect::<ToReader>().await?;
    let naming = match message {
        ToReader::Manifest(naming) => naming,
        ToReader::Lost { refusal, .. } => return Err(AskError::Refused(refusal)),
        _ => return Err(LinkError::Ended { expected: "a manifest" }.into()),
    };
    let manifest = point_of(&body).ok_or(LinkError::Ended { expected: "a manifest" })?;
    let keys = AgentKeys { id_key: naming.id_key, cut_key: naming.cut_key };
    let questions = Questions::over(sender, receiver, Arc::clone(received_bytes));
    Ok((manifest, keys, questions))
}

/// The blob in an answer, decompressed and named again.
fn believe(
    keys: &AgentKeys,
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
        Some(Ok(found)) => match parcel::open(&found, keys) {
            Ok(plain) => {
                let Parcel { head, .. } = found;
                Ok(Blob { references: head.references, plain })
            }
            Err(error) => Err(damaged(Some(Box::new(error)))),
        },
    }
}

fn lost_link(kind: BlobKind, id: ChunkId) -> SourceError {
    let source = Box::new(LinkError::Ended { expected: "a blob" });
    SourceError::Unreachable { kind, id, source }
}

impl std::fmt::Debug for RemotePoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemotePoint").field("point", &self.point).finish_non_exhaustive()
    }
}

impl BlobSource for RemotePoint {
    fn blob(&self, kind: BlobKind, id: ChunkId) -> Result<Blob, SourceError> {
        let Some(ahead) = self.ahead.get().filter(|_| kind.is_metadata()) else {
            return believe(&self.keys, kind, id, self.single.ask(id).blocking_recv().ok());
        };
        let lock = || ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let (taken, path) = lock().take(id, &mut |id| self.single.ask(id));
        let answer = match taken {
            Taken::Here(answer) => Some(answer),
            Taken::Coming(answer) => answer.blocking_recv().ok(),
        };
        let blob = believe(&self.keys, kind, id, answer)?;
        if let Some(path) = path {
            lock().came(&path, &blob.references, &mut |id| self.single.ask(id));
        }
        Ok(blob)
    }

    fn walked_in_order(&self) {
        self.ahead.get_or_init(Mutex::default);
    }

    fn gather<'s>(&'s self, ids: Vec<ChunkId>) -> Box<dyn Gather + 's> {
        if ids.is_empty() {
            return Box::new(Nothing);
        }
        match self.bulk() {
            Ok(questions) => Box::new(Gathering::of(questions, &self.keys, ids)),
            Err(refusal) => Box::new(Gathering::refused(refusal, &self.keys, ids)),
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
