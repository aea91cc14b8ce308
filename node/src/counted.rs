//! Time as a node itself saw it pass: what grace is counted by. A clock that jumps forward, by
//! itself or while the node was off, adds no more than one step; a clock that is set back adds
//! nothing. Counted time never goes back, so that what has waited by it has truly waited.

use serde::{Deserialize, Serialize};
use strongroom_protocol::Timestamp;

/// The most that one look adds. Nodes look far more often; what passes between two looks passes
/// while nobody could have objected.
pub const STEP_SECONDS_MAX: i64 = 3600;
const NANOS: i64 = 1_000_000_000;

/// When the node last looked at its clock, and how much time it has counted until then.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Counted {
    pub seen: Timestamp,
    /// Nanoseconds, so that frequent looks lose nothing.
    pub nanos: i64,
}

impl Counted {
    /// Nothing is counted yet.
    pub const fn begin(now: Timestamp) -> Self {
        Self { seen: now, nanos: 0 }
    }

    /// After looking at the clock again.
    #[must_use]
    pub fn look(self, now: Timestamp) -> Self {
        let passed = now.0.saturating_sub(self.seen.0).clamp(0, STEP_SECONDS_MAX * NANOS);
        Self { seen: now, nanos: self.nanos.saturating_add(passed) }
    }

    /// Whole seconds counted since another count of the same node.
    pub const fn seconds_since(self, nanos: i64) -> i64 {
        self.nanos.saturating_sub(nanos).div_euclid(NANOS)
    }

    /// What the clock shows once `seconds` are counted from `nanos` on, if it goes on as it is.
    pub const fn moment_after(self, nanos: i64, seconds: i64) -> Timestamp {
        let left = seconds.saturating_mul(NANOS).saturating_sub(self.nanos.saturating_sub(nanos));
        Timestamp(self.seen.0.saturating_add(if left > 0 { left } else { 0 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_unix_seconds(1_780_000_000);

    #[test]
    fn a_jump_counts_as_one_step_and_a_clock_set_back_as_nothing() {
        let counted = Counted::begin(START).look(START.plus_seconds(60));
        assert_eq!(counted.seconds_since(0), 60);
        let jumped = counted.look(START.plus_seconds(365 * 86_400));
        assert_eq!(jumped.seconds_since(counted.nanos), STEP_SECONDS_MAX);
        let back = jumped.look(START);
        assert_eq!(back.nanos, jumped.nanos);
        assert_eq!(back.look(START.plus_seconds(10)).seconds_since(jumped.nanos), 10);
    }

    #[test]
    fn many_short_looks_count_as_much_as_one_long() {
        let mut counted = Counted::begin(START);
        for n in 1..=1000 {
            counted = counted.look(Timestamp(START.0 + n * 7_000_000));
        }
        assert_eq!(counted.seconds_since(0), 7);
        assert_eq!(counted.moment_after(0, 10), START.plus_seconds(10));
        assert_eq!(counted.moment_after(0, 5), counted.seen);
    }
}
