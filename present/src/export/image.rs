//! A file of a point as the ground of a device: read from anywhere, holes known without reading.

use std::ops::Range;

use super::device::{Piece, Stretch};
use crate::reader::{OpenFile, ReadError, StretchKind};

/// Most stretches looked at for one answer.
pub(super) const STRETCHES_MAX: usize = 2048;

/// An image that is never written to.
pub struct Image {
    file: OpenFile,
}

impl Image {
    /// A file of a point as an image.
    pub const fn new(file: OpenFile) -> Self {
        Self { file }
    }

    /// Length in bytes.
    pub const fn bytes(&self) -> u64 {
        self.file.size()
    }

    /// What `range` holds, appended to `pieces`; blocking.
    pub(super) fn read(&self, range: Range<u64>, pieces: &mut Vec<Piece>) -> Result<(), ReadError> {
        let mut at = range.start;
        while at < range.end {
            let before = at;
            for stretch in self.file.stretches(at..range.end, STRETCHES_MAX)? {
                if stretch.kind == StretchKind::Hole {
                    pieces.push(Piece::Zeroes(stretch.length));
                } else {
                    let length = usize::try_from(stretch.length).unwrap_or(0);
                    let bytes = self.file.bytes_at(stretch.at, length)?;
                    if bytes.len() != length {
                        return Err(ReadError::Short { at: stretch.at });
                    }
                    pieces.push(Piece::Data(bytes));
                }
                at = stretch.at + stretch.length;
            }
            if at == before {
                return Err(ReadError::Short { at });
            }
        }
        Ok(())
    }

    /// Where data lies, from the beginning of `range` on; at least one stretch, and perhaps not
    /// all of it.
    pub(super) fn status(&self, range: Range<u64>) -> Result<Vec<Stretch>, ReadError> {
        let at = range.start;
        let found = self.file.stretches(range, STRETCHES_MAX)?;
        if found.is_empty() {
            return Err(ReadError::Short { at });
        }
        let stretch = |found: &crate::reader::Stretch| Stretch {
            bytes: found.length,
            is_hole: found.kind == StretchKind::Hole,
        };
        Ok(found.iter().map(stretch).collect())
    }
}
