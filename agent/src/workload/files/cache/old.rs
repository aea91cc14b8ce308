//! The last run's cache, read forward beside the walk. A level of it that the walk enters is
//! left as a whole, whatever of it the walk did not ask for.

use std::fs::File;
use std::io::{self, BufReader, Read as _};
use std::path::Path;
use std::sync::Arc;

use strongroom_protocol::ChunkId;
use strongroom_store::content::Entry;

use super::record::{Records, Shape, Tag, shape};
use super::{
    BLOCK_BYTES_MAX, Block, CacheKey, GRANULARITY_NS, HASH_BYTES, Header, MAGIC, NO_PAGE, Piece,
    SIGNATURE_BYTES, Signature,
};
use crate::workload::files::metadata::Stat;

/// The last run's cache.
#[derive(Default)]
pub struct OldCache {
    source: Option<Source>,
    /// What changed before this is told by its signature; see [`GRANULARITY_NS`].
    settled_ns: i64,
    block: Option<Arc<Block>>,
    at: usize,
    /// For each directory the walk is in, whether the cache has it.
    levels: Vec<bool>,
}

struct Source {
    file: BufReader<File>,
    unpack: zstd::bulk::Decompressor<'static>,
}

/// What the cache has of a directory being entered.
#[derive(Debug)]
pub enum Entered {
    Absent,
    /// It is there, as something else than it is.
    Changed,
    /// With all that is kept of the directory itself.
    Same(Piece),
}

/// Whether records that the walk did not come by were passed: what they are of is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kept {
    All,
    Less,
}

/// A directory's page, and the record of it.
pub type Left = (ChunkId, Piece);

impl OldCache {
    /// Opens the cache if it is there and belongs to the run `key` names; else an empty one.
    pub fn open(path: &Path, key: Option<CacheKey>) -> Self {
        let opened = key.and_then(|key| Self::try_open(path, key).ok().flatten());
        opened.unwrap_or_default()
    }

    fn try_open(path: &Path, key: CacheKey) -> io::Result<Option<Self>> {
        let mut file = BufReader::new(File::open(path)?);
        let mut magic = [0; 8];
        file.read_exact(&mut magic)?;
        if magic != *MAGIC {
            return Ok(None);
        }
        let unpack = zstd::bulk::Decompressor::new()?;
        let mut source = Source { file, unpack };
        let Some(block) = source.block() else { return Ok(None) };
        let header = postcard::from_bytes::<Header>(&block.plain).map_err(io::Error::other)?;
        if header.key != key {
            return Ok(None);
        }
        let settled_ns = header.started.0.saturating_sub(GRANULARITY_NS);
        Ok(Some(Self { source: Some(source), settled_ns, ..Self::default() }))
    }

    /// Goes into a directory of the one the walk is in; names come in order.
    pub fn enter(&mut self, name: &[u8], meta: &[u8]) -> (Entered, Kept) {
        let is_here = self.levels.last().copied().unwrap_or(true);
        let (found, kept) = if is_here { self.pass(name) } else { (None, Kept::All) };
        let Some(found) = found.filter(|found| found.tag == Tag::Enter) else {
            self.levels.push(false);
            return (Entered::Absent, kept);
        };
        self.levels.push(true);
        let is_same = self.bytes(&found.rest) == meta;
        match self.take(&found) {
            Some(piece) if is_same => (Entered::Same(piece), kept),
            _ => (Entered::Changed, kept),
        }
    }

    /// The record of an entry of the directory the walk is in, if it is still the one that was
    /// read; names come in order.
    pub fn find(&mut self, name: &[u8], stat: &Stat) -> (Option<Piece>, Kept) {
        if !self.levels.last().copied().unwrap_or(false) {
            return (None, Kept::All);
        }
        let (found, kept) = self.pass(name);
        let Some(found) = found.filter(|found| found.tag == Tag::Entry) else {
            return (None, kept);
        };
        let signature = self.bytes(&found.rest).first_chunk::<SIGNATURE_BYTES>();
        let is_same = signature.is_some_and(|found| *found == Signature::from(stat).0);
        if !is_same || stat.ctime_ns >= self.settled_ns {
            return (None, kept);
        }
        (self.take(&found), kept)
    }

    /// Leaves the directory the walk is in.
    pub fn leave(&mut self) -> (Option<Left>, Kept) {
        if self.levels.pop() != Some(true) {
            return (None, Kept::All);
        }
        let mut kept = Kept::All;
        while let Some(found) = self.peek() {
            if found.tag == Tag::Leave {
                let page = self.bytes(&found.rest).first_chunk().copied().map(ChunkId);
                let piece = self.take(&found);
                return (page.filter(|page| *page != NO_PAGE).zip(piece), kept);
            }
            kept = Kept::Less;
            self.skip(&found);
        }
        (None, kept)
    }

    /// Passes what comes before `name` in this level; the record of that name, not taken.
    fn pass(&mut self, name: &[u8]) -> (Option<Shape>, Kept) {
        let mut kept = Kept::All;
        while let Some(found) = self.peek() {
            if found.tag == Tag::Leave {
                break;
            }
            match self.bytes(&found.name).cmp(name) {
                std::cmp::Ordering::Less => {
                    kept = Kept::Less;
                    self.skip(&found);
                }
                std::cmp::Ordering::Equal => return (Some(found), kept),
                std::cmp::Ordering::Greater => break,
            }
        }
        (None, kept)
    }

    /// Passes a record, and all below it where a directory begins.
    fn skip(&mut self, found: &Shape) {
        let mut depth = usize::from(found.tag == Tag::Enter);
        self.at = found.rest.end;
        while depth > 0 {
            let Some(found) = self.peek() else { return };
            match found.tag {
                Tag::Enter => depth += 1,
                Tag::Leave => depth -= 1,
                Tag::Entry => {}
            }
            self.at = found.rest.end;
        }
    }

    fn take(&mut self, found: &Shape) -> Option<Piece> {
        let block = Arc::clone(self.block.as_ref()?);
        let piece = Piece { block, from: self.at, to: found.rest.end };
        self.at = piece.to;
        Some(piece)
    }

    fn bytes(&self, range: &std::ops::Range<usize>) -> &[u8] {
        let block = self.block.as_ref();
        block.and_then(|block| block.plain.get(range.clone())).unwrap_or_default()
    }

    /// The next record; at the end, or where the cache is damaged, there are no more.
    fn peek(&mut self) -> Option<Shape> {
        if self.block.as_ref().is_none_or(|block| self.at >= block.plain.len()) {
            self.block = self.source.as_mut()?.block().map(Arc::new);
            self.at = 0;
        }
        let found = self.block.as_ref().and_then(|block| shape(&block.plain, self.at));
        if found.is_none() {
            self.source = None;
            self.block = None;
        }
        found
    }
}

impl Source {
    fn block(&mut self) -> Option<Block> {
        let mut head = [0; 4 + HASH_BYTES];
        self.file.read_exact(&mut head).ok()?;
        let length = u32::from_le_bytes(*head.first_chunk::<4>()?) as usize;
        if length > BLOCK_BYTES_MAX {
            return None;
        }
        let mut packed = vec![0; length];
        self.file.read_exact(&mut packed).ok()?;
        let hash = blake3::hash(&packed);
        if hash.as_bytes() != head.last_chunk::<HASH_BYTES>()? {
            return None;
        }
        let length = zstd::zstd_safe::get_frame_content_size(&packed).ok().flatten()?;
        let length = usize::try_from(length).ok().filter(|length| *length <= BLOCK_BYTES_MAX)?;
        let plain = self.unpack.decompress(&packed, length).ok()?;
        Some(Block { plain, packed })
    }
}

impl Piece {
    /// The entry, where the piece is one record.
    pub fn entry(&self) -> Option<Entry> {
        Records::of(self.bytes()).next()?.ok()
    }
}
