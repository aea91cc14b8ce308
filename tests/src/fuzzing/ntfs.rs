//! Fuzz target for NTFS: a small real one with every form of its structures, changed in them with
//! the marks against torn writes put back.

use std::sync::OnceLock;

use strongroom_images::Ntfs;

use super::volumes::{Base, Spot, Walked, walk};

/// Made by `tests/tests/fuzz_images.rs`.
static PACKED: &[u8] = include_bytes!("../../fuzz/images/ntfs.zst");

const SECTOR: usize = 512;
const RECORD_BYTES: usize = 1024;
const BLOCK_BYTES: usize = 4096;

fn base() -> Option<&'static Base> {
    static BASE: OnceLock<Option<Base>> = OnceLock::new();
    BASE.get_or_init(|| Base::unpack(PACKED, spots)).as_ref()
}

/// An NTFS with changes out of any bytes. Whether it was opened.
pub fn ntfs(bytes: &[u8]) -> bool {
    let Some(base) = base() else { return false };
    let Ok(system) = Ntfs::open(base.changed(bytes)) else { return false };
    walk(&system);
    true
}

/// What is found in the image as it was made.
pub fn ntfs_walked(packed: &[u8]) -> Option<Walked> {
    let base: &'static Base = Box::leak(Box::new(Base::unpack(packed, spots)?));
    let system = Ntfs::open(base.changed(&[])).ok()?;
    Some(walk(&system))
}

/// The image that is committed.
pub fn ntfs_image() -> &'static [u8] {
    PACKED
}

/// Records, blocks of indexes, and sectors of anything else: lists, bitmaps, compressed units.
fn spots(base: &Base) -> Vec<Spot> {
    let mut found = Vec::new();
    let mut end = 0;
    for at in base.places() {
        if at < end {
            continue;
        }
        let (length, mend): (usize, fn(&mut [u8])) = match &base.take(at, 4)[..] {
            b"FILE" => (RECORD_BYTES, guarded),
            b"INDX" => (BLOCK_BYTES, guarded),
            _ => (SECTOR, |_| {}),
        };
        end = at + length as u64;
        found.push(Spot { at, length, mend });
    }
    found
}

/// Puts the number that guards against torn writes where it should stand.
fn guarded(block: &mut [u8]) {
    let place = usize::from(u16::from_le_bytes([block[4], block[5]]));
    let Some(number) = block.get(place..place + 2).map(<[u8]>::to_vec) else { return };
    for sector in block.chunks_exact_mut(SECTOR) {
        sector[SECTOR - 2..].copy_from_slice(&number);
    }
}
