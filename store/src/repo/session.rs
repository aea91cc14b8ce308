//! Sessions: leases on what a repository holds. Whatever a session was told is here, or read the
//! place of, stays until it ends, whatever is collected meanwhile. Cheap to open; a restore, a
//! transfer and a protection each hold one.

use std::ops::Deref;
use std::sync::Arc;

use strongroom_protocol::id::PackId;

use super::Repo;
use crate::index::{BEFORE_ALL, Index, Rescue, Tick, View};

/// A repository as one session sees it. It ends when this and every clone of the repository
/// taken from it are dropped.
#[derive(Clone, Debug)]
pub struct Session {
    repo: Repo,
}

impl Deref for Session {
    type Target = Repo;

    fn deref(&self) -> &Repo {
        &self.repo
    }
}

/// Ends the session when dropped.
pub(super) struct Lease {
    index: Arc<Index>,
    began: Tick,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.index.end_session(self.began);
    }
}

impl Repo {
    /// Opens a session.
    pub fn session(&self) -> Session {
        let index = Arc::clone(&self.inner.index);
        let began = index.begin_session();
        let lease = Some(Arc::new(Lease { index, began }));
        Session { repo: Self { inner: Arc::clone(&self.inner), lease } }
    }

    /// Sessions open now, this one among them.
    pub fn open_sessions(&self) -> usize {
        self.inner.index.open_sessions()
    }

    /// Takes a pack off the list of the condemned; false when it is gone.
    pub(crate) fn keep_pack(&self, pack: PackId) -> bool {
        self.inner.index.rescue(&pack) == Rescue::Kept
    }

    /// What this repository's lookups may count on. Who holds no session is older than every
    /// condemnation: asking takes a pack off the list, but nothing keeps it there afterwards.
    pub(super) fn view(&self) -> View {
        View::Session(self.lease.as_ref().map_or(BEFORE_ALL, |lease| lease.began))
    }
}
