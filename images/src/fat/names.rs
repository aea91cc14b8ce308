//! Names and times as FAT keeps them: eight and three bytes of code page 437, and long names in
//! UTF-16 in the entries before; local times of two seconds.

use crate::bytes::{u8_at, u16_at};

/// Units of UTF-16 in one entry, and where they lie.
const UNITS_AT: [usize; 13] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
/// Entries of a long name: 255 units.
const PARTS_MAX: u8 = 20;
const LAST: u8 = 0x40;

/// The upper half of code page 437.
const UPPER: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐\
                     └┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪\
                     ┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

/// A long name being put together, its last part first.
#[derive(Default)]
pub(super) struct Long {
    units: Vec<u16>,
    /// The part that must come next; 0 when the name is whole.
    next: u8,
    sum: u8,
}

impl Long {
    /// An entry with a part of it; one out of order begins anew or ends it.
    pub(super) fn take(&mut self, entry: &[u8]) {
        let order = u8_at(entry, 0);
        let (number, sum) = (order & !LAST, u8_at(entry, 13));
        if order & LAST != 0 && (1..=PARTS_MAX).contains(&number) {
            *self = Self { units: Vec::new(), next: number, sum };
        }
        if number == 0 || number != self.next || sum != self.sum {
            *self = Self::default();
            return;
        }
        let mut part: Vec<u16> = UNITS_AT.iter().map(|at| u16_at(entry, *at)).collect();
        part.append(&mut self.units);
        self.units = part;
        self.next -= 1;
    }

    /// The name, if all of it came and it belongs to this short name.
    pub(super) fn finish(self, short: &[u8; 11]) -> Option<Vec<u8>> {
        let sum = short.iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
        if self.units.is_empty() || self.next != 0 || self.sum != sum {
            return None;
        }
        let end = self.units.iter().position(|unit| *unit == 0).unwrap_or(self.units.len());
        Some(wtf8(self.units.get(..end).unwrap_or_default()))
    }
}

/// UTF-16 as WTF-8: halves of a pair that stand alone are kept.
pub(crate) fn wtf8(units: &[u16]) -> Vec<u8> {
    let mut out = Vec::with_capacity(units.len());
    for c in char::decode_utf16(units.iter().copied()) {
        match c {
            Ok(c) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(alone) => {
                let [high, low] = alone.unpaired_surrogate().to_be_bytes();
                let middle = 0x80 | (high & 0x0f) << 2 | low >> 6;
                out.extend_from_slice(&[0xe0 | high >> 4, middle, 0x80 | low & 0x3f]);
            }
        }
    }
    out
}

/// A short name as it is shown; `cases` says which part was written in lower case.
pub(super) fn short_name(short: &[u8; 11], cases: u8) -> Vec<u8> {
    let part = |bytes: &[u8], lower: bool| -> String {
        let end = bytes.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
        let text: String = bytes.iter().take(end).map(|byte| shown(*byte)).collect();
        if lower { text.to_lowercase() } else { text }
    };
    let (mut base, extension) = (*short, &short[8..]);
    if base[0] == 0x05 {
        base[0] = 0xe5;
    }
    let base = part(&base[..8], cases & 0x08 != 0);
    let extension = part(extension, cases & 0x10 != 0);
    match extension.is_empty() {
        true => base.into_bytes(),
        false => format!("{base}.{extension}").into_bytes(),
    }
}

fn shown(byte: u8) -> char {
    match byte.checked_sub(0x80) {
        None => char::from(byte),
        Some(upper) => UPPER.chars().nth(upper.into()).unwrap_or(char::REPLACEMENT_CHARACTER),
    }
}

/// A date and a time of day as nanoseconds since 1970, as if the time zone were UTC.
pub(super) fn unix_nanoseconds(date: u16, time: u16) -> i128 {
    let (year, month) = (i64::from(date >> 9) + 1980, i64::from(date >> 5 & 0x0f).clamp(1, 12));
    let day = i64::from(date & 0x1f).max(1);
    // Days from the civil calendar, years beginning in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = y * 365 + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day - 1 - 719_468;
    let (hours, minutes) = (i64::from(time >> 11), i64::from(time >> 5 & 0x3f));
    let seconds = days * 86_400 + hours * 3600 + minutes * 60 + i64::from(time & 0x1f) * 2;
    i128::from(seconds) * 1_000_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        let seconds = |date, time| unix_nanoseconds(date, time) / 1_000_000_000;
        assert_eq!(seconds(0x21, 0), 315_532_800);
        // 2024-02-29 23:59:58
        assert_eq!(seconds(44 << 9 | 2 << 5 | 29, 23 << 11 | 59 << 5 | 29), 1_709_251_198);
    }

    #[test]
    fn short_names_are_read_by_the_code_page() {
        assert_eq!(short_name(b"README  TXT", 0), b"README.TXT");
        assert_eq!(short_name(b"README  TXT", 0x18), b"readme.txt");
        assert_eq!(short_name(b"A\x84       \x20\x20", 0), "Aä".as_bytes());
        assert_eq!(UPPER.chars().count(), 128);
    }

    #[test]
    fn halves_of_pairs_are_kept() {
        assert_eq!(wtf8(&[0x41, 0xd83d, 0xde00]), "A😀".as_bytes());
        assert_eq!(wtf8(&[0xd800, 0x42]), [0xed, 0xa0, 0x80, 0x42]);
    }
}
