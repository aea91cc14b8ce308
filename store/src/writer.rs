//! One thread that writes a repository's packs. Records come through a queue bounded in bytes;
//! a barrier closes and syncs everything accepted before it and answers all who wait at once. A
//! full or failing disk costs what could not be kept, says so to those who wait, and the writer
//! goes on when there is room again. Packs get their name only once their bytes are durable.

mod open_pack;
mod runner;
mod settle;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use strongroom_protocol::id::{ChunkId, RepoId};

use crate::budget::{ByteBudget, BytePermit};
use crate::disk::{Disk, DiskError};
use crate::index::{Accept, Index};
use crate::pack::PackClass;
use crate::seal::Sealed;
use open_pack::OpenPack;
use runner::Runner;
use settle::Settling;

/// Sizes the writer keeps to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriterLimits {
    /// A data pack is closed at the first record that reaches this.
    pub data_pack_bytes: u64,
    /// The same for metadata packs.
    pub metadata_pack_bytes: u64,
    /// Bytes of records that may wait for the writer.
    pub queue_bytes: usize,
}

impl Default for WriterLimits {
    /// 64 MiB and 8 MiB packs; a queue of half a data pack, so that a slow sync is bridged.
    fn default() -> Self {
        Self { data_pack_bytes: 64 << 20, metadata_pack_bytes: 8 << 20, queue_bytes: 32 << 20 }
    }
}

/// Bytes one queued record is counted with besides its own: small ones must not pile up.
const RECORD_OVERHEAD_BYTES: usize = 256;

/// Why a barrier did not hold.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// No room; what could not be kept has to be sent again.
    #[error("the disk is full at {path}")]
    Full { path: String, source: Arc<DiskError> },
    /// The disk failed; what could not be kept has to be sent again.
    #[error("the disk failed at {path}")]
    Disk { path: String, source: Arc<DiskError> },
    /// The writer's thread is gone.
    #[error("the repository's writer has stopped")]
    Gone,
}

impl From<DiskError> for WriteError {
    fn from(error: DiskError) -> Self {
        let path = error.path.clone();
        let source = Arc::new(error);
        if source.is_full() { Self::Full { path, source } } else { Self::Disk { path, source } }
    }
}

enum Message {
    Barrier(Sender<Result<(), WriteError>>),
    DirtyDirs(Vec<String>),
    Record(Sealed, BytePermit),
    Stop,
}

/// The way to the writer's thread.
pub(crate) struct Writer {
    sender: Sender<Message>,
    budget: Arc<ByteBudget>,
    failing: Arc<AtomicBool>,
    index: Arc<Index>,
    runner: Runner,
}

impl Writer {
    /// Starts the thread. `first_file` is a number no file in `tmp/` bears.
    pub(crate) fn start(
        disk: Arc<dyn Disk>,
        index: Arc<Index>,
        repo: RepoId,
        limits: WriterLimits,
        first_file: u64,
    ) -> Result<Self, std::io::Error> {
        let (sender, receiver) = unbounded();
        let failing = Arc::new(AtomicBool::new(false));
        let work = Work {
            settling: Settling::new(Arc::clone(&disk), Arc::clone(&index), repo),
            disk,
            index: Arc::clone(&index),
            repo,
            limits,
            next_file: first_file,
            open: [None, None],
            failure: None,
            failing: Arc::clone(&failing),
        };
        let runner = Runner::start(work, receiver)?;
        let budget = ByteBudget::new(limits.queue_bytes);
        Ok(Self { sender, budget, failing, index, runner })
    }

    /// Queues a record unless the index has its id; waits for room in the queue. While the disk
    /// fails, it waits for the outcome too.
    pub(crate) fn accept(&self, record: Sealed, seen_losses: u64) -> Result<Accept, WriteError> {
        let probing = self.failing.load(Ordering::SeqCst);
        let permit = self.budget.take(record.bytes.len() + RECORD_OVERHEAD_BYTES);
        let (id, kind) = (record.id, record.kind);
        let mut sent = true;
        let accepted = self.index.accept(id, kind, seen_losses, || {
            sent = self.sender.send(Message::Record(record, permit)).is_ok();
        });
        if !sent {
            self.index.forget_pending(std::iter::once(id));
            return Err(WriteError::Gone);
        }
        if probing && accepted == Accept::Taken {
            self.barrier()?;
        }
        Ok(accepted)
    }

    /// Queues a record that is here already, to be in another pack too.
    pub(crate) fn copy(&self, record: Sealed) -> Result<(), WriteError> {
        let permit = self.budget.take(record.bytes.len() + RECORD_OVERHEAD_BYTES);
        self.index.note_copying(record.id);
        self.sender.send(Message::Record(record, permit)).map_err(|_| WriteError::Gone)
    }

    /// Waits until everything accepted before is durable.
    pub(crate) fn barrier(&self) -> Result<(), WriteError> {
        let (sender, receiver) = bounded(1);
        self.sender.send(Message::Barrier(sender)).map_err(|_| WriteError::Gone)?;
        self.runner.work_off();
        receiver.recv().map_err(|_| WriteError::Gone)?
    }

    /// What failed since the last barrier, told now to whoever would meet its consequences.
    pub(crate) fn failed(&self) -> Result<(), WriteError> {
        match self.failing.load(Ordering::SeqCst) {
            true => self.barrier(),
            false => Ok(()),
        }
    }

    /// Directories the next barrier has to sync.
    pub(crate) fn dirty_dirs(&self, dirs: Vec<String>) -> Result<(), WriteError> {
        self.sender.send(Message::DirtyDirs(dirs)).map_err(|_| WriteError::Gone)
    }

    /// Settles what is open and ends the thread.
    pub(crate) fn stop(&self) {
        drop(self.sender.send(Message::Stop));
        self.runner.join();
    }
}

/// What the thread owns.
struct Work {
    disk: Arc<dyn Disk>,
    index: Arc<Index>,
    repo: RepoId,
    limits: WriterLimits,
    next_file: u64,
    open: [Option<OpenPack>; 2],
    settling: Settling,
    failure: Option<WriteError>,
    failing: Arc<AtomicBool>,
}

/// Whether the thread goes on.
#[derive(PartialEq, Eq)]
enum Onward {
    Stop,
    Work,
}

impl Work {
    /// Does what a message asks, and answers all barriers that wait.
    fn turn(&mut self, message: Message, receiver: &Receiver<Message>) -> Onward {
        let mut waiting = Vec::new();
        let mut onward = self.take(message, &mut waiting);
        if !waiting.is_empty() {
            // What is queued already rides along: one sync answers all its barriers.
            for message in receiver.try_iter().take(receiver.len()) {
                if self.take(message, &mut waiting) == Onward::Stop {
                    onward = Onward::Stop;
                }
            }
            let outcome = self.settle();
            for sender in waiting.drain(..) {
                drop(sender.send(outcome.clone()));
            }
        }
        if onward == Onward::Stop
            && let Err(error) = self.settle()
        {
            tracing::warn!(%error, "what was not committed could not be kept");
        }
        onward
    }

    fn take(
        &mut self,
        message: Message,
        waiting: &mut Vec<Sender<Result<(), WriteError>>>,
    ) -> Onward {
        match message {
            Message::Barrier(sender) => waiting.push(sender),
            Message::DirtyDirs(dirs) => self.settling.dirty(dirs),
            Message::Record(record, permit) => {
                self.append(&record);
                drop(permit);
            }
            Message::Stop => return Onward::Stop,
        }
        Onward::Work
    }

    fn append(&mut self, record: &Sealed) {
        let class = PackClass::of(record.kind);
        if let Err(error) = self.try_append(class, record) {
            self.note(error);
            self.salvage(class);
            // The record may not have come as far as the pack.
            self.lose([record.id]);
        }
    }

    fn try_append(&mut self, class: PackClass, record: &Sealed) -> Result<(), DiskError> {
        if self.slot(class).as_ref().is_some_and(|pack| !pack.has_room(record)) {
            self.close(class)?;
        }
        if self.slot(class).is_none() {
            let letter = class.directory();
            let path = format!("tmp/{letter}-{:08}.open", self.next_file);
            self.next_file += 1;
            let pack = OpenPack::create(&*self.disk, path, self.repo, class, record.epoch)?;
            *self.slot(class) = Some(pack);
        }
        let target = match class {
            PackClass::Data => self.limits.data_pack_bytes,
            PackClass::Metadata => self.limits.metadata_pack_bytes,
        };
        let Some(pack) = self.slot(class) else { return Ok(()) };
        pack.append(record)?;
        if pack.len() >= target { self.close(class) } else { Ok(()) }
    }

    const fn slot(&mut self, class: PackClass) -> &mut Option<OpenPack> {
        let [data, metadata] = &mut self.open;
        match class {
            PackClass::Data => data,
            PackClass::Metadata => metadata,
        }
    }

    /// Closes the open pack; it gets its name at the next barrier, or earlier when many wait.
    fn close(&mut self, class: PackClass) -> Result<(), DiskError> {
        let Some(pack) = self.slot(class) else { return Ok(()) };
        pack.write_footer()?;
        if let Some(pack) = self.slot(class).take() {
            self.settling.push(pack.into_closed());
        }
        self.settling.settle_excess()
    }

    /// After a failed write: keeps what is whole in the open pack, gives up the rest.
    fn salvage(&mut self, class: PackClass) {
        let Some(pack) = self.slot(class).take() else { return };
        let all: Vec<ChunkId> = pack.ids().collect();
        let kept = open_pack::salvage(&*self.disk, self.repo, pack);
        let lost: Vec<ChunkId> = match &kept {
            Some(closed) => all.into_iter().filter(|id| !closed.holds(id)).collect(),
            None => all,
        };
        if let Some(closed) = kept {
            self.settling.push(closed);
        }
        self.lose(lost);
    }

    /// Gives ids up, but those that a kept pack holds.
    fn lose(&self, ids: impl IntoIterator<Item = ChunkId>) {
        let lost: Vec<ChunkId> =
            ids.into_iter().filter(|id| !self.settling.holds(id) && !self.open_holds(id)).collect();
        if !lost.is_empty() {
            self.index.forget_pending(lost.into_iter());
        }
    }

    fn open_holds(&self, id: &ChunkId) -> bool {
        self.open.iter().flatten().any(|pack| pack.ids().any(|held| held == *id))
    }

    fn note(&mut self, error: DiskError) {
        tracing::warn!(path = %error.path, error = %error.source, "cannot write a pack");
        self.failing.store(true, Ordering::SeqCst);
        self.failure.get_or_insert_with(|| error.into());
    }

    /// The barrier: closes the open packs and makes everything durable.
    fn settle(&mut self) -> Result<(), WriteError> {
        for class in [PackClass::Data, PackClass::Metadata] {
            if let Err(error) = self.close(class) {
                self.note(error);
                self.salvage(class);
            }
        }
        if let Err(error) = self.settling.settle_all() {
            self.note(error);
        }
        let outcome = self.failure.take().map_or(Ok(()), Err);
        self.failing.store(outcome.is_err(), Ordering::SeqCst);
        outcome
    }
}
