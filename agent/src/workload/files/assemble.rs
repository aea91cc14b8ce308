//! The building half of a run: takes what the walk found, in its order, lays small files
//! into bundles and writes directories as they end. An entry waits until its bundle is
//! named; a page is put only after all it refers to was.

use std::collections::{HashMap, VecDeque};

use strongroom_store::content::{Entry, FileContent, Meta, Node};

use crate::workload::ChunkSink;
use crate::workload::files::ProtectError;
use crate::workload::files::bundle::{Bundles, Place};
use crate::workload::files::cache::{Entered, Left, NewCache, Piece, Signature};
use crate::workload::files::directories::{Assembled, Directories, push_name};
use crate::workload::files::gap::{Gap, GapReason};
use crate::workload::files::gather::{Budget, Message, Stretch};
use crate::workload::files::links::{Last, Link};
use crate::workload::files::metadata::{Own, Stat, meta_of};
use crate::workload::files::progress::{Progress, count};
use crate::workload::files::read::{Body, FileRead, ReadError, Reader, Steadiness};

/// Entries that may wait for the open bundle before it is closed early.
const WAITING_MAX: usize = 8192;
/// Bytes of records of the last run that may wait with them.
const WAITING_BYTES_MAX: usize = 4 << 20;
/// Contents of linked files remembered for their other names.
const LINKED_MAX: usize = 50_000;

/// Content that may lie in a bundle still open.
#[derive(Clone, Debug)]
enum Content {
    Bundled(Place),
    Known(FileContent),
}

#[derive(Debug)]
enum Waiting {
    Differs,
    Enter { name: Vec<u8>, meta: Meta, was: Entered },
    Entry { name: Vec<u8>, node: Node, meta: Meta, signature: Option<Signature> },
    File { name: Vec<u8>, size: u64, content: Content, meta: Meta, signature: Signature },
    Leave { was: Option<Left> },
    Same(Piece),
}

/// A file whose other names are still to come.
struct Linked {
    size: u64,
    content: Content,
    stat: Stat,
    own: Own,
}

/// The tree under way.
pub struct Assembler<'run> {
    sink: &'run dyn ChunkSink,
    budget: &'run Budget,
    progress: &'run Progress,
    reader: Reader<'run>,
    bundles: Bundles,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    linked: HashMap<u64, Linked>,
    directories: Directories<'run>,
    /// Where the walk is.
    ahead: Vec<u8>,
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
            waiting_bytes: 0,
            linked: HashMap::new(),
            directories: Directories::new(sink, progress, cache),
            ahead: Vec::new(),
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
            Message::Differs => self.wait(Waiting::Differs),
            Message::Same(piece) => {
                self.waiting_bytes += piece.bytes().len();
                self.wait(Waiting::Same(piece))
            }
            Message::Enter { name, meta, was } => {
                push_name(&mut self.ahead, &name);
                self.wait(Waiting::Enter { name, meta, was })
            }
            Message::Leave { was } => {
                let above = self.ahead.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                self.ahead.truncate(above);
                self.wait(Waiting::Leave { was })
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
        self.directories.finish()
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
        if self.waiting.len() >= WAITING_MAX || self.waiting_bytes >= WAITING_BYTES_MAX {
            self.bundles.close(self.sink)?;
            self.settle()?;
        }
        Ok(())
    }

    /// Does what no longer waits, in order.
    fn settle(&mut self) -> Result<(), ProtectError> {
        while let Some(first) = self.waiting.pop_front() {
            match first {
                Waiting::Differs => self.directories.differ()?,
                Waiting::Enter { name, meta, was } => self.directories.enter(name, meta, was),
                Waiting::Leave { was } => self.directories.leave(was)?,
                Waiting::Same(piece) => {
                    self.waiting_bytes = self.waiting_bytes.saturating_sub(piece.bytes().len());
                    self.directories.same(&piece)?;
                }
                Waiting::Entry { name, node, meta, signature } => {
                    self.directories.entry(Entry { name, node, meta }, signature)?;
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
                    self.directories.entry(Entry { name, node, meta }, Some(signature))?;
                }
            }
        }
        Ok(())
    }

    /// A gap at a name met now, which may be ahead of the entries that wait.
    fn gap_at(&self, name: &[u8], reason: GapReason) -> Gap {
        let mut path = self.ahead.clone();
        push_name(&mut path, name);
        Gap { path, reason }
    }

    /// What changed or vanished meanwhile is no gap where somebody mends it.
    fn gap(&mut self, gap: Gap) {
        let moved = matches!(gap.reason, GapReason::Changed | GapReason::Vanished);
        if !(moved && self.reader.is_mended()) {
            self.directories.gap(gap);
        }
    }
}
