//! Directories and other indexes: sorted entries in a record, and blocks of more. A directory is
//! listed block by block as its bitmap has them in use, not down its tree: a damaged block hides
//! its own names only, and no circle of pointers can be followed.

use crate::raw::{Block, Raw, is_name};
use crate::system::{Named, NodeId, Problem};

use super::record::mend;
use super::stream::Stream;
use super::table::{BITMAP, File, INDEX_ALLOCATION, INDEX_ROOT, OWN_RECORDS, number};
use super::text::{utf16, wtf8};

/// A block of an index, in bytes.
const BLOCK_BYTES: std::ops::RangeInclusive<usize> = 512..=65536;
/// Levels of an index that is searched.
const LEVELS_MAX: usize = 16;
/// What is read of a bitmap at a time, in bytes.
const BITMAP_PIECE: usize = 4096;

const HAS_CHILD: u16 = 1;
const IS_LAST: u16 = 2;
/// A name for DOS: there is a long one of the same node beside it.
const DOS: u8 = 2;

/// The name of the index of a directory.
fn directory_index() -> Vec<u8> {
    utf16("$I30")
}

/// What is done with entries.
type Entries<'a> = &'a mut dyn FnMut(&Entry<'_>) -> Result<Walk, Problem>;

/// An entry of an index.
pub(super) struct Entry<'a> {
    pub(super) raw: Raw<'a>,
    /// What it leads to, in a directory.
    reference: u64,
    key: Raw<'a>,
    child: Option<u64>,
    is_last: bool,
}

/// Whether to go on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Walk {
    Enough,
    More,
}

/// Lists a directory.
pub(super) fn list(
    directory: &File<'_>,
    each: &mut dyn FnMut(Named) -> bool,
) -> Result<(), Problem> {
    let at_root = directory.record.number == super::ROOT_RECORD;
    let index = directory_index();
    let root = root(directory, &index)?;
    let mut first_problem = None;
    let mut take = |entry: &Entry<'_>| {
        if entry.is_last {
            return Ok(Walk::More);
        }
        let hidden = at_root && number(NodeId(entry.reference)) < OWN_RECORDS;
        let named = if hidden { None } else { name(entry)? };
        let goes_on = named.is_none_or(&mut *each);
        Ok(if goes_on { Walk::More } else { Walk::Enough })
    };
    match entries(&root.header()?, &mut take) {
        Ok(Walk::Enough) => return Ok(()),
        Ok(Walk::More) => {}
        Err(problem) => first_problem = Some(problem),
    }
    let Some(stream) = Stream::find(directory, INDEX_ALLOCATION, &index)? else {
        return first_problem.map_or(Ok(()), Err);
    };
    let blocks = stream.bytes / root.block_bytes as u64;
    let mut used = Used::new(directory, &index, blocks)?;
    while let Some(block) = used.next()? {
        let walked =
            root.block(&stream, block).and_then(|block| entries(&block.raw().rest(24)?, &mut take));
        match walked {
            Ok(Walk::Enough) => break,
            Ok(Walk::More) => {}
            Err(problem) => first_problem = first_problem.or(Some(problem)),
        }
    }
    first_problem.map_or(Ok(()), Err)
}

/// The name of an entry of a directory; none where it is one for DOS, and for the directory itself.
fn name(entry: &Entry<'_>) -> Result<Option<Named>, Problem> {
    let key = entry.key;
    if key.u8(65)? == DOS {
        return Ok(None);
    }
    let name = wtf8(key.take(66, usize::from(key.u8(64)?) * 2)?);
    if name == b"." {
        return Ok(None);
    }
    if !is_name(&name) {
        let shown = String::from_utf8_lossy(&name).escape_debug().to_string();
        return Err(key.damaged(66, format!("`{shown}` is not a name")));
    }
    Ok(Some(Named { name, node: NodeId(entry.reference) }))
}

/// The root of an index.
struct Root {
    block: Block,
    block_bytes: usize,
    /// What pointers to blocks count, in bytes.
    pointer_bytes: u64,
}

fn root(file: &File<'_>, index: &[u8]) -> Result<Root, Problem> {
    let found = file.stretch(INDEX_ROOT, index, 0, &mut |attribute| {
        let raw = attribute.resident()?;
        let block_bytes = raw.le32(8)? as usize;
        if !block_bytes.is_power_of_two() || !BLOCK_BYTES.contains(&block_bytes) {
            return Err(raw.damaged(8, format!("blocks of an index of {block_bytes} bytes")));
        }
        // Blocks smaller than a cluster are counted in sectors.
        let cluster = file.table.boot.cluster_bytes;
        let pointer_bytes = if cluster <= block_bytes as u64 { cluster } else { 512 };
        let block = Block { what: raw.what, at: raw.at, bytes: raw.bytes.to_vec() };
        Ok(Root { block, block_bytes, pointer_bytes })
    })?;
    found.ok_or_else(|| file.damaged("a directory without an index"))
}

impl Root {
    fn header(&self) -> Result<Raw<'_>, Problem> {
        self.block.raw().rest(16)
    }

    /// Reads a block by its number in the allocation.
    fn block(&self, stream: &Stream<'_>, number: u64) -> Result<Block, Problem> {
        let place = number.saturating_mul(self.block_bytes as u64);
        let mut bytes = vec![0; self.block_bytes];
        let at = stream.place(place)?;
        let length = stream.read(place, &mut bytes)?;
        let mut block = Block { what: "a block of an index", at, bytes };
        if length != self.block_bytes {
            return Err(block.raw().damaged(0, "it ends beyond the index"));
        }
        mend(&mut block, *b"INDX")?;
        let raw = block.raw();
        if raw.le64(16)?.checked_mul(self.pointer_bytes) != Some(place) {
            return Err(raw.damaged(16, "it is another block of the index"));
        }
        Ok(block)
    }
}

/// Walks the entries behind a header.
fn entries(header: &Raw<'_>, take: Entries<'_>) -> Result<Walk, Problem> {
    let (first, end) = (header.le32(0)? as usize, header.le32(4)? as usize);
    let used = header.part(0, end)?;
    let mut offset = first;
    loop {
        let length = usize::from(used.le16(offset + 8)?);
        if length < 16 || length % 8 != 0 {
            return Err(used.damaged(offset, format!("an entry of {length} bytes")));
        }
        let raw = used.part(offset, length)?;
        let flags = raw.le16(12)?;
        let child = if flags & HAS_CHILD == 0 { None } else { Some(raw.le64(length - 8)?) };
        let entry = Entry {
            raw,
            reference: raw.le64(0)?,
            key: raw.part(16, raw.le16(10)?.into())?,
            child,
            is_last: flags & IS_LAST != 0,
        };
        if take(&entry)? == Walk::Enough {
            return Ok(Walk::Enough);
        }
        if entry.is_last {
            return Ok(Walk::More);
        }
        offset += length;
    }
}

/// Searches an index whose keys are numbers; gives what the entry keeps.
pub(super) fn search(
    file: &File<'_>,
    index: &[u8],
    wanted: u32,
) -> Result<Option<Vec<u8>>, Problem> {
    let root = root(file, index)?;
    let mut next = None;
    for _ in 0..LEVELS_MAX {
        let (mut found, mut child) = (None, None);
        let mut take = |entry: &Entry<'_>| {
            if !entry.is_last {
                let key = entry.key.le32(0)?;
                if key < wanted {
                    return Ok(Walk::More);
                }
                if key == wanted {
                    let (offset, length) = (entry.raw.le16(0)?, entry.raw.le16(2)?);
                    found = Some(entry.raw.take(offset.into(), length.into())?.to_vec());
                    return Ok(Walk::Enough);
                }
            }
            child = entry.child;
            Ok(Walk::Enough)
        };
        match next {
            None => entries(&root.header()?, &mut take)?,
            Some(pointer) => {
                let Some(stream) = Stream::find(file, INDEX_ALLOCATION, index)? else {
                    return Err(file.damaged("an index without its blocks"));
                };
                let place = root.pointer_bytes.saturating_mul(pointer);
                let block = root.block(&stream, place / root.block_bytes as u64)?;
                entries(&block.raw().rest(24)?, &mut take)?
            }
        };
        if found.is_some() || child.is_none() {
            return Ok(found);
        }
        next = child;
    }
    Err(Problem::Limit { what: "levels of an index", limit: LEVELS_MAX as u64 })
}

/// The blocks of an index that are in use, by its bitmap.
struct Used<'a> {
    bitmap: Option<Stream<'a>>,
    blocks: u64,
    next: u64,
    piece: Vec<u8>,
    /// The number of the first block of the piece.
    first: u64,
}

impl<'a> Used<'a> {
    fn new(file: &'a File<'a>, index: &[u8], blocks: u64) -> Result<Self, Problem> {
        let bitmap = Stream::find(file, BITMAP, index)?;
        Ok(Self { bitmap, blocks, next: 0, piece: Vec::new(), first: 0 })
    }

    fn next(&mut self) -> Result<Option<u64>, Problem> {
        let Some(bitmap) = &self.bitmap else { return Ok(None) };
        while self.next < self.blocks {
            let block = self.next;
            let held = (block - self.first) / 8;
            let byte = usize::try_from(held).ok().and_then(|held| self.piece.get(held));
            let Some(byte) = byte else {
                self.first = block - block % 8;
                self.piece.resize(BITMAP_PIECE, 0);
                let length = bitmap.read(self.first / 8, &mut self.piece)?;
                self.piece.truncate(length);
                if length == 0 {
                    return Ok(None);
                }
                continue;
            };
            let bits = byte >> (block % 8);
            if bits == 0 {
                self.next = block - block % 8 + 8;
                continue;
            }
            self.next = block + u64::from(bits.trailing_zeros()) + 1;
            return Ok((self.next <= self.blocks).then_some(self.next - 1));
        }
        Ok(None)
    }
}
