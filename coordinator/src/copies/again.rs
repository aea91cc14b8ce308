//! When a copy that did not come is tried again: the longer it fails, the later, up to a bound.
//! A node that was lost and is back is asked at once, but only the first time.

use strongroom_protocol::CopyName;

use crate::catalog::LedgerRow;

/// A failed copy is tried again after this, doubling up to the longest.
const RETRY_SECONDS_FIRST: i64 = 5;
pub(super) const RETRY_SECONDS_MAX: i64 = 600;
/// Doublings after which the longest pause is reached for certain.
const DOUBLINGS_MAX: u64 = 10;

/// Whether anything speaks against trying again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// The node was lost and is back: nothing does, the first time.
    AtOnce,
    Later,
}

/// How often a copy of a point was begun.
pub(super) fn attempts(rows: &[LedgerRow], copy: &CopyName) -> u64 {
    rows.iter().find(|row| row.copy == *copy).map_or(0, |row| row.attempts)
}

/// How long after so many attempts the next one begins.
pub(super) fn pause_seconds(attempts: u64, again: Again) -> i64 {
    let before = attempts.saturating_sub(1);
    if before == 0 && again == Again::AtOnce {
        return 0;
    }
    (RETRY_SECONDS_FIRST << before.min(DOUBLINGS_MAX)).min(RETRY_SECONDS_MAX)
}

#[cfg(test)]
mod tests {
    use super::{Again, RETRY_SECONDS_FIRST, RETRY_SECONDS_MAX, pause_seconds};

    #[test]
    fn a_lost_node_is_asked_again_at_once_but_not_for_ever() {
        assert_eq!(pause_seconds(1, Again::AtOnce), 0);
        assert_eq!(pause_seconds(1, Again::Later), RETRY_SECONDS_FIRST);
        assert_eq!(pause_seconds(2, Again::AtOnce), 2 * RETRY_SECONDS_FIRST);
        assert_eq!(pause_seconds(60, Again::AtOnce), RETRY_SECONDS_MAX);
    }
}
