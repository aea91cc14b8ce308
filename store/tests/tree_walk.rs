//! Trees: looking up, walking, reading, comparing, and restores planned over them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tree_support;

use std::collections::{BTreeMap, BTreeSet};

use strongroom_protocol::{BlobKind, ChunkId, PackId};
use strongroom_store::content::{ChunkExtent, Entry, FileContent, Node};
use strongroom_store::diff::{Change, Diff, Field};
use strongroom_store::list::ListBuilder;
use strongroom_store::page::DirectoryReader;
use strongroom_store::plan::{Part, Plan, Selection, Window};
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

/// Chunks lie in eight packs by their first byte, at offsets by their second.
fn place(ids: &[ChunkId]) -> Vec<Option<(PackId, u32, u32)>> {
    ids.iter().map(|id| Some((PackId([id.0[0] % 8; 32]), id.0[1].into(), 10))).collect()
}

/// Carries the windows out on files in memory.
fn carry_out(sample: &Sample, windows: &[Window]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let tree = Tree::new(&sample.blobs, sample.root);
    let mut made: BTreeMap<u64, (Vec<u8>, Vec<u8>)> = BTreeMap::new();
    let mut complete = BTreeSet::new();
    for window in windows {
        for planned in &window.entries {
            let Node::File { size, content } = &planned.entry.node else { continue };
            let fresh = matches!(planned.part, Part::Whole | Part::First);
            assert_eq!(fresh, !made.contains_key(&planned.file));
            let mut bytes = vec![0; usize::try_from(*size).unwrap()];
            if let FileContent::Inline(inline) = content {
                bytes.copy_from_slice(inline);
            }
            made.entry(planned.file).or_insert_with(|| (planned.path.clone(), bytes));
            if matches!(planned.part, Part::Whole | Part::Last) {
                assert!(complete.insert(planned.file));
            }
        }
        assert!(window.reads.is_sorted_by(|a, b| a.pack < b.pack), "each pack once");
        for read in window.reads.iter().flat_map(|read| &read.chunks) {
            let whole =
                file("c", vec![ChunkExtent::Chunk { id: read.chunk, offset: 0, length: 1 }]);
            assert!(tree.read_file(&whole, 0, 1).is_ok());
            for target in &read.targets {
                let (offset, length) = (target.chunk_offset, target.length);
                let part = ChunkExtent::Chunk { id: read.chunk, offset, length };
                let bytes = tree.read_file(&file("c", vec![part]), 0, length.into()).unwrap();
                let at = usize::try_from(target.file_offset).unwrap();
                let (_, held) = made.get_mut(&target.file).unwrap();
                held[at..at + bytes.len()].copy_from_slice(&bytes);
            }
        }
    }
    assert_eq!(complete.len(), made.len(), "every file is told complete");
    made.into_values().collect()
}

#[test]
fn a_plan_carried_out_makes_the_files_again() {
    let sample = sample();
    let tree = Tree::new(&sample.blobs, sample.root);
    for extents in [1, 7, 100, 65_536] {
        let plan = Plan::build(&tree, Selection::Everything, place).with_window_extents(extents);
        let windows: Vec<Window> = plan.collect();
        assert_eq!(carry_out(&sample, &windows), sample.files, "windows of {extents}");
        for window in &windows {
            let chunks = || window.reads.iter().map(|read| &read.chunks);
            let targets: usize = chunks().flatten().map(|chunk| chunk.targets.len()).sum();
            assert!(targets <= extents && window.missing.is_empty());
            assert!(chunks().all(|chunks| chunks.is_sorted_by_key(|chunk| chunk.offset)));
        }
        let finished = windows.iter().flat_map(|window| &window.finished);
        let finished: Vec<_> = finished.map(|finished| finished.path.as_slice()).collect();
        assert_eq!(finished, [&b"home/deep/empty"[..], b"home/deep", b"home"]);
        assert_eq!(extents == 65_536, windows.len() == 1, "{} windows", windows.len());
    }
}

#[test]
fn only_the_selection_is_planned_and_read() {
    let sample = sample();
    let tree = Tree::new(&sample.blobs, sample.root);
    let planned = |selection| {
        let windows = Plan::build(&tree, selection, place);
        let entries: Vec<_> = windows.flat_map(|window| window.entries).collect();
        let paths = entries.into_iter().map(|e| String::from_utf8(e.path).unwrap());
        paths.collect::<Vec<_>>().join(" ")
    };
    let paths = |paths: &[&str]| Selection::paths(paths.iter().map(|path| path.as_bytes()));
    assert_eq!(planned(paths(&["/home/deep/"])), "home/deep home/deep/b home/deep/empty");
    assert_eq!(planned(paths(&["home/a", "link"])), "home/a link");
    assert_eq!(planned(paths(&["home/dee", "lin"])), "");
    assert_eq!(planned(paths(&[""])), planned(Selection::Everything));
    let big = |_: &[u8], entry: &Entry| matches!(entry.node, Node::File { size, .. } if size > 101);
    assert_eq!(planned(Selection::Matching(Box::new(big))), "home/long home/sparse");
    let before = sample.blobs.reads();
    planned(paths(&["link"]));
    assert_eq!(sample.blobs.reads() - before, 1, "no other directory is read");
}

#[test]
fn what_cannot_be_restored_is_named() {
    let mut sample = sample();
    let tree = Tree::new(&sample.blobs, sample.root);
    let nowhere = |ids: &[ChunkId]| vec![None; ids.len()];
    let window = Plan::build(&tree, Selection::Everything, nowhere).next().unwrap();
    let targets: u64 =
        window.missing.iter().flat_map(|m| &m.targets).map(|t| u64::from(t.length)).sum();
    let holes = 34 * 33 + 100 + "inline".len();
    let total: usize = sample.files.values().map(Vec::len).sum();
    assert!(window.reads.is_empty());
    assert_eq!(targets, (total - holes) as u64);
    let silent = |_: &[ChunkId]| Vec::new();
    let quiet = Plan::build(&tree, Selection::Everything, silent).next().unwrap();
    assert_eq!(quiet.missing, window.missing);
    let long = tree.lookup(b"home/long").unwrap().unwrap();
    let deep = tree.lookup(b"home/deep").unwrap().unwrap().directory_page().unwrap();
    let Node::File { content: FileContent::Listed { list, .. }, .. } = long.node else {
        panic!("no list")
    };
    sample.blobs.remove(BlobKind::List, list);
    sample.blobs.remove(BlobKind::Page, deep);
    let tree = Tree::new(&sample.blobs, sample.root);
    let window = Plan::build(&tree, Selection::Everything, place).next().unwrap();
    let broken = window.entries.iter().find(|entry| entry.path == b"home/long").unwrap();
    assert_eq!(window.file_damage.iter().map(|d| d.file).collect::<Vec<_>>(), [broken.file]);
    assert_eq!(window.damage.iter().map(|d| d.id).collect::<Vec<_>>(), [deep]);
    let aside = Selection::paths([b"link".as_slice()]);
    assert!(Plan::build(&tree, aside, place).next().unwrap().damage.is_empty());
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
