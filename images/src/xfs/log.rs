//! Whether a mount would replay the log. The log is a ring; every sector of it begins with the
//! number of its round, so the newest record is where that number changes. Nothing is replayed
//! here: what is read is what lies in place.

use crate::raw::{Block, Raw};
use crate::system::Problem;
use crate::volume::Volume;

use super::geometry::Geometry;

const SECTOR: u64 = 512;
const MAGIC: u32 = 0xfeed_babe;
/// How far back the newest record may begin: a record of 256 KiB and its headers.
const BACK_SECTORS_MAX: u64 = 640;
/// Of a record, how much tells whether it is the last word of a mount.
const RECORD_HEADER_BYTES_MAX: u32 = 32 << 10;
const UNMOUNT: u8 = 0x20;

/// What the log says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Log {
    /// Its last record is that of an unmount.
    Clean,
    /// On a device of its own, which is not here.
    Elsewhere,
    /// A mount would replay it.
    ToReplay,
}

/// Finds the last record of the log.
pub(super) fn read(volume: &dyn Volume, geometry: &Geometry) -> Result<Log, Problem> {
    if geometry.log_first == 0 {
        return Ok(Log::Elsewhere);
    }
    let what = "the log of XFS";
    let blocks = u64::from(geometry.log_blocks);
    let first = geometry.byte_of_block(geometry.log_first);
    let Some(first) = first.filter(|_| geometry.holds(geometry.log_first, blocks)) else {
        let why = format!("{blocks} blocks from block {:#x}", geometry.log_first);
        return Err(Problem::Damaged { what, at: 48, why });
    };
    let sectors = blocks * u64::from(geometry.block_bytes) / SECTOR;
    let ring = Ring { volume, first, sectors };
    let head = ring.head()?;
    for back in 1..=BACK_SECTORS_MAX.min(sectors) {
        let sector = (head + sectors - back) % sectors;
        let block = ring.sector(sector)?;
        if block.raw().be32(0)? == MAGIC {
            return ring.judge(sector, &block.raw());
        }
    }
    // A log in which no record begins was never written to.
    Ok(if ring.round(0)? == 0 { Log::Clean } else { Log::ToReplay })
}

struct Ring<'a> {
    volume: &'a dyn Volume,
    first: u64,
    sectors: u64,
}

impl Ring<'_> {
    fn sector(&self, sector: u64) -> Result<Block, Problem> {
        let at = self.first.saturating_add(sector * SECTOR);
        Block::read(self.volume, "the log of XFS", at, SECTOR as usize)
    }

    /// The round in which a sector was written. A record's header has it in its second word.
    fn round(&self, sector: u64) -> Result<u32, Problem> {
        let block = self.sector(sector)?;
        let word = block.raw().be32(0)?;
        if word == MAGIC { block.raw().be32(4) } else { Ok(word) }
    }

    /// The first sector that is not of the newest round.
    fn head(&self) -> Result<u64, Problem> {
        let newest = self.round(0)?;
        let (mut low, mut high) = (0, self.sectors);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.round(middle)? == newest {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(high % self.sectors)
    }

    /// A record of one operation that is that of an unmount ends a log that is clean.
    fn judge(&self, sector: u64, header: &Raw<'_>) -> Result<Log, Problem> {
        if header.be32(40)? != 1 {
            return Ok(Log::ToReplay);
        }
        let version = header.be32(8)?;
        let size = if version & 2 == 0 { 0 } else { header.be32(320)? };
        let headers = u64::from(size.div_ceil(RECORD_HEADER_BYTES_MAX)).max(1);
        if headers > BACK_SECTORS_MAX {
            return Ok(Log::ToReplay);
        }
        let operation = self.sector((sector + headers) % self.sectors)?;
        let ends = operation.raw().u8(9)? & UNMOUNT != 0;
        Ok(if ends { Log::Clean } else { Log::ToReplay })
    }
}
