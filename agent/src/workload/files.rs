//! Trees of files. Promises every kind of file with all that belongs to it, bounded memory
//! whatever the size of the tree, and that what could not be had is a named gap; refuses to
//! follow symlinks or to fail a run for one file.

pub mod assemble;
pub mod bundle;
pub mod cache;
pub mod directories;
pub mod gap;
pub mod gather;
pub mod level;
pub mod links;
pub mod metadata;
pub mod names;
pub mod progress;
pub mod project;
pub mod read;
pub mod rules;
pub mod survey;
pub mod walk;
pub mod witness;

mod layout;
mod tree;

use std::io;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, bounded, unbounded};
use strongroom_protocol::{ChunkId, Clock};
use strongroom_store::content::{Entry, Node};
use strongroom_store::cut::{CutParams, CutParamsError};
use strongroom_store::list::ListError;
use strongroom_store::page::{BuildError, DirectoryBuilder};
use strongroom_store::tree::SinkError;

use crate::workload::files::assemble::Assembler;
use crate::workload::files::cache::{CacheKey, Damaged, NewCache, OldCache};
use crate::workload::files::directories::Assembled;
use crate::workload::files::gather::{AHEAD_STRETCHES_MAX, Budget, Gatherer, Open, Order, Stretch};
use crate::workload::files::links::Links;
use crate::workload::files::read::{Cutters, ReadError, Reader};
use crate::workload::files::rules::{RuleError, RuleSet, Rules};
use crate::workload::files::survey::Survey;
use crate::workload::files::walk::{Walker, open_root};
use crate::workload::files::witness::Witness;
use crate::workload::{ChunkSink, Through};

pub use gap::{Gap, GapReason};
pub use progress::{Progress, Statistics};
pub use tree::{FilesView, FilesWorkload, ViewError};

/// Threads that read, cut and name: more only help where hashing is slower than the disk.
pub const READERS_DEFAULT: usize = 2;

/// Where the cache lies and which runs it is between.
#[derive(Clone, Debug)]
pub struct CachePlace {
    pub path: PathBuf,
    /// The run whose cache may be used: the previous point, if it is still there.
    pub last: Option<CacheKey>,
    /// The run under way.
    pub this: CacheKey,
}

impl CachePlace {
    /// Removes a cache that cannot be used; the next run reads everything.
    fn forget(&self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "a broken cache was not removed");
        }
    }
}

/// What to protect and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory, or the snapshot of it.
    pub root: PathBuf,
    /// What the tree is called in the point.
    pub item: Vec<u8>,
    pub rules: RuleSet,
    pub cut: CutParams,
    /// From the agent's keys.
    pub cut_key: (u32, u32),
    pub cache: Option<CachePlace>,
    pub readers: usize,
    /// Threads that list directories ahead of the walk.
    pub listers: usize,
    /// Who knows these files, if anybody does.
    pub witness: Option<Arc<dyn Witness>>,
}

impl Options {
    /// Everything below `root`, without a cache.
    pub fn new(root: impl Into<PathBuf>, cut_key: (u32, u32)) -> Self {
        Self {
            root: root.into(),
            item: b"files".to_vec(),
            rules: RuleSet::default(),
            cut: CutParams::FILES,
            cut_key,
            cache: None,
            readers: READERS_DEFAULT,
            listers: std::thread::available_parallelism().map_or(1, NonZero::get).clamp(1, 3),
            witness: None,
        }
    }
}

/// Why a run ended without a tree.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProtectError {
    /// A directory page could not be made.
    #[error("a directory cannot be written")]
    Build(#[from] BuildError),
    /// A record of the cache that is none; without the cache the run would end well.
    #[error("the cache of the last run cannot be used")]
    Cache(#[from] Damaged),
    /// Chunk sizes nobody can cut to.
    #[error("the chunk sizes are not usable")]
    Cut(#[from] CutParamsError),
    /// The list of a long file could not be made.
    #[error("the list of a long file cannot be written")]
    List(#[from] ListError),
    /// The root is not there or cannot be opened.
    #[error("the root {} cannot be walked", .root.display())]
    Root { root: PathBuf, source: io::Error },
    /// The application did not give what it was asked for.
    #[error("the application could not be read")]
    Application(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A rule that cannot be used.
    #[error("the rules of the workload are not usable")]
    Rules(#[from] RuleError),
    /// The sink takes nothing more.
    #[error("a blob was not taken")]
    Sink(#[from] SinkError),
    /// Somebody asked to stop, or a thread was lost.
    #[error("the run was stopped")]
    Stopped,
}

impl From<ReadError> for ProtectError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::List(source) => Self::List(source),
            ReadError::Sink(source) => Self::Sink(source),
            ReadError::Gap(_) | ReadError::Stopped => Self::Stopped,
        }
    }
}

/// Whether the coordinator committed the point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Committed {
    No,
    Yes,
}

/// A tree whose blobs were all given to the sink.
#[derive(Debug)]
pub struct Protected {
    /// The root page of the point: the item, alone.
    pub root: ChunkId,
    /// The item: the tree's own directory with its metadata.
    pub item: Entry,
    /// Up to [`directories::GAPS_KEPT_MAX`] of them; all are counted in the statistics.
    pub gaps: Vec<Gap>,
    pub statistics: Statistics,
    caches: Vec<NewCache>,
}

impl Protected {
    /// A point of one item.
    pub(crate) fn of(
        item: Entry,
        gaps: Vec<Gap>,
        statistics: Statistics,
        caches: Vec<NewCache>,
        sink: &dyn ChunkSink,
    ) -> Result<Self, ProtectError> {
        let mut builder = DirectoryBuilder::new();
        builder.push(item.clone(), &mut Through(sink))?;
        let root = builder.finish(&mut Through(sink))?;
        Ok(Self { root, item, gaps, statistics, caches })
    }

    /// Ends the run. The cache is believed from now on only if the point was committed.
    ///
    /// # Errors
    /// The cache could not be put in place; the next run reads everything.
    pub fn finish(self, committed: Committed) -> io::Result<()> {
        match committed {
            Committed::No => Ok(()),
            Committed::Yes => self.caches.into_iter().try_for_each(NewCache::keep),
        }
    }
}

/// Reads the tree and gives its blobs to the sink. `stop` ends it early.
///
/// # Errors
/// Only what costs the whole run: a file that cannot be read is a gap.
pub fn protect(
    options: &Options,
    sink: &dyn ChunkSink,
    progress: &Progress,
    stop: &AtomicBool,
    clock: &dyn Clock,
) -> Result<Protected, ProtectError> {
    let Assembled { page, meta, gaps, cache } = tree(options, sink, progress, stop, clock)?;
    let item = Entry { name: options.item.clone(), node: Node::Directory { page }, meta };
    let statistics = progress.statistics();
    Protected::of(item, gaps, statistics, cache.into_iter().collect(), sink)
}

/// As [`protect`], for a tree that is a part of a point.
pub(crate) fn tree(
    options: &Options,
    sink: &dyn ChunkSink,
    progress: &Progress,
    stop: &AtomicBool,
    clock: &dyn Clock,
) -> Result<Assembled, ProtectError> {
    let started = clock.now();
    let rules = Rules::new(&options.rules)?;
    let cutters = Cutters::new(options.cut, options.cut_key)?;
    let root = |source| ProtectError::Root { root: options.root.clone(), source };
    let root = open_root(&options.root).map_err(root)?;
    let survey = Survey::new(&rules, options.listers);
    let place = options.cache.as_ref();
    let old = place.map(|place| OldCache::open(&place.path, place.last)).unwrap_or_default();
    let new = place.and_then(|place| {
        let created = NewCache::create(&place.path, place.this, started);
        created.inspect_err(|error| tracing::warn!(%error, "no cache can be written")).ok()
    });
    let budget = Budget::default();
    let ended = AtomicBool::new(false);
    let (stretches, heard) = bounded(AHEAD_STRETCHES_MAX);
    let (orders, taken) = unbounded::<Order>();
    let counting = Counting { sink, progress };
    let assembled = std::thread::scope(|scope| {
        for _ in 0..options.readers.max(1) {
            let (taken, counting, ended) = (taken.clone(), &counting, &ended);
            let reader = Reader::new(counting, cutters, [stop, ended]);
            let reader = reader.watched_by(options.witness.as_deref());
            scope.spawn(move || read(&taken, reader));
        }
        drop(taken);
        for _ in 0..options.listers {
            scope.spawn(|| survey.help());
        }
        let walker = Walker::new(root, &survey);
        let gatherer = Gatherer {
            cache: old,
            links: Links::default(),
            stretches,
            orders,
            budget: &budget,
            progress,
            stop: &ended,
            open: Open::default(),
        };
        let ends = Ends(&survey);
        scope.spawn(move || {
            // Also should the walk panic: nobody must wait for it then.
            let _ends = ends;
            gatherer.run(walker);
        });
        let reader = Reader::new(&counting, cutters, [stop, &ended]);
        let reader = reader.watched_by(options.witness.as_deref());
        let mut assembler = Assembler::new(&counting, &budget, progress, reader, new);
        let outcome = assemble(&mut assembler, &heard, stop);
        ended.store(outcome.is_err(), Ordering::Relaxed);
        budget.give(usize::MAX);
        drop(heard);
        outcome.and_then(|()| assembler.finish())
    });
    if let (Err(ProtectError::Cache(_)), Some(place)) = (&assembled, place) {
        place.forget();
    }
    assembled
}

fn read(orders: &Receiver<Order>, mut reader: Reader<'_>) {
    for order in orders {
        let read = order.files.iter().map(|file| reader.read(file)).collect();
        // Nobody waits for it once the run has ended.
        let _ = order.answer.send(read);
    }
}

fn assemble(
    assembler: &mut Assembler<'_>,
    heard: &Receiver<Stretch>,
    stop: &AtomicBool,
) -> Result<(), ProtectError> {
    for stretch in heard {
        if stop.load(Ordering::Relaxed) {
            return Err(ProtectError::Stopped);
        }
        assembler.take(stretch)?;
    }
    Ok(())
}

/// Ends the survey when dropped.
struct Ends<'run>(&'run Survey<'run>);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Counts what passes.
struct Counting<'run> {
    sink: &'run dyn ChunkSink,
    progress: &'run Progress,
}

impl ChunkSink for Counting<'_> {
    fn put(
        &self,
        kind: strongroom_protocol::BlobKind,
        references: Vec<strongroom_protocol::Reference>,
        plain: Vec<u8>,
    ) -> Result<ChunkId, SinkError> {
        if kind == strongroom_protocol::BlobKind::Data {
            progress::count(&self.progress.chunks, 1);
        }
        self.sink.put(kind, references, plain)
    }
}
