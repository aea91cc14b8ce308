//! The words of a schedule: `every 15m`, `daily 22:00`, `weekly mon-fri 20:00`,
//! `monthly 15 02:30`, `monthly last 02:30`, `first sunday 03:00`. A cadence is a possible one
//! once it exists. A month too short for its day uses its last day.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use jiff::{Span, ToSpan as _};
use strongroom_protocol::Timestamp;

use crate::policy::{Seconds, TextError};
use crate::schedule::Days;

/// Shortest interval: a point costs a freeze on the host, and shorter ones pile up.
const INTERVAL_SECONDS_MIN: u64 = 60;
/// Longest interval: a year; a longer one is a mistake or a calendar time.
const INTERVAL_SECONDS_MAX: u64 = 366 * 86_400;
/// A cadence comes round within so many days (monthly, with the longest months).
const DAYS_SEARCHED: i32 = 64;

/// Why a text is not a cadence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CadenceError {
    /// Not a time of day.
    #[error("{text:?} is not a time of day (00:00 to 23:59)")]
    Clock { text: String },
    /// Not a day of the month.
    #[error("{text:?} is not a day of the month (1 to 31, or last)")]
    Day { text: String },
    /// Not a day of the week.
    #[error("{text:?} is not a day of the week (monday or mon, ranges such as mon-fri)")]
    Days { text: String },
    /// Not a usable interval.
    #[error("{text:?} is not an interval between 1m and 366d")]
    Interval { text: String },
    /// The first word is none of ours, or the number of words is wrong.
    #[error(
        "{text:?} is not a schedule (such as every 4h, daily 22:00, weekly friday 20:00, \
         monthly 15 02:30, first sunday 03:00)"
    )]
    Shape { text: String },
}

impl CadenceError {
    /// The word at fault.
    pub fn word(&self) -> &str {
        match self {
            Self::Clock { text }
            | Self::Day { text }
            | Self::Days { text }
            | Self::Interval { text }
            | Self::Shape { text } => text,
        }
    }
}

/// Which of a month's several Sundays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nth {
    First,
    Second,
    Third,
    Fourth,
    Last,
}

impl Nth {
    const WORDS: &[(&'static str, Self)] = &[
        ("first", Self::First),
        ("second", Self::Second),
        ("third", Self::Third),
        ("fourth", Self::Fourth),
        ("last", Self::Last),
    ];
    const fn number(self) -> i8 {
        match self {
            Self::First => 1,
            Self::Second => 2,
            Self::Third => 3,
            Self::Fourth => 4,
            Self::Last => -1,
        }
    }
}

/// A day of the month.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MonthDay {
    /// 1 to 31; the month's last day where it is shorter.
    Number(i8),
    Last,
}

/// How often something runs. Minutes are of the local day.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cadence {
    /// Elapsed time, whatever clocks do; slots are multiples of it since 1970, UTC.
    Every {
        seconds: u64,
    },
    Monthly {
        day: MonthDay,
        minutes: u16,
    },
    NthWeekday {
        nth: Nth,
        weekday: Weekday,
        minutes: u16,
    },
    /// On these days of the week, at each of these times.
    Weekly {
        days: Days,
        minutes: Vec<u16>,
    },
}

impl Cadence {
    /// The first occurrence after `last`. For an interval, one at least half of it later: a run
    /// made late does not bring the next one closer than that.
    pub fn occurrence_after(&self, last: Timestamp, timezone: &TimeZone) -> Timestamp {
        let Self::Every { seconds } = self else { return self.calendar_after(last, timezone) };
        let interval = i64::try_from(*seconds).unwrap_or(i64::MAX).max(1);
        let earliest = last.plus_seconds(interval / 2).unix_seconds().max(last.unix_seconds() + 1);
        let slot = earliest.saturating_add(interval - 1).div_euclid(interval);
        Timestamp::from_unix_seconds(slot.saturating_mul(interval))
    }

    fn calendar_after(&self, last: Timestamp, timezone: &TimeZone) -> Timestamp {
        let start = last.to_jiff().to_zoned(timezone.clone()).date();
        // From the day before: a time inside a skipped midnight belongs to the day it names.
        let days = (-1..=DAYS_SEARCHED).filter_map(|n| start.checked_add(n.days()).ok());
        for date in days {
            let moments = self.minutes_on(date).iter().filter_map(|minutes| {
                let local = date.at(0, 0, 0, 0).checked_add(Span::new().minutes(*minutes)).ok()?;
                let zoned = timezone.to_ambiguous_zoned(local).compatible().ok()?;
                Some(Timestamp::from_jiff(zoned.timestamp()))
            });
            if let Some(next) = moments.filter(|moment| *moment > last).min() {
                return next;
            }
        }
        // Only past the end of the calendar: never.
        Timestamp(i64::MAX)
    }

    /// The times on `date`; none when it is not one of this cadence's days.
    fn minutes_on(&self, date: Date) -> &[u16] {
        let (fits, minutes) = match self {
            Self::Every { .. } => return &[],
            Self::Monthly { day, minutes } => {
                let day = match day {
                    MonthDay::Number(day) => (*day).min(date.days_in_month()),
                    MonthDay::Last => date.days_in_month(),
                };
                (date.day() == day, std::slice::from_ref(minutes))
            }
            Self::NthWeekday { nth, weekday, minutes } => {
                let found = date.nth_weekday_of_month(nth.number(), *weekday);
                (found.is_ok_and(|found| found == date), std::slice::from_ref(minutes))
            }
            Self::Weekly { days, minutes } => (days.contains(date.weekday()), minutes.as_slice()),
        };
        if fits { minutes } else { &[] }
    }
}

impl FromStr for Cadence {
    type Err = CadenceError;

    fn from_str(text: &str) -> Result<Self, CadenceError> {
        let shape = || CadenceError::Shape { text: text.to_owned() };
        let words: Vec<&str> = text.split_whitespace().collect();
        match words.as_slice() {
            ["every", interval] => every(interval),
            ["hourly"] => Ok(Self::Every { seconds: 3600 }),
            ["daily", times] => Ok(Self::Weekly { days: Days::EVERY, minutes: clocks(times)? }),
            ["weekly", days, times] => {
                let wrong = |_: TextError| CadenceError::Days { text: (*days).to_owned() };
                Ok(Self::Weekly { days: days.parse().map_err(wrong)?, minutes: clocks(times)? })
            }
            ["monthly", day, time] => {
                Ok(Self::Monthly { day: month_day(day)?, minutes: clock(time)? })
            }
            [nth, day, time] => {
                let nth = Nth::WORDS.iter().find(|(word, _)| word == nth).ok_or_else(shape)?.1;
                let weekday = Days::weekday(day)
                    .ok_or_else(|| CadenceError::Days { text: (*day).to_owned() })?;
                Ok(Self::NthWeekday { nth, weekday, minutes: clock(time)? })
            }
            _ => Err(shape()),
        }
    }
}

fn every(interval: &str) -> Result<Cadence, CadenceError> {
    let seconds = interval.parse::<Seconds>().ok().map(|Seconds(seconds)| seconds);
    let usable = seconds.filter(|s| (INTERVAL_SECONDS_MIN..=INTERVAL_SECONDS_MAX).contains(s));
    let wrong = || CadenceError::Interval { text: interval.to_owned() };
    usable.map(|seconds| Cadence::Every { seconds }).ok_or_else(wrong)
}

fn month_day(text: &str) -> Result<MonthDay, CadenceError> {
    if text == "last" {
        return Ok(MonthDay::Last);
    }
    let day = text.parse().ok().filter(|day| (1..=31).contains(day));
    day.map(MonthDay::Number).ok_or_else(|| CadenceError::Day { text: text.to_owned() })
}

fn clocks(text: &str) -> Result<Vec<u16>, CadenceError> {
    let mut minutes: Vec<u16> = text.split(',').map(clock).collect::<Result<_, _>>()?;
    minutes.sort_unstable();
    minutes.dedup();
    Ok(minutes)
}

fn clock(text: &str) -> Result<u16, CadenceError> {
    let minutes = parse_clock_minutes(text).filter(|minutes| *minutes < 24 * 60);
    minutes.ok_or_else(|| CadenceError::Clock { text: text.to_owned() })
}

/// `HH:MM` as minutes of the day; `24:00` is its end.
pub fn parse_clock_minutes(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let digits = |t: &str| t.len() == 2 && t.bytes().all(|b| b.is_ascii_digit());
    if !digits(hours) || !digits(minutes) {
        return None;
    }
    let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
    let of_day = hours * 60 + minutes;
    (minutes < 60 && of_day <= 24 * 60).then_some(of_day)
}

struct Clock(u16);

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

impl fmt::Display for Cadence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Every { seconds } => write!(f, "every {}", Seconds(*seconds)),
            Self::Monthly { day: MonthDay::Last, minutes } => {
                write!(f, "monthly last {}", Clock(*minutes))
            }
            Self::Monthly { day: MonthDay::Number(day), minutes } => {
                write!(f, "monthly {day} {}", Clock(*minutes))
            }
            Self::NthWeekday { nth, weekday, minutes } => {
                let word = Nth::WORDS.iter().find(|(_, known)| known == nth);
                let word = word.map_or("", |(word, _)| word);
                write!(f, "{word} {} {}", Days::word(*weekday), Clock(*minutes))
            }
            Self::Weekly { days, minutes } => {
                if *days == Days::EVERY {
                    f.write_str("daily ")?;
                } else {
                    write!(f, "weekly {days} ")?;
                }
                for (index, minutes) in minutes.iter().enumerate() {
                    write!(f, "{}{}", if index == 0 { "" } else { "," }, Clock(*minutes))?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_parses_to_the_same() {
        for text in [
            "every 15m",
            "daily 22:00",
            "daily 06:00,18:00",
            "weekly friday 20:00",
            "weekly monday,wednesday 20:00",
            "monthly 15 02:30",
            "monthly last 02:30",
            "first sunday 03:00",
            "last friday 21:00",
        ] {
            let cadence: Cadence = text.parse().unwrap();
            assert_eq!(cadence.to_string(), text);
        }
    }

    #[test]
    fn impossible_times_are_refused_with_the_word_at_fault() {
        for (text, word) in [
            ("daily 24:00", "24:00"),
            ("daily 9:00", "9:00"),
            ("daily 12:60", "12:60"),
            ("every 5s", "5s"),
            ("every 0m", "0m"),
            ("every", "every"),
            ("monthly 32 01:00", "32"),
            ("monthly 0 01:00", "0"),
            ("weekly fritag 20:00", "fritag"),
            ("first sonday 20:00", "sonday"),
            ("fifth sunday 20:00", "fifth sunday 20:00"),
        ] {
            assert_eq!(text.parse::<Cadence>().unwrap_err().word(), word, "{text}");
        }
    }

    #[test]
    fn a_late_run_does_not_pull_the_next_one_close() {
        let cadence: Cadence = "every 4h".parse().unwrap();
        let hours = |h: i64| Timestamp::from_unix_seconds(h * 3600);
        let late = cadence.occurrence_after(hours(11), &TimeZone::UTC);
        assert_eq!(late, hours(16));
        let on_time = cadence.occurrence_after(hours(8).plus_seconds(3), &TimeZone::UTC);
        assert_eq!(on_time, hours(12));
    }
}
