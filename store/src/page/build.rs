//! Writes a directory as its names come, in order. Promises at most one page of each
//! level in memory; refuses names out of order or twice.

use strongroom_protocol::{BlobKind, ChunkId};

use crate::content::{Entry, WEIGHT_REFERENCE};
use crate::page::window::{Window, rank_of};
use crate::page::{BuildError, Child, PAGE_WEIGHT_MAX, PAGE_WEIGHT_MIN, Page, encode_page};
use crate::tree::BlobSink;

/// A directory being written.
pub struct DirectoryBuilder {
    leaf: Window<Entry>,
    /// Pages not yet named by a page above them, from the leaves up.
    inner: Vec<Window<Child>>,
    previous: Vec<u8>,
    count: u64,
}

impl Default for DirectoryBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl DirectoryBuilder {
    /// A directory without entries.
    pub const fn new() -> Self {
        let leaf = Window::new(PAGE_WEIGHT_MIN, PAGE_WEIGHT_MAX);
        Self { leaf, inner: Vec::new(), previous: Vec::new(), count: 0 }
    }

    /// Adds the next entry in name order; its attributes are sorted here.
    pub fn push<K: BlobSink + ?Sized>(
        &mut self,
        mut entry: Entry,
        sink: &mut K,
    ) -> Result<(), BuildError> {
        entry.meta.xattrs.sort_unstable();
        entry.check()?;
        if entry.name <= self.previous {
            return Err(BuildError::Order { name: entry.name, previous: self.previous.clone() });
        }
        self.previous.clone_from(&entry.name);
        self.count += 1;
        let (weight, rank) = (entry.weight(), rank_of(&entry.name));
        self.leaf.push(entry, weight, rank);
        while let Some(entries) = self.leaf.cut() {
            self.put_leaf(entries, sink)?;
        }
        Ok(())
    }

    /// Entries so far.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Writes what is left; the page that stands for the directory.
    pub fn finish<K: BlobSink + ?Sized>(mut self, sink: &mut K) -> Result<ChunkId, BuildError> {
        let entries = self.leaf.rest();
        if self.inner.is_empty() {
            return put(&Page::Leaf(entries), sink);
        }
        if !entries.is_empty() {
            self.put_leaf(entries, sink)?;
        }
        let mut level = 0;
        loop {
            let top = level + 1 == self.inner.len();
            let children = self.inner.get_mut(level).map(Window::rest).unwrap_or_default();
            match children.as_slice() {
                [] => {}
                [only] if top => return Ok(only.page),
                _ if top => return put(&inner_page(level, children), sink),
                _ => self.put_inner(level, children, sink)?,
            }
            level += 1;
        }
    }

    fn put_leaf<K: BlobSink + ?Sized>(
        &mut self,
        entries: Vec<Entry>,
        sink: &mut K,
    ) -> Result<(), BuildError> {
        let first = entries.first().map(|entry| entry.name.clone()).unwrap_or_default();
        let page = put(&Page::Leaf(entries), sink)?;
        self.add_child(0, Child { first, page }, sink)
    }

    fn put_inner<K: BlobSink + ?Sized>(
        &mut self,
        level: usize,
        children: Vec<Child>,
        sink: &mut K,
    ) -> Result<(), BuildError> {
        let first = children.first().map(|child| child.first.clone()).unwrap_or_default();
        let page = put(&inner_page(level, children), sink)?;
        self.add_child(level + 1, Child { first, page }, sink)
    }

    fn add_child<K: BlobSink + ?Sized>(
        &mut self,
        level: usize,
        child: Child,
        sink: &mut K,
    ) -> Result<(), BuildError> {
        if level == self.inner.len() {
            self.inner.push(Window::new(PAGE_WEIGHT_MIN, PAGE_WEIGHT_MAX));
        }
        let mut full = Vec::new();
        if let Some(window) = self.inner.get_mut(level) {
            let (weight, rank) = (WEIGHT_REFERENCE + child.first.len(), rank_of(&child.first));
            window.push(child, weight, rank);
            full.extend(std::iter::from_fn(|| window.cut()));
        }
        full.into_iter().try_for_each(|children| self.put_inner(level, children, sink))
    }
}

fn inner_page(level: usize, children: Vec<Child>) -> Page {
    let depth = u8::try_from(level + 1).unwrap_or(u8::MAX);
    Page::Inner { depth, children }
}

fn put<K: BlobSink + ?Sized>(page: &Page, sink: &mut K) -> Result<ChunkId, BuildError> {
    let encoded = encode_page(page)?;
    Ok(sink.put(BlobKind::Page, encoded.references, encoded.plain)?)
}
