//! Fetches what a reader that goes forward will want next, many chunks in a question and several
//! questions under way. Promises that what is on its way fits the room there is, shared by all
//! who read in order; a read ahead that fails is nobody's failure, for who wants it asks again.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TrySendError};
use strongroom_store::tree::SourceError;

use super::Source;
use super::kept::Claim;

/// Threads that fetch ahead: each opens what it fetched, while others wait for the far end.
const THREADS: usize = 4;
/// Questions waiting for a thread; what finds no place is not fetched ahead.
const BATCHES_WAITING: usize = 64;
/// Bytes of chunks in a question, so that all threads have some of what one reader wants.
pub(super) const BATCH_BYTES: usize = 4 << 20;
/// How far is read ahead first; twice as far with every read that follows.
const WINDOW_BYTES_FIRST: u64 = 1 << 20;
/// After so many the window is the widest there is.
const DOUBLINGS_MAX: u32 = 4;
/// How far at most, for one reader: the room of 150 ms at 100 MB/s.
const WINDOW_BYTES_MAX: u64 = 16 << 20;
/// Below this nothing is read ahead: a share smaller than a chunk would be lost before its use.
const WINDOW_BYTES_MIN: u64 = 512 << 10;
/// How far a read may be from where the last one ended: a kernel has several under way and
/// they come in any order.
const SLACK_BYTES: u64 = 2 << 20;

/// The claim to a chunk, with the room it takes on its way.
pub(super) struct Wanted {
    pub(super) claim: Claim<Bytes, SourceError>,
    pub(super) room: Room,
}

/// The threads, and the room for what they fetch.
pub(super) struct Ahead {
    batches: Option<Sender<Vec<Wanted>>>,
    threads: Vec<JoinHandle<()>>,
    taken_bytes: Arc<AtomicUsize>,
    bytes_max: usize,
    /// Files read in order now.
    flowing: AtomicUsize,
}

/// Room that is given back when dropped.
pub(super) struct Room {
    taken_bytes: Arc<AtomicUsize>,
    bytes: usize,
}

impl Ahead {
    /// Fetches at most `bytes_max` bytes at a time.
    pub(super) fn new(source: &Source, bytes_max: usize) -> io::Result<Self> {
        let (batches, waiting) = crossbeam_channel::bounded(BATCHES_WAITING);
        let spawn = |number| {
            let (source, waiting) = (Arc::clone(source), waiting.clone());
            let builder = std::thread::Builder::new().name(format!("ahead-{number}"));
            builder.spawn(move || work(&source, &waiting))
        };
        let threads = (0..THREADS).map(spawn).collect::<io::Result<_>>()?;
        let (taken_bytes, flowing) = (Arc::default(), AtomicUsize::new(0));
        Ok(Self { batches: Some(batches), threads, taken_bytes, bytes_max, flowing })
    }

    /// Room for a chunk of `bytes`, if there is any.
    pub(super) fn room(&self, bytes: usize) -> Option<Room> {
        let more = |taken: usize| taken.checked_add(bytes).filter(|sum| *sum <= self.bytes_max);
        self.taken_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Room { taken_bytes: Arc::clone(&self.taken_bytes), bytes })
    }

    /// Has a batch fetched, or forgets it where too many wait already.
    pub(super) fn fetch(&self, batch: Vec<Wanted>) {
        let Some(batches) = self.batches.as_ref().filter(|_| !batch.is_empty()) else { return };
        if let Err(TrySendError::Full(batch) | TrySendError::Disconnected(batch)) =
            batches.try_send(batch)
        {
            tracing::trace!(chunks = batch.len(), "not read ahead: too much waits already");
        }
    }

    /// How far one of those who read in order may read ahead; none where it is not worth it.
    fn window_bytes_max(&self) -> Option<u64> {
        let flowing = self.flowing.load(Ordering::Relaxed).max(1);
        let share = (self.bytes_max / flowing) as u64;
        Some(share.min(WINDOW_BYTES_MAX)).filter(|bytes| *bytes >= WINDOW_BYTES_MIN)
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        drop(self.batches.take());
        for thread in self.threads.drain(..) {
            // A thread that panicked gave up its claims; nothing is left to do for it.
            let _ = thread.join();
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.taken_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

fn work(source: &Source, waiting: &Receiver<Vec<Wanted>>) {
    for batch in waiting {
        let ids = batch.iter().map(|wanted| wanted.claim.id()).collect();
        let mut wanted: HashMap<_, _> =
            batch.into_iter().map(|wanted| (wanted.claim.id(), wanted)).collect();
        let coming = source.gather(ids);
        while let Some((id, chunk)) = coming.next() {
            let Some(Wanted { claim, room }) = wanted.remove(&id) else { continue };
            match chunk {
                Ok(plain) => {
                    let bytes = plain.len();
                    claim.keep(plain, bytes);
                }
                Err(error) => tracing::debug!(chunk = %id, %error, "could not be read ahead"),
            }
            drop(room);
        }
    }
}

/// How a file is being read.
#[derive(Default)]
pub(super) struct Flow {
    /// Where the read comes that would be in order.
    next: u64,
    /// Reads in order so far.
    in_order: u32,
    /// Up to where was asked ahead.
    asked: u64,
    flowing: bool,
}

impl Flow {
    /// Takes note of a read of `read` in a file of `size` bytes; what to ask for ahead, if
    /// anything. The caller says with [`Flow::asked`] how far it came.
    pub(super) fn note(&mut self, read: &Range<u64>, size: u64, all: &Ahead) -> Option<Range<u64>> {
        let near = read.start <= self.next.saturating_add(SLACK_BYTES)
            && read.end.saturating_add(SLACK_BYTES) >= self.next;
        if near {
            self.in_order = self.in_order.saturating_add(1);
            self.next = self.next.max(read.end);
        } else {
            (self.in_order, self.next, self.asked) = (1, read.end, 0);
        }
        let flowing = self.in_order >= 2 && self.next < size;
        self.flow(flowing, all);
        if !flowing {
            return None;
        }
        let doubled = WINDOW_BYTES_FIRST << (self.in_order - 2).min(DOUBLINGS_MAX);
        let window = doubled.min(all.window_bytes_max()?);
        // Asked for in halves of the window, so that questions are few and never too late.
        if self.asked > self.next + window / 2 {
            return None;
        }
        let range = self.asked.max(self.next)..(self.next + window).min(size);
        (range.start < range.end).then_some(range)
    }

    /// Says up to where was asked.
    pub(super) fn asked(&mut self, upto: u64) {
        self.asked = self.asked.max(upto);
    }

    /// Ends it: the file is read no more.
    pub(super) fn end(&mut self, all: &Ahead) {
        self.flow(false, all);
    }

    fn flow(&mut self, flowing: bool, all: &Ahead) {
        match (self.flowing, flowing) {
            (false, true) => drop(all.flowing.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(all.flowing.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
        self.flowing = flowing;
    }
}

/// The flow behind a lock that a panicked reader may have left.
pub(super) fn flow_of(lock: &Mutex<Flow>) -> MutexGuard<'_, Flow> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use strongroom_store::tree::MemoryBlobs;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn ahead(bytes_max: usize) -> Ahead {
        let source: Source = Arc::new(MemoryBlobs::new());
        Ahead::new(&source, bytes_max).unwrap()
    }

    #[test]
    fn reading_in_order_is_read_ahead_of_ever_further_and_reading_anywhere_is_not() {
        let (all, size) = (ahead(64 << 20), 1 << 30);
        let mut flow = Flow::default();
        assert_eq!(flow.note(&(0..MIB), size, &all), None, "one read is no order");
        assert_eq!(flow.note(&(MIB..2 * MIB), size, &all), Some(2 * MIB..3 * MIB));
        flow.asked(3 * MIB);
        assert_eq!(flow.note(&(2 * MIB..3 * MIB), size, &all), Some(3 * MIB..5 * MIB));
        flow.asked(5 * MIB);
        assert_eq!(flow.note(&(512 * MIB..513 * MIB), size, &all), None, "a jump");
        assert_eq!(flow.note(&(8 * MIB..9 * MIB), size, &all), None, "and another");
        assert_eq!(all.flowing.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn reads_that_overtake_each_other_are_in_order_and_the_end_of_the_file_is_the_end() {
        let (all, size) = (ahead(64 << 20), 4 * MIB);
        let mut flow = Flow::default();
        flow.note(&(MIB..2 * MIB), size, &all);
        let asked = flow.note(&(0..MIB), size, &all);
        assert_eq!(asked, Some(2 * MIB..3 * MIB));
        flow.asked(3 * MIB);
        assert_eq!(flow.note(&(2 * MIB..3 * MIB), size, &all), Some(3 * MIB..4 * MIB));
        flow.asked(4 * MIB);
        assert_eq!(flow.note(&(3 * MIB..4 * MIB), size, &all), None);
        assert_eq!(all.flowing.load(Ordering::Relaxed), 0, "who is at the end flows no more");
    }

    #[test]
    fn the_room_is_shared_and_given_back() {
        let all = ahead(8 << 20);
        let rooms: Vec<Room> = (0..8).map(|_| all.room(1 << 20).unwrap()).collect();
        assert!(all.room(1).is_none());
        drop(rooms);
        assert!(all.room(8 << 20).is_some());
        let mut flows: Vec<Flow> = (0..64).map(|_| Flow::default()).collect();
        for flow in &mut flows {
            flow.note(&(0..1), 1 << 30, &all);
            flow.note(&(1..2), 1 << 30, &all);
        }
        assert_eq!(all.window_bytes_max(), None, "a share would be smaller than a chunk");
        flows.iter_mut().for_each(|flow| flow.end(&all));
        assert_eq!(all.window_bytes_max(), Some(8 << 20));
    }
}
