//! Reparse points: what another driver makes of a node. Links and junctions are links; special
//! files of Linux are those; the rest is named and not read, for its bytes are elsewhere.

use crate::raw::Raw;
use crate::system::{Kind, Problem};

use super::text::wtf8;

const SYMLINK: u32 = 0xa000_000c;
const MOUNT_POINT: u32 = 0xa000_0003;
const LINUX_SYMLINK: u32 = 0xa000_001d;
const LINUX_FIFO: u32 = 0x8000_0024;
const LINUX_SOCKET: u32 = 0x8000_0023;
/// Which of sixteen clouds is in four bits of the tag.
const CLOUD: u32 = 0x9000_001a;
const CLOUD_BITS: u32 = 0xf000;

/// Others, by what people call them.
const NAMES: &[(u32, &str)] = &[
    (0x8000_0013, "a file that Windows deduplicated"),
    (0x8000_0017, "a file that Windows compressed for the system (WOF)"),
    (0x8000_0018, "a file of a container's layer (WCI)"),
    (0x9000_1018, "a file of a container's layer (WCI)"),
    (0x8000_001b, "an execution alias of an app"),
    (0x8000_0025, "a character device of Linux (WSL)"),
    (0x8000_0026, "a block device of Linux (WSL)"),
    (0xc000_0004, "a file that was moved to other storage (HSM)"),
    (0x8000_0006, "a file that was moved to other storage (HSM)"),
    (0x8000_0007, "a file of single-instance storage (SIS)"),
];

/// Windows keeps no more of a reparse point, in bytes.
pub(super) const BYTES_MAX: u64 = 16 << 10;

/// What a reparse point makes of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Reparse {
    /// Some other kind of node.
    Is(Kind),
    /// A link to there.
    Link(Vec<u8>),
    /// Its bytes are elsewhere: what it is called.
    Other(String),
}

/// Reads a reparse point.
pub(super) fn parse(raw: &Raw<'_>) -> Result<Reparse, Problem> {
    let tag = raw.le32(0)?;
    let data = raw.part(8, raw.le16(4)?.into())?;
    Ok(match tag {
        SYMLINK => {
            let relative = data.le32(8)? & 1 != 0;
            let print = path(&data, 12)?;
            Reparse::Link(if relative { slashes(print) } else { print })
        }
        MOUNT_POINT => Reparse::Link(path(&data, 8)?),
        LINUX_SYMLINK => Reparse::Link(data.rest(4)?.bytes.to_vec()),
        LINUX_FIFO => Reparse::Is(Kind::Fifo),
        LINUX_SOCKET => Reparse::Is(Kind::Socket),
        _ => Reparse::Other(called(tag)),
    })
}

fn called(tag: u32) -> String {
    if tag & !CLOUD_BITS == CLOUD {
        return "a file that OneDrive or another cloud keeps".to_owned();
    }
    let known = NAMES.iter().find(|(other, _)| *other == tag);
    known.map_or_else(|| format!("a reparse point {tag:#010x}"), |(_, name)| (*name).to_owned())
}

/// The name that is shown, or where there is none the one that is followed, without the prefix
/// that only the kernel of Windows knows.
fn path(data: &Raw<'_>, buffer: usize) -> Result<Vec<u8>, Problem> {
    let at = |place: usize| {
        let offset = buffer + usize::from(data.le16(place)?);
        data.take(offset, data.le16(place + 2)?.into())
    };
    let shown = at(4)?;
    if !shown.is_empty() {
        return Ok(wtf8(shown));
    }
    let followed = wtf8(at(0)?);
    Ok(followed.strip_prefix(br"\??\").unwrap_or(&followed).to_vec())
}

/// A relative path as the rest of the world writes it.
fn slashes(mut path: Vec<u8>) -> Vec<u8> {
    path.iter_mut().filter(|byte| **byte == b'\\').for_each(|byte| *byte = b'/');
    path
}

/// Special files as Interix and ntfs-3g keep them: a system file of a few bytes.
pub(super) fn interix(content: &[u8]) -> Option<Reparse> {
    if let Some(target) = content.strip_prefix(b"IntxLNK\x01") {
        return Some(Reparse::Link(wtf8(target)));
    }
    let number = |place: usize| {
        let eight = content.get(place..).and_then(|rest| rest.first_chunk::<8>())?;
        u32::try_from(u64::from_le_bytes(*eight)).ok()
    };
    let (major, minor) = number(8).zip(number(16))?;
    match content.get(..8)? {
        b"IntxBLK\0" => Some(Reparse::Is(Kind::BlockDevice { major, minor })),
        b"IntxCHR\0" => Some(Reparse::Is(Kind::CharacterDevice { major, minor })),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::text::utf16;
    use super::*;

    fn link(tag: u32, flags: Option<u32>, followed: &str, shown: &str) -> Reparse {
        let (followed, shown) = (utf16(followed), utf16(shown));
        let mut data = Vec::new();
        for number in [0, followed.len(), followed.len(), shown.len()] {
            data.extend_from_slice(&(number as u16).to_le_bytes());
        }
        data.extend(flags.iter().flat_map(|flags| flags.to_le_bytes()));
        data.extend([followed, shown].concat());
        let mut bytes = tag.to_le_bytes().to_vec();
        bytes.extend_from_slice(&(data.len() as u32).to_le_bytes());
        bytes.extend(data);
        parse(&Raw { what: "a reparse point", at: 0, bytes: &bytes }).unwrap()
    }

    #[test]
    fn links_say_what_people_see() {
        let is = |text: &str| Reparse::Link(text.as_bytes().to_vec());
        assert_eq!(link(SYMLINK, Some(1), r"..\a\b", r"..\a\b"), is("../a/b"));
        assert_eq!(link(SYMLINK, Some(0), r"\??\C:\a", r"C:\a"), is(r"C:\a"));
        assert_eq!(link(MOUNT_POINT, None, r"\??\C:\Users", ""), is(r"C:\Users"));
    }

    #[test]
    fn the_rest_is_called_by_its_name() {
        let called = |tag| match link(tag, None, "", "") {
            Reparse::Other(name) => name,
            other => panic!("{other:?}"),
        };
        assert!(called(0x8000_0013).contains("deduplicated"));
        assert!(called(0x9000_601a).contains("OneDrive"));
        assert!(called(0x8000_0017).contains("WOF"));
        assert_eq!(called(0x1234_5678), "a reparse point 0x12345678");
    }
}
