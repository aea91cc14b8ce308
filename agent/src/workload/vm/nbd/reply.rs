//! One chunk of a structured reply. Promises to ask for no more memory than the largest chunk
//! anybody asked for takes, whatever length is written there.

use std::io::Read;

use super::hello::{take_u16, take_u32, take_u64};
use super::{NbdError, READ_BYTES_MAX, broken};

const STRUCTURED_MAGIC: u32 = 0x668e_33ef;
const DONE: u16 = 1;
const NOTHING: u16 = 0;
const DATA: u16 = 1;
const HOLE: u16 = 2;
const STATUS: u16 = 5;
const ERROR: u16 = 1 << 15;

/// Longest chunk that carries no bytes of the device: QEMU tells at most 2^17 pieces at once.
const TOLD_BYTES_MAX: u32 = 4 << 20;

/// A chunk.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) cookie: u64,
    /// Nothing follows for this cookie.
    pub(super) last: bool,
    pub(super) payload: Payload,
}

#[derive(PartialEq, Eq, Debug)]
pub(super) enum Payload {
    Data { offset: u64, bytes: Vec<u8> },
    Error { errno: u32, why: String },
    Hole { offset: u64, length: u64 },
    Nothing,
    Status { context: u32, pieces: Vec<(u32, u32)> },
}

impl Chunk {
    pub(super) fn receive(stream: &mut impl Read) -> Result<Self, NbdError> {
        if take_u32(stream)? != STRUCTURED_MAGIC {
            return Err(broken("no structured reply"));
        }
        let (flags, kind) = (take_u16(stream)?, take_u16(stream)?);
        let (cookie, length) = (take_u64(stream)?, take_u32(stream)?);
        let payload = payload(stream, kind, length)?;
        Ok(Self { cookie, last: flags & DONE != 0, payload })
    }
}

fn payload(stream: &mut impl Read, kind: u16, length: u32) -> Result<Payload, NbdError> {
    let odd = || broken("a chunk whose length does not fit its kind");
    match kind {
        NOTHING if length == 0 => Ok(Payload::Nothing),
        DATA => {
            let bytes = length.checked_sub(8).filter(|bytes| (1..=READ_BYTES_MAX).contains(bytes));
            let bytes = bytes.ok_or_else(odd)?;
            let offset = take_u64(stream)?;
            let mut buffer = vec![0; bytes as usize];
            stream.read_exact(&mut buffer)?;
            Ok(Payload::Data { offset, bytes: buffer })
        }
        HOLE if length == 12 => {
            let offset = take_u64(stream)?;
            Ok(Payload::Hole { offset, length: u64::from(take_u32(stream)?) })
        }
        STATUS => {
            let body = told(stream, length)?;
            let mut body = body.as_slice();
            let context = take_u32(&mut body)?;
            if body.is_empty() || !body.len().is_multiple_of(8) {
                return Err(odd());
            }
            let mut pieces = Vec::with_capacity(body.len() / 8);
            while !body.is_empty() {
                pieces.push((take_u32(&mut body)?, take_u32(&mut body)?));
            }
            Ok(Payload::Status { context, pieces })
        }
        kind if kind & ERROR != 0 => {
            let body = told(stream, length)?;
            let mut body = body.as_slice();
            let (errno, words) = (take_u32(&mut body)?, take_u16(&mut body)?);
            let why = body.get(..usize::from(words)).ok_or_else(odd)?;
            Ok(Payload::Error { errno, why: String::from_utf8_lossy(why).into_owned() })
        }
        _ => Err(odd()),
    }
}

fn told(stream: &mut impl Read, length: u32) -> Result<Vec<u8>, NbdError> {
    if length > TOLD_BYTES_MAX {
        return Err(broken("an endless chunk"));
    }
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body)?;
    Ok(body)
}
