//! Reads the extents of any content in file order. Promises one list of each level in
//! memory, seeking by offset, and that a damaged list costs its own stretch only.

use std::collections::VecDeque;

use strongroom_protocol::BlobKind;

use crate::content::{ChunkExtent, FileContent};
use crate::list::{List, ListChild, ListError, decode_list};
use crate::tree::BlobSource;

/// An extent with its place in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlacedExtent {
    /// Where in the file it begins, in bytes.
    pub at: u64,
    pub extent: ChunkExtent,
}

/// An iterator over the extents of a file; nothing for inline content. After an error it
/// goes on behind the list that could not be read.
pub struct ExtentReader<'s, S: ?Sized> {
    source: &'s S,
    content: Start,
    levels: Vec<Level>,
    extents: VecDeque<ChunkExtent>,
    /// Where the next extent, or unread list, begins.
    at: u64,
}

enum Start {
    Extents(Vec<ChunkExtent>),
    List(ListChild),
}

struct Level {
    /// Depth of the lists in `children`; none for the topmost.
    depth: Option<u8>,
    children: VecDeque<ListChild>,
}

impl<'s, S: BlobSource + ?Sized> ExtentReader<'s, S> {
    /// A reader of the content, at its beginning; nothing is read yet.
    pub fn new(source: &'s S, content: &FileContent) -> Self {
        let content = match content {
            FileContent::Inline(_) => Start::Extents(Vec::new()),
            FileContent::Extents(extents) => Start::Extents(extents.clone()),
            FileContent::Listed { list, size } => {
                Start::List(ListChild { list: *list, bytes: *size })
            }
        };
        let (levels, extents) = (Vec::new(), VecDeque::new());
        let mut reader = Self { source, content, levels, extents, at: 0 };
        reader.rewind();
        reader
    }

    /// Goes to the extent that holds byte `offset`, backwards too; it is given whole.
    /// Reads one list of each level.
    pub fn seek(&mut self, offset: u64) -> Result<(), ListError> {
        self.rewind();
        loop {
            while let Some(extent) = self.extents.front() {
                if self.at.saturating_add(extent.length()) > offset {
                    return Ok(());
                }
                self.at += extent.length();
                self.extents.pop_front();
            }
            match self.pending() {
                None => return Ok(()),
                Some(child) if self.at.saturating_add(child.bytes) <= offset => {
                    self.at += child.bytes;
                    self.pop_pending();
                }
                Some(_) => self.open_pending()?,
            }
        }
    }

    fn pending(&mut self) -> Option<ListChild> {
        while self.levels.last().is_some_and(|level| level.children.is_empty()) {
            self.levels.pop();
        }
        self.levels.last().and_then(|level| level.children.front()).copied()
    }

    fn pop_pending(&mut self) -> Option<(Option<u8>, ListChild)> {
        let level = self.levels.last_mut()?;
        let child = level.children.pop_front()?;
        Some((level.depth, child))
    }

    fn open_pending(&mut self) -> Result<(), ListError> {
        let Some((depth, child)) = self.pop_pending() else { return Ok(()) };
        match self.load(depth, child) {
            Ok(List::Extents(extents)) => self.extents = extents.into(),
            Ok(List::Inner { depth, children }) => {
                self.levels.push(Level { depth: Some(depth - 1), children: children.into() });
            }
            Err(error) => {
                self.at = self.at.saturating_add(child.bytes);
                return Err(error);
            }
        }
        Ok(())
    }

    fn load(&self, depth: Option<u8>, child: ListChild) -> Result<List, ListError> {
        let ListChild { list, bytes } = child;
        let blob = self.source.blob(BlobKind::List, list);
        let blob = blob.map_err(|source| ListError::Source { list, source })?;
        let decoded = decode_list(&blob.plain, &blob.references);
        let decoded = decoded.map_err(|source| ListError::Decode { list, source })?;
        let placed = depth.is_none_or(|depth| decoded.depth() == depth);
        match placed && decoded.bytes() == Some(bytes) {
            true => Ok(decoded),
            false => Err(ListError::Misplaced { list }),
        }
    }

    fn rewind(&mut self) {
        self.at = 0;
        self.extents.clear();
        self.levels.clear();
        match &self.content {
            Start::Extents(extents) => self.extents = extents.clone().into(),
            Start::List(child) => {
                self.levels.push(Level { depth: None, children: VecDeque::from([*child]) });
            }
        }
    }
}

impl<S: BlobSource + ?Sized> Iterator for ExtentReader<'_, S> {
    type Item = Result<PlacedExtent, ListError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(extent) = self.extents.pop_front() {
                let at = self.at;
                self.at = at.saturating_add(extent.length());
                return Some(Ok(PlacedExtent { at, extent }));
            }
            self.pending()?;
            if let Err(error) = self.open_pending() {
                return Some(Err(error));
            }
        }
    }
}
