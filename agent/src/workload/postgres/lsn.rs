//! Places in the log of PostgreSQL, and the names of the files they lie in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Digits of a log file's name: timeline, and the number of the segment in two halves.
const NAME_DIGITS: usize = 24;

/// A place in the log. In JSON and in words as PostgreSQL writes it, `16/B374D848`.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct Lsn(pub u64);

/// Not a place in a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no place in a log: two hexadecimal numbers with a slash between are")]
pub struct LsnError {
    pub text: String,
}

impl FromStr for Lsn {
    type Err = LsnError;

    fn from_str(text: &str) -> Result<Self, LsnError> {
        let half = |digits: &str| {
            let plain = (1..=8).contains(&digits.len())
                && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        let halves = text.split_once('/').and_then(|(high, low)| Some((half(high)?, half(low)?)));
        let (high, low) = halves.ok_or_else(|| LsnError { text: text.to_owned() })?;
        Ok(Self(high << 32 | low))
    }
}

impl TryFrom<String> for Lsn {
    type Error = LsnError;

    fn try_from(text: String) -> Result<Self, LsnError> {
        text.parse()
    }
}

impl From<Lsn> for String {
    fn from(lsn: Lsn) -> Self {
        lsn.to_string()
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// A file of the log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Segment {
    /// By this first, so that the newer timeline of a number comes last.
    pub number: u64,
    pub timeline: u32,
}

impl Segment {
    /// From the name of a whole segment's file.
    pub fn of_name(name: &str, segment_bytes: u64) -> Option<Self> {
        let plain = name.len() == NAME_DIGITS && name.bytes().all(|d| d.is_ascii_hexdigit());
        if !plain {
            return None;
        }
        let part = |range| u64::from_str_radix(name.get(range)?, 16).ok();
        let (timeline, high, low) = (part(0..8)?, part(8..16)?, part(16..24)?);
        let per_high = (1_u64 << 32).checked_div(segment_bytes)?;
        let timeline = u32::try_from(timeline).ok()?;
        (low < per_high).then(|| Self { number: high * per_high + low, timeline })
    }

    /// The name of its file.
    pub fn name(&self, segment_bytes: u64) -> String {
        let per_high = (1_u64 << 32) / segment_bytes.max(1);
        let (high, low) = (self.number / per_high, self.number % per_high);
        format!("{:08X}{high:08X}{low:08X}", self.timeline)
    }

    /// Where it begins.
    pub const fn start(&self, segment_bytes: u64) -> Lsn {
        Lsn(self.number * segment_bytes)
    }
}

/// The numbers of the segments that hold what lies from `start` up to `stop`, which is not
/// among it.
pub const fn numbers(start: Lsn, stop: Lsn, segment_bytes: u64) -> std::ops::RangeInclusive<u64> {
    let last = stop.0.saturating_sub(1) / segment_bytes;
    let first = start.0 / segment_bytes;
    first..=if last < first { first } else { last }
}

/// The name of the file that tells where a timeline came from.
pub fn history_name(timeline: u32) -> String {
    format!("{timeline:08X}.history")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB16: u64 = 16 << 20;

    #[test]
    fn places_are_written_as_postgres_writes_them() {
        for text in ["0/0", "0/2000028", "16/B374D848", "FFFFFFFF/FFFFFFFF"] {
            assert_eq!(text.parse::<Lsn>().unwrap().to_string(), text);
        }
        for text in ["", "0", "/", "0/", "0/123456789", "x/1", "+1/1", "0/0/0"] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn segments_have_the_names_that_postgres_gives_them() {
        let segment = Segment { number: 0x16 * 256 + 0xB3, timeline: 2 };
        assert_eq!(segment.name(MIB16), "0000000200000016000000B3");
        assert_eq!(Segment::of_name("0000000200000016000000B3", MIB16), Some(segment));
        assert_eq!(segment.start(MIB16).to_string(), "16/B3000000");
        for name in ["00000002.history", "0000000200000016000000B3.partial", "", "archive_status"] {
            assert_eq!(Segment::of_name(name, MIB16), None, "{name}");
        }
        assert_eq!(Segment::of_name("000000020000001600000100", MIB16), None);
    }

    #[test]
    fn a_place_at_a_border_needs_no_further_segment() {
        let at = |text: &str| text.parse::<Lsn>().unwrap();
        assert_eq!(numbers(at("0/2000028"), at("0/3000000"), MIB16), 2..=2);
        assert_eq!(numbers(at("0/2000028"), at("0/3000001"), MIB16), 2..=3);
        assert_eq!(numbers(at("0/2000028"), at("0/2000028"), MIB16), 2..=2);
        assert_eq!(numbers(at("0/2000000"), at("0/2000000"), MIB16), 2..=2);
    }
}
