//! Blocks of the file system as a mount would see them: those that the journal holds newer are
//! read from there.

use std::collections::HashMap;
use std::sync::Arc;

use crate::bytes::u32_at;
use crate::ext::damaged;
use crate::ext::superblock::{SUPERBLOCK_AT, Superblock};
use crate::system::Problem;
use crate::volume::Volume;

/// Where the journal holds a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Newer {
    /// In bytes of the volume.
    pub(super) at: u64,
    /// Its first four bytes were those of the journal's mark, and were taken out.
    pub(super) is_escaped: bool,
}

/// By the block that it stands for.
pub(super) type Overlay = HashMap<u64, Newer>;

pub(super) const JOURNAL_MARK: u32 = 0xc03b_3998;

pub(super) struct Blocks {
    volume: Arc<dyn Volume>,
    superblock: Superblock,
    overlay: Overlay,
}

impl Blocks {
    pub(super) fn new(volume: Arc<dyn Volume>, superblock: Superblock) -> Self {
        Self { volume, superblock, overlay: Overlay::new() }
    }

    /// The same with newer blocks over it, the superblock among them.
    pub(super) fn overlaid(mut self, overlay: Overlay) -> Result<Self, Problem> {
        self.overlay = overlay;
        let mut bytes = vec![0; 1024];
        let block_bytes = self.superblock.block_bytes;
        self.read(SUPERBLOCK_AT / block_bytes, SUPERBLOCK_AT % block_bytes, &mut bytes)?;
        self.superblock = Superblock::parse(&bytes)?;
        Ok(self)
    }

    pub(super) const fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Where a block lies in the volume, the journal aside.
    pub(super) fn place(&self, block: u64) -> Result<u64, Problem> {
        let place = block.checked_mul(self.superblock.block_bytes);
        match place.filter(|_| self.superblock.holds(block)) {
            Some(place) => Ok(place),
            None => {
                let why = format!("there is no block {block}");
                Err(damaged("a place in the file system", 0, why))
            }
        }
    }

    /// Bytes from `inside` on of `block` and of those behind it.
    pub(super) fn read(&self, block: u64, inside: u64, into: &mut [u8]) -> Result<(), Problem> {
        let block_bytes = self.superblock.block_bytes;
        let last = block + (inside + into.len() as u64).saturating_sub(1) / block_bytes;
        let place = self.place(block)? + inside;
        self.place(last)?;
        if self.overlay.is_empty() {
            return Ok(self.volume.read_at(place, into)?);
        }
        let (mut at, mut rest) = (place, into);
        while !rest.is_empty() {
            let (block, inside) = (at / block_bytes, at % block_bytes);
            let count = usize::try_from(block_bytes - inside).unwrap_or(0).min(rest.len());
            let (now, later) = rest.split_at_mut(count);
            match self.overlay.get(&block) {
                Some(newer) => self.read_newer(*newer, inside, now)?,
                None => self.volume.read_at(at, now)?,
            }
            rest = later;
            at += count as u64;
        }
        Ok(())
    }

    fn read_newer(&self, newer: Newer, inside: u64, into: &mut [u8]) -> Result<(), Problem> {
        self.volume.read_at(newer.at + inside, into)?;
        if newer.is_escaped {
            let mark = JOURNAL_MARK.to_be_bytes();
            for (byte, at) in into.iter_mut().zip(inside..4) {
                *byte = mark.get(usize::try_from(at).unwrap_or(4)).copied().unwrap_or(*byte);
            }
        }
        Ok(())
    }

    /// Bytes of the volume itself, past what the journal holds.
    pub(super) fn read_below(&self, at: u64, into: &mut [u8]) -> Result<(), Problem> {
        Ok(self.volume.read_at(at, into)?)
    }

    /// Where the inode with this number lies: its block, and the byte in it.
    pub(super) fn inode_place(&self, number: u64) -> Result<(u64, u64), Problem> {
        let layout = &self.superblock;
        if number == 0 || number > layout.inodes {
            let why = format!("there is no inode {number}");
            return Err(damaged("an inode", 0, why));
        }
        let (group, index) =
            ((number - 1) / layout.inodes_per_group, (number - 1) % layout.inodes_per_group);
        let per_block = layout.block_bytes / layout.descriptor_bytes;
        let table_block = self.descriptor_block(group, per_block)?;
        let mut descriptor = vec![0; usize::try_from(layout.descriptor_bytes).unwrap_or(0)];
        self.read(table_block, group % per_block * layout.descriptor_bytes, &mut descriptor)?;
        let high = if layout.descriptor_bytes >= 64 { u32_at(&descriptor, 40) } else { 0 };
        let table = u64::from(high) << 32 | u64::from(u32_at(&descriptor, 8));
        let place = index * layout.inode_bytes;
        let block = table.checked_add(place / layout.block_bytes);
        let block = block.ok_or_else(|| damaged("a group", table_block, "it leads out"))?;
        Ok((block, place % layout.block_bytes))
    }

    /// The block with the descriptor of a group.
    fn descriptor_block(&self, group: u64, per_block: u64) -> Result<u64, Problem> {
        let layout = &self.superblock;
        let number = group / per_block;
        match layout.first_meta_group {
            Some(first) if number >= first => {
                let first_group = number * per_block;
                let start = first_group.checked_mul(layout.blocks_per_group);
                let start = start.and_then(|start| start.checked_add(layout.first_data_block));
                let start = start.ok_or_else(|| damaged("a group", group, "it leads out"))?;
                Ok(start + u64::from(self.has_superblock(first_group)))
            }
            _ => Ok(SUPERBLOCK_AT / layout.block_bytes + 1 + number),
        }
    }

    /// Whether a group begins with a copy of the superblock, which comes before descriptors.
    fn has_superblock(&self, group: u64) -> bool {
        let power = |of: u64| {
            std::iter::successors(Some(of), |n| n.checked_mul(of))
                .take_while(|n| *n <= group)
                .any(|n| n == group)
        };
        !self.superblock.is_sparse || group <= 1 || [3, 5, 7].into_iter().any(power)
    }
}
