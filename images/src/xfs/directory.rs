//! Directories: in the inode, in one block, or in many. Only blocks with names are read; what
//! finds a name by its hash is beside them and not needed to list them. A block that is damaged
//! hides its own names only.

use crate::raw::{Block, Raw, is_name};
use crate::system::{Named, NodeId, Problem};
use crate::volume::Volume;

use super::extents::{Map, owned};
use super::geometry::{Geometry, Types, Version};
use super::inode::{Format, Inode};

/// Where the blocks with names end and those with hashes begin, in bytes of the directory.
const NAMES_END: u64 = 1 << 35;
/// Entries begin at multiples of this.
const ALIGNED: usize = 8;
const FREE: u16 = 0xffff;

/// Takes the next name; `false` when it has enough.
type Each<'a> = &'a mut dyn FnMut(Named) -> bool;

/// What a listing came to so far.
enum Walk {
    Enough,
    More,
}

/// Lists a directory.
pub(super) fn list(
    volume: &dyn Volume,
    geometry: &Geometry,
    inode: &Inode,
    each: Each<'_>,
) -> Result<(), Problem> {
    let fork = inode.data()?;
    if fork.format == Format::Local {
        let length = usize::try_from(inode.size).unwrap_or(usize::MAX);
        return short(&fork.raw.part(0, length)?, geometry.has_types, each);
    }
    let mut map = Map::new(volume, geometry, fork)?;
    let unit = u64::from(geometry.directory_block_bytes / geometry.block_bytes);
    let end = (NAMES_END / u64::from(geometry.block_bytes)).min(blocks_of(geometry, inode));
    let (mut block, mut first_problem) = (0, None);
    while block < end {
        let extent = match map.at(block) {
            Ok(extent) => extent,
            // Without the map nothing says where the rest would be.
            Err(problem) => return Err(first_problem.unwrap_or(problem)),
        };
        if extent.place.is_none() {
            block = extent.end().next_multiple_of(unit).max(block + unit);
            continue;
        }
        let walked = read(volume, geometry, &mut map, block)
            .and_then(|read| names(&read, geometry, inode.number, each));
        match walked {
            Ok(Walk::Enough) => return first_problem.map_or(Ok(()), Err),
            Ok(Walk::More) => {}
            Err(problem) => first_problem = first_problem.or(Some(problem)),
        }
        block += unit;
    }
    first_problem.map_or(Ok(()), Err)
}

/// Blocks that a directory may have: as many as its size says, and no more than there are.
fn blocks_of(geometry: &Geometry, inode: &Inode) -> u64 {
    inode.size.div_ceil(geometry.block_bytes.into()).min(geometry.blocks)
}

/// One block of a directory, which may be of several extents.
fn read(
    volume: &dyn Volume,
    geometry: &Geometry,
    map: &mut Map<'_>,
    block: u64,
) -> Result<Block, Problem> {
    let what = "a block of a directory";
    let mut whole = Block { what, at: 0, bytes: vec![0; geometry.directory_block_bytes as usize] };
    for (index, into) in whole.bytes.chunks_mut(geometry.block_bytes as usize).enumerate() {
        let wanted = block + index as u64;
        let extent = map.at(wanted)?;
        let place = extent.place.map(|place| place + (wanted - extent.first));
        let Some(at) = place.and_then(|place| geometry.byte_of_block(place)) else {
            return Err(Problem::Damaged { what, at: whole.at, why: "a part is not there".into() });
        };
        if index == 0 {
            whole.at = at;
        }
        volume.read_at(at, into)?;
    }
    Ok(whole)
}

/// The names of one block.
fn names(block: &Block, geometry: &Geometry, owner: u64, each: Each<'_>) -> Result<Walk, Problem> {
    let raw = block.raw();
    let magic = raw.take(0, 4)?;
    let (mut offset, end) = match (geometry.version, magic) {
        (Version::Four, b"XD2D") => (16, raw.len()),
        (Version::Four, b"XD2B") => (16, tail(&raw)?),
        (Version::Five, b"XDD3") => (64, raw.len()),
        (Version::Five, b"XDB3") => (64, tail(&raw)?),
        _ => return Err(raw.damaged(0, "it does not begin as one")),
    };
    if geometry.version == Version::Five {
        raw.crc32c(4)?;
        owned(&raw, geometry, (8, 24), (40, owner))?;
    }
    while offset < end {
        if raw.be16(offset)? == FREE {
            let length = usize::from(raw.be16(offset + 2)?);
            if length == 0 || length % ALIGNED != 0 || length > end - offset {
                return Err(raw.damaged(offset, format!("{length} free bytes")));
            }
            offset += length;
            continue;
        }
        let length = usize::from(raw.u8(offset + 8)?);
        let name = raw.take(offset + 9, length)?;
        let typed = usize::from(geometry.has_types == Types::Kept);
        // Number, length, name, type, and at the end where the entry itself begins.
        let bytes = (9 + length + typed + 2).next_multiple_of(ALIGNED);
        if bytes > end - offset || usize::from(raw.be16(offset + bytes - 2)?) != offset {
            return Err(raw.damaged(offset, "an entry does not say where it begins"));
        }
        if !matches!(name, b"." | b"..") {
            let node = NodeId(raw.be64(offset)?);
            if !each(named(&raw, offset, name, node)?) {
                return Ok(Walk::Enough);
            }
        }
        offset += bytes;
    }
    Ok(Walk::More)
}

/// Where the names of a directory of one block end: before its hashes.
fn tail(raw: &Raw<'_>) -> Result<usize, Problem> {
    let place = raw.len().saturating_sub(8);
    let count = raw.be32(place)? as usize;
    let end = count.checked_mul(8).and_then(|bytes| place.checked_sub(bytes));
    end.ok_or_else(|| raw.damaged(place, format!("{count} hashes in a block")))
}

/// A directory in its inode.
fn short(raw: &Raw<'_>, types: Types, each: Each<'_>) -> Result<(), Problem> {
    let (count, wide) = (raw.u8(0)?, raw.u8(1)?);
    let number_bytes = if wide == 0 { 4 } else { 8 };
    let typed = usize::from(types == Types::Kept);
    let mut offset = 2 + number_bytes;
    for _ in 0..count {
        let length = usize::from(raw.u8(offset)?);
        let name = raw.take(offset + 3, length)?;
        let place = offset + 3 + length + typed;
        let node = if wide == 0 { raw.be32(place)?.into() } else { raw.be64(place)? };
        if !each(named(raw, offset, name, NodeId(node))?) {
            return Ok(());
        }
        offset = place + number_bytes;
    }
    Ok(())
}

fn named(raw: &Raw<'_>, offset: usize, name: &[u8], node: NodeId) -> Result<Named, Problem> {
    if !is_name(name) {
        let shown = String::from_utf8_lossy(name).escape_debug().to_string();
        return Err(raw.damaged(offset, format!("`{shown}` is not a name")));
    }
    Ok(Named { name: name.to_vec(), node })
}
