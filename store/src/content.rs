//! What a directory says of one thing in it: its name as bytes, what it is, its metadata
//! and where its content lies. Carries everything a Linux restore needs; refuses what
//! changes by itself (inode, device, atime, ctime), so that an unchanged directory is the
//! same blob in every point.

pub(crate) mod wire;

use strongroom_protocol::{BlobKind, ChunkId, Reference};

/// Longest content that lies in the entry itself, in bytes: below it a reference costs more.
pub const INLINE_BYTES_MAX: usize = 256;
/// Most extents an entry carries itself; more go into a list, to keep pages small.
pub const EXTENTS_INLINE_MAX: usize = 64;
/// Longest name, in bytes: four times what Linux file systems allow.
pub const NAME_BYTES_MAX: usize = 1024;
/// Heaviest entry ([`Entry::weight`]): leaves a page of several far below the 4 MiB of a blob.
pub const ENTRY_WEIGHT_MAX: usize = 1 << 20;
/// Longest file, in bytes: offsets are `i64` in every system call.
pub const FILE_BYTES_MAX: u64 = i64::MAX as u64;
/// The permission bits a mode may have: the type is said by the node.
pub const MODE_MASK: u32 = 0o7777;

/// Upper bound of an entry's fixed fields, in bytes.
const WEIGHT_FIXED: usize = 80;
/// Upper bound of one reference with what names it, in bytes.
pub(crate) const WEIGHT_REFERENCE: usize = 48;
/// Upper bound of the two lengths of an extended attribute, in bytes.
const WEIGHT_XATTR: usize = 8;

/// One name in a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Any bytes but '/' and NUL; never empty, `.` or `..`.
    pub name: Vec<u8>,
    pub node: Node,
    pub meta: Meta,
}

/// What a name stands for. The order is that of the format: append only.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Node {
    /// A directory by its (topmost) page.
    Directory { page: ChunkId },
    /// A regular file of `size` bytes.
    File { size: u64, content: FileContent },
    /// A symbolic link, with its target as bytes.
    Symlink { target: Vec<u8> },
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
    /// A character device.
    CharDevice { major: u32, minor: u32 },
    /// A block device.
    BlockDevice { major: u32, minor: u32 },
}

/// What is kept of a thing beside its content.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Meta {
    /// The twelve permission bits; see [`MODE_MASK`].
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Nanoseconds since 1970, negative before it.
    pub mtime_ns: i64,
    /// When the file was born, where the file system tells.
    pub birth_ns: Option<i64>,
    /// Inode flags as `FS_IOC_GETFLAGS` gives them.
    pub flags: u32,
    /// Project id (quota), 0 if none.
    pub project: u32,
    /// Extended attributes, raw, sorted by name: ACLs, capabilities and labels too.
    pub xattrs: Vec<Xattr>,
    /// Equal and not 0 for the names of one inode in this point.
    pub link_group: u64,
}

/// One extended attribute, raw.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Xattr {
    pub name: Vec<u8>,
    pub value: Vec<u8>,
}

/// Where the bytes of a file lie.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FileContent {
    /// Here; at most [`INLINE_BYTES_MAX`].
    Inline(Vec<u8>),
    /// In these chunks and holes, in file order; at most [`EXTENTS_INLINE_MAX`].
    Extents(Vec<ChunkExtent>),
    /// In the chunks a list names.
    Listed { list: ChunkId, size: u64 },
}

/// A stretch of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChunkExtent {
    /// `length` bytes of a chunk from `offset`.
    Chunk { id: ChunkId, offset: u32, length: u32 },
    /// `length` bytes never written.
    Hole { length: u64 },
}

/// Why an entry cannot be kept as given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// Content that does not fit its own description.
    #[error("content of \"{}\" does not add up to its {size} bytes", .name.escape_ascii())]
    Content { name: Vec<u8>, size: u64 },
    /// An extent of no length, or past the end of any chunk.
    #[error("an extent of \"{}\" is empty or too long", .name.escape_ascii())]
    Extent { name: Vec<u8> },
    /// More extents, or more bytes, in the entry itself than it may carry.
    #[error("\"{}\" carries more content than an entry may", .name.escape_ascii())]
    Inline { name: Vec<u8> },
    /// Bits beside the twelve of permission.
    #[error("mode {mode:o} of \"{}\" has bits beside the permissions", .name.escape_ascii())]
    Mode { name: Vec<u8>, mode: u32 },
    /// A name no directory can hold.
    #[error("\"{}\" cannot be the name of a file", .name.escape_ascii())]
    Name { name: Vec<u8> },
    /// Too heavy for a page.
    #[error("\"{}\" weighs {weight} bytes, more than a page takes", .name.escape_ascii())]
    TooHeavy { name: Vec<u8>, weight: usize },
    /// Extended attributes that are unnamed, not sorted, or named twice.
    #[error("extended attributes of \"{}\" are not sorted by name", .name.escape_ascii())]
    Xattrs { name: Vec<u8> },
}

impl Entry {
    /// What the entry adds to a page, in bytes, never less than it really takes. A function
    /// of the entry alone, so that where pages end does not depend on where they began.
    pub fn weight(&self) -> usize {
        let node = match &self.node {
            Node::Directory { .. } => WEIGHT_REFERENCE,
            Node::File { content, .. } => match content {
                FileContent::Inline(bytes) => bytes.len(),
                FileContent::Extents(extents) => extents.len().saturating_mul(WEIGHT_REFERENCE),
                FileContent::Listed { .. } => WEIGHT_REFERENCE,
            },
            Node::Symlink { target } => target.len(),
            Node::Fifo | Node::Socket | Node::CharDevice { .. } | Node::BlockDevice { .. } => 0,
        };
        let xattrs = &self.meta.xattrs;
        let xattrs: usize =
            xattrs.iter().map(|x| WEIGHT_XATTR + x.name.len() + x.value.len()).sum();
        WEIGHT_FIXED + self.name.len() + node + xattrs
    }

    /// Refuses what the format cannot hold.
    pub fn check(&self) -> Result<(), EntryError> {
        let name = || self.name.clone();
        if !name_is_usable(&self.name) {
            return Err(EntryError::Name { name: name() });
        }
        if self.meta.mode & !MODE_MASK != 0 {
            return Err(EntryError::Mode { name: name(), mode: self.meta.mode });
        }
        let sorted = self.meta.xattrs.is_sorted_by(|a, b| a.name < b.name);
        if !sorted || self.meta.xattrs.iter().any(|x| x.name.is_empty() || x.name.contains(&0)) {
            return Err(EntryError::Xattrs { name: name() });
        }
        if let Node::File { size, content } = &self.node {
            self.check_content(*size, content)?;
        }
        match self.weight() {
            weight if weight > ENTRY_WEIGHT_MAX => {
                Err(EntryError::TooHeavy { name: name(), weight })
            }
            _ => Ok(()),
        }
    }

    fn check_content(&self, size: u64, content: &FileContent) -> Result<(), EntryError> {
        let name = || self.name.clone();
        let found = match content {
            FileContent::Inline(bytes) if bytes.len() > INLINE_BYTES_MAX => {
                return Err(EntryError::Inline { name: name() });
            }
            FileContent::Extents(extents) if extents.len() > EXTENTS_INLINE_MAX => {
                return Err(EntryError::Inline { name: name() });
            }
            FileContent::Inline(bytes) => Some(bytes.len() as u64),
            FileContent::Extents(extents) => {
                if !extents.iter().all(ChunkExtent::is_usable) {
                    return Err(EntryError::Extent { name: name() });
                }
                extents.iter().try_fold(0_u64, |sum, extent| sum.checked_add(extent.length()))
            }
            FileContent::Listed { size, .. } => Some(*size),
        };
        match found {
            Some(found) if found == size && size <= FILE_BYTES_MAX => Ok(()),
            _ => Err(EntryError::Content { name: name(), size }),
        }
    }

    /// The page of a directory, nothing for other nodes.
    pub const fn directory_page(&self) -> Option<ChunkId> {
        match &self.node {
            Node::Directory { page } => Some(*page),
            _ => None,
        }
    }
}

impl ChunkExtent {
    /// Length in the file, in bytes.
    pub const fn length(&self) -> u64 {
        match self {
            Self::Chunk { length, .. } => *length as u64,
            Self::Hole { length } => *length,
        }
    }

    /// Whether it has a length and lies within the longest chunk and the longest file.
    pub const fn is_usable(&self) -> bool {
        match self {
            Self::Chunk { offset, length, .. } => {
                *length > 0
                    && *offset as u64 + *length as u64
                        <= strongroom_protocol::blob::PLAIN_BYTES_MAX as u64
            }
            Self::Hole { length } => *length > 0 && *length <= FILE_BYTES_MAX,
        }
    }

    /// The two as one, where `next` goes on where this ends.
    pub(crate) fn joined(&self, next: &Self) -> Option<Self> {
        let joined = match (self, next) {
            (Self::Hole { length: a }, Self::Hole { length: b }) => {
                Self::Hole { length: a.checked_add(*b)? }
            }
            (
                Self::Chunk { id, offset, length },
                Self::Chunk { id: other, offset: at, length: more },
            ) if id == other && offset.checked_add(*length)? == *at => {
                Self::Chunk { id: *id, offset: *offset, length: length.checked_add(*more)? }
            }
            _ => return None,
        };
        joined.is_usable().then_some(joined)
    }
}

/// Whether a directory can hold the name.
pub fn name_is_usable(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..")
        && name.len() <= NAME_BYTES_MAX
        && !name.iter().any(|byte| matches!(byte, b'/' | 0))
}

/// Why the plaintext of a page or list is not one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Inner pages or lists of lists nested deeper than the format has them.
    #[error("nested {depth} deep")]
    Depth { depth: u8 },
    /// A page above others, or a list, without members.
    #[error("names nothing")]
    Empty,
    /// An entry the format cannot hold.
    #[error("an entry is not usable")]
    Entry(#[from] EntryError),
    /// An extent of no length, past the end of any chunk, or a sum past the longest file.
    #[error("an extent is empty or too long")]
    Extent,
    /// Not the structure.
    #[error("the structure is broken")]
    Malformed(#[from] postcard::Error),
    /// Names out of order or twice.
    #[error("\"{}\" is out of order", .name.escape_ascii())]
    Order { name: Vec<u8> },
    /// A reference that is not there, is of another kind, or is never used.
    #[error("reference {position} is not a {expected:?} in the order first used")]
    Reference { position: u64, expected: BlobKind },
    /// More bytes, members or references than such a blob may have.
    #[error("longer than such a blob may be")]
    TooLong,
    /// Bytes after the end.
    #[error("{bytes} bytes follow the end")]
    Trailing { bytes: usize },
    /// References nothing uses.
    #[error("only {used} of its references are used")]
    Unused { used: usize },
}

/// A blob's plaintext with what it needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Encoded {
    pub(crate) references: Vec<Reference>,
    pub(crate) plain: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bytes_without_slash_nul_and_dots() {
        for good in [&b"a"[..], b"...", b"\xff\xfe", b" ", b"\n", &[b'x'; NAME_BYTES_MAX]] {
            assert!(name_is_usable(good), "{}", good.escape_ascii());
        }
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0", &[b'x'; NAME_BYTES_MAX + 1]] {
            assert!(!name_is_usable(bad), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn content_must_add_up_and_fit() {
        let file = |size, content| Entry {
            name: b"f".to_vec(),
            node: Node::File { size, content },
            meta: Meta::default(),
        };
        let hole = ChunkExtent::Hole { length: 5 };
        assert!(file(5, FileContent::Extents(vec![hole])).check().is_ok());
        assert!(file(6, FileContent::Extents(vec![hole])).check().is_err());
        assert!(file(300, FileContent::Inline(vec![0; 300])).check().is_err());
        assert!(file(325, FileContent::Extents(vec![hole; 65])).check().is_err());
        let past = ChunkExtent::Chunk { id: ChunkId([1; 32]), offset: 4 << 20, length: 1 };
        assert!(file(1, FileContent::Extents(vec![past])).check().is_err());
        let huge = vec![ChunkExtent::Hole { length: FILE_BYTES_MAX }; 3];
        assert!(file(1, FileContent::Extents(huge)).check().is_err());
    }

    #[test]
    fn neighbours_join_only_where_one_goes_on() {
        let chunk = |offset, length| ChunkExtent::Chunk { id: ChunkId([1; 32]), offset, length };
        assert_eq!(chunk(0, 4).joined(&chunk(4, 2)), Some(chunk(0, 6)));
        assert_eq!(chunk(0, 4).joined(&chunk(5, 2)), None);
        assert_eq!(chunk(0, 4).joined(&ChunkExtent::Hole { length: 1 }), None);
    }
}
