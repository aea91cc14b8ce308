//! The haggling before a device is served, as bytes: options a client asks for and how they are
//! answered. Numbers are those of the NBD protocol; what does not fit its length is refused.

use super::haggle::Broken;

/// What a server says first: two words that tell the style, and what it can do.
pub(super) const GREETING: u64 = 0x4e42_444d_4147_4943;
pub(super) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const ANSWER_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// Both sides: options may be refused and haggled on.
pub(super) const FIXED_NEWSTYLE: u16 = 1;
/// Both sides: no padding behind the answer to the oldest option.
pub(super) const NO_ZEROES: u16 = 2;

pub(super) const EXPORT_NAME: u32 = 1;
pub(super) const ABORT: u32 = 2;
pub(super) const LIST: u32 = 3;
pub(super) const STARTTLS: u32 = 5;
pub(super) const INFO: u32 = 6;
pub(super) const GO: u32 = 7;
pub(super) const STRUCTURED_REPLY: u32 = 8;
pub(super) const LIST_META_CONTEXT: u32 = 9;
pub(super) const SET_META_CONTEXT: u32 = 10;

pub(super) const ACK: u32 = 1;
pub(super) const SERVER: u32 = 2;
pub(super) const INFORMATION: u32 = 3;
pub(super) const META_CONTEXT: u32 = 4;
pub(super) const UNSUPPORTED: u32 = (1 << 31) + 1;
pub(super) const POLICY: u32 = (1 << 31) + 2;
pub(super) const INVALID: u32 = (1 << 31) + 3;
pub(super) const TLS_REQUIRED: u32 = (1 << 31) + 5;
pub(super) const UNKNOWN: u32 = (1 << 31) + 6;
pub(super) const TOO_BIG: u32 = (1 << 31) + 9;

pub(super) const ABOUT_EXPORT: u16 = 0;
pub(super) const ABOUT_NAME: u16 = 1;
pub(super) const ABOUT_DESCRIPTION: u16 = 2;
pub(super) const ABOUT_BLOCK_SIZE: u16 = 3;

/// Before an option's data: a word, which option, how many bytes.
pub(super) const OPTION_HEAD_BYTES: usize = 16;
/// Longest data of an option, in bytes: a name of 4 KiB and some hundred queries of contexts.
pub(super) const OPTION_BYTES_MAX: u32 = 64 << 10;
/// Longest text of the protocol, in bytes.
const TEXT_BYTES_MAX: usize = 4096;

/// One answer to an option.
pub(super) fn answer(out: &mut Vec<u8>, option: u32, kind: u32, data: &[u8]) {
    out.extend(ANSWER_MAGIC.to_be_bytes());
    out.extend(option.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(length(data).to_be_bytes());
    out.extend(data);
}

/// A text behind its length.
pub(super) fn text(out: &mut Vec<u8>, text: &str) {
    out.extend(length(text.as_bytes()).to_be_bytes());
    out.extend(text.as_bytes());
}

fn length(data: &[u8]) -> u32 {
    u32::try_from(data.len()).unwrap_or(u32::MAX)
}

/// Which option, and how much data it has.
pub(super) fn head(bytes: &[u8; OPTION_HEAD_BYTES]) -> Result<(u32, u32), Broken> {
    let mut fields = Fields(bytes);
    match (fields.u64(), fields.u32(), fields.u32()) {
        (Some(OPTION_MAGIC), Some(option), Some(length)) => Ok((option, length)),
        _ => Err(Broken("an option that does not begin as one")),
    }
}

/// The data of an option, read from its beginning.
pub(super) struct Fields<'d>(pub(super) &'d [u8]);

impl<'d> Fields<'d> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    /// A text behind its length.
    pub(super) fn text(&mut self) -> Option<&'d str> {
        let length = usize::try_from(self.u32()?).ok()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        as_text(text)
    }

    /// Whether all was read.
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A text as the protocol allows it: UTF-8 without NUL, of bounded length.
pub(super) fn as_text(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    (text.len() <= TEXT_BYTES_MAX && !text.contains('\0')).then_some(text)
}
