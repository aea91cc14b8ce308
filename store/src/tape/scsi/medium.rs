//! What a drive says of itself and of the cartridge in it: limits, mode, alerts, and the
//! cartridge's own memory. Promises to leave a drive writing blocks of any length. Refuses a
//! drive that only takes blocks of one length.

use crate::tape::Protection;
use crate::tape::scsi::unit::{Command, SHORT, ScsiError, Unit};
use crate::tape::scsi::{Data, Sense};

/// Longest block this program writes: what the host adapters of Linux take without tuning.
const BLOCK_BYTES_MAX: usize = 1 << 20;
const PAGE_TAPE_ALERT: u8 = 0x2e;
/// Alerts that mean the cartridge, the drive or the data is at risk, and what they say.
const ALERTS: &[(u16, &str)] = &[
    (3, "hard error: the drive cannot read or write here"),
    (4, "the data on the cartridge is at risk: copy it and use the cartridge no more"),
    (5, "the cartridge is damaged or the drive is: data cannot be read"),
    (6, "the cartridge is damaged or the drive is: data cannot be written"),
    (7, "the cartridge has reached the end of its life"),
    (16, "the cartridge was taken out while it was in use"),
    (20, "the drive must be cleaned now"),
    (21, "the drive should be cleaned"),
    (22, "the cleaning cartridge is used up"),
    (30, "the drive has a fault"),
    (31, "the drive has a fault: reset it"),
    (36, "the drive is too hot"),
    (38, "the drive may fail soon"),
    (51, "the index of the cartridge is damaged: positioning is slow"),
    (52, "the system area of the cartridge cannot be written"),
    (55, "the cartridge could not be loaded"),
    (59, "the cartridge is not write-once although it says so"),
];

/// How a drive stands with the cartridge in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stance {
    pub(super) block_bytes_max: usize,
    pub(super) protection: Protection,
}

/// Asks for limits and mode, and sets blocks of variable length and buffered writing.
pub(super) fn stance(unit: &mut Unit) -> Result<Stance, ScsiError> {
    let block_bytes_max = block_limit(unit)?;
    let mut mode = [0; 12];
    let sense = [0x1a, 0, 0, 0, mode.len() as u8, 0];
    let command = Command { name: "MODE SENSE", cdb: &sense, patience: SHORT };
    let length = unit.ask(command, Data::In(&mut mode))?;
    let described = length >= mode.len() && mode[3] >= 8;
    let fixed = described && mode[9..12] != [0; 3];
    let unbuffered = mode[2] & 0x70 == 0;
    if fixed || unbuffered {
        let wanted = [0, 0, 0x10, 8, mode[4], 0, 0, 0, 0, 0, 0, 0];
        let select = [0x15, 0x10, 0, 0, wanted.len() as u8, 0];
        let command = Command { name: "MODE SELECT", cdb: &select, patience: SHORT };
        match unit.ask(command, Data::Out(&wanted)) {
            Err(error) if error.sense().is_some_and(Sense::is_unsupported) => {
                if fixed {
                    return Err(unit.unusable("the drive only takes blocks of one length"));
                }
                // Quirk: drives that always buffer refuse to be told so.
            }
            other => drop(other?),
        }
    }
    let protected = mode[2] & 0x80 != 0;
    let protection = if protected { Protection::WriteProtected } else { Protection::Writable };
    Ok(Stance { block_bytes_max, protection })
}

/// Filemarks before the position, by the drive's own word; None where it does not know.
pub(super) fn file_told(unit: &mut Unit) -> Result<Option<u32>, ScsiError> {
    let mut short = [0; 20];
    let cdb = [0x34, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let command = Command { name: "READ POSITION", cdb: &cdb, patience: SHORT };
    match unit.ask(command, Data::In(&mut short)) {
        Err(error) if error.sense().is_some_and(Sense::is_unsupported) => return Ok(None),
        other => drop(other?),
    }
    // Quirk: tgt does not know its position, and gives zeros for it in the long form.
    if short[0] & 0x04 != 0 {
        return Ok(None);
    }
    let mut long = [0; 32];
    let cdb = [0x34, 6, 0, 0, 0, 0, 0, 0, 0, 0];
    let command = Command { name: "READ POSITION (long)", cdb: &cdb, patience: SHORT };
    match unit.ask(command, Data::In(&mut long)) {
        Err(error) if error.sense().is_some_and(Sense::is_unsupported) => return Ok(None),
        other => drop(other?),
    }
    let unknown = long[0] & 0x0c != 0;
    let file = long.get(16..24).and_then(|file| file.first_chunk::<8>());
    let file = file.and_then(|file| u32::try_from(u64::from_be_bytes(*file)).ok());
    Ok(file.filter(|_| !unknown))
}

/// Keeps other hosts from the drive while this session lasts. Quirk: tgt and newer drives do
/// not know the command, and are not reserved.
pub(super) fn reserve(unit: &mut Unit) -> Result<(), ScsiError> {
    let cdb = [0x16, 0, 0, 0, 0, 0];
    let command = Command { name: "RESERVE", cdb: &cdb, patience: SHORT };
    match unit.ask(command, Data::Nothing) {
        Err(error) if error.sense().is_some_and(Sense::is_unsupported) => Ok(()),
        other => other.map(drop),
    }
}

fn block_limit(unit: &mut Unit) -> Result<usize, ScsiError> {
    let mut limits = [0; 6];
    let cdb = [0x05, 0, 0, 0, 0, 0];
    let command = Command { name: "READ BLOCK LIMITS", cdb: &cdb, patience: SHORT };
    unit.ask(command, Data::In(&mut limits))?;
    let told = u32::from_be_bytes([0, limits[1], limits[2], limits[3]]) as usize;
    // 0: the drive has no limit of its own.
    let limit = if told == 0 { BLOCK_BYTES_MAX } else { told.min(BLOCK_BYTES_MAX) };
    match limit < 4096 {
        true => Err(unit.unusable(format!("the drive takes blocks of {limit} bytes at most"))),
        false => Ok(limit),
    }
}

/// The alerts that are raised, in words; nothing from a drive that has none to give. Reading
/// them clears them.
pub(super) fn alerts(unit: &mut Unit) -> Vec<String> {
    let mut page = [0; 1024];
    let bytes = (page.len() as u16).to_be_bytes();
    let cdb = [0x4d, 0, 0x40 | PAGE_TAPE_ALERT, 0, 0, 0, 0, bytes[0], bytes[1], 0];
    let command = Command { name: "LOG SENSE", cdb: &cdb, patience: SHORT };
    match unit.ask(command, Data::In(&mut page)) {
        Ok(length) if page[0] & 0x3f == PAGE_TAPE_ALERT => raised(&page[..length.min(page.len())]),
        _ => Vec::new(),
    }
}

fn raised(page: &[u8]) -> Vec<String> {
    let mut rest = page.get(4..).unwrap_or_default();
    let mut found = Vec::new();
    while let [high, low, _, length, ..] = *rest {
        let end = (4 + usize::from(length)).min(rest.len());
        let number = u16::from_be_bytes([high, low]);
        if rest[4..end].iter().any(|value| value & 1 != 0) {
            let words = ALERTS.iter().find(|(known, _)| *known == number);
            let words = words.map_or("see the drive's manual", |(_, words)| words);
            found.push(format!("TapeAlert {number}: {words}"));
        }
        rest = &rest[end..];
    }
    found
}

/// What a cartridge's own memory says; each only where drive and cartridge offer it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Memory {
    pub(super) remaining_mib: Option<u64>,
    pub(super) capacity_mib: Option<u64>,
    pub(super) serial: Option<String>,
}

/// Reads a cartridge's own memory; what is not offered is left out.
pub(super) fn memory(unit: &mut Unit) -> Memory {
    let mut buffer = vec![0; 4096];
    let cdb = [0x8c, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0];
    let command = Command { name: "READ ATTRIBUTE", cdb: &cdb, patience: SHORT };
    match unit.ask(command, Data::In(&mut buffer)) {
        Ok(length) => attributes(buffer.get(..length).unwrap_or(&buffer)),
        Err(_) => Memory::default(),
    }
}

fn attributes(bytes: &[u8]) -> Memory {
    let mut rest = bytes.get(4..).unwrap_or_default();
    let mut memory = Memory::default();
    while let [id_high, id_low, _, high, low, ..] = *rest {
        let end = (5 + usize::from(u16::from_be_bytes([high, low]))).min(rest.len());
        let value = &rest[5..end];
        let number = value.iter().fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
        match u16::from_be_bytes([id_high, id_low]) {
            0x0000 => memory.remaining_mib = Some(number),
            0x0001 => memory.capacity_mib = Some(number),
            0x0401 => {
                let text = String::from_utf8_lossy(value).trim_matches([' ', '\0']).to_owned();
                memory.serial = Some(text).filter(|text| !text.is_empty());
            }
            _ => {}
        }
        rest = &rest[end..];
    }
    memory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raised_alerts_are_told_in_words() {
        let page = [0x2e, 0, 0, 15, 0, 4, 0, 1, 1, 0, 5, 0, 1, 0, 0, 63, 0, 1, 1];
        let found = raised(&page);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("TapeAlert 4: the data on the cartridge is at risk"));
        assert_eq!(found[1], "TapeAlert 63: see the drive's manual");
        assert!((0..page.len()).all(|length| raised(&page[..length]).len() <= 2));
    }

    #[test]
    fn a_cartridges_memory_is_read_as_far_as_it_goes() {
        let mut bytes = vec![0, 0, 0, 0];
        bytes.extend([0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0x10, 0]);
        bytes.extend([0x04, 0x01, 0, 0, 4, b'A', b'1', b' ', 0]);
        let found = attributes(&bytes);
        assert_eq!((found.remaining_mib, found.serial.as_deref()), (Some(4096), Some("A1")));
        assert_eq!(found.capacity_mib, None);
        assert!((0..bytes.len()).all(|length| attributes(&bytes[..length]).capacity_mib.is_none()));
    }
}
