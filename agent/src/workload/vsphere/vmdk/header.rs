//! The head of a streamOptimized VMDK. Refuses what no such file says, and sizes nobody has.

use std::io::Read;

use super::{Counted, SECTOR, VmdkError, u32_at, u64_at};

const MAGIC: u32 = u32::from_le_bytes(*b"KDMV");
const NEWLINES: u32 = 1;
/// Grains are compressed, and markers tell what comes.
const STREAM: u32 = 1 << 16 | 1 << 17;
const DEFLATE: u16 = 1;
/// Where a directory lies that comes at the end.
const AT_THE_END: u64 = u64::MAX;
/// Entries of a grain table: the format knows no other number.
pub(super) const ENTRIES: u64 = 512;
/// The largest disk there is, in sectors: 64 TiB, above what vSphere can make.
const CAPACITY_MAX: u64 = 64 << 31;
/// The largest grain, in sectors: 1 MiB.
const GRAIN_MAX: u64 = 2048;
/// The most tables: those of the largest disk with the grains that all writers use.
const TABLES_MAX: u64 = 2 << 20;
/// The largest overhead, in sectors: 64 MiB, tables for half a tebibyte.
const OVERHEAD_MAX: u64 = 64 << 11;

/// What a disk is.
#[derive(Clone, Debug)]
pub(super) struct Header {
    /// In sectors.
    pub(super) capacity: u64,
    /// In sectors.
    pub(super) grain: u64,
    /// Where the directory of the tables lies, in sectors; meaningless where they come last.
    pub(super) directory: u64,
    /// What stands before the first grain, in sectors.
    pub(super) overhead: u64,
    pub(super) tables_last: bool,
}

impl Header {
    pub(super) fn read(source: &mut Counted<impl Read>) -> Result<Self, VmdkError> {
        let header = Self::parse(&source.sectors(1)?)?;
        if header.overhead == 0 || header.overhead > OVERHEAD_MAX {
            return Err(VmdkError::Odd("what stands before its grains has an odd length"));
        }
        Ok(header)
    }

    /// From a sector.
    pub(super) fn parse(sector: &[u8]) -> Result<Self, VmdkError> {
        if u32_at(sector, 0) != MAGIC || !(1..=3).contains(&u32_at(sector, 4)) {
            return Err(VmdkError::Odd("it does not begin as one"));
        }
        let flags = u32_at(sector, 8);
        let newlines = sector.get(73..77) == Some(b"\n \r\n");
        if flags & STREAM != STREAM || (flags & NEWLINES != 0 && !newlines) {
            return Err(VmdkError::Odd("it is of another kind, or was changed as a text"));
        }
        let deflate = sector.get(77..79).is_some_and(|word| *word == DEFLATE.to_le_bytes());
        let (capacity, grain) = (u64_at(sector, 12), u64_at(sector, 20));
        if !deflate || u64::from(u32_at(sector, 44)) != ENTRIES {
            return Err(VmdkError::Odd("its compression or its tables are not known"));
        }
        if capacity == 0 || capacity > CAPACITY_MAX {
            return Err(VmdkError::Odd("its size is odd"));
        }
        if !grain.is_power_of_two() || !(8..=GRAIN_MAX).contains(&grain) {
            return Err(VmdkError::Odd("the size of its grains is odd"));
        }
        if capacity.div_ceil(grain * ENTRIES) > TABLES_MAX {
            return Err(VmdkError::Odd("its grains are too small for its size"));
        }
        let directory = u64_at(sector, 56);
        Ok(Self {
            capacity,
            grain,
            directory,
            overhead: u64_at(sector, 64),
            tables_last: directory == AT_THE_END,
        })
    }

    pub(super) const fn grain_bytes(&self) -> u64 {
        self.grain * SECTOR
    }

    /// Of the directory: one entry for each table.
    pub(super) const fn entries(&self) -> u64 {
        self.capacity.div_ceil(self.grain * ENTRIES)
    }

    /// Of the directory.
    pub(super) const fn directory_sectors(&self) -> u64 {
        (self.entries() * 4).div_ceil(SECTOR)
    }
}
