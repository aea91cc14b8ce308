//! What the medium of a simulated disk holds where memory says something else: rot, lost
//! writes behind a good fsync, and places that cannot be read.

use std::io;

use super::super::{ColdSink, DiskError, DiskResult};
use super::{Damage, SimDisk};

/// Bytes handed on at once: several pieces even of small files.
const PIECE_BYTES: usize = 512;

impl SimDisk {
    /// Changes what the medium holds of a file, while readers are answered from memory.
    pub fn lie(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) -> Damage {
        let mut state = self.state();
        let Some(inode) = state.names.get(path).copied() else { return Damage::NoSuchFile };
        let mut bytes = state.files.get(&inode).cloned().unwrap_or_default();
        change(&mut bytes);
        state.cold.insert(inode, bytes);
        Damage::Done
    }

    /// Changes the bytes of a file for good: crash images of a disk that was itself one have
    /// the change too.
    pub fn rot(&self, path: &str, change: impl Fn(&mut Vec<u8>)) -> Damage {
        let mut state = self.state();
        let Some(inode) = state.names.get(path).copied() else { return Damage::NoSuchFile };
        if let Some(bytes) = state.base.0.get_mut(&inode) {
            change(bytes);
        }
        match state.files.get_mut(&inode) {
            Some(bytes) => {
                change(bytes);
                Damage::Done
            }
            None => Damage::NoSuchFile,
        }
    }

    /// From now on the file under this name cannot be read from the medium: EIO.
    pub fn spoil(&self, path: &str) -> Damage {
        let mut state = self.state();
        match state.names.get(path).copied() {
            Some(inode) => {
                state.unreadable.insert(inode);
                Damage::Done
            }
            None => Damage::NoSuchFile,
        }
    }

    pub(super) fn stream_cold(&self, path: &str, take: &mut ColdSink<'_>) -> DiskResult<()> {
        let (bytes, is_readable) = {
            let state = self.state();
            let inode = state.inode("read", path)?;
            let held = state.cold.get(&inode).or_else(|| state.files.get(&inode));
            (held.cloned().unwrap_or_default(), !state.unreadable.contains(&inode))
        };
        for piece in bytes.chunks(PIECE_BYTES) {
            if !is_readable {
                let source = io::Error::other("input/output error");
                return Err(DiskError { action: "read", path: path.to_owned(), source });
            }
            if take(piece).is_break() {
                return Ok(());
            }
        }
        Ok(())
    }
}
