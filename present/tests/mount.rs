//! A tree in memory through the kernel's own FUSE: what needs no nodes to be seen. Needs root and
//! /dev/fuse.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use strongroom_present::mount::{Items, Mounted, Options, Shown, mount};
use strongroom_present::reader::Source;
use strongroom_protocol::{BlobKind, ChunkId};
use strongroom_store::content::{Entry, FileContent, Meta, Node};
use strongroom_store::page::{DirectoryBuilder, Page, decode_page};
use strongroom_store::tree::{BlobSource, MemoryBlobs};

fn entry(name: &str, node: Node, link_group: u64) -> Entry {
    let mode = if matches!(node, Node::Directory { .. }) { 0o755 } else { 0o644 };
    let meta = Meta { mode, link_group, ..Meta::default() };
    Entry { name: name.as_bytes().to_vec(), node, meta }
}

fn file(name: &str, text: &str, link_group: u64) -> Entry {
    let content = FileContent::Inline(text.as_bytes().to_vec());
    entry(name, Node::File { size: text.len() as u64, content }, link_group)
}

fn directory(blobs: &mut MemoryBlobs, entries: impl IntoIterator<Item = Entry>) -> ChunkId {
    let mut builder = DirectoryBuilder::new();
    entries.into_iter().for_each(|entry| builder.push(entry, blobs).unwrap());
    builder.finish(blobs).unwrap()
}

fn show(source: Source, root: ChunkId, items: Items, dir: &Path) -> Mounted {
    let shown = Shown { source, root, meta: None, items, bring: None };
    mount(shown, dir, &Options::new("test")).unwrap()
}

#[test]
fn names_of_one_inode_are_one_within_an_item_and_never_across() {
    let (mut blobs, dir) = (MemoryBlobs::new(), tempfile::tempdir().unwrap());
    let item = |blobs: &mut MemoryBlobs| {
        let names = [file("x", "same", 7), file("y", "same", 7), file("z", "other", 0)];
        directory(blobs, names)
    };
    let items = ["a", "b"].map(|name| entry(name, Node::Directory { page: item(&mut blobs) }, 0));
    let root = directory(&mut blobs, items);
    let mounted = show(Arc::new(blobs), root, Items::Several, dir.path());
    let stat = |path: &str| fs::metadata(dir.path().join(path)).unwrap();
    assert_eq!(stat("a/x").ino(), stat("a/y").ino());
    assert_eq!(stat("b/x").ino(), stat("b/y").ino());
    let all: std::collections::HashSet<u64> =
        ["a", "b", "a/x", "b/x", "a/z", "b/z"].map(|path| stat(path).ino()).into();
    assert_eq!(all.len(), 6, "no two others are one");
    assert_eq!((stat("a/x").nlink(), stat("a/z").nlink()), (2, 1));
    assert!(!mounted.has_ended(Duration::ZERO));
    mounted.end().unwrap();
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none(), "it is gone");
}

/// Blobs of which some may be lost while they are read.
struct Losing(Mutex<MemoryBlobs>);

impl BlobSource for Losing {
    fn blob(
        &self,
        kind: BlobKind,
        id: ChunkId,
    ) -> Result<strongroom_store::tree::Blob, strongroom_store::tree::SourceError> {
        self.0.lock().unwrap().blob(kind, id)
    }
}

#[test]
fn a_lost_page_fails_the_listing_and_costs_its_own_names_only() {
    let (mut blobs, dir) = (MemoryBlobs::new(), tempfile::tempdir().unwrap());
    let name = |number: u32| format!("name-{number:06}");
    let names = (0..4000).map(|number| file(&name(number), "text", 0));
    let page = directory(&mut blobs, names);
    let root = directory(&mut blobs, [entry("many", Node::Directory { page }, 0)]);
    let top = blobs.blob(BlobKind::Page, page).unwrap();
    let Page::Inner { children, .. } = decode_page(&top.plain, &top.references).unwrap() else {
        panic!("one leaf holds them all");
    };
    let lost = children[children.len() / 2].page;
    assert!(blobs.remove(BlobKind::Page, lost));
    let source = Arc::new(Losing(Mutex::new(blobs)));
    let mounted = show(Arc::clone(&source) as Source, root, Items::One, dir.path());
    let many = dir.path().join("many");
    let listed = fs::read_dir(&many).unwrap().map(|entry| entry.err().map(|e| e.raw_os_error()));
    let listed: Vec<_> = listed.collect();
    assert_eq!(listed.last(), Some(&Some(Some(5))), "a listing that is not whole says so");
    assert!(listed.len() > 1, "what comes before is listed");
    let read = |number: u32| fs::read(many.join(name(number)));
    assert_eq!((read(0).unwrap(), read(3999).unwrap()), (b"text".to_vec(), b"text".to_vec()));
    let gone = (0..4000).filter(|number| read(*number).is_err()).count();
    assert!(gone > 10 && gone < 3000, "{gone} names are lost");
    mounted.end().unwrap();
}
