//! The few control values that a directory server is given and gives back, as BER: small
//! sequences of integers and octet strings. What does not parse is told, never guessed.

use ldap3::controls::RawControl;

/// Deleted objects are found too.
const SHOW_DELETED: &str = "1.2.840.113556.1.4.417";
/// Recycled ones as well.
const SHOW_RECYCLED: &str = "1.2.840.113556.1.4.2064";
/// Which parts of a security descriptor are meant.
const SD_FLAGS: &str = "1.2.840.113556.1.4.801";
/// What changed since a cookie.
const DIRSYNC: &str = "1.2.840.113556.1.4.841";
/// Results in pages.
const PAGED: &str = "1.2.840.113556.1.4.319";

/// Owner, group and the list of who may do what.
const SD_OWNER_GROUP_DACL: i64 = 7;
/// Parents come before their children.
const ANCESTORS_FIRST: i64 = 0x800;
/// The most a server gives in one answer to DirSync, in bytes.
const DIRSYNC_BYTES: i64 = 4 << 20;

const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const SEQUENCE: u8 = 0x30;

pub(super) fn show_deleted() -> RawControl {
    plain(SHOW_DELETED, None)
}

pub(super) fn show_recycled() -> RawControl {
    plain(SHOW_RECYCLED, None)
}

pub(super) fn security_descriptor() -> RawControl {
    plain(SD_FLAGS, Some(sequence(&[integer(SD_OWNER_GROUP_DACL)])))
}

pub(super) fn dirsync(cookie: &[u8]) -> RawControl {
    let parts = [integer(ANCESTORS_FIRST), integer(DIRSYNC_BYTES), value(OCTETS, cookie)];
    plain(DIRSYNC, Some(sequence(&parts)))
}

pub(super) fn page(size: i64, cookie: &[u8]) -> RawControl {
    plain(PAGED, Some(sequence(&[integer(size), value(OCTETS, cookie)])))
}

/// From the controls of an answer: whether there is more, and the cookie to go on from.
pub(super) fn dirsync_answer(controls: &[RawControl]) -> Option<(bool, Vec<u8>)> {
    let mut parts = Parts(body(controls, DIRSYNC)?).sequence()?;
    let more = parts.take(INTEGER)?.iter().any(|byte| *byte != 0);
    parts.take(INTEGER)?;
    Some((more, parts.take(OCTETS)?.to_vec()))
}

/// From the controls of an answer: the cookie of the next page, empty after the last.
pub(super) fn page_answer(controls: &[RawControl]) -> Option<Vec<u8>> {
    let mut parts = Parts(body(controls, PAGED)?).sequence()?;
    parts.take(INTEGER)?;
    Some(parts.take(OCTETS)?.to_vec())
}

fn body<'c>(controls: &'c [RawControl], oid: &str) -> Option<&'c [u8]> {
    controls.iter().find(|control| control.ctype == oid)?.val.as_deref()
}

fn plain(oid: &str, val: Option<Vec<u8>>) -> RawControl {
    RawControl { ctype: oid.to_owned(), crit: true, val }
}

fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    value(SEQUENCE, &parts.concat())
}

/// Shortest form, two's complement.
fn integer(number: i64) -> Vec<u8> {
    let bytes = number.to_be_bytes();
    let sign = if number < 0 { 0xff } else { 0 };
    let spare = |pair: &[u8; 2]| pair[0] == sign && (pair[1] ^ sign) & 0x80 == 0;
    let skip = bytes.array_windows::<2>().take_while(|pair| spare(pair)).count();
    value(INTEGER, bytes.get(skip..).unwrap_or_default())
}

fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match u8::try_from(content.len()) {
        Ok(short @ 0..0x80) => out.push(short),
        _ => {
            let length = content.len().to_be_bytes();
            let zeros = length.iter().take_while(|byte| **byte == 0).count();
            let length = length.get(zeros..).unwrap_or_default();
            out.push(0x80 | u8::try_from(length.len()).unwrap_or(8));
            out.extend_from_slice(length);
        }
    }
    out.extend_from_slice(content);
    out
}

/// What is left of a sequence.
struct Parts<'b>(&'b [u8]);

impl<'b> Parts<'b> {
    fn sequence(mut self) -> Option<Self> {
        self.take(SEQUENCE).map(Self)
    }

    fn take(&mut self, tag: u8) -> Option<&'b [u8]> {
        let (head, rest) = self.0.split_at_checked(2)?;
        if head.first() != Some(&tag) {
            return None;
        }
        let (length, rest) = match *head.get(1)? {
            short @ 0..0x80 => (usize::from(short), rest),
            long => {
                let (bytes, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
                let fits = (1..=4).contains(&bytes.len());
                let add = |sum: usize, byte: &u8| (sum << 8) | usize::from(*byte);
                (fits.then(|| bytes.iter().fold(0, add))?, rest)
            }
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dirsync_is_as_the_specification_writes_it() {
        let control = dirsync(b"");
        let expected = [0x30, 11, 2, 2, 8, 0, 2, 3, 0x40, 0, 0, 4, 0];
        let got = control.val.unwrap();
        assert_eq!(got, expected);
    }

    #[test]
    fn what_was_written_is_read_back_and_damage_is_told() {
        for length in [0, 1, 127, 128, 255, 256, 70_000] {
            let cookie = vec![7; length];
            let body = sequence(&[integer(1), integer(0), value(OCTETS, &cookie)]);
            let given = plain(DIRSYNC, Some(body.clone()));
            assert_eq!(dirsync_answer(&[given]), Some((true, cookie)), "{length}");
            for end in 0..body.len().min(200) {
                let cut = plain(DIRSYNC, Some(body[..end].to_vec()));
                assert_eq!(dirsync_answer(&[cut]), None, "{length} {end}");
            }
        }
        assert_eq!(page_answer(&[]), None);
        for (number, bytes) in
            [(0, vec![2, 1, 0]), (128, vec![2, 2, 0, 128]), (-1, vec![2, 1, 255])]
        {
            assert_eq!(integer(number), bytes);
        }
    }
}
