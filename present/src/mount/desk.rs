//! Who answers: the thread that hears a question where everything is here, one of many that may
//! wait otherwise, so that nobody waits behind another. What will be wanted next is fetched
//! meanwhile, by a few.

use std::io;
use std::sync::Arc;

use fuser::{Errno, FileHandle};
use strongroom_protocol::ChunkId;

use super::listing::Batch;
use super::pool::{Pool, Waiting};
use super::view::{Miss, View};
use super::{Permissions, Totals};
use crate::reader::extents::Fetch;

/// Threads that wait for what is fetched: so many answers are under way at once.
const WORKERS: usize = 128;
/// Threads that fetch pages nobody asked for yet.
const FORESEERS: usize = 8;
/// Pages to be fetched ahead that may wait; more are forgotten.
const FORESEEN_WAITING: usize = 256;

/// A view that the kernel asks.
pub(super) struct Service {
    desk: Arc<Desk>,
    workers: Pool,
    pub(super) permissions: Permissions,
    pub(super) totals: Totals,
}

/// What every answer is made with.
pub(super) struct Desk {
    view: Arc<View>,
    foreseers: Pool,
}

impl Desk {
    /// Has pages fetched that will be wanted.
    pub(super) fn foresee(&self, pages: &[ChunkId]) {
        for page in pages.iter().copied() {
            if !matches!(self.view.pages.page(page, Fetch::Nothing), Ok(None)) {
                continue;
            }
            let view = Arc::clone(&self.view);
            let taken = self.foreseers.run(move || {
                if let Err(error) = view.pages.page(page, Fetch::Absent) {
                    tracing::debug!(%page, %error, "could not be fetched ahead");
                }
            });
            if !taken {
                return;
            }
        }
    }
}

impl Service {
    pub(super) fn new(view: View, permissions: Permissions, totals: Totals) -> io::Result<Self> {
        let workers = Pool::new("mount", WORKERS, Waiting::All)?;
        let foreseers = Pool::new("foresee", FORESEERS, Waiting::AtMost(FORESEEN_WAITING))?;
        let desk = Arc::new(Desk { view: Arc::new(view), foreseers });
        Ok(Self { desk, workers, permissions, totals })
    }

    pub(super) fn view(&self) -> &View {
        &self.desk.view
    }

    /// Answers now where everything is here, and by a thread that may wait otherwise.
    pub(super) fn serve<T: 'static>(
        &self,
        work: impl Fn(&View, Fetch) -> Result<T, Miss> + Send + 'static,
        answer: impl FnOnce(&Desk, Result<T, Errno>) + Send + 'static,
    ) {
        match work(self.view(), Fetch::Nothing) {
            Ok(found) => answer(&self.desk, Ok(found)),
            Err(Miss::Errno(errno)) => answer(&self.desk, Err(errno)),
            Err(Miss::NotHere) => {
                let desk = Arc::clone(&self.desk);
                // Not taken: the threads have ended, and a reply that is dropped says EIO.
                self.workers.run(move || {
                    let found = work(&desk.view, Fetch::Absent).map_err(|miss| match miss {
                        Miss::Errno(errno) => errno,
                        Miss::NotHere => Errno::EIO,
                    });
                    answer(&desk, found);
                });
            }
        }
    }

    /// The names of a directory from a place on.
    pub(super) fn batch(
        &self,
        handle: FileHandle,
        from: u64,
        answer: impl FnOnce(&View, Result<Batch, Errno>) + Send + 'static,
    ) {
        let Some(directory) = self.view().directories.find(handle.0) else {
            return answer(self.view(), Err(Errno::EBADF));
        };
        let work = move |view: &View, fetch| view.list(&directory, from, fetch);
        self.serve(work, |desk, batch| {
            if let Ok(batch) = &batch {
                desk.foresee(batch.following());
            }
            answer(&desk.view, batch);
        });
    }
}
