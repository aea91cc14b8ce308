//! Which file system lies in a volume: told by its marks, opened where there is a reader, named
//! where there is none.

use std::sync::Arc;

use crate::bytes::{u16_at, u32_at};
use crate::ext::Ext;
use crate::fat::Fat;
use crate::ntfs::Ntfs;
use crate::system::{FileSystem, Problem};
use crate::volume::{Volume, VolumeError};
use crate::xfs::Xfs;

/// What is read to tell file systems apart: the mark of btrfs lies behind 64 KiB.
const HEAD_BYTES: usize = 68 << 10;

/// What lies in a volume.
pub enum Found {
    /// It has the marks of this file system, and does not hold together.
    Damaged { what: &'static str, problem: Problem },
    /// Nothing that is known.
    Nothing,
    /// A file system that is read.
    System(Box<dyn FileSystem>),
    /// Something known that is not read.
    Unread { what: &'static str },
}

/// Marks of what is known and not read: where they lie, and the bytes.
const UNREAD: &[(usize, &[u8], &str)] = &[
    (0, b"LUKS\xba\xbe", "encrypted by LUKS"),
    (3, b"-FVE-FS-", "encrypted by BitLocker"),
    (3, b"ReFS\0\0\0\0", "ReFS"),
    (3, b"EXFAT   ", "exFAT"),
    (0, b"hsqs", "squashfs"),
    (32, b"NXSB", "APFS"),
    (1024, b"H+\0\x04", "HFS+"),
    (1024, b"HX\0\x05", "HFS+"),
    (1024, b"\x10\x20\xf5\xf2", "F2FS"),
    (1024, b"\xe2\xe1\xf5\xe0", "EROFS"),
    (4096, b"\xfc\x4e\x2b\xa9", "a member of a RAID of Linux"),
    (0, b"\xfc\x4e\x2b\xa9", "a member of a RAID of Linux"),
    (4120, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca", "bcachefs"),
    (32_769, b"CD001", "ISO 9660"),
    (65_588, b"ReIsEr", "ReiserFS"),
    (65_600, b"_BHRfS_M", "btrfs"),
    (4086, b"SWAPSPACE2", "swap"),
    (8182, b"SWAPSPACE2", "swap"),
    (16_374, b"SWAPSPACE2", "swap"),
    (65_526, b"SWAPSPACE2", "swap"),
];

/// What lies in the volume.
///
/// # Errors
///
/// Only that the beginning of the volume cannot be read.
pub fn probe(volume: &Arc<dyn Volume>) -> Result<Found, VolumeError> {
    let length = volume.bytes().min(HEAD_BYTES as u64);
    let mut head = vec![0; usize::try_from(length).unwrap_or(0)];
    volume.read_at(0, &mut head)?;
    let has = |at: usize, mark: &[u8]| head.get(at..).is_some_and(|rest| rest.starts_with(mark));
    if let Some((.., what)) = UNREAD.iter().find(|(at, mark, _)| has(*at, mark)) {
        return Ok(Found::Unread { what });
    }
    let label = |sector: usize| has(sector * 512, b"LABELONE") && has(sector * 512 + 24, b"LVM2");
    if (0..4).any(label) {
        return Ok(Found::Unread { what: "a physical volume of LVM" });
    }
    let again = || Arc::clone(volume);
    Ok(if u16_at(&head, 1080) == 0xef53 {
        opened("ext4", Ext::open(again()))
    } else if has(0, b"XFSB") {
        opened("XFS", Xfs::open(again()))
    } else if has(3, b"NTFS    ") {
        opened("NTFS", Ntfs::open(again()))
    } else if is_fat(&head) {
        opened("FAT", Fat::open(again()))
    } else {
        Found::Nothing
    })
}

fn opened<F: FileSystem + 'static>(what: &'static str, system: Result<F, Problem>) -> Found {
    match system {
        Ok(system) => Found::System(Box::new(system)),
        Err(problem) => Found::Damaged { what, problem },
    }
}

/// A boot sector whose numbers could be those of FAT: it has no mark of its own.
fn is_fat(head: &[u8]) -> bool {
    let sector = u16_at(head, 11);
    let cluster = head.get(13).copied().unwrap_or(0);
    let (reserved, tables) = (u16_at(head, 14), head.get(16).copied().unwrap_or(0));
    let media = head.get(21).copied().unwrap_or(0);
    u16_at(head, 510) == 0xaa55
        && matches!(head.first(), Some(0xeb | 0xe9))
        && matches!(sector, 512 | 1024 | 2048 | 4096)
        && cluster.is_power_of_two()
        && reserved > 0
        && matches!(tables, 1..=4)
        && (media == 0xf0 || media >= 0xf8)
        && (u16_at(head, 19) != 0 || u32_at(head, 32) != 0)
}
