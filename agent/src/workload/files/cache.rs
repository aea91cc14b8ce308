//! What the last run read, in walk order, read beside the walk in one pass: a file with an
//! equal signature is not read again. The cache may be lost or damaged at any time: then
//! more is read, never anything wrong; and a run that was not committed leaves no trace.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use strongroom_protocol::{ChunkId, PointId, RepoId, Timestamp, WorkloadId};
use strongroom_store::content::{ChunkExtent, FileContent, Xattr};

use crate::workload::files::metadata::Stat;

const MAGIC: &[u8; 8] = b"SRFCAC01";
/// Plain bytes of one block, about.
const BLOCK_BYTES: usize = 256 << 10;
/// Longest block believed when read.
const BLOCK_BYTES_MAX: usize = 8 << 20;
const HASH_BYTES: usize = 32;
const LEVEL: i32 = 1;
/// A time stamp this close to the start of the run may hide a later change: FAT has two
/// seconds, the kernel's tick is far below.
pub const GRANULARITY_NS: i64 = 2_000_000_000;

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

/// What tells whether a file is still the one that was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Signature {
    size: u64,
    mtime_ns: i64,
    ctime_ns: i64,
    ino: u64,
    dev: u64,
}

impl Signature {
    /// Of a file that did not hold still: nothing equals it, and it is not kept.
    pub const NEVER: Self =
        Self { size: u64::MAX, mtime_ns: i64::MAX, ctime_ns: i64::MAX, ino: 0, dev: 0 };
}

impl From<&Stat> for Signature {
    fn from(stat: &Stat) -> Self {
        let Stat { size, mtime_ns, ctime_ns, ino, dev, .. } = *stat;
        Self { size, mtime_ns, ctime_ns, ino, dev }
    }
}

/// What is known of a file without opening it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Known {
    pub content: FileContent,
    pub flags: u32,
    pub project: u32,
    pub xattrs: Vec<Xattr>,
}

#[derive(Serialize, Deserialize)]
struct Record {
    /// Bytes shared with the path before.
    shared: u32,
    rest: Vec<u8>,
    signature: Signature,
    flags: u32,
    project: u32,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    content: Content,
}

#[derive(Serialize, Deserialize)]
enum Content {
    Inline(Vec<u8>),
    Extents(Vec<Extent>),
    Listed(ChunkId, u64),
}

#[derive(Serialize, Deserialize)]
enum Extent {
    Chunk(ChunkId, u32, u32),
    Hole(u64),
}

/// The last run's cache, read forward.
#[derive(Debug, Default)]
pub struct OldCache {
    file: Option<BufReader<File>>,
    started: Timestamp,
    block: Vec<u8>,
    at: usize,
    path: Vec<u8>,
    ahead: Option<(Signature, Known)>,
}

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
        let Some(block) = read_block(&mut file) else { return Ok(None) };
        let header = postcard::from_bytes::<Header>(&block).map_err(io::Error::other)?;
        let mut cache = Self { file: Some(file), started: header.started, ..Self::default() };
        if header.key != key {
            return Ok(None);
        }
        cache.advance();
        Ok(Some(cache))
    }

    /// What is known of the file at `path`; paths must come in walk order.
    pub fn find(&mut self, path: &[u8], stat: &Stat) -> Option<Known> {
        while self.ahead.is_some() && before(&self.path, path) {
            self.advance();
        }
        if self.ahead.is_none() || self.path != path {
            return None;
        }
        let (signature, known) = self.ahead.take()?;
        self.advance();
        let settled = self.started.0.saturating_sub(GRANULARITY_NS);
        let is_same = signature == Signature::from(stat) && stat.ctime_ns < settled;
        is_same.then_some(known)
    }

    /// Reads the next record; at the end, or where it is damaged, there are no more.
    fn advance(&mut self) {
        self.ahead = self.next_record();
        if self.ahead.is_none() {
            self.file = None;
            self.block = Vec::new();
        }
    }

    fn next_record(&mut self) -> Option<(Signature, Known)> {
        if self.at >= self.block.len() {
            self.block = read_block(self.file.as_mut()?)?;
            self.at = 0;
        }
        let rest = self.block.get(self.at..)?;
        let (record, left) = postcard::take_from_bytes::<Record>(rest).ok()?;
        self.at = self.block.len() - left.len();
        self.path.truncate(record.shared as usize);
        self.path.extend_from_slice(&record.rest);
        let xattrs = record.xattrs.into_iter().map(|(name, value)| Xattr { name, value });
        let known = Known {
            content: record.content.into(),
            flags: record.flags,
            project: record.project,
            xattrs: xattrs.collect(),
        };
        Some((record.signature, known))
    }
}

/// Whether `a` comes before `b` in walk order: by names, so '/' sorts before every byte.
fn before(a: &[u8], b: &[u8]) -> bool {
    let rank = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    a.iter().map(rank).lt(b.iter().map(rank))
}

fn read_block(file: &mut BufReader<File>) -> Option<Vec<u8>> {
    let mut head = [0; 4 + HASH_BYTES];
    file.read_exact(&mut head).ok()?;
    let length = u32::from_le_bytes(*head.first_chunk::<4>()?) as usize;
    if length > BLOCK_BYTES_MAX {
        return None;
    }
    let mut packed = vec![0; length];
    file.read_exact(&mut packed).ok()?;
    let hash = blake3::hash(&packed);
    if hash.as_bytes() != head.last_chunk::<HASH_BYTES>()? {
        return None;
    }
    zstd::bulk::decompress(&packed, BLOCK_BYTES_MAX).ok()
}

/// The cache of the run under way, beside the last one until [`NewCache::keep`].
#[derive(Debug)]
pub struct NewCache {
    path: PathBuf,
    part: PathBuf,
    file: BufWriter<File>,
    block: Vec<u8>,
    last: Vec<u8>,
    kept: bool,
}

impl NewCache {
    /// Begins a cache beside `path`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(path: &Path, key: CacheKey, started: Timestamp) -> io::Result<Self> {
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let mut file = BufWriter::new(File::create(&part)?);
        file.write_all(MAGIC)?;
        let mut cache = Self {
            path: path.to_owned(),
            part,
            file,
            block: Vec::new(),
            last: Vec::new(),
            kept: false,
        };
        let header = Header { key, started };
        cache.block = postcard::to_allocvec(&header).map_err(io::Error::other)?;
        cache.end_block()?;
        Ok(cache)
    }

    /// Adds a file; paths must come in walk order.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(&mut self, path: &[u8], signature: Signature, known: &Known) -> io::Result<()> {
        let shared = self.last.iter().zip(path).take_while(|(a, b)| a == b).count();
        let xattrs = known.xattrs.iter().map(|xattr| (xattr.name.clone(), xattr.value.clone()));
        let record = Record {
            shared: u32::try_from(shared).map_err(io::Error::other)?,
            rest: path.get(shared..).unwrap_or_default().to_vec(),
            signature,
            flags: known.flags,
            project: known.project,
            xattrs: xattrs.collect(),
            content: Content::from(&known.content),
        };
        let block = std::mem::take(&mut self.block);
        self.block = postcard::to_extend(&record, block).map_err(io::Error::other)?;
        self.last.truncate(shared);
        self.last.extend_from_slice(&record.rest);
        if self.block.len() >= BLOCK_BYTES {
            self.end_block()?;
        }
        Ok(())
    }

    /// Puts it in the place of the last one: only once the point is committed.
    ///
    /// # Errors
    /// The file cannot be written or renamed; the last one stays.
    pub fn keep(mut self) -> io::Result<()> {
        self.end_block()?;
        self.file.flush()?;
        self.file.get_ref().sync_data()?;
        std::fs::rename(&self.part, &self.path)?;
        self.kept = true;
        Ok(())
    }

    fn end_block(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let packed = zstd::bulk::compress(&self.block, LEVEL)?;
        let length = u32::try_from(packed.len()).map_err(io::Error::other)?;
        self.file.write_all(&length.to_le_bytes())?;
        self.file.write_all(blake3::hash(&packed).as_bytes())?;
        self.file.write_all(&packed)?;
        self.block.clear();
        Ok(())
    }
}

impl Drop for NewCache {
    fn drop(&mut self) {
        if !self.kept {
            // What was not committed must not be believed; a leftover is overwritten anyway.
            let _ = std::fs::remove_file(&self.part);
        }
    }
}

impl From<&FileContent> for Content {
    fn from(content: &FileContent) -> Self {
        match content {
            FileContent::Inline(bytes) => Self::Inline(bytes.clone()),
            FileContent::Listed { list, size } => Self::Listed(*list, *size),
            FileContent::Extents(extents) => {
                Self::Extents(extents.iter().copied().map(Extent::from).collect())
            }
        }
    }
}

impl From<Content> for FileContent {
    fn from(content: Content) -> Self {
        match content {
            Content::Inline(bytes) => Self::Inline(bytes),
            Content::Listed(list, size) => Self::Listed { list, size },
            Content::Extents(extents) => {
                Self::Extents(extents.into_iter().map(ChunkExtent::from).collect())
            }
        }
    }
}

impl From<ChunkExtent> for Extent {
    fn from(extent: ChunkExtent) -> Self {
        match extent {
            ChunkExtent::Chunk { id, offset, length } => Self::Chunk(id, offset, length),
            ChunkExtent::Hole { length } => Self::Hole(length),
        }
    }
}

impl From<Extent> for ChunkExtent {
    fn from(extent: Extent) -> Self {
        match extent {
            Extent::Chunk(id, offset, length) => Self::Chunk { id, offset, length },
            Extent::Hole(length) => Self::Hole { length },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walk_order_puts_a_directory_before_names_that_extend_its_own() {
        assert!(before(b"a/b", b"a.c"));
        assert!(before(b"a", b"a/b"));
        assert!(!before(b"b", b"a/z"));
    }
}
