//! An inode: what it says of a node, and where its two forks begin.

use crate::raw::{Block, Raw};
use crate::system::{Kind, Nanoseconds, Problem};
use crate::volume::Volume;

use super::geometry::{Geometry, Version};

/// Where what lies behind the fields of an inode begins.
const LITERAL_V2: usize = 100;
const LITERAL_V3: usize = 176;

const FLAG_REALTIME: u16 = 0x1;
const FLAG2_BIGTIME: u64 = 0x8;
const FLAG2_NREXT64: u64 = 0x10;
/// Times after 2038 are counted from 2^31 seconds before 1970.
const BIGTIME_EPOCH_SECONDS: i128 = 1 << 31;
const NANOSECONDS: i128 = 1_000_000_000;

/// How a fork holds what it has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    Btree,
    Device,
    Extents,
    Local,
}

/// An inode as it was read, its checksum and owner checked.
pub(super) struct Inode {
    pub(super) number: u64,
    block: Block,
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) links: u32,
    pub(super) size: u64,
    pub(super) modified: Nanoseconds,
    pub(super) is_realtime: bool,
    literal: usize,
    /// Offset of the fork of attributes in the literal area; 0 where there is none.
    fork_offset: usize,
    data_format: u8,
    attribute_format: u8,
    data_extents: u64,
    attribute_extents: u64,
}

/// One of the two forks of an inode: the bytes in the inode itself.
#[derive(Clone, Copy)]
pub(super) struct Fork<'a> {
    pub(super) owner: u64,
    pub(super) format: Format,
    pub(super) raw: Raw<'a>,
    /// Records, where the format is of extents.
    pub(super) extents: u64,
}

impl Inode {
    /// Reads inode `number`.
    pub(super) fn read(
        volume: &dyn Volume,
        geometry: &Geometry,
        number: u64,
    ) -> Result<Self, Problem> {
        let Some(at) = geometry.byte_of_inode(number) else {
            let why = format!("there is no inode {number}");
            return Err(Problem::Damaged { what: "a number of an inode", at: 0, why });
        };
        let block = Block::read(volume, "an inode", at, geometry.inode_bytes.into())?;
        let raw = block.raw();
        if raw.take(0, 2)? != b"IN" {
            return Err(raw.damaged(0, format!("inode {number} does not begin with IN")));
        }
        let version = raw.u8(4)?;
        match (geometry.version, version) {
            (Version::Four, 1 | 2) | (Version::Five, 3) => {}
            _ => return Err(raw.damaged(4, format!("an inode of version {version}"))),
        }
        if version == 3 {
            raw.crc32c(100)?;
            if raw.be64(152)? != number || raw.take(160, 16)? != geometry.uuid {
                return Err(raw.damaged(152, format!("it is not inode {number} of this XFS")));
            }
        }
        if raw.be16(2)? == 0 {
            return Err(raw.damaged(2, format!("inode {number} is free")));
        }
        Self::parse(number, version, block)
    }

    fn parse(number: u64, version: u8, block: Block) -> Result<Self, Problem> {
        let raw = block.raw();
        let flags2 = if version == 3 { raw.be64(120)? } else { 0 };
        let (data_extents, attribute_extents) = if flags2 & FLAG2_NREXT64 == 0 {
            (raw.be32(76)?.into(), raw.be16(80)?.into())
        } else {
            (raw.be64(24)?, raw.be32(76)?.into())
        };
        let literal = if version == 3 { LITERAL_V3 } else { LITERAL_V2 };
        let fork_offset = usize::from(raw.u8(82)?) * 8;
        if literal + fork_offset > raw.len() {
            return Err(raw.damaged(82, "its attributes begin beyond its end"));
        }
        let size = raw.be64(56)?;
        if size > i64::MAX as u64 {
            return Err(raw.damaged(56, format!("a size of {size} bytes")));
        }
        Ok(Self {
            number,
            mode: raw.be16(2)?,
            uid: raw.be32(8)?,
            gid: raw.be32(12)?,
            links: if version == 1 { raw.be16(6)?.into() } else { raw.be32(16)? },
            size,
            modified: time(&raw, 40, flags2)?,
            is_realtime: raw.be16(90)? & FLAG_REALTIME != 0,
            literal,
            fork_offset,
            data_format: raw.u8(5)?,
            attribute_format: raw.u8(83)?,
            data_extents,
            attribute_extents,
            block,
        })
    }

    /// What the node is.
    pub(super) fn kind(&self) -> Result<Kind, Problem> {
        Ok(match self.mode >> 12 {
            0x1 => Kind::Fifo,
            0x2 => {
                let (major, minor) = self.device()?;
                Kind::CharacterDevice { major, minor }
            }
            0x4 => Kind::Directory,
            0x6 => {
                let (major, minor) = self.device()?;
                Kind::BlockDevice { major, minor }
            }
            0x8 => Kind::File,
            0xa => Kind::Symlink,
            0xc => Kind::Socket,
            other => return Err(self.damaged(2, format!("a node of kind {other}"))),
        })
    }

    /// The number of a device, packed as in System V: fourteen bits and eighteen.
    fn device(&self) -> Result<(u32, u32), Problem> {
        let packed = self.block.raw().be32(self.literal)?;
        Ok((packed >> 18 & 0x3fff, packed & 0x3_ffff))
    }

    /// What is wrong at `offset` of the inode.
    pub(super) fn damaged(&self, offset: usize, why: impl Into<String>) -> Problem {
        self.block.raw().damaged(offset, why)
    }

    /// The fork of data.
    pub(super) fn data(&self) -> Result<Fork<'_>, Problem> {
        let all = self.block.raw().rest(self.literal)?;
        let raw = if self.fork_offset == 0 { all } else { all.part(0, self.fork_offset)? };
        let format = self.format(self.data_format, 5)?;
        Ok(Fork { owner: self.number, format, raw, extents: self.data_extents })
    }

    /// The fork of attributes, if there is one.
    pub(super) fn attributes(&self) -> Result<Option<Fork<'_>>, Problem> {
        if self.fork_offset == 0 {
            return Ok(None);
        }
        let raw = self.block.raw().rest(self.literal + self.fork_offset)?;
        let format = self.format(self.attribute_format, 83)?;
        Ok(Some(Fork { owner: self.number, format, raw, extents: self.attribute_extents }))
    }

    fn format(&self, format: u8, offset: usize) -> Result<Format, Problem> {
        match format {
            0 => Ok(Format::Device),
            1 => Ok(Format::Local),
            2 => Ok(Format::Extents),
            3 => Ok(Format::Btree),
            other => Err(self.damaged(offset, format!("a fork of format {other}"))),
        }
    }
}

fn time(raw: &Raw<'_>, offset: usize, flags2: u64) -> Result<Nanoseconds, Problem> {
    if flags2 & FLAG2_BIGTIME != 0 {
        return Ok(i128::from(raw.be64(offset)?) - BIGTIME_EPOCH_SECONDS * NANOSECONDS);
    }
    let seconds = raw.be32(offset)?.cast_signed();
    let part = raw.be32(offset + 4)?;
    Ok(i128::from(seconds) * NANOSECONDS + i128::from(part))
}
