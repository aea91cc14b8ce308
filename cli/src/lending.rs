//! A point on media that is read while it stays there: its metadata is staged at once, a pack when
//! a chunk in it is first wanted. One thread has the library and brings in one go what all who
//! wait want, for cartridges are read forward. Promises that what was brought is not brought
//! again; what no cartridge here gives is missing, and those that may have it are named.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;

use strongroom_protocol::admin::PointRef;
use strongroom_protocol::{BlobKind, ChunkId};
use strongroom_store::manifest::Manifest;
use strongroom_store::repo::Repo;
use strongroom_store::tree::{Blob, BlobSource, Gather, InOrder, SourceError};

use crate::failure::Failure;
use crate::restoring::find;
use crate::shelf::{Shelf, Staged};
use crate::vault::Opener;

/// What is brought from where.
pub(crate) struct Cartridges {
    pub(crate) media: PathBuf,
    pub(crate) opener: Opener,
    /// Where packs are put.
    pub(crate) staging: PathBuf,
}

/// A point on media as a source of blobs.
pub(crate) struct Lending {
    staged: Shared,
    orders: Mutex<Option<Sender<Order>>>,
    librarian: Option<JoinHandle<()>>,
}

/// Chunks somebody waits for.
struct Order {
    ids: Vec<ChunkId>,
    done: SyncSender<()>,
}

/// What is staged, as it was last opened.
type Shared = Arc<RwLock<Repo>>;

/// The metadata is staged, or why it is not.
type Ready = Result<(Shared, Manifest), Failure>;

impl Lending {
    /// Looks at every cartridge, and stages the metadata of a point. Blocking.
    pub(crate) fn open(
        cartridges: Cartridges,
        point: PointRef,
    ) -> Result<(Self, Manifest), Failure> {
        let (ready, opened) = sync_channel(1);
        let (orders, waiting) = channel();
        let librarian = std::thread::Builder::new()
            .name("librarian".to_owned())
            .spawn(move || attend(&cartridges, &point, &ready, &waiting))?;
        let broke_off = |_| Failure::new("looking at the cartridges broke off");
        let (staged, manifest) = opened.recv().map_err(broke_off)??;
        let orders = Mutex::new(Some(orders));
        Ok((Self { staged, orders, librarian: Some(librarian) }, manifest))
    }

    /// Waits until these are staged, as far as they are on cartridges that are here.
    pub(crate) fn bring(&self, ids: Vec<ChunkId>) {
        let repo = self.repo();
        let Ok(places) = repo.place(&ids) else { return };
        let lacking = ids.into_iter().zip(places).filter(|(_, place)| place.is_none());
        let ids: Vec<ChunkId> = lacking.map(|(id, _)| id).collect();
        if ids.is_empty() {
            return;
        }
        let (done, end) = sync_channel(1);
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if orders.is_some_and(|orders| orders.send(Order { ids, done }).is_ok()) {
            // It ends with an answer or with the librarian: what did not come is missing then.
            let _ = end.recv();
        }
    }

    fn repo(&self) -> Repo {
        self.staged.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Lending {
    fn drop(&mut self) {
        drop(self.orders.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(librarian) = self.librarian.take() {
            // Its failures were told where they happened.
            let _ = librarian.join();
        }
    }
}

impl BlobSource for Lending {
    fn blob(&self, kind: BlobKind, id: ChunkId) -> Result<Blob, SourceError> {
        match self.repo().blob(kind, id) {
            Err(SourceError::Missing { .. }) if !kind.is_metadata() => {
                self.bring(vec![id]);
                self.repo().blob(kind, id)
            }
            found => found,
        }
    }

    fn gather<'s>(&'s self, mut ids: Vec<ChunkId>) -> Box<dyn Gather + 's> {
        self.bring(ids.clone());
        if let Ok(places) = self.repo().place(&ids) {
            let mut placed: Vec<_> = places.into_iter().zip(ids).collect();
            placed.sort_by_key(|(place, _)| place.as_ref().map(|place| (place.pack, place.offset)));
            ids = placed.into_iter().map(|(_, id)| id).collect();
        }
        Box::new(InOrder::new(self, ids))
    }
}

/// The librarian's work: stages what is needed to begin, then what is ordered.
fn attend(
    cartridges: &Cartridges,
    point: &PointRef,
    ready: &SyncSender<Ready>,
    orders: &Receiver<Order>,
) {
    let Cartridges { media, opener, staging } = cartridges;
    let opened = Shelf::open(media).and_then(|shelf| {
        let found = find(shelf.points(Some(opener))?, point)?;
        let key = shelf.vault_key(found.repo, opener)?;
        Ok((shelf, found.point, key))
    });
    // Who waits for it may have gone; then there is nobody to tell.
    let (shelf, point, key) = match opened {
        Ok(opened) => opened,
        Err(failure) => return drop(ready.send(Err(failure))),
    };
    let mut staged = match shelf.stage(staging, point, &key) {
        Ok(staged) => staged,
        Err(failure) => return drop(ready.send(Err(failure))),
    };
    let shared = Arc::new(RwLock::new(staged.repo()));
    drop(ready.send(Ok((Arc::clone(&shared), staged.scene.manifest.clone()))));
    while let Ok(first) = orders.recv() {
        let all: Vec<Order> = std::iter::once(first).chain(orders.try_iter()).collect();
        bring(&mut staged, staging, &all);
        *shared.write().unwrap_or_else(PoisonError::into_inner) = staged.repo();
        for order in all {
            // Who waited may have given up.
            let _ = order.done.send(());
        }
    }
}

fn bring(staged: &mut Staged<'_>, staging: &std::path::Path, orders: &[Order]) {
    let wanted: HashSet<ChunkId> = orders.iter().flat_map(|order| order.ids.clone()).collect();
    let chunks = wanted.len();
    match staged.bring_chunks(staging, wanted, &mut |_| {}) {
        Ok(brought) if brought.lacking == 0 => {
            tracing::debug!(chunks, packs = brought.packs, bytes = brought.bytes, "brought");
        }
        Ok(brought) => {
            let insert: Vec<&str> = brought.wanted.iter().map(String::as_str).collect();
            let (lacking, insert) = (brought.lacking, insert.join(", "));
            tracing::warn!(lacking, insert, "chunks are on no cartridge here that can be read");
        }
        Err(failure) => tracing::warn!(%failure, "the cartridges could not be read"),
    }
}
