//! What the last run found, in walk order, read beside the walk in one pass: what has an equal
//! signature is not read again, and a directory in which all has keeps its page. The cache may
//! be lost or damaged at any time: then more is read, never anything wrong; and a run that was
//! not committed leaves no trace.

mod new;
mod old;
mod record;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use strongroom_protocol::{ChunkId, PointId, RepoId, Timestamp, WorkloadId};

use crate::workload::files::metadata::{FileKind, Stat};

pub use new::NewCache;
pub use old::{Entered, Kept, Left, OldCache};
pub use record::{Damaged, Records, encode_meta};

const MAGIC: &[u8; 8] = b"SRFCAC02";
/// Plain bytes of one block, about.
const BLOCK_BYTES: usize = 256 << 10;
/// Longest block believed when read.
const BLOCK_BYTES_MAX: usize = 8 << 20;
const HASH_BYTES: usize = 32;
/// A time stamp this close to the start of the run may hide a later change: FAT has two
/// seconds, the kernel's tick is far below.
pub const GRANULARITY_NS: i64 = 2_000_000_000;
/// Names nothing: the hash of no content anybody has.
const NO_PAGE: ChunkId = ChunkId([0; 32]);
const SIGNATURE_BYTES: usize = 68;

/// Which run a cache belongs to: all must be equal for it to be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CacheKey {
    pub repo: RepoId,
    pub workload: WorkloadId,
    /// The point the cached run made, which must still be there.
    pub point: PointId,
}

#[derive(Serialize, Deserialize)]
struct Header {
    key: CacheKey,
    started: Timestamp,
}

/// What tells whether an entry is still the one that was read: all that `statx` says and an
/// entry keeps, with what changes whenever any of the rest does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Signature([u8; SIGNATURE_BYTES]);

impl Signature {
    /// Of a file that did not hold still: nothing equals it, and it is not kept.
    pub const NEVER: Self = Self([0xff; SIGNATURE_BYTES]);
}

impl From<&Stat> for Signature {
    fn from(stat: &Stat) -> Self {
        let kind: u32 = match stat.kind {
            FileKind::BlockDevice => 1,
            FileKind::CharDevice => 2,
            FileKind::Directory => 3,
            FileKind::Fifo => 4,
            FileKind::File => 5,
            FileKind::Socket => 6,
            FileKind::Symlink => 7,
        };
        let birth = stat.birth_ns.unwrap_or(i64::MIN);
        let long = [
            stat.size.to_le_bytes(),
            stat.mtime_ns.to_le_bytes(),
            stat.ctime_ns.to_le_bytes(),
            stat.ino.to_le_bytes(),
            stat.dev.to_le_bytes(),
            birth.to_le_bytes(),
        ];
        let (major, minor) = (stat.device_major, stat.device_minor);
        let short = [stat.mode | (kind << 12), stat.uid, stat.gid, major, minor];
        let mut bytes = [0; SIGNATURE_BYTES];
        let (first, rest) = bytes.split_at_mut(long.len() * 8);
        first.copy_from_slice(long.as_flattened());
        rest.copy_from_slice(short.map(u32::to_le_bytes).as_flattened());
        Self(bytes)
    }
}

/// A block of records, as it was read.
#[derive(Debug)]
struct Block {
    plain: Vec<u8>,
    /// As it lies in the file, to be written again as it is.
    packed: Vec<u8>,
}

/// Records one after another in a block of the last run's cache.
#[derive(Clone, Debug)]
pub struct Piece {
    block: Arc<Block>,
    from: usize,
    to: usize,
}

impl Piece {
    /// The records' bytes.
    pub fn bytes(&self) -> &[u8] {
        self.block.plain.get(self.from..self.to).unwrap_or_default()
    }

    /// Takes in what follows; false if `next` does not.
    pub fn extend(&mut self, next: &Self) -> bool {
        let follows = Arc::ptr_eq(&self.block, &next.block) && self.to == next.from;
        if follows {
            self.to = next.to;
        }
        follows
    }

    fn is_whole(&self) -> bool {
        self.from == 0 && self.to == self.block.plain.len()
    }
}
