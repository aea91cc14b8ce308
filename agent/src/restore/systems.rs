//! The file systems a restore writes to: its target may have others mounted below it. Promises
//! that what was written to any of them is on its disk once it is synced, or that this is an
//! error.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

/// A directory of each, by the device's number. Open from before the first write: an error of
/// a later one is told to whoever had it open.
#[derive(Debug, Default)]
pub(crate) struct Systems(Mutex<BTreeMap<u64, OwnedFd>>);

impl Systems {
    /// Something will be written below this directory.
    pub(super) fn note(&self, dir: BorrowedFd<'_>) -> io::Result<()> {
        let device = rustix::fs::fstat(dir)?.st_dev;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let std::collections::btree_map::Entry::Vacant(vacant) = known.entry(device) {
            vacant.insert(rustix::io::dup(dir)?);
        }
        Ok(())
    }

    /// Waits until all of it is on disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        let known = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        known.values().try_for_each(|dir| Ok(rustix::fs::syncfs(dir)?))
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::path::Path;

    use rustix::fs::{Mode, OFlags};
    use strongroom_protocol::Chain;

    use crate::restore::{RestoreError, RestoreOptions, Restorer};

    fn open(path: &Path, flags: OFlags) -> std::os::fd::OwnedFd {
        rustix::fs::open(path, flags | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    #[test]
    fn a_restore_that_the_disk_does_not_confirm_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let restorer = Restorer::new(RestoreOptions::new(dir.path()), std::sync::Arc::default());
        // What cannot be synced: a handle that is no open file.
        let handle = open(dir.path(), OFlags::PATH);
        restorer.shared.systems.note(handle.as_fd()).unwrap();
        let error = restorer.conclude().unwrap_err();
        assert!(matches!(error, RestoreError::Unsynced { .. }), "{error:?}");
        assert!(Chain(&error).to_string().contains("not safe on its disk"), "{}", Chain(&error));

        let restorer = Restorer::new(RestoreOptions::new(dir.path()), std::sync::Arc::default());
        let target = open(dir.path(), OFlags::RDONLY);
        restorer.shared.systems.note(target.as_fd()).unwrap();
        // The same file system: it has its handle.
        restorer.shared.systems.note(handle.as_fd()).unwrap();
        restorer.conclude().unwrap();
    }
}
