//! Numbers out of bytes that nobody vouches for: every reach is checked, and what is not there is
//! a [`Problem`] that names the thing and the byte of the volume.

use crate::system::Problem;
use crate::volume::Volume;

/// Bytes of a volume, with what they are taken for and where they lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw<'a> {
    pub(crate) what: &'static str,
    /// Where the first of them lies, as far as they lie in one piece.
    pub(crate) at: u64,
    pub(crate) bytes: &'a [u8],
}

/// A piece of a volume that was read.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) what: &'static str,
    pub(crate) at: u64,
    pub(crate) bytes: Vec<u8>,
}

impl Block {
    /// Reads `length` bytes; the caller has a limit for it.
    pub(crate) fn read(
        volume: &dyn Volume,
        what: &'static str,
        at: u64,
        length: usize,
    ) -> Result<Self, Problem> {
        let mut bytes = vec![0; length];
        volume.read_at(at, &mut bytes)?;
        Ok(Self { what, at, bytes })
    }

    pub(crate) fn raw(&self) -> Raw<'_> {
        Raw { what: self.what, at: self.at, bytes: &self.bytes }
    }
}

impl<'a> Raw<'a> {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// What is wrong at `offset` of these.
    pub(crate) fn damaged(&self, offset: usize, why: impl Into<String>) -> Problem {
        let at = self.at.saturating_add(offset as u64);
        Problem::Damaged { what: self.what, at, why: why.into() }
    }

    /// `length` bytes from `offset`.
    pub(crate) fn take(&self, offset: usize, length: usize) -> Result<&'a [u8], Problem> {
        self.bytes.get(offset..).and_then(|rest| rest.get(..length)).ok_or_else(|| {
            let have = self.bytes.len();
            self.damaged(offset, format!("{length} bytes from offset {offset} of {have}"))
        })
    }

    /// A piece, with its own place.
    pub(crate) fn part(&self, offset: usize, length: usize) -> Result<Self, Problem> {
        let bytes = self.take(offset, length)?;
        Ok(Self { what: self.what, at: self.at.saturating_add(offset as u64), bytes })
    }

    /// All from `offset`.
    pub(crate) fn rest(&self, offset: usize) -> Result<Self, Problem> {
        let length = self.len().checked_sub(offset);
        let length = length.ok_or_else(|| self.damaged(offset, "it ends before"))?;
        self.part(offset, length)
    }

    fn array<const N: usize>(&self, offset: usize) -> Result<[u8; N], Problem> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(offset, N)?);
        Ok(array)
    }

    pub(crate) fn u8(&self, offset: usize) -> Result<u8, Problem> {
        Ok(u8::from_be_bytes(self.array(offset)?))
    }

    pub(crate) fn be16(&self, offset: usize) -> Result<u16, Problem> {
        Ok(u16::from_be_bytes(self.array(offset)?))
    }

    pub(crate) fn be32(&self, offset: usize) -> Result<u32, Problem> {
        Ok(u32::from_be_bytes(self.array(offset)?))
    }

    pub(crate) fn be64(&self, offset: usize) -> Result<u64, Problem> {
        Ok(u64::from_be_bytes(self.array(offset)?))
    }

    pub(crate) fn le16(&self, offset: usize) -> Result<u16, Problem> {
        Ok(u16::from_le_bytes(self.array(offset)?))
    }

    pub(crate) fn le32(&self, offset: usize) -> Result<u32, Problem> {
        Ok(u32::from_le_bytes(self.array(offset)?))
    }

    pub(crate) fn le64(&self, offset: usize) -> Result<u64, Problem> {
        Ok(u64::from_le_bytes(self.array(offset)?))
    }

    /// Refuses bytes whose CRC-32C, kept in the four bytes at `field` (little-endian, and counted
    /// as zeros), is another.
    pub(crate) fn crc32c(&self, field: usize) -> Result<(), Problem> {
        let kept = self.le32(field)?;
        let sum = crc32c::crc32c(self.take(0, field)?);
        let sum = crc32c::crc32c_append(sum, &[0; 4]);
        let sum = crc32c::crc32c_append(sum, self.rest(field + 4)?.bytes);
        if sum == kept {
            return Ok(());
        }
        Err(self.damaged(field, format!("its checksum is {kept:08x} and should be {sum:08x}")))
    }
}

/// Whether a name may stand in a directory: see [`crate::Named`].
pub(crate) fn is_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_read_beyond_the_end_and_the_place_is_named() {
        let raw = Raw { what: "a thing", at: 512, bytes: &[1, 2, 3, 4] };
        assert_eq!(raw.be32(0).unwrap(), 0x0102_0304);
        assert_eq!(raw.le16(2).unwrap(), 0x0403);
        let said = raw.be32(1).unwrap_err().to_string();
        assert_eq!(said, "a thing at byte 513 is damaged: 4 bytes from offset 1 of 4");
        assert!(raw.take(usize::MAX, 1).is_err() && raw.take(1, usize::MAX).is_err());
        assert!(raw.rest(4).unwrap().bytes.is_empty() && raw.rest(5).is_err());
    }

    #[test]
    fn a_checksum_holds_its_bytes() {
        let mut bytes = b"some bytes\0\0\0\0and more".to_vec();
        let sum = crc32c::crc32c(&bytes).to_le_bytes();
        bytes[10..14].copy_from_slice(&sum);
        fn raw(bytes: &[u8]) -> Raw<'_> {
            Raw { what: "a block", at: 0, bytes }
        }
        raw(&bytes).crc32c(10).unwrap();
        bytes[0] ^= 1;
        assert!(raw(&bytes).crc32c(10).is_err());
        assert!(raw(&bytes).crc32c(30).is_err());
    }
}
