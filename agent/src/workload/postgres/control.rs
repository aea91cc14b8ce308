//! `global/pg_control`: the one file a cluster cannot start without. Believed only where its
//! own checksum holds; found by that, whatever the server's version lays before it.

use std::io;
use std::path::Path;
use std::time::Duration;

/// The file is written in one page of this size at most.
const CONTROL_BYTES_MAX: usize = 8192;
/// Where the checksum may lie: behind what every version has, before what none reaches.
const CHECKSUM_PLACES: std::ops::Range<usize> = 200..512;
/// A file under way is whole a moment later.
const TRIES_MAX: u32 = 50;
const PAUSE: Duration = Duration::from_millis(10);

/// The file, whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Control {
    pub bytes: Vec<u8>,
    pub system_identifier: u64,
}

impl Control {
    /// Reads it until its checksum holds.
    ///
    /// # Errors
    /// It cannot be read, or its checksum never holds.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        for _ in 0..TRIES_MAX {
            if let Some(control) = Self::of(std::fs::read(path)?) {
                return Ok(control);
            }
            std::thread::sleep(PAUSE);
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "its checksum does not hold"))
    }

    /// From its bytes, if its checksum holds.
    pub(super) fn of(bytes: Vec<u8>) -> Option<Self> {
        if bytes.len() > CONTROL_BYTES_MAX {
            return None;
        }
        let holds = |place: &usize| {
            let said = bytes.get(*place..place + 4).and_then(|four| four.try_into().ok());
            let before = bytes.get(..*place);
            said.zip(before)
                .is_some_and(|(said, before)| u32::from_ne_bytes(said) == crc32c::crc32c(before))
        };
        CHECKSUM_PLACES.step_by(4).find(holds)?;
        let identifier = bytes.get(..8)?.try_into().ok()?;
        Some(Self { system_identifier: u64::from_ne_bytes(identifier), bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_file_is_believed_by_its_checksum_only() {
        let mut bytes = vec![0_u8; 8192];
        bytes[..8].copy_from_slice(&7_u64.to_ne_bytes());
        bytes[100] = 9;
        let sum = crc32c::crc32c(&bytes[..288]);
        bytes[288..292].copy_from_slice(&sum.to_ne_bytes());
        assert_eq!(Control::of(bytes.clone()).unwrap().system_identifier, 7);
        bytes[101] ^= 1;
        assert_eq!(Control::of(bytes), None);
        assert_eq!(Control::of(Vec::new()), None);
    }
}
