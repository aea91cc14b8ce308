//! Reads one file: small ones whole, long and sparse ones cut into chunks on the way, holes
//! kept as holes. Compares before and after: what changed meanwhile is read again, and at
//! last stored with the fact said. Leaves the page cache as it was.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::SeekFrom;
use rustix::io::{Errno, ReadWriteFlags};
use strongroom_protocol::BlobKind;
use strongroom_store::content::{ChunkExtent, FileContent, INLINE_BYTES_MAX};
use strongroom_store::cut::{CutParams, CutParamsError, Cutter, Supply};
use strongroom_store::list::{ListBuilder, ListError};
use strongroom_store::tree::SinkError;

use crate::workload::files::gap::GapReason;
use crate::workload::files::layout::Layout;
use crate::workload::files::metadata::{
    FileKind, Own, Stat, flags_of, open_file, stat_of, xattrs_of,
};
use crate::workload::files::project::project_of;
use crate::workload::files::witness::{Watching, Witness};
use crate::workload::{ChunkSink, Through};

/// Files up to this many bytes share bundles.
pub const BUNDLED_BYTES_MAX: u64 = 256 << 10;
/// How often a file that changed while it was read is read again.
pub const RETRIES_MAX: u32 = 2;
/// Files longer than this are not read again: they would change again.
pub const RETRY_BYTES_MAX: u64 = 256 << 20;
/// What one read asks for, beside the window the cutter needs.
const READ_BYTES: usize = 1 << 20;
/// `RWF_DONTCACHE` (since Linux 6.14): pages read for us alone do not stay.
const DONTCACHE: u32 = 0x80;

/// A file to read.
#[derive(Debug)]
pub struct FileToRead {
    pub dir: Arc<OwnedFd>,
    pub name: Vec<u8>,
}

/// Where the bytes of a file went.
#[derive(Debug)]
pub enum Body {
    /// Named and queued.
    Laid(FileContent),
    /// Here, to be put into a bundle.
    Small { bytes: Vec<u8>, hash: blake3::Hash },
}

/// A file as it was read.
#[derive(Debug)]
pub struct FileRead {
    /// As it was before the bytes were read.
    pub stat: Stat,
    pub own: Own,
    pub body: Body,
    /// Bytes of content.
    pub size: u64,
    /// Bytes asked of the disk, retries too.
    pub read_bytes: u64,
    pub steadiness: Steadiness,
    /// What a witness found wrong with it.
    pub found: Option<String>,
}

/// Whether a file held still.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Steadiness {
    Changed,
    Steady,
}

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The file: the run goes on without it.
    #[error("the file cannot be read: {}", .0.describe())]
    Gap(GapReason),
    /// The sink: the run ends.
    #[error("a chunk was not taken")]
    Sink(#[from] SinkError),
    /// The list of a long file could not be made: the run ends.
    #[error("the list of a long file cannot be made")]
    List(#[from] ListError),
    /// Somebody asked to stop.
    #[error("the run was stopped")]
    Stopped,
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Gap(GapReason::from(&error))
    }
}

impl From<Errno> for ReadError {
    fn from(errno: Errno) -> Self {
        io::Error::from(errno).into()
    }
}

/// What files are cut by, each by its length.
#[derive(Clone, Copy, Debug)]
pub struct Cutters {
    files: Cutter,
    blocks: Cutter,
}

impl Cutters {
    /// Cutters by one vault's key.
    ///
    /// # Errors
    /// Sizes nobody can cut to.
    pub fn new(params: CutParams, key: (u32, u32)) -> Result<Self, CutParamsError> {
        let files = Cutter::new(params, key)?;
        let blocks = Cutter::new(params.of_blocks(), key)?;
        Ok(Self { files, blocks })
    }

    /// The cutter of a file so long.
    pub(crate) const fn of(&self, bytes: u64) -> Cutter {
        if CutParams::is_blocks(bytes) { self.blocks } else { self.files }
    }
}

/// What looks at the file being read, if anything does.
type Watched = Option<Box<dyn Watching>>;

/// One thread's reader: its buffer and what it gives chunks to.
pub struct Reader<'run> {
    sink: &'run dyn ChunkSink,
    cutters: Cutters,
    stops: [&'run AtomicBool; 2],
    buffer: Vec<u8>,
    dontcache: ReadWriteFlags,
    witness: Option<&'run dyn Witness>,
}

impl<'run> Reader<'run> {
    /// A reader that stops early once one of `stops` is set.
    pub fn new(sink: &'run dyn ChunkSink, cutters: Cutters, stops: [&'run AtomicBool; 2]) -> Self {
        let dontcache = ReadWriteFlags::from_bits_retain(DONTCACHE);
        Self { sink, cutters, stops, buffer: Vec::new(), dontcache, witness: None }
    }

    /// The same, where somebody knows the files.
    #[must_use]
    pub fn watched_by(self, witness: Option<&'run dyn Witness>) -> Self {
        Self { witness, ..self }
    }

    /// Whether what changes while it is read is mended by whoever wrote it.
    pub const fn is_mended(&self) -> bool {
        self.witness.is_some()
    }

    /// Reads one file.
    ///
    /// # Errors
    /// [`ReadError::Gap`] costs this file, the others the run.
    pub fn read(&mut self, wanted: &FileToRead) -> Result<FileRead, ReadError> {
        let file = open_file(wanted.dir.as_fd(), &wanted.name)?;
        let file = file.as_fd();
        let mut read_bytes = 0;
        let mut attempt = 0;
        loop {
            let stat = stat_of(file)?;
            if stat.kind != FileKind::File {
                return Err(ReadError::Gap(GapReason::Vanished));
            }
            let mut watching = self.witness.and_then(|witness| witness.file(&wanted.name));
            let (body, size) = self.body(file, &stat, &mut watching)?;
            read_bytes += size;
            let (xattrs, flags, project) = (xattrs_of(file)?, flags_of(file), project_of(file));
            let own = Own { xattrs, flags, project };
            let held = stat.same_content_as(&stat_of(file)?) && size == stat.size;
            let steadiness = if held { Steadiness::Steady } else { Steadiness::Changed };
            attempt += 1;
            let enough = attempt > RETRIES_MAX || stat.size > RETRY_BYTES_MAX || self.is_mended();
            if held || enough {
                let found = watching.and_then(|watching| watching.found());
                return Ok(FileRead { stat, own, body, size, read_bytes, steadiness, found });
            }
        }
    }

    fn body(
        &mut self,
        file: BorrowedFd<'_>,
        stat: &Stat,
        watching: &mut Watched,
    ) -> Result<(Body, u64), ReadError> {
        if stat.is_sparse() || stat.size > BUNDLED_BYTES_MAX {
            return self.long(file, stat, watching);
        }
        let wanted = usize::try_from(stat.size).unwrap_or(usize::MAX);
        let mut bytes = vec![0; wanted];
        let length = self.fill(file, &mut bytes, 0)?;
        bytes.truncate(length);
        if let Some(watching) = watching {
            watching.see(0, &bytes, file);
        }
        let size = length as u64;
        if length <= INLINE_BYTES_MAX {
            return Ok((Body::Laid(FileContent::Inline(bytes)), size));
        }
        let hash = blake3::hash(&bytes);
        Ok((Body::Small { bytes, hash }, size))
    }

    /// Chunks the data between the holes as one stream, so that neither many small holes nor
    /// one large one make small chunks.
    fn long(
        &mut self,
        file: BorrowedFd<'_>,
        stat: &Stat,
        watching: &mut Watched,
    ) -> Result<(Body, u64), ReadError> {
        let mut layout = Layout::default();
        let mut extents = ListBuilder::new();
        let cutter = self.cutters.of(stat.size);
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(cutter.window_bytes() + READ_BYTES, 0);
        let mut held = 0;
        let mut at = 0;
        while at < stat.size {
            let (data, end) =
                if stat.is_sparse() { next_data(file, at, stat.size)? } else { (at, stat.size) };
            layout.hole(data - at);
            at = data;
            while at < end {
                if self.stops.iter().any(|stop| stop.load(Ordering::Relaxed)) {
                    return Err(ReadError::Stopped);
                }
                let room = buffer.len() - held;
                let wanted = room.min(usize::try_from(end - at).unwrap_or(usize::MAX));
                let free = buffer.get_mut(held..held + wanted).unwrap_or_default();
                let got = self.fill(file, free, at)?;
                if let Some(watching) = watching {
                    watching.see(at, free.get(..got).unwrap_or_default(), file);
                }
                layout.data(got as u64);
                held += got;
                at += got as u64;
                let used = self.emit(
                    &cutter,
                    (buffer.get(..held).unwrap_or_default(), Supply::Continues),
                    &mut layout,
                    &mut extents,
                )?;
                buffer.copy_within(used..held, 0);
                held -= used;
                if got < wanted {
                    // It became shorter: what there was is the content, and it has changed.
                    return self.ended(&cutter, (buffer, held), layout, extents);
                }
            }
        }
        self.ended(&cutter, (buffer, held), layout, extents)
    }

    fn ended(
        &mut self,
        cutter: &Cutter,
        (buffer, held): (Vec<u8>, usize),
        mut layout: Layout,
        mut extents: ListBuilder,
    ) -> Result<(Body, u64), ReadError> {
        let rest = buffer.get(..held).unwrap_or_default();
        self.emit(cutter, (rest, Supply::Ended), &mut layout, &mut extents)?;
        self.buffer = buffer;
        layout.flush_hole(&mut extents, self.sink)?;
        let size = extents.size();
        let content = extents.finish(&mut Through(self.sink))?;
        Ok((Body::Laid(content), size))
    }

    /// Puts every chunk that can be cut off the head of `data`; how many bytes those are.
    fn emit(
        &self,
        cutter: &Cutter,
        (data, supply): (&[u8], Supply),
        layout: &mut Layout,
        extents: &mut ListBuilder,
    ) -> Result<usize, ReadError> {
        let mut used = 0;
        while let Some(rest) = data.get(used..).filter(|rest| !rest.is_empty()) {
            let Some(cut) = cutter.next_cut(rest, supply) else { break };
            let chunk = rest.get(..cut).unwrap_or_default();
            let id = self.sink.put(BlobKind::Data, Vec::new(), chunk.to_vec())?;
            let mut offset = 0;
            while offset < cut {
                let length = layout.take_data(cut - offset, extents, self.sink)?;
                let (from, length_wire) = (wire(offset), wire(length));
                let extent = ChunkExtent::Chunk { id, offset: from, length: length_wire };
                extents.push(extent, &mut Through(self.sink))?;
                offset += length;
            }
            used += cut;
        }
        Ok(used)
    }

    /// Reads until the buffer is full or the file ends.
    fn fill(
        &mut self,
        file: BorrowedFd<'_>,
        buffer: &mut [u8],
        offset: u64,
    ) -> Result<usize, ReadError> {
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = offset + done as u64;
            let mut slices = [io::IoSliceMut::new(rest)];
            match rustix::io::preadv2(file, &mut slices, at, self.dontcache) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::INVAL) if !self.dontcache.is_empty() => {
                    // The kernel or this file system cannot: plain reads, which only add.
                    self.dontcache = ReadWriteFlags::empty();
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(done)
    }
}

/// Lengths within one chunk: far below 4 GiB by the cutter's limits.
fn wire(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// The next stretch of data at or after `at`: its start and end, both the size when none.
fn next_data(file: BorrowedFd<'_>, at: u64, size: u64) -> io::Result<(u64, u64)> {
    let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(data) => data.min(size),
        Err(Errno::NXIO) => return Ok((size, size)),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok((at, size)),
        Err(errno) => return Err(errno.into()),
    };
    match rustix::fs::seek(file, SeekFrom::Hole(data)) {
        Ok(hole) => Ok((data, hole.clamp(data, size))),
        Err(_) => Ok((data, size)),
    }
}
