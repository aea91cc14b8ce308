//! How long something is to be there: as people say it, and what is left of it.

use jiff::SignedDuration;
use strongroom_protocol::Timestamp;

/// What is given where nobody says: long enough for a day's work with it.
pub(crate) const USUAL_SECONDS: i64 = 24 * 60 * 60;
/// Longest that may be said: an overlay is no machine's home.
const SECONDS_MAX: i64 = 366 * 24 * 60 * 60;

/// A stretch of time, in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lease(i64);

impl Lease {
    /// When it ends that begins now.
    pub(crate) const fn end(self, now: Timestamp) -> Timestamp {
        now.plus_seconds(self.0)
    }
}

impl Default for Lease {
    fn default() -> Self {
        Self(USUAL_SECONDS)
    }
}

/// For clap: `90s`, `30m`, `2h`, `1h 30m`, `7d` as 168h.
pub(crate) fn lease(text: &str) -> Result<Lease, String> {
    let days = text.strip_suffix('d').and_then(|days| days.trim().parse::<i64>().ok());
    let seconds = match days {
        Some(days) => days.checked_mul(24 * 60 * 60),
        None => text.parse::<SignedDuration>().ok().map(|said| said.as_secs()),
    };
    match seconds {
        Some(seconds) if (1..=SECONDS_MAX).contains(&seconds) => Ok(Lease(seconds)),
        Some(_) => Err("between one second and a year".to_owned()),
        None => Err("write 90s, 30m, 2h or 7d".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_as_people_say_them() {
        for (text, seconds) in
            [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h 30m", 5400), ("7d", 604_800)]
        {
            assert_eq!(lease(text), Ok(Lease(seconds)), "{text}");
        }
        for text in ["", "2", "0s", "-1h", "500d", "9999999999999999d", "soon"] {
            assert!(lease(text).is_err(), "{text}");
        }
        let now = Timestamp::from_unix_seconds(1000);
        assert_eq!(Lease(60).end(now), Timestamp::from_unix_seconds(1060));
    }
}
