//! A client of network block devices, as far as a backup needs one: what lies where, what
//! changed, and the bytes, several reads on their way at once. Promises bounded memory and an
//! end whatever the server says; trusts no length of its.

mod hello;
mod reply;

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::ops::ControlFlow;

use reply::{Chunk, Payload};

/// Reads that are on their way at once: QEMU takes sixteen of one client.
const READS_MAX: usize = 16;
/// Longest read, in bytes.
pub const READ_BYTES_MAX: u32 = 1 << 20;
/// Longest stretch asked about at once, in bytes.
const STATUS_BYTES_MAX: u64 = 1 << 30;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const READ: u16 = 0;
const DISCONNECT: u16 = 2;
const BLOCK_STATUS: u16 = 7;

/// Why a device cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NbdError {
    /// The connection.
    #[error("the connection to the block device broke")]
    Connection(#[from] io::Error),
    /// The device.
    #[error("the block device cannot be read at byte {offset} (error {errno}: {why})")]
    Device { offset: u64, errno: u32, why: String },
    /// Not what the protocol has there.
    #[error("the server of the block device breaks the protocol: {what}")]
    Protocol { what: &'static str },
    /// The server lacks something that is needed.
    #[error("the server of the block device refused {what}: {why}")]
    Refused { what: &'static str, why: String },
}

pub(super) const fn broken(what: &'static str) -> NbdError {
    NbdError::Protocol { what }
}

/// A stretch of a device, as one of the contexts asked for says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stretch {
    pub offset: u64,
    pub length: u64,
    pub flags: u32,
}

/// `base:allocation`: the stretch reads as zeroes.
pub const FLAG_ZERO: u32 = 2;
/// `qemu:dirty-bitmap:*`: the stretch was written.
pub const FLAG_DIRTY: u32 = 1;

/// A device that is being read.
#[derive(Debug)]
pub struct Nbd<S: Read + Write> {
    stream: S,
    size: u64,
    /// The server's numbers of the contexts, in the order they were asked for.
    contexts: Vec<u32>,
    next: u64,
}

impl<S: Read + Write> Nbd<S> {
    /// Agrees with the server on an export and what is to be known of it.
    ///
    /// # Errors
    /// There is no such export, or the server cannot tell one of the contexts.
    pub fn open(mut stream: S, export: &str, contexts: &[&str]) -> Result<Self, NbdError> {
        let hello = hello::agree(&mut stream, export, contexts)?;
        Ok(Self { stream, size: hello.size, contexts: hello.contexts, next: 0 })
    }

    /// Bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// What the contexts say of a stretch of the device: each in its order, whole, and each
    /// piece once.
    ///
    /// # Errors
    /// The device, the connection or the server.
    pub fn status(&mut self, offset: u64, length: u64) -> Result<Vec<Vec<Stretch>>, NbdError> {
        let mut all = vec![Vec::new(); self.contexts.len()];
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let asked = (end - at).min(STATUS_BYTES_MAX);
            let told = self.status_once(at, u32::try_from(asked).unwrap_or(u32::MAX))?;
            // What one context was not told of is asked again, for all of them.
            let sum =
                |pieces: &Vec<(u32, u32)>| pieces.iter().map(|piece| u64::from(piece.0)).sum();
            let covered = told.iter().map(sum).min().unwrap_or(0).min(asked);
            if covered == 0 {
                return Err(broken("a status of nothing"));
            }
            for (list, pieces) in all.iter_mut().zip(told) {
                let mut from = at;
                for (length, flags) in pieces {
                    let length = u64::from(length).min((at + covered) - from);
                    if length > 0 {
                        list.push(Stretch { offset: from, length, flags });
                    }
                    from += length;
                }
            }
            at += covered;
        }
        Ok(all)
    }

    fn status_once(&mut self, offset: u64, length: u32) -> Result<Vec<Vec<(u32, u32)>>, NbdError> {
        let cookie = self.ask(BLOCK_STATUS, offset, length)?;
        let mut told: Vec<Option<Vec<(u32, u32)>>> = vec![None; self.contexts.len()];
        loop {
            let chunk = Chunk::receive(&mut self.stream)?;
            if chunk.cookie != cookie {
                return Err(broken("an answer to something not asked"));
            }
            match chunk.payload {
                Payload::Status { context, pieces } => {
                    let place = self.contexts.iter().position(|known| *known == context);
                    let slot = place.and_then(|place| told.get_mut(place));
                    let slot = slot.ok_or_else(|| broken("a status of a context not asked for"))?;
                    if slot.replace(pieces).is_some() {
                        return Err(broken("a status twice"));
                    }
                }
                Payload::Error { errno, why } => {
                    return Err(NbdError::Device { offset, errno, why });
                }
                Payload::Nothing => {}
                _ => return Err(broken("bytes for a question about status")),
            }
            if chunk.last {
                break;
            }
        }
        let told: Option<Vec<_>> = told.into_iter().collect();
        told.ok_or_else(|| broken("a context without a status"))
    }

    /// Reads stretches of at most [`READ_BYTES_MAX`], and hands each on in the order asked;
    /// `take` may end it early.
    ///
    /// # Errors
    /// The device, the connection or the server.
    pub fn read_each(
        &mut self,
        mut wanted: impl Iterator<Item = (u64, u32)>,
        mut take: impl FnMut(u64, &[u8]) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, NbdError> {
        let mut under_way: VecDeque<Wanted> = VecDeque::new();
        let mut flow = ControlFlow::Continue(());
        loop {
            while under_way.len() < READS_MAX && flow.is_continue() {
                let Some((offset, length)) = wanted.next() else { break };
                let length = length.min(READ_BYTES_MAX);
                let cookie = self.ask(READ, offset, length)?;
                under_way.push_back(Wanted::new(cookie, offset, length));
            }
            let Some(first) = under_way.front() else { return Ok(flow) };
            if first.ended {
                if let Some(read) = under_way.pop_front() {
                    if read.missing > 0 {
                        return Err(broken("less than was asked for"));
                    }
                    if flow.is_continue() {
                        flow = take(read.offset, &read.bytes);
                    }
                }
                continue;
            }
            let chunk = Chunk::receive(&mut self.stream)?;
            let place = under_way.iter_mut().find(|read| read.cookie == chunk.cookie);
            let read = place.ok_or_else(|| broken("an answer to something not asked"))?;
            read.accept(chunk)?;
        }
    }

    fn ask(&mut self, what: u16, offset: u64, length: u32) -> Result<u64, NbdError> {
        if offset.checked_add(u64::from(length)).is_none_or(|end| end > self.size) || length == 0 {
            return Err(broken("asked past the end of the device"));
        }
        self.next += 1;
        self.send(what, self.next, offset, length)?;
        Ok(self.next)
    }

    fn send(&mut self, what: u16, cookie: u64, offset: u64, length: u32) -> io::Result<()> {
        let mut request = Vec::with_capacity(28);
        request.extend(REQUEST_MAGIC.to_be_bytes());
        request.extend(0_u16.to_be_bytes());
        request.extend(what.to_be_bytes());
        request.extend(cookie.to_be_bytes());
        request.extend(offset.to_be_bytes());
        request.extend(length.to_be_bytes());
        self.stream.write_all(&request)
    }
}

impl<S: Read + Write> Drop for Nbd<S> {
    fn drop(&mut self) {
        // The server may be gone; then it knows.
        let _ = self.send(DISCONNECT, 0, 0, 0);
    }
}

/// A read under way.
struct Wanted {
    cookie: u64,
    offset: u64,
    bytes: Vec<u8>,
    missing: u64,
    ended: bool,
}

impl Wanted {
    fn new(cookie: u64, offset: u64, length: u32) -> Self {
        let bytes = vec![0; length as usize];
        Self { cookie, offset, bytes, missing: u64::from(length), ended: false }
    }

    fn accept(&mut self, chunk: Chunk) -> Result<(), NbdError> {
        if self.ended {
            return Err(broken("more after the end of an answer"));
        }
        match chunk.payload {
            Payload::Data { offset, bytes } => {
                let length = bytes.len() as u64;
                self.place(offset, length)?.copy_from_slice(&bytes);
            }
            Payload::Hole { offset, length } => self.place(offset, length)?.fill(0),
            Payload::Error { errno, why } => {
                return Err(NbdError::Device { offset: self.offset, errno, why });
            }
            Payload::Nothing => {}
            Payload::Status { .. } => return Err(broken("a status for a read")),
        }
        self.ended = chunk.last;
        Ok(())
    }

    /// Where bytes at `offset` of the device belong; counted as come.
    fn place(&mut self, offset: u64, length: u64) -> Result<&mut [u8], NbdError> {
        let past = || broken("bytes outside of what was asked for");
        self.missing = self.missing.checked_sub(length).ok_or_else(past)?;
        let from = offset.checked_sub(self.offset).ok_or_else(past)?;
        let to = from.checked_add(length).ok_or_else(past)?;
        let range = usize::try_from(from).ok().zip(usize::try_from(to).ok());
        let (from, to) = range.ok_or_else(past)?;
        self.bytes.get_mut(from..to).ok_or_else(past)
    }
}
