//! How long to wait before dialling again: doubling with jitter, so that a hundred agents do
//! not come back in the same instant.

use std::time::Duration;

/// First wait, in milliseconds.
const FIRST_MS: u64 = 200;
/// Longest wait, in milliseconds: a site that returns is found again within this.
const LONGEST_MS: u64 = 15_000;

/// The waits of one peer.
#[derive(Debug, Clone)]
pub struct Backoff {
    seed: u64,
    attempt: u32,
}

impl Backoff {
    /// `seed` decides the jitter; nodes use different ones.
    pub const fn new(seed: u64) -> Self {
        Self { seed: seed | 1, attempt: 0 }
    }

    /// The next wait: between half and the whole of the doubling bound.
    pub fn next_wait(&mut self) -> Duration {
        let bound = FIRST_MS.saturating_mul(1 << self.attempt.min(16)).min(LONGEST_MS);
        self.attempt = self.attempt.saturating_add(1);
        // Xorshift: any spread will do.
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        Duration::from_millis(bound / 2 + self.seed % (bound / 2 + 1))
    }

    /// After a connection that held: start again from the first wait.
    pub const fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_bound_and_differ_between_nodes() {
        let mut one = Backoff::new(1);
        let mut two = Backoff::new(0x1234_5678);
        let waits: Vec<_> = (0..12).map(|_| one.next_wait()).collect();
        assert!(waits[0] <= Duration::from_millis(FIRST_MS));
        assert!(waits[11] >= Duration::from_millis(LONGEST_MS / 2));
        assert!(waits.iter().all(|wait| *wait <= Duration::from_millis(LONGEST_MS)));
        assert_ne!(waits, (0..12).map(|_| two.next_wait()).collect::<Vec<_>>());
        one.reset();
        assert!(one.next_wait() <= Duration::from_millis(FIRST_MS));
    }
}
