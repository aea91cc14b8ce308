//! What a segment keeps in memory of its entries: the first key of each block, and two bytes of
//! every id. It says "not here" without the disk, and else in which blocks to look; it is never
//! the answer itself.

use strongroom_protocol::id::ChunkId;

use super::segment::BLOCK_ENTRIES;

/// Bytes of an id that stand for it in memory.
pub(super) const PRINT_BYTES: usize = 2;
/// Bytes of a block's first key.
pub(super) const KEY_BYTES: usize = 8;
/// Blocks looked at on one side of where a key should be before looking further away.
const GALLOP_BLOCKS: usize = 8;

/// The keys of the blocks and the prints of the entries of one segment.
pub(super) struct Fence {
    keys: Vec<u64>,
    prints: Vec<u16>,
}

impl Fence {
    /// From its bytes: a key of each block, then a print of each entry.
    pub(super) fn parse(bytes: &[u8], blocks: usize) -> Self {
        let (keys, prints) = bytes.split_at_checked(blocks * KEY_BYTES).unwrap_or((bytes, &[]));
        let keys = keys.as_chunks::<KEY_BYTES>().0;
        let prints = prints.as_chunks::<PRINT_BYTES>().0;
        Self {
            keys: keys.iter().map(|key| u64::from_le_bytes(*key)).collect(),
            prints: prints.iter().map(|print| u16::from_le_bytes(*print)).collect(),
        }
    }

    pub(super) const fn blocks(&self) -> usize {
        self.keys.len()
    }

    pub(super) const fn memory_bytes(&self) -> usize {
        self.keys.len() * KEY_BYTES + self.prints.len() * PRINT_BYTES
    }

    /// The blocks in which an id may lie: hardly ever one, when it does not.
    pub(super) fn candidates(&self, id: &ChunkId) -> impl Iterator<Item = usize> {
        let key = key_of(id);
        let print = u16::from_le_bytes(print_of(id));
        let from = self.first_not_below(key);
        let same = self.keys.get(from..).unwrap_or_default();
        let to = from + same.iter().take_while(|found| **found == key).count();
        (from.saturating_sub(1)..to).filter(move |block| self.may_hold(*block, print))
    }

    fn may_hold(&self, block: usize, print: u16) -> bool {
        let prints = self.prints.get(block * BLOCK_ENTRIES..).unwrap_or_default();
        let prints = prints.get(..BLOCK_ENTRIES).unwrap_or(prints);
        // All of them, without leaving early: that is a few vector instructions.
        prints.iter().fold(false, |held, found| held | (*found == print))
    }

    /// The first block whose key is not below `key`. Ids are hashes, so where it should be is
    /// known before anything is read.
    fn first_not_below(&self, key: u64) -> usize {
        let below = |block: usize| self.keys.get(block).is_some_and(|found| *found < key);
        let blocks = self.keys.len();
        let guess = (u128::from(key) * blocks as u128) >> u64::BITS;
        let guess = usize::try_from(guess).unwrap_or_default();
        let (mut low, mut high) = (guess, guess);
        let mut step = GALLOP_BLOCKS;
        if below(guess) {
            while below(high) {
                low = high + 1;
                high = (low + step).min(blocks);
                step *= 2;
            }
        } else {
            while low > 0 && !below(low - 1) {
                high = low - 1;
                low = high.saturating_sub(step);
                step *= 2;
            }
        }
        let between = self.keys.get(low..high).unwrap_or_default();
        low + between.partition_point(|found| *found < key)
    }
}

/// The number blocks are found by.
pub(super) fn key_of(id: &ChunkId) -> u64 {
    id.0.first_chunk().map_or(0, |head| u64::from_be_bytes(*head))
}

/// The bytes that stand for an id: of those its key does not have.
pub(super) fn print_of(id: &ChunkId) -> [u8; PRINT_BYTES] {
    id.0.last_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fence(ids: &[ChunkId]) -> Fence {
        let firsts = ids.iter().step_by(BLOCK_ENTRIES);
        let mut bytes: Vec<u8> = firsts.flat_map(|id| key_of(id).to_le_bytes()).collect();
        bytes.extend(ids.iter().flat_map(print_of));
        Fence::parse(&bytes, ids.len().div_ceil(BLOCK_ENTRIES))
    }

    fn hashed(number: u32) -> ChunkId {
        ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    fn is_found(fence: &Fence, ids: &[ChunkId]) {
        for (at, id) in ids.iter().enumerate() {
            let block = at / BLOCK_ENTRIES;
            let found: Vec<usize> = fence.candidates(id).collect();
            assert!(found.contains(&block), "{at} of {} not in {block}: {found:?}", ids.len());
        }
    }

    #[test]
    fn every_entry_is_in_a_candidate_and_hardly_anything_else_is() {
        for count in [0_u32, 1, 2, 20, 21, 22, 43, 5000, 40_000] {
            let mut ids: Vec<ChunkId> = (0..count).map(hashed).collect();
            ids.sort_unstable();
            let fence = fence(&ids);
            is_found(&fence, &ids);
            let others = (count..count + 20_000).map(hashed);
            let wrong = others.filter(|id| fence.candidates(id).next().is_some()).count();
            assert!(wrong < 100, "{wrong} of 20,000 others would be looked for on disk");
        }
    }

    #[test]
    fn ids_that_are_no_hashes_cost_time_only() {
        let skewed = |number: u32| {
            let mut id = [0; 32];
            let key = if number < 300 { 7 } else { u64::MAX - 900 + u64::from(number) };
            id[..8].copy_from_slice(&key.to_be_bytes());
            id[8..12].copy_from_slice(&number.to_be_bytes());
            id[30..].copy_from_slice(&(number as u16).to_le_bytes());
            ChunkId(id)
        };
        let ids: Vec<ChunkId> = (0..900).map(skewed).collect();
        is_found(&fence(&ids), &ids);
    }
}
