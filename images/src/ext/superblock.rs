//! The superblock: how the file system is laid out, and what one must know to read it.

use crate::bytes::{label, u16_at, u32_at};
use crate::ext::damaged;
use crate::system::Problem;
use crate::volume::Volume;

pub(super) const SUPERBLOCK_AT: u64 = 1024;
const SUPERBLOCK_BYTES: usize = 1024;

/// What must be known to read a file system, and is.
const KNOWN: u32 = 0x2
    | NEEDS_REPLAY
    | META_BG
    | EXTENTS
    | BITS64
    | 0x100
    | 0x200
    | EA_INODE
    | CHECKSUM_SEED
    | 0x4000
    | INLINE_DATA
    | 0x1_0000
    | 0x2_0000;
const NEEDS_REPLAY: u32 = 0x4;
const META_BG: u32 = 0x10;
const EXTENTS: u32 = 0x40;
const BITS64: u32 = 0x80;
const EA_INODE: u32 = 0x400;
const CHECKSUM_SEED: u32 = 0x2000;
const INLINE_DATA: u32 = 0x8000;
/// What may not be known, by the names that its own tools give it.
const UNKNOWN: &[(u32, &str)] =
    &[(0x1, "compression"), (0x8, "a journal device"), (0x1000, "data in directories")];
const HAS_JOURNAL: u32 = 0x4;
const SPARSE: u32 = 0x1;

/// What the superblock says.
pub(super) struct Superblock {
    pub(super) name: &'static str,
    pub(super) label: Option<String>,
    pub(super) block_bytes: u64,
    pub(super) blocks: u64,
    pub(super) inodes: u64,
    pub(super) inodes_per_group: u64,
    pub(super) inode_bytes: u64,
    pub(super) first_data_block: u64,
    pub(super) blocks_per_group: u64,
    pub(super) descriptor_bytes: u64,
    /// The first group whose descriptors lie among the groups, where the layout is that.
    pub(super) first_meta_group: Option<u64>,
    pub(super) journal_inode: u64,
    pub(super) needs_replay: bool,
    pub(super) has_errors: bool,
    /// Copies of the superblock lie in some groups alone.
    pub(super) is_sparse: bool,
}

impl Superblock {
    pub(super) fn read(volume: &dyn Volume) -> Result<Self, Problem> {
        let mut bytes = [0; SUPERBLOCK_BYTES];
        volume.read_at(SUPERBLOCK_AT, &mut bytes)?;
        Self::parse(&bytes)
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        let wrong = |why: &str| damaged("the superblock", SUPERBLOCK_AT, why);
        if u16_at(bytes, 56) != 0xef53 {
            return Err(wrong("its mark is not there"));
        }
        let is_dynamic = u32_at(bytes, 76) >= 1;
        let features = |at: usize| if is_dynamic { u32_at(bytes, at) } else { 0 };
        let (compatible, incompatible) = (features(92), features(96));
        if incompatible & !KNOWN != 0 {
            let bit = incompatible & !KNOWN;
            let known = UNKNOWN.iter().find(|(one, _)| bit & one != 0);
            let feature = known.map_or_else(
                || format!("ext4 with the feature {bit:#x}"),
                |(_, name)| format!("ext4 with {name}"),
            );
            return Err(Problem::Unread { feature });
        }
        let (shift, is_wide) = (u32_at(bytes, 24), incompatible & BITS64 != 0);
        if shift > 6 {
            return Err(wrong("blocks are longer than they may be"));
        }
        let block_bytes = 1024_u64 << shift;
        let high = if is_wide { u64::from(u32_at(bytes, 336)) << 32 } else { 0 };
        let inode_bytes = if is_dynamic { u64::from(u16_at(bytes, 88)) } else { 128 };
        let descriptor_bytes = if is_wide { u64::from(u16_at(bytes, 254)) } else { 32 };
        let superblock = Self {
            name: match (incompatible & EXTENTS, compatible & HAS_JOURNAL) {
                (0, 0) => "ext2",
                (0, _) => "ext3",
                _ => "ext4",
            },
            label: label(bytes.get(120..136).unwrap_or_default()),
            block_bytes,
            blocks: high | u64::from(u32_at(bytes, 4)),
            inodes: u32_at(bytes, 0).into(),
            inodes_per_group: u32_at(bytes, 40).into(),
            inode_bytes,
            first_data_block: u32_at(bytes, 20).into(),
            blocks_per_group: u32_at(bytes, 32).into(),
            descriptor_bytes,
            first_meta_group: (incompatible & META_BG != 0).then(|| u32_at(bytes, 260).into()),
            journal_inode: u32_at(bytes, 224).into(),
            needs_replay: incompatible & NEEDS_REPLAY != 0 && compatible & HAS_JOURNAL != 0,
            has_errors: u16_at(bytes, 58) & 0x2 != 0,
            is_sparse: features(100) & SPARSE != 0,
        };
        let inode_fits =
            inode_bytes.is_power_of_two() && (128..=block_bytes).contains(&inode_bytes);
        let fits = (32..=block_bytes).contains(&descriptor_bytes);
        if !inode_fits || !fits {
            return Err(wrong("inodes or groups have no length they may have"));
        }
        if superblock.inodes_per_group == 0 || superblock.blocks_per_group == 0 {
            return Err(wrong("groups are empty"));
        }
        Ok(superblock)
    }

    /// Whether there is such a block.
    pub(super) const fn holds(&self, block: u64) -> bool {
        block > 0 && block < self.blocks || block == 0 && self.first_data_block == 0
    }
}
