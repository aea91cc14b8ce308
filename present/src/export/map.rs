//! Which blocks of an overlay are its own, at rest: a head that says what it lies over, and
//! behind it runs of blocks, appended. Promises that what was cut off in the middle of being
//! appended is left out and nothing else; refuses a map of anything else. `docs/overlay.md`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use strongroom_protocol::{PointId, Timestamp};

const MAGIC: &[u8; 8] = b"SROVER01";
/// Bytes of the head.
pub(super) const HEAD_BYTES: usize = 96;
/// Bytes of a run.
pub(super) const RUN_BYTES: usize = 16;
/// Smallest block, in bytes: what guests write at once.
const BLOCK_BYTES_MIN: u32 = 4 << 10;
/// Most blocks of an overlay: 32 MiB of bits in memory.
pub(super) const BLOCKS_MAX: u64 = 1 << 28;
/// Longest block, in bytes: so many of them are more than any file holds.
const BLOCK_BYTES_MAX: u32 = 1 << 31;

/// Why a map cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// A head that is not as it was written.
    #[error("{} is damaged: its head is not as it was written", .path.display())]
    Damaged { path: PathBuf },
    /// The system.
    #[error("{} cannot be {doing}", .path.display())]
    File { path: PathBuf, doing: &'static str, source: io::Error },
    /// No map.
    #[error("{} is no map of an overlay", .path.display())]
    NotOne { path: PathBuf },
}

/// What an overlay lies over, and until when it is to be there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapHead {
    pub point: PointId,
    /// BLAKE3 of the path of the image in the point.
    pub path_hash: [u8; 32],
    /// Of the image.
    pub bytes: u64,
    pub block_bytes: u32,
    /// When its lease ends.
    pub until: Timestamp,
}

impl MapHead {
    /// Bytes of a block for an image of so many bytes.
    pub(super) fn block_bytes_for(bytes: u64) -> u32 {
        let mut block_bytes = BLOCK_BYTES_MIN;
        while bytes.div_ceil(u64::from(block_bytes)) > BLOCKS_MAX && block_bytes < BLOCK_BYTES_MAX {
            block_bytes *= 2;
        }
        block_bytes
    }

    /// Blocks of the image; the last may be shorter.
    pub fn blocks(&self) -> u64 {
        self.bytes.div_ceil(u64::from(self.block_bytes))
    }

    fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        let fields = [
            &MAGIC[..],
            self.point.as_bytes(),
            &self.path_hash,
            &self.bytes.to_le_bytes(),
            &self.until.0.to_le_bytes(),
            &self.block_bytes.to_le_bytes(),
        ];
        let fields = fields.concat();
        for (place, byte) in head.iter_mut().zip(&fields) {
            *place = *byte;
        }
        let sum = checksum(&head);
        if let Some(place) = head.last_chunk_mut() {
            *place = sum.to_le_bytes();
        }
        head
    }

    /// The head of a map; none where the bytes are not one.
    fn decode(head: &[u8; HEAD_BYTES]) -> Option<Self> {
        if head.last_chunk() != Some(&checksum(head).to_le_bytes()) {
            return None;
        }
        let mut rest = head.strip_prefix(&MAGIC[..])?;
        let found = Self {
            point: PointId::from_bytes(take(&mut rest)?),
            path_hash: take(&mut rest)?,
            bytes: u64::from_le_bytes(take(&mut rest)?),
            until: Timestamp(i64::from_le_bytes(take(&mut rest)?)),
            block_bytes: u32::from_le_bytes(take(&mut rest)?),
        };
        let sound = found.block_bytes.is_power_of_two()
            && found.block_bytes >= BLOCK_BYTES_MIN
            && found.blocks() <= BLOCKS_MAX;
        sound.then_some(found)
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

/// Of everything in a head before its checksum.
fn checksum(head: &[u8; HEAD_BYTES]) -> u32 {
    crc32c::crc32c(head.get(..HEAD_BYTES - 4).unwrap_or_default())
}

/// Blocks that are the overlay's own, one after another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    pub first: u64,
    pub blocks: u32,
}

impl Run {
    /// Bound to its map by the map's own checksum: a run of another one is none here.
    fn encode(self, of: u32) -> [u8; RUN_BYTES] {
        let mut run = [0; RUN_BYTES];
        let fields = [&self.first.to_le_bytes()[..], &self.blocks.to_le_bytes()].concat();
        let sum = crc32c::crc32c_append(of, &fields).to_le_bytes();
        for (place, byte) in run.iter_mut().zip(fields.iter().chain(&sum)) {
            *place = *byte;
        }
        run
    }

    fn decode(bytes: &[u8; RUN_BYTES], of: u32, blocks: u64) -> Option<Self> {
        let mut rest = &bytes[..];
        let run = Self {
            first: u64::from_le_bytes(take(&mut rest)?),
            blocks: u32::from_le_bytes(take(&mut rest)?),
        };
        let end = run.first.checked_add(u64::from(run.blocks))?;
        (run.encode(of) == *bytes && run.blocks > 0 && end <= blocks).then_some(run)
    }
}

/// The head of a map and every whole run in it, from bytes of anywhere; none where they do not
/// begin with a head.
pub fn read_map(bytes: &[u8]) -> Option<(MapHead, Vec<Run>)> {
    let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>()?;
    let (of, head) = (checksum(head), MapHead::decode(head)?);
    let runs = rest.as_chunks::<RUN_BYTES>().0.iter();
    let runs = runs.map_while(|run| Run::decode(run, of, head.blocks())).collect();
    Some((head, runs))
}

/// A map that is being appended to.
#[derive(Debug)]
pub(super) struct MapFile {
    file: File,
    path: PathBuf,
    of: u32,
    end: u64,
}

impl MapFile {
    /// Reads the map at `path`; none if there is none.
    pub(super) fn read(path: &Path) -> Result<Option<(MapHead, Vec<Run>)>, MapError> {
        let failed = |source| MapError::File { path: path.to_owned(), doing: "read", source };
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        // Of an image of the largest size: a run for each of its blocks.
        let most = HEAD_BYTES as u64 + BLOCKS_MAX * RUN_BYTES as u64;
        if file.metadata().map_err(failed)?.len() > most {
            return Err(MapError::NotOne { path: path.to_owned() });
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        if !bytes.starts_with(MAGIC) {
            return Err(MapError::NotOne { path: path.to_owned() });
        }
        let found = read_map(&bytes);
        found.map(Some).ok_or_else(|| MapError::Damaged { path: path.to_owned() })
    }

    /// Writes a map anew, with as few runs as there can be, and puts it in place durably.
    pub(super) fn replace(path: &Path, head: &MapHead, runs: &[Run]) -> Result<Self, MapError> {
        let failed = |source| MapError::File { path: path.to_owned(), doing: "written", source };
        let beside = path.with_extension("map.new");
        let head = head.encode();
        let of = checksum(&head);
        let mut bytes = head.to_vec();
        runs.iter().for_each(|run| bytes.extend(run.encode(of)));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&beside).map_err(failed)?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(failed)?;
        std::fs::rename(&beside, path).map_err(failed)?;
        sync_directory(path).map_err(failed)?;
        Ok(Self { file, path: path.to_owned(), of, end: bytes.len() as u64 })
    }

    /// Appends runs durably. After a failure it may be done again.
    pub(super) fn append(&mut self, runs: &[Run]) -> Result<(), MapError> {
        let failed = |source| {
            let path = self.path.clone();
            MapError::File { path, doing: "written", source }
        };
        let mut bytes = Vec::with_capacity(runs.len() * RUN_BYTES);
        runs.iter().for_each(|run| bytes.extend(run.encode(self.of)));
        // At its place, so that what a failure left there is written over.
        self.file.write_all_at(&bytes, self.end).map_err(failed)?;
        self.file.sync_data().map_err(failed)?;
        self.end += bytes.len() as u64;
        Ok(())
    }
}

/// Makes a new name durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> MapHead {
        MapHead {
            point: PointId::from_bytes([7; 16]),
            path_hash: [9; 32],
            bytes: 1_000_000,
            block_bytes: 4096,
            until: Timestamp::from_unix_seconds(1_800_000_000),
        }
    }

    #[test]
    fn runs_come_back_up_to_where_they_were_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("overlay.map");
        assert!(MapFile::read(&path).unwrap().is_none());
        let first = Run { first: 3, blocks: 2 };
        let mut file = MapFile::replace(&path, &head(), &[first]).unwrap();
        let more = [Run { first: 0, blocks: 1 }, Run { first: 200, blocks: 45 }];
        file.append(&more).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let (read, runs) = read_map(&whole).unwrap();
        assert_eq!((read, runs), (head(), vec![first, more[0], more[1]]));
        for cut in 0..whole.len() {
            let runs = read_map(&whole[..cut]).map(|(_, runs)| runs.len());
            let wanted = cut.checked_sub(HEAD_BYTES).map(|rest| rest / RUN_BYTES);
            assert_eq!(runs, wanted, "cut at {cut}");
        }
    }

    #[test]
    fn damage_is_seen_and_a_map_of_another_lends_no_runs() {
        let (ours, theirs) = (head(), MapHead { path_hash: [1; 32], ..head() });
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("overlay.map");
        MapFile::replace(&path, &ours, &[Run { first: 0, blocks: 1 }]).unwrap();
        let ours = std::fs::read(&path).unwrap();
        MapFile::replace(&path, &theirs, &[]).unwrap();
        let mixed = [&std::fs::read(&path).unwrap()[..], &ours[HEAD_BYTES..]].concat();
        assert!(read_map(&mixed).unwrap().1.is_empty());
        for bit in 0..HEAD_BYTES * 8 {
            let mut hurt = ours.clone();
            hurt[bit / 8] ^= 1 << (bit % 8);
            assert!(read_map(&hurt).is_none(), "bit {bit} of the head");
        }
        // A run beyond the end of the image, with a right checksum.
        MapFile::replace(&path, &head(), &[Run { first: 245, blocks: 1 }]).unwrap();
        assert!(read_map(&std::fs::read(&path).unwrap()).unwrap().1.is_empty());
        std::fs::write(&path, b"something else").unwrap();
        assert!(matches!(MapFile::read(&path), Err(MapError::NotOne { .. })));
        std::fs::write(&path, &ours[..50]).unwrap();
        assert!(matches!(MapFile::read(&path), Err(MapError::Damaged { .. })));
    }

    #[test]
    fn blocks_grow_with_the_image_so_that_bits_stay_few() {
        assert_eq!(MapHead::block_bytes_for(1 << 30), 4096);
        assert_eq!(MapHead::block_bytes_for(1 << 40), 4096);
        assert_eq!(MapHead::block_bytes_for((1 << 40) + 1), 8192);
        let large = BLOCKS_MAX * u64::from(BLOCK_BYTES_MAX);
        let head = MapHead { bytes: large, block_bytes: MapHead::block_bytes_for(large), ..head() };
        assert!(head.blocks() <= BLOCKS_MAX && MapHead::decode(&head.encode()) == Some(head));
    }
}
