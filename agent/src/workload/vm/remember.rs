//! What the last committed point of a disk is made of, block by block, so that an unchanged
//! block is named without being read. May be lost or damaged at any time: then the disk is read
//! whole, never anything wrong.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use strongroom_protocol::{ChunkId, PointId, RepoId, WorkloadId};

const MAGIC: &[u8; 8] = b"SRVMBL01";
const HEADER_BYTES_MAX: u32 = 64 << 10;
const CHUNK: u8 = 1;
const HOLES: u8 = 2;
const END: u8 = 3;
const HASH_BYTES: usize = 32;

/// Which disk of which point is remembered: all must be equal to build on it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(in crate::workload) struct Mark {
    pub(in crate::workload) repo: RepoId,
    pub(in crate::workload) workload: WorkloadId,
    pub(in crate::workload) point: PointId,
    /// The machine, the device and its image.
    pub(in crate::workload) identity: String,
    pub(in crate::workload) bytes: u64,
    pub(in crate::workload) block_bytes: u32,
}

/// A block of the last point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::workload) enum Known {
    Chunk(ChunkId),
    Hole,
}

/// The blocks of the last point, read forward.
#[derive(Debug)]
pub(in crate::workload) struct Remembered {
    file: BufReader<File>,
    holes: u32,
}

impl Remembered {
    /// Opens what is remembered of the disk `mark` describes.
    ///
    /// # Errors
    /// Why it cannot be built on, in words that follow the disk's name.
    pub(in crate::workload) fn open(path: &Path, mark: &Mark) -> Result<Self, String> {
        let lost = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => "nothing is remembered of its last point".to_owned(),
            _ => format!("what is remembered of its last point cannot be used ({error})"),
        };
        let file = File::open(path).map_err(lost)?;
        let (found, mut file) = checked(file).map_err(lost)?;
        let differs = if found.bytes != mark.bytes {
            format!("it was resized from {} to {} bytes", found.bytes, mark.bytes)
        } else if found.identity != mark.identity {
            format!("it is another disk: {} before, {} now", found.identity, mark.identity)
        } else if found != *mark {
            "what is remembered is of another point than the last".to_owned()
        } else {
            file.seek(SeekFrom::Start(body_at(&found).map_err(lost)?)).map_err(lost)?;
            return Ok(Self { file, holes: 0 });
        };
        Err(differs)
    }

    /// The next block.
    pub(in crate::workload) fn next(&mut self) -> io::Result<Known> {
        if self.holes > 0 {
            self.holes -= 1;
            return Ok(Known::Hole);
        }
        let mut kind = [0];
        self.file.read_exact(&mut kind)?;
        match kind {
            [CHUNK] => {
                let mut id = [0; HASH_BYTES];
                self.file.read_exact(&mut id)?;
                Ok(Known::Chunk(ChunkId(id)))
            }
            [HOLES] => {
                let count = take_u32(&mut self.file)?;
                self.holes = count.checked_sub(1).ok_or(io::ErrorKind::InvalidData)?;
                Ok(Known::Hole)
            }
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Reads a file through, against the hash at its end.
fn checked(file: File) -> io::Result<(Mark, BufReader<File>)> {
    let odd = || io::Error::from(io::ErrorKind::InvalidData);
    let length = file.metadata()?.len();
    let hashed = length.checked_sub(HASH_BYTES as u64).ok_or_else(odd)?;
    let mut file = BufReader::with_capacity(256 << 10, file);
    let mut hasher = blake3::Hasher::new();
    io::copy(&mut (&mut file).take(hashed), &mut hasher)?;
    let mut hash = [0; HASH_BYTES];
    file.read_exact(&mut hash)?;
    if hasher.finalize() != hash {
        return Err(odd());
    }
    file.seek(SeekFrom::Start(0))?;
    let mut magic = [0; MAGIC.len()];
    file.read_exact(&mut magic)?;
    let header = take_u32(&mut file)?;
    if magic != *MAGIC || header > HEADER_BYTES_MAX {
        return Err(odd());
    }
    let mut bytes = vec![0; header as usize];
    file.read_exact(&mut bytes)?;
    Ok((postcard::from_bytes(&bytes).map_err(io::Error::other)?, file))
}

fn body_at(mark: &Mark) -> io::Result<u64> {
    let header = postcard::to_allocvec(mark).map_err(io::Error::other)?;
    Ok((MAGIC.len() + 4 + header.len()) as u64)
}

fn take_u32(file: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    file.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

/// What is to be remembered of the point under way.
#[derive(Debug)]
pub(in crate::workload) struct Remembering {
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    holes: u32,
    unfinished: PathBuf,
    path: PathBuf,
}

impl Remembering {
    pub(in crate::workload) fn create(path: &Path, mark: &Mark) -> io::Result<Self> {
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".unfinished");
        let unfinished = PathBuf::from(unfinished);
        let file = BufWriter::with_capacity(256 << 10, File::create(&unfinished)?);
        let path = path.to_owned();
        let hasher = blake3::Hasher::new();
        let mut this = Self { file, hasher, holes: 0, unfinished, path };
        let header = postcard::to_allocvec(mark).map_err(io::Error::other)?;
        this.put(MAGIC)?;
        this.put(&u32::try_from(header.len()).map_err(io::Error::other)?.to_le_bytes())?;
        this.put(&header)?;
        Ok(this)
    }

    pub(in crate::workload) fn push(&mut self, block: Known) -> io::Result<()> {
        match block {
            Known::Hole if self.holes < u32::MAX => self.holes += 1,
            Known::Hole => {
                self.flush_holes()?;
                self.holes = 1;
            }
            Known::Chunk(id) => {
                self.flush_holes()?;
                self.put(&[CHUNK])?;
                self.put(&id.0)?;
            }
        }
        Ok(())
    }

    fn flush_holes(&mut self) -> io::Result<()> {
        if self.holes > 0 {
            self.put(&[HOLES])?;
            self.put(&self.holes.to_le_bytes())?;
            self.holes = 0;
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes)
    }

    /// Ends it; it is believed only once it is kept.
    pub(in crate::workload) fn finish(mut self) -> io::Result<Unkept> {
        self.flush_holes()?;
        self.put(&[END])?;
        let hash = self.hasher.finalize();
        self.file.write_all(hash.as_bytes())?;
        self.file.flush()?;
        self.file.get_ref().sync_data()?;
        Ok(Unkept { unfinished: self.unfinished, path: self.path })
    }
}

/// A memory whose point is not committed yet. Dropping it forgets it.
#[derive(Debug)]
pub(in crate::workload) struct Unkept {
    unfinished: PathBuf,
    path: PathBuf,
}

impl Unkept {
    /// The point is committed: what cannot be kept is read whole the next time.
    pub(in crate::workload) fn keep_all(unkept: &mut Vec<Self>) {
        for memory in unkept.drain(..) {
            if let Err(error) = memory.keep() {
                tracing::warn!(%error, "what was read is not remembered: the next is whole");
            }
        }
    }

    /// The point is committed.
    pub(in crate::workload) fn keep(self) -> io::Result<()> {
        std::fs::rename(&self.unfinished, &self.path)
    }
}

impl Drop for Unkept {
    fn drop(&mut self) {
        // Gone already where it was kept.
        let _ = std::fs::remove_file(&self.unfinished);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark() -> Mark {
        Mark {
            repo: RepoId::fresh(1),
            workload: WorkloadId::fresh(1),
            point: PointId::fresh(1),
            identity: "m vd0 /a.qcow2".to_owned(),
            bytes: 5 << 16,
            block_bytes: 1 << 16,
        }
    }

    fn written(path: &Path, mark: &Mark, blocks: &[Known]) -> Unkept {
        let mut remembering = Remembering::create(path, mark).unwrap();
        blocks.iter().for_each(|block| remembering.push(*block).unwrap());
        remembering.finish().unwrap()
    }

    #[test]
    fn what_is_kept_comes_back_and_what_is_not_kept_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let (path, mark) = (dir.path().join("w.vm-vd0"), mark());
        let blocks = [1, 2].map(|n| Known::Chunk(ChunkId([n; 32])));
        let blocks = [Known::Hole, blocks[0], Known::Hole, Known::Hole, blocks[1]];
        drop(written(&path, &mark, &blocks));
        assert!(Remembered::open(&path, &mark).unwrap_err().contains("nothing is remembered"));
        written(&path, &mark, &blocks).keep().unwrap();
        let mut known = Remembered::open(&path, &mark).unwrap();
        assert_eq!(blocks.map(|_| known.next().unwrap()), blocks);
        assert!(known.next().is_err());
    }

    #[test]
    fn another_disk_point_or_size_and_damage_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let (path, mark) = (dir.path().join("w.vm-vd0"), mark());
        written(&path, &mark, &[Known::Hole; 5]).keep().unwrap();
        let refused = |mark: Mark| Remembered::open(&path, &mark).unwrap_err();
        assert!(refused(Mark { bytes: 6 << 16, ..mark.clone() }).contains("resized from 327680"));
        assert!(refused(Mark { identity: "n".to_owned(), ..mark }).contains("another disk"));
        let other = Mark { point: PointId::fresh(2), ..mark.clone() };
        assert!(refused(other).contains("another point"));
        let mut bytes = std::fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            assert!(Remembered::open(&path, &mark).is_err(), "byte {at}");
            bytes[at] ^= 1;
        }
    }
}
