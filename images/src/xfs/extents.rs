//! The map of a fork: from a block of the file to a block of the file system, out of a list in
//! the inode or a tree. A tree is walked from its root each time by keys that only narrow, so it
//! ends whatever its pointers say.

use crate::raw::{Block, Raw};
use crate::system::Problem;
use crate::volume::Volume;

use super::geometry::{Geometry, Version};
use super::inode::{Fork, Format};

/// Levels of a tree; the kernel's limit for the largest fork is nine.
const LEVELS_MAX: u16 = 12;
const RECORD_BYTES: usize = 16;
/// Blocks of a file: beyond lies nothing that can be addressed.
const FILE_BLOCK_MAX: u64 = 1 << 54;

/// A run of blocks of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Extent {
    pub(super) first: u64,
    pub(super) blocks: u64,
    /// The first block of the file system; none where nothing was written.
    pub(super) place: Option<u64>,
}

impl Extent {
    pub(super) fn end(&self) -> u64 {
        self.first + self.blocks
    }
}

/// Looks blocks of one fork up. Keeps one leaf of a tree, so that reading forward is cheap.
pub(super) struct Map<'a> {
    volume: &'a dyn Volume,
    geometry: &'a Geometry,
    fork: Fork<'a>,
    /// Extents known for the blocks from `.0` to before `.1`.
    known: Option<(u64, u64, Vec<Extent>)>,
}

impl<'a> Map<'a> {
    /// The map of a fork that is made of extents.
    pub(super) fn new(
        volume: &'a dyn Volume,
        geometry: &'a Geometry,
        fork: Fork<'a>,
    ) -> Result<Self, Problem> {
        let mut map = Self { volume, geometry, fork, known: None };
        match fork.format {
            Format::Btree => {}
            Format::Extents => {
                let count = usize::try_from(fork.extents).unwrap_or(usize::MAX);
                let length = count.saturating_mul(RECORD_BYTES);
                let list = records(geometry, &fork.raw.part(0, length)?, (0, u64::MAX))?;
                map.known = Some((0, u64::MAX, list));
            }
            Format::Device | Format::Local => {
                return Err(fork.raw.damaged(0, "it is not made of extents"));
            }
        }
        Ok(map)
    }

    /// The extent that holds `block`, or the hole it lies in: a hole ends where the map is known
    /// to end or the next extent begins.
    pub(super) fn at(&mut self, block: u64) -> Result<Extent, Problem> {
        let fits = self.known.as_ref().is_some_and(|(from, to, _)| (*from..*to).contains(&block));
        if !fits {
            self.known = Some(self.descend(block)?);
        }
        let Some((_, to, list)) = &self.known else {
            return Ok(Extent { first: block, blocks: 1, place: None });
        };
        let next = list.partition_point(|extent| extent.end() <= block);
        let hole_end = match list.get(next) {
            Some(extent) if extent.first <= block => return Ok(*extent),
            Some(extent) => extent.first,
            None => (*to).min(FILE_BLOCK_MAX),
        };
        let blocks = hole_end.saturating_sub(block).max(1);
        Ok(Extent { first: block, blocks, place: None })
    }

    /// The leaf whose keys hold `block`, with the range that its parents leave to it.
    fn descend(&self, block: u64) -> Result<(u64, u64, Vec<Extent>), Problem> {
        let root = self.fork.raw;
        let mut level = root.be16(0)?;
        if level == 0 || level > LEVELS_MAX {
            return Err(root.damaged(0, format!("a tree of {level} levels")));
        }
        let room = root.len().saturating_sub(4) / RECORD_BYTES;
        let mut range = (0, u64::MAX);
        let mut next = child(&root, (4, room, root.be16(2)?.into()), block, &mut range)?;
        loop {
            level -= 1;
            let node = self.node(next, level)?;
            let raw = node.raw();
            let header = self.header_bytes();
            let count = usize::from(raw.be16(6)?);
            if level == 0 {
                let length = count * RECORD_BYTES;
                let list = records(self.geometry, &raw.part(header, length)?, range)?;
                return Ok((range.0, range.1, list));
            }
            let room = raw.len().saturating_sub(header) / RECORD_BYTES;
            next = child(&raw, (header, room, count), block, &mut range)?;
        }
    }

    fn header_bytes(&self) -> usize {
        match self.geometry.version {
            Version::Four => 24,
            Version::Five => 72,
        }
    }

    fn node(&self, block: u64, level: u16) -> Result<Block, Problem> {
        let what = "a tree of extents";
        let Some(at) = self.geometry.byte_of_block(block) else {
            return Err(self.fork.raw.damaged(0, format!("its tree leads to block {block:#x}")));
        };
        let bytes = self.geometry.block_bytes as usize;
        let node = Block::read(self.volume, what, at, bytes)?;
        let raw = node.raw();
        let magic: &[u8] = match self.geometry.version {
            Version::Four => b"BMAP",
            Version::Five => b"BMA3",
        };
        if raw.take(0, 4)? != magic {
            return Err(raw.damaged(0, "it does not begin as a node of such a tree"));
        }
        if self.geometry.version == Version::Five {
            raw.crc32c(64)?;
            owned(&raw, self.geometry, (24, 40), (56, self.fork.owner))?;
        }
        if raw.be16(4)? != level {
            return Err(raw.damaged(4, format!("it is not of level {level}")));
        }
        Ok(node)
    }
}

/// Refuses a block of version 5 that says it is another: `places` are the offsets of its address
/// and of the UUID, `owner` the offset and value of the inode.
pub(super) fn owned(
    raw: &Raw<'_>,
    geometry: &Geometry,
    places: (usize, usize),
    owner: (usize, u64),
) -> Result<(), Problem> {
    let sector = raw.at / 512;
    if raw.be64(places.0)? != sector {
        return Err(raw.damaged(places.0, "it was written for another place"));
    }
    if raw.take(places.1, 16)? != geometry.uuid {
        return Err(raw.damaged(places.1, "it belongs to another XFS"));
    }
    if raw.be64(owner.0)? != owner.1 {
        return Err(raw.damaged(owner.0, format!("it does not belong to inode {}", owner.1)));
    }
    Ok(())
}

/// The pointer to follow for `block` in a node of `(offset, room, count)` keys; narrows the range.
fn child(
    raw: &Raw<'_>,
    (offset, room, count): (usize, usize, usize),
    block: u64,
    range: &mut (u64, u64),
) -> Result<u64, Problem> {
    if count == 0 || count > room {
        return Err(raw.damaged(0, format!("{count} keys where {room} have room")));
    }
    let (mut chosen, mut from, mut to) = (0, range.0, range.1);
    for index in 0..count {
        let key = raw.be64(offset + index * 8)?;
        if key > block {
            to = to.min(key);
            break;
        }
        if index > 0 && key < from {
            return Err(raw.damaged(offset + index * 8, "its keys do not ascend"));
        }
        (chosen, from) = (index, from.max(key));
    }
    // What lies before the first key belongs to the first child.
    if chosen == 0 {
        from = range.0;
    }
    *range = (from, to);
    raw.be64(offset + room * 8 + chosen * 8)
}

/// Records in ascending order, each within `range` and within the file system.
fn records(geometry: &Geometry, raw: &Raw<'_>, range: (u64, u64)) -> Result<Vec<Extent>, Problem> {
    let mut list: Vec<Extent> = Vec::with_capacity(raw.len() / RECORD_BYTES);
    for offset in (0..raw.len()).step_by(RECORD_BYTES) {
        let (high, low) = (raw.be64(offset)?, raw.be64(offset + 8)?);
        let first = high >> 9 & (FILE_BLOCK_MAX - 1);
        let place = (high & 0x1ff) << 43 | low >> 21;
        let blocks = low & 0x1f_ffff;
        let before = list.last().map_or(range.0, Extent::end);
        if blocks == 0 || first < before || first + blocks > range.1 {
            return Err(raw.damaged(offset, format!("an extent of {blocks} blocks at {first}")));
        }
        if !geometry.holds(place, blocks) {
            let why = format!("an extent of {blocks} blocks in block {place:#x}");
            return Err(raw.damaged(offset, why));
        }
        let is_written = high >> 63 == 0;
        list.push(Extent { first, blocks, place: is_written.then_some(place) });
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_leads_to_its_child_and_narrows_the_range() {
        let mut bytes = Vec::new();
        for word in [10_u64, 20, 30, 0, 100, 200, 300, 0] {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        let raw = Raw { what: "a node", at: 0, bytes: &bytes };
        let at = |block| {
            let mut range = (0, u64::MAX);
            let next = child(&raw, (0, 4, 3), block, &mut range).unwrap();
            (next, range)
        };
        assert_eq!(at(5), (100, (0, 10)));
        assert_eq!(at(10), (100, (0, 20)));
        assert_eq!(at(29), (200, (20, 30)));
        assert_eq!(at(30), (300, (30, u64::MAX)));
        assert!(child(&raw, (0, 4, 5), 1, &mut (0, 1)).is_err());
        assert!(child(&raw, (0, 4, 0), 1, &mut (0, 1)).is_err());
    }
}
