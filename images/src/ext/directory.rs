//! Names in directories. Hashed directories are read as the rows of names that they are also.

use crate::bytes::{u8_at, u16_at, u32_at};
use crate::ext::block::Blocks;
use crate::ext::inode::Inode;
use crate::ext::{damaged, runs};
use crate::raw::is_name;
use crate::system::{Named, NodeId, Problem};

/// Longest directory: a hundred million short names.
const DIRECTORY_BYTES_MAX: u64 = 4 << 30;
const ENTRY_BYTES_MIN: usize = 8;
/// In a directory that lies in its inode, its parent comes first.
const PARENT_BYTES: usize = 4;
const MAP_BYTES: usize = 60;

/// Gives every name; what is damaged in a block costs the rest of that block.
pub(super) fn list(
    blocks: &Blocks,
    inode: &Inode,
    each: &mut dyn FnMut(Named) -> bool,
) -> Result<(), Problem> {
    let mut bad = None;
    if inode.is_inline() {
        let bytes = inode.inline(blocks)?;
        let (in_map, rest) = bytes.split_at_checked(MAP_BYTES).unwrap_or((&bytes, &[]));
        for part in [in_map.get(PARENT_BYTES..).unwrap_or_default(), rest] {
            match names(part, inode.place, each) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(problem) => bad = Some(problem),
            }
        }
        return bad.map_or(Ok(()), Err);
    }
    if inode.size > DIRECTORY_BYTES_MAX {
        return Err(Problem::Limit { what: "a directory", limit: DIRECTORY_BYTES_MAX });
    }
    let block_bytes = blocks.superblock().block_bytes;
    let count = inode.size.div_ceil(block_bytes);
    let mut bytes = vec![0; usize::try_from(block_bytes).unwrap_or(0)];
    let mut logical = 0;
    while logical < count {
        let run = runs::at(blocks, inode, logical)?;
        let Some(first) = run.block else {
            logical = logical.saturating_add(run.count);
            continue;
        };
        for block in (first..).take(usize::try_from(run.count.min(count - logical)).unwrap_or(0)) {
            logical += 1;
            let listed = blocks
                .read(block, 0, &mut bytes)
                .and_then(|()| names(&bytes, block * block_bytes, each));
            match listed {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(problem) => bad = Some(problem),
            }
        }
    }
    bad.map_or(Ok(()), Err)
}

/// The names of one block; false if that was enough.
fn names(block: &[u8], place: u64, each: &mut dyn FnMut(Named) -> bool) -> Result<bool, Problem> {
    let (mut at, mut bad) = (0, None);
    while at + ENTRY_BYTES_MIN <= block.len() {
        let inode = u32_at(block, at);
        let length = match usize::from(u16_at(block, at + 4)) {
            // What is written for a block of 64 KiB.
            0 | 65_535 if block.len() == 65_536 => 65_536,
            length => length,
        };
        let name_bytes = usize::from(u8_at(block, at + 6));
        let entry_at = place + at as u64;
        let wrong = |why: &str| damaged("a directory", entry_at, why);
        let is_short = length < ENTRY_BYTES_MIN + name_bytes || length % 4 != 0;
        if is_short || length > block.len() - at {
            return Err(wrong("an entry is longer or shorter than it can be"));
        }
        let from = at + ENTRY_BYTES_MIN;
        let name = block.get(from..from + name_bytes).unwrap_or_default();
        at += length;
        if inode == 0 || matches!(name, b"." | b"..") {
            continue;
        }
        if !is_name(name) {
            bad = Some(wrong("no file can be called so"));
        } else if !each(Named { name: name.to_vec(), node: NodeId(inode.into()) }) {
            return Ok(false);
        }
    }
    bad.map_or(Ok(true), Err)
}
