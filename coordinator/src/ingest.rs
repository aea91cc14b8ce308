//! Takes the blobs of a point from an agent into the repository. Nothing is believed: every
//! blob is decompressed and named again, every page decoded, every reference looked up,
//! before it is sealed and packed. Work off the runtime is bounded in bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use strongroom_node::crew::crew;
use strongroom_protocol::blob::{BlobKind, PLAIN_BYTES_MAX, Parcel, REFERENCES_MAX, Reference};
use strongroom_protocol::data::{ASK_IDS_MAX, FromAgent, ToAgent};
use strongroom_protocol::link::{LinkError, Receiver, Sender};
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Chain, ChunkId};
use strongroom_store::page::decode_page;
use strongroom_store::repo::{InsertError, Inserted, Repo};
use strongroom_store::seal::Sealed;
use strongroom_store::{parcel, seal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, mpsc, oneshot};

/// Plaintext bytes of one stream being checked and sealed at a time.
const CHECKING_BYTES: usize = 24 << 20;
/// Plaintext bytes of all streams together: what fifty agents at once may take of the memory.
const NODE_CHECKING_BYTES: usize = 32 << 20;
/// Blobs of one stream between the check and the pack.
const CHECKING_BLOBS: usize = 256;

/// Why a stream was given up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum IngestError {
    /// The link failed.
    #[error("the agent's stream failed")]
    Link(#[from] LinkError),
    /// What came cannot be taken; the agent is told.
    #[error("the point was refused")]
    Refused {
        #[source]
        refusal: Refusal,
        lacking: Vec<Reference>,
    },
    /// A worker died.
    #[error("a worker of the ingest died")]
    Worker,
}

impl IngestError {
    pub(crate) fn refused(kind: RefusalKind, text: impl Into<String>) -> Self {
        Self::Refused { refusal: Refusal::new(kind, text), lacking: Vec::new() }
    }
}

/// What an agent brought.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) root: Reference,
    pub(crate) draft: Bytes,
    pub(crate) stored: Arc<Stored>,
}

/// What was new, counted while it comes.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    pub(crate) chunks: AtomicU64,
    pub(crate) plain_bytes: AtomicU64,
    pub(crate) sealed_bytes: AtomicU64,
}

struct Checked {
    sealed: Sealed,
    references: Vec<Reference>,
    plain_len: u32,
}

/// Shared by every stream; whoever waits longest is served first.
static NODE_BUDGET: Semaphore = Semaphore::const_new(NODE_CHECKING_BYTES);

type Permits = (OwnedSemaphorePermit, SemaphorePermit<'static>);
type Checking = (oneshot::Receiver<Result<Checked, IngestError>>, Permits);

/// Takes blobs until the agent says that was all. They are in the repository then, not yet
/// durable: the commit's barrier sees to that.
pub(crate) async fn receive(
    repo: &Repo,
    sender: &mut Sender,
    receiver: &mut Receiver,
) -> Result<Received, IngestError> {
    let stored = Arc::new(Stored::default());
    let (checking, to_insert) = mpsc::channel(CHECKING_BLOBS);
    let inserting = {
        let (repo, stored) = (repo.clone(), Arc::clone(&stored));
        tokio::task::spawn_blocking(move || insert_in_order(&repo, to_insert, &stored))
    };
    let budget = Arc::new(Semaphore::new(CHECKING_BYTES));
    // The inserter may give up while the agent is silent: nobody waits for more then.
    let taken = tokio::select! {
        taken = take(repo, sender, receiver, &checking, &budget) => taken,
        () = checking.closed() => Err(IngestError::Worker),
    };
    drop(checking);
    let inserted = inserting.await.map_err(|_| IngestError::Worker)?;
    // The inserter's word comes first: a stream cut off by its failure only says "stopped".
    inserted?;
    let (root, draft) = taken?;
    Ok(Received { root, draft, stored })
}

async fn take(
    repo: &Repo,
    sender: &mut Sender,
    receiver: &mut Receiver,
    checking: &mpsc::Sender<Checking>,
    budget: &Arc<Semaphore>,
) -> Result<(Reference, Bytes), IngestError> {
    loop {
        let (message, bulk) = receiver.expect::<FromAgent>().await?;
        match message {
            FromAgent::Ask { number, ids } => {
                let wanted = missing(repo, ids).await?;
                sender.send(&ToAgent::Missing { number, wanted }).await?;
            }
            FromAgent::Blob(head) => {
                let plausible = head.plain_len as usize <= PLAIN_BYTES_MAX
                    && bulk.len() <= head.plain_len as usize
                    && head.references.len() <= REFERENCES_MAX;
                if !plausible {
                    let text = format!("blob {} is larger than a blob may be", head.id);
                    return Err(IngestError::refused(RefusalKind::Invalid, text));
                }
                let weight = head.plain_len.max(4096);
                let permit = Arc::clone(budget).acquire_many_owned(weight).await;
                let permit = permit.map_err(|_| IngestError::Worker)?;
                let shared = NODE_BUDGET.acquire_many(weight).await;
                let permits = (permit, shared.map_err(|_| IngestError::Worker)?);
                let repo = repo.clone();
                let parcel = Parcel { head, payload: bulk };
                let task = crew().call(move || check(&repo, parcel));
                checking.send((task, permits)).await.map_err(|_| IngestError::Worker)?;
            }
            FromAgent::End { root } => return Ok((root, bulk)),
        }
    }
}

async fn missing(repo: &Repo, ids: Vec<ChunkId>) -> Result<Vec<u8>, IngestError> {
    if ids.len() > ASK_IDS_MAX {
        let text = format!("{} ids in one question, at most {ASK_IDS_MAX}", ids.len());
        return Err(IngestError::refused(RefusalKind::Invalid, text));
    }
    let repo = repo.clone();
    let has = tokio::task::spawn_blocking(move || repo.has(&ids)).await;
    let has = has.map_err(|_| IngestError::Worker)?.map_err(|error| {
        IngestError::refused(RefusalKind::Unavailable, Chain(&error).to_string())
    })?;
    let mut wanted = vec![0_u8; has.len().div_ceil(8)];
    for (position, present) in has.into_iter().enumerate() {
        if let (false, Some(byte)) = (present, wanted.get_mut(position / 8)) {
            *byte |= 1 << (position % 8);
        }
    }
    Ok(wanted)
}

/// Decompresses, names again, decodes what has structure, seals.
fn check(repo: &Repo, parcel: Parcel) -> Result<Checked, IngestError> {
    let id = parcel.head.id;
    let damaged = |error: &dyn std::error::Error| {
        let text = format!("blob {id} is not what its name says: {}", Chain(error));
        IngestError::refused(RefusalKind::Damaged, text)
    };
    let internal = |error: &dyn std::error::Error| {
        IngestError::refused(RefusalKind::Internal, Chain(error).to_string())
    };
    let keys = repo.agent_keys().map_err(|error| internal(&error))?;
    let vault_key = repo.vault_key().map_err(|error| internal(&error))?;
    let decoded = parcel::look(&parcel, keys, |plain| match parcel.head.kind {
        BlobKind::Page => decode_page(plain, &parcel.head.references).map(|_| ()),
        _ => Ok(()),
    });
    decoded.map_err(|error| damaged(&error))?.map_err(|error| damaged(&error))?;
    let sealed = seal::seal(vault_key, repo.id(), &parcel).map_err(|error| internal(&error))?;
    let plain_len = parcel.head.plain_len;
    Ok(Checked { sealed, references: parcel.head.references, plain_len })
}

/// Inserts in the order of arrival, so that children are there before the pages naming them.
fn insert_in_order(
    repo: &Repo,
    mut checking: mpsc::Receiver<Checking>,
    stored: &Stored,
) -> Result<(), IngestError> {
    while let Some((task, permits)) = checking.blocking_recv() {
        let Checked { sealed, references, plain_len } =
            task.blocking_recv().map_err(|_| IngestError::Worker)??;
        let sealed_bytes = sealed.bytes.len() as u64;
        match repo.insert(sealed, &references) {
            Ok(Inserted::New) => {
                stored.chunks.fetch_add(1, Ordering::Relaxed);
                stored.plain_bytes.fetch_add(u64::from(plain_len), Ordering::Relaxed);
                stored.sealed_bytes.fetch_add(sealed_bytes, Ordering::Relaxed);
            }
            Ok(Inserted::Present) => {}
            Err(InsertError::MissingReferences { missing: lacking, .. }) => {
                let text = format!("{} blobs the point relies on are not here", lacking.len());
                let refusal = Refusal::new(RefusalKind::Missing, text);
                return Err(IngestError::Refused { refusal, lacking });
            }
            Err(error) => {
                let text = Chain(&error).to_string();
                return Err(IngestError::refused(RefusalKind::Unavailable, text));
            }
        }
        drop(permits);
    }
    Ok(())
}
