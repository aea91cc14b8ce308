//! GPT: the table at the beginning, or its copy at the end where the first does not hold, each
//! believed by its checksums alone. Sectors of 512 and of 4096 bytes are known.

use crate::bytes::{array, u32_at, u64_at, wide_label};
use crate::table::{Scheme, Slot, Table, head};
use crate::volume::{Volume, VolumeError};

const SIGNATURE: &[u8; 8] = b"EFI PART";
const SECTORS: [u64; 2] = [512, 4096];
/// The shortest header there is.
const HEADER_BYTES_MIN: usize = 92;
/// An array of entries that is taken into memory: tools make 16 KiB.
const ENTRIES_BYTES_MAX: u64 = 1 << 20;
const ENTRY_BYTES_MIN: u64 = 128;

/// What the types of partitions are for; the identifiers as people write them.
const PURPOSES: &[(&str, &str)] = &[
    ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "EFI system"),
    ("0fc63daf-8483-4772-8e79-3d69d8477de4", "Linux file system"),
    ("4f68bce3-e8cd-4db1-96e7-fbcaf984b709", "Linux root"),
    ("933ac7e1-2eb4-4f13-b844-0e14e2aef915", "Linux home"),
    ("bc13c2ff-59e6-4262-a352-b275fd6f7172", "Linux boot"),
    ("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f", "Linux swap"),
    ("e6d6d379-f507-44c2-a23c-238f2a3df928", "Linux LVM"),
    ("a19d880f-05fc-4d3b-a006-743f0f84911e", "Linux RAID"),
    ("21686148-6449-6e6f-744e-656564454649", "BIOS boot"),
    ("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7", "Microsoft basic data"),
    ("e3c9e316-0b5c-4db8-817d-f92df00215ae", "Microsoft reserved"),
    ("de94bba4-06d1-4d40-a16a-bfd50179d6ac", "Windows recovery"),
];

/// A header that holds.
struct Header {
    sector: u64,
    /// Where the other table lies.
    other: u64,
    entries: u64,
    count: u64,
    entry_bytes: u64,
    entries_crc: u32,
}

/// Both tables of a disk, as far as they hold.
pub(super) fn read(disk: &dyn Volume) -> Result<Option<Table>, VolumeError> {
    let mut marked = false;
    for sector in SECTORS {
        let first = header(disk, sector, sector)?;
        marked |= head(disk, sector, 8)? == SIGNATURE;
        let mut other = disk.bytes() / sector * sector;
        other = other.saturating_sub(sector);
        if let Some(header) = &first {
            if let Some(slots) = slots(disk, header)? {
                return Ok(Some(Table { scheme: Scheme::Gpt, slots, notes: Vec::new() }));
            }
            other = header.other;
        }
        if let Some(header) = header(disk, other, sector)?
            && let Some(slots) = slots(disk, &header)?
        {
            let note = "the first partition table is damaged: its copy at the end was taken";
            let notes = vec![note.to_owned()];
            return Ok(Some(Table { scheme: Scheme::Gpt, slots, notes }));
        }
    }
    if !marked {
        return Ok(None);
    }
    let note = "the partition table (GPT) is damaged, and so is its copy at the end";
    let table = Table { scheme: Scheme::Gpt, slots: Vec::new(), notes: vec![note.to_owned()] };
    Ok(Some(table))
}

fn header(disk: &dyn Volume, at: u64, sector: u64) -> Result<Option<Header>, VolumeError> {
    let bytes = head(disk, at, usize::try_from(sector).unwrap_or(0))?;
    let length = u32_at(&bytes, 12) as usize;
    if !bytes.starts_with(SIGNATURE) || length < HEADER_BYTES_MIN {
        return Ok(None);
    }
    let Some(header) = bytes.get(..length) else { return Ok(None) };
    let mut summed = header.to_vec();
    summed.iter_mut().skip(16).take(4).for_each(|byte| *byte = 0);
    if crc32fast::hash(&summed) != u32_at(header, 16) {
        return Ok(None);
    }
    Ok(Some(Header {
        sector,
        other: u64_at(header, 32).saturating_mul(sector),
        entries: u64_at(header, 72).saturating_mul(sector),
        count: u32_at(header, 80).into(),
        entry_bytes: u32_at(header, 84).into(),
        entries_crc: u32_at(header, 88),
    }))
}

/// The partitions of a table; none where its entries are not what their checksum says.
fn slots(disk: &dyn Volume, header: &Header) -> Result<Option<Vec<Slot>>, VolumeError> {
    let Header { sector, entries, count, entry_bytes, entries_crc, .. } = *header;
    let bytes = count.saturating_mul(entry_bytes);
    if entry_bytes < ENTRY_BYTES_MIN || bytes > ENTRIES_BYTES_MAX {
        return Ok(None);
    }
    let bytes = usize::try_from(bytes).unwrap_or(0);
    let array = head(disk, entries, bytes)?;
    if array.len() != bytes || crc32fast::hash(&array) != entries_crc {
        return Ok(None);
    }
    let step = usize::try_from(entry_bytes).unwrap_or(1).max(1);
    let numbered = array.chunks_exact(step).zip(1..);
    Ok(Some(numbered.filter_map(|(entry, number)| slot(entry, number, sector)).collect()))
}

fn slot(entry: &[u8], number: u32, sector: u64) -> Option<Slot> {
    let kind = identifier(array(entry, 0));
    let (first, last) = (u64_at(entry, 32), u64_at(entry, 40));
    if entry.iter().take(16).all(|byte| *byte == 0) {
        return None;
    }
    let sectors = last.checked_sub(first).and_then(|less| less.checked_add(1));
    let known = PURPOSES.iter().find(|(known, _)| *known == kind);
    Some(Slot {
        number,
        first: first.saturating_mul(sector),
        bytes: sectors.unwrap_or(0).saturating_mul(sector),
        name: wide_label(entry.get(56..128).unwrap_or_default()),
        purpose: known.map_or_else(|| format!("type {kind}"), |(_, what)| (*what).to_owned()),
        fault: None,
    })
}

/// An identifier as people write it: its first three numbers lie the other way round.
fn identifier(b: [u8; 16]) -> String {
    let [a0, a1, a2, a3, b0, b1, c0, c1, d0, d1, e0, e1, e2, e3, e4, e5] = b;
    format!(
        "{:08x}-{:04x}-{:04x}-{d0:02x}{d1:02x}-{e0:02x}{e1:02x}{e2:02x}{e3:02x}{e4:02x}{e5:02x}",
        u32::from_le_bytes([a0, a1, a2, a3]),
        u16::from_le_bytes([b0, b1]),
        u16::from_le_bytes([c0, c1]),
    )
}
