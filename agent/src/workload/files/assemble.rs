//! The building half of a run: takes what the walk found, in its order, lays small files
//! into bundles and writes directories as they end. An entry waits until its bundle is
//! named; a page is put only after all it refers to was.

use std::collections::{HashMap, VecDeque};

use strongroom_protocol::ChunkId;
use strongroom_store::content::{Entry, FileContent, Meta, Node};
use strongroom_store::page::{BuildError, DirectoryBuilder};

use crate::workload::files::ProtectError;
use crate::workload::files::bundle::{Bundles, Place};
use crate::workload::files::cache::{Known, NewCache, Signature};
use crate::workload::files::gap::{Gap, GapReason};
use crate::workload::files::gather::{Budget, Message, Stretch};
use crate::workload::files::links::{Last, Link};
use crate::workload::files::metadata::{Own, Stat, meta_of};
use crate::workload::files::progress::{Progress, count};
use crate::workload::files::read::{Body, FileRead, ReadError, Reader, Steadiness};
use crate::workload::{ChunkSink, Through};

/// Entries that may wait for the open bundle before it is closed early.
const WAITING_MAX: usize = 8192;
/// Contents of linked files remembered for their other names.
const LINKED_MAX: usize = 50_000;
/// Gaps kept with their path; more are only counted.
pub const GAPS_KEPT_MAX: usize = 10_000;

/// Content that may lie in a bundle still open.
#[derive(Clone, Debug)]
enum Content {
    Bundled(Place),
    Known(FileContent),
}

#[derive(Debug)]
enum Waiting {
    Enter { name: Vec<u8>, meta: Meta },
    Entry { name: Vec<u8>, node: Node, meta: Meta, signature: Option<Signature> },
    File { name: Vec<u8>, size: u64, content: Content, meta: Meta, signature: Signature },
    Leave,
}

/// A file whose other names are still to come.
struct Linked {
    size: u64,
    content: Content,
    stat: Stat,
    own: Own,
}

struct Level {
    builder: DirectoryBuilder,
    name: Vec<u8>,
    meta: Meta,
    path_above: usize,
}

/// The tree under way.
pub struct Assembler<'run> {
    sink: &'run dyn ChunkSink,
    budget: &'run Budget,
    progress: &'run Progress,
    reader: Reader<'run>,
    bundles: Bundles,
    waiting: VecDeque<Waiting>,
    linked: HashMap<u64, Linked>,
    levels: Vec<Level>,
    /// Where the entries done are.
    path: Vec<u8>,
    /// Where the walk is.
    ahead: Vec<u8>,
    cache: Option<NewCache>,
    gaps: Vec<Gap>,
    item: Option<(Vec<u8>, ChunkId, Meta)>,
}

/// What came of it.
pub struct Assembled {
    pub page: ChunkId,
    pub meta: Meta,
    pub gaps: Vec<Gap>,
    pub cache: Option<NewCache>,
}

impl<'run> Assembler<'run> {
    /// An empty tree.
    pub fn new(
        sink: &'run dyn ChunkSink,
        budget: &'run Budget,
        progress: &'run Progress,
        reader: Reader<'run>,
        cache: Option<NewCache>,
    ) -> Self {
        Self {
            sink,
            budget,
            progress,
            reader,
            bundles: Bundles::default(),
            waiting: VecDeque::new(),
            linked: HashMap::new(),
            levels: Vec::new(),
            path: Vec::new(),
            ahead: Vec::new(),
            cache,
            gaps: Vec::new(),
            item: None,
        }
    }

    /// Takes the next stretch of the walk.
    ///
    /// # Errors
    /// The sink takes nothing more, or the run was stopped.
    pub fn take(&mut self, stretch: Stretch) -> Result<(), ProtectError> {
        let Stretch { messages, reads, cost_bytes } = stretch;
        let mut reads = match reads.map(|ticket| ticket.recv()) {
            None => Vec::new(),
            Some(read) => read.map_err(|_| ProtectError::Stopped)?,
        }
        .into_iter();
        for message in messages {
            self.message(message, &mut reads)?;
        }
        self.budget.give(cost_bytes);
        Ok(())
    }

    fn message(
        &mut self,
        message: Message,
        reads: &mut impl Iterator<Item = Result<FileRead, ReadError>>,
    ) -> Result<(), ProtectError> {
        match message {
            Message::Enter { name, meta } => {
                push_name(&mut self.ahead, &name);
                self.wait(Waiting::Enter { name, meta })
            }
            Message::Leave => {
                let above = self.ahead.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                self.ahead.truncate(above);
                self.wait(Waiting::Leave)
            }
            Message::Gap(gap) => {
                self.gap(gap);
                Ok(())
            }
            Message::Ready { name, node, meta, signature } => {
                match &node {
                    Node::File { size, .. } => {
                        count(&self.progress.files, 1);
                        count(&self.progress.file_bytes, *size);
                    }
                    _ => count(&self.progress.others, 1),
                }
                self.wait(Waiting::Entry { name, node, meta, signature })
            }
            Message::Read { name, link } => {
                self.read(name, link, reads.next().unwrap_or(Err(ReadError::Stopped)))
            }
            Message::Again { name, stat, group, last, file } => {
                let link = Link::Again { group, last };
                if let Some(first) = self.linked.get(&group)
                    && first.stat.same_content_as(&stat)
                {
                    count(&self.progress.links, 1);
                    let (size, content) = (first.size, first.content.clone());
                    let meta = meta_of(&stat, first.own.clone(), group);
                    if last == Last::Yes {
                        self.linked.remove(&group);
                    }
                    let signature = Signature::from(&stat);
                    count(&self.progress.files, 1);
                    count(&self.progress.file_bytes, size);
                    return self.wait(Waiting::File { name, size, content, meta, signature });
                }
                let read = self.reader.read(&file);
                self.read(name, link, read)
            }
        }
    }

    /// Ends the tree.
    ///
    /// # Errors
    /// The sink takes nothing more; or the root could not be walked at all.
    pub fn finish(mut self) -> Result<Assembled, ProtectError> {
        self.bundles.close(self.sink)?;
        self.settle()?;
        let Some((_, page, meta)) = self.item else { return Err(ProtectError::Stopped) };
        Ok(Assembled { page, meta, gaps: self.gaps, cache: self.cache })
    }

    fn read(
        &mut self,
        name: Vec<u8>,
        link: Link,
        read: Result<FileRead, ReadError>,
    ) -> Result<(), ProtectError> {
        let read = match read {
            Ok(read) => read,
            Err(ReadError::Gap(reason)) => {
                let gap = self.gap_at(&name, reason);
                self.gap(gap);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let FileRead { stat, own, body, size, read_bytes, steadiness, found } = read;
        count(&self.progress.read_bytes, read_bytes);
        let content = match body {
            Body::Laid(content) => Content::Known(content),
            Body::Small { bytes, hash } => {
                Content::Bundled(self.bundles.lay(&bytes, &hash, self.sink)?)
            }
        };
        if let Link::First { group } = link
            && self.linked.len() < LINKED_MAX
            && steadiness == Steadiness::Steady
        {
            let (content, stat, own) = (content.clone(), stat.clone(), own.clone());
            self.linked.insert(group, Linked { size, content, stat, own });
        }
        let mut signature = Signature::from(&stat);
        let meta = meta_of(&stat, own, link.group());
        if steadiness == Steadiness::Steady || self.reader.is_mended() {
            count(&self.progress.files, 1);
            count(&self.progress.file_bytes, size);
        }
        match steadiness {
            Steadiness::Steady => {}
            Steadiness::Changed => {
                signature = Signature::NEVER;
                let gap = self.gap_at(&name, GapReason::Changed);
                self.gap(gap);
            }
        }
        if let Some(what) = found {
            // Never believed unread: the next run is to say it again.
            signature = Signature::NEVER;
            let gap = self.gap_at(&name, GapReason::Corrupt { what });
            self.gap(gap);
        }
        self.wait(Waiting::File { name, size, content, meta, signature })
    }

    fn wait(&mut self, waiting: Waiting) -> Result<(), ProtectError> {
        self.waiting.push_back(waiting);
        self.settle()?;
        if self.waiting.len() >= WAITING_MAX {
            self.bundles.close(self.sink)?;
            self.settle()?;
        }
        Ok(())
    }

    /// Does what no longer waits, in order.
    fn settle(&mut self) -> Result<(), ProtectError> {
        while let Some(first) = self.waiting.pop_front() {
            match first {
                Waiting::Enter { name, meta } => self.enter(name, meta),
                Waiting::Leave => self.leave()?,
                Waiting::Entry { name, node, meta, signature } => {
                    self.entry(Entry { name, node, meta }, signature)?;
                }
                Waiting::File { name, size, content, meta, signature } => {
                    let content = match content {
                        Content::Known(known) => known,
                        Content::Bundled(place) => match self.bundles.extent(place) {
                            Some(extent) => FileContent::Extents(vec![extent]),
                            None => {
                                let content = Content::Bundled(place);
                                let again = Waiting::File { name, size, content, meta, signature };
                                self.waiting.push_front(again);
                                return Ok(());
                            }
                        },
                    };
                    let node = Node::File { size, content };
                    self.entry(Entry { name, node, meta }, Some(signature))?;
                }
            }
        }
        Ok(())
    }

    fn enter(&mut self, name: Vec<u8>, meta: Meta) {
        let path_above = self.path.len();
        push_name(&mut self.path, &name);
        self.levels.push(Level { builder: DirectoryBuilder::new(), name, meta, path_above });
    }

    fn leave(&mut self) -> Result<(), ProtectError> {
        let Some(Level { builder, name, meta, path_above }) = self.levels.pop() else {
            return Ok(());
        };
        let page = builder.finish(&mut Through(self.sink))?;
        self.path.truncate(path_above);
        if self.levels.is_empty() {
            self.item = Some((name, page, meta));
            return Ok(());
        }
        self.push(Entry { name, node: Node::Directory { page }, meta })
    }

    fn entry(&mut self, entry: Entry, signature: Option<Signature>) -> Result<(), ProtectError> {
        if let (Some(cache), Some(signature)) = (&mut self.cache, signature)
            && let Node::File { content, .. } = &entry.node
            && signature != Signature::NEVER
        {
            let path_above = self.path.len();
            push_name(&mut self.path, &entry.name);
            let known = Known {
                content: content.clone(),
                flags: entry.meta.flags,
                project: entry.meta.project,
                xattrs: entry.meta.xattrs.clone(),
            };
            let kept = cache.add(&self.path, signature, &known);
            self.path.truncate(path_above);
            if let Err(error) = kept {
                tracing::warn!(%error, "the cache cannot be written; the next run reads all");
                self.cache = None;
            }
        }
        self.push(entry)
    }

    fn push(&mut self, entry: Entry) -> Result<(), ProtectError> {
        let Some(level) = self.levels.last_mut() else { return Ok(()) };
        let name = entry.name.clone();
        match level.builder.push(entry, &mut Through(self.sink)) {
            Ok(()) => Ok(()),
            Err(BuildError::Entry(_) | BuildError::Order { .. }) => {
                let mut path = self.path.clone();
                push_name(&mut path, &name);
                self.gap(Gap { path, reason: GapReason::Unfit });
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A gap at a name met now, which may be ahead of the entries that wait.
    fn gap_at(&self, name: &[u8], reason: GapReason) -> Gap {
        let mut path = self.ahead.clone();
        push_name(&mut path, name);
        Gap { path, reason }
    }

    fn gap(&mut self, gap: Gap) {
        let moved = matches!(gap.reason, GapReason::Changed | GapReason::Vanished);
        if moved && self.reader.is_mended() {
            return;
        }
        count(&self.progress.gaps, 1);
        if self.gaps.len() < GAPS_KEPT_MAX {
            self.gaps.push(gap);
        }
    }
}

fn push_name(path: &mut Vec<u8>, name: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
}
