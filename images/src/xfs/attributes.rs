//! Extended attributes: in the inode, in leaves under a tree of hashes, and values too large for a
//! leaf in blocks of their own. Lists of access rights are given as Linux shows them.

use crate::raw::{Block, Raw};
use crate::system::Problem;
use crate::volume::Volume;

use super::extents::{Map, owned};
use super::geometry::{Geometry, Version};
use super::inode::{Format, Inode};

/// Names and values of one node together, in bytes; Linux lists 64 KiB of names.
const TOTAL_BYTES_MAX: usize = 16 << 20;
/// A value, in bytes: Linux's limit.
const VALUE_BYTES_MAX: u32 = 64 << 10;
/// Leaves of one node: more than hold the most names that Linux lists.
const LEAVES_MAX: u32 = 16 << 10;
/// Levels of the tree above the leaves.
const LEVELS_MAX: u16 = 5;

const IS_LOCAL: u8 = 0x1;
const IS_ROOT: u8 = 0x2;
const IS_SECURE: u8 = 0x4;
/// Names that a node has, kept as attributes that nobody sees.
const IS_PARENT: u8 = 0x8;
/// What was being written when power was lost.
const IS_INCOMPLETE: u8 = 0x80;

/// Names with their values.
pub(super) type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Every extended attribute of an inode.
pub(super) fn list(
    volume: &dyn Volume,
    geometry: &Geometry,
    inode: &Inode,
) -> Result<Pairs, Problem> {
    let mut found = Found { pairs: Vec::new(), bytes: 0 };
    let Some(fork) = inode.attributes()? else { return Ok(found.pairs) };
    match fork.format {
        Format::Local => short(&fork.raw, &mut found)?,
        Format::Extents if fork.extents == 0 => {}
        Format::Btree | Format::Device | Format::Extents => {
            let map = Map::new(volume, geometry, fork)?;
            Blocks { volume, geometry, map, owner: inode.number }.collect(&mut found)?;
        }
    }
    Ok(found.pairs)
}

/// What was found, in bounds.
struct Found {
    pairs: Pairs,
    bytes: usize,
}

impl Found {
    fn add(&mut self, flags: u8, name: &[u8], value: Vec<u8>) -> Result<(), Problem> {
        self.bytes = self.bytes.saturating_add(name.len()).saturating_add(value.len());
        if self.bytes > TOTAL_BYTES_MAX {
            let limit = TOTAL_BYTES_MAX as u64;
            return Err(Problem::Limit { what: "bytes of extended attributes", limit });
        }
        let shown = match (flags & (IS_ROOT | IS_SECURE), name) {
            (IS_ROOT, b"SGI_ACL_FILE") => rights("system.posix_acl_access", &value),
            (IS_ROOT, b"SGI_ACL_DEFAULT") => rights("system.posix_acl_default", &value),
            _ => None,
        };
        let prefix: &[u8] = match flags & (IS_ROOT | IS_SECURE) {
            0 => b"user.",
            IS_ROOT => b"trusted.",
            _ => b"security.",
        };
        self.pairs.push(shown.unwrap_or_else(|| ([prefix, name].concat(), value)));
        Ok(())
    }
}

/// Whether anybody sees an attribute with these flags.
fn is_seen(flags: u8) -> bool {
    flags & (IS_PARENT | IS_INCOMPLETE) == 0
}

/// A list of rights as Linux shows it: version 2, then tag, rights and id of each, little-endian.
/// None if it is not what XFS writes: it is then shown as it lies.
fn rights(name: &str, value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let raw = Raw { what: "a list of rights", at: 0, bytes: value };
    let count = raw.be32(0).ok()? as usize;
    if count.checked_mul(12)?.checked_add(4)? != value.len() {
        return None;
    }
    let mut shown = 2_u32.to_le_bytes().to_vec();
    for entry in value.get(4..)?.chunks_exact(12) {
        let entry = Raw { what: raw.what, at: 0, bytes: entry };
        let (tag, id) = (u16::try_from(entry.be32(0).ok()?).ok()?, entry.be32(4).ok()?);
        // Only entries of named users (2) and groups (8) have an id; Linux shows -1 elsewhere.
        let id = if matches!(tag, 2 | 8) { id } else { u32::MAX };
        shown.extend_from_slice(&tag.to_le_bytes());
        shown.extend_from_slice(&entry.be16(8).ok()?.to_le_bytes());
        shown.extend_from_slice(&id.to_le_bytes());
    }
    Some((name.as_bytes().to_vec(), shown))
}

/// Attributes in the inode.
fn short(raw: &Raw<'_>, found: &mut Found) -> Result<(), Problem> {
    let raw = raw.part(0, raw.be16(0)?.into())?;
    let mut offset = 4;
    for _ in 0..raw.u8(2)? {
        let (name, value) = (usize::from(raw.u8(offset)?), usize::from(raw.u8(offset + 1)?));
        let flags = raw.u8(offset + 2)?;
        let place = offset + 3;
        if is_seen(flags) {
            let value = raw.take(place + name, value)?.to_vec();
            found.add(flags, raw.take(place, name)?, value)?;
        }
        offset = place + name + value;
    }
    Ok(())
}

/// Attributes in blocks.
struct Blocks<'a> {
    volume: &'a dyn Volume,
    geometry: &'a Geometry,
    map: Map<'a>,
    owner: u64,
}

impl Blocks<'_> {
    fn collect(&mut self, found: &mut Found) -> Result<(), Problem> {
        let mut next = self.first_leaf()?;
        let mut leaves = 0;
        loop {
            let block = self.read(next)?;
            let raw = block.raw();
            let (wanted, header) = match self.geometry.version {
                Version::Four => (0xfbee, 32),
                Version::Five => (0x3bee, 80),
            };
            if raw.be16(8)? != wanted {
                return Err(raw.damaged(8, "it is not a leaf"));
            }
            self.leaf(&raw, header, found)?;
            next = raw.be32(0)?;
            leaves += 1;
            if next == 0 {
                return Ok(());
            }
            if leaves == LEAVES_MAX {
                let limit = LEAVES_MAX.into();
                return Err(Problem::Limit { what: "leaves of extended attributes", limit });
            }
        }
    }

    /// Follows the first key of every level down.
    fn first_leaf(&mut self) -> Result<u32, Problem> {
        let (mut next, mut above) = (0, LEVELS_MAX + 1);
        loop {
            let block = self.read(next)?;
            let raw = block.raw();
            let header = match (self.geometry.version, raw.be16(8)?) {
                (Version::Four, 0xfebe) => 16,
                (Version::Five, 0x3ebe) => 64,
                _ => return Ok(next),
            };
            let level = raw.be16(header - if header == 16 { 2 } else { 6 })?;
            if level == 0 || level >= above {
                return Err(raw.damaged(0, format!("level {level} below level {above}")));
            }
            above = level;
            next = raw.be32(header + 4)?;
        }
    }

    /// A block of the tree, which is one block of the file system.
    fn read(&mut self, number: u32) -> Result<Block, Problem> {
        let what = "a block of extended attributes";
        let block = self.plain(number.into(), what)?;
        if self.geometry.version == Version::Five {
            let raw = block.raw();
            raw.crc32c(12)?;
            owned(&raw, self.geometry, (16, 32), (48, self.owner))?;
        }
        Ok(block)
    }

    fn plain(&mut self, number: u64, what: &'static str) -> Result<Block, Problem> {
        let extent = self.map.at(number)?;
        let place = extent.place.map(|place| place + (number - extent.first));
        let Some(at) = place.and_then(|place| self.geometry.byte_of_block(place)) else {
            let why = format!("block {number} of inode {}'s is not there", self.owner);
            return Err(Problem::Damaged { what, at: 0, why });
        };
        Block::read(self.volume, what, at, self.geometry.block_bytes as usize)
    }

    fn leaf(&mut self, raw: &Raw<'_>, header: usize, found: &mut Found) -> Result<(), Problem> {
        let count = raw.be16(if header == 32 { 12 } else { 56 })?;
        for index in 0..usize::from(count) {
            let entry = header + index * 8;
            let (place, flags) = (usize::from(raw.be16(entry + 4)?), raw.u8(entry + 6)?);
            if !is_seen(flags) {
                continue;
            }
            if flags & IS_LOCAL != 0 {
                let length = usize::from(raw.be16(place)?);
                let name = usize::from(raw.u8(place + 2)?);
                let value = raw.take(place + 3 + name, length)?.to_vec();
                found.add(flags, raw.take(place + 3, name)?, value)?;
            } else {
                let (block, length) = (raw.be32(place)?, raw.be32(place + 4)?);
                let name = usize::from(raw.u8(place + 8)?);
                let name = raw.take(place + 9, name)?;
                if length > VALUE_BYTES_MAX {
                    return Err(raw.damaged(place + 4, format!("a value of {length} bytes")));
                }
                let value = self.remote(block.into(), length as usize)?;
                found.add(flags, name, value)?;
            }
        }
        Ok(())
    }

    /// A value in blocks of its own; in version 5 each begins with its own header.
    fn remote(&mut self, first: u64, length: usize) -> Result<Vec<u8>, Problem> {
        let mut value = Vec::with_capacity(length);
        let mut number = first;
        while value.len() < length {
            let block = self.plain(number, "a value of an extended attribute")?;
            let raw = block.raw();
            let body = match self.geometry.version {
                Version::Four => raw,
                Version::Five => {
                    self.header(&raw, value.len())?;
                    raw.part(56, raw.be32(8)? as usize)?
                }
            };
            let wanted = body.len().min(length - value.len());
            if wanted == 0 {
                return Err(raw.damaged(8, "it is empty"));
            }
            value.extend_from_slice(body.take(0, wanted)?);
            number += 1;
        }
        Ok(value)
    }

    fn header(&self, raw: &Raw<'_>, offset: usize) -> Result<(), Problem> {
        if raw.take(0, 4)? != b"XARM" || raw.be32(4)? as usize != offset {
            return Err(raw.damaged(0, format!("it is not the part from byte {offset}")));
        }
        raw.crc32c(12)?;
        owned(raw, self.geometry, (40, 16), (32, self.owner))
    }
}
