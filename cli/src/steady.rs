//! A point at a node, for as long as somebody uses it: where the link is lost it is dialled
//! again, and what was asked for is asked for again. Promises to give up within a bound, so that
//! who waits is told.

use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use strongroom_node::reader::RemotePoint;
use strongroom_protocol::{BlobKind, Chain, ChunkId, Clock, PointId, SiteName};
use strongroom_store::manifest::Manifest;
use strongroom_store::tree::{Blob, BlobSource, Gather, Gathered, SourceError};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::operator::{Contact, OperatorHome};
use crate::session::Session;

/// How long a lost link is dialled before who waits is told: guests wait about as long for a
/// disk.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(500);

/// A point that stays readable.
pub(crate) struct Steady {
    first: Linked,
    home: PathBuf,
    site: SiteName,
    clock: Arc<dyn Clock>,
    point: PointId,
    runtime: Handle,
    /// Whether somebody dials.
    dialling: Mutex<bool>,
    dialled: Condvar,
    stop: CancellationToken,
}

/// A link, and the one that was dialled when it was lost. None goes before all do: what was asked
/// for over one may still be on its way.
struct Linked {
    remote: RemotePoint,
    _contact: Contact,
    next: OnceLock<Box<Self>>,
}

impl Steady {
    /// Opens a point at the node of `contact`; `stop` ends all waiting.
    pub(crate) async fn open(
        session: &Session,
        contact: Contact,
        point: PointId,
        stop: CancellationToken,
    ) -> Result<(Manifest, Self), Failure> {
        let opened = RemotePoint::open(&contact.link, point, None).await;
        let (manifest, remote) = opened.map_err(|error| contact.failed(error))?;
        let site = contact.context.site.clone();
        let steady = Self {
            first: Linked { remote, _contact: contact, next: OnceLock::new() },
            home: session.home.clone(),
            site,
            clock: Arc::clone(&session.clock),
            point,
            runtime: Handle::current(),
            dialling: Mutex::new(false),
            dialled: Condvar::new(),
            stop,
        };
        Ok((manifest, steady))
    }

    fn last(&self) -> &Linked {
        let mut last = &self.first;
        while let Some(next) = last.next.get() {
            last = next;
        }
        last
    }

    /// Has `ask` answered, over another link where one is lost.
    fn ask<T>(
        &self,
        ask: impl Fn(&RemotePoint) -> Result<T, SourceError>,
    ) -> Result<T, SourceError> {
        let until = Instant::now() + PATIENCE;
        loop {
            let linked = self.last();
            match ask(&linked.remote) {
                Err(lost @ SourceError::Unreachable { .. }) => {
                    if !self.again(linked, until) {
                        return Err(lost);
                    }
                }
                told => return told,
            }
        }
    }

    /// Waits until there is another link than `lost`; whether there is.
    fn again(&self, lost: &Linked, until: Instant) -> bool {
        while lost.next.get().is_none() {
            if self.stop.is_cancelled() || Instant::now() > until {
                return false;
            }
            let mut dialling = self.dialling.lock().unwrap_or_else(PoisonError::into_inner);
            if *dialling {
                let waited = self.dialled.wait_timeout(dialling, PAUSE);
                drop(waited.unwrap_or_else(PoisonError::into_inner));
                continue;
            }
            *dialling = true;
            drop(dialling);
            // Somebody may have come first.
            let dialled = lost.next.get().is_some() || self.dial(lost);
            *self.dialling.lock().unwrap_or_else(PoisonError::into_inner) = false;
            self.dialled.notify_all();
            if !dialled {
                std::thread::sleep(PAUSE);
            }
        }
        true
    }

    fn dial(&self, lost: &Linked) -> bool {
        match self.runtime.block_on(self.dial_once()) {
            Ok(linked) => lost.next.set(Box::new(linked)).is_ok(),
            Err(failure) => {
                tracing::warn!(cause = failure.to_string(), "the point cannot be reached");
                false
            }
        }
    }

    async fn dial_once(&self) -> Result<Linked, Failure> {
        let home = OperatorHome::open(&self.home)?;
        let contact = home.connect(Some(&self.site), Arc::clone(&self.clock)).await?;
        let opened = RemotePoint::open(&contact.link, self.point, None).await;
        let (_, remote) = opened.map_err(|error| contact.failed(error))?;
        Ok(Linked { remote, _contact: contact, next: OnceLock::new() })
    }
}

impl BlobSource for Steady {
    fn blob(&self, kind: BlobKind, id: ChunkId) -> Result<Blob, SourceError> {
        self.ask(|remote| remote.blob(kind, id))
    }

    fn plain(&self, kind: BlobKind, id: ChunkId) -> Result<Bytes, SourceError> {
        self.ask(|remote| remote.plain(kind, id))
    }

    fn gather<'s>(&'s self, ids: Vec<ChunkId>) -> Box<dyn Gather + 's> {
        Box::new(Steadied { steady: self, coming: self.last().remote.gather(ids) })
    }

    fn walked_in_order(&self) {
        self.last().remote.walked_in_order();
    }
}

/// Chunks on their way, of which none is lost with the link.
struct Steadied<'s> {
    steady: &'s Steady,
    coming: Box<dyn Gather + 's>,
}

impl Gather for Steadied<'_> {
    fn next(&self) -> Option<Gathered> {
        match self.coming.next()? {
            (id, Err(SourceError::Unreachable { source, .. })) => {
                tracing::debug!(cause = %Chain(&*source), "a chunk is asked for again");
                Some((id, self.steady.plain(BlobKind::Data, id)))
            }
            told => Some(told),
        }
    }
}
