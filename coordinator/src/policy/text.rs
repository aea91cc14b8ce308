//! Durations and sizes as people write them.

use std::fmt;
use std::str::FromStr;

/// Why a text is not a duration, a size or a list of days.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    #[error("{text:?} is not a size (such as 500MB, 10GiB)")]
    Bytes { text: String },
    #[error("{text:?} is not a list of days (such as friday, mon-fri, sat,sun, daily)")]
    Days { text: String },
    #[error("{text:?} is not a duration (such as 30s, 15m, 36h, 90d, 4w, 7y)")]
    Seconds { text: String },
}

/// A year counts 366 days, so that nothing is kept shorter than promised.
const DURATIONS: &[(&str, u64)] =
    &[("y", 366 * 86_400), ("w", 7 * 86_400), ("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];

const SIZES: &[(&str, u64)] = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1000),
    ("B", 1),
];

/// A duration.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Seconds(pub u64);

/// A size.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Bytes(pub u64);

fn read(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let factor = units.iter().find(|(name, _)| *name == unit.trim_start())?.1;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

fn write(value: u64, units: &[(&str, u64)], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let fits = |(_, factor): &&(&str, u64)| value != 0 && value.is_multiple_of(*factor);
    let (unit, factor) =
        units.iter().find(fits).or_else(|| units.last()).copied().unwrap_or(("", 1));
    write!(f, "{}{unit}", value / factor)
}

impl FromStr for Seconds {
    type Err = TextError;
    fn from_str(text: &str) -> Result<Self, TextError> {
        let wrong = || TextError::Seconds { text: text.to_owned() };
        read(text, DURATIONS).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(self.0, DURATIONS, f)
    }
}

impl FromStr for Bytes {
    type Err = TextError;
    fn from_str(text: &str) -> Result<Self, TextError> {
        let wrong = || TextError::Bytes { text: text.to_owned() };
        read(text, SIZES).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(self.0, SIZES, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_read_and_print() {
        for (text, seconds) in [("90d", 7_776_000), ("36h", 129_600), ("4w", 2_419_200), ("0s", 0)]
        {
            assert_eq!(text.parse(), Ok(Seconds(seconds)), "{text}");
        }
        assert_eq!(Seconds(366 * 86_400 * 7).to_string(), "7y");
        assert_eq!(Seconds(5400).to_string(), "90m");
        assert_eq!("10GiB".parse(), Ok(Bytes(10 << 30)));
        assert_eq!("500 MB".parse(), Ok(Bytes(500_000_000)));
        assert_eq!(Bytes(10 << 30).to_string(), "10GiB");
        for wrong in ["", "d", "-1d", "1.5h", "90x", "99999999999999y", "10gib", "١d"] {
            assert!(wrong.parse::<Seconds>().is_err(), "{wrong}");
            assert!(wrong.parse::<Bytes>().is_err(), "{wrong}");
        }
    }
}
