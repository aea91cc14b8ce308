//! Watches the scratch while a machine is read. Promises that the backup is given up before the
//! scratch is full: a write of the guest waits for what it overwrites to be put aside, and
//! without room there it would fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::backup::Backup;
use crate::workload::vm::guard::free_bytes;

/// How often it looks: no disk writes the reserve in that time.
const LOOK: Duration = Duration::from_millis(200);

/// A watch that is being kept.
#[derive(Debug)]
pub(super) struct Watch {
    stop: SyncSender<()>,
    thread: JoinHandle<()>,
    broken: Arc<AtomicBool>,
}

impl Watch {
    pub(super) fn start(backup: Backup, free_bytes_min: u64) -> Self {
        let (stop, stopped) = sync_channel(1);
        let broken = Arc::new(AtomicBool::new(false));
        let raised = Arc::clone(&broken);
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                if free_bytes(&backup.scratch).is_none_or(|free| free >= free_bytes_min) {
                    continue;
                }
                // First told, then done: what is read from now on is of no one moment.
                raised.store(true, Ordering::SeqCst);
                if let Err(error) = backup.end() {
                    tracing::error!(%error, "the backup of a machine could not be given up");
                }
                break;
            }
        });
        Self { stop, thread, broken }
    }

    /// Whether the backup was given up.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }

    /// Ends the watch; whether the backup stands.
    pub(super) fn end(self) -> bool {
        // It may have ended by itself.
        let _ = self.stop.try_send(());
        self.thread.join().is_ok() && !self.broken.load(Ordering::SeqCst)
    }
}
