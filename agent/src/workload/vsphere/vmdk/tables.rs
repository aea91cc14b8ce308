//! What the tables of a VMDK say there is, against what came: the proof that nothing of the disk
//! is missing. Keeps a few bytes for each table, whatever the size of the disk.

use std::collections::BTreeMap;
use std::io::Read;

use super::header::{ENTRIES, Header};
use super::{Counted, SECTOR, VmdkError, u32_at};

const TABLE: u32 = 1;
const DIRECTORY: u32 = 2;
const FOOTER: u32 = 3;
const TABLE_SECTORS: u64 = ENTRIES * 4 / SECTOR;
/// What no grain lies at: a table that says so means zeroes.
const ZEROES: u32 = 1;

/// Grains, added up in whatever order they come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Sum(u128);

impl Sum {
    fn add(&mut self, entry: u64, sector: u64) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&entry.to_le_bytes()).update(&sector.to_le_bytes());
        let hash = hasher.finalize();
        let bytes = hash.as_bytes().first_chunk().copied().unwrap_or_default();
        self.0 = self.0.wrapping_add(u128::from_le_bytes(bytes));
    }
}

/// What was told, and what came.
#[derive(Debug)]
pub(super) struct Tables {
    /// Grains that came, by the table that must name them.
    came: Vec<u32>,
    came_sum: Sum,
    /// Grains that a table names, by where the table lies.
    told: BTreeMap<u32, u32>,
    told_sum: Sum,
    /// Where the tables lie, and where that was said.
    directory: Option<(Vec<u32>, u64)>,
    /// Where the footer says that the directory lies.
    footer: Option<u64>,
}

impl Tables {
    /// Reads what stands between the header and the first grain.
    pub(super) fn before(
        header: &Header,
        source: &mut Counted<impl Read>,
    ) -> Result<Self, VmdkError> {
        let tables = usize::try_from(header.entries()).unwrap_or(0);
        let mut this = Self {
            came: vec![0; tables],
            came_sum: Sum::default(),
            told: BTreeMap::new(),
            told_sum: Sum::default(),
            directory: None,
            footer: None,
        };
        let overhead = source.sectors(header.overhead - 1)?;
        if header.tables_last {
            return Ok(this);
        }
        let part = |sector: u64, sectors: u64| {
            let from = usize::try_from(sector.checked_sub(1)?.checked_mul(SECTOR)?).ok()?;
            let length = usize::try_from(sectors * SECTOR).ok()?;
            overhead.get(from..from.checked_add(length)?)
        };
        let outside = VmdkError::Odd("its tables lie outside of what stands before its grains");
        let Some(directory) = part(header.directory, header.directory_sectors()) else {
            return Err(outside);
        };
        let entries = this.directory(header, directory, header.directory)?;
        for sector in entries.into_iter().filter(|sector| *sector != 0) {
            match part(u64::from(sector), TABLE_SECTORS) {
                Some(bytes) => this.table(bytes, sector)?,
                None => return Err(outside),
            }
        }
        Ok(this)
    }

    /// A grain came, from this sector of the stream.
    pub(super) fn came(&mut self, grain: u64, sector: u64) {
        let table = usize::try_from(grain / ENTRIES).unwrap_or(usize::MAX);
        if let Some(count) = self.came.get_mut(table) {
            *count += 1;
        }
        self.came_sum.add(grain % ENTRIES, sector);
    }

    /// What a marker announced.
    pub(super) fn take(
        &mut self,
        kind: u32,
        sectors: u64,
        header: &Header,
        source: &mut Counted<impl Read>,
    ) -> Result<(), VmdkError> {
        let sector = source.at / SECTOR;
        let expected = match kind {
            TABLE => TABLE_SECTORS,
            DIRECTORY => header.directory_sectors(),
            FOOTER => 1,
            _ => return Err(VmdkError::Odd("a marker is of no known kind")),
        };
        if sectors != expected {
            return Err(VmdkError::Odd("a table, the directory or the footer has an odd length"));
        }
        if !header.tables_last {
            return Err(VmdkError::Odd("its tables come twice"));
        }
        let bytes = source.sectors(sectors)?;
        match kind {
            TABLE => self.table(&bytes, u32::try_from(sector).unwrap_or(0)),
            DIRECTORY => self.directory(header, &bytes, sector).map(|_| ()),
            _ => self.footer(header, &bytes),
        }
    }

    fn table(&mut self, bytes: &[u8], sector: u32) -> Result<(), VmdkError> {
        let mut count = 0;
        for (entry, place) in (0..ENTRIES).zip(bytes.chunks(4)) {
            match u32_at(place, 0) {
                0 | ZEROES => {}
                place => {
                    count += 1;
                    self.told_sum.add(entry, u64::from(place));
                }
            }
        }
        match self.told.insert(sector, count) {
            None => Ok(()),
            Some(_) => Err(VmdkError::Odd("two tables lie at one place")),
        }
    }

    fn directory(
        &mut self,
        header: &Header,
        bytes: &[u8],
        sector: u64,
    ) -> Result<Vec<u32>, VmdkError> {
        let entries = usize::try_from(header.entries()).unwrap_or(0);
        let entries: Vec<u32> = bytes.chunks(4).take(entries).map(|at| u32_at(at, 0)).collect();
        match self.directory.replace((entries.clone(), sector)) {
            None => Ok(entries),
            Some(_) => Err(VmdkError::Odd("it has two directories")),
        }
    }

    fn footer(&mut self, header: &Header, bytes: &[u8]) -> Result<(), VmdkError> {
        let again = Header::parse(bytes)?;
        if again.capacity != header.capacity || again.grain != header.grain {
            return Err(VmdkError::Odd("its footer is of another disk"));
        }
        self.footer = Some(again.directory);
        Ok(())
    }

    /// At the end: all that was told came, and nothing else.
    pub(super) fn agree(&self, header: &Header) -> Result<(), VmdkError> {
        let Some((directory, lies)) = &self.directory else {
            return Err(VmdkError::Odd("it ends without a directory"));
        };
        if header.tables_last && self.footer != Some(*lies) {
            return Err(VmdkError::Odd("it ends without a footer that names its directory"));
        }
        let mut named = 0;
        for (sector, came) in directory.iter().zip(&self.came) {
            let told = match sector {
                0 => Some(0),
                sector => self.told.get(sector).copied(),
            };
            named += u32::from(*sector != 0) as usize;
            if told != Some(*came) {
                return Err(VmdkError::Odd("its tables name other grains than came"));
            }
        }
        match named == self.told.len() && self.told_sum == self.came_sum {
            true => Ok(()),
            false => Err(VmdkError::Odd("its tables name other grains than came")),
        }
    }
}
