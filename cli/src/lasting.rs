//! A point at a node, read for longer than a connection may last: where it is lost, the node is
//! dialled again and what was asked for is asked again. Promises that one dials for all, and not
//! more often than once a second; meanwhile nothing can be had. Blocking, as reading blobs is.

use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use strongroom_node::reader::RemotePoint;
use strongroom_protocol::opening::Refusal;
use strongroom_protocol::{BlobKind, Chain, ChunkId, Clock, PointId, SiteName};
use strongroom_store::tree::{Blob, BlobSource, Gather, Gathered, SourceError};
use tokio::runtime::Handle;

use crate::operator::OperatorHome;

/// After a dial that failed none is tried for so long.
const PAUSE: Duration = Duration::from_secs(1);

/// Connections tried for one blob.
const DIALS_MAX: usize = 3;

/// A point that is opened again where the connection is lost.
pub(crate) struct Lasting {
    first: Opened,
    again: Again,
}

/// How the node is reached again.
pub(crate) struct Again {
    pub(crate) home: OperatorHome,
    pub(crate) site: SiteName,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) point: PointId,
    pub(crate) runtime: Handle,
    pub(crate) dialling: Dialling,
}

/// Whether somebody dials, and when that last failed.
#[derive(Default)]
pub(crate) struct Dialling {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    under_way: bool,
    failed: Option<Instant>,
}

/// A connection, and the one that took its place. Those before are kept: somebody may still
/// hold what came by them.
struct Opened {
    point: RemotePoint,
    next: OnceLock<Box<Self>>,
}

impl Lasting {
    /// Reads by this connection as long as it lasts.
    pub(crate) const fn new(point: RemotePoint, again: Again) -> Self {
        Self { first: Opened { point, next: OnceLock::new() }, again }
    }

    fn newest(&self) -> &Opened {
        let mut at = &self.first;
        while let Some(next) = at.next.get() {
            at = next;
        }
        at
    }

    /// A connection behind `lost`: one that somebody made meanwhile, or a new one; none where
    /// the node does not answer.
    fn after<'s>(&'s self, lost: &'s Opened) -> Option<&'s Opened> {
        let Dialling { state, changed } = &self.again.dialling;
        let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut now = lock();
        while now.under_way {
            now = changed.wait(now).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(next) = lost.next.get() {
            return Some(next);
        }
        if now.failed.is_some_and(|failed| failed.elapsed() < PAUSE) {
            return None;
        }
        now.under_way = true;
        drop(now);
        let dialled = self.again.dial();
        let mut now = lock();
        now.under_way = false;
        now.failed = if dialled.is_some() { None } else { Some(Instant::now()) };
        changed.notify_all();
        drop(now);
        let next = Box::new(Opened { point: dialled?, next: OnceLock::new() });
        Some(&**lost.next.get_or_init(|| next))
    }
}

impl Again {
    fn dial(&self) -> Option<RemotePoint> {
        let dialled = self.runtime.block_on(async {
            let contact = self.home.connect(Some(&self.site), Arc::clone(&self.clock)).await;
            let contact = contact.map_err(|error| Chain(&error).to_string())?;
            let opened = RemotePoint::open(&contact.link, self.point, None).await;
            opened.map_err(|error| Chain(&error).to_string())
        });
        match dialled {
            Ok((_, point)) => {
                tracing::info!(site = %self.site, "connected again");
                Some(point)
            }
            Err(error) => {
                tracing::warn!(site = %self.site, error, "cannot be reached");
                None
            }
        }
    }
}

impl BlobSource for Lasting {
    fn blob(&self, kind: BlobKind, id: ChunkId) -> Result<Blob, SourceError> {
        let mut opened = self.newest();
        for _ in 0..DIALS_MAX {
            match opened.point.blob(kind, id) {
                Err(lost) if is_lost_link(&lost) => match self.after(opened) {
                    Some(next) => opened = next,
                    None => return Err(lost),
                },
                found => return found,
            }
        }
        opened.point.blob(kind, id)
    }

    fn gather<'s>(&'s self, ids: Vec<ChunkId>) -> Box<dyn Gather + 's> {
        Box::new(Gathering { coming: self.newest().point.gather(ids), lasting: self })
    }
}

/// Whether nothing was heard, where a node that answers would have said why not.
fn is_lost_link(error: &SourceError) -> bool {
    match error {
        SourceError::Unreachable { source, .. } => !source.is::<Refusal>(),
        _ => false,
    }
}

/// Chunks on their way; those a lost connection did not bring are asked for one by one.
struct Gathering<'s> {
    coming: Box<dyn Gather + 's>,
    lasting: &'s Lasting,
}

impl Gather for Gathering<'_> {
    fn next(&self) -> Option<Gathered> {
        let (id, chunk) = self.coming.next()?;
        Some(match chunk {
            Err(SourceError::Unreachable { .. }) => (id, self.lasting.plain(BlobKind::Data, id)),
            chunk => (id, chunk),
        })
    }
}
