//! How often and how soon a step is tried again. Part of a job's first event, so that a journal
//! replays the same after the defaults have changed.

use serde::{Deserialize, Serialize};
use strongroom_protocol::Timestamp;

/// Tries and pauses. The pause doubles from the first to the longest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Tries of one step, forward or undoing, before it is given up.
    pub attempts_max: u32,
    pub pause_seconds_first: u32,
    pub pause_seconds_max: u32,
}

impl Default for RetryPolicy {
    /// Eight tries over about an hour: a rebooting host or a short outage is sat out.
    fn default() -> Self {
        Self { attempts_max: 8, pause_seconds_first: 30, pause_seconds_max: 900 }
    }
}

impl RetryPolicy {
    /// When to try again after `failures` tries; none when there were enough.
    pub fn next_try(&self, failures: u32, now: Timestamp) -> Option<Timestamp> {
        if failures >= self.attempts_max {
            return None;
        }
        let doubled = u64::from(self.pause_seconds_first) << failures.saturating_sub(1).min(31);
        let pause = doubled.min(u64::from(self.pause_seconds_max));
        Some(now.plus_seconds(i64::try_from(pause).unwrap_or(i64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_end() {
        let policy =
            RetryPolicy { attempts_max: 5, pause_seconds_first: 30, pause_seconds_max: 100 };
        let now = Timestamp::from_unix_seconds(0);
        let pauses: Vec<Option<i64>> =
            (1..=5).map(|n| policy.next_try(n, now).map(Timestamp::unix_seconds)).collect();
        assert_eq!(pauses, [Some(30), Some(60), Some(100), Some(100), None]);
        let endless = RetryPolicy { attempts_max: u32::MAX, ..policy };
        assert_eq!(endless.next_try(4_000_000, now), Some(Timestamp::from_unix_seconds(100)));
    }
}
