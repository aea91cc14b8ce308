//! Sizes, times and names as people read them. Promises that what is printed of a name cannot
//! move the cursor or change the terminal, whatever bytes it has.

use jiff::tz::TimeZone;
use strongroom_protocol::Timestamp;

const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
/// Below this a unit is shown with a decimal.
const DECIMAL_BELOW: f64 = 99.95;

/// `512 B`, `1.5 GiB`, `340 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    let mut value = count as f64;
    let mut unit = "B";
    for next in UNITS {
        // What would be printed as 1024 is shown in the next unit.
        if value < 1023.5 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    match unit {
        "B" => format!("{count} B"),
        _ if value < DECIMAL_BELOW => format!("{value:.1} {unit}"),
        _ => format!("{value:.0} {unit}"),
    }
}

/// `12345` as `12 345`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped
}

/// `9 s`, `4 min 10 s`, `3 h 5 min`, `12 d 4 h`.
pub(crate) fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |first: u64, unit: &str, rest: u64, small: &str| match rest {
        0 => format!("{first} {unit}"),
        rest => format!("{first} {unit} {rest} {small}"),
    };
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => two(minutes, "min", seconds % 60, "s"),
        (0, _, _) => two(hours, "h", minutes % 60, "min"),
        _ => two(days, "d", hours % 24, "h"),
    }
}

/// `2 h 5 min ago`, `in 3 d`, `now`; one unit is enough from days on.
pub(crate) fn relative(moment: Timestamp, now: Timestamp) -> String {
    let seconds = now.seconds_since(moment);
    let rounded = match seconds.unsigned_abs() {
        days if days >= 7 * 86_400 => days - days % 86_400,
        hours if hours >= 86_400 => hours - hours % 3600,
        minutes if minutes >= 60 => minutes - minutes % 60,
        seconds => seconds,
    };
    match (rounded, seconds < 0) {
        (0, _) => "now".to_owned(),
        (seconds, true) => format!("in {}", duration(seconds)),
        (seconds, false) => format!("{} ago", duration(seconds)),
    }
}

/// `2026-11-22 22:18`, in the zone.
pub(crate) fn moment(moment: Timestamp, zone: &TimeZone) -> String {
    moment.to_jiff().to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M").to_string()
}

/// A path or name for the terminal: as it is where it is plain text, escaped where not.
pub(crate) fn name(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(moves) => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}

/// Control characters, and those that change the direction of what follows.
fn moves(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// As [`name`], for text that came from another node; line breaks stay.
pub(crate) fn text(text: &str) -> String {
    text.chars().filter(|c| *c == '\n' || !moves(*c)).collect()
}

/// `drwxr-xr-x`: what `ls` prints.
pub(crate) fn mode(kind: char, mode: u32) -> String {
    let mut text = String::with_capacity(10);
    text.push(kind);
    for (shift, special, set, unset) in
        [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')]
    {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => set,
            (true, false) => unset,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
            (1 << 20, "1.0 MiB"),
            (340 << 20, "340 MiB"),
            (3 << 29, "1.5 GiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (count, text) in cases {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(
            (count(7), count(1234), count(1_234_567)),
            ("7".to_owned(), "1 234".to_owned(), "1 234 567".to_owned())
        );
    }

    #[test]
    fn times_read_well() {
        let now = Timestamp::from_unix_seconds(1_800_000_000);
        let cases = [
            (0, "now"),
            (-9, "9 s ago"),
            (-250, "4 min ago"),
            (-11_130, "3 h 5 min ago"),
            (90_000, "in 1 d 1 h"),
            (-800_000, "9 d ago"),
        ];
        for (seconds, text) in cases {
            assert_eq!(relative(now.plus_seconds(seconds), now), text);
        }
        assert_eq!(moment(now, &TimeZone::UTC), "2027-01-15 08:00");
    }

    #[test]
    fn names_cannot_move_the_cursor() {
        assert_eq!(name("Übung 1.txt".as_bytes()), "Übung 1.txt");
        assert_eq!(name(b"a\x1b]0;evil\x07"), "a\\x1b]0;evil\\x07");
        assert_eq!(name(b"\xff\xfe"), "\\xff\\xfe");
        assert!(!name("a\u{202e}txt.exe".as_bytes()).contains('\u{202e}'));
        assert_eq!(text("one\n\x1b[31mtwo"), "one\n[31mtwo");
    }

    #[test]
    fn modes_are_those_of_ls() {
        assert_eq!(mode('d', 0o755), "drwxr-xr-x");
        assert_eq!(mode('-', 0o4711), "-rws--x--x");
        assert_eq!(mode('d', 0o1777), "drwxrwxrwt");
        assert_eq!(mode('-', 0o2640), "-rw-r-S---");
    }
}
