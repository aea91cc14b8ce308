//! The directories of a run under way: builds each as its entries come, unless nothing in it
//! differs from the last run; and writes the cache of the next one beside.

use std::io;

use strongroom_protocol::ChunkId;
use strongroom_store::content::{Entry, Meta, Node};
use strongroom_store::page::BuildError;

use crate::workload::files::ProtectError;
use crate::workload::files::cache::{Entered, Left, NewCache, Piece, Records, Signature};
use crate::workload::files::gap::{Gap, GapReason};
use crate::workload::files::level::{Level, Page, Start};
use crate::workload::files::progress::{Progress, count};
use crate::workload::{ChunkSink, Through};

/// Bytes of directories kept in mind because nothing in them differs yet.
const HELD_BYTES_MAX: usize = 4 << 20;
/// Gaps kept with their path; more are only counted.
pub const GAPS_KEPT_MAX: usize = 10_000;

/// What came of it.
pub struct Assembled {
    pub page: ChunkId,
    pub meta: Meta,
    pub gaps: Vec<Gap>,
    pub cache: Option<NewCache>,
}

/// Whether an entry went into its directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pushed {
    No,
    Yes,
}

/// The directories the run is in.
pub struct Directories<'run> {
    sink: &'run dyn ChunkSink,
    progress: &'run Progress,
    levels: Vec<Level>,
    /// Bytes the levels keep in mind.
    held_bytes: usize,
    /// Where the entries done are.
    path: Vec<u8>,
    cache: Option<NewCache>,
    gaps: Vec<Gap>,
    item: Option<(ChunkId, Meta)>,
}

impl<'run> Directories<'run> {
    /// Before the root.
    pub const fn new(
        sink: &'run dyn ChunkSink,
        progress: &'run Progress,
        cache: Option<NewCache>,
    ) -> Self {
        Self {
            sink,
            progress,
            levels: Vec::new(),
            held_bytes: 0,
            path: Vec::new(),
            cache,
            gaps: Vec::new(),
            item: None,
        }
    }

    /// Once the root has ended.
    ///
    /// # Errors
    /// It could not be walked at all.
    pub fn finish(self) -> Result<Assembled, ProtectError> {
        let Some((page, meta)) = self.item else { return Err(ProtectError::Stopped) };
        Ok(Assembled { page, meta, gaps: self.gaps, cache: self.cache })
    }

    /// A directory begins.
    pub fn enter(&mut self, name: Vec<u8>, meta: Meta, was: Entered) {
        let path_above = self.path.len();
        push_name(&mut self.path, &name);
        let (start, piece) = match was {
            Entered::Absent => (Start::New, None),
            Entered::Changed => (Start::Known, None),
            Entered::Same(piece) => (Start::Known, Some(piece)),
        };
        self.cached(|cache| match &piece {
            Some(piece) => cache.again(piece),
            None => cache.enter(&name, &meta),
        });
        let mut level = Level::new(name, meta, path_above, start);
        level.same_meta = piece.is_some();
        self.levels.push(level);
    }

    /// The directory on top ends, with what it was in the last run.
    ///
    /// # Errors
    /// The sink takes nothing more.
    pub fn leave(&mut self, was: Option<Left>) -> Result<(), ProtectError> {
        let Some(mut level) = self.levels.pop() else { return Ok(()) };
        self.held_bytes = self.held_bytes.saturating_sub(level.held_bytes());
        let (name, meta) = (std::mem::take(&mut level.name), std::mem::take(&mut level.meta));
        let (path_above, lacks, same_meta) = (level.path_above, level.lacks, level.same_meta);
        let last = was.as_ref().map(|(page, _)| *page);
        let (page, is_same) = match level.end(last).ok_or(ProtectError::Stopped)? {
            Page::Same(page) => (page, same_meta),
            Page::Built(builder) => (builder.finish(&mut Through(self.sink))?, false),
        };
        self.cached(|cache| match &was {
            _ if lacks => cache.leave_lacking(),
            Some((last, piece)) if *last == page => cache.again(piece),
            _ => cache.leave(page),
        });
        self.path.truncate(path_above);
        if self.levels.is_empty() {
            self.item = Some((page, meta));
            return Ok(());
        }
        let entry = Entry { name, node: Node::Directory { page }, meta };
        if is_same && self.levels.last().is_some_and(Level::is_same) {
            return self.hold(|level| level.keep_directory(entry));
        }
        self.differ()?;
        if self.push(entry)? == Pushed::No
            && let Some(level) = self.levels.last_mut()
        {
            level.lacks = true;
        }
        Ok(())
    }

    /// Entries are as the last run has them.
    ///
    /// # Errors
    /// The sink takes nothing more; or the records are none.
    pub fn same(&mut self, piece: &Piece) -> Result<(), ProtectError> {
        self.cached(|cache| cache.again(piece));
        if self.levels.last().is_some_and(Level::is_same) {
            return self.hold(|level| level.keep(piece));
        }
        Records::of(piece.bytes()).try_for_each(|entry| self.push(entry?).map(|_| ()))
    }

    /// Lets the directory on top keep something in mind, or builds it where that is too much.
    fn hold(&mut self, keep: impl FnOnce(&mut Level)) -> Result<(), ProtectError> {
        if let Some(level) = self.levels.last_mut() {
            let before = level.held_bytes();
            keep(level);
            self.held_bytes += level.held_bytes() - before;
        }
        if self.held_bytes > HELD_BYTES_MAX { self.differ() } else { Ok(()) }
    }

    /// The directory on top is not what it was, or too long to be kept in mind.
    ///
    /// # Errors
    /// The sink takes nothing more; or what was kept in mind is no record.
    pub fn differ(&mut self) -> Result<(), ProtectError> {
        let Some(level) = self.levels.last_mut() else { return Ok(()) };
        self.held_bytes = self.held_bytes.saturating_sub(level.held_bytes());
        let mut held = level.differ();
        held.try_for_each(|entry| self.push(entry?).map(|_| ()))
    }

    /// Adds an entry, to be kept in the cache where a signature is given.
    ///
    /// # Errors
    /// The sink takes nothing more.
    pub fn entry(
        &mut self,
        entry: Entry,
        signature: Option<Signature>,
    ) -> Result<(), ProtectError> {
        let signature = signature.filter(|signature| *signature != Signature::NEVER);
        let kept = signature.filter(|_| self.cache.is_some()).map(|known| (known, entry.clone()));
        if self.push(entry)? == Pushed::Yes
            && let Some((signature, entry)) = kept
        {
            self.cached(|cache| cache.add(signature, &entry));
        }
        Ok(())
    }

    fn cached(&mut self, write: impl FnOnce(&mut NewCache) -> io::Result<()>) {
        let Some(Err(error)) = self.cache.as_mut().map(write) else { return };
        tracing::warn!(%error, "the cache cannot be written; the next run reads all");
        self.cache = None;
    }

    fn push(&mut self, entry: Entry) -> Result<Pushed, ProtectError> {
        let builder = self.levels.last_mut().and_then(Level::builder);
        let Some(builder) = builder else { return Ok(Pushed::No) };
        let name = entry.name.clone();
        match builder.push(entry, &mut Through(self.sink)) {
            Ok(()) => Ok(Pushed::Yes),
            Err(BuildError::Entry(_) | BuildError::Order { .. }) => {
                let mut path = self.path.clone();
                push_name(&mut path, &name);
                self.gap(Gap { path, reason: GapReason::Unfit });
                Ok(Pushed::No)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Notes a gap.
    pub fn gap(&mut self, gap: Gap) {
        count(&self.progress.gaps, 1);
        if self.gaps.len() < GAPS_KEPT_MAX {
            self.gaps.push(gap);
        }
    }
}

/// Goes down to a name.
pub fn push_name(path: &mut Vec<u8>, name: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
}
