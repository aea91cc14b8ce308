//! The walking half of a run: says in walk order what there is, taking what is unchanged
//! from the last run and giving the rest to the readers. Goes from thread to thread by the
//! stretch, not by the file: waking a thread costs more than reading a small file. Never runs
//! ahead further than a budget of bytes.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};
use strongroom_store::content::{FileContent, Meta, Node};

use crate::workload::files::cache::{Entered, Kept, Left, OldCache, Piece, Signature, encode_meta};
use crate::workload::files::gap::{Gap, GapReason};
use crate::workload::files::links::{Last, Link, Links};
use crate::workload::files::metadata::{FileKind, Own, Stat, Xattrs, meta_of, xattrs_at};
use crate::workload::files::progress::{Progress, count};
use crate::workload::files::read::{BUNDLED_BYTES_MAX, FileRead, FileToRead, ReadError};
use crate::workload::files::walk::{Step, Walker};

/// What may be read and not yet laid, in bytes.
pub const AHEAD_BYTES_MAX: usize = 8 << 20;
/// What one file costs of it at least: an open descriptor of its directory and its place in the
/// queues.
const FILE_COST_BYTES: usize = 16 << 10;
/// Stretches the walk may be ahead.
pub const AHEAD_STRETCHES_MAX: usize = 8;
/// A stretch ends with this many messages.
const STRETCH_MESSAGES: usize = 512;
/// A stretch ends with files of this many bytes to read.
const STRETCH_BYTES: usize = 1 << 20;

/// A stretch ends with this many bytes of records of the last run.
const STRETCH_SAME_BYTES: usize = 256 << 10;

/// What comes of the files of a stretch, in their order.
pub type Ticket = Receiver<Vec<Result<FileRead, ReadError>>>;

/// What the walk met one after another.
#[derive(Debug)]
pub struct Stretch {
    pub messages: Vec<Message>,
    /// The files among them that are being read.
    pub reads: Option<Ticket>,
    pub cost_bytes: usize,
}

/// One thing, in walk order.
#[derive(Debug)]
pub enum Message {
    /// Another name of a file that came before.
    Again { name: Vec<u8>, stat: Stat, group: u64, last: Last, file: FileToRead },
    /// The directory last begun holds something else than it did in the last run.
    Differs,
    /// A directory begins.
    Enter { name: Vec<u8>, meta: Meta, was: Entered },
    /// Something that cannot be protected.
    Gap(Gap),
    /// The directory last begun ends, with what it was in the last run.
    Leave { was: Option<Left> },
    /// The next of the files being read.
    Read { name: Vec<u8>, link: Link },
    /// An entry that needs no reading; with a signature if the cache is to keep it.
    Ready { name: Vec<u8>, node: Node, meta: Meta, signature: Option<Signature> },
    /// Entries as the last run has them.
    Same(Piece),
}

/// Files for the readers, and where to answer.
#[derive(Debug)]
pub struct Order {
    pub files: Vec<FileToRead>,
    pub answer: Sender<Vec<Result<FileRead, ReadError>>>,
}

/// Bytes that may be under way.
#[derive(Debug, Default)]
pub struct Budget {
    taken: Mutex<usize>,
    freed: Condvar,
}

impl Budget {
    /// Waits until `bytes` more fit; one request always does.
    pub fn take(&self, bytes: usize, stop: &AtomicBool) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        while *taken > 0 && *taken + bytes > AHEAD_BYTES_MAX && !stop.load(Ordering::Relaxed) {
            taken = self.freed.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        *taken += bytes;
    }

    /// Gives bytes back.
    pub fn give(&self, bytes: usize) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        *taken = taken.saturating_sub(bytes);
        drop(taken);
        self.freed.notify_all();
    }
}

/// Decides of what the walk meets.
pub struct Gatherer<'run> {
    pub cache: OldCache,
    pub links: Links,
    pub stretches: Sender<Stretch>,
    pub orders: Sender<Order>,
    pub budget: &'run Budget,
    pub progress: &'run Progress,
    pub stop: &'run AtomicBool,
    pub open: Open,
}

/// The stretch being gathered.
#[derive(Debug, Default)]
pub struct Open {
    messages: Vec<Message>,
    files: Vec<FileToRead>,
    cost_bytes: usize,
    /// Entries met one after another as the last run has them.
    same: Option<Piece>,
    same_bytes: usize,
    /// For each directory the walk is in, whether it was the same so far.
    levels: Vec<bool>,
}

/// Nobody listens any more.
#[derive(Debug)]
pub struct Closed;

impl Gatherer<'_> {
    /// Walks to the end, or until nobody listens.
    pub fn run(mut self, mut walker: Walker<'_>) {
        while let Some(step) = walker.step() {
            if self.stop.load(Ordering::Relaxed) || self.tell(step).is_err() {
                break;
            }
        }
        // Fails only when nobody listens any more: there is nobody to tell then.
        let _ = self.flush();
        count(&self.progress.excluded, walker.excluded());
    }

    fn tell(&mut self, step: Step<'_>) -> Result<(), Closed> {
        match step {
            Step::Enter { name, meta } => self.enter(name, meta),
            Step::Leave => self.leave(),
            Step::Gap(gap) => self.send(Message::Gap(gap)),
            Step::Entry { path, name, stat, dir } => self.entry(path, name, stat, dir),
        }
    }

    fn enter(&mut self, name: &[u8], meta: Meta) -> Result<(), Closed> {
        count(&self.progress.directories, 1);
        let (was, kept) = self.cache.enter(name, &encode_meta(&meta));
        if kept == Kept::Less {
            self.differs()?;
        }
        self.open.levels.push(!matches!(was, Entered::Absent));
        self.send(Message::Enter { name: name.to_vec(), meta, was })
    }

    fn leave(&mut self) -> Result<(), Closed> {
        let (was, kept) = self.cache.leave();
        if was.is_none() || kept == Kept::Less {
            self.differs()?;
        }
        self.open.levels.pop();
        self.send(Message::Leave { was })
    }

    /// Says once for each directory that it is not what it was.
    fn differs(&mut self) -> Result<(), Closed> {
        match self.open.levels.last_mut() {
            Some(same) if *same => *same = false,
            _ => return Ok(()),
        }
        self.send(Message::Differs)
    }

    fn entry(
        &mut self,
        path: &[u8],
        name: &[u8],
        stat: Stat,
        dir: &Arc<OwnedFd>,
    ) -> Result<(), Closed> {
        let (found, kept) = self.cache.find(name, &stat);
        let may_be_linked = stat.links > 1;
        if kept == Kept::Less || may_be_linked || found.is_none() {
            self.differs()?;
        }
        let link = self.links.meet(&stat, path);
        if link == Link::Forgotten && stat.kind == FileKind::File {
            self.send(Message::Gap(Gap::new(path, GapReason::LinkForgotten)))?;
        }
        if let Some(piece) = found {
            return self.unchanged(name, &stat, piece, may_be_linked.then_some(link));
        }
        match stat.kind {
            FileKind::File => self.file(name, stat, Arc::clone(dir), link),
            _ => self.other(path, name, &stat, dir, link),
        }
    }

    fn unchanged(
        &mut self,
        name: &[u8],
        stat: &Stat,
        piece: Piece,
        link: Option<Link>,
    ) -> Result<(), Closed> {
        if stat.kind == FileKind::File {
            count(&self.progress.unchanged, 1);
            count(&self.progress.unchanged_bytes, stat.size);
        }
        // Which names are one inode is another matter in every run.
        if let Some((link, entry)) = link.and_then(|link| Some((link, piece.entry()?))) {
            let meta = Meta { link_group: link.group(), ..entry.meta };
            let signature = Some(Signature::from(stat));
            let name = name.to_vec();
            return self.send(Message::Ready { name, node: entry.node, meta, signature });
        }
        if stat.kind == FileKind::File {
            count(&self.progress.files, 1);
            count(&self.progress.file_bytes, stat.size);
        } else {
            count(&self.progress.others, 1);
        }
        self.open.same_bytes += piece.bytes().len();
        if !self.open.same.as_mut().is_some_and(|same| same.extend(&piece)) {
            self.end_same();
            self.open.same = Some(piece);
        }
        if self.open.same_bytes >= STRETCH_SAME_BYTES { self.flush() } else { Ok(()) }
    }

    fn file(
        &mut self,
        name: &[u8],
        stat: Stat,
        dir: Arc<OwnedFd>,
        link: Link,
    ) -> Result<(), Closed> {
        let name = name.to_vec();
        let file = FileToRead { dir, name: name.clone() };
        if let Link::Again { group, last } = link {
            return self.send(Message::Again { name, stat, group, last, file });
        }
        let is_long = stat.size > BUNDLED_BYTES_MAX;
        let held = if is_long { 0 } else { stat.size };
        self.open.cost_bytes += usize::try_from(held).unwrap_or(0).max(FILE_COST_BYTES);
        self.open.files.push(file);
        self.send(Message::Read { name, link })?;
        // What is read while a long file is must not wait for it.
        if is_long || self.open.cost_bytes >= STRETCH_BYTES { self.flush() } else { Ok(()) }
    }

    fn other(
        &mut self,
        path: &[u8],
        name: &[u8],
        stat: &Stat,
        dir: &OwnedFd,
        link: Link,
    ) -> Result<(), Closed> {
        let mut signature = Some(Signature::from(stat));
        let xattrs = match xattrs_at(dir.as_fd(), name) {
            Ok(xattrs) => xattrs,
            Err(error) => {
                // To be told by the next run as well.
                signature = None;
                self.send(Message::Gap(Gap::new(path, GapReason::from(&error))))?;
                Xattrs::new()
            }
        };
        let (major, minor) = (stat.device_major, stat.device_minor);
        let node = match stat.kind {
            FileKind::BlockDevice => Node::BlockDevice { major, minor },
            FileKind::CharDevice => Node::CharDevice { major, minor },
            FileKind::Fifo => Node::Fifo,
            FileKind::Socket => Node::Socket,
            FileKind::Symlink | FileKind::File | FileKind::Directory => {
                match rustix::fs::readlinkat(dir.as_fd(), name, Vec::new()) {
                    Ok(target) => Node::Symlink { target: target.into_bytes() },
                    Err(errno) => {
                        let reason = GapReason::from(&std::io::Error::from(errno));
                        return self.send(Message::Gap(Gap::new(path, reason)));
                    }
                }
            }
        };
        let own = Own { xattrs, ..Own::default() };
        let meta = meta_of(stat, own, link.group());
        self.send(Message::Ready { name: name.to_vec(), node, meta, signature })
    }

    fn end_same(&mut self) {
        self.open.messages.extend(self.open.same.take().map(Message::Same));
    }

    fn send(&mut self, message: Message) -> Result<(), Closed> {
        self.end_same();
        self.open.messages.push(message);
        if self.open.messages.len() >= STRETCH_MESSAGES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Closed> {
        self.end_same();
        self.open.same_bytes = 0;
        let messages = std::mem::take(&mut self.open.messages);
        let files = std::mem::take(&mut self.open.files);
        let cost_bytes = std::mem::take(&mut self.open.cost_bytes);
        if messages.is_empty() {
            return Ok(());
        }
        let reads = if files.is_empty() {
            None
        } else {
            self.budget.take(cost_bytes, self.stop);
            let (answer, ticket) = bounded(1);
            self.orders.send(Order { files, answer }).map_err(|_| Closed)?;
            Some(ticket)
        };
        self.stretches.send(Stretch { messages, reads, cost_bytes }).map_err(|_| Closed)
    }
}

/// Bytes of content.
pub fn size_of(content: &FileContent) -> u64 {
    match content {
        FileContent::Inline(bytes) => bytes.len() as u64,
        FileContent::Extents(extents) => extents.iter().map(|extent| extent.length()).sum(),
        FileContent::Listed { size, .. } => *size,
    }
}
