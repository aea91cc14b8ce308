//! Plans a restore so that disks are read forward: within a window of bounded size every
//! pack is read once, in the order of its offsets, whatever files its chunks belong to.
//! Promises that every byte selected is in exactly one target, or named as missing or
//! damaged; refuses to read or write anything but pages and lists.

mod select;

use strongroom_protocol::{ChunkId, PackId};

use crate::content::{ChunkExtent, Entry, Node};
use crate::list::{ExtentReader, ListError};
use crate::tree::{BlobSource, Damage, Step, Tree, Walk};

pub use select::Selection;

/// Extents planned at once: some 5 MiB of plan, and 16 GiB of data in chunks of 256 KiB.
pub const WINDOW_EXTENTS_MAX: usize = 65_536;
/// Entries and ends of directories planned at once, so that trees of empty files are
/// bounded too.
pub const WINDOW_ENTRIES_MAX: usize = 65_536;

/// An iterator over the windows of a restore, to be carried out one after another.
pub struct Plan<'t, S, P> {
    tree: &'t Tree<S>,
    walk: Walk<'t, S>,
    selection: Selection,
    place: P,
    next_file: u64,
    open: Option<Open<'t, S>>,
    extents_max: usize,
}

/// Part of a restore.
#[derive(Debug, Default)]
pub struct Window {
    /// What is to be made, in walk order: directories before what they hold. Paths above
    /// what was selected are not among it.
    pub entries: Vec<Planned>,
    /// The packs to read, each once in this window.
    pub reads: Vec<PackRead>,
    /// Chunks that lie in no pack known.
    pub missing: Vec<MissingChunk>,
    /// Directories all of whose content is in this window or one before: their times and
    /// modes can be set once the window is carried out, in this order.
    pub finished: Vec<Finished>,
    /// Parts of directories that cannot be read.
    pub damage: Vec<Damage>,
    /// Parts of files whose extents cannot be found.
    pub file_damage: Vec<FileDamage>,
}

/// Something to make.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Planned {
    /// What targets call it; the same in every window it has a part in.
    pub file: u64,
    pub path: Vec<u8>,
    pub entry: Entry,
    pub part: Part,
}

/// How much of a file is in a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// All of it.
    Whole,
    /// Its beginning: make it.
    First,
    /// More of it.
    Middle,
    /// Its end: with this window it is complete.
    Last,
}

/// A directory that is complete.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finished {
    pub path: Vec<u8>,
    pub entry: Entry,
}

/// A pack with what is wanted of it, by offset.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PackRead {
    pub pack: PackId,
    pub chunks: Vec<ChunkRead>,
}

/// A record in a pack, with all places its bytes go to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChunkRead {
    pub chunk: ChunkId,
    /// Where in the pack its record begins.
    pub offset: u32,
    /// Length of the record, in bytes.
    pub length: u32,
    pub targets: Vec<Target>,
}

/// A chunk nobody has, with the places that lack it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MissingChunk {
    pub chunk: ChunkId,
    pub targets: Vec<Target>,
}

/// Where bytes of a chunk go.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Target {
    pub file: u64,
    pub file_offset: u64,
    pub chunk_offset: u32,
    pub length: u32,
}

/// A part of a file that cannot be found.
#[derive(Debug)]
pub struct FileDamage {
    pub file: u64,
    pub error: ListError,
}

/// A file whose extents are being planned.
struct Open<'t, S> {
    planned: Planned,
    extents: ExtentReader<'t, S>,
}

/// A window being filled.
#[derive(Default)]
struct Filling {
    window: Window,
    wanted: Vec<(ChunkId, Target)>,
}

impl<'t, S, P> Plan<'t, S, P>
where
    S: BlobSource,
    P: Fn(&[ChunkId]) -> Vec<Option<(PackId, u32, u32)>>,
{
    /// The plan of restoring the selection; `place` says in which pack, at which offset and
    /// with what record length each chunk lies.
    pub fn build(tree: &'t Tree<S>, selection: Selection, place: P) -> Self {
        Self {
            tree,
            walk: tree.walk(),
            selection,
            place,
            next_file: 0,
            open: None,
            extents_max: WINDOW_EXTENTS_MAX,
        }
    }

    /// With smaller windows, for hosts of little memory.
    #[must_use]
    pub fn with_window_extents(mut self, extents: usize) -> Self {
        self.extents_max = extents.clamp(1, WINDOW_EXTENTS_MAX);
        self
    }

    /// Plans extents of the open file until it ends or the window is full.
    fn fill_from_file(&mut self, mut open: Open<'t, S>, filling: &mut Filling) {
        let file = open.planned.file;
        while filling.wanted.len() < self.extents_max {
            match open.extents.next() {
                None => {
                    let part = match open.planned.part {
                        Part::Whole => Part::Whole,
                        Part::First | Part::Middle | Part::Last => Part::Last,
                    };
                    return filling.window.entries.push(Planned { part, ..open.planned });
                }
                Some(Err(error)) => filling.window.file_damage.push(FileDamage { file, error }),
                Some(Ok(placed)) => {
                    if let ChunkExtent::Chunk { id, offset, length } = placed.extent {
                        let file_offset = placed.at;
                        let target = Target { file, file_offset, chunk_offset: offset, length };
                        filling.wanted.push((id, target));
                    }
                }
            }
        }
        let (part, next) = match open.planned.part {
            Part::Whole => (Part::First, Part::Middle),
            Part::First | Part::Middle | Part::Last => (Part::Middle, Part::Middle),
        };
        filling.window.entries.push(Planned { part, ..open.planned.clone() });
        open.planned.part = next;
        self.open = Some(open);
    }

    fn fill_from_step(&mut self, step: Step, filling: &mut Filling) {
        match step {
            Step::Damaged(damage) => {
                if self.selection.concerns(&damage.path) {
                    filling.window.damage.push(damage);
                }
            }
            Step::Leave { path, entry } => {
                if self.selection.takes(&path, &entry) {
                    filling.window.finished.push(Finished { path, entry });
                }
            }
            Step::Enter { path, entry } => {
                if !self.selection.enters(&path) {
                    self.walk.leave_out();
                }
                if self.selection.takes(&path, &entry) {
                    self.take(path, entry, filling);
                }
            }
        }
    }

    fn take(&mut self, path: Vec<u8>, entry: Entry, filling: &mut Filling) {
        let file = self.next_file;
        self.next_file += 1;
        let extents = match &entry.node {
            Node::File { content, .. } => Some(self.tree.extents(content)),
            _ => None,
        };
        let planned = Planned { file, path, entry, part: Part::Whole };
        match extents {
            Some(extents) => self.fill_from_file(Open { planned, extents }, filling),
            None => filling.window.entries.push(planned),
        }
    }

    /// Groups what is wanted by chunk, and chunks by pack and offset.
    fn settle(&self, filling: Filling) -> Window {
        let Filling { mut window, mut wanted } = filling;
        wanted.sort_unstable();
        let mut targets: Vec<(ChunkId, Vec<Target>)> = Vec::new();
        for (chunk, target) in wanted {
            match targets.last_mut() {
                Some((last, targets)) if *last == chunk => targets.push(target),
                _ => targets.push((chunk, vec![target])),
            }
        }
        let ids: Vec<ChunkId> = targets.iter().map(|(chunk, _)| *chunk).collect();
        let places = if ids.is_empty() { Vec::new() } else { (self.place)(&ids) };
        let places = places.into_iter().chain(std::iter::repeat(None));
        let mut reads = Vec::new();
        for ((chunk, targets), place) in targets.into_iter().zip(places) {
            match place {
                None => window.missing.push(MissingChunk { chunk, targets }),
                Some((pack, offset, length)) => {
                    reads.push((pack, ChunkRead { chunk, offset, length, targets }));
                }
            }
        }
        reads.sort_by_key(|(pack, read)| (*pack, read.offset));
        for (pack, read) in reads {
            match window.reads.last_mut() {
                Some(last) if last.pack == pack => last.chunks.push(read),
                _ => window.reads.push(PackRead { pack, chunks: vec![read] }),
            }
        }
        window
    }
}

impl<S, P> Iterator for Plan<'_, S, P>
where
    S: BlobSource,
    P: Fn(&[ChunkId]) -> Vec<Option<(PackId, u32, u32)>>,
{
    type Item = Window;

    fn next(&mut self) -> Option<Window> {
        let mut filling = Filling::default();
        let mut met = 0_usize;
        while filling.wanted.len() < self.extents_max && met < WINDOW_ENTRIES_MAX {
            met += 1;
            if let Some(open) = self.open.take() {
                self.fill_from_file(open, &mut filling);
            } else if let Some(step) = self.walk.next() {
                self.fill_from_step(step, &mut filling);
            } else if met == 1 {
                return None;
            } else {
                break;
            }
        }
        Some(self.settle(filling))
    }
}
