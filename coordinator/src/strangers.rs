//! How much of those who are turned away is written down: enough to see them, not so much that
//! strangers fill the disk. What is not recorded is counted.

use std::sync::{Mutex, PoisonError};

use strongroom_protocol::Timestamp;

/// Records in a burst.
const BURST: u32 = 50;
/// One more is allowed after so many seconds.
const SECONDS_PER_RECORD: i64 = 5;

/// The allowance.
#[derive(Debug, Default)]
pub(crate) struct Strangers {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    used: u32,
    since: Timestamp,
    unheard: u64,
}

impl Strangers {
    /// Whether this one is recorded; if so, how many were not since the last.
    pub(crate) fn heed(&self, now: Timestamp) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let regained = now.seconds_since(state.since) / SECONDS_PER_RECORD;
        if regained != 0 {
            // A clock that went back gives a new start, as a long pause does.
            let regained = u32::try_from(regained).unwrap_or(BURST);
            state.used = state.used.saturating_sub(regained);
            state.since = now;
        }
        if state.used >= BURST {
            state.unheard += 1;
            return None;
        }
        state.used += 1;
        Some(std::mem::take(&mut state.unheard))
    }
}

#[cfg(test)]
mod tests {
    use super::{BURST, SECONDS_PER_RECORD, Strangers};
    use strongroom_protocol::Timestamp;

    #[test]
    fn a_flood_is_counted_and_not_written() {
        let strangers = Strangers::default();
        let now = Timestamp::from_unix_seconds(1_000_000);
        let recorded = (0..1000).filter(|_| strangers.heed(now).is_some()).count();
        assert_eq!(recorded, BURST as usize);
        let later = now.plus_seconds(SECONDS_PER_RECORD);
        assert_eq!(strangers.heed(later), Some(1000 - u64::from(BURST)));
        assert_eq!(strangers.heed(later), None);
    }
}
