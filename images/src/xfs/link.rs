//! Symbolic links: in the inode, or in blocks.

use crate::raw::Block;
use crate::system::Problem;
use crate::volume::Volume;

use super::extents::{Map, owned};
use super::geometry::{Geometry, Version};
use super::inode::{Format, Inode};

/// A target, in bytes: the limit of XFS.
const TARGET_BYTES_MAX: u64 = 1024;
/// What a piece of a target in blocks begins with in version 5.
const HEADER_BYTES: usize = 56;

/// Where a link points to.
pub(super) fn target(
    volume: &dyn Volume,
    geometry: &Geometry,
    inode: &Inode,
) -> Result<Vec<u8>, Problem> {
    if inode.size == 0 || inode.size > TARGET_BYTES_MAX {
        return Err(inode.damaged(56, format!("a link of {} bytes", inode.size)));
    }
    let length = inode.size as usize;
    let fork = inode.data()?;
    if fork.format == Format::Local {
        return Ok(fork.raw.take(0, length)?.to_vec());
    }
    let mut map = Map::new(volume, geometry, fork)?;
    let (mut target, mut block) = (Vec::with_capacity(length), 0);
    while target.len() < length {
        let extent = map.at(block)?;
        let Some(at) = extent.place.and_then(|place| geometry.byte_of_block(place)) else {
            return Err(inode.damaged(0, "a part of its target is not there"));
        };
        // A piece is one extent; no target needs more than the blocks of its longest.
        let most = (TARGET_BYTES_MAX as usize + HEADER_BYTES).div_ceil(512) as u64;
        let blocks = extent.blocks.min(most);
        let bytes = usize::try_from(blocks * u64::from(geometry.block_bytes)).unwrap_or(0);
        let piece = Block::read(volume, "the target of a link", at, bytes)?;
        let raw = piece.raw();
        let body = match geometry.version {
            Version::Four => raw,
            Version::Five => {
                if raw.take(0, 4)? != b"XSLM" || raw.be32(4)? as usize != target.len() {
                    return Err(raw.damaged(0, "it is not the next piece"));
                }
                raw.crc32c(12)?;
                owned(&raw, geometry, (40, 16), (32, inode.number))?;
                raw.part(HEADER_BYTES, raw.be32(8)? as usize)?
            }
        };
        let wanted = body.len().min(length - target.len());
        if wanted == 0 {
            return Err(raw.damaged(8, "it is empty"));
        }
        target.extend_from_slice(body.take(0, wanted)?);
        block = extent.end();
    }
    Ok(target)
}
