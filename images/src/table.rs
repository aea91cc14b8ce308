//! Which partitions a disk has: by GPT, by MBR with logical ones, or none at all, where a file
//! system lies on the bare disk. Promises that every partition lies within the disk or says that
//! it does not, and that a table which goes in circles ends. What is odd is noted, not guessed at.

mod gpt;
mod mbr;

use crate::volume::{Volume, VolumeError};

/// Partitions of a disk that are looked at: more than any tool makes.
pub const SLOTS_MAX: usize = 256;

/// How a disk is divided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Scheme {
    /// Not at all.
    Bare,
    Gpt,
    Mbr,
}

impl Scheme {
    /// As people write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bare => "none",
            Self::Gpt => "gpt",
            Self::Mbr => "mbr",
        }
    }
}

/// A partition as its table has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Slot {
    /// From 1; logical ones of an MBR from 5.
    pub number: u32,
    /// Where it begins, in bytes.
    pub first: u64,
    pub bytes: u64,
    /// The name that the table gives it.
    pub name: Option<String>,
    /// What the table says it is for.
    pub purpose: String,
    /// Why it cannot be read.
    pub fault: Option<String>,
}

/// A disk and its partitions, by number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    pub scheme: Scheme,
    pub slots: Vec<Slot>,
    /// What a person should know: a table whose copy was taken, partitions that overlap.
    pub notes: Vec<String>,
}

/// The partitions of a disk. `is_bare` says whether a file system begins where the disk does; it
/// is asked where no table is sure.
///
/// # Errors
///
/// Only that the disk cannot be read.
pub fn read(disk: &dyn Volume, is_bare: &dyn Fn() -> bool) -> Result<Table, VolumeError> {
    let mut table = match gpt::read(disk)? {
        Some(table) => table,
        None => match mbr::read(disk)? {
            Some(table) if table.slots.iter().any(|slot| slot.first < disk.bytes()) => table,
            Some(table) if !is_bare() => table,
            _ => bare(disk),
        },
    };
    if table.slots.len() > SLOTS_MAX {
        let left = table.slots.len() - SLOTS_MAX;
        table.notes.push(format!("{left} partitions after the first {SLOTS_MAX} are left out"));
        table.slots.truncate(SLOTS_MAX);
    }
    table.slots.sort_by_key(|slot| slot.number);
    judge(&mut table, disk.bytes());
    Ok(table)
}

fn bare(disk: &dyn Volume) -> Table {
    let slot = Slot {
        number: 1,
        first: 0,
        bytes: disk.bytes(),
        name: None,
        purpose: "the whole disk".to_owned(),
        fault: None,
    };
    Table { scheme: Scheme::Bare, slots: vec![slot], notes: Vec::new() }
}

/// Faults of partitions that lie beyond the end, and a note of those that overlap.
fn judge(table: &mut Table, bytes: u64) {
    for slot in &mut table.slots {
        let end = slot.first.checked_add(slot.bytes);
        if end.is_none_or(|end| end > bytes) {
            slot.fault = Some(format!(
                "it is to lie from byte {} for {} bytes, and the image ends at {bytes}",
                slot.first, slot.bytes
            ));
        }
    }
    let mut placed: Vec<&Slot> =
        table.slots.iter().filter(|slot| slot.fault.is_none() && slot.bytes > 0).collect();
    placed.sort_by_key(|slot| slot.first);
    for pair in placed.windows(2) {
        let [one, next] = pair else { continue };
        if one.first + one.bytes > next.first {
            table.notes.push(format!("partitions {} and {} overlap", one.number, next.number));
        }
    }
}

/// Reads what is there of `bytes` from `at`; shorter where the disk ends.
fn head(disk: &dyn Volume, at: u64, bytes: usize) -> Result<Vec<u8>, VolumeError> {
    let there = disk.bytes().saturating_sub(at).min(bytes as u64);
    let mut buffer = vec![0; usize::try_from(there).unwrap_or(0)];
    // Beyond the end there is nothing to read, and nothing is no reason to give a disk up.
    if !buffer.is_empty() {
        disk.read_at(at, &mut buffer)?;
    }
    Ok(buffer)
}

#[cfg(test)]
#[path = "table/tests.rs"]
mod tests;
