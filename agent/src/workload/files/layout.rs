//! What of a file the bytes are that wait to be cut: data and the holes between, so that neither
//! many small holes nor one large one make small chunks.

use std::collections::VecDeque;

use strongroom_store::content::ChunkExtent;
use strongroom_store::list::ListBuilder;

use crate::workload::files::read::ReadError;
use crate::workload::{ChunkSink, Through};

/// What the stream of data not yet in a chunk is in the file: data and the holes between.
#[derive(Debug, Default)]
pub(super) struct Layout {
    pieces: VecDeque<Piece>,
}

#[derive(Debug)]
enum Piece {
    Data(u64),
    Hole(u64),
}

impl Layout {
    pub(super) fn hole(&mut self, length: u64) {
        if length > 0 {
            self.pieces.push_back(Piece::Hole(length));
        }
    }

    pub(super) fn data(&mut self, length: u64) {
        match self.pieces.back_mut() {
            Some(Piece::Data(last)) => *last += length,
            _ if length > 0 => self.pieces.push_back(Piece::Data(length)),
            _ => {}
        }
    }

    /// Takes up to `most` bytes of data off the head, after the holes before it.
    pub(super) fn take_data(
        &mut self,
        most: usize,
        extents: &mut ListBuilder,
        sink: &dyn ChunkSink,
    ) -> Result<usize, ReadError> {
        self.flush_hole(extents, sink)?;
        let Some(Piece::Data(left)) = self.pieces.front_mut() else { return Ok(most) };
        let taken = (*left).min(most as u64);
        *left -= taken;
        if *left == 0 {
            self.pieces.pop_front();
        }
        Ok(usize::try_from(taken).unwrap_or(most))
    }

    pub(super) fn flush_hole(
        &mut self,
        extents: &mut ListBuilder,
        sink: &dyn ChunkSink,
    ) -> Result<(), ReadError> {
        while let Some(Piece::Hole(length)) = self.pieces.front() {
            extents.push(ChunkExtent::Hole { length: *length }, &mut Through(sink))?;
            self.pieces.pop_front();
        }
        Ok(())
    }
}
