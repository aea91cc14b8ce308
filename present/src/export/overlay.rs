//! What a client wrote, over an image that stays as it is: a sparse file of the image's length,
//! and a map of the blocks in it that count. Promises that what was flushed is there again after
//! any end of the process; that two exports never write into one overlay.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError, RwLock};

use rustix::fs::{FallocateFlags, FlockOperation, SeekFrom, fallocate, flock, seek};
use rustix::io::Errno;
use strongroom_protocol::{PointId, Timestamp};

use super::bits::Bits;
use super::claims::{Claim, Claims};
use super::device::Stretch;
use super::map::{MapError, MapFile, MapHead, Run, sync_directory};

/// Runs that wait for the next flush; with more, what was written is flushed unasked.
const PENDING_MAX: usize = 64 << 10;

/// Why there is no overlay, or it does not take what is written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OverlayError {
    /// The system.
    #[error("overlay {} cannot be {doing}", .path.display())]
    File { path: PathBuf, doing: &'static str, source: io::Error },
    /// Another process has it.
    #[error("overlay {} is in use by another export", .path.display())]
    InUse { path: PathBuf },
    /// Its map.
    #[error("the map of overlay {} cannot be used", .path.display())]
    Map { path: PathBuf, source: MapError },
    /// A file without a map.
    #[error(
        "{} is there and is no overlay, for {} is missing; name another file", .path.display(),
        .map.display()
    )]
    NoMap { path: PathBuf, map: PathBuf },
    /// It lies over something else.
    #[error("overlay {} lies over {what}", .path.display())]
    OtherImage { path: PathBuf, what: String },
}

impl OverlayError {
    /// Whether there is no room for what was to be written.
    pub(super) fn is_full(&self) -> bool {
        let source = match self {
            Self::File { source, .. } => source,
            Self::Map { source: MapError::File { source, .. }, .. } => source,
            _ => return false,
        };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// What an overlay holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Written {
    /// Bytes of the image that are the overlay's own.
    pub own_bytes: u64,
    /// Bytes clients wrote since it was opened.
    pub written_bytes: u64,
}

/// What waits for a flush, and whether one is under way.
#[derive(Debug)]
struct Flushing {
    /// None while somebody flushes.
    map: Option<MapFile>,
    pending: Vec<Run>,
    /// Bytes did not reach the disk; another try might succeed without them.
    lost: bool,
}

/// An overlay of one image.
#[derive(Debug)]
pub struct Overlay {
    path: PathBuf,
    file: File,
    head: MapHead,
    bits: RwLock<Bits>,
    claims: Claims,
    flushing: Mutex<Flushing>,
    flushed: Condvar,
    written_bytes: AtomicU64,
}

impl Overlay {
    /// Where the map of an overlay lies: beside it.
    pub fn map_path(path: &Path) -> PathBuf {
        let mut name = path.as_os_str().to_owned();
        name.push(".map");
        PathBuf::from(name)
    }

    /// What the map of an overlay says it is; none if there is none.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn look(path: &Path) -> Result<Option<MapHead>, OverlayError> {
        let failed = |source| OverlayError::Map { path: path.to_owned(), source };
        Ok(MapFile::read(&Self::map_path(path)).map_err(failed)?.map(|(head, _)| head))
    }

    /// Opens the overlay at `path`, or makes it; `head` says over what it must lie, and how long
    /// it is to be there from now on.
    ///
    /// # Errors
    /// It lies over something else, is in use, or cannot be used.
    pub fn open(path: &Path, head: MapHead) -> Result<Self, OverlayError> {
        let map_path = Self::map_path(path);
        let failed = |source| OverlayError::Map { path: path.to_owned(), source };
        let file = Self::data(path, &head, map_path.exists())?;
        // Only now: whoever had it until then may have added to it.
        let known = MapFile::read(&map_path).map_err(failed)?;
        let mut bits = Bits::new(head.blocks());
        if let Some((found, runs)) = known {
            differs(&found, &head)
                .map_or(Ok(()), |what| Err(OverlayError::OtherImage { path: path.into(), what }))?;
            for run in runs {
                (run.first..run.first + u64::from(run.blocks)).for_each(|block| {
                    bits.set(block);
                });
            }
        }
        let map = MapFile::replace(&map_path, &head, &bits.runs(head.blocks())).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            head,
            bits: RwLock::new(bits),
            claims: Claims::default(),
            flushing: Mutex::new(Flushing { map: Some(map), pending: Vec::new(), lost: false }),
            flushed: Condvar::new(),
            written_bytes: AtomicU64::new(0),
        })
    }

    /// A head for an image of so many bytes.
    pub fn head(point: PointId, path_hash: [u8; 32], bytes: u64, until: Timestamp) -> MapHead {
        MapHead { point, path_hash, bytes, block_bytes: MapHead::block_bytes_for(bytes), until }
    }

    fn data(path: &Path, head: &MapHead, mapped: bool) -> Result<File, OverlayError> {
        let failed = |doing, source| OverlayError::File { path: path.to_owned(), doing, source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        if !mapped {
            options.create_new(true);
        }
        let file = options.open(path).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => {
                OverlayError::NoMap { path: path.to_owned(), map: Self::map_path(path) }
            }
            _ => failed("opened", source),
        })?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(OverlayError::InUse { path: path.to_owned() }),
            Err(error) => return Err(failed("locked", error.into())),
        }
        // Whoever had it may have removed it between opening and locking.
        let held = file.metadata().map_err(|error| failed("read", error))?;
        let same = |named: Metadata| (named.dev(), named.ino()) == (held.dev(), held.ino());
        if !std::fs::metadata(path).is_ok_and(same) {
            return Err(OverlayError::InUse { path: path.to_owned() });
        }
        if !mapped {
            let made = file.set_len(head.bytes).and_then(|()| file.sync_all());
            made.and_then(|()| sync_directory(path)).map_err(|error| failed("made", error))?;
        }
        Ok(file)
    }

    fn failed(&self, doing: &'static str) -> impl Fn(io::Error) -> OverlayError {
        let path = self.path.clone();
        move |source| OverlayError::File { path: path.clone(), doing, source }
    }

    /// Bytes of a block.
    pub(super) fn block_bytes(&self) -> u64 {
        u64::from(self.head.block_bytes)
    }

    /// Stretches of `range` by turns, each with whether it is the overlay's own.
    pub(super) fn stretches(&self, range: Range<u64>) -> Vec<(Range<u64>, bool)> {
        let block_bytes = self.block_bytes();
        let bits = self.bits.read().unwrap_or_else(PoisonError::into_inner);
        let (mut found, mut at) = (Vec::new(), range.start);
        while at < range.end {
            let (end, own) = bits.alike(at / block_bytes, range.end.div_ceil(block_bytes));
            let end = end.saturating_mul(block_bytes).min(range.end);
            found.push((at..end, own));
            at = end;
        }
        found
    }

    /// Reads what is the overlay's own.
    pub(super) fn read(&self, range: Range<u64>) -> Result<Vec<u8>, OverlayError> {
        let length = usize::try_from(range.end - range.start).unwrap_or(0);
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, range.start).map_err(self.failed("read"))?;
        Ok(bytes)
    }

    /// Which parts of what is the overlay's own hold data.
    pub(super) fn status(&self, range: Range<u64>) -> Vec<Stretch> {
        let (mut found, mut at) = (Vec::new(), range.start);
        while at < range.end {
            // Where the file system does not tell, all is data.
            let data = match seek(&self.file, SeekFrom::Data(at)) {
                Ok(data) => data.min(range.end),
                Err(Errno::NXIO) => range.end,
                Err(_) => at,
            };
            if data > at {
                found.push(Stretch { bytes: data - at, is_hole: true });
            } else {
                let hole = seek(&self.file, SeekFrom::Hole(at)).unwrap_or(range.end);
                let end = hole.clamp(at + 1, range.end);
                found.push(Stretch { bytes: end - at, is_hole: false });
                at = end;
                continue;
            }
            at = data;
        }
        found
    }

    /// Keeps others from writing where `range` lies.
    pub(super) fn claim(&self, range: &Range<u64>) -> Claim<'_> {
        let block_bytes = self.block_bytes();
        self.claims.hold(range.start / block_bytes..range.end.div_ceil(block_bytes))
    }

    /// Writes bytes whose blocks are claimed.
    pub(super) fn put(&self, at: u64, bytes: &[u8]) -> Result<(), OverlayError> {
        self.file.write_all_at(bytes, at).map_err(self.failed("written"))
    }

    /// Makes zeroes of bytes whose blocks are claimed.
    pub(super) fn punch(&self, range: Range<u64>) -> Result<(), OverlayError> {
        let length = range.end - range.start;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.file, flags, range.start, length) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP) => {
                let zeroes = vec![0; 1 << 20];
                let mut at = range.start;
                while at < range.end {
                    let step = (range.end - at).min(zeroes.len() as u64);
                    let step = usize::try_from(step).unwrap_or(0);
                    self.put(at, zeroes.get(..step).unwrap_or_default())?;
                    at += step as u64;
                }
                Ok(())
            }
            Err(error) => Err(self.failed("written")(error.into())),
        }
    }

    /// From now on the blocks of `range` are the overlay's own: every byte of them was put.
    pub(super) fn own(&self, range: &Range<u64>) -> Result<(), OverlayError> {
        let block_bytes = self.block_bytes();
        let blocks = range.start / block_bytes..range.end.div_ceil(block_bytes);
        let mut new: Vec<Run> = Vec::new();
        {
            let mut bits = self.bits.write().unwrap_or_else(PoisonError::into_inner);
            for block in blocks {
                if !bits.set(block) {
                    continue;
                }
                match new.last_mut() {
                    Some(run) if run.first + u64::from(run.blocks) == block => run.blocks += 1,
                    _ => new.push(Run { first: block, blocks: 1 }),
                }
            }
        }
        let full = {
            let mut flushing = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
            flushing.pending.extend(new);
            flushing.pending.len() > PENDING_MAX
        };
        if full { self.flush() } else { Ok(()) }
    }

    /// Counts what a client wrote.
    pub(super) fn count(&self, bytes: u64) {
        self.written_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Makes everything written so far durable: the bytes, and then that they count.
    ///
    /// # Errors
    /// The disk does not take it. Of the map it may be tried again; where it was the bytes, every
    /// further try fails until the overlay is opened anew.
    pub fn flush(&self) -> Result<(), OverlayError> {
        let mut flushing = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut map = loop {
            if flushing.lost {
                let source = io::Error::other("bytes were lost on their way to the disk before");
                return Err(self.failed("made durable")(source));
            }
            match flushing.map.take() {
                Some(map) => break map,
                None => {
                    flushing = self.flushed.wait(flushing).unwrap_or_else(PoisonError::into_inner);
                }
            }
        };
        let runs = std::mem::take(&mut flushing.pending);
        drop(flushing);
        let synced = self.file.sync_data().map_err(self.failed("made durable"));
        let lost = synced.is_err();
        let appended = synced.and_then(|()| match runs.is_empty() {
            true => Ok(()),
            false => map
                .append(&runs)
                .map_err(|source| OverlayError::Map { path: self.path.clone(), source }),
        });
        let mut flushing = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        if appended.is_err() {
            flushing.pending.extend(runs);
        }
        flushing.map = Some(map);
        flushing.lost = lost;
        self.flushed.notify_all();
        appended
    }

    /// What it holds.
    pub fn written(&self) -> Written {
        let blocks = self.bits.read().unwrap_or_else(PoisonError::into_inner).count();
        Written {
            own_bytes: blocks.saturating_mul(self.block_bytes()).min(self.head.bytes),
            written_bytes: self.written_bytes.load(Ordering::Relaxed),
        }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes an overlay from the disk; who does so has it open, so that nobody else has.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(path: &Path) -> Result<(), OverlayError> {
        let failed =
            |source| OverlayError::File { path: path.to_owned(), doing: "removed", source };
        for path in [Self::map_path(path), path.to_owned()] {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Over what else an overlay lies, in words that follow "lies over".
fn differs(found: &MapHead, wanted: &MapHead) -> Option<String> {
    if found.point != wanted.point {
        return Some(format!("point {}, not {}", found.point.short(), wanted.point.short()));
    }
    if found.path_hash != wanted.path_hash {
        return Some("another disk of the point".to_owned());
    }
    let sizes = (found.bytes, found.block_bytes) != (wanted.bytes, wanted.block_bytes);
    sizes.then(|| format!("an image of {} bytes, not {}", found.bytes, wanted.bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_bytes_were_lost_no_flush_succeeds_until_it_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("overlay");
        let head = Overlay::head(PointId::from_bytes([1; 16]), [2; 32], 8192, Timestamp(0));
        let mut overlay = Overlay::open(&path, head.clone()).unwrap();
        overlay.own(&(0..4096)).unwrap();
        // What is no file cannot be synced.
        let file = std::mem::replace(&mut overlay.file, File::open("/dev/null").unwrap());
        overlay.flush().unwrap_err();
        overlay.file = file;
        overlay.flush().unwrap_err();
        drop(overlay);
        assert_eq!(Overlay::open(&path, head).unwrap().written().own_bytes, 0);
    }
}
