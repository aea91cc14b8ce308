//! Reads a directory page by page, in name order. Promises one page of each level in
//! memory and that a damaged page costs its own names only; refuses a page that is not
//! where the page above says.

use std::collections::VecDeque;

use strongroom_protocol::{BlobKind, ChunkId};

use crate::content::Entry;
use crate::page::{Child, Page, PageError, decode_page};
use crate::tree::BlobSource;

/// An iterator over the entries of a directory. After an error it goes on behind the
/// page that could not be read.
pub struct DirectoryReader<'s, S: ?Sized> {
    source: &'s S,
    root: ChunkId,
    /// Unread pages of each level, the topmost first.
    levels: Vec<Level>,
    entries: VecDeque<Entry>,
}

struct Level {
    /// Depth of the pages in `children`; none for the topmost, which may have any.
    depth: Option<u8>,
    children: VecDeque<Child>,
    /// All names of the level come before this one; none: no bound.
    end: Option<Vec<u8>>,
}

impl<'s, S: BlobSource + ?Sized> DirectoryReader<'s, S> {
    /// A reader of the directory `page`; nothing is read yet.
    pub fn new(source: &'s S, page: ChunkId) -> Self {
        let mut reader = Self { source, root: page, levels: Vec::new(), entries: VecDeque::new() };
        reader.rewind();
        reader
    }

    /// Goes to the first entry whose name is not less than `name`, backwards too; reads
    /// one page of each level. After an error the reader stands behind the broken page.
    pub fn seek(&mut self, name: &[u8]) -> Result<(), PageError> {
        self.rewind();
        while self.pending().is_some() {
            if let Some(level) = self.levels.last_mut() {
                // The page wanted is the last whose first name is not greater.
                let past = level.children.partition_point(|child| child.first.as_slice() <= name);
                level.children.drain(..past.saturating_sub(1));
            }
            self.open_pending()?;
            if !self.entries.is_empty() {
                break;
            }
        }
        let past = self.entries.partition_point(|entry| entry.name.as_slice() < name);
        self.entries.drain(..past);
        Ok(())
    }

    /// The entry of this name.
    pub fn find(&mut self, name: &[u8]) -> Result<Option<Entry>, PageError> {
        self.seek(name)?;
        // What is not in the page sought is not in the directory.
        Ok(self.entries.pop_front().filter(|entry| entry.name == name))
    }

    /// The page read next, where all entries of the pages before it were given.
    pub(crate) fn pending(&mut self) -> Option<ChunkId> {
        if !self.entries.is_empty() {
            return None;
        }
        while self.levels.last().is_some_and(|level| level.children.is_empty()) {
            self.levels.pop();
        }
        self.levels.last().and_then(|level| level.children.front()).map(|child| child.page)
    }

    /// Leaves out the pending page.
    pub(crate) fn skip_pending(&mut self) {
        if let Some(level) = self.levels.last_mut() {
            level.children.pop_front();
        }
    }

    /// Reads the pending page: its entries, or its children, come next.
    pub(crate) fn open_pending(&mut self) -> Result<(), PageError> {
        let Some(level) = self.levels.last_mut() else { return Ok(()) };
        let Some(child) = level.children.pop_front() else { return Ok(()) };
        let end =
            level.children.front().map(|next| next.first.clone()).or_else(|| level.end.clone());
        let depth = level.depth;
        let page = child.page;
        let blob = self.source.blob(BlobKind::Page, page);
        let blob = blob.map_err(|source| PageError::Source { page, source })?;
        let decoded = decode_page(&blob.plain, &blob.references);
        let decoded = decoded.map_err(|source| PageError::Decode { page, source })?;
        if !is_in_place(&decoded, depth, &child.first, end.as_deref()) {
            return Err(PageError::Misplaced { page });
        }
        match decoded {
            Page::Leaf(entries) => self.entries = entries.into(),
            Page::Inner { depth, children } => {
                self.levels.push(Level { depth: Some(depth - 1), children: children.into(), end });
            }
        }
        Ok(())
    }

    fn rewind(&mut self) {
        let children = VecDeque::from([Child { first: Vec::new(), page: self.root }]);
        self.levels = vec![Level { depth: None, children, end: None }];
        self.entries.clear();
    }
}

impl<S: BlobSource + ?Sized> Iterator for DirectoryReader<'_, S> {
    type Item = Result<Entry, PageError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.entries.pop_front() {
                return Some(Ok(entry));
            }
            self.pending()?;
            if let Err(error) = self.open_pending() {
                return Some(Err(error));
            }
        }
    }
}

/// Whether a page is what the page above it says: `depth` is none for the topmost.
fn is_in_place(page: &Page, depth: Option<u8>, first: &[u8], end: Option<&[u8]>) -> bool {
    let (found, first_name, last_name) = match page {
        Page::Leaf(entries) => (
            0,
            entries.first().map(|entry| entry.name.as_slice()),
            entries.last().map(|entry| entry.name.as_slice()),
        ),
        Page::Inner { depth, children } => (
            *depth,
            children.first().map(|child| child.first.as_slice()),
            children.last().map(|child| child.first.as_slice()),
        ),
    };
    let Some(depth) = depth else { return true };
    found == depth
        && first_name == Some(first)
        && end.is_none_or(|end| last_name.is_some_and(|last| last < end))
}
