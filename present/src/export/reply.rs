//! Answers to requests, as they lie on the wire. Data is not copied: an answer is a list of
//! pieces, written one after another.

use bytes::Bytes;

use super::device::{Piece, Stretch};
use super::haggle::ALLOCATION_ID;

const SIMPLE_MAGIC: u32 = 0x6744_6698;
const CHUNK_MAGIC: u32 = 0x668e_33ef;
/// Of a chunk: none follows.
const LAST: u16 = 1;
const NOTHING: u16 = 0;
const DATA: u16 = 1;
const HOLE: u16 = 2;
const STATUS: u16 = 5;
const ERROR: u16 = (1 << 15) + 1;

/// Of a stretch: nothing is allocated, and it reads as zeroes.
const FLAGS_HOLE: u32 = 1 | 2;
/// Zeroes that are sent where a client does not know holes.
static ZEROES: [u8; 256 << 10] = [0; 256 << 10];
/// Longest piece of a status, in bytes: its length has 32 bits, and clients like round ones.
const STRETCH_BYTES_MAX: u64 = 1 << 31;

/// How answers to one client look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Style {
    Simple,
    Structured,
}

/// An answer without data.
pub(super) fn done(style: Style, cookie: u64) -> Vec<Bytes> {
    match style {
        Style::Simple => vec![simple(0, cookie)],
        Style::Structured => vec![chunk(LAST, NOTHING, cookie, 0)],
    }
}

/// An answer that says why not.
pub(super) fn error(style: Style, cookie: u64, errno: u32, why: &str) -> Vec<Bytes> {
    if style == Style::Simple {
        return vec![simple(errno, cookie)];
    }
    let why = shortened(why);
    let length = u16::try_from(why.len()).unwrap_or(0);
    let mut told = Vec::with_capacity(why.len() + 6);
    told.extend(errno.to_be_bytes());
    told.extend(length.to_be_bytes());
    told.extend(why.as_bytes());
    vec![chunk(LAST, ERROR, cookie, u32::from(length) + 6), Bytes::from(told)]
}

/// A text of the protocol is no longer than 4 KiB.
fn shortened(why: &str) -> &str {
    let mut end = why.len().min(4000);
    while !why.is_char_boundary(end) {
        end -= 1;
    }
    why.get(..end).unwrap_or_default()
}

/// The bytes of a device from `offset`.
pub(super) fn data(
    style: Style,
    cookie: u64,
    offset: u64,
    pieces: Vec<Piece>,
    one_piece: bool,
) -> Vec<Bytes> {
    if style == Style::Simple {
        let mut out = vec![simple(0, cookie)];
        pieces.into_iter().for_each(|piece| plain(&mut out, piece));
        return out;
    }
    let length = |pieces: &[Piece]| pieces.iter().map(Piece::bytes).sum::<u64>();
    let mut groups = Vec::new();
    if one_piece {
        groups.extend(Some(pieces).filter(|pieces| !pieces.is_empty()));
    } else {
        for piece in pieces {
            match (&piece, groups.last_mut()) {
                (Piece::Data(_), Some(group)) if is_data(group) => group.push(piece),
                _ => groups.push(vec![piece]),
            }
        }
    }
    let (mut out, mut at) = (Vec::new(), offset);
    for group in groups {
        let bytes = length(&group);
        match group.as_slice() {
            [Piece::Zeroes(_)] if !one_piece => {
                out.push(chunk(0, HOLE, cookie, 12));
                let mut hole = Vec::with_capacity(12);
                hole.extend(at.to_be_bytes());
                hole.extend(narrow(bytes).to_be_bytes());
                out.push(Bytes::from(hole));
            }
            _ => {
                out.push(chunk(0, DATA, cookie, narrow(bytes + 8)));
                out.push(Bytes::copy_from_slice(&at.to_be_bytes()));
                group.into_iter().for_each(|piece| plain(&mut out, piece));
            }
        }
        at += bytes;
    }
    out.push(chunk(LAST, NOTHING, cookie, 0));
    out
}

fn is_data(group: &[Piece]) -> bool {
    matches!(group, [Piece::Data(_), ..])
}

/// Where data lies, from the offset that was asked about on.
pub(super) fn status(cookie: u64, stretches: &[Stretch]) -> Vec<Bytes> {
    let mut told = Vec::new();
    told.extend(ALLOCATION_ID.to_be_bytes());
    for stretch in stretches {
        let flags = if stretch.is_hole { FLAGS_HOLE } else { 0 };
        let mut left = stretch.bytes;
        while left > 0 {
            let bytes = left.min(STRETCH_BYTES_MAX);
            told.extend(narrow(bytes).to_be_bytes());
            told.extend(flags.to_be_bytes());
            left -= bytes;
        }
    }
    vec![chunk(LAST, STATUS, cookie, narrow(told.len() as u64)), Bytes::from(told)]
}

fn plain(out: &mut Vec<Bytes>, piece: Piece) {
    match piece {
        Piece::Data(bytes) => out.push(bytes),
        Piece::Zeroes(mut left) => {
            while left > 0 {
                let bytes = left.min(ZEROES.len() as u64);
                let zeroes = ZEROES.get(..usize::try_from(bytes).unwrap_or(0));
                out.push(Bytes::from_static(zeroes.unwrap_or_default()));
                left -= bytes;
            }
        }
    }
}

/// Lengths of answers are bounded by those of requests, which have 32 bits.
fn narrow(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn simple(errno: u32, cookie: u64) -> Bytes {
    let mut head = Vec::with_capacity(16);
    head.extend(SIMPLE_MAGIC.to_be_bytes());
    head.extend(errno.to_be_bytes());
    head.extend(cookie.to_be_bytes());
    Bytes::from(head)
}

fn chunk(flags: u16, kind: u16, cookie: u64, length: u32) -> Bytes {
    let mut head = Vec::with_capacity(20);
    head.extend(CHUNK_MAGIC.to_be_bytes());
    head.extend(flags.to_be_bytes());
    head.extend(kind.to_be_bytes());
    head.extend(cookie.to_be_bytes());
    head.extend(length.to_be_bytes());
    Bytes::from(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(parts: &[Bytes]) -> Vec<u8> {
        parts.concat()
    }

    #[test]
    fn a_hole_is_told_as_one_and_data_in_one_chunk() {
        let pieces = || {
            vec![
                Piece::Data(Bytes::from_static(b"ab")),
                Piece::Data(Bytes::from_static(b"c")),
                Piece::Zeroes(5),
                Piece::Data(Bytes::from_static(b"d")),
            ]
        };
        let simple = joined(&data(Style::Simple, 7, 100, pieces(), false));
        assert_eq!(simple[16..], *b"abc\0\0\0\0\0d");
        let told = joined(&data(Style::Structured, 7, 100, pieces(), false));
        // Data of three bytes, a hole, data of one byte, the end.
        assert_eq!(told.len(), (20 + 8 + 3) + (20 + 12) + (20 + 8 + 1) + 20);
        assert_eq!(told[20..28], 100_u64.to_be_bytes());
        assert_eq!(told[51..59], 103_u64.to_be_bytes());
        assert_eq!(told[59..63], 5_u32.to_be_bytes());
        let one = joined(&data(Style::Structured, 7, 100, pieces(), true));
        assert_eq!(one.len(), 20 + 8 + 9 + 20);
    }

    #[test]
    fn a_reason_is_cut_where_a_letter_ends() {
        let why = "ü".repeat(3000);
        let told = joined(&error(Style::Structured, 1, 5, &why));
        assert!(std::str::from_utf8(&told[26..]).is_ok() && told.len() < 4096);
        assert_eq!(joined(&error(Style::Simple, 1, 5, &why)).len(), 16);
    }
}
