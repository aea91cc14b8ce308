//! The stream of a backup, read ahead by a thread of its own so that the network and the cutting
//! do not wait for one another; then as archives to read, one after another.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use crate::workload::postgres::wire::link::WireError;
use crate::workload::postgres::wire::talk::{Ended, Piece, Talk};

/// Pieces read ahead: of 32 KiB each they take 8 MiB.
const QUEUED_MAX: usize = 256;
/// A manifest has two hundred bytes for each file.
const MANIFEST_BYTES_MAX: usize = 1 << 30;

/// What comes next in a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Part {
    /// An archive, to be read until it ends.
    Archive {
        name: String,
    },
    Manifest,
}

/// The pieces that were read ahead.
pub(super) struct Queue {
    pieces: Receiver<Piece>,
    piece: Vec<u8>,
    used: usize,
    /// What begins where the last part ended.
    next: Option<Part>,
}

/// Who reads ahead, and how the backup ended; without an end where nobody wanted more.
pub(super) type Ahead<'scope> = ScopedJoinHandle<'scope, Result<Option<Ended>, WireError>>;

impl Queue {
    /// Reads a backup ahead, up to its end.
    pub(super) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        talk: &'scope mut Talk,
    ) -> (Self, Ahead<'scope>) {
        let (sender, pieces) = sync_channel(QUEUED_MAX);
        let ahead = scope.spawn(move || ahead(talk, &sender));
        (Self { pieces, piece: Vec::new(), used: 0, next: None }, ahead)
    }

    /// The next part; none at the end of the stream, or where it broke off.
    ///
    /// # Errors
    /// Bytes that belong to no part.
    pub(super) fn part(&mut self) -> io::Result<Option<Part>> {
        if let Some(next) = self.next.take() {
            return Ok(Some(next));
        }
        if self.fill()? {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "bytes outside of an archive"));
        }
        Ok(self.next.take())
    }

    /// The manifest, once it has begun.
    ///
    /// # Errors
    /// It is longer than any is.
    pub(super) fn manifest(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.by_ref().take(MANIFEST_BYTES_MAX as u64).read_to_end(&mut bytes)?;
        match bytes.len() < MANIFEST_BYTES_MAX {
            true => Ok(bytes),
            false => Err(io::Error::new(io::ErrorKind::InvalidData, "the manifest does not end")),
        }
    }

    /// Whether there are bytes of the part that is being read.
    fn fill(&mut self) -> io::Result<bool> {
        while self.used == self.piece.len() {
            if self.next.is_some() {
                return Ok(false);
            }
            match self.pieces.recv() {
                Ok(Piece::Bytes(bytes)) => (self.piece, self.used) = (bytes, 0),
                Ok(Piece::Archive { name }) => self.next = Some(Part::Archive { name }),
                Ok(Piece::Manifest) => self.next = Some(Part::Manifest),
                Err(_) => return Ok(false),
            }
        }
        Ok(true)
    }
}

impl Read for Queue {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.fill()? {
            return Ok(0);
        }
        let mut rest = self.piece.get(self.used..).unwrap_or_default();
        let read = rest.read(buffer)?;
        self.used += read;
        Ok(read)
    }
}

fn ahead(talk: &mut Talk, pieces: &SyncSender<Piece>) -> Result<Option<Ended>, WireError> {
    while let Some(piece) = talk.piece()? {
        if pieces.send(piece).is_err() {
            return Ok(None);
        }
    }
    talk.end_backup().map(Some)
}
