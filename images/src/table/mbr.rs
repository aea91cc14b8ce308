//! MBR: four primary partitions, and a chain of logical ones in an extended one, followed for as
//! long as it leads on and not in circles.

use std::collections::HashSet;

use crate::bytes::{u8_at, u16_at, u32_at};
use crate::table::{SLOTS_MAX, Scheme, Slot, Table, head};
use crate::volume::{Volume, VolumeError};

const SECTOR_BYTES: u64 = 512;
const MARK: u16 = 0xaa55;
const ENTRIES_AT: usize = 446;
const ENTRY_BYTES: usize = 16;
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
/// An MBR that only keeps others away from a GPT.
const PROTECTIVE: u8 = 0xee;
/// The first number of a logical partition.
const LOGICAL_FIRST: u32 = 5;

struct Entry {
    kind: u8,
    first: u64,
    sectors: u64,
}

/// The table, where the first sector holds one that could be meant.
pub(super) fn read(disk: &dyn Volume) -> Result<Option<Table>, VolumeError> {
    let sector = head(disk, 0, SECTOR_BYTES as usize)?;
    if u16_at(&sector, 510) != MARK || !is_table(&sector) {
        return Ok(None);
    }
    let mut table = Table { scheme: Scheme::Mbr, slots: Vec::new(), notes: Vec::new() };
    for (entry, number) in entries(&sector).into_iter().zip(1..) {
        match entry.kind {
            0 => {}
            kind if EXTENDED.contains(&kind) => logical(disk, entry.first, &mut table)?,
            PROTECTIVE => {
                let note = "the disk says that it has a GPT, and none is found";
                table.notes.push(note.to_owned());
            }
            _ => table.slots.push(slot(&entry, 0, number)),
        }
    }
    Ok(Some(table))
}

/// Boot code looks like anything; a table has states of 0 or 128 and something in it.
fn is_table(sector: &[u8]) -> bool {
    let states = (0..4).map(|index| u8_at(sector, ENTRIES_AT + index * ENTRY_BYTES));
    states.into_iter().all(|state| matches!(state, 0 | 0x80))
        && entries(sector).iter().any(|entry| entry.kind != 0 && entry.sectors > 0)
}

fn entries(sector: &[u8]) -> [Entry; 4] {
    std::array::from_fn(|index| {
        let at = ENTRIES_AT + index * ENTRY_BYTES;
        Entry {
            kind: u8_at(sector, at + 4),
            first: u32_at(sector, at + 8).into(),
            sectors: u32_at(sector, at + 12).into(),
        }
    })
}

fn slot(entry: &Entry, base: u64, number: u32) -> Slot {
    Slot {
        number,
        first: (base + entry.first) * SECTOR_BYTES,
        bytes: entry.sectors * SECTOR_BYTES,
        name: None,
        purpose: purpose(entry.kind),
        fault: None,
    }
}

/// The logical partitions in the extended one that begins at sector `extended`.
fn logical(disk: &dyn Volume, extended: u64, table: &mut Table) -> Result<(), VolumeError> {
    let logical = |slot: &&Slot| slot.number >= LOGICAL_FIRST;
    let mut number = LOGICAL_FIRST;
    if let Some(last) = table.slots.iter().filter(logical).map(|slot| slot.number).max() {
        number = last + 1;
    }
    let (mut at, mut seen) = (extended, HashSet::new());
    loop {
        if !seen.insert(at) {
            table.notes.push("the chain of logical partitions goes in circles".to_owned());
            return Ok(());
        }
        if table.slots.len() >= SLOTS_MAX {
            table.notes.push(format!("partitions after the first {SLOTS_MAX} are left out"));
            return Ok(());
        }
        let sector = head(disk, at * SECTOR_BYTES, SECTOR_BYTES as usize)?;
        if u16_at(&sector, 510) != MARK {
            let note = format!("the chain of logical partitions breaks off at sector {at}");
            table.notes.push(note);
            return Ok(());
        }
        let [own, next, ..] = entries(&sector);
        if own.kind != 0 && own.sectors > 0 {
            table.slots.push(slot(&own, at, number));
            number += 1;
        }
        if !EXTENDED.contains(&next.kind) || next.sectors == 0 {
            return Ok(());
        }
        at = extended + next.first;
    }
}

fn purpose(kind: u8) -> String {
    let known = match kind {
        0x01 | 0x04 | 0x06 | 0x0b | 0x0c | 0x0e => "FAT",
        0x07 => "NTFS or exFAT",
        0x27 => "Windows recovery",
        0x82 => "Linux swap",
        0x83 => "Linux",
        0x8e => "Linux LVM",
        0xef => "EFI system",
        0xfd => "Linux RAID",
        _ => return format!("type {kind:02x}"),
    };
    known.to_owned()
}
