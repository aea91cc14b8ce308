//! The superblock: how an XFS is laid out and which of its features are on. A feature that changes
//! what is read and is not known here is refused by its name.

use crate::bytes::label;
use crate::raw::{Block, Raw};
use crate::system::Problem;
use crate::volume::Volume;

/// The smallest superblock; larger sectors are summed whole.
const SUPERBLOCK_BYTES_MIN: usize = 512;

const VERSION_MASK: u16 = 0xf;
const VERSION_DIRECTORIES_2: u16 = 0x2000;
const VERSION_MORE: u16 = 0x8000;
const FEATURES2_FTYPE: u32 = 0x200;
const INCOMPAT_FTYPE: u32 = 0x1;
const INCOMPAT_META_UUID: u32 = 0x4;
const INCOMPAT_NEEDS_REPAIR: u32 = 0x10;
/// File types, sparse inodes, a second UUID, times after 2038, a mark of damage, 64-bit counters
/// of extents, exchanges of ranges, parents in attributes.
const INCOMPAT_KNOWN: u32 = 0xff;
const INCOMPAT_NAMES: &[(u32, &str)] =
    &[(0x100, "a directory of metadata (metadir)"), (0x200, "zones (zoned)")];

/// What the superblock says, checked against itself and the volume.
#[derive(Clone, Debug)]
pub(super) struct Geometry {
    pub(super) version: Version,
    pub(super) block_bytes: u32,
    pub(super) blocks: u64,
    pub(super) group_blocks: u32,
    pub(super) group_blocks_log: u8,
    pub(super) groups: u32,
    pub(super) inode_bytes: u16,
    pub(super) inodes_in_block_log: u8,
    pub(super) directory_block_bytes: u32,
    pub(super) root: u64,
    pub(super) log_first: u64,
    pub(super) log_blocks: u32,
    pub(super) uuid: [u8; 16],
    pub(super) label: Option<String>,
    pub(super) has_types: Types,
    pub(super) needs_repair: bool,
    pub(super) in_progress: bool,
}

/// Whether blocks have checksums and say whose they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Version {
    Four,
    Five,
}

/// Whether entries of directories say what kind of node they name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Types {
    Kept,
    None,
}

impl Geometry {
    /// Reads the superblock at the start of a volume.
    pub(super) fn read(volume: &dyn Volume) -> Result<Self, Problem> {
        let what = "the superblock of XFS";
        let first = Block::read(volume, what, 0, SUPERBLOCK_BYTES_MIN)?;
        let raw = first.raw();
        if raw.take(0, 4)? != b"XFSB" {
            return Err(raw.damaged(0, "it does not begin with XFSB"));
        }
        let version = version(&raw)?;
        let sector_bytes = raw.be16(102)?;
        if !sector_bytes.is_power_of_two() || !(512..=32768).contains(&sector_bytes) {
            return Err(raw.damaged(102, format!("sectors of {sector_bytes} bytes")));
        }
        if version == Version::Five {
            let whole = Block::read(volume, what, 0, usize::from(sector_bytes))?;
            whole.raw().crc32c(224)?;
        }
        let geometry = Self::parse(&raw, version)?;
        geometry.check(&raw)?;
        Ok(geometry)
    }

    fn parse(raw: &Raw<'_>, version: Version) -> Result<Self, Problem> {
        let incompatible = if version == Version::Five { raw.be32(216)? } else { 0 };
        let features2 = if raw.be16(100)? & VERSION_MORE == 0 { 0 } else { raw.be32(200)? };
        refuse_unknown(incompatible)?;
        let types = incompatible & INCOMPAT_FTYPE != 0 || features2 & FEATURES2_FTYPE != 0;
        let mut uuid = [0; 16];
        let place = if incompatible & INCOMPAT_META_UUID == 0 { 32 } else { 248 };
        uuid.copy_from_slice(raw.take(place, 16)?);
        let block_bytes = raw.be32(4)?;
        Ok(Self {
            version,
            block_bytes,
            blocks: raw.be64(8)?,
            group_blocks: raw.be32(84)?,
            group_blocks_log: raw.u8(124)?,
            groups: raw.be32(88)?,
            inode_bytes: raw.be16(104)?,
            inodes_in_block_log: raw.u8(123)?,
            directory_block_bytes: block_bytes.checked_shl(raw.u8(192)?.into()).unwrap_or(0),
            root: raw.be64(56)?,
            log_first: raw.be64(48)?,
            log_blocks: raw.be32(96)?,
            uuid,
            label: label(raw.take(108, 12)?),
            has_types: if types { Types::Kept } else { Types::None },
            needs_repair: incompatible & INCOMPAT_NEEDS_REPAIR != 0,
            in_progress: raw.u8(126)? != 0,
        })
    }

    /// Numbers that contradict one another would send a reader anywhere.
    fn check(&self, raw: &Raw<'_>) -> Result<(), Problem> {
        let wrong = |offset, why: String| Err(raw.damaged(offset, why));
        let block = self.block_bytes;
        if !block.is_power_of_two() || !(512..=65536).contains(&block) {
            return wrong(4, format!("blocks of {block} bytes"));
        }
        let inode = u32::from(self.inode_bytes);
        if !inode.is_power_of_two() || !(256..=2048).contains(&inode) || inode > block {
            return wrong(104, format!("inodes of {inode} bytes"));
        }
        if block.checked_shr(self.inodes_in_block_log.into()) != Some(inode) {
            return wrong(123, "inodes of a block do not fill it".to_owned());
        }
        let directory = self.directory_block_bytes;
        if !(block..=65536).contains(&directory) || !directory.is_power_of_two() {
            return wrong(192, format!("blocks of directories of {directory} bytes"));
        }
        let (groups, each) = (u64::from(self.groups), u64::from(self.group_blocks));
        let log = self.group_blocks_log;
        if each == 0 || log > 32 || each > 1 << log || (log > 0 && each <= 1 << (log - 1)) {
            return wrong(124, format!("{each} blocks in a group of 2^{log} or fewer"));
        }
        let fits = groups > 0 && self.blocks <= groups * each && self.blocks > (groups - 1) * each;
        if !fits {
            return wrong(88, format!("{} blocks in {groups} groups of {each}", self.blocks));
        }
        if self.blocks.checked_mul(block.into()).is_none_or(|bytes| bytes > 1 << 62) {
            return wrong(8, format!("{} blocks", self.blocks));
        }
        Ok(())
    }

    /// Where a block of the file system lies, in bytes; blocks are numbered by group.
    pub(super) fn byte_of_block(&self, block: u64) -> Option<u64> {
        let plain = self.plain_block(block)?;
        plain.checked_mul(self.block_bytes.into())
    }

    /// The number of a block counted through all groups.
    fn plain_block(&self, block: u64) -> Option<u64> {
        let group = block >> self.group_blocks_log;
        let within = block & ((1 << self.group_blocks_log) - 1);
        if group >= self.groups.into() || within >= self.group_blocks.into() {
            return None;
        }
        let plain = group * u64::from(self.group_blocks) + within;
        (plain < self.blocks).then_some(plain)
    }

    /// Whether `count` blocks from `block` lie in one group and in the file system.
    pub(super) fn holds(&self, block: u64, count: u64) -> bool {
        let last = count.checked_sub(1).and_then(|more| block.checked_add(more));
        let Some(last) = last else { return false };
        last >> self.group_blocks_log == block >> self.group_blocks_log
            && self.plain_block(block).is_some()
            && self.plain_block(last).is_some()
    }

    /// Where an inode lies, in bytes.
    pub(super) fn byte_of_inode(&self, inode: u64) -> Option<u64> {
        let block = self.byte_of_block(inode >> self.inodes_in_block_log)?;
        let index = inode & ((1 << self.inodes_in_block_log) - 1);
        block.checked_add(index * u64::from(self.inode_bytes))
    }
}

fn version(raw: &Raw<'_>) -> Result<Version, Problem> {
    let bits = raw.be16(100)?;
    let version = match bits & VERSION_MASK {
        4 => Version::Four,
        5 => Version::Five,
        other => return Err(Problem::Unread { feature: format!("XFS of version {other}") }),
    };
    if bits & VERSION_DIRECTORIES_2 == 0 && version == Version::Four {
        return Err(Problem::Unread { feature: "XFS with directories of version 1".to_owned() });
    }
    Ok(version)
}

fn refuse_unknown(incompatible: u32) -> Result<(), Problem> {
    let unknown = incompatible & !INCOMPAT_KNOWN;
    if unknown == 0 {
        return Ok(());
    }
    let named = INCOMPAT_NAMES.iter().filter(|(bit, _)| unknown & bit != 0);
    let mut names: Vec<String> = named.map(|(_, name)| (*name).to_owned()).collect();
    let rest = INCOMPAT_NAMES.iter().fold(unknown, |rest, (bit, _)| rest & !bit);
    if rest != 0 {
        names.push(format!("the incompatible features {rest:#x}"));
    }
    Err(Problem::Unread { feature: format!("XFS with {}", names.join(" and ")) })
}
