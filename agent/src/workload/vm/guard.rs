//! Watches the scratch while a machine is read. Promises that the backup is given up before
//! the scratch is full: a write of the guest waits for what it overwrites to be put aside, and
//! without room there it would fail.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::fleece::Fleece;
use super::qmp::Qmp;

/// How often it looks: no disk writes the reserve in that time.
const LOOK: Duration = Duration::from_millis(200);
/// What must stay free, in bytes.
pub(in crate::workload) const FREE_BYTES_MIN: u64 = 512 << 20;

/// A watch that is being kept. It has the monitor meanwhile.
#[derive(Debug)]
pub(super) struct Guard {
    stop: SyncSender<()>,
    thread: JoinHandle<Qmp>,
    broken: Arc<AtomicBool>,
}

impl Guard {
    pub(super) fn start(mut qmp: Qmp, fleece: Fleece, free_bytes_min: u64) -> Self {
        let (stop, stopped) = sync_channel(1);
        let broken = Arc::new(AtomicBool::new(false));
        let raised = Arc::clone(&broken);
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                if free_bytes(&fleece.scratch).is_none_or(|free| free >= free_bytes_min) {
                    continue;
                }
                // First told, then done: what is read from now on is of no one moment.
                raised.store(true, Ordering::SeqCst);
                if let Err(error) = fleece.end(&mut qmp) {
                    tracing::error!(%error, "the backup of a machine could not be given up");
                }
                break;
            }
            qmp
        });
        Self { stop, thread, broken }
    }

    /// Whether the backup was given up.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }

    /// Ends the watch; the monitor, if the thread lived, and whether the backup stands.
    pub(super) fn end(self) -> (Option<Qmp>, bool) {
        // It may have ended by itself.
        let _ = self.stop.try_send(());
        let qmp = self.thread.join().ok();
        (qmp, !self.broken.load(Ordering::SeqCst))
    }
}

/// Why too little is free in `scratch` to begin, if it is.
pub(in crate::workload) fn short_of_room(scratch: &Path, bytes_min: u64) -> Option<String> {
    let free = free_bytes(scratch).filter(|free| *free < bytes_min)?;
    Some(format!(
        "only {free} bytes are free, and {bytes_min} must stay so; name another place with the \
         key `scratch`"
    ))
}

/// Bytes free to the machine's process, where the file system says.
pub(in crate::workload) fn free_bytes(dir: &Path) -> Option<u64> {
    let place: PathBuf = dir.to_owned();
    let told = rustix::fs::statvfs(&place).ok()?;
    Some(told.f_bavail.saturating_mul(told.f_frsize))
}
