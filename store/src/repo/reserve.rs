//! The reserve: a file whose only use is to be removed when the disk is full, so that a collection
//! has room for its record. It is made when there is plenty of room, and made again afterwards.

use std::sync::atomic::Ordering;

use super::{Inner, Repo};
use crate::disk::DiskResult;

/// Where it lies.
const PATH: &str = "reserve";
/// Its length, unless it was set: room for the record of a million packs, and an index segment.
pub const RESERVE_BYTES: u64 = 64 << 20;
/// It is made where this many times as much is free.
const FREE_TIMES_MIN: u64 = 32;

impl Repo {
    /// Sets how long the reserve is, for tests and small disks; 0 for none.
    pub fn set_reserve(&self, bytes: u64) {
        self.inner.reserve_bytes.store(bytes, Ordering::Relaxed);
        self.inner.make_reserve();
    }
}

impl Inner {
    /// Makes the reserve if there is none and room enough. Never an error: it is a precaution.
    pub(super) fn make_reserve(&self) {
        let bytes = self.reserve_bytes.load(Ordering::Relaxed);
        let has_room = self.disk.free_bytes().is_some_and(|free| free >= bytes * FREE_TIMES_MIN);
        if bytes == 0 || !has_room || !matches!(self.disk.exists(PATH), Ok(false)) {
            return;
        }
        if let Err(error) = self.disk.allocate(PATH, bytes) {
            tracing::warn!(%error, "no reserve could be set aside");
        }
    }

    /// Does something that needs a little room, giving up the reserve if there is none.
    pub(super) fn with_reserve<T>(&self, deed: impl Fn() -> DiskResult<T>) -> DiskResult<T> {
        match deed() {
            Err(error) if error.is_full() && self.disk.remove(PATH).is_ok() => {
                tracing::warn!("the disk is full: the reserve is given up");
                deed()
            }
            done => done,
        }
    }
}
