//! A file cut on a fixed grid, for what changes block by block in place and says which: an
//! unchanged block is named again without being read. Promises that zeroes become holes.

use strongroom_protocol::{BlobKind, ChunkId};
use strongroom_store::content::{ChunkExtent, FileContent};
use strongroom_store::list::ListBuilder;

use crate::workload::Through;
use crate::workload::files::ProtectError;
use crate::workload::files::progress::count;
use crate::workload::moment::Reading;

/// The grid, in bytes: what QEMU tracks changes by, and a cluster of its images.
pub const BLOCK_BYTES: u32 = 64 << 10;

/// Such a file, written from its beginning to its end.
pub struct BlocksFile<'run> {
    reading: &'run Reading<'run>,
    extents: ListBuilder,
}

impl<'run> BlocksFile<'run> {
    /// Nothing yet.
    pub const fn new(reading: &'run Reading<'run>) -> Self {
        Self { reading, extents: ListBuilder::new() }
    }

    /// Adds zeroes.
    ///
    /// # Errors
    /// The sink takes nothing more.
    pub fn hole(&mut self, length: u64) -> Result<(), ProtectError> {
        let sink = &mut Through(self.reading.sink);
        Ok(self.extents.push(ChunkExtent::Hole { length }, sink)?)
    }

    /// Adds a block that an earlier point holds.
    ///
    /// # Errors
    /// The sink takes nothing more.
    pub fn known(&mut self, id: ChunkId, length: u32) -> Result<(), ProtectError> {
        let sink = &mut Through(self.reading.sink);
        Ok(self.extents.push(ChunkExtent::Chunk { id, offset: 0, length }, sink)?)
    }

    /// Adds a block; its name, or none where it is all zeroes.
    ///
    /// # Errors
    /// The sink takes nothing more.
    pub fn data(&mut self, block: &[u8]) -> Result<Option<ChunkId>, ProtectError> {
        if block.iter().all(|byte| *byte == 0) {
            self.hole(block.len() as u64)?;
            return Ok(None);
        }
        count(&self.reading.progress.chunks, 1);
        let id = self.reading.sink.put(BlobKind::Data, Vec::new(), block.to_vec())?;
        self.known(id, u32::try_from(block.len()).unwrap_or(u32::MAX))?;
        Ok(Some(id))
    }

    /// The length and the content, for the file's entry.
    ///
    /// # Errors
    /// The sink takes nothing more.
    pub fn finish(self) -> Result<(u64, FileContent), ProtectError> {
        let size = self.extents.size();
        Ok((size, self.extents.finish(&mut Through(self.reading.sink))?))
    }
}
