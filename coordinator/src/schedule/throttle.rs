//! Windows of the week: when a copy may run, and how fast. A window that ends before it begins
//! runs past midnight and belongs to the day it begins on. Local time as clocks show it.

use std::fmt;
use std::str::FromStr;

use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use strongroom_protocol::Timestamp;

use crate::policy::TextError;

const MINUTES_A_DAY: u16 = 24 * 60;
const WORDS: [(Weekday, &str, &str); 7] = [
    (Weekday::Monday, "monday", "mon"),
    (Weekday::Tuesday, "tuesday", "tue"),
    (Weekday::Wednesday, "wednesday", "wed"),
    (Weekday::Thursday, "thursday", "thu"),
    (Weekday::Friday, "friday", "fri"),
    (Weekday::Saturday, "saturday", "sat"),
    (Weekday::Sunday, "sunday", "sun"),
];

/// Some days of the week, never none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Days(u8);

impl Days {
    /// All seven.
    pub const EVERY: Self = Self(0x7f);

    /// Whether `day` is among them.
    pub fn contains(self, day: Weekday) -> bool {
        self.0 & Self::bit(day) != 0
    }

    fn bit(day: Weekday) -> u8 {
        1 << day.to_monday_zero_offset()
    }

    /// The day a word names, whole or its first three letters.
    pub fn weekday(word: &str) -> Option<Weekday> {
        let found = WORDS.iter().find(|(_, long, short)| word == *long || word == *short);
        found.map(|(day, _, _)| *day)
    }

    /// The whole word for a day.
    pub fn word(day: Weekday) -> &'static str {
        WORDS.iter().find(|(known, _, _)| *known == day).map_or("", |(_, long, _)| long)
    }
}

impl FromStr for Days {
    type Err = TextError;

    /// `friday`, `mon-fri`, `mon,wed,fri`, `daily`; a range may pass Sunday.
    fn from_str(text: &str) -> Result<Self, TextError> {
        let wrong = || TextError::Days { text: text.to_owned() };
        if text == "daily" {
            return Ok(Self::EVERY);
        }
        let mut bits = 0;
        for part in text.split(',') {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let mut day = Self::weekday(from.trim()).ok_or_else(wrong)?;
            let end = Self::weekday(to.trim()).ok_or_else(wrong)?;
            bits |= Self::bit(day);
            while day != end {
                day = day.next();
                bits |= Self::bit(day);
            }
        }
        Ok(Self(bits))
    }
}

impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chosen = WORDS.iter().filter(|(day, _, _)| self.contains(*day));
        let words: Vec<&str> = chosen.map(|(_, long, _)| *long).collect();
        f.write_str(&words.join(","))
    }
}

/// A stretch of some days of the week. `from_minutes` is below 24:00 and differs from
/// `to_minutes`, which is at most 24:00.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    pub days: Days,
    pub from_minutes: u16,
    pub to_minutes: u16,
}

impl Window {
    /// Whether a local day and minute fall inside.
    fn covers(&self, day: Weekday, minute: u16) -> bool {
        let Self { days, from_minutes: from, to_minutes: to } = *self;
        if from < to {
            return days.contains(day) && (from..to).contains(&minute);
        }
        (days.contains(day) && minute >= from) || (days.contains(day.previous()) && minute < to)
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (self.from_minutes, self.to_minutes);
        let (hour, minute) = (from / 60, from % 60);
        write!(f, "{} {hour:02}:{minute:02}-{:02}:{:02}", self.days, to / 60, to % 60)
    }
}

/// A window with a limit on the rate of one copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Throttle {
    pub window: Window,
    pub bits_per_second: u64,
}

impl fmt::Display for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} Mbit/s", self.window, self.bits_per_second / 1_000_000)
    }
}

fn local(timezone: &TimeZone, now: Timestamp) -> (Weekday, u16) {
    let local = now.to_jiff().to_zoned(timezone.clone());
    let minute = i32::from(local.hour()) * 60 + i32::from(local.minute());
    (local.weekday(), u16::try_from(minute).unwrap_or(MINUTES_A_DAY))
}

/// The rate allowed now: the least of the windows that are open; none means no limit.
pub fn rate_at(throttles: &[Throttle], timezone: &TimeZone, now: Timestamp) -> Option<u64> {
    let (day, minute) = local(timezone, now);
    let open = throttles.iter().filter(|throttle| throttle.window.covers(day, minute));
    open.map(|throttle| throttle.bits_per_second).min()
}

/// Whether a copy may run now; without windows it always may.
pub fn open_at(windows: &[Window], timezone: &TimeZone, now: Timestamp) -> bool {
    let (day, minute) = local(timezone, now);
    windows.is_empty() || windows.iter().any(|window| window.covers(day, minute))
}

/// The first minute from now on at which a copy may run.
pub fn next_open(windows: &[Window], timezone: &TimeZone, now: Timestamp) -> Timestamp {
    if open_at(windows, timezone, now) {
        return now;
    }
    const MINUTES_SEARCHED: i64 = 8 * 24 * 60;
    let whole = Timestamp::from_unix_seconds(now.unix_seconds().div_euclid(60) * 60);
    let minutes = (1..=MINUTES_SEARCHED).map(|minute| whole.plus_seconds(minute * 60));
    let mut open = minutes.filter(|moment| open_at(windows, timezone, *moment));
    open.next().unwrap_or_else(|| now.plus_seconds(MINUTES_SEARCHED * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::from_jiff(text.parse().unwrap())
    }

    fn window(days: &str, from: u16, to: u16) -> Window {
        Window { days: days.parse().unwrap(), from_minutes: from * 60, to_minutes: to * 60 }
    }

    #[test]
    fn the_least_open_window_counts_in_local_time() {
        let zone = TimeZone::get("Europe/London").unwrap();
        let throttles = [
            Throttle { window: window("mon-fri", 8, 18), bits_per_second: 200 },
            Throttle { window: window("daily", 12, 13), bits_per_second: 50 },
        ];
        // 2026-07-06 is a Monday; London is an hour ahead of UTC.
        assert_eq!(rate_at(&throttles, &zone, at("2026-07-06T07:00:00Z")), Some(200));
        assert_eq!(rate_at(&throttles, &zone, at("2026-07-06T11:30:00Z")), Some(50));
        assert_eq!(rate_at(&throttles, &zone, at("2026-07-06T17:00:00Z")), None);
        assert_eq!(rate_at(&throttles, &zone, at("2026-07-05T09:00:00Z")), None);
    }

    #[test]
    fn a_window_past_midnight_belongs_to_its_first_day() {
        let windows = [window("fri", 22, 4)];
        let zone = TimeZone::UTC;
        assert!(open_at(&windows, &zone, at("2026-07-10T23:00:00Z")));
        assert!(open_at(&windows, &zone, at("2026-07-11T03:59:00Z")));
        assert!(!open_at(&windows, &zone, at("2026-07-11T04:00:00Z")));
        assert!(!open_at(&windows, &zone, at("2026-07-10T03:00:00Z")));
        let next = next_open(&windows, &zone, at("2026-07-08T10:00:30Z"));
        assert_eq!(next, at("2026-07-10T22:00:00Z"));
    }

    #[test]
    fn days_read_ranges_past_sunday() {
        let days: Days = "sat-mon".parse().unwrap();
        assert_eq!(days.to_string(), "monday,saturday,sunday");
        assert!("sat-mun".parse::<Days>().is_err());
        assert!("".parse::<Days>().is_err());
    }
}
