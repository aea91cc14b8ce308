//! Finding many ids in a segment. The fence is asked first for all of them; then each block in
//! which one may lie is read and checked once, in one read with those beside it that are wanted
//! too, and no other is.

use strongroom_protocol::id::ChunkId;

use super::Row;
use super::segment::{BLOCK_BYTES, BLOCK_ENTRIES, Segment, SegmentError, each_match};

/// Ids the fence is asked for at a time: bounds the memory of a batch.
const IDS_AT_ONCE: usize = 4096;
/// Most blocks of one read.
const READ_BLOCKS_MAX: usize = 128;

/// An id to be looked for in a block: the numbers of both.
type Want = (usize, usize);

impl Segment {
    /// Visits every entry of `ids[at]` for each `at` of `wanted`, which is sorted by id, with
    /// its rank among the entries.
    pub(super) fn visit_sorted(
        &self,
        ids: &[ChunkId],
        wanted: &[usize],
        mut visit: impl FnMut(usize, u64, &Row),
    ) -> Result<(), SegmentError> {
        let mut wants: Vec<Want> = Vec::new();
        let mut bytes = Vec::new();
        for some in wanted.chunks(IDS_AT_ONCE) {
            wants.clear();
            for &at in some {
                let Some(id) = ids.get(at) else { continue };
                wants.extend(self.candidates(id).map(|block| (block, at)));
            }
            // In order already, but for ids that begin alike.
            wants.sort_by_key(|(block, _)| *block);
            let mut left = wants.as_slice();
            while let Some((run, rest)) = split_run(left) {
                left = rest;
                self.visit_run(run, &mut bytes, ids, &mut visit)?;
            }
        }
        Ok(())
    }

    /// Reads blocks that lie together and visits what is wanted of them.
    fn visit_run(
        &self,
        run: &[Want],
        bytes: &mut Vec<u8>,
        ids: &[ChunkId],
        visit: &mut impl FnMut(usize, u64, &Row),
    ) -> Result<(), SegmentError> {
        let (Some((first, _)), Some((last, _))) = (run.first(), run.last()) else { return Ok(()) };
        let len = (last - first + 1) * BLOCK_BYTES;
        // Never shorter again: bytes that are about to be read need not be cleared.
        if bytes.len() < len {
            bytes.resize(len, 0);
        }
        let bytes = bytes.get_mut(..len).unwrap_or_default();
        self.read(bytes, *first)?;
        for wants in run.chunk_by(|one, next| one.0 == next.0) {
            let Some((block, _)) = wants.first() else { continue };
            let start = (block - first) * BLOCK_BYTES;
            let read = bytes.get(start..start + BLOCK_BYTES).unwrap_or_default();
            let entries = self.checked(*block, read)?;
            let before = (block * BLOCK_ENTRIES) as u64;
            for (_, at) in wants {
                let Some(id) = ids.get(*at) else { continue };
                each_match(entries, id, |number, row| visit(*at, before + number as u64, row));
            }
        }
        Ok(())
    }
}

/// Takes off what one read brings.
fn split_run(wants: &[Want]) -> Option<(&[Want], &[Want])> {
    let (first, _) = *wants.first()?;
    let mut last = first;
    let joins = |(block, _): &&Want| {
        let near = *block <= last + 1 && *block < first + READ_BLOCKS_MAX;
        if near {
            last = *block;
        }
        near
    };
    Some(wants.split_at(wants.iter().take_while(joins).count()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(blocks: &[usize]) -> Vec<Vec<usize>> {
        let wants: Vec<Want> = blocks.iter().map(|block| (*block, 0)).collect();
        let (mut left, mut runs) = (wants.as_slice(), Vec::new());
        while let Some((run, rest)) = split_run(left) {
            runs.push(run.iter().map(|(block, _)| *block).collect());
            left = rest;
        }
        runs
    }

    #[test]
    fn blocks_that_lie_together_are_read_together_and_no_others_are() {
        assert_eq!(runs(&[]), Vec::<Vec<usize>>::new());
        assert_eq!(runs(&[7]), [[7]]);
        assert_eq!(runs(&[3, 3, 4, 6, 9, 30]), [vec![3, 3, 4], vec![6], vec![9], vec![30]]);
        let all: Vec<usize> = (0..300).collect();
        let lengths: Vec<usize> = runs(&all).iter().map(Vec::len).collect();
        assert_eq!(lengths, [128, 128, 44]);
    }
}
