//! Turns an exported disk into the blocks of a plain image: on the grid of every machine's disk,
//! with what did not change named as the last point named it, and zeroes as holes.

use std::io::Read;
use std::sync::atomic::Ordering;

use super::changes::Areas;
use super::disks::Disk;
use super::vmdk::{Vmdk, VmdkError};
use crate::workload::compose::blocks::BLOCK_BYTES;
use crate::workload::files::ProtectError;
use crate::workload::files::progress::count;
use crate::workload::moment::Reading;
use crate::workload::vm::remember::{Remembered, Remembering};
use crate::workload::vm::writing::{DiskRead, Writing};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// What is known of a disk before it is read.
pub(super) struct Ground {
    /// What was written since the last point, with the blocks of it.
    pub(super) last: Option<(Areas, Remembered)>,
    pub(super) memory: Option<Remembering>,
}

/// Reads a disk from its export; `stands` is asked now and then whether to go on.
pub(super) fn disk(
    reading: &Reading<'_>,
    source: impl Read,
    disk: &Disk,
    ground: Ground,
    stands: &dyn Fn(u64) -> Result<(), ProtectError>,
) -> Result<DiskRead, ProtectError> {
    let mut image = Vmdk::open(source).map_err(failed)?;
    if image.size() != disk.bytes {
        let size = image.size();
        let (disk, bytes) = (disk.name.clone(), disk.bytes);
        return Err(failed(DiskError::Size { disk, bytes, size }));
    }
    let (areas, last) = ground.last.unzip();
    let writing = Writing::new(reading, last, ground.memory);
    let mut filling = Filling { writing, areas, size: disk.bytes, at: 0, block: None };
    loop {
        if reading.stop.load(Ordering::Relaxed) {
            return Err(ProtectError::Stopped);
        }
        stands(filling.at)?;
        let areas = filling.areas.as_ref();
        // Whole blocks are written, so all of a block that changed matters.
        let wanted = |offset: u64, length: u64| {
            let from = offset / BLOCK * BLOCK;
            let to = (offset + length).next_multiple_of(BLOCK);
            areas.is_none_or(|areas| areas.touch(from, to - from))
        };
        let Some(grain) = image.grain(&wanted).map_err(failed)? else { break };
        if let Some(bytes) = grain.bytes {
            count(&reading.progress.read_bytes, bytes.len() as u64);
            filling.add(grain.offset, bytes)?;
        }
    }
    filling.finish()
}

/// A disk that is put together from what comes of it.
struct Filling<'run> {
    writing: Writing<'run>,
    areas: Option<Areas>,
    size: u64,
    /// Where the next block begins that was not written.
    at: u64,
    /// What has come of that block.
    block: Option<Vec<u8>>,
}

impl Filling<'_> {
    /// A stretch that is not zeroes; what lies between it and the one before is.
    fn add(&mut self, mut offset: u64, mut bytes: &[u8]) -> Result<(), ProtectError> {
        while !bytes.is_empty() {
            self.pass(offset / BLOCK * BLOCK)?;
            let within = usize::try_from(offset - self.at).unwrap_or(0);
            let length = self.length();
            let taken = bytes.len().min(length - within);
            let (now, rest) = bytes.split_at(taken);
            let block = self.block.get_or_insert_with(|| vec![0; length]);
            if let Some(place) = block.get_mut(within..within + taken) {
                place.copy_from_slice(now);
            }
            (offset, bytes) = (offset + taken as u64, rest);
        }
        Ok(())
    }

    /// The length of the block at hand.
    fn length(&self) -> usize {
        usize::try_from(BLOCK.min(self.size - self.at)).unwrap_or(0)
    }

    /// Writes all blocks before `to`.
    fn pass(&mut self, to: u64) -> Result<(), ProtectError> {
        while self.at < to {
            let length = self.length();
            let kept = self.areas.as_ref().is_some_and(|areas| !areas.touch(self.at, BLOCK));
            let short = u32::try_from(length).unwrap_or(BLOCK_BYTES);
            match self.block.take() {
                _ if kept => self.writing.keep(short)?,
                Some(block) => self.writing.data(&block)?,
                None => self.writing.hole(short)?,
            }
            self.at += length as u64;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<DiskRead, ProtectError> {
        self.pass(self.size)?;
        self.writing.finish()
    }
}

/// Why a disk was not read.
#[derive(Debug, thiserror::Error)]
enum DiskError {
    #[error("disk {disk} is {bytes} bytes, and its export is of {size}")]
    Size { disk: String, bytes: u64, size: u64 },
    #[error("a disk of the machine cannot be read")]
    Image(#[from] VmdkError),
}

fn failed(error: impl Into<DiskError>) -> ProtectError {
    ProtectError::Application(Box::new(error.into()))
}
