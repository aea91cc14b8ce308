//! Windows of the peers that came in. Those that move bulk share one budget of the node evenly, so
//! that fifty of them take no more memory than a few; the others have what questions need.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::transport::CONNECTION_WINDOW_BYTES;

/// Bytes in flight one way of all peers that came in and move bulk.
const NODE_WINDOW_BYTES: u32 = 40 << 20;
/// Bytes in flight of one that moves bulk, however many there are.
const BUSY_WINDOW_BYTES_MIN: u32 = 512 << 10;
/// Bytes in flight of one that does not: questions, answers and the news of a job.
const QUIET_WINDOW_BYTES: u32 = 1 << 20;

/// The connections of one endpoint that move bulk.
#[derive(Default)]
pub(super) struct Windows {
    busy: Mutex<HashMap<usize, Busy>>,
}

struct Busy {
    connection: quinn::Connection,
    streams: usize,
}

/// A stream that moves bulk; dropping it gives its share back.
#[must_use]
pub struct Bulk {
    shared: Option<(Arc<Windows>, usize)>,
}

impl Windows {
    fn busy(&self) -> MutexGuard<'_, HashMap<usize, Busy>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives an admitted peer what questions need.
    pub(super) fn widen(&self, connection: &quinn::Connection) {
        if !self.busy().contains_key(&connection.stable_id()) {
            set(connection, QUIET_WINDOW_BYTES);
        }
    }

    /// Counts a stream of bulk in.
    pub(super) fn begin(self: &Arc<Self>, connection: &quinn::Connection) -> Bulk {
        let id = connection.stable_id();
        let mut busy = self.busy();
        let fresh = || Busy { connection: connection.clone(), streams: 0 };
        busy.entry(id).or_insert_with(fresh).streams += 1;
        share_out(&busy);
        Bulk { shared: Some((Arc::clone(self), id)) }
    }

    fn end(&self, id: usize) {
        let mut busy = self.busy();
        let Some(one) = busy.get_mut(&id) else { return };
        one.streams -= 1;
        if one.streams == 0 {
            let ended = busy.remove(&id);
            share_out(&busy);
            if let Some(ended) = &ended {
                set(&ended.connection, QUIET_WINDOW_BYTES);
            }
            // Its own end may want the lock no more than this does.
            drop(busy);
        }
    }
}

impl Bulk {
    /// Of a connection that this side dialled: its windows are its own.
    pub(super) const fn unshared() -> Self {
        Self { shared: None }
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        if let Some((windows, id)) = self.shared.take() {
            windows.end(id);
        }
    }
}

impl std::fmt::Debug for Windows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Windows").field("busy", &self.busy().len()).finish()
    }
}

fn share_out(busy: &HashMap<usize, Busy>) {
    let share = share(busy.len());
    busy.values().for_each(|one| set(&one.connection, share));
}

/// What each of so many has.
fn share(connections: usize) -> u32 {
    let connections = u32::try_from(connections.max(1)).unwrap_or(u32::MAX);
    (NODE_WINDOW_BYTES / connections).clamp(BUSY_WINDOW_BYTES_MIN, CONNECTION_WINDOW_BYTES)
}

fn set(connection: &quinn::Connection, bytes: u32) {
    connection.set_receive_window(quinn::VarInt::from_u32(bytes));
    connection.set_send_window(u64::from(bytes));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_have_whole_windows_and_many_share_the_budget() {
        assert_eq!([1, 2].map(share), [CONNECTION_WINDOW_BYTES; 2]);
        assert_eq!(share(50), NODE_WINDOW_BYTES / 50);
        assert!((1..=80).all(|count| share(count) as usize * count <= NODE_WINDOW_BYTES as usize));
        assert_eq!(share(1000), BUSY_WINDOW_BYTES_MIN);
    }
}
