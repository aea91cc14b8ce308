//! A block device: an image of a point, and where it may be written to, an overlay over it.
//! Every call may wait for the point or the disk. Promises that the image stays as it is.

use std::ops::Range;

use bytes::Bytes;
use strongroom_protocol::Chain;

use super::haggle::Offer;
use super::image::{Image, STRETCHES_MAX};
use super::order::{EIO, ENOSPC};
use super::overlay::{Overlay, OverlayError, Written};
use crate::reader::ReadError;

/// Bytes of the image that are read at once to fill up blocks or to be kept at hand.
const STEP_BYTES: u64 = 1 << 20;
/// Most bytes read because a client says it will want them.
const CACHED_BYTES_MAX: u64 = 16 << 20;

/// A part of what was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece {
    Data(Bytes),
    /// So many.
    Zeroes(u64),
}

impl Piece {
    /// How long it is.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Data(bytes) => bytes.len() as u64,
            Self::Zeroes(bytes) => *bytes,
        }
    }
}

/// A part of what was asked about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stretch {
    pub(super) bytes: u64,
    /// Reads as zeroes, and takes no room.
    pub(super) is_hole: bool,
}

/// Why a device does not do what it was told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The overlay.
    #[error("what was written cannot be kept or read")]
    Overlay(#[from] OverlayError),
    /// The point.
    #[error("the point cannot be read")]
    Point(#[from] ReadError),
    /// It was given no overlay.
    #[error("the device is read-only")]
    ReadOnly,
}

impl DeviceError {
    /// The number a client is told.
    pub(super) fn errno(&self) -> u32 {
        match self {
            Self::Overlay(error) if error.is_full() => ENOSPC,
            _ => EIO,
        }
    }

    /// With its causes.
    pub(super) fn told(&self) -> String {
        Chain(self).to_string()
    }
}

/// A block device.
pub struct Device {
    offer: Offer,
    image: Image,
    overlay: Option<Overlay>,
}

impl Device {
    /// A device called `name`; it may be written to where it has an overlay.
    pub fn new(name: String, description: String, image: Image, overlay: Option<Overlay>) -> Self {
        let (bytes, writable) = (image.bytes(), overlay.is_some());
        Self { offer: Offer { name, description, bytes, writable }, image, overlay }
    }

    /// What clients are told of it.
    pub const fn offer(&self) -> &Offer {
        &self.offer
    }

    /// Reads bytes that lie within it.
    ///
    /// # Errors
    /// The point or the overlay cannot be read there.
    pub fn read(&self, range: Range<u64>) -> Result<Vec<Piece>, DeviceError> {
        let mut pieces = Vec::new();
        let Some(overlay) = &self.overlay else {
            self.image.read(range, &mut pieces)?;
            return Ok(pieces);
        };
        for (range, own) in overlay.stretches(range) {
            match own {
                true => pieces.push(Piece::Data(Bytes::from(overlay.read(range)?))),
                false => self.image.read(range, &mut pieces)?,
            }
        }
        Ok(pieces)
    }

    /// Where data lies, from the beginning of `range` on; perhaps not all of it.
    pub(super) fn status(&self, range: Range<u64>) -> Result<Vec<Stretch>, DeviceError> {
        let Some(overlay) = &self.overlay else { return Ok(self.image.status(range)?) };
        let mut found: Vec<Stretch> = Vec::new();
        'stretches: for (range, own) in overlay.stretches(range) {
            let told = match own {
                true => overlay.status(range.clone()),
                false => self.image.status(range.clone())?,
            };
            let covered: u64 = told.iter().map(|stretch| stretch.bytes).sum();
            for stretch in told {
                let full = found.len() >= STRETCHES_MAX;
                match found.last_mut() {
                    Some(last) if last.is_hole == stretch.is_hole => last.bytes += stretch.bytes,
                    _ if full => break 'stretches,
                    _ => found.push(stretch),
                }
            }
            if covered < range.end - range.start {
                break;
            }
        }
        Ok(found)
    }

    /// Writes bytes that lie within it.
    ///
    /// # Errors
    /// It has no overlay, or that does not take them.
    pub fn write(&self, at: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        let overlay = self.overlay.as_ref().ok_or(DeviceError::ReadOnly)?;
        let range = at..at + bytes.len() as u64;
        if range.is_empty() {
            return Ok(());
        }
        let _claim = overlay.claim(&range);
        self.fill_edges(overlay, &range)?;
        overlay.put(at, bytes)?;
        overlay.own(&range)?;
        overlay.count(bytes.len() as u64);
        Ok(())
    }

    /// Makes zeroes of bytes that lie within it.
    ///
    /// # Errors
    /// It has no overlay, or that does not take them.
    pub fn zero(&self, range: Range<u64>) -> Result<(), DeviceError> {
        let overlay = self.overlay.as_ref().ok_or(DeviceError::ReadOnly)?;
        if range.is_empty() {
            return Ok(());
        }
        let _claim = overlay.claim(&range);
        self.fill_edges(overlay, &range)?;
        overlay.punch(range.clone())?;
        overlay.own(&range)?;
        overlay.count(range.end - range.start);
        Ok(())
    }

    /// What of the first and the last block `range` leaves as it is, and is the image's still,
    /// becomes the overlay's.
    fn fill_edges(&self, overlay: &Overlay, range: &Range<u64>) -> Result<(), DeviceError> {
        let block_bytes = overlay.block_bytes();
        let head = range.start / block_bytes * block_bytes..range.start;
        let tail_end = range.end.div_ceil(block_bytes).saturating_mul(block_bytes);
        let tail = range.end..tail_end.min(self.offer.bytes);
        for edge in [head, tail] {
            let Some((_, own)) = overlay.stretches(edge.clone()).first().cloned() else { continue };
            if own {
                continue;
            }
            let (mut at, mut pieces) = (edge.start, Vec::new());
            self.image.read(edge, &mut pieces)?;
            for piece in pieces {
                let end = at + piece.bytes();
                match piece {
                    Piece::Data(bytes) => overlay.put(at, &bytes)?,
                    // Where nothing was written yet the file has a hole.
                    Piece::Zeroes(_) => overlay.punch(at..end)?,
                }
                at = end;
            }
        }
        Ok(())
    }

    /// Has bytes at hand that a client says it will read.
    ///
    /// # Errors
    /// The point cannot be read there.
    pub(super) fn cache(&self, range: Range<u64>) -> Result<(), DeviceError> {
        let mut at = range.start;
        let end = range.end.min(at.saturating_add(CACHED_BYTES_MAX));
        while at < end {
            let step = (end - at).min(STEP_BYTES);
            self.read(at..at + step)?;
            at += step;
        }
        Ok(())
    }

    /// Makes durable what was written so far.
    ///
    /// # Errors
    /// The disk does not take it.
    pub fn flush(&self) -> Result<(), DeviceError> {
        Ok(self.overlay.as_ref().map_or(Ok(()), Overlay::flush)?)
    }

    /// What its overlay holds; none where it has none.
    pub fn written(&self) -> Option<Written> {
        self.overlay.as_ref().map(Overlay::written)
    }
}
