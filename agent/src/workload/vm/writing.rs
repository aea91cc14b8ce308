//! A disk being written into a point, block by block in its order: what is as the last point has
//! it is named again, and what is written is remembered for the next.

use std::io;

use serde::Serialize;
use strongroom_protocol::ChunkId;
use strongroom_store::content::FileContent;

use super::remember::{Known, Remembered, Remembering, Unkept};
use crate::workload::compose::blocks::BlocksFile;
use crate::workload::files::ProtectError;
use crate::workload::moment::Reading;

/// How a disk was read.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Told {
    /// Blocks that the bitmap says were written, in bytes; all for a whole read.
    pub changed_bytes: u64,
    pub read_bytes: u64,
    pub zero_bytes: u64,
    pub kept_bytes: u64,
}

/// A disk that was read.
#[derive(Debug)]
pub(in crate::workload) struct DiskRead {
    pub(in crate::workload) size: u64,
    pub(in crate::workload) content: FileContent,
    pub(in crate::workload) told: Told,
    /// What is to be remembered once the point is committed.
    pub(in crate::workload) memory: Option<Unkept>,
}

/// A disk being written into the point.
pub(in crate::workload) struct Writing<'run> {
    file: BlocksFile<'run>,
    last: Option<Remembered>,
    memory: Option<Remembering>,
    told: Told,
}

impl<'run> Writing<'run> {
    /// A disk of which the point before is `last`, if that is known.
    pub(in crate::workload) fn new(
        reading: &'run Reading<'run>,
        last: Option<Remembered>,
        memory: Option<Remembering>,
    ) -> Self {
        Self { file: BlocksFile::new(reading), last, memory, told: Told::default() }
    }

    /// The next block is as it was.
    pub(in crate::workload) fn keep(&mut self, length: u32) -> Result<(), ProtectError> {
        self.told.kept_bytes += u64::from(length);
        match self.known()? {
            Some(Known::Chunk(id)) => {
                self.file.known(id, length)?;
                self.remember(Some(id));
            }
            _ => {
                self.file.hole(u64::from(length))?;
                self.remember(None);
            }
        }
        Ok(())
    }

    /// The next block is zeroes.
    pub(in crate::workload) fn hole(&mut self, length: u32) -> Result<(), ProtectError> {
        self.known()?;
        self.told.changed_bytes += u64::from(length);
        self.told.zero_bytes += u64::from(length);
        self.file.hole(u64::from(length))?;
        self.remember(None);
        Ok(())
    }

    /// The next block is this.
    pub(in crate::workload) fn data(&mut self, block: &[u8]) -> Result<(), ProtectError> {
        self.known()?;
        self.told.changed_bytes += block.len() as u64;
        self.told.read_bytes += block.len() as u64;
        let id = self.file.data(block)?;
        self.remember(id);
        Ok(())
    }

    /// What the last point has there.
    fn known(&mut self) -> Result<Option<Known>, ProtectError> {
        let known = self.last.as_mut().map(Remembered::next).transpose();
        known.map_err(|error| ProtectError::Application(Box::new(MemoryError(error))))
    }

    fn remember(&mut self, block: Option<ChunkId>) {
        let block = block.map_or(Known::Hole, Known::Chunk);
        let Some(Err(error)) = self.memory.as_mut().map(|memory| memory.push(block)) else {
            return;
        };
        tracing::warn!(%error, "nothing is remembered: the next read is whole");
        self.memory = None;
    }

    /// The end of the disk.
    pub(in crate::workload) fn finish(self) -> Result<DiskRead, ProtectError> {
        let memory = self.memory.map(Remembering::finish).transpose();
        let memory = memory.unwrap_or_else(|error| {
            tracing::warn!(%error, "nothing is remembered: the next read is whole");
            None
        });
        let (size, content) = self.file.finish()?;
        Ok(DiskRead { size, content, told: self.told, memory })
    }
}

/// What was remembered cannot be read on.
#[derive(Debug, thiserror::Error)]
#[error("what is remembered of a disk of the machine cannot be read")]
struct MemoryError(#[source] io::Error);
