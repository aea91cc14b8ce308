//! A part of a restore of bounded size: which chunks go where. Every chunk is had once and
//! written to all its places, in whatever order chunks come. Promises that a chunk that cannot
//! be had costs exactly the files that need it.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use strongroom_protocol::ChunkId;
use strongroom_store::tree::Gather;

use crate::restore::Shared;
use crate::restore::file::File;

/// Files planned at once: some 3 MiB of plan, and with files of 4 KiB 32 MiB of data.
const FILES_MAX: usize = 8192;
/// Pieces planned at once: some 4 MiB of plan.
const PIECES_MAX: usize = 32_768;

/// A stretch of a file that is a stretch of a chunk.
pub(crate) struct Piece {
    pub(crate) file: Arc<File>,
    pub(crate) at: u64,
    pub(crate) offset: u32,
    pub(crate) length: u32,
}

impl Piece {
    fn write(&self, chunk: &[u8], scratch: &mut Vec<u8>) {
        let from = self.offset as usize;
        match chunk.get(from..from + self.length as usize) {
            Some(bytes) => self.file.put(bytes, self.at, scratch),
            None => self.file.fail(&std::io::Error::from(std::io::ErrorKind::UnexpectedEof)),
        }
    }
}

/// What needs no chunk.
pub(crate) enum Task {
    /// A stretch without data where there may be some.
    Hole { file: Arc<File>, at: u64, length: u64 },
    /// A beginning of a file, or all of it, that came with its entry.
    Write { file: Arc<File>, bytes: Vec<u8> },
}

impl Task {
    fn carry_out(self, scratch: &mut Vec<u8>) {
        match self {
            Self::Hole { file, at, length } => file.punch(at, length),
            Self::Write { file, bytes } => file.put(&bytes, 0, scratch),
        }
    }
}

/// A window being planned.
#[derive(Default)]
pub(crate) struct Window {
    pub(crate) chunks: HashMap<ChunkId, Vec<Piece>>,
    pub(crate) tasks: Vec<Task>,
    pub(crate) files: usize,
    pub(crate) pieces: usize,
    /// Directories entered and files of several pieces: each holds a descriptor.
    pub(crate) descriptors: usize,
    /// Whether any of it may be there already.
    pub(crate) may_hold_some: bool,
}

impl Window {
    pub(crate) const fn is_full(&self, descriptors_max: usize) -> bool {
        self.files >= FILES_MAX
            || self.pieces + self.tasks.len() >= PIECES_MAX
            || self.descriptors >= descriptors_max
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.tasks.is_empty()
    }

    pub(crate) fn add(&mut self, chunk: ChunkId, piece: Piece) {
        self.may_hold_some |= piece.file.may_hold_some();
        self.pieces += 1;
        self.chunks.entry(chunk).or_default().push(piece);
    }
}

/// A window being carried out, by all writers together.
pub(crate) struct Work<'s> {
    chunks: Mutex<HashMap<ChunkId, Vec<Piece>>>,
    tasks: Mutex<std::vec::IntoIter<Task>>,
    coming: Box<dyn Gather + 's>,
}

impl<'s> Work<'s> {
    pub(crate) fn new(window: Window, coming: Box<dyn Gather + 's>) -> Self {
        let (chunks, tasks) = (Mutex::new(window.chunks), Mutex::new(window.tasks.into_iter()));
        Self { chunks, tasks, coming }
    }

    /// Does a writer's share.
    pub(crate) fn carry_out(&self, shared: &Shared, scratch: &mut Vec<u8>) {
        while !shared.stopped() {
            let task = self.tasks.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(task) = task else { break };
            task.carry_out(scratch);
        }
        while !shared.stopped() {
            let Some((id, chunk)) = self.coming.next() else { break };
            let pieces = self.chunks.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            let pieces = pieces.unwrap_or_default();
            match chunk {
                Ok(chunk) => {
                    shared.progress.chunks_fetched.fetch_add(1, Ordering::Relaxed);
                    shared.progress.bytes_fetched.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                    deliver(&chunk, pieces, scratch);
                }
                Err(error) => pieces.iter().for_each(|piece| piece.file.fail(&error)),
            }
        }
    }
}

/// Writes a chunk to all its places; each file that has its last piece is finished.
pub(crate) fn deliver(chunk: &Bytes, pieces: Vec<Piece>, scratch: &mut Vec<u8>) {
    for piece in pieces {
        piece.write(chunk, scratch);
    }
}
