//! What a client orders of a device that is served to it. Pure: a request in, an order or a
//! refusal out. Promises that an order lies within the device and is of bounded length.

use super::haggle::{Agreed, Broken, Offer};
use super::option::Fields;

/// Bytes of a request, without the data of a write.
pub const REQUEST_BYTES: usize = 28;
/// Longest read or write, in bytes: what the protocol has every server take.
pub(super) const LENGTH_MAX: u32 = 32 << 20;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const CACHE: u16 = 5;
const WRITE_ZEROES: u16 = 6;
const BLOCK_STATUS: u16 = 7;

/// Of a request: durable before the answer.
const DURABLE: u16 = 1;
/// Of zeroes: room is to be kept.
const NO_HOLE: u16 = 1 << 1;
/// Of a read: the answer in one piece.
const ONE_PIECE: u16 = 1 << 2;
/// Of a status: one stretch is enough.
const ONE_STRETCH: u16 = 1 << 3;

const HAS_FLAGS: u16 = 1;
const READ_ONLY: u16 = 1 << 1;
const SENDS_FLUSH: u16 = 1 << 2;
const SENDS_DURABLE: u16 = 1 << 3;
const SENDS_TRIM: u16 = 1 << 5;
const SENDS_ZEROES: u16 = 1 << 6;
const SENDS_ONE_PIECE: u16 = 1 << 7;
const SEVERAL_CONNECTIONS: u16 = 1 << 8;
const SENDS_CACHE: u16 = 1 << 10;

pub(super) const EPERM: u32 = 1;
pub(super) const EIO: u32 = 5;
pub(super) const EINVAL: u32 = 22;
pub(super) const ENOSPC: u32 = 28;

/// What a client may do with a device. Several connections see one device: what one was told is
/// durable is so for all.
pub(super) const fn flags_of(offer: &Offer, structured: bool) -> u16 {
    let mut flags = HAS_FLAGS | SENDS_FLUSH | SENDS_DURABLE | SEVERAL_CONNECTIONS | SENDS_CACHE;
    if structured {
        flags |= SENDS_ONE_PIECE;
    }
    match offer.writable {
        true => flags | SENDS_TRIM | SENDS_ZEROES,
        false => flags | READ_ONLY,
    }
}

/// A request as it came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    flags: u16,
    command: u16,
    /// By which the client knows the answer.
    pub cookie: u64,
    pub offset: u64,
    length: u32,
}

/// Whether what is written must be durable before it is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durable {
    AtOnce,
    AtFlush,
}

/// What is to be done, within the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// It will be read soon.
    Cache {
        offset: u64,
        length: u32,
    },
    Disconnect,
    Flush,
    Read {
        offset: u64,
        length: u32,
        one_piece: bool,
    },
    Status {
        offset: u64,
        length: u32,
        one: bool,
    },
    Write {
        offset: u64,
        length: u32,
        durable: Durable,
    },
    /// From here on it reads as zeroes.
    Zero {
        offset: u64,
        length: u32,
        durable: Durable,
    },
}

/// Why a request is not carried out: the number the protocol has for it, and words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    pub errno: u32,
    pub why: &'static str,
}

impl Request {
    /// A request as it lies on the wire.
    ///
    /// # Errors
    /// It is none: what follows cannot be understood.
    pub fn parse(bytes: &[u8; REQUEST_BYTES]) -> Result<Self, Broken> {
        let mut fields = Fields(bytes);
        let mut parsed = || {
            let magic = fields.u32()?;
            let (flags, command) = (fields.u16()?, fields.u16()?);
            let (cookie, offset, length) = (fields.u64()?, fields.u64()?, fields.u32()?);
            (magic == REQUEST_MAGIC).then_some(Self { flags, command, cookie, offset, length })
        };
        parsed().ok_or(Broken("a request that does not begin as one"))
    }

    /// Bytes of data that follow on the wire.
    ///
    /// # Errors
    /// More than anybody may send: they would have to be read to be passed over.
    pub const fn payload_bytes(&self) -> Result<u32, Broken> {
        match self.command {
            WRITE if self.length > LENGTH_MAX => Err(Broken("a write of more than 32 MiB")),
            WRITE => Ok(self.length),
            _ => Ok(0),
        }
    }

    /// What is to be done.
    ///
    /// # Errors
    /// Why nothing is.
    pub fn order(&self, agreed: &Agreed) -> Result<Order, Refused> {
        let known = match self.command {
            READ => DURABLE | ONE_PIECE,
            BLOCK_STATUS => DURABLE | ONE_STRETCH,
            WRITE_ZEROES => DURABLE | NO_HOLE,
            WRITE | TRIM | CACHE | FLUSH | DISCONNECT => DURABLE,
            _ => return refused(EINVAL, "this command is not known here"),
        };
        if self.flags & !known != 0 {
            return refused(EINVAL, "the command has no such flag here");
        }
        match self.command {
            DISCONNECT => return Ok(Order::Disconnect),
            FLUSH => return Ok(Order::Flush),
            _ => {}
        }
        let (offset, length) = (self.offset, self.length);
        let writes = matches!(self.command, WRITE | TRIM | WRITE_ZEROES);
        if writes && !agreed.writable {
            return refused(EPERM, "the export is read-only; --overlay gives it room for writes");
        }
        let end = offset.checked_add(u64::from(length));
        if end.is_none_or(|end| end > agreed.bytes) {
            let errno = if writes && self.command != TRIM { ENOSPC } else { EINVAL };
            return refused(errno, "the request goes beyond the end of the device");
        }
        let durable = match self.flags & DURABLE {
            0 => Durable::AtFlush,
            _ => Durable::AtOnce,
        };
        match self.command {
            READ if length > LENGTH_MAX => refused(EINVAL, "a read of more than 32 MiB"),
            READ => Ok(Order::Read { offset, length, one_piece: self.flags & ONE_PIECE != 0 }),
            WRITE => Ok(Order::Write { offset, length, durable }),
            TRIM | WRITE_ZEROES => Ok(Order::Zero { offset, length, durable }),
            CACHE => Ok(Order::Cache { offset, length }),
            _ if !agreed.allocation => {
                refused(EINVAL, "ask for the context base:allocation before")
            }
            _ if length == 0 => refused(EINVAL, "a status of nothing"),
            _ => Ok(Order::Status { offset, length, one: self.flags & ONE_STRETCH != 0 }),
        }
    }
}

const fn refused(errno: u32, why: &'static str) -> Result<Order, Refused> {
    Err(Refused { errno, why })
}
