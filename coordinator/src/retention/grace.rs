//! The grace between the last reason's end and the removal. Pure. It is counted by the time the
//! coordinator itself saw pass, so that no jump of a clock shortens it; and while the clock
//! stands far ahead of where it was last seen, nothing goes at all until somebody says that it
//! is right, or it comes back. A clock set back delays only.

use serde::{Deserialize, Serialize};
use strongroom_node::counted::Counted;
use strongroom_protocol::Timestamp;

/// A clock that went forward by more than this between two looks is doubted: longer than a
/// long weekend with the coordinator switched off.
pub const JUMP_SECONDS_MAX: i64 = 4 * 86_400;

/// The coordinator's counted time, and whether its clock is believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RetentionClock {
    counted: Counted,
}

impl RetentionClock {
    /// Of a coordinator that never counted.
    pub const fn begin(now: Timestamp) -> Self {
        Self { counted: Counted::begin(now) }
    }

    /// After looking at the clock again. While it is doubted nothing is counted, and where it was
    /// last believed is remembered.
    #[must_use]
    pub fn look(self, now: Timestamp) -> Self {
        if self.is_doubted(now) { self } else { Self { counted: self.counted.look(now) } }
    }

    /// Somebody says that the clock is right.
    #[must_use]
    pub fn believe(self, now: Timestamp) -> Self {
        Self { counted: Counted { seen: now, ..self.counted } }
    }

    /// Whether the clock went further ahead than can be believed.
    pub const fn is_doubted(self, now: Timestamp) -> bool {
        now.seconds_since(self.counted.seen) > JUMP_SECONDS_MAX
    }

    /// Where the clock was last believed.
    pub const fn believed(self) -> Timestamp {
        self.counted.seen
    }

    /// Counted nanoseconds, as the ledger keeps them.
    pub const fn nanos(self) -> i64 {
        self.counted.nanos
    }

    /// How far the grace of a copy is that was doomed at `doomed_counted`.
    pub fn grace(self, doomed_counted: Option<i64>, grace_seconds: u64, now: Timestamp) -> Grace {
        let seconds = i64::try_from(grace_seconds).unwrap_or(i64::MAX);
        // A doom that was not counted begins now.
        let since = doomed_counted.unwrap_or(self.counted.nanos);
        let over_at = self.counted.moment_after(since, seconds);
        if self.is_doubted(now) {
            Grace::Doubted { believed: self.counted.seen }
        } else if self.counted.seconds_since(since) >= seconds {
            Grace::Over
        } else {
            Grace::Runs { over_at }
        }
    }
}

/// Where a doomed copy is in its grace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Grace {
    /// Nothing is counted: the clock is far ahead of where it was last believed.
    Doubted { believed: Timestamp },
    /// It may go.
    Over,
    /// It stays until then at least.
    Runs { over_at: Timestamp },
}
