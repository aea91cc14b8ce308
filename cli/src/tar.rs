//! A directory of a point as a tar archive (pax, POSIX.1-2001). Promises names, owners, modes,
//! times, links and bytes; extended attributes and holes are not in it: `restore` keeps those.

use std::collections::HashMap;
use std::io::{self, Write};

use strongroom_protocol::{Chain, ChunkId};
use strongroom_store::content::{Entry, Meta, Node};
use strongroom_store::tree::Step;

use crate::failure::Failure;
use crate::human;
use crate::scene::Scene;

const BLOCK_BYTES: usize = 512;
/// Bytes read at a time: a few chunks.
const STEP_BYTES: u64 = 4 << 20;
/// Longest name in the old header; longer ones go into a pax record.
const NAME_BYTES: usize = 100;
/// Largest number of eight and of twelve octal digits.
const OCTAL_7_MAX: u64 = 0o777_7777;
const OCTAL_11_MAX: u64 = 0o777_7777_7777;

/// Writes everything below `page`; returns what could not be read, each in a sentence.
pub(crate) fn write(
    scene: &Scene,
    page: ChunkId,
    meta: Option<&Meta>,
    sink: &mut dyn Write,
) -> Result<Vec<String>, Failure> {
    let mut gaps = Vec::new();
    let mut first_names: HashMap<u64, Vec<u8>> = HashMap::new();
    if let Some(meta) = meta {
        header(sink, b"./", meta, Kind::plain(b'5', 0))?;
    }
    for step in scene.tree.walk_from(page, b".") {
        match step {
            Step::Leave { .. } => {}
            Step::Damaged(damage) => {
                let path = human::name(&damage.path);
                gaps.push(format!("part of {path}: {}", Chain(&damage.cause)));
            }
            Step::Enter { path, entry } => {
                let group = entry.meta.link_group;
                if group != 0 && entry.directory_page().is_none() {
                    if let Some(first) = first_names.get(&group) {
                        let kind = Kind { link: first, ..Kind::plain(b'1', 0) };
                        header(sink, &path, &entry.meta, kind)?;
                        continue;
                    }
                    first_names.insert(group, path.clone());
                }
                if let Some(gap) = one(scene, &path, &entry, sink)? {
                    gaps.push(format!("{}: {gap}", human::name(&path)));
                }
            }
        }
    }
    sink.write_all(&[0; 2 * BLOCK_BYTES])?;
    Ok(gaps)
}

/// What a header says beside name and metadata.
struct Kind<'a> {
    flag: u8,
    size: u64,
    link: &'a [u8],
    device: (u32, u32),
}

impl Kind<'_> {
    const fn plain(flag: u8, size: u64) -> Self {
        Self { flag, size, link: b"", device: (0, 0) }
    }
}

/// One entry with its bytes; what of it is missing.
fn one(
    scene: &Scene,
    path: &[u8],
    entry: &Entry,
    sink: &mut dyn Write,
) -> Result<Option<String>, Failure> {
    let meta = &entry.meta;
    match &entry.node {
        Node::Directory { .. } => {
            let path = [path, b"/"].concat();
            header(sink, &path, meta, Kind::plain(b'5', 0))?;
        }
        Node::File { size, .. } => {
            // The header promises a length, so the bytes that can be read are looked at first.
            return file(scene, path, entry, *size, sink);
        }
        Node::Symlink { target } => {
            header(sink, path, meta, Kind { link: target, ..Kind::plain(b'2', 0) })?;
        }
        Node::Fifo => header(sink, path, meta, Kind::plain(b'6', 0))?,
        Node::Socket => return Ok(Some("a socket has no place in an archive".to_owned())),
        Node::CharDevice { major, minor } => {
            header(sink, path, meta, Kind { device: (*major, *minor), ..Kind::plain(b'3', 0) })?;
        }
        Node::BlockDevice { major, minor } => {
            header(sink, path, meta, Kind { device: (*major, *minor), ..Kind::plain(b'4', 0) })?;
        }
    }
    Ok(None)
}

fn file(
    scene: &Scene,
    path: &[u8],
    entry: &Entry,
    size: u64,
    sink: &mut dyn Write,
) -> Result<Option<String>, Failure> {
    let mut bytes = match scene.tree.read_file(entry, 0, STEP_BYTES) {
        Ok(bytes) => bytes,
        Err(error) => return Ok(Some(Chain(&error).to_string())),
    };
    header(sink, path, &entry.meta, Kind::plain(b'0', size))?;
    let mut at = 0;
    let mut gap = None;
    loop {
        sink.write_all(&bytes)?;
        at += bytes.len() as u64;
        if at >= size {
            break;
        }
        let step = (size - at).min(STEP_BYTES);
        // The length is promised by now: what cannot be read is zeros, and named.
        bytes = match scene.tree.read_file(entry, at, step) {
            Ok(bytes) if !bytes.is_empty() => bytes,
            read => {
                let why = read
                    .err()
                    .map_or_else(|| "it ends early".to_owned(), |e| Chain(&e).to_string());
                gap.get_or_insert_with(|| format!("zeros from byte {at} on: {why}"));
                vec![0; usize::try_from(step).unwrap_or_default()]
            }
        };
    }
    pad(sink, size)?;
    Ok(gap)
}

fn header(sink: &mut dyn Write, path: &[u8], meta: &Meta, kind: Kind<'_>) -> io::Result<()> {
    let mut records = Vec::new();
    if path.len() > NAME_BYTES {
        record(&mut records, "path", path);
    }
    if kind.link.len() > NAME_BYTES {
        record(&mut records, "linkpath", kind.link);
    }
    if kind.size > OCTAL_11_MAX {
        record(&mut records, "size", kind.size.to_string().as_bytes());
    }
    for (name, id) in [("uid", meta.uid), ("gid", meta.gid)] {
        if u64::from(id) > OCTAL_7_MAX {
            record(&mut records, name, id.to_string().as_bytes());
        }
    }
    let seconds = meta.mtime_ns.div_euclid(1_000_000_000);
    let nanos = meta.mtime_ns.rem_euclid(1_000_000_000);
    if nanos != 0 || seconds < 0 {
        // A fraction is always forward, also before 1970: -0.5 is written as such.
        let text = match (seconds < 0, nanos) {
            (true, 1..) => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanos),
            _ => format!("{seconds}.{nanos:09}"),
        };
        record(&mut records, "mtime", text.as_bytes());
    }
    if !records.is_empty() {
        let size = records.len() as u64;
        sink.write_all(&block(b"./PaxHeader", &Meta::default(), &Kind::plain(b'x', size)))?;
        sink.write_all(&records)?;
        pad(sink, size)?;
    }
    sink.write_all(&block(path, meta, &kind))
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} {key}=").as_bytes());
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn block(path: &[u8], meta: &Meta, kind: &Kind<'_>) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    let mut put = |at: usize, bytes: &[u8], most: usize| {
        let bytes = bytes.get(..most).unwrap_or(bytes);
        if let Some(place) = block.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    let octal = |number: u64, digits: usize, most: u64| {
        format!("{:0digits$o}\0", if number > most { 0 } else { number })
    };
    put(0, path, NAME_BYTES);
    put(100, octal(u64::from(meta.mode), 7, OCTAL_7_MAX).as_bytes(), 8);
    put(108, octal(u64::from(meta.uid), 7, OCTAL_7_MAX).as_bytes(), 8);
    put(116, octal(u64::from(meta.gid), 7, OCTAL_7_MAX).as_bytes(), 8);
    put(124, octal(kind.size, 11, OCTAL_11_MAX).as_bytes(), 12);
    let seconds = u64::try_from(meta.mtime_ns.div_euclid(1_000_000_000)).unwrap_or(0);
    put(136, octal(seconds, 11, OCTAL_11_MAX).as_bytes(), 12);
    put(148, b"        ", 8);
    put(156, &[kind.flag], 1);
    put(157, kind.link, NAME_BYTES);
    put(257, b"ustar\x0000", 8);
    put(329, octal(u64::from(kind.device.0), 7, OCTAL_7_MAX).as_bytes(), 8);
    put(337, octal(u64::from(kind.device.1), 7, OCTAL_7_MAX).as_bytes(), 8);
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    let sum = format!("{sum:06o}\0 ");
    if let Some(place) = block.get_mut(148..156) {
        place.copy_from_slice(sum.as_bytes());
    }
    block
}

fn pad(sink: &mut dyn Write, size: u64) -> io::Result<()> {
    let over = usize::try_from(size % BLOCK_BYTES as u64).unwrap_or_default();
    match over {
        0 => Ok(()),
        over => sink.write_all(&vec![0; BLOCK_BYTES - over]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_count_themselves() {
        for bytes in [1, 85, 86, 87, 88, 89, 90, 985, 990, 995] {
            let mut records = Vec::new();
            record(&mut records, "path", &vec![b'x'; bytes]);
            let text = String::from_utf8(records).unwrap();
            let length: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(length, text.len());
        }
    }

    #[test]
    fn system_tar_reads_what_is_written() {
        let mut archive = Vec::new();
        let meta = Meta { mode: 0o640, mtime_ns: 1_500_000_000, ..Meta::default() };
        let long = [b"./".as_slice(), &[b'n'; 150]].concat();
        header(&mut archive, &long, &meta, Kind::plain(b'0', 3)).unwrap();
        archive.extend_from_slice(b"abc");
        pad(&mut archive, 3).unwrap();
        let kind = Kind { link: b"target", ..Kind::plain(b'2', 0) };
        header(&mut archive, b"./link", &Meta { mtime_ns: -1, ..meta }, kind).unwrap();
        archive.extend_from_slice(&[0; 2 * BLOCK_BYTES]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        std::fs::write(&path, &archive).unwrap();
        let mut tar = std::process::Command::new("tar");
        let Ok(listed) = tar.env("TZ", "UTC").arg("tvf").arg(&path).output() else { return };
        let text = String::from_utf8(listed.stdout).unwrap();
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        assert!(text.contains(&"n".repeat(150)) && text.contains("-rw-r-----"), "{text}");
        assert!(text.contains("link -> target"), "{text}");
    }
}
