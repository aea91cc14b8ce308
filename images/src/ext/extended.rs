//! Extended attributes: in the inode, in a block of their own, and in inodes of their own. Access
//! lists are given as the kernel gives them, which is not as they lie.

use crate::bytes::{array, u8_at, u16_at, u32_at};
use crate::ext::block::Blocks;
use crate::ext::damaged;
use crate::ext::inode::{Inode, OLD_BYTES};
use crate::system::Problem;

const MARK: u32 = 0xea02_0000;
const ENTRY_BYTES: usize = 16;
const HEADER_BYTES: usize = 32;
/// What the kernel allows for one value.
const VALUE_BYTES_MAX: u64 = 64 << 10;
/// Most attributes of one inode that are read.
const COUNT_MAX: usize = 4096;
const ALL_BYTES_MAX: usize = 1 << 20;
const ACCESS: u8 = 2;
const DEFAULT: u8 = 3;
const SYSTEM: u8 = 7;

/// An attribute as it lies.
struct Found<'a> {
    kind: u8,
    name: &'a [u8],
    inode: u32,
    size: u32,
    /// Where it begins, from where values are counted.
    at: usize,
}

/// All of them.
pub(super) fn read(blocks: &Blocks, inode: &Inode) -> Result<crate::system::Extended, Problem> {
    let mut out = Vec::new();
    if let Some(area) = in_inode(inode) {
        collect(blocks, inode, area, area, &mut out)?;
    }
    if inode.attributes != 0 {
        let mut block = vec![0; usize::try_from(blocks.superblock().block_bytes).unwrap_or(0)];
        blocks.read(inode.attributes, 0, &mut block)?;
        if u32_at(&block, 0) != MARK {
            return Err(damaged("extended attributes", inode.place, "their mark is not there"));
        }
        let entries = block.get(HEADER_BYTES..).unwrap_or_default();
        collect(blocks, inode, entries, &block, &mut out)?;
    }
    Ok(out)
}

/// What of a file that lies in its inode lies among the attributes.
pub(super) fn inline_rest(blocks: &Blocks, inode: &Inode) -> Result<Vec<u8>, Problem> {
    let Some(area) = in_inode(inode) else { return Ok(Vec::new()) };
    for found in entries(area, inode)? {
        if found.kind == SYSTEM && found.name == b"data" {
            return value(blocks, inode, &found, area);
        }
    }
    Ok(Vec::new())
}

/// The attributes in an inode, behind their mark.
fn in_inode(inode: &Inode) -> Option<&[u8]> {
    let extra = usize::from(u16_at(inode.raw.get(OLD_BYTES..)?, 0));
    let area = inode.raw.get(OLD_BYTES + extra..)?;
    (u32_at(area, 0) == MARK).then(|| area.get(4..)).flatten()
}

fn entries<'a>(area: &'a [u8], inode: &Inode) -> Result<Vec<Found<'a>>, Problem> {
    let (mut at, mut out) = (0, Vec::new());
    while u32_at(area, at) != 0 {
        let name_bytes = usize::from(u8_at(area, at));
        let name = area.get(at + ENTRY_BYTES..at + ENTRY_BYTES + name_bytes);
        let Some(name) = name.filter(|_| out.len() < COUNT_MAX) else {
            return Err(damaged("extended attributes", inode.place, "they lead out"));
        };
        out.push(Found {
            kind: u8_at(area, at + 1),
            name,
            inode: u32_at(area, at + 4),
            size: u32_at(area, at + 8),
            at: u16_at(area, at + 2).into(),
        });
        at += (ENTRY_BYTES + name_bytes).next_multiple_of(4);
    }
    Ok(out)
}

fn value(
    blocks: &Blocks,
    inode: &Inode,
    found: &Found<'_>,
    values: &[u8],
) -> Result<Vec<u8>, Problem> {
    let wrong = || damaged("an extended attribute", inode.place, "its value leads out");
    let size = usize::try_from(found.size).unwrap_or(usize::MAX);
    if u64::from(found.size) > VALUE_BYTES_MAX {
        return Err(wrong());
    }
    if found.inode == 0 {
        let value = values.get(found.at..).and_then(|rest| rest.get(..size));
        return value.map(<[u8]>::to_vec).ok_or_else(wrong);
    }
    let holder = Inode::read(blocks, found.inode.into())?;
    let mut value = vec![0; size];
    match holder.is_inline() || holder.read_at(blocks, 0, &mut value)? != size {
        true => Err(wrong()),
        false => Ok(value),
    }
}

fn collect(
    blocks: &Blocks,
    inode: &Inode,
    area: &[u8],
    values: &[u8],
    out: &mut Vec<(Vec<u8>, Vec<u8>)>,
) -> Result<(), Problem> {
    let mut bytes: usize = out.iter().map(|(name, value)| name.len() + value.len()).sum();
    for found in entries(area, inode)? {
        let prefix: &[u8] = match found.kind {
            1 => b"user.",
            ACCESS => b"system.posix_acl_access",
            DEFAULT => b"system.posix_acl_default",
            4 => b"trusted.",
            6 => b"security.",
            SYSTEM if found.name == b"data" => continue,
            SYSTEM => b"system.",
            8 => b"system.richacl",
            // What is encrypted is said where it is read.
            _ => continue,
        };
        let mut value = value(blocks, inode, &found, values)?;
        if matches!(found.kind, ACCESS | DEFAULT) {
            value = access_list(&value).ok_or_else(|| {
                damaged("an access list", inode.place, "it is none that is known")
            })?;
        }
        bytes += prefix.len() + found.name.len() + value.len();
        if bytes > ALL_BYTES_MAX {
            let what = "extended attributes of one file";
            return Err(Problem::Limit { what, limit: ALL_BYTES_MAX as u64 });
        }
        out.push(([prefix, found.name].concat(), value));
    }
    Ok(())
}

/// From version 1, where only named users and groups have an id, to version 2, where all have.
fn access_list(on_disk: &[u8]) -> Option<Vec<u8>> {
    if u32_at(on_disk, 0) != 1 {
        return None;
    }
    let mut out = 2_u32.to_le_bytes().to_vec();
    let mut rest = on_disk.get(4..)?;
    while !rest.is_empty() {
        let tag = u16_at(rest, 0);
        let is_named = matches!(tag, 0x02 | 0x08);
        let (entry, later) = rest.split_at_checked(if is_named { 8 } else { 4 })?;
        out.extend_from_slice(entry.get(..4)?);
        let id = if is_named { array(entry, 4) } else { [0xff; 4] };
        out.extend_from_slice(&id);
        rest = later;
    }
    Some(out)
}
