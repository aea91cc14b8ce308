//! Inodes, and the bytes of files by where their blocks lie.

use std::ops::Range;

use crate::bytes::{array, u16_at, u32_at};
use crate::ext::block::Blocks;
use crate::ext::{damaged, extended, runs};
use crate::system::{Kind, Problem};

const EXTENTS: u32 = 0x8_0000;
const INLINE: u32 = 0x1000_0000;
const ENCRYPTED: u32 = 0x800;
/// Bytes of an inode where a tree of extents, a short link or a short file lies.
pub(super) const MAP_BYTES: usize = 60;
/// Where what was added to inodes begins.
pub(super) const OLD_BYTES: usize = 128;

/// An inode.
pub(super) struct Inode {
    pub(super) number: u64,
    /// Where it lies, in bytes of the file system.
    pub(super) place: u64,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) links: u64,
    pub(super) size: u64,
    pub(super) modified: i128,
    pub(super) flags: u32,
    pub(super) map: [u8; MAP_BYTES],
    /// The block with extended attributes; 0 for none.
    pub(super) attributes: u64,
    /// All of it.
    pub(super) raw: Vec<u8>,
}

impl Inode {
    pub(super) fn read(blocks: &Blocks, number: u64) -> Result<Self, Problem> {
        let layout = blocks.superblock();
        let (block, inside) = blocks.inode_place(number)?;
        let mut raw = vec![0; usize::try_from(layout.inode_bytes).unwrap_or(0)];
        blocks.read(block, inside, &mut raw)?;
        let wide = |low: usize, high: usize| {
            u32::from(u16_at(&raw, high)) << 16 | u32::from(u16_at(&raw, low))
        };
        let mode = u32::from(u16_at(&raw, 0));
        // Of old, the upper half of a directory's size was something else; no directory needs it.
        let high = if mode & 0o170_000 == 0o100_000 { u32_at(&raw, 108) } else { 0 };
        Ok(Self {
            number,
            place: block * layout.block_bytes + inside,
            mode,
            uid: wide(2, 120),
            gid: wide(24, 122),
            links: u16_at(&raw, 26).into(),
            size: u64::from(high) << 32 | u64::from(u32_at(&raw, 4)),
            modified: modified(&raw),
            flags: u32_at(&raw, 32),
            map: array(&raw, 40),
            attributes: u64::from(u16_at(&raw, 118)) << 32 | u64::from(u32_at(&raw, 104)),
            raw,
        })
    }

    pub(super) fn kind(&self) -> Result<Kind, Problem> {
        Ok(match self.mode & 0o170_000 {
            0o010_000 => Kind::Fifo,
            0o020_000 => {
                let (major, minor) = self.device();
                Kind::CharacterDevice { major, minor }
            }
            0o040_000 => Kind::Directory,
            0o060_000 => {
                let (major, minor) = self.device();
                Kind::BlockDevice { major, minor }
            }
            0o100_000 => Kind::File,
            0o120_000 => Kind::Symlink,
            0o140_000 => Kind::Socket,
            _ => {
                let why = format!("inode {} has the mode {:o}", self.number, self.mode);
                return Err(damaged("an inode", self.place, why));
            }
        })
    }

    fn device(&self) -> (u32, u32) {
        match u32_at(&self.map, 0) {
            0 => {
                let new = u32_at(&self.map, 4);
                (new >> 8 & 0xfff, new & 0xff | new >> 12 & 0xf_ff00)
            }
            old => (old >> 8 & 0xff, old & 0xff),
        }
    }

    pub(super) const fn has_extents(&self) -> bool {
        self.flags & EXTENTS != 0
    }

    pub(super) const fn is_inline(&self) -> bool {
        self.flags & INLINE != 0
    }

    fn refuse_encrypted(&self) -> Result<(), Problem> {
        match self.flags & ENCRYPTED {
            0 => Ok(()),
            _ => Err(Problem::Unread { feature: "what is encrypted (fscrypt)".to_owned() }),
        }
    }

    /// The target of a link that lies in the inode itself.
    pub(super) fn short_target(&self) -> Option<Vec<u8>> {
        let length = usize::try_from(self.size).ok().filter(|length| *length < MAP_BYTES)?;
        let encrypted = self.flags & ENCRYPTED != 0;
        let is_short = !self.has_extents() && !self.is_inline() && !encrypted;
        is_short.then(|| self.map.get(..length).unwrap_or_default().to_vec())
    }

    /// What lies in the inode itself, the directory's first four bytes too.
    pub(super) fn inline(&self, blocks: &Blocks) -> Result<Vec<u8>, Problem> {
        let mut bytes = self.map.to_vec();
        bytes.extend(extended::inline_rest(blocks, self)?);
        Ok(bytes)
    }

    /// Bytes from `at` on, zeros where nothing was written; fewer than asked for at the end.
    pub(super) fn read_at(
        &self,
        blocks: &Blocks,
        at: u64,
        into: &mut [u8],
    ) -> Result<usize, Problem> {
        self.refuse_encrypted()?;
        let length = self.size.saturating_sub(at).min(into.len() as u64);
        let length = usize::try_from(length).unwrap_or(0);
        let into = into.get_mut(..length).unwrap_or_default();
        if self.is_inline() {
            let bytes = self.inline(blocks)?;
            let from = usize::try_from(at).unwrap_or(usize::MAX);
            let Some(part) = bytes.get(from..).and_then(|rest| rest.get(..length)) else {
                return Err(damaged("a file", self.place, "it is shorter than it says"));
            };
            into.copy_from_slice(part);
            return Ok(length);
        }
        let block_bytes = blocks.superblock().block_bytes;
        let mut done = 0;
        while done < length {
            let place = at + done as u64;
            let (logical, inside) = (place / block_bytes, place % block_bytes);
            let run = runs::at(blocks, self, logical)?;
            let there = run.count.saturating_mul(block_bytes).saturating_sub(inside);
            let count = usize::try_from(there).unwrap_or(usize::MAX).min(length - done);
            let part = into.get_mut(done..done + count).unwrap_or_default();
            match run.block {
                Some(block) => blocks.read(block, inside, part)?,
                None => part.fill(0),
            }
            done += count;
        }
        Ok(length)
    }

    /// The next stretch with data.
    pub(super) fn data(&self, blocks: &Blocks, at: u64) -> Result<Option<Range<u64>>, Problem> {
        self.refuse_encrypted()?;
        if self.is_inline() {
            return Ok((at < self.size).then_some(at..self.size));
        }
        let block_bytes = blocks.superblock().block_bytes;
        let (mut place, mut found): (u64, Option<Range<u64>>) = (at, None);
        for _ in 0..runs::RUNS_MAX {
            if place >= self.size {
                break;
            }
            let run = runs::at(blocks, self, place / block_bytes)?;
            let end = (place / block_bytes).saturating_add(run.count).saturating_mul(block_bytes);
            let end = end.min(self.size);
            match (&mut found, run.block) {
                (Some(found), Some(_)) => found.end = end,
                (None, Some(_)) => found = Some(place..end),
                (Some(_), None) => break,
                (None, None) => {}
            }
            place = end;
        }
        // What was not looked at may hold something.
        match found {
            None if place < self.size => Ok(Some(place..self.size)),
            found => Ok(found),
        }
    }
}

/// Seconds, with nanoseconds and two more bits of seconds where the inode has room for them.
fn modified(raw: &[u8]) -> i128 {
    let seconds = i64::from(i32::from_le_bytes(array(raw, 16)));
    let extra = match raw.len() > OLD_BYTES && u16_at(raw, OLD_BYTES) >= 12 {
        true => u32_at(raw, 136),
        false => 0,
    };
    let seconds = seconds + (i64::from(extra & 3) << 32);
    i128::from(seconds) * 1_000_000_000 + i128::from(extra >> 2)
}
