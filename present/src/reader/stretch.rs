//! What a file is made of: data and holes, as far as the point knows. Promises that a hole reads
//! as zeros; that data is none it does not promise.

use std::ops::{ControlFlow, Range};

use strongroom_store::content::ChunkExtent;

use super::ReadError;
use super::extents::Layout;
use super::file::OpenFile;

/// A stretch of a file that is data or a hole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stretch {
    /// Where it begins, in bytes.
    pub at: u64,
    /// How long it is, in bytes.
    pub length: u64,
    pub kind: StretchKind,
}

/// What a stretch is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StretchKind {
    Data,
    /// Never written: reads as zeros.
    Hole,
}

impl OpenFile {
    /// The first byte from `offset` on that is no hole; none if only a hole, or nothing, follows.
    pub fn next_data(&self, offset: u64) -> Result<Option<u64>, ReadError> {
        let found = self.first(offset, StretchKind::Data)?;
        Ok(found.filter(|at| *at < self.size))
    }

    /// The first byte from `offset` on that is in a hole; the end of the file is one.
    pub fn next_hole(&self, offset: u64) -> Result<u64, ReadError> {
        Ok(self.first(offset, StretchKind::Hole)?.unwrap_or(self.size))
    }

    /// What `range` is made of, in order, whole from its beginning: neighbours of one kind are
    /// one. Ends early after `count_max` stretches, and with the file.
    pub fn stretches(
        &self,
        range: Range<u64>,
        count_max: usize,
    ) -> Result<Vec<Stretch>, ReadError> {
        let range = range.start..range.end.min(self.size);
        let mut found: Vec<Stretch> = Vec::new();
        if let (Layout::Inline(_), true) = (&self.layout, range.start < range.end) {
            let length = range.end - range.start;
            return Ok(vec![Stretch { at: range.start, length, kind: StretchKind::Data }]);
        }
        self.visit(range.clone(), &mut |placed| {
            let at = placed.at.max(range.start);
            let end = (placed.at + placed.extent.length()).min(range.end);
            let (length, kind) = (end.saturating_sub(at), kind_of(&placed.extent));
            let full = found.len() >= count_max;
            match found.last_mut() {
                Some(last) if last.kind == kind => last.length += length,
                _ if full => return ControlFlow::Break(()),
                _ => found.push(Stretch { at, length, kind }),
            }
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    /// Bytes that are not holes, where a single list says so; none where it would take many.
    pub fn data_bytes(&self) -> Result<Option<u64>, ReadError> {
        let found = self.layout.data_bytes(self.from());
        found.map_err(|source| ReadError::List { at: 0, source })
    }

    fn first(&self, offset: u64, kind: StretchKind) -> Result<Option<u64>, ReadError> {
        if let Layout::Inline(_) = self.layout {
            return Ok(Some(offset).filter(|_| kind == StretchKind::Data && offset < self.size));
        }
        let mut found = None;
        self.visit(offset..self.size, &mut |placed| {
            if kind_of(&placed.extent) != kind {
                return ControlFlow::Continue(());
            }
            found = Some(placed.at.max(offset));
            ControlFlow::Break(())
        })?;
        Ok(found)
    }
}

const fn kind_of(extent: &ChunkExtent) -> StretchKind {
    match extent {
        ChunkExtent::Chunk { .. } => StretchKind::Data,
        ChunkExtent::Hole { .. } => StretchKind::Hole,
    }
}
