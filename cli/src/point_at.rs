//! `POINT` and `POINT:PATH` as people type them: an id, its last digits, or `latest:WORKLOAD`; and
//! `POINT:IMAGE//pN/PATH`, what lies in a partition of a disk image. Refuses what is none of these
//! before anybody is asked. Paths are bytes.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use clap::builder::{OsStringValueParser, TypedValueParser};
use strongroom_protocol::admin::PointRef;

/// Fewest digits of an id that are taken for one.
const DIGITS_MIN: usize = 8;
const LATEST: &str = "latest";

/// A place in a point; without a path, all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PointAt {
    pub(crate) point: PointRef,
    /// Names joined by '/'; empty for the whole point.
    pub(crate) path: Vec<u8>,
    /// The same as a place inside of an image, where it can be read so.
    pub(crate) inside: Option<InsideAt>,
}

/// A place inside of a disk image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InsideAt {
    /// The file that is the image.
    pub(crate) image: Vec<u8>,
    /// None for the disk itself.
    pub(crate) partition: Option<u32>,
    pub(crate) path: Vec<u8>,
}

impl InsideAt {
    /// `IMAGE//`, `IMAGE//pN` and `IMAGE//pN/PATH`.
    fn parse(path: &[u8]) -> Option<Self> {
        let at = path.windows(2).position(|pair| pair == b"//")?;
        let (image, rest) = (names(path.get(..at)?), path.get(at + 2..)?);
        let (first, inner) = match rest.iter().position(|byte| *byte == b'/') {
            Some(end) => (rest.get(..end)?, rest.get(end..)?),
            None => (rest, &[][..]),
        };
        let partition = match first {
            [] if inner.is_empty() => None,
            [b'p', digits @ ..] => Some(std::str::from_utf8(digits).ok()?.parse().ok()?),
            _ => return None,
        };
        (!image.is_empty()).then(|| Self { image, partition, path: names(inner) })
    }
}

/// Why a text names no point.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} names no point: expected an id, its last {DIGITS_MIN} or more digits, or \
    latest:WORKLOAD"
)]
pub(crate) struct PointAtError {
    text: String,
}

impl PointAt {
    /// `POINT[:PATH]`.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, PointAtError> {
        let (first, rest) = cut(bytes);
        let (point, rest) = match rest {
            Some(rest) if first == LATEST.as_bytes() => {
                let (workload, rest) = cut(rest);
                let name = std::str::from_utf8(workload).ok().and_then(|name| name.parse().ok());
                (name.map(PointRef::Latest), rest)
            }
            _ => (id(first).map(PointRef::Id), rest),
        };
        let text = || String::from_utf8_lossy(bytes).into_owned();
        let point = point.ok_or_else(|| PointAtError { text: text() })?;
        let path = rest.unwrap_or_default();
        Ok(Self { point, path: names(path), inside: InsideAt::parse(path) })
    }
}

/// Names joined by '/', without those that say nothing.
fn names(path: &[u8]) -> Vec<u8> {
    let names = path.split(|byte| *byte == b'/');
    let names: Vec<&[u8]> = names.filter(|name| !name.is_empty() && *name != b".").collect();
    names.join(&b'/')
}

fn cut(bytes: &[u8]) -> (&[u8], Option<&[u8]>) {
    match bytes.iter().position(|byte| *byte == b':') {
        Some(at) => (bytes.get(..at).unwrap_or_default(), bytes.get(at + 1..)),
        None => (bytes, None),
    }
}

fn id(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    let digits = text.chars().filter(|c| *c != '-').count();
    let plain = text.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    (plain && (DIGITS_MIN..=32).contains(&digits)).then(|| text.to_ascii_lowercase())
}

/// For clap: `POINT[:PATH]`.
pub(crate) fn point_at() -> impl TypedValueParser<Value = PointAt> {
    OsStringValueParser::new().try_map(|text: OsString| PointAt::parse(text.as_bytes()))
}

/// For clap: `POINT`, without a path.
pub(crate) fn point() -> impl TypedValueParser<Value = PointRef> {
    OsStringValueParser::new().try_map(|text: OsString| {
        let parsed = PointAt::parse(text.as_bytes())?;
        match parsed.path.is_empty() {
            true => Ok(parsed.point),
            false => Err(PointAtError { text: text.to_string_lossy().into_owned() }),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<(PointRef, String), PointAtError> {
        let at = PointAt::parse(text.as_bytes())?;
        Ok((at.point, String::from_utf8(at.path).unwrap()))
    }

    #[test]
    fn ids_digits_and_names_are_told_apart() {
        let id = |text: &str| PointRef::Id(text.to_owned());
        let web = || PointRef::Latest("web".parse().unwrap());
        let whole = "0197f0a2-3c55-7abc-8def-0123456789ab";
        let cases = [
            (whole, id(whole), ""),
            ("456789AB", id("456789ab"), ""),
            ("456789ab:etc//hosts/", id("456789ab"), "etc/hosts"),
            ("456789ab:/", id("456789ab"), ""),
            ("latest:web", web(), ""),
            ("latest:web:/srv/./a:b", web(), "srv/a:b"),
        ];
        for (text, point, path) in cases {
            assert_eq!(parsed(text), Ok((point, path.to_owned())), "{text}");
        }
        let raw = PointAt::parse(b"456789ab:\xff/x").unwrap();
        assert_eq!(raw.path, b"\xff/x");
    }

    #[test]
    fn two_slashes_lead_into_an_image() {
        let inside = |text: &str| {
            let at = PointAt::parse(format!("456789ab:{text}").as_bytes()).unwrap().inside?;
            let path = String::from_utf8(at.path).unwrap();
            Some((String::from_utf8(at.image).unwrap(), at.partition, path))
        };
        let some = |image: &str, partition, path: &str| {
            Some((image.to_owned(), partition, path.to_owned()))
        };
        assert_eq!(inside("disks/vda.raw//"), some("disks/vda.raw", None, ""));
        assert_eq!(inside("/a.img//p2"), some("a.img", Some(2), ""));
        assert_eq!(inside("a.img//p2//etc/./x/"), some("a.img", Some(2), "etc/x"));
        for plain in ["etc//hosts", "etc//px", "//p1", "a/b/", ""] {
            assert_eq!(inside(plain), None, "{plain}");
        }
    }

    #[test]
    fn what_names_no_point_is_refused() {
        for text in ["", "web", "1234567", "latest", "latest:", "latest:WEB", ":x", "12345678g"] {
            let refused = parsed(text).unwrap_err().to_string();
            assert!(refused.contains("latest:WORKLOAD"), "{refused}");
        }
    }
}
