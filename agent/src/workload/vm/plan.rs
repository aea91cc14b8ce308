//! What is to be done with every block of a stretch of a disk. Pure.

use super::nbd::{FLAG_DIRTY, FLAG_ZERO, Stretch};

/// What becomes of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Zeroes: never read.
    Hole,
    /// As in the point before.
    Keep,
    /// Read.
    Read,
}

/// The steps for the blocks from `offset` on; without a word on what is dirty all may be.
pub(super) fn steps(
    (offset, length): (u64, u64),
    block: u64,
    allocation: &[Stretch],
    dirty: Option<&[Stretch]>,
) -> Vec<Step> {
    let blocks = length.div_ceil(block);
    let mark = |stretches: &[Stretch], counts: &dyn Fn(u32) -> bool| {
        let mut marked = vec![false; usize::try_from(blocks).unwrap_or(0)];
        for stretch in stretches.iter().filter(|stretch| counts(stretch.flags)) {
            let from = stretch.offset.saturating_sub(offset) / block;
            let to = (stretch.offset + stretch.length).saturating_sub(offset).div_ceil(block);
            let range = usize::try_from(from).unwrap_or(0)..usize::try_from(to).unwrap_or(0);
            marked.get_mut(range).unwrap_or_default().fill(true);
        }
        marked
    };
    let data = mark(allocation, &|flags| flags & FLAG_ZERO == 0);
    let dirty = dirty.map(|dirty| mark(dirty, &|flags| flags & FLAG_DIRTY != 0));
    let step = |(index, data): (usize, &bool)| match &dirty {
        Some(dirty) if dirty.get(index) == Some(&false) => Step::Keep,
        _ if *data => Step::Read,
        _ => Step::Hole,
    };
    data.iter().enumerate().map(step).collect()
}

/// Neighbouring blocks to be read, as reads of at most `most` bytes.
pub(super) fn reads(
    steps: &[Step],
    (offset, length): (u64, u64),
    block: u64,
    most: u32,
) -> Vec<(u64, u32)> {
    let mut reads: Vec<(u64, u32)> = Vec::new();
    let wanted = steps.iter().zip(0_u64..).filter(|(step, _)| **step == Step::Read);
    for (_, index) in wanted {
        let from = index * block;
        let bytes = u32::try_from(block.min(length - from)).unwrap_or(0);
        match reads.last_mut() {
            Some((at, so_far))
                if *at + u64::from(*so_far) == offset + from && *so_far + bytes <= most =>
            {
                *so_far += bytes;
            }
            _ => reads.push((offset + from, bytes)),
        }
    }
    reads
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn stretch(offset: u64, length: u64, flags: u32) -> Stretch {
        Stretch { offset, length, flags }
    }

    #[test]
    fn a_block_is_read_if_any_of_it_is_dirty_and_any_of_it_is_data() {
        use Step::{Hole, Keep, Read};
        // Blocks of ten: data in 105..111, the rest zero; dirty in 109..125 and 139..140.
        let allocation = [stretch(100, 5, 3), stretch(105, 6, 0), stretch(111, 34, 2)];
        let dirty = [stretch(100, 9, 0), stretch(109, 16, 1), stretch(125, 14, 0)];
        let all = [dirty.as_slice(), &[stretch(139, 1, 1), stretch(140, 5, 0)]].concat();
        let whole = steps((100, 45), 10, &allocation, None);
        assert_eq!(whole, [Read, Read, Hole, Hole, Hole]);
        let changed = steps((100, 45), 10, &allocation, Some(&all));
        assert_eq!(changed, [Read, Read, Hole, Hole, Keep]);
        assert_eq!(steps((100, 45), 10, &allocation, Some(&[])), [Keep; 5]);
    }

    #[test]
    fn neighbours_are_read_together_and_the_last_block_may_be_short() {
        use Step::{Keep, Read};
        let steps = [Read, Read, Read, Keep, Read];
        assert_eq!(reads(&steps, (100, 45), 10, 20), [(100, 20), (120, 10), (140, 5)]);
    }
}
