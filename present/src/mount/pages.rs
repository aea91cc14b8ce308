//! Pages of directories kept decoded, and the leaf of a directory in which a name is or would be.
//! Promises that a page is fetched once as long as it is kept, and is only believed where it is
//! what the page above it says.

use std::sync::Arc;

use strongroom_protocol::{BlobKind, ChunkId};
use strongroom_store::content::Entry;
use strongroom_store::page::{Child, Page, PageError, decode_page};

use crate::reader::Source;
use crate::reader::extents::Fetch;
use crate::reader::kept::Kept;

/// Pages that follow a leaf and are said with it: who lists a directory wants them next.
const FOLLOWING_MAX: usize = 8;
/// What an entry takes in memory beside its weight in a page, in bytes.
const ENTRY_BYTES: usize = size_of::<Entry>();
/// What a page below takes in memory beside its first name, in bytes.
const CHILD_BYTES: usize = size_of::<Child>();

/// The pages of a point.
pub(super) struct Pages {
    source: Source,
    kept: Arc<Kept<Arc<Page>, PageError>>,
}

/// A leaf of a directory.
pub(super) struct Leaf {
    pub(super) id: ChunkId,
    pub(super) page: Arc<Page>,
    /// The first name of the leaf behind it; none behind the last.
    pub(super) next: Option<Vec<u8>>,
    /// Pages behind it, as far as they are known.
    pub(super) following: Vec<ChunkId>,
}

impl Leaf {
    pub(super) fn entries(&self) -> &[Entry] {
        entries_of(&self.page)
    }

    /// Where in it a name is.
    pub(super) fn position(&self, name: &[u8]) -> Option<usize> {
        self.entries().binary_search_by(|entry| entry.name.as_slice().cmp(name)).ok()
    }
}

/// The entries of a page that is a leaf.
pub(super) fn entries_of(page: &Page) -> &[Entry] {
    match page {
        Page::Leaf(entries) => entries,
        Page::Inner { .. } => &[],
    }
}

impl Pages {
    /// Keeps at most `bytes_max` bytes of them.
    pub(super) fn new(source: Source, bytes_max: usize) -> Self {
        Self { source, kept: Kept::new(bytes_max) }
    }

    /// A page; none if it is not here and not to be fetched.
    pub(super) fn page(
        &self,
        page: ChunkId,
        fetch: Fetch,
    ) -> Result<Option<Arc<Page>>, Arc<PageError>> {
        match fetch {
            Fetch::Nothing => Ok(self.kept.peek(page)),
            Fetch::Absent => self.kept.get(page, || self.decode(page)).map(Some),
        }
    }

    /// The leaf of the directory `topmost` in which `name` is, or would be.
    pub(super) fn leaf(
        &self,
        topmost: ChunkId,
        name: &[u8],
        fetch: Fetch,
    ) -> Result<Option<Leaf>, Arc<PageError>> {
        let (mut id, mut place) = (topmost, Place::default());
        let (mut next, mut following) = (None, Vec::new());
        loop {
            let Some(page) = self.page(id, fetch)? else { return Ok(None) };
            if !place.holds(&page, next.as_deref()) {
                return Err(Arc::new(PageError::Misplaced { page: id }));
            }
            let Page::Inner { depth, children } = &*page else {
                return Ok(Some(Leaf { id, page, next, following }));
            };
            let past = children.partition_point(|child| child.first.as_slice() <= name);
            let at = past.saturating_sub(1);
            let Some(child) = children.get(at) else {
                return Err(Arc::new(PageError::Misplaced { page: id }));
            };
            let behind = children.get(at + 1..).unwrap_or_default();
            if let Some(sibling) = behind.first() {
                next = Some(sibling.first.clone());
            }
            following = behind.iter().take(FOLLOWING_MAX).map(|child| child.page).collect();
            place = Place { depth: Some(depth.saturating_sub(1)), first: child.first.clone() };
            id = child.page;
        }
    }

    fn decode(&self, page: ChunkId) -> Result<(Arc<Page>, usize), PageError> {
        let blob = self.source.blob(BlobKind::Page, page);
        let blob = blob.map_err(|source| PageError::Source { page, source })?;
        let decoded = decode_page(&blob.plain, &blob.references);
        let decoded = decoded.map_err(|source| PageError::Decode { page, source })?;
        let bytes = match &decoded {
            Page::Leaf(entries) => {
                entries.iter().map(|entry| ENTRY_BYTES + entry.weight()).sum::<usize>()
            }
            Page::Inner { children, .. } => {
                children.iter().map(|child| CHILD_BYTES + child.first.len()).sum()
            }
        };
        Ok((Arc::new(decoded), bytes))
    }
}

/// What the page above says of a page.
#[derive(Default)]
struct Place {
    /// None for the topmost, which may have any.
    depth: Option<u8>,
    first: Vec<u8>,
}

impl Place {
    /// Whether a page is what is said of it: its depth, its first name, and none from `end` on.
    fn holds(&self, page: &Page, end: Option<&[u8]>) -> bool {
        let Some(depth) = self.depth else { return true };
        let (found, first, last) = match page {
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
        found == depth
            && first == Some(self.first.as_slice())
            && end.is_none_or(|end| last.is_some_and(|last| last < end))
    }
}

#[cfg(test)]
mod tests {
    use strongroom_store::content::{Meta, Node};
    use strongroom_store::page::DirectoryBuilder;
    use strongroom_store::tree::MemoryBlobs;

    use super::*;

    #[test]
    fn every_name_is_found_in_its_leaf_and_the_leaves_follow_one_another() {
        let (mut blobs, mut builder) = (MemoryBlobs::new(), DirectoryBuilder::new());
        let name = |number: u32| format!("name-{number:06}").into_bytes();
        for number in 0..5000 {
            let entry = Entry { name: name(number), node: Node::Fifo, meta: Meta::default() };
            builder.push(entry, &mut blobs).unwrap();
        }
        let top = builder.finish(&mut blobs).unwrap();
        let pages = Pages::new(Arc::new(blobs), 16 << 20);
        assert!(pages.leaf(top, b"", Fetch::Nothing).unwrap().is_none(), "nothing is here yet");
        let (mut from, mut seen, mut leaves) = (Vec::new(), 0, 0);
        loop {
            let leaf = pages.leaf(top, &from, Fetch::Absent).unwrap().unwrap();
            for entry in leaf.entries() {
                assert_eq!(entry.name, name(seen));
                seen += 1;
            }
            leaves += 1;
            let Some(next) = leaf.next else { break };
            from = next;
        }
        assert!(seen == 5000 && leaves > 3, "{seen} names in {leaves} leaves");
        for number in [0, 1, 777, 2500, 4999] {
            let leaf = pages.leaf(top, &name(number), Fetch::Nothing).unwrap().unwrap();
            let at = leaf.position(&name(number)).unwrap();
            assert_eq!(leaf.entries()[at].name, name(number));
        }
        let leaf = pages.leaf(top, b"zzz", Fetch::Absent).unwrap().unwrap();
        assert!(leaf.position(b"zzz").is_none() && leaf.next.is_none());
    }
}
