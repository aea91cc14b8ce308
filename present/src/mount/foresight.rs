//! What will be wanted next by somebody who goes through a directory in its order: the pages of
//! the directories and the chunks of the small files behind. Promises nothing but less waiting;
//! remembers a few pages only.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use strongroom_protocol::ChunkId;
use strongroom_store::content::{ChunkExtent, Entry, FileContent, Node};

/// Pages in which somebody goes forward, remembered.
const PAGES_MAX: usize = 256;
/// How far behind the last the next may be, to be in order.
const STRIDE_MAX: u32 = 64;
/// Directories whose pages are wanted next.
const DIRECTORIES_MAX: usize = 16;
/// Chunks of small files that are wanted next: small files share them, some hundred each.
const CHUNKS_MAX: usize = 3;
/// Entries looked at for them.
const ENTRIES_MAX: usize = 1024;

/// Where in their pages people are.
#[derive(Default)]
pub(super) struct Foresight {
    directories: Mutex<HashMap<ChunkId, u32>>,
    files: Mutex<HashMap<ChunkId, u32>>,
}

impl Foresight {
    /// The topmost pages of directories that will be opened next, as one of this page was.
    pub(super) fn after_directory(
        &self,
        page: ChunkId,
        index: u32,
        entries: &[Entry],
    ) -> Vec<ChunkId> {
        if !in_order(&self.directories, page, index) {
            return Vec::new();
        }
        let behind = entries.get(index as usize + 1..).unwrap_or_default();
        let pages = behind.iter().filter_map(Entry::directory_page);
        pages.take(DIRECTORIES_MAX).collect()
    }

    /// The chunks of small files that will be opened next, as one of this page was, each with the
    /// bytes of it that are known.
    pub(super) fn after_file(
        &self,
        page: ChunkId,
        index: u32,
        entries: &[Entry],
    ) -> Vec<(ChunkId, usize)> {
        if !in_order(&self.files, page, index) {
            return Vec::new();
        }
        let mut found: Vec<(ChunkId, usize)> = Vec::new();
        let this = entries.get(index as usize).and_then(only_chunk).map(|(id, _)| id);
        let behind = entries.iter().skip(index as usize + 1).take(ENTRIES_MAX);
        for (id, bytes) in behind.filter_map(only_chunk) {
            let full = found.len() >= CHUNKS_MAX;
            match found.iter_mut().find(|(known, _)| *known == id) {
                Some((_, known)) => *known = (*known).max(bytes),
                None if Some(id) == this => {}
                None if full => break,
                None => found.push((id, bytes)),
            }
        }
        found
    }
}

/// The chunk of a file that has but one, and how far it reaches into that.
fn only_chunk(entry: &Entry) -> Option<(ChunkId, usize)> {
    match &entry.node {
        Node::File { content: FileContent::Extents(extents), .. } => match extents.as_slice() {
            [ChunkExtent::Chunk { id, offset, length }] => {
                Some((*id, *offset as usize + *length as usize))
            }
            _ => None,
        },
        _ => None,
    }
}

/// Notes that one of a page is opened; whether that goes on where the last one was.
fn in_order(seen: &Mutex<HashMap<ChunkId, u32>>, page: ChunkId, index: u32) -> bool {
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    if seen.len() >= PAGES_MAX && !seen.contains_key(&page) {
        seen.clear();
    }
    let last = seen.insert(page, index);
    last.is_some_and(|last| index > last && index - last <= STRIDE_MAX)
}

#[cfg(test)]
mod tests {
    use strongroom_store::content::Meta;

    use super::*;

    fn file(chunk: u8) -> Entry {
        let extent = ChunkExtent::Chunk { id: ChunkId([chunk; 32]), offset: 10, length: 20 };
        let content = FileContent::Extents(vec![extent]);
        let node = Node::File { size: 20, content };
        Entry { name: vec![b'f'], node, meta: Meta::default() }
    }

    #[test]
    fn who_goes_forward_is_foreseen_and_who_jumps_is_not() {
        let entries: Vec<Entry> = [1, 1, 2, 2, 3, 4, 5].map(file).into();
        let (foresight, page) = (Foresight::default(), ChunkId([9; 32]));
        assert!(foresight.after_file(page, 0, &entries).is_empty(), "one is no order");
        let next: Vec<u8> =
            foresight.after_file(page, 1, &entries).iter().map(|(id, _)| id.0[0]).collect();
        assert_eq!(next, [2, 3, 4]);
        assert_eq!(foresight.after_file(page, 5, &entries), [(ChunkId([5; 32]), 30)]);
        assert!(foresight.after_file(page, 2, &entries).is_empty(), "backwards");
    }
}
