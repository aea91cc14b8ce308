//! What `stat` says of a thing. Promises what the point knows: kind, mode, owner, times to the
//! nanosecond, length, device numbers. Of times the point has but one: all three are it. A name
//! of several has two links, for how many there are is not kept.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo};
use strongroom_store::content::{Entry, FileContent, Node};

use crate::reader::extents::written;

/// What block counts are counted in, by `stat(2)`, in bytes.
const BLOCK_BYTES: u64 = 512;
/// The unit programs are told to read in, in bytes.
const READ_BYTES: u32 = 4096;
/// The length of a directory: it has none in a point.
const DIRECTORY_BYTES: u64 = 4096;

/// The kind of a node.
pub(super) const fn kind_of(node: &Node) -> FileType {
    match node {
        Node::Directory { .. } => FileType::Directory,
        Node::File { .. } => FileType::RegularFile,
        Node::Symlink { .. } => FileType::Symlink,
        Node::Fifo => FileType::NamedPipe,
        Node::Socket => FileType::Socket,
        Node::CharDevice { .. } => FileType::CharDevice,
        Node::BlockDevice { .. } => FileType::BlockDevice,
    }
}

/// Bytes of a file that are not holes, where its entry says so.
pub(super) fn written_bytes(content: &FileContent) -> Option<u64> {
    match content {
        FileContent::Inline(bytes) => Some(bytes.len() as u64),
        FileContent::Extents(extents) => Some(written(extents)),
        FileContent::Listed { .. } => None,
    }
}

/// What `stat` says. `written_bytes` is what of a file is not holes; none: it is not known, and
/// the file is shown as if it had none.
pub(super) fn attributes(number: u64, entry: &Entry, written_bytes: Option<u64>) -> FileAttr {
    let (size, rdev) = match &entry.node {
        Node::File { size, .. } => (*size, 0),
        Node::Symlink { target } => (target.len() as u64, 0),
        Node::Directory { .. } => (DIRECTORY_BYTES, 0),
        Node::CharDevice { major, minor } | Node::BlockDevice { major, minor } => {
            (0, device(*major, *minor))
        }
        Node::Fifo | Node::Socket => (0, 0),
    };
    let blocks = match &entry.node {
        Node::File { .. } => written_bytes.unwrap_or(size).div_ceil(BLOCK_BYTES),
        _ => 0,
    };
    let (meta, time) = (&entry.meta, time(entry.meta.mtime_ns));
    FileAttr {
        ino: INodeNo(number),
        size,
        blocks,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: meta.birth_ns.map_or(time, self::time),
        kind: kind_of(&entry.node),
        perm: u16::try_from(meta.mode & 0o7777).unwrap_or(0),
        nlink: if meta.link_group == 0 { 1 } else { 2 },
        uid: meta.uid,
        gid: meta.gid,
        rdev,
        blksize: READ_BYTES,
        flags: 0,
    }
}

/// A device number as the kernel's protocol has it: 12 bits of major, 20 of minor.
const fn device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xf_ff00) << 12)
}

fn time(nanoseconds: i64) -> SystemTime {
    let distance = Duration::from_nanos(nanoseconds.unsigned_abs());
    let time = match nanoseconds < 0 {
        true => UNIX_EPOCH.checked_sub(distance),
        false => UNIX_EPOCH.checked_add(distance),
    };
    time.unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use strongroom_protocol::ChunkId;
    use strongroom_store::content::{ChunkExtent, Meta};

    use super::*;

    fn entry(node: Node, mtime_ns: i64) -> Entry {
        Entry {
            name: b"x".to_vec(),
            node,
            meta: Meta { mode: 0o4751, mtime_ns, ..Meta::default() },
        }
    }

    #[test]
    fn holes_take_no_blocks_and_times_before_1970_are_times() {
        let extents = vec![
            ChunkExtent::Chunk { id: ChunkId([1; 32]), offset: 0, length: 1000 },
            ChunkExtent::Hole { length: 1 << 30 },
        ];
        let content = FileContent::Extents(extents);
        let written = written_bytes(&content);
        let size = (1 << 30) + 1000;
        let found = attributes(5, &entry(Node::File { size, content }, -1), written);
        assert_eq!((found.size, found.blocks, found.perm), (size, 2, 0o4751));
        assert_eq!(found.mtime, UNIX_EPOCH - Duration::from_nanos(1));
        let unknown = FileContent::Listed { list: ChunkId([1; 32]), size: 1024 };
        let found = attributes(5, &entry(Node::File { size: 1024, content: unknown }, 0), None);
        assert_eq!(found.blocks, 2);
    }

    #[test]
    fn device_numbers_are_laid_out_as_the_kernel_does() {
        let found = attributes(5, &entry(Node::CharDevice { major: 259, minor: 70_000 }, 0), None);
        assert_eq!(found.rdev, 0x1111_0370, "{:x}", found.rdev);
    }
}
