//! The smallest hash of a block, as fast as the processor can: AVX2, AVX-512 or plain. Every
//! variant gives the number `block_min_scalar` gives; what a processor lacks is never called.

#![allow(unsafe_code)]

use super::block_min_scalar;

/// Which variant runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Engine {
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    Plain,
}

impl Engine {
    /// The fastest this processor has.
    pub(super) fn detect() -> Self {
        Self::usable().last().copied().unwrap_or(Self::Plain)
    }

    /// All this processor has, slowest first.
    pub(super) fn usable() -> Vec<Self> {
        #[cfg_attr(not(target_arch = "x86_64"), expect(unused_mut, reason = "nothing to add"))]
        let mut engines = vec![Self::Plain];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                engines.push(Self::Avx512);
            }
            // Measured: 32-bit multiplication of the wider vectors is less than half as fast.
            if is_x86_feature_detected!("avx2") {
                engines.push(Self::Avx2);
            }
        }
        engines
    }

    /// The smallest hash of the windows in `block`; the largest number when there are none.
    pub(super) fn block_min(self, block: &[u8], key: (u32, u32)) -> u32 {
        match self {
            // SAFETY: `usable` gives this variant only where the processor has AVX2.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { block_min_avx2(block, key) },
            // SAFETY: `usable` gives this variant only where the processor has AVX-512F.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { block_min_avx512(block, key) },
            Self::Plain => block_min_plain(block, key),
        }
    }
}

/// Four strided passes, one for each alignment of the windows: the compiler makes vectors of
/// them.
fn block_min_plain(block: &[u8], (k1, k2): (u32, u32)) -> u32 {
    let mut min = u32::MAX;
    for shift in 0..4 {
        let words = block.get(shift..).unwrap_or_default().chunks_exact(4);
        for word in words {
            let word = word.first_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes));
            min = min.min((word ^ k1).wrapping_mul(k2));
        }
    }
    min
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn block_min_avx2(block: &[u8], key: (u32, u32)) -> u32 {
    use std::arch::x86_64::{
        _mm256_loadu_si256, _mm256_min_epu32, _mm256_mullo_epi32, _mm256_set1_epi32,
        _mm256_storeu_si256, _mm256_xor_si256,
    };
    // 32 windows begin in a step; the last of them ends 3 bytes after it.
    const STEP_BYTES: usize = 32;
    const REACH_BYTES: usize = STEP_BYTES + 3;
    let k1 = _mm256_set1_epi32(key.0.cast_signed());
    let k2 = _mm256_set1_epi32(key.1.cast_signed());
    let mut mins = [_mm256_set1_epi32(-1); 4];
    let mut at = 0;
    while at + REACH_BYTES <= block.len() {
        for (shift, min) in mins.iter_mut().enumerate() {
            // SAFETY: at + shift + 32 <= at + REACH_BYTES <= block.len().
            let words = unsafe { _mm256_loadu_si256(block.as_ptr().add(at + shift).cast()) };
            let hashes = _mm256_mullo_epi32(_mm256_xor_si256(words, k1), k2);
            *min = _mm256_min_epu32(*min, hashes);
        }
        at += STEP_BYTES;
    }
    let [a, b, c, d] = mins;
    let min = _mm256_min_epu32(_mm256_min_epu32(a, b), _mm256_min_epu32(c, d));
    let mut lanes = [u32::MAX; 8];
    // SAFETY: `lanes` is 32 bytes long and the store asks for no alignment.
    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), min) };
    let head = lanes.into_iter().min().unwrap_or(u32::MAX);
    head.min(block_min_scalar(block.get(at..).unwrap_or_default(), key))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn block_min_avx512(block: &[u8], key: (u32, u32)) -> u32 {
    use std::arch::x86_64::{
        _mm512_loadu_si512, _mm512_min_epu32, _mm512_mullo_epi32, _mm512_reduce_min_epu32,
        _mm512_set1_epi32, _mm512_xor_si512,
    };
    // 64 windows begin in a step; the last of them ends 3 bytes after it.
    const STEP_BYTES: usize = 64;
    const REACH_BYTES: usize = STEP_BYTES + 3;
    let k1 = _mm512_set1_epi32(key.0.cast_signed());
    let k2 = _mm512_set1_epi32(key.1.cast_signed());
    let mut mins = [_mm512_set1_epi32(-1); 4];
    let mut at = 0;
    while at + REACH_BYTES <= block.len() {
        for (shift, min) in mins.iter_mut().enumerate() {
            // SAFETY: at + shift + 64 <= at + REACH_BYTES <= block.len().
            let words = unsafe { _mm512_loadu_si512(block.as_ptr().add(at + shift).cast()) };
            let hashes = _mm512_mullo_epi32(_mm512_xor_si512(words, k1), k2);
            *min = _mm512_min_epu32(*min, hashes);
        }
        at += STEP_BYTES;
    }
    let [a, b, c, d] = mins;
    let min = _mm512_min_epu32(_mm512_min_epu32(a, b), _mm512_min_epu32(c, d));
    let head = _mm512_reduce_min_epu32(min);
    head.min(block_min_scalar(block.get(at..).unwrap_or_default(), key))
}
