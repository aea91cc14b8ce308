//! Packs of a repository read ahead of a drive, so that it streams: several readers fill a
//! bounded window in the order in which packs are written, while it drains. Promises that no
//! more than the window is in memory, that what is read again (a pack that did not fit on one
//! medium) comes all the same, and that readers end with the work, also when it panics.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use strongroom_protocol::PackId;

use crate::media::RepoPack;
use crate::repo::{Repo, RepoError};

/// What is read at once: what a drive takes as a few blocks.
const PIECE_BYTES: u64 = 1 << 20;
/// Pieces read ahead at most: a quarter of a second of a drive of 250 MB/s, and no more memory
/// than a proxy has to spare.
const WINDOW: u64 = 48;
/// Reads under way at once: each waits for the disk, and what they do besides is one copy.
const READERS: usize = 3;

/// Packs in the order in which they will be asked for, being read ahead.
pub struct Spool<'a> {
    repo: &'a Repo,
    packs: Vec<Planned>,
    /// Of all packs.
    pieces: u64,
    state: Mutex<State>,
    changed: Condvar,
}

struct Planned {
    pack: PackId,
    bytes: u64,
    /// The number of its first piece among those of all packs.
    first: u64,
}

#[derive(Default)]
struct State {
    /// The next piece to be read.
    next: u64,
    /// Everything before this is not asked for any more, but by going back.
    drained: u64,
    /// What was read; nothing where a reader came to grief over it.
    ready: BTreeMap<u64, Option<Result<Bytes, RepoError>>>,
    ended: bool,
    /// How long the drive's side waited for a piece.
    waited: Duration,
}

/// Ends the readers, whatever became of the work.
struct End<'s, 'a>(&'s Spool<'a>);

impl Drop for End<'_, '_> {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.changed.notify_all();
    }
}

/// A piece being read: whatever becomes of its reader, who waits for it hears of it.
struct Claimed<'s, 'a> {
    spool: &'s Spool<'a>,
    piece: u64,
    read: Option<Result<Bytes, RepoError>>,
}

impl Drop for Claimed<'_, '_> {
    fn drop(&mut self) {
        let mut state = self.spool.lock();
        if self.piece >= state.drained {
            state.ready.insert(self.piece, self.read.take());
        }
        drop(state);
        self.spool.changed.notify_all();
    }
}

impl<'a> Spool<'a> {
    /// Reads `packs` (with their lengths in bytes) ahead while `work` takes them.
    pub fn run<T>(
        repo: &'a Repo,
        packs: impl IntoIterator<Item = (PackId, u64)>,
        work: impl FnOnce(&Self) -> T,
    ) -> T {
        let mut pieces = 0;
        let planned = packs.into_iter().map(|(pack, bytes)| {
            let first = pieces;
            pieces += bytes.div_ceil(PIECE_BYTES);
            Planned { pack, bytes, first }
        });
        let packs = planned.collect();
        let state = Mutex::new(State::default());
        let spool = Self { repo, packs, pieces, state, changed: Condvar::new() };
        std::thread::scope(|scope| {
            let _end = End(&spool);
            for _ in 0..READERS {
                scope.spawn(|| spool.read());
            }
            work(&spool)
        })
    }

    /// The packs in their order, with their lengths; one that the repository does not have is
    /// an error of its own. What is passed over is let go.
    pub fn packs(&self) -> impl Iterator<Item = (PackId, u64, Result<SpooledPack<'_>, RepoError>)> {
        self.packs.iter().map(move |planned| {
            let opened = RepoPack::new(self.repo, planned.pack).map(|direct| {
                let (spool, first) = (self, planned.first);
                SpooledPack { spool, first, at: 0, held: None, start: None, direct }
            });
            (planned.pack, planned.bytes, opened)
        })
    }

    /// How long whoever took packs waited for the repository.
    pub fn waited(&self) -> Duration {
        self.lock().waited
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) {
        while let Some(piece) = self.claim() {
            let mut claimed = Claimed { spool: self, piece, read: None };
            claimed.read = Some(self.fetch(piece));
        }
    }

    /// The next piece, once there is room for it.
    fn claim(&self) -> Option<u64> {
        let mut state = self.lock();
        loop {
            state.next = state.next.max(state.drained);
            if state.ended || state.next >= self.pieces {
                return None;
            }
            if state.next < state.drained + WINDOW {
                state.next += 1;
                return Some(state.next - 1);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn fetch(&self, piece: u64) -> Result<Bytes, RepoError> {
        let behind = self.packs.partition_point(|planned| planned.first <= piece);
        // A pack of no bytes begins where the next one does: the last that begins there has it.
        let Some(planned) = behind.checked_sub(1).and_then(|place| self.packs.get(place)) else {
            return Ok(Bytes::new());
        };
        let at = (piece - planned.first) * PIECE_BYTES;
        let bytes = PIECE_BYTES.min(planned.bytes.saturating_sub(at));
        self.repo.read_pack(planned.pack, at, usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    /// A piece that was not taken yet, waited for; none where it was.
    fn take(&self, piece: u64) -> Option<Result<Bytes, RepoError>> {
        let began = Instant::now();
        let mut state = self.lock();
        if piece < state.drained || piece >= self.pieces {
            return None;
        }
        if piece > state.drained {
            state.drained = piece;
            state.ready = state.ready.split_off(&piece);
            self.changed.notify_all();
        }
        loop {
            if let Some(read) = state.ready.remove(&piece) {
                state.drained = piece + 1;
                state.waited += began.elapsed();
                drop(state);
                self.changed.notify_all();
                return read;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// One pack out of a spool; what was taken already is read from the repository again.
pub struct SpooledPack<'s> {
    spool: &'s Spool<'s>,
    first: u64,
    at: u64,
    held: Option<(u64, Bytes)>,
    /// The first piece: a pack's head is looked at before the pack is written.
    start: Option<Bytes>,
    direct: RepoPack<'s>,
}

impl SpooledPack<'_> {
    /// The piece at the position.
    fn piece(&mut self, number: u64) -> io::Result<Option<Bytes>> {
        if let Some((_, bytes)) = self.held.as_ref().filter(|(held, _)| *held == number) {
            return Ok(Some(bytes.clone()));
        }
        let bytes = match (&self.start, number) {
            (Some(start), 0) => start.clone(),
            _ => match self.spool.take(self.first + number) {
                Some(read) => read.map_err(io::Error::other)?,
                None => return Ok(None),
            },
        };
        if number == 0 {
            self.start = Some(bytes.clone());
        }
        self.held = Some((number, bytes.clone()));
        Ok(Some(bytes))
    }
}

impl Read for SpooledPack<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at >= RepoPack::bytes(&self.direct) {
            return Ok(0);
        }
        let Some(piece) = self.piece(self.at / PIECE_BYTES)? else {
            self.direct.seek(SeekFrom::Start(self.at))?;
            let bytes = self.direct.read(into)?;
            self.at += bytes as u64;
            return Ok(bytes);
        };
        let within = usize::try_from(self.at % PIECE_BYTES).map_err(io::Error::other)?;
        let there = piece.get(within..).unwrap_or_default();
        let bytes = there.len().min(into.len());
        into[..bytes].copy_from_slice(&there[..bytes]);
        self.at += bytes as u64;
        Ok(bytes)
    }
}

impl Seek for SpooledPack<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let from_start = match to {
            SeekFrom::Current(by) => self.at.checked_add_signed(by).map(SeekFrom::Start),
            other => Some(other),
        };
        self.at = self.direct.seek(from_start.ok_or(io::ErrorKind::InvalidInput)?)?;
        Ok(self.at)
    }
}
