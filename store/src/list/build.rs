//! Writes the content of one file as its extents come. Promises at most one list of each
//! level in memory, and no list at all for content of few extents.

use strongroom_protocol::{BlobKind, ChunkId};

use crate::content::{ChunkExtent, EXTENTS_INLINE_MAX, FILE_BYTES_MAX, FileContent};
use crate::list::{LIST_MEMBERS_MAX, LIST_MEMBERS_MIN, List, ListChild, ListError, encode_list};
use crate::page::window::{Window, head_of};
use crate::tree::BlobSink;

/// Content being written.
pub struct ListBuilder {
    /// The last extent, which the next may go on from.
    last: Option<ChunkExtent>,
    extents: Window<ChunkExtent>,
    count: u64,
    inner: Vec<Window<ListChild>>,
    size: u64,
}

impl Default for ListBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl ListBuilder {
    /// Content of no bytes.
    pub const fn new() -> Self {
        let extents = Window::new(LIST_MEMBERS_MIN, LIST_MEMBERS_MAX);
        Self { last: None, extents, count: 0, inner: Vec::new(), size: 0 }
    }

    /// Adds the next stretch of the file; joins it to the one before where it goes on.
    pub fn push<K: BlobSink + ?Sized>(
        &mut self,
        extent: ChunkExtent,
        sink: &mut K,
    ) -> Result<(), ListError> {
        let size = self.size.checked_add(extent.length()).filter(|size| *size <= FILE_BYTES_MAX);
        let (true, Some(size)) = (extent.is_usable(), size) else {
            return Err(ListError::Extent { offset: self.size });
        };
        self.size = size;
        let Some(last) = self.last else {
            self.last = Some(extent);
            return Ok(());
        };
        if let Some(joined) = last.joined(&extent) {
            self.last = Some(joined);
            return Ok(());
        }
        self.last = Some(extent);
        self.settle(last, sink)
    }

    /// Bytes so far.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Writes what is left; the content for the file's entry.
    pub fn finish<K: BlobSink + ?Sized>(mut self, sink: &mut K) -> Result<FileContent, ListError> {
        if let Some(last) = self.last.take() {
            self.settle(last, sink)?;
        }
        let extents = self.extents.rest();
        if self.count <= EXTENTS_INLINE_MAX as u64 {
            return Ok(FileContent::Extents(extents));
        }
        let size = self.size;
        if self.inner.is_empty() {
            let list = put(&List::Extents(extents), sink)?.list;
            return Ok(FileContent::Listed { list, size });
        }
        if !extents.is_empty() {
            let child = put(&List::Extents(extents), sink)?;
            self.add_child(0, child, sink)?;
        }
        let mut level = 0;
        loop {
            let top = level + 1 == self.inner.len();
            let children = self.inner.get_mut(level).map(Window::rest).unwrap_or_default();
            match children.as_slice() {
                [] => {}
                [only] if top => return Ok(FileContent::Listed { list: only.list, size }),
                _ => {
                    let child = put(&inner_list(level, children), sink)?;
                    if top {
                        return Ok(FileContent::Listed { list: child.list, size });
                    }
                    self.add_child(level + 1, child, sink)?;
                }
            }
            level += 1;
        }
    }

    fn settle<K: BlobSink + ?Sized>(
        &mut self,
        extent: ChunkExtent,
        sink: &mut K,
    ) -> Result<(), ListError> {
        self.count += 1;
        self.extents.push(extent, 1, rank_of(&extent));
        while let Some(extents) = self.extents.cut() {
            let child = put(&List::Extents(extents), sink)?;
            self.add_child(0, child, sink)?;
        }
        Ok(())
    }

    fn add_child<K: BlobSink + ?Sized>(
        &mut self,
        level: usize,
        child: ListChild,
        sink: &mut K,
    ) -> Result<(), ListError> {
        if level == self.inner.len() {
            self.inner.push(Window::new(LIST_MEMBERS_MIN, LIST_MEMBERS_MAX));
        }
        let Some(window) = self.inner.get_mut(level) else { return Ok(()) };
        window.push(child, 1, head_of(&child.list.0));
        if let Some(children) = window.cut() {
            let child = put(&inner_list(level, children), sink)?;
            self.add_child(level + 1, child, sink)?;
        }
        Ok(())
    }
}

/// Chunk ids are already evenly spread; a hole ends a list only for want of chunks.
fn rank_of(extent: &ChunkExtent) -> u64 {
    match extent {
        ChunkExtent::Chunk { id: ChunkId(digest), .. } => head_of(digest),
        ChunkExtent::Hole { .. } => u64::MAX,
    }
}

fn inner_list(level: usize, children: Vec<ListChild>) -> List {
    let depth = u8::try_from(level + 1).unwrap_or(u8::MAX);
    List::Inner { depth, children }
}

fn put<K: BlobSink + ?Sized>(list: &List, sink: &mut K) -> Result<ListChild, ListError> {
    // The builder refused what would overflow, so the sum is always there.
    let bytes = list.bytes().unwrap_or_default();
    let encoded = encode_list(list)?;
    let list = sink.put(BlobKind::List, encoded.references, encoded.plain)?;
    Ok(ListChild { list, bytes })
}
