//! Which blocks of an overlay are its own, in memory: a bit each.

use super::map::Run;

/// A bit for each block.
#[derive(Debug)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    /// None is set.
    pub(super) fn new(blocks: u64) -> Self {
        Self(vec![0; usize::try_from(blocks.div_ceil(64)).unwrap_or(0)])
    }

    fn has(&self, block: u64) -> bool {
        let word = usize::try_from(block / 64).ok().and_then(|word| self.0.get(word));
        word.is_some_and(|word| word >> (block % 64) & 1 == 1)
    }

    /// Sets a block; whether it was not set.
    pub(super) fn set(&mut self, block: u64) -> bool {
        let place = usize::try_from(block / 64).ok().and_then(|word| self.0.get_mut(word));
        let Some(word) = place else { return false };
        let new = *word >> (block % 64) & 1 == 0;
        *word |= 1 << (block % 64);
        new
    }

    /// How many are set.
    pub(super) fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Where the blocks from `block` to `end` cease to be alike, and whether they are set.
    pub(super) fn alike(&self, block: u64, end: u64) -> (u64, bool) {
        let set = self.has(block);
        let mut at = block + 1;
        while at < end {
            let word = usize::try_from(at / 64).ok().and_then(|word| self.0.get(word));
            let whole = if set { u64::MAX } else { 0 };
            if at.is_multiple_of(64) && end - at >= 64 && word == Some(&whole) {
                at += 64;
            } else if self.has(at) == set {
                at += 1;
            } else {
                break;
            }
        }
        (at, set)
    }

    /// Those that are set, as few runs as there can be.
    pub(super) fn runs(&self, blocks: u64) -> Vec<Run> {
        let (mut runs, mut at) = (Vec::new(), 0);
        while at < blocks {
            let (end, set) = self.alike(at, blocks);
            if set {
                let blocks = u32::try_from(end - at).unwrap_or(u32::MAX);
                runs.push(Run { first: at, blocks });
            }
            at = end;
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_what_was_set() {
        let mut bits = Bits::new(1000);
        let wanted = [(0, 1), (63, 2), (100, 200), (511, 1), (640, 128), (999, 1)];
        for (first, blocks) in wanted {
            (first..first + u64::from(blocks)).for_each(|block| assert!(bits.set(block)));
            assert!(!bits.set(first), "{first} was set already");
        }
        let wanted = wanted.map(|(first, blocks)| Run { first, blocks });
        assert_eq!(bits.runs(1000), wanted);
        assert_eq!(bits.count(), 333);
        assert!(!bits.set(1 << 40), "beyond the end there is nothing");
        assert_eq!(bits.alike(300, 1000), (511, false));
        assert_eq!(bits.alike(110, 250), (250, true));
    }
}
