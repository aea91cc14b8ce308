//! Content-defined cutting, algorithms 1 and 2 `mincut` (format.md section 3): within the window
//! a chunk may end in, the cut is where a keyed hash of four bytes is smallest. Every variant
//! gives the same cuts; a window larger than what was given is refused, not guessed.

mod simd;

use serde::{Deserialize, Serialize};

/// Bytes the hash looks at: the four before the cut.
const WINDOW_BYTES: usize = 4;
/// Bytes per block whose smallest hash is found before the position is looked for: stays in
/// the first-level cache for the second look.
const BLOCK_BYTES: usize = 4096;

/// A file at least this long is looked at for being made of blocks.
const BLOCKS_BYTES_MIN: u64 = 64 << 20;
/// The length of an image of a disk or of a database file is a multiple of this.
const BLOCK_FILE_BYTES: u64 = 4096;
/// Chunks of files of blocks are this part of the others.
const BLOCKS_PART: u32 = 8;

/// The smallest and largest chunk, in bytes, and what files of blocks are cut to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CutParams {
    pub min: u32,
    pub max: u32,
    pub blocks: Blocks,
}

/// How long files are cut whose length says that they are made of blocks, as images of disks
/// and files of databases are: what changes in them changes block by block, in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Blocks {
    /// Algorithm 1: as all others.
    AsFiles,
    /// Algorithm 2: to chunks of their own size.
    Sized { min: u32, max: u32 },
}

impl CutParams {
    /// Files: 256 KiB to 768 KiB; files of blocks: 32 KiB to 96 KiB.
    pub const FILES: Self = Self::of_algorithm_two(256 << 10, 768 << 10);

    const fn of_algorithm_two(min: u32, max: u32) -> Self {
        let blocks = Blocks::Sized { min: min / BLOCKS_PART, max: max / BLOCKS_PART };
        Self { min, max, blocks }
    }

    /// What `config` says; nothing for an algorithm nobody knows.
    pub const fn of_config(algorithm: u8, min: u32, max: u32) -> Option<Self> {
        match algorithm {
            1 => Some(Self { min, max, blocks: Blocks::AsFiles }),
            2 => Some(Self::of_algorithm_two(min, max)),
            _ => None,
        }
    }

    /// The number of the algorithm in `config`.
    pub const fn algorithm(&self) -> u8 {
        match self.blocks {
            Blocks::AsFiles => 1,
            Blocks::Sized { .. } => 2,
        }
    }

    /// What files of blocks are cut by.
    pub const fn of_blocks(self) -> Self {
        match self.blocks {
            Blocks::AsFiles => self,
            Blocks::Sized { min, max } => Self { min, max, ..self },
        }
    }

    /// Whether the length of a file says that it is made of blocks.
    pub const fn is_blocks(bytes: u64) -> bool {
        bytes >= BLOCKS_BYTES_MIN && bytes.is_multiple_of(BLOCK_FILE_BYTES)
    }
}

impl Default for CutParams {
    fn default() -> Self {
        Self::FILES
    }
}

/// Chunk sizes nobody can cut by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("chunks of {min} to {max} bytes cannot be cut: 64 <= min <= max <= 4 MiB is needed")]
pub struct CutParamsError {
    pub min: u32,
    pub max: u32,
}

/// Smallest minimum: below it heads cost more than contents.
const MIN_BYTES_MIN: u32 = 64;

/// Cuts by one vault's key.
#[derive(Clone, Copy, Debug)]
pub struct Cutter {
    min: usize,
    max: usize,
    key: (u32, u32),
    engine: simd::Engine,
}

impl Cutter {
    /// A cutter with the fastest variant this processor has.
    pub fn new(params: CutParams, cut_key: (u32, u32)) -> Result<Self, CutParamsError> {
        let CutParams { min, max, .. } = params;
        let plain_max = strongroom_protocol::blob::PLAIN_BYTES_MAX;
        if min < MIN_BYTES_MIN || min > max || max as usize > plain_max {
            return Err(CutParamsError { min, max });
        }
        let key = (cut_key.0, cut_key.1 | 1);
        Ok(Self { min: min as usize, max: max as usize, key, engine: simd::Engine::detect() })
    }

    /// The most bytes [`Self::next_cut`] looks at.
    pub const fn window_bytes(&self) -> usize {
        self.max
    }

    /// Length of the next chunk at the head of `data`. `None` when more bytes are needed, or
    /// when nothing is left; with [`Supply::Ended`] only in the latter case.
    pub fn next_cut(&self, data: &[u8], supply: Supply) -> Option<usize> {
        if data.len() < self.max && supply == Supply::Continues {
            return None;
        }
        if data.len() <= self.min {
            return (!data.is_empty()).then_some(data.len());
        }
        let last = data.len().min(self.max);
        // The windows of the positions min..=last, one beginning at each byte.
        let windows = data.get(self.min - WINDOW_BYTES..last)?;
        Some(self.min + leftmost_min(windows, self.key, self.engine))
    }
}

/// Whether bytes follow those given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Supply {
    /// More may come.
    Continues,
    /// These are the last.
    Ended,
}

/// Index of the leftmost window of `data` whose hash is smallest. `data` holds at least one.
fn leftmost_min(data: &[u8], key: (u32, u32), engine: simd::Engine) -> usize {
    let mut best = (u32::MAX, 0);
    let mut found = false;
    let mut start = 0;
    while start + WINDOW_BYTES <= data.len() {
        let end = (start + BLOCK_BYTES + WINDOW_BYTES - 1).min(data.len());
        let block = data.get(start..end).unwrap_or_default();
        let min = engine.block_min(block, key);
        if min < best.0 || !found {
            best = (min, start);
            found = true;
        }
        start += BLOCK_BYTES;
    }
    let (min, start) = best;
    let block = data.get(start..).unwrap_or_default();
    let at = block.windows(WINDOW_BYTES).take(BLOCK_BYTES).position(|w| hash(w, key) == min);
    start + at.unwrap_or_default()
}

fn hash(window: &[u8], (k1, k2): (u32, u32)) -> u32 {
    let word = window.first_chunk::<WINDOW_BYTES>().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    (word ^ k1).wrapping_mul(k2)
}

/// The smallest hash of a block, one window after another: what the others are held to.
fn block_min_scalar(block: &[u8], key: (u32, u32)) -> u32 {
    block.windows(WINDOW_BYTES).map(|window| hash(window, key)).min().unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: (u32, u32) = (0x1234_5678, 0x9e37_79b1);

    fn sizes(min: u32, max: u32) -> CutParams {
        CutParams { min, max, blocks: Blocks::AsFiles }
    }

    fn noise(len: usize, seed: u64) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn cuts(cutter: &Cutter, mut data: &[u8]) -> Vec<usize> {
        let mut lengths = Vec::new();
        while let Some(len) = cutter.next_cut(data, Supply::Ended) {
            lengths.push(len);
            data = &data[len..];
        }
        lengths
    }

    /// The definition, word for word.
    fn reference_cut(data: &[u8], min: usize, max: usize) -> usize {
        if data.len() <= min {
            return data.len();
        }
        let last = data.len().min(max);
        (min..=last).min_by_key(|&p| (hash(&data[p - 4..p], KEY), p)).unwrap()
    }

    proptest! {
        #[test]
        fn every_engine_agrees_with_the_definition(
            data in prop::collection::vec(any::<u8>(), 1..40_000), spread in 0u32..20_000,
            narrow in any::<bool>()
        ) {
            let data: Vec<u8> =
                if narrow { data.iter().map(|b| b & 1).collect() } else { data };
            let params = sizes(64, 64 + spread);
            for engine in simd::Engine::usable() {
                let mut cutter = Cutter::new(params, KEY).unwrap();
                cutter.engine = engine;
                prop_assert_eq!(
                    cutter.next_cut(&data, Supply::Ended).unwrap(),
                    reference_cut(&data, 64, params.max as usize)
                );
            }
        }
    }

    #[test]
    fn golden_vectors() {
        let cutter = Cutter::new(CutParams::FILES, KEY).unwrap();
        assert_eq!(cuts(&cutter, &noise(3 << 20, 1)), GOLDEN_FILES);
        let small = Cutter::new(sizes(1024, 4096), (1, 3)).unwrap();
        assert_eq!(cuts(&small, &noise(20_000, 2)), GOLDEN_SMALL);
    }

    #[test]
    fn only_long_files_of_blocks_are_cut_finer_and_only_by_the_second_algorithm() {
        let (one, two) = (CutParams::of_config(1, 1 << 18, 3 << 18), CutParams::FILES);
        let one = one.unwrap();
        assert_eq!((one.algorithm(), two.algorithm()), (1, 2));
        assert_eq!(CutParams::of_config(2, two.min, two.max), Some(two));
        assert_eq!(CutParams::of_config(3, two.min, two.max), None);
        for (bytes, fine) in [(64 << 20, true), ((64 << 20) - 4096, false), ((64 << 20) + 1, false)]
        {
            assert_eq!(CutParams::is_blocks(bytes), fine);
        }
        assert_eq!(one.of_blocks(), one);
        assert_eq!((two.of_blocks().min, two.of_blocks().max), (32 << 10, 96 << 10));
        let cutter = Cutter::new(two.of_blocks(), KEY).unwrap();
        assert_eq!(cuts(&cutter, &noise(600_000, 5)), GOLDEN_BLOCKS);
    }

    const GOLDEN_BLOCKS: &[usize] =
        &[91859, 51759, 35984, 79135, 71748, 97538, 56565, 94516, 20896];
    const GOLDEN_FILES: &[usize] =
        &[275083, 300356, 769878, 566369, 275396, 435663, 327879, 195104];
    const GOLDEN_SMALL: &[usize] = &[2817, 2298, 2569, 3312, 2819, 2202, 2965, 1018];

    #[test]
    fn an_insertion_changes_few_chunks() {
        let cutter = Cutter::new(sizes(4096, 16384), KEY).unwrap();
        let before = noise(2 << 20, 3);
        let mut after = before.clone();
        after.splice(300_000..300_000, [1, 2, 3, 4, 5]);
        let ends = |data: &[u8]| -> Vec<usize> {
            let mut at = 0;
            cuts(&cutter, data)
                .iter()
                .map(|len| {
                    at += len;
                    data.len() - at
                })
                .collect()
        };
        let old: std::collections::HashSet<usize> = ends(&before).into_iter().collect();
        let new = ends(&after);
        let shared = new.iter().filter(|end| old.contains(end)).count();
        assert!(new.len() - shared < new.len() / 3, "{shared} of {} cuts shared", new.len());
        assert_eq!(new[new.len() - 20..], ends(&before)[old.len() - 20..]);
    }

    #[test]
    fn constant_data_is_cut_at_the_minimum() {
        let cutter = Cutter::new(sizes(100, 1000), KEY).unwrap();
        assert_eq!(cuts(&cutter, &[0; 350]), [100, 100, 100, 50]);
    }

    #[test]
    fn waits_for_a_whole_window() {
        let cutter = Cutter::new(sizes(100, 1000), KEY).unwrap();
        let data = noise(1200, 4);
        assert_eq!(cutter.next_cut(&data[..999], Supply::Continues), None);
        let cut = cutter.next_cut(&data, Supply::Continues);
        assert_eq!(cut, cutter.next_cut(&data[..1000], Supply::Continues));
        assert!(cut.is_some_and(|len| (100..=1000).contains(&len)));
        assert_eq!(cutter.next_cut(&[], Supply::Ended), None);
        assert!(Cutter::new(sizes(0, 10), KEY).is_err());
    }
}
