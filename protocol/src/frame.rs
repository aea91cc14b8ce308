//! Frames without I/O: bytes in, messages out. A frame is a postcard header and raw bulk
//! bytes beside it; both lengths are checked against their limits before anything is kept.
//! An unknown message is a typed refusal, never a guess.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest header, in bytes: a batch of 16,384 ids fits twice.
pub const HEADER_BYTES_MAX: usize = 1 << 20;
/// Longest bulk, in bytes: a sealed blob of the largest plaintext, or a piece of a pack.
pub const BULK_BYTES_MAX: usize = 5 << 20;
/// Two little-endian u32: header length, bulk length.
pub const PREFIX_BYTES: usize = 8;

/// Why bytes are not a frame, or a frame not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A length beyond its limit: garbage, or a peer that does not keep the protocol.
    #[error("frame announces {part} of {len} bytes, more than the limit of {limit}")]
    TooLong { part: &'static str, len: usize, limit: usize },
    /// The message's number is not known to this version.
    #[error("{message} number {tag} is not known to this version (it knows {known})")]
    Unsupported { message: &'static str, tag: u32, known: u32 },
    /// The header does not decode.
    #[error("{message} does not decode: {reason}")]
    Malformed { message: &'static str, reason: String },
    /// The stream ended inside a frame.
    #[error("stream ended {missing} bytes short of a whole frame")]
    Truncated { missing: usize },
}

/// An enum that travels as a header. Its variants are numbered in order: append only.
pub trait Message: Serialize + DeserializeOwned {
    /// The enum's name in errors.
    const NAME: &'static str;
    /// How many variants this version knows.
    const VARIANTS: u32;
}

/// Declares an enum to be a [`Message`].
macro_rules! message {
    ($type:ty, $name:literal, $variants:literal) => {
        impl $crate::frame::Message for $type {
            const NAME: &'static str = $name;
            const VARIANTS: u32 = $variants;
        }
    };
}
pub(crate) use message;

/// One frame as received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub header: Bytes,
    pub bulk: Bytes,
}

impl Frame {
    /// The message in the header.
    pub fn message<M: Message>(&self) -> Result<M, FrameError> {
        decode(&self.header)
    }
}

/// Decodes a header; the variant's number is looked at first.
pub fn decode<M: Message>(header: &[u8]) -> Result<M, FrameError> {
    let malformed = |error: postcard::Error| FrameError::Malformed {
        message: M::NAME,
        reason: error.to_string(),
    };
    let (tag, _) = postcard::take_from_bytes::<u32>(header).map_err(malformed)?;
    if tag >= M::VARIANTS {
        return Err(FrameError::Unsupported { message: M::NAME, tag, known: M::VARIANTS });
    }
    let (message, rest) = postcard::take_from_bytes(header).map_err(malformed)?;
    if rest.is_empty() {
        Ok(message)
    } else {
        let reason = format!("{} bytes too many", rest.len());
        Err(FrameError::Malformed { message: M::NAME, reason })
    }
}

/// Encodes the prefix and header of a frame; the caller sends `bulk_len` bytes after it.
pub fn encode<M: Message>(message: &M, bulk_len: usize) -> Result<Bytes, FrameError> {
    let malformed = |error: postcard::Error| FrameError::Malformed {
        message: M::NAME,
        reason: error.to_string(),
    };
    let header = postcard::to_allocvec(message).map_err(malformed)?;
    let header_len = fits("a header", header.len(), HEADER_BYTES_MAX)?;
    let bulk_len = fits("bulk", bulk_len, BULK_BYTES_MAX)?;
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + header.len());
    out.put_u32_le(header_len);
    out.put_u32_le(bulk_len);
    out.put_slice(&header);
    Ok(out.freeze())
}

fn fits(part: &'static str, len: usize, limit: usize) -> Result<u32, FrameError> {
    match u32::try_from(len) {
        Ok(short) if len <= limit => Ok(short),
        _ => Err(FrameError::TooLong { part, len, limit }),
    }
}

/// Puts frames together from bytes as they come. Every byte is copied once at most, into a buffer
/// of its frame's length; bulk that came in one piece is not copied at all.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Came in and belongs to no frame yet.
    waiting: VecDeque<Bytes>,
    waiting_bytes: usize,
    prefix: BytesMut,
    begun: Option<Begun>,
}

/// A frame whose lengths are known.
#[derive(Debug)]
struct Begun {
    header_len: usize,
    header: BytesMut,
    bulk_len: usize,
    bulk: BytesMut,
}

impl Decoder {
    /// Takes bytes off the wire. The caller takes frames out before feeding more than one
    /// read's worth, so at most a frame and a read are held.
    pub fn feed(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.waiting_bytes += bytes.len();
            self.waiting.push_back(bytes);
        }
    }

    /// The next whole frame, or `None` until more was fed.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let mut begun = match self.begun.take() {
            Some(begun) => begun,
            None => match self.begin()? {
                Some(begun) => begun,
                None => return Ok(None),
            },
        };
        self.fill(&mut begun.header, begun.header_len);
        if begun.header.len() == begun.header_len {
            if let Some(bulk) = self.in_one_piece(&begun) {
                return Ok(Some(Frame { header: begun.header.freeze(), bulk }));
            }
            self.fill(&mut begun.bulk, begun.bulk_len);
            if begun.bulk.len() == begun.bulk_len {
                let Begun { header, bulk, .. } = begun;
                return Ok(Some(Frame { header: header.freeze(), bulk: bulk.freeze() }));
            }
        }
        self.begun = Some(begun);
        Ok(None)
    }

    /// Says whether the stream may end here.
    pub fn finish(&self) -> Result<(), FrameError> {
        let missing = match &self.begun {
            None if self.prefix.is_empty() && self.waiting.is_empty() => return Ok(()),
            None => PREFIX_BYTES.saturating_sub(self.prefix.len() + self.waiting_bytes),
            Some(begun) => {
                let held = begun.header.len() + begun.bulk.len() + self.waiting_bytes;
                (begun.header_len + begun.bulk_len).saturating_sub(held)
            }
        };
        Err(FrameError::Truncated { missing })
    }

    /// A frame's lengths, checked before anything is kept for it.
    fn begin(&mut self) -> Result<Option<Begun>, FrameError> {
        let mut prefix = std::mem::take(&mut self.prefix);
        self.fill(&mut prefix, PREFIX_BYTES);
        let Some([a, b, c, d, e, f, g, h]) = prefix.first_chunk::<PREFIX_BYTES>().copied() else {
            self.prefix = prefix;
            return Ok(None);
        };
        let header_len = u32::from_le_bytes([a, b, c, d]) as usize;
        let bulk_len = u32::from_le_bytes([e, f, g, h]) as usize;
        fits("a header", header_len, HEADER_BYTES_MAX)?;
        fits("bulk", bulk_len, BULK_BYTES_MAX)?;
        let (header, bulk) = (BytesMut::new(), BytesMut::new());
        Ok(Some(Begun { header_len, header, bulk_len, bulk }))
    }

    /// Moves waiting bytes into `buffer` until it has `len`.
    fn fill(&mut self, buffer: &mut BytesMut, len: usize) {
        if self.waiting.is_empty() || buffer.len() == len {
            return;
        }
        buffer.reserve(len - buffer.len());
        while let Some(piece) = self.waiting.front_mut().filter(|_| buffer.len() < len) {
            let taken = piece.split_to(piece.len().min(len - buffer.len()));
            buffer.extend_from_slice(&taken);
            self.waiting_bytes -= taken.len();
            if piece.is_empty() {
                self.waiting.pop_front();
            }
        }
    }

    /// The bulk, if the piece waiting has all of it.
    fn in_one_piece(&mut self, begun: &Begun) -> Option<Bytes> {
        if !begun.bulk.is_empty() {
            return None;
        }
        let piece = self.waiting.front_mut().filter(|piece| piece.len() >= begun.bulk_len)?;
        let bulk = piece.split_to(begun.bulk_len);
        self.waiting_bytes -= bulk.len();
        if piece.is_empty() {
            self.waiting.pop_front();
        }
        Some(bulk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    enum Words {
        Yes { count: u32 },
        Text(String),
    }
    message!(Words, "words", 2);

    fn framed(message: &Words, bulk: &[u8]) -> Vec<u8> {
        let mut out = encode(message, bulk.len()).unwrap().to_vec();
        out.extend_from_slice(bulk);
        out
    }

    #[test]
    fn frames_survive_any_split() {
        let mut bytes = framed(&Words::Yes { count: 7 }, b"bulk");
        bytes.extend(framed(&Words::Text("x".repeat(300)), &[9; 5000]));
        for step in [1, 3, 8, 100, bytes.len()] {
            let mut decoder = Decoder::default();
            let mut frames = Vec::new();
            for piece in bytes.chunks(step) {
                decoder.feed(Bytes::copy_from_slice(piece));
                while let Some(frame) = decoder.next_frame().unwrap() {
                    frames.push(frame);
                }
            }
            decoder.finish().unwrap();
            assert_eq!(frames.len(), 2);
            assert_eq!(frames[0].message::<Words>().unwrap(), Words::Yes { count: 7 });
            assert_eq!(&frames[0].bulk[..], b"bulk");
            assert_eq!(frames[1].bulk.len(), 5000);
        }
    }

    #[test]
    fn lengths_are_refused_before_anything_is_kept() {
        let mut decoder = Decoder::default();
        decoder.feed(Bytes::from_static(&[0xff; 8]));
        assert!(matches!(decoder.next_frame(), Err(FrameError::TooLong { .. })));
        assert!(decoder.begun.is_none());
    }

    #[test]
    fn an_unknown_message_is_named() {
        let error = decode::<Words>(&[5, 0]).unwrap_err();
        assert_eq!(error, FrameError::Unsupported { message: "words", tag: 5, known: 2 });
        assert!(matches!(decode::<Words>(&[1, 200, 1]), Err(FrameError::Malformed { .. })));
        assert!(matches!(decode::<Words>(&[0, 1, 1]), Err(FrameError::Malformed { .. })));
    }

    #[test]
    fn a_cut_stream_is_named() {
        let bytes = framed(&Words::Yes { count: 1 }, b"12345");
        let mut decoder = Decoder::default();
        decoder.feed(Bytes::copy_from_slice(&bytes[..bytes.len() - 2]));
        assert_eq!(decoder.next_frame().unwrap(), None);
        assert_eq!(decoder.finish(), Err(FrameError::Truncated { missing: 2 }));
    }
}
