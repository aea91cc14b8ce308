//! Where the blocks of a file lie: by a tree of extents, or by the blocks of blocks of old. Every
//! answer is at least one block long, so that who goes on comes to an end.

use crate::bytes::{u16_at, u32_at};
use crate::ext::block::Blocks;
use crate::ext::damaged;
use crate::ext::inode::Inode;
use crate::system::Problem;

/// Runs that are looked through for one question.
pub(super) const RUNS_MAX: usize = 1 << 16;
const EXTENT_MARK: u16 = 0xf30a;
const EXTENT_DEPTH_MAX: u16 = 5;
/// An extent longer than this is one that was not written yet.
const WRITTEN_MAX: u64 = 32_768;
const ENTRY_BYTES: usize = 12;
/// Blocks that an inode names itself.
const DIRECT: u64 = 12;

/// Blocks of a file that lie in a row.
pub(super) struct Run {
    /// The first; none where nothing was written.
    pub(super) block: Option<u64>,
    pub(super) count: u64,
}

/// The run that begins with block `logical` of a file.
pub(super) fn at(blocks: &Blocks, inode: &Inode, logical: u64) -> Result<Run, Problem> {
    match inode.has_extents() {
        true => by_extents(blocks, inode, logical),
        false => by_blocks(blocks, inode, logical),
    }
}

fn by_extents(blocks: &Blocks, inode: &Inode, logical: u64) -> Result<Run, Problem> {
    let wrong = |why: &str| damaged("a tree of extents", inode.place, why);
    let mut node = inode.map.to_vec();
    let mut depth_max = EXTENT_DEPTH_MAX;
    // Where what the node is about ends.
    let mut end = u64::MAX;
    loop {
        let (count, depth) = (usize::from(u16_at(&node, 2)), u16_at(&node, 6));
        if u16_at(&node, 0) != EXTENT_MARK || depth > depth_max {
            return Err(wrong("a node is none"));
        }
        let entries = node.get(ENTRY_BYTES..ENTRY_BYTES * (count + 1));
        let entries = entries.ok_or_else(|| wrong("a node has more than it holds"))?;
        let mut found: Option<&[u8]> = None;
        for entry in entries.chunks_exact(ENTRY_BYTES) {
            let first = u64::from(u32_at(entry, 0));
            if first > logical {
                end = end.min(first);
                break;
            }
            found = Some(entry);
        }
        let hole = Run { block: None, count: end - logical };
        let Some(entry) = found else { return Ok(hole) };
        if depth == 0 {
            let first = u64::from(u32_at(entry, 0));
            let length = u64::from(u16_at(entry, 4));
            let (length, written) = match length {
                0..=WRITTEN_MAX => (length, true),
                longer => (longer - WRITTEN_MAX, false),
            };
            let inside = logical - first;
            if inside >= length {
                return Ok(hole);
            }
            let start = u64::from(u16_at(entry, 6)) << 32 | u64::from(u32_at(entry, 8));
            let block = written.then_some(start + inside);
            return Ok(Run { block, count: length - inside });
        }
        let below = u64::from(u16_at(entry, 8)) << 32 | u64::from(u32_at(entry, 4));
        let mut bytes = vec![0; usize::try_from(blocks.superblock().block_bytes).unwrap_or(0)];
        blocks.read(below, 0, &mut bytes)?;
        node = bytes;
        depth_max = depth - 1;
    }
}

fn by_blocks(blocks: &Blocks, inode: &Inode, logical: u64) -> Result<Run, Problem> {
    let named = |index: usize| u64::from(u32_at(&inode.map, index * 4));
    let one = |block: u64| Run { block: (block != 0).then_some(block), count: 1 };
    if logical < DIRECT {
        return Ok(one(named(usize::try_from(logical).unwrap_or(0))));
    }
    let per_block = blocks.superblock().block_bytes / 4;
    let (mut rest, mut level) = (logical - DIRECT, 1_u32);
    let mut span = per_block;
    while rest >= span {
        rest -= span;
        level += 1;
        span = span.saturating_mul(per_block);
        if level > 3 {
            return Err(damaged("a file", inode.place, "it is longer than it can be"));
        }
    }
    let mut block = named(11 + level as usize);
    loop {
        if block == 0 {
            return Ok(Run { block: None, count: span - rest });
        }
        if level == 0 {
            return Ok(one(block));
        }
        span /= per_block;
        let mut bytes = [0; 4];
        blocks.read(block, rest / span * 4, &mut bytes)?;
        rest %= span;
        block = u32::from_le_bytes(bytes).into();
        level -= 1;
    }
}
