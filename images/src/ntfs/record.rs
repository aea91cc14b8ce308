//! A record that survived a torn write or shows it: the last two bytes of every sector are kept
//! aside, and a number that is the same in all of them stands there instead. Records of the
//! master file table and blocks of indexes are such.

use crate::raw::{Block, Raw};
use crate::system::Problem;

/// What every stretch that is guarded has.
const STRIDE: usize = 512;

const IN_USE: u16 = 0x1;
const DIRECTORY: u16 = 0x2;

/// Attributes of one record; more do not fit into the largest.
const ATTRIBUTES_MAX: usize = 2048;
const END: u32 = 0xffff_ffff;

/// Puts the bytes that were kept aside back.
pub(super) fn mend(block: &mut Block, magic: [u8; 4]) -> Result<(), Problem> {
    let raw = block.raw();
    if raw.take(0, 4)? != magic {
        let shown = raw.take(0, 4)?.escape_ascii().to_string();
        let why = format!("it begins with {shown}, not {}", magic.escape_ascii());
        return Err(raw.damaged(0, why));
    }
    let (place, count) = (usize::from(raw.le16(4)?), usize::from(raw.le16(6)?));
    if count.checked_sub(1).and_then(|strides| strides.checked_mul(STRIDE)) != Some(raw.len()) {
        return Err(raw.damaged(6, format!("it guards {count} places")));
    }
    let kept = raw.take(place, count * 2)?.to_vec();
    let (number, kept) = kept.split_at(2);
    let (what, at) = (block.what, block.at);
    for (index, (stride, kept)) in
        block.bytes.chunks_mut(STRIDE).zip(kept.chunks_exact(2)).enumerate()
    {
        let Some(end) = stride.get_mut(STRIDE - 2..) else { continue };
        if end != number {
            let at = at.saturating_add((index * STRIDE + STRIDE - 2) as u64);
            return Err(Problem::Damaged { what, at, why: "a write of it was torn".to_owned() });
        }
        end.copy_from_slice(kept);
    }
    Ok(())
}

/// A record of the master file table.
pub(super) struct Record {
    pub(super) number: u64,
    pub(super) block: Block,
}

/// An attribute of a record.
#[derive(Clone, Copy)]
pub(super) struct Attribute<'a> {
    pub(super) kind: u32,
    /// UTF-16, as it lies.
    pub(super) name: &'a [u8],
    pub(super) flags: u16,
    pub(super) instance: u16,
    raw: Raw<'a>,
}

/// Where the value of an attribute is.
#[derive(Clone, Copy)]
pub(super) enum Value<'a> {
    /// In the record.
    Resident(Raw<'a>),
    /// In clusters.
    Runs(Runs<'a>),
}

/// One stretch of a value in clusters; lengths are only there in its first.
#[derive(Clone, Copy)]
pub(super) struct Runs<'a> {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) bytes: u64,
    pub(super) written: u64,
    /// Clusters that are compressed together, as a power of two; 0 for none.
    pub(super) unit: u8,
    pub(super) pairs: Raw<'a>,
}

impl Record {
    /// Takes a record for what it should be.
    pub(super) fn parse(number: u64, mut block: Block) -> Result<Self, Problem> {
        mend(&mut block, *b"FILE")?;
        let raw = block.raw();
        if raw.le16(22)? & IN_USE == 0 {
            return Err(raw.damaged(22, format!("record {number} is free")));
        }
        Ok(Self { number, block })
    }

    pub(super) fn damaged(&self, why: impl Into<String>) -> Problem {
        self.block.raw().damaged(0, why)
    }

    pub(super) fn sequence(&self) -> Result<u16, Problem> {
        self.block.raw().le16(16)
    }

    pub(super) fn links(&self) -> Result<u16, Problem> {
        self.block.raw().le16(18)
    }

    pub(super) fn is_directory(&self) -> Result<bool, Problem> {
        Ok(self.block.raw().le16(22)? & DIRECTORY != 0)
    }

    /// The record that this one continues; 0 for none.
    pub(super) fn base(&self) -> Result<u64, Problem> {
        self.block.raw().le64(32)
    }

    /// Every attribute, in order.
    pub(super) fn attributes(&self) -> Result<Vec<Attribute<'_>>, Problem> {
        let raw = self.block.raw();
        let mut offset = usize::from(raw.le16(20)?);
        let mut found = Vec::new();
        while raw.le32(offset)? != END {
            let length = raw.le32(offset + 4)? as usize;
            if length < 24 || !length.is_multiple_of(8) || found.len() == ATTRIBUTES_MAX {
                return Err(raw.damaged(offset, format!("an attribute of {length} bytes")));
            }
            found.push(Attribute::parse(raw.part(offset, length)?)?);
            offset += length;
        }
        Ok(found)
    }
}

impl<'a> Attribute<'a> {
    fn parse(raw: Raw<'a>) -> Result<Self, Problem> {
        let name = raw.take(raw.le16(10)?.into(), usize::from(raw.u8(9)?) * 2)?;
        let (kind, flags, instance) = (raw.le32(0)?, raw.le16(12)?, raw.le16(14)?);
        Ok(Self { kind, name, flags, instance, raw })
    }

    pub(super) fn damaged(&self, why: impl Into<String>) -> Problem {
        self.raw.damaged(0, why)
    }

    pub(super) fn value(&self) -> Result<Value<'a>, Problem> {
        let raw = self.raw;
        if raw.u8(8)? == 0 {
            let (offset, length) = (raw.le16(20)?, raw.le32(16)?);
            return Ok(Value::Resident(raw.part(offset.into(), length as usize)?));
        }
        let first = raw.le64(16)?;
        // The last may be one before the first where there is nothing.
        let last = raw.le64(24)?.wrapping_add(1);
        let (bytes, written) = if first == 0 { (raw.le64(48)?, raw.le64(56)?) } else { (0, 0) };
        if last < first || bytes > i64::MAX as u64 {
            return Err(raw.damaged(16, "it ends before it begins"));
        }
        let pairs = raw.rest(raw.le16(32)?.into())?;
        Ok(Value::Runs(Runs { first, last, bytes, written, unit: raw.u8(34)?, pairs }))
    }

    /// The value of an attribute that may only lie in the record.
    pub(super) fn resident(&self) -> Result<Raw<'a>, Problem> {
        match self.value()? {
            Value::Resident(raw) => Ok(raw),
            Value::Runs(_) => Err(self.damaged("its value is not in the record")),
        }
    }
}
