//! Trees: looking up, walking, reading and comparing.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tree_support;

use std::collections::BTreeMap;

use strongroom_protocol::{BlobKind, ChunkId};
use strongroom_store::content::{ChunkExtent, Entry, Node};
use strongroom_store::diff::{Change, Diff, Field};
use strongroom_store::list::ListBuilder;
use strongroom_store::page::DirectoryReader;
use strongroom_store::tree::{Damage, Flow, MemoryBlobs, Step, Tree, TreeError, Visitor};
use tree_support::{chunk, directory, entry, file, page_of, small};

/// home/{a, deep/{b, empty/}, long, sparse} and link, with what each file holds.
struct Sample {
    blobs: MemoryBlobs,
    root: ChunkId,
    files: BTreeMap<Vec<u8>, Vec<u8>>,
}

fn bytes_of(seed: u32, length: usize) -> Vec<u8> {
    blake3::hash(&seed.to_le_bytes()).as_bytes().iter().copied().cycle().take(length).collect()
}

fn sample() -> Sample {
    let mut blobs = MemoryBlobs::new();
    let mut files = BTreeMap::new();
    // A long file of 300 chunks with holes, some chunks twice.
    let (mut long, mut held) = (ListBuilder::new(), Vec::new());
    for number in 0..300 {
        let bytes = bytes_of(number % 200, 100 + number as usize);
        let extent = chunk(&mut blobs, &bytes);
        long.push(extent, &mut blobs).unwrap();
        held.extend_from_slice(&bytes);
        if number % 9 == 0 {
            long.push(ChunkExtent::Hole { length: 33 }, &mut blobs).unwrap();
            held.resize(held.len() + 33, 0);
        }
    }
    let size = long.size();
    let content = long.finish(&mut blobs).unwrap();
    let long = entry("long", Node::File { size, content });
    files.insert(b"home/long".to_vec(), held);
    // Two stretches of one bundle around a hole.
    let bundle = bytes_of(1000, 5000);
    let ChunkExtent::Chunk { id, .. } = chunk(&mut blobs, &bundle) else { unreachable!() };
    let part = |offset, length| ChunkExtent::Chunk { id, offset, length };
    let sparse =
        file("sparse", vec![part(1000, 500), ChunkExtent::Hole { length: 100 }, part(0, 50)]);
    files.insert(b"home/sparse".to_vec(), [&bundle[1000..1500], &[0; 100], &bundle[..50]].concat());
    files.insert(b"home/a".to_vec(), b"inline".to_vec());
    let b = bytes_of(1, 101);
    let b_extent = chunk(&mut blobs, &b);
    files.insert(b"home/deep/b".to_vec(), b);
    let empty = directory(&mut blobs, "empty", Vec::new());
    let deep = directory(&mut blobs, "deep", vec![file("b", vec![b_extent]), empty]);
    let home = directory(&mut blobs, "home", vec![small("a", b"inline"), deep, long, sparse]);
    let link = entry("link", Node::Symlink { target: b"home/a".to_vec() });
    let root = page_of(&mut blobs, vec![home, link]);
    Sample { blobs, root, files }
}

#[test]
fn paths_lead_to_entries() {
    let sample = sample();
    let tree = Tree::new(&sample.blobs, sample.root);
    let name = |path: &str| tree.lookup(path.as_bytes()).unwrap().map(|found| found.name);
    assert_eq!(name("home/deep/b"), Some(b"b".to_vec()));
    assert_eq!(name("//home//deep/"), Some(b"deep".to_vec()));
    assert_eq!((name("home/c"), name("")), (None, None));
    let error = tree.lookup(b"home/a/b").unwrap_err();
    assert!(matches!(error, TreeError::NotDirectory { path } if path == b"home/a"));
}

#[test]
fn a_walk_meets_everything_in_order_and_leaves_what_it_entered() {
    let sample = sample();
    let tree = Tree::new(&sample.blobs, sample.root);
    let lines: Vec<String> = tree
        .walk()
        .map(|step| match step {
            Step::Enter { path, .. } => String::from_utf8(path).unwrap(),
            Step::Leave { path, .. } => format!("<{}", String::from_utf8(path).unwrap()),
            Step::Damaged(damage) => panic!("{damage:?}"),
        })
        .collect();
    let expected = "home home/a home/deep home/deep/b home/deep/empty <home/deep/empty \
                    <home/deep home/long home/sparse <home link";
    assert_eq!(lines.join(" "), expected);
    let found: Vec<_> = tree.find(|path, _| path.ends_with(b"b")).map(|f| f.unwrap().0).collect();
    assert_eq!(found, [b"home/deep/b"]);
}

#[derive(Default)]
struct Noting {
    paths: Vec<Vec<u8>>,
    damage: Vec<(Vec<u8>, ChunkId)>,
}

impl Visitor for Noting {
    fn entry(&mut self, path: &[u8], _entry: &Entry) -> Flow {
        self.paths.push(path.to_vec());
        match path {
            b"home/skipped" => Flow::Skip,
            b"home/z-stop" => Flow::Stop,
            _ => Flow::Continue,
        }
    }
    fn damaged(&mut self, damage: &Damage) -> Flow {
        self.damage.push((damage.path.clone(), damage.id));
        Flow::Continue
    }
}

#[test]
fn damage_is_told_with_its_path_and_does_not_end_the_walk() {
    let mut sample = sample();
    let page = |sample: &Sample, path: &[u8]| {
        let found = Tree::new(&sample.blobs, sample.root).lookup(path).unwrap().unwrap();
        found.directory_page().unwrap()
    };
    let deep = page(&sample, b"home/deep");
    sample.blobs.remove(BlobKind::Page, deep);
    let mut noting = Noting::default();
    Tree::new(&sample.blobs, sample.root).visit(&mut noting);
    assert_eq!(noting.damage, [(b"home/deep".to_vec(), deep)]);
    let paths = ["home", "home/a", "home/deep", "home/long", "home/sparse", "link"];
    assert!(noting.paths.iter().eq(paths.map(str::as_bytes).iter()));
}

#[test]
fn a_visitor_may_leave_out_and_stop() {
    let mut blobs = MemoryBlobs::new();
    let skipped = directory(&mut blobs, "skipped", vec![small("never", b"")]);
    let entered = directory(&mut blobs, "t", vec![small("u", b"")]);
    let after = [small("z-stop", b""), small("zz", b"")];
    let home = [vec![small("a", b""), skipped, entered], after.to_vec()].concat();
    let home = directory(&mut blobs, "home", home);
    let root = page_of(&mut blobs, vec![home]);
    let mut noting = Noting::default();
    Tree::new(&blobs, root).visit(&mut noting);
    let paths = ["home", "home/a", "home/skipped", "home/t", "home/t/u", "home/z-stop"];
    assert!(noting.paths.iter().eq(paths.map(str::as_bytes).iter()), "{:?}", noting.paths);
}

#[test]
fn files_are_read_from_any_offset() {
    let mut sample = sample();
    let tree = Tree::new(&sample.blobs, sample.root);
    for (path, bytes) in &sample.files {
        let entry = tree.lookup(path).unwrap().unwrap();
        let size = bytes.len();
        for (from, length) in [(0, size), (0, 1), (size / 3, size / 2), (size - 1, 9), (size, 1)] {
            let read = tree.read_file(&entry, from as u64, length as u64).unwrap();
            assert_eq!(read, bytes[from..size.min(from + length)], "{from} {length}");
        }
        assert_eq!(tree.read_file(&entry, u64::MAX, u64::MAX).unwrap(), b"");
    }
    let link = tree.lookup(b"link").unwrap().unwrap();
    assert!(matches!(tree.read_file(&link, 0, 1), Err(TreeError::NotFile { .. })));
    let huge = file("huge", vec![ChunkExtent::Hole { length: 1 << 60 }]);
    assert!(matches!(tree.read_file(&huge, 0, 1 << 60), Err(TreeError::TooMuch { .. })));
    assert_eq!(tree.read_file(&huge, 1 << 59, 3).unwrap(), [0; 3]);
    let ChunkExtent::Chunk { id, .. } = chunk(&mut sample.blobs, b"short") else { unreachable!() };
    let past = file("past", vec![ChunkExtent::Chunk { id, offset: 3, length: 3 }]);
    let tree = Tree::new(&sample.blobs, sample.root);
    assert!(matches!(tree.read_file(&past, 0, 3), Err(TreeError::Short { .. })));
}

fn lines(old: (&MemoryBlobs, ChunkId), new: (&MemoryBlobs, ChunkId)) -> Vec<String> {
    let (old, new) = (Tree::new(old.0, old.1), Tree::new(new.0, new.1));
    Diff::new(&old, &new)
        .map(|change| match change {
            Change::Added { path, .. } => format!("+{}", path.escape_ascii()),
            Change::Removed { path, .. } => format!("-{}", path.escape_ascii()),
            Change::Damaged { side, damage } => {
                format!("!{side:?} {}", damage.path.escape_ascii())
            }
            Change::Changed { path, fields, .. } => {
                let fields: Vec<String> = fields.iter().map(Field::to_string).collect();
                format!("*{} {}", path.escape_ascii(), fields.join(","))
            }
        })
        .collect()
}

#[test]
fn differences_are_told_by_path_and_field() {
    let mut blobs = MemoryBlobs::new();
    let gone = directory(&mut blobs, "gone", vec![small("in", b"1")]);
    let same = directory(&mut blobs, "same", vec![small("x", b"1")]);
    let turned = directory(&mut blobs, "turned", vec![small("y", b"1")]);
    let first = vec![gone, small("kept", b"1"), same.clone(), turned, small("w", b"1")];
    let deep = directory(&mut blobs, "deep", first);
    let old = page_of(&mut blobs, vec![deep.clone()]);
    let come = directory(&mut blobs, "come", vec![small("in", b"1")]);
    let mut kept = small("kept", b"22");
    kept.meta.mode = 0o600;
    kept.meta.xattrs =
        vec![strongroom_store::content::Xattr { name: b"user.a".to_vec(), value: Vec::new() }];
    let second = vec![come, kept, same, small("turned", b""), small("w", b"1")];
    let mut changed = directory(&mut blobs, "deep", second);
    changed.meta.mtime_ns = 1;
    let new = page_of(&mut blobs, vec![changed]);
    assert_eq!(
        lines((&blobs, old), (&blobs, new)),
        [
            "*deep modification time",
            "+deep/come",
            "+deep/come/in",
            "-deep/gone",
            "-deep/gone/in",
            "*deep/kept content,mode,size,xattr user.a",
            "*deep/turned kind",
            "-deep/turned/y",
        ]
    );
    assert_eq!(lines((&blobs, old), (&blobs, old)), Vec::<String>::new());
    let page = deep.directory_page().unwrap();
    let mut holed = MemoryBlobs::new();
    assert_eq!(page_of(&mut holed, vec![deep]), old);
    holed.remove(BlobKind::Page, page);
    assert_eq!(lines((&holed, old), (&blobs, new))[1], "!Old deep");
}

#[test]
fn pages_both_have_are_not_read() {
    let mut blobs = MemoryBlobs::new();
    let many = |change: Option<u32>| {
        let make = |number: u32| match change {
            Some(at) if at == number => small(format!("{number:06}"), b"changed"),
            _ => small(format!("{number:06}"), b"x"),
        };
        (0..50_000).map(make).collect::<Vec<_>>()
    };
    let old = page_of(&mut blobs, many(None));
    let mut new_entries = many(Some(25_000));
    new_entries.remove(40_000);
    let new = page_of(&mut blobs, new_entries);
    let before = blobs.reads();
    assert_eq!(lines((&blobs, old), (&blobs, new)), ["*025000 content,size", "-040000"]);
    let reads = blobs.reads() - before;
    assert!(reads < 12, "{reads} pages read of {}", blobs.ids().count());
    assert_eq!(DirectoryReader::new(&blobs, old).count(), 50_000);
}
