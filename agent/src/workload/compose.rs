//! Puts a point together from parts that do not all lie in one tree: trees from disk, bytes
//! from memory, streams from elsewhere. Promises the same pages whatever order the parts were
//! made in; refuses a part twice.

pub mod blocks;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use strongroom_protocol::BlobKind;
use strongroom_store::content::{ChunkExtent, Entry, FileContent, INLINE_BYTES_MAX, Meta, Node};
use strongroom_store::cut::Supply;
use strongroom_store::list::ListBuilder;
use strongroom_store::page::DirectoryBuilder;

use crate::workload::Through;
use crate::workload::files::cache::NewCache;
use crate::workload::files::progress::count;
use crate::workload::files::read::Cutters;
use crate::workload::files::{self, Gap, Options, ProtectError, Protected};
use crate::workload::moment::Reading;

/// What is read of a stream at a time, in bytes.
const READ_BYTES: usize = 1 << 20;

/// A point under way.
pub struct Composer<'run> {
    reading: &'run Reading<'run>,
    cutters: Cutters,
    gaps: Vec<Gap>,
    caches: Vec<NewCache>,
}

impl<'run> Composer<'run> {
    /// Nothing yet.
    ///
    /// # Errors
    /// Chunk sizes nobody can cut to.
    pub fn new(reading: &'run Reading<'run>) -> Result<Self, ProtectError> {
        let cutters = Cutters::new(reading.cut, reading.cut_key)?;
        Ok(Self { reading, cutters, gaps: Vec::new(), caches: Vec::new() })
    }

    /// A tree on disk, called `name`. Its gaps are told below `within`, the path in the point
    /// that leads to it.
    ///
    /// # Errors
    /// See [`files::protect`].
    pub fn tree(
        &mut self,
        name: &str,
        within: &str,
        options: &Options,
    ) -> Result<Entry, ProtectError> {
        let Reading { sink, progress, stop, clock, .. } = *self.reading;
        let read = files::tree(options, sink, progress, stop, clock)?;
        let above = Path::new(within).join(name);
        let above = above.as_os_str().as_encoded_bytes();
        self.gaps.extend(read.gaps.into_iter().map(|gap| gap.below(above)));
        self.caches.extend(read.cache);
        let node = Node::Directory { page: read.page };
        Ok(Entry { name: name.as_bytes().to_vec(), node, meta: read.meta })
    }

    /// A file made of these bytes.
    ///
    /// # Errors
    /// The sink takes nothing more.
    pub fn bytes(&self, name: &str, meta: Meta, bytes: &[u8]) -> Result<Entry, ProtectError> {
        self.stream(name, meta, &mut io::Cursor::new(bytes), bytes.len() as u64)
    }

    /// A file made of what `source` gives until it ends; `about` is how many bytes that will
    /// be, by which it is cut as a long or a short file.
    ///
    /// # Errors
    /// The source failed; the sink takes nothing more; or the run was stopped.
    pub fn stream(
        &self,
        name: &str,
        meta: Meta,
        source: &mut dyn io::Read,
        about: u64,
    ) -> Result<Entry, ProtectError> {
        let cutter = self.cutters.of(about);
        let Reading { sink, stop, progress, .. } = *self.reading;
        let mut extents = ListBuilder::new();
        let mut buffer = vec![0; cutter.window_bytes() + READ_BYTES];
        let mut held = 0;
        let mut supply = Supply::Continues;
        while supply == Supply::Continues {
            stopped(stop)?;
            let free = buffer.get_mut(held..).unwrap_or_default();
            let got = fill(source, free)?;
            count(&progress.read_bytes, got as u64);
            if got < free.len() {
                supply = Supply::Ended;
            }
            held += got;
            let first = extents.size() == 0 && supply == Supply::Ended;
            if first && held <= INLINE_BYTES_MAX {
                let inline = buffer.get(..held).unwrap_or_default().to_vec();
                return Ok(self.file(name, meta, held as u64, FileContent::Inline(inline)));
            }
            let mut used = 0;
            while let Some(rest) = buffer.get(used..held).filter(|rest| !rest.is_empty()) {
                let Some(cut) = cutter.next_cut(rest, supply) else { break };
                let chunk = rest.get(..cut).unwrap_or_default();
                count(&progress.chunks, 1);
                let id = sink.put(BlobKind::Data, Vec::new(), chunk.to_vec())?;
                let length = u32::try_from(cut).unwrap_or(u32::MAX);
                let extent = ChunkExtent::Chunk { id, offset: 0, length };
                extents.push(extent, &mut Through(sink))?;
                used += cut;
            }
            buffer.copy_within(used..held, 0);
            held -= used;
        }
        let size = extents.size();
        let content = extents.finish(&mut Through(sink))?;
        Ok(self.file(name, meta, size, content))
    }

    /// A file whose content is named already.
    pub fn file(&self, name: &str, meta: Meta, size: u64, content: FileContent) -> Entry {
        count(&self.reading.progress.files, 1);
        count(&self.reading.progress.file_bytes, size);
        Entry { name: name.as_bytes().to_vec(), node: Node::File { size, content }, meta }
    }

    /// A directory of these entries, in whatever order they come.
    ///
    /// # Errors
    /// Two entries of one name; or the sink takes nothing more.
    pub fn directory(
        &self,
        name: &str,
        meta: Meta,
        mut entries: Vec<Entry>,
    ) -> Result<Entry, ProtectError> {
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let mut builder = DirectoryBuilder::new();
        for entry in entries {
            builder.push(entry, &mut Through(self.reading.sink))?;
        }
        count(&self.reading.progress.directories, 1);
        let page = builder.finish(&mut Through(self.reading.sink))?;
        Ok(Entry { name: name.as_bytes().to_vec(), node: Node::Directory { page }, meta })
    }

    /// Tells of something that is not in the point, or not as it should be.
    pub fn gap(&mut self, gap: Gap) {
        count(&self.reading.progress.gaps, 1);
        self.gaps.push(gap);
    }

    /// The point: one item, a directory.
    ///
    /// # Errors
    /// The sink takes nothing more.
    pub fn finish(self, item: Entry) -> Result<Protected, ProtectError> {
        let statistics = self.reading.progress.statistics();
        Protected::of(item, self.gaps, statistics, self.caches, self.reading.sink)
    }
}

fn stopped(stop: &AtomicBool) -> Result<(), ProtectError> {
    match stop.load(Ordering::Relaxed) {
        true => Err(ProtectError::Stopped),
        false => Ok(()),
    }
}

fn fill(source: &mut dyn io::Read, buffer: &mut [u8]) -> Result<usize, ProtectError> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match source.read(rest) {
            Ok(0) => break,
            Ok(got) => done += got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ProtectError::Application(Box::new(error))),
        }
    }
    Ok(done)
}
