//! What the journal holds that a mount would put in its place: which blocks are newer there. Only
//! transactions that were committed count, in their order, without blocks that were revoked later;
//! a wrong checksum ends them, as it ends them for a mount.

use std::collections::HashMap;

use crate::bytes::{u8_at, u16_be, u32_be};
use crate::ext::block::{Blocks, JOURNAL_MARK, Newer, Overlay};
use crate::ext::inode::Inode;
use crate::ext::{damaged, runs};
use crate::system::Problem;

/// Blocks of a journal: 64 GiB of 4 KiB, far above what is made.
const BLOCKS_MAX: u64 = 1 << 24;
/// Blocks of it that are followed: what is open in it is a small part.
const OPEN_MAX: u64 = 1 << 20;
/// Blocks that are revoked in what is open.
const REVOKED_MAX: usize = 1 << 21;
const REVOKES: u32 = 0x1;
const BITS64: u32 = 0x2;
const CHECKSUM_2: u32 = 0x8;
const CHECKSUM_3: u32 = 0x10;
const FAST: u32 = 0x20;
const KNOWN: u32 = REVOKES | BITS64 | 0x4 | CHECKSUM_2 | CHECKSUM_3 | FAST;
const HEADER_BYTES: usize = 12;

const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const REVOKE: u32 = 5;

/// A block in the journal that stands for another.
struct Tag {
    block: u64,
    /// In the journal.
    holds: u64,
    is_escaped: bool,
    sequence: u32,
}

struct Journal<'a> {
    blocks: &'a Blocks,
    inode: Inode,
    block_bytes: u64,
    first: u64,
    end: u64,
    features: u32,
    seed: u32,
}

/// The blocks that are newer in the journal, and what a person should know of it.
pub(super) fn replayed(blocks: &Blocks) -> Result<(Overlay, Vec<String>), Problem> {
    let number = blocks.superblock().journal_inode;
    if number == 0 {
        return Err(Problem::Unread { feature: "a journal on another device".to_owned() });
    }
    let inode = Inode::read(blocks, number)?;
    let block_bytes = blocks.superblock().block_bytes;
    let mut journal =
        Journal { blocks, inode, block_bytes, first: 0, end: 1, features: 0, seed: 0 };
    let head = journal.block(0)?;
    let kind = u32_be(&head, 4);
    let inode_at = journal.inode.place;
    let wrong = |why: &str| damaged("the journal", inode_at, why);
    if u32_be(&head, 0) != JOURNAL_MARK || !matches!(kind, 3 | 4) {
        return Err(wrong("it has no beginning"));
    }
    if u64::from(u32_be(&head, 12)) != block_bytes {
        return Err(wrong("its blocks are not those of the file system"));
    }
    let (end, first) = (u64::from(u32_be(&head, 16)), u64::from(u32_be(&head, 20)));
    let features = if kind == 4 { u32_be(&head, 40) } else { 0 };
    if features & !KNOWN != 0 {
        let feature = format!("a journal with the feature {:#x}", features & !KNOWN);
        return Err(Problem::Unread { feature });
    }
    let fast = match (features & FAST, u64::from(u32_be(&head, 84))) {
        (0, _) => 0,
        (_, 0) => 256,
        (_, fast) => fast,
    };
    let end = end.saturating_sub(fast);
    if first == 0 || first >= end || end > BLOCKS_MAX {
        return Err(wrong("it is longer or shorter than it can be"));
    }
    journal = Journal { first, end, features, ..journal };
    journal.seed = crc(!0, head.get(48..64).unwrap_or_default());
    let (sequence, start) = (u32_be(&head, 24), u64::from(u32_be(&head, 28)));
    let mut notes = Vec::new();
    if start == 0 {
        return Ok((Overlay::new(), notes));
    }
    if !(first..end).contains(&start) {
        return Err(wrong("what is open in it lies outside of it"));
    }
    notes.push("it was not unmounted in order: its journal is read as if it were replayed".into());
    if features & FAST != 0 {
        notes.push("fast commits in its journal are not read: the last seconds may lack".into());
    }
    let overlay = journal.overlay(sequence, start, &mut notes)?;
    Ok((overlay, notes))
}

/// CRC-32C as this format begins and ends it.
fn crc(before: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!before, bytes)
}

impl Journal<'_> {
    const fn has(&self, feature: u32) -> bool {
        self.features & feature != 0
    }

    /// Where a block of the journal lies in the volume.
    fn place(&self, number: u64) -> Result<u64, Problem> {
        match runs::at(self.blocks, &self.inode, number)?.block {
            Some(block) => self.blocks.place(block),
            None => Err(damaged("the journal", self.inode.place, "it has holes")),
        }
    }

    fn block(&self, number: u64) -> Result<Vec<u8>, Problem> {
        let mut bytes = vec![0; usize::try_from(self.block_bytes).unwrap_or(0)];
        self.blocks.read_below(self.place(number)?, &mut bytes)?;
        Ok(bytes)
    }

    /// The block after this one: behind the end comes the first.
    const fn after(&self, number: u64) -> u64 {
        if number + 1 >= self.end { self.first } else { number + 1 }
    }

    fn overlay(
        &self,
        mut sequence: u32,
        start: u64,
        notes: &mut Vec<String>,
    ) -> Result<Overlay, Problem> {
        let (mut tags, mut revoked) = (Vec::new(), HashMap::new());
        // Of the transaction that is open.
        let (mut open_tags, mut open_revokes) = (Vec::new(), Vec::new());
        let (mut at, mut passed) = (start, 0);
        while passed < (self.end - self.first).min(OPEN_MAX) {
            let bytes = self.block(at)?;
            if u32_be(&bytes, 0) != JOURNAL_MARK || u32_be(&bytes, 8) != sequence {
                break;
            }
            at = self.after(at);
            passed += 1;
            let held = match u32_be(&bytes, 4) {
                DESCRIPTOR if self.is_whole(&bytes) => {
                    let found = self.tags(&bytes, sequence, &mut at, &mut passed)?;
                    found.map(|mut found| open_tags.append(&mut found)).is_some()
                }
                REVOKE
                    if self.is_whole(&bytes)
                        && revoked.len() + open_revokes.len() < REVOKED_MAX =>
                {
                    open_revokes.extend(self.revokes(&bytes));
                    true
                }
                COMMIT if self.is_commit(&bytes) => {
                    tags.append(&mut open_tags);
                    for block in open_revokes.drain(..) {
                        revoked.insert(block, sequence);
                    }
                    sequence = sequence.wrapping_add(1);
                    true
                }
                _ => false,
            };
            if !held {
                notes.push("a part of its journal is damaged: what came after it lacks".into());
                break;
            }
        }
        let mut overlay = Overlay::new();
        for Tag { block, holds, is_escaped, sequence } in tags {
            let later = |at: &u32| at.wrapping_sub(sequence) < u32::MAX / 2;
            if !revoked.get(&block).is_some_and(later) {
                overlay.insert(block, Newer { at: self.place(holds)?, is_escaped });
            }
        }
        Ok(overlay)
    }

    /// What a descriptor names, and goes behind it; none where a checksum is wrong.
    fn tags(
        &self,
        bytes: &[u8],
        sequence: u32,
        at: &mut u64,
        passed: &mut u64,
    ) -> Result<Option<Vec<Tag>>, Problem> {
        let tail = if self.has(CHECKSUM_2 | CHECKSUM_3) { 4 } else { 0 };
        let wide = if self.has(BITS64) { 4 } else { 0 };
        let tag_bytes = if self.has(CHECKSUM_3) { 16 } else { 8 + wide };
        let (mut place, mut tags) = (HEADER_BYTES, Vec::new());
        while place + tag_bytes + tail <= bytes.len() {
            let low = u64::from(u32_be(bytes, place));
            let (flags, sum, high) = match self.has(CHECKSUM_3) {
                true => {
                    (u32_be(bytes, place + 4), u32_be(bytes, place + 12), u32_be(bytes, place + 8))
                }
                false => (
                    u16_be(bytes, place + 6).into(),
                    u16_be(bytes, place + 4).into(),
                    u32_be(bytes, place + 8),
                ),
            };
            let high = if wide == 0 { 0 } else { u64::from(high) << 32 };
            let holds = *at;
            *at = self.after(*at);
            *passed += 1;
            if self.has(CHECKSUM_2 | CHECKSUM_3) {
                let data = self.block(holds)?;
                let found = crc(crc(self.seed, &sequence.to_be_bytes()), &data);
                let found = if self.has(CHECKSUM_3) { found } else { found & 0xffff };
                if found != sum {
                    return Ok(None);
                }
            }
            tags.push(Tag { block: high | low, holds, is_escaped: flags & 1 != 0, sequence });
            place += tag_bytes + if flags & 2 == 0 { 16 } else { 0 };
            if flags & 8 != 0 || *passed >= OPEN_MAX {
                break;
            }
        }
        Ok(Some(tags))
    }

    fn revokes(&self, bytes: &[u8]) -> Vec<u64> {
        let length = if self.has(BITS64) { 8 } else { 4 };
        let end = usize::try_from(u32_be(bytes, 12)).unwrap_or(0).min(bytes.len());
        let named = bytes.get(HEADER_BYTES + 4..end).unwrap_or_default();
        named
            .chunks_exact(length)
            .map(|block| match length {
                8 => u64::from(u32_be(block, 0)) << 32 | u64::from(u32_be(block, 4)),
                _ => u32_be(block, 0).into(),
            })
            .collect()
    }

    /// Whether a descriptor or a list of revoked blocks is what its checksum says.
    fn is_whole(&self, bytes: &[u8]) -> bool {
        if !self.has(CHECKSUM_2 | CHECKSUM_3) {
            return true;
        }
        let end = bytes.len() - 4;
        let summed = crc(self.seed, bytes.get(..end).unwrap_or_default());
        crc(summed, &[0; 4]) == u32_be(bytes, end)
    }

    fn is_commit(&self, bytes: &[u8]) -> bool {
        if !self.has(CHECKSUM_2 | CHECKSUM_3) {
            // An older kind of checksum is over what is read only when it is put in place.
            return u8_at(bytes, 12) <= 4;
        }
        let mut summed = bytes.to_vec();
        summed.iter_mut().skip(16).take(4).for_each(|byte| *byte = 0);
        crc(self.seed, &summed) == u32_be(bytes, 16)
    }
}
