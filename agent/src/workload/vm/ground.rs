//! A disk of a machine before its moment, whichever way leads to the machine, and how what is known
//! of it decides what is read.

use std::path::{Path, PathBuf};

use super::machine::{Disk, Whole};
use super::point::{How, ReadDisk, remembering};
use super::read::{Ground, disk};
use super::remember::{Mark, Remembered};
use crate::workload::compose::blocks::BLOCK_BYTES;
use crate::workload::files::ProtectError;
use crate::workload::moment::{Memory, Reading};

/// A disk, and what the last point knows of it.
#[derive(Debug)]
pub(in crate::workload) struct DiskGround {
    pub(in crate::workload) disk: Disk,
    pub(in crate::workload) mark: Mark,
    /// What the machine keeps of the last point (a bitmap, or its checkpoint), with its blocks.
    pub(in crate::workload) last: Result<(String, Remembered), Whole>,
}

impl DiskGround {
    /// Reads the disk from `socket`, where the bitmap `changed` says what changed since; what is
    /// read is to be remembered at `memory`.
    pub(in crate::workload) fn read(
        self,
        reading: &Reading<'_>,
        (socket, changed): (&Path, &str),
        memory: &Path,
        given_up: &dyn Fn() -> bool,
    ) -> Result<ReadDisk, ProtectError> {
        let Self { disk: known, mark, last } = self;
        let (last, how) = match last {
            Ok((_, remembered)) => (Some((changed, remembered)), How::Changed),
            Err(Whole::First) => (None, How::Whole(None)),
            Err(Whole::Doubt(why)) => (None, How::Whole(Some(why))),
        };
        let ground = Ground { last, memory: remembering(memory, &mark) };
        let read = disk(reading, socket, &known, ground, given_up)?;
        Ok(ReadDisk { disk: known, read, how })
    }
}

/// What a disk of the machine with this UUID is remembered by.
pub(in crate::workload) fn mark(memory: &Memory, uuid: &str, disk: &Disk) -> Mark {
    Mark {
        repo: memory.repo,
        workload: memory.workload,
        point: memory.point,
        identity: format!("{uuid} {} {} {}", disk.name, disk.format, disk.file),
        bytes: disk.bytes,
        block_bytes: BLOCK_BYTES,
    }
}

/// Where a disk is remembered.
pub(in crate::workload) fn memory_of(memory: &Memory, disk: &Disk) -> PathBuf {
    memory.path(&format!("vm-{}", disk.name))
}
