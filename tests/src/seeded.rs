//! Chance with a seed: the same seed gives the same run on every machine. Good enough to shake
//! code with, worth nothing as a secret.

/// SplitMix64: one word of state, any seed will do.
#[derive(Debug, Clone)]
pub struct Seeded(u64);

impl Seeded {
    /// A source that starts at `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `bound`; zero when `bound` is zero.
    pub const fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { (self.word() % bound as u64) as usize }
    }

    /// True `per_million` times in a million.
    pub const fn happens(&mut self, per_million: u32) -> bool {
        self.word() % 1_000_000 < per_million as u64
    }
}
