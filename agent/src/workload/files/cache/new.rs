//! The cache of the run under way, beside the last one until [`NewCache::keep`]. Blocks of the
//! last one that are still whole are written again as they lie.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use strongroom_protocol::{ChunkId, Timestamp};
use strongroom_store::content::{Entry, Meta};

use super::record::{append_enter, append_entry, append_leave, encode_meta};
use super::{BLOCK_BYTES, CacheKey, Header, MAGIC, NO_PAGE, Piece, Signature};

const LEVEL: i32 = 1;

/// The cache of the run under way.
pub struct NewCache {
    path: PathBuf,
    part: PathBuf,
    file: BufWriter<File>,
    pack: zstd::bulk::Compressor<'static>,
    block: Vec<u8>,
    /// Records of the last run's cache not yet written, one after another.
    run: Option<Piece>,
    kept: bool,
}

impl std::fmt::Debug for NewCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewCache").field("path", &self.path).finish_non_exhaustive()
    }
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
            pack: zstd::bulk::Compressor::new(LEVEL)?,
            block: Vec::new(),
            run: None,
            kept: false,
        };
        let header = Header { key, started };
        cache.block = postcard::to_allocvec(&header).map_err(io::Error::other)?;
        cache.end_block()?;
        Ok(cache)
    }

    /// A directory begins; all comes in walk order.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn enter(&mut self, name: &[u8], meta: &Meta) -> io::Result<()> {
        self.end_run()?;
        append_enter(&mut self.block, name, &encode_meta(meta));
        self.end_full_block()
    }

    /// Adds an entry that is no directory.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(&mut self, signature: Signature, entry: &Entry) -> io::Result<()> {
        self.end_run()?;
        append_entry(&mut self.block, signature, entry).map_err(io::Error::other)?;
        self.end_full_block()
    }

    /// The directory last begun ends.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn leave(&mut self, page: ChunkId) -> io::Result<()> {
        self.end_run()?;
        append_leave(&mut self.block, page);
        self.end_full_block()
    }

    /// The same, of a directory whose page lacks what the next run is to say it lacks: it does
    /// not keep the page.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn leave_lacking(&mut self) -> io::Result<()> {
        self.leave(NO_PAGE)
    }

    /// Records as the last run's cache has them.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn again(&mut self, piece: &Piece) -> io::Result<()> {
        if self.run.as_mut().is_some_and(|run| run.extend(piece)) {
            return Ok(());
        }
        self.end_run()?;
        self.run = Some(piece.clone());
        Ok(())
    }

    /// Puts it in the place of the last one: only once the point is committed.
    ///
    /// # Errors
    /// The file cannot be written or renamed; the last one stays.
    pub fn keep(mut self) -> io::Result<()> {
        self.end_run()?;
        self.end_block()?;
        self.file.flush()?;
        self.file.get_ref().sync_data()?;
        std::fs::rename(&self.part, &self.path)?;
        self.kept = true;
        Ok(())
    }

    fn end_run(&mut self) -> io::Result<()> {
        let Some(run) = self.run.take() else { return Ok(()) };
        // Small blocks come of what changed between large ones: they are laid together.
        if run.is_whole() && run.bytes().len() >= BLOCK_BYTES / 2 {
            self.end_block()?;
            return self.write(&run.block.packed);
        }
        self.block.extend_from_slice(run.bytes());
        self.end_full_block()
    }

    fn end_full_block(&mut self) -> io::Result<()> {
        if self.block.len() < BLOCK_BYTES {
            return Ok(());
        }
        self.end_block()
    }

    fn end_block(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let packed = self.pack.compress(&self.block)?;
        self.block.clear();
        self.write(&packed)
    }

    fn write(&mut self, packed: &[u8]) -> io::Result<()> {
        let length = u32::try_from(packed.len()).map_err(io::Error::other)?;
        self.file.write_all(&length.to_le_bytes())?;
        self.file.write_all(blake3::hash(packed).as_bytes())?;
        self.file.write_all(packed)
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
