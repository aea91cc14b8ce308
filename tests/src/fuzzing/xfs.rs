//! Fuzz target for XFS: a small real one with every form of its structures, changed in them with
//! checksums made right, so that what lies behind the checksums is reached.

use std::sync::OnceLock;

use strongroom_images::Xfs;

use super::volumes::{Base, Spot, Walked, walk};

/// Made by `tests/tests/fuzz_images.rs`.
static PACKED: &[u8] = include_bytes!("../../fuzz/images/xfs.zst");

/// What that image was made with.
const BLOCK_BYTES: u64 = 1024;
const INODE_BYTES: u64 = 512;

fn base() -> Option<&'static Base> {
    static BASE: OnceLock<Option<Base>> = OnceLock::new();
    BASE.get_or_init(|| Base::unpack(PACKED, spots)).as_ref()
}

/// An XFS with changes out of any bytes. Whether it was opened.
pub fn xfs(bytes: &[u8]) -> bool {
    let Some(base) = base() else { return false };
    let Ok(system) = Xfs::open(base.changed(bytes)) else { return false };
    walk(&system);
    true
}

/// What is found in the image as it was made.
pub fn xfs_walked(packed: &[u8]) -> Option<Walked> {
    let base: &'static Base = Box::leak(Box::new(Base::unpack(packed, spots)?));
    let system = Xfs::open(base.changed(&[])).ok()?;
    Some(walk(&system))
}

/// The image that is committed.
pub fn xfs_image() -> &'static [u8] {
    PACKED
}

/// Structures with a checksum, by what they begin with.
fn spots(base: &Base) -> Vec<Spot> {
    let mut found = vec![Spot { at: 0, length: 512, mend: |block| summed(block, 224) }];
    for at in base.places().filter(|at| at % INODE_BYTES == 0) {
        let bytes = base.take(at, BLOCK_BYTES as usize);
        let block = |mend| Some(Spot { at, length: BLOCK_BYTES as usize, mend });
        let spot = match (&bytes[..4], &bytes[8..10]) {
            ([b'I', b'N', _, _], _) => {
                Some(Spot { at, length: INODE_BYTES as usize, mend: |block| summed(block, 100) })
            }
            (b"XDB3" | b"XDD3", _) => block(|block: &mut [u8]| summed(block, 4)),
            (b"BMA3", _) => block(|block: &mut [u8]| summed(block, 64)),
            (b"XSLM" | b"XARM", _) | (_, [0x3b, 0xee] | [0x3e, 0xbe]) => {
                block(|block: &mut [u8]| summed(block, 12))
            }
            _ => None,
        };
        found.extend(spot.filter(|spot| spot.at % BLOCK_BYTES == 0 || spot.length == 512));
    }
    found
}

/// Puts the checksum of a block where it is kept.
fn summed(block: &mut [u8], field: usize) {
    block[field..field + 4].fill(0);
    let sum = crc32c::crc32c(block);
    block[field..field + 4].copy_from_slice(&sum.to_le_bytes());
}
