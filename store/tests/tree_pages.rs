//! Directories as pages: round trips of any names, stability, damage and hostile bytes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tree_support;

use proptest::prelude::*;
use strongroom_protocol::blob::REFERENCES_MAX;
use strongroom_protocol::{BlobKind, ChunkId, Reference};
use strongroom_store::content::{ChunkExtent, DecodeError, Entry, FileContent, Meta, Node, Xattr};
use strongroom_store::page::{
    DirectoryBuilder, DirectoryReader, PAGE_BYTES_MAX, Page, PageError, decode_page,
};
use strongroom_store::tree::{Blob, BlobSource, MemoryBlobs};
use tree_support::{entry, file, named, new_blobs, page_of, small};

fn read(blobs: &MemoryBlobs, page: ChunkId) -> Vec<Entry> {
    DirectoryReader::new(blobs, page).collect::<Result<_, _>>().unwrap()
}

/// Entries of a large directory, some of them heavy.
fn many(count: u32) -> Vec<Entry> {
    let make = |number: u32| {
        let name = format!("{number:08} some file of a mail folder");
        file(name, (0..number % 7).map(|part| named((number * 8 + part).into(), 700_000)).collect())
    };
    (0..count).map(make).collect()
}

fn extents() -> impl Strategy<Value = Vec<ChunkExtent>> {
    let chunk = (0_u64..9, 0_u32..1000, 1_u32..1000).prop_map(|(number, at, length)| {
        let ChunkExtent::Chunk { id, .. } = named(number, 1) else { unreachable!() };
        ChunkExtent::Chunk { id, offset: at, length }
    });
    let hole = (1_u64..1 << 50).prop_map(|length| ChunkExtent::Hole { length });
    prop::collection::vec(prop_oneof![chunk, hole], 0..64)
}

fn node() -> impl Strategy<Value = Node> {
    let id = any::<[u8; 32]>().prop_map(ChunkId);
    prop_oneof![
        id.clone().prop_map(|page| Node::Directory { page }),
        prop::collection::vec(any::<u8>(), 0..=256).prop_map(|bytes| Node::File {
            size: bytes.len() as u64,
            content: FileContent::Inline(bytes)
        }),
        extents().prop_map(|extents| Node::File {
            size: extents.iter().map(ChunkExtent::length).sum(),
            content: FileContent::Extents(extents)
        }),
        (id, 0_u64..1 << 62).prop_map(|(list, size)| Node::File {
            size,
            content: FileContent::Listed { list, size }
        }),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(|target| Node::Symlink { target }),
        Just(Node::Fifo),
        Just(Node::Socket),
        any::<(u32, u32)>().prop_map(|(major, minor)| Node::CharDevice { major, minor }),
        any::<(u32, u32)>().prop_map(|(major, minor)| Node::BlockDevice { major, minor }),
    ]
}

fn meta() -> impl Strategy<Value = Meta> {
    let name = prop::collection::vec(1_u8.., 1..40);
    let xattrs = prop::collection::btree_map(name, prop::collection::vec(any::<u8>(), 0..90), 0..4);
    let owner = (0_u32..0o10000, any::<u32>(), any::<u32>());
    let times = (any::<i64>(), any::<Option<i64>>());
    (owner, times, any::<(u32, u32, u64)>(), xattrs).prop_map(|(owner, times, rest, xattrs)| Meta {
        mode: owner.0,
        uid: owner.1,
        gid: owner.2,
        mtime_ns: times.0,
        birth_ns: times.1,
        flags: rest.0,
        project: rest.1,
        xattrs: xattrs.into_iter().map(|(name, value)| Xattr { name, value }).collect(),
        link_group: rest.2,
    })
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let name = prop::collection::vec(any::<u8>(), 1..300);
    let named = prop::collection::btree_map(name, (node(), meta()), 0..60);
    named.prop_map(|named| {
        let usable =
            named.into_iter().filter(|(n, _)| strongroom_store::content::name_is_usable(n));
        usable.map(|(name, (node, meta))| Entry { name, node, meta }).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_directory_comes_back(entries in entries()) {
        let mut blobs = MemoryBlobs::new();
        let page = page_of(&mut blobs, entries.clone());
        prop_assert_eq!(&read(&blobs, page), &entries);
        let Blob { references, plain } = blobs.blob(BlobKind::Page, page).unwrap();
        let weight: usize = entries.iter().map(Entry::weight).sum();
        prop_assert!(plain.len() + 33 * references.len() <= weight + 16);
        for entry in &entries {
            let found = DirectoryReader::new(&blobs, page).find(&entry.name).unwrap();
            prop_assert_eq!(found.as_ref(), Some(entry));
        }
    }

    #[test]
    fn hostile_bytes_are_refused_or_harmless(
        plain in prop::collection::vec(any::<u8>(), 0..400),
        kinds in prop::collection::vec(0_u8..4, 0..5),
    ) {
        let references: Vec<Reference> = kinds
            .into_iter()
            .map(|code| {
                let kind = BlobKind::from_code(code).unwrap();
                Reference { kind, id: ChunkId([code; 32]) }
            })
            .collect();
        if let Ok(Page::Leaf(entries)) = decode_page(&plain, &references) {
            prop_assert!(entries.is_sorted_by(|a, b| a.name < b.name));
            prop_assert!(entries.iter().all(|entry| entry.check().is_ok()));
        }
    }

    #[test]
    fn broken_pages_are_refused_or_hold_valid_entries(
        entries in entries(), at in any::<prop::sample::Index>(), bit in 0_u8..8,
    ) {
        let mut blobs = MemoryBlobs::new();
        let page = page_of(&mut blobs, entries);
        let Blob { references, plain } = blobs.blob(BlobKind::Page, page).unwrap();
        let mut broken = plain.to_vec();
        let at = at.index(broken.len());
        broken[at] ^= 1 << bit;
        if let Ok(Page::Leaf(entries)) = decode_page(&broken, &references) {
            prop_assert!(entries.iter().all(|entry| entry.check().is_ok()));
        }
        prop_assert!(decode_page(&plain[..at], &references).is_err());
        prop_assert!(decode_page(&[&plain[..], &[0]].concat(), &references).is_err());
        if !references.is_empty() {
            prop_assert!(decode_page(&plain, &references[1..]).is_err());
        }
        let one = Reference { kind: BlobKind::Data, id: ChunkId([7; 32]) };
        prop_assert!(decode_page(&plain, &[&references[..], &[one]].concat()).is_err());
    }
}

#[test]
fn counts_larger_than_the_bytes_cost_nothing() {
    let huge = [&[0][..], &[0xff; 8], &[0x7f]].concat();
    assert!(decode_page(&huge, &[]).is_err());
    let inner = [&[1, 1][..], &[0xff; 8], &[0x7f]].concat();
    assert!(decode_page(&inner, &[]).is_err());
    let many = vec![Reference { kind: BlobKind::Data, id: ChunkId([1; 32]) }; REFERENCES_MAX + 1];
    assert!(decode_page(&[0, 0], &many).is_err());
    assert!(decode_page(&[0, 0], &[]).is_ok());
    let long = decode_page(&[0; PAGE_BYTES_MAX + 1], &[]);
    assert!(matches!(long, Err(DecodeError::TooLong)));
}

#[test]
fn names_out_of_order_or_impossible_are_refused() {
    let mut blobs = MemoryBlobs::new();
    let mut builder = DirectoryBuilder::new();
    builder.push(small("b", b""), &mut blobs).unwrap();
    for bad in ["b", "a", "", ".", "..", "c/d", "c\0"] {
        assert!(builder.push(small(bad, b""), &mut blobs).is_err(), "{bad:?}");
    }
    builder.push(small("ba", b""), &mut blobs).unwrap();
    let page = builder.finish(&mut blobs).unwrap();
    let names: Vec<_> = read(&blobs, page).into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, [b"b".to_vec(), b"ba".to_vec()]);
}

#[test]
fn a_directory_of_two_hundred_thousand_is_read_and_sought() {
    let mut blobs = MemoryBlobs::new();
    let tail = "x".repeat(240);
    let name = |number: u32| format!("{number:08}{tail}");
    let mut builder = DirectoryBuilder::new();
    for number in 0..200_000 {
        builder.push(small(name(number * 2), b"1"), &mut blobs).unwrap();
    }
    assert_eq!(builder.count(), 200_000);
    let page = builder.finish(&mut blobs).unwrap();
    let root = blobs.blob(BlobKind::Page, page).unwrap();
    let root = decode_page(&root.plain, &root.references).unwrap();
    assert!(matches!(root, Page::Inner { depth: 2, .. }));
    let mut reader = DirectoryReader::new(&blobs, page);
    assert_eq!(reader.by_ref().map(Result::unwrap).count(), 200_000);
    let before = blobs.reads();
    for number in [0, 1, 77_777, 399_998, 399_999] {
        let found = reader.find(name(number).as_bytes()).unwrap();
        assert_eq!(found.is_some(), number % 2 == 0);
    }
    assert_eq!(blobs.reads() - before, 15, "one page of each level for each name");
    reader.seek(name(12_345).as_bytes()).unwrap();
    let next: Vec<_> = reader.by_ref().take(3000).map(|entry| entry.unwrap().name).collect();
    let expected = (0..3000).map(|n| name(12_346 + 2 * n).into_bytes());
    assert!(expected.eq(next));
    reader.seek(b"~").unwrap();
    assert!(reader.next().is_none());
}

#[test]
fn a_change_rewrites_the_pages_around_it_only() {
    let entries = many(100_000);
    let mut old = MemoryBlobs::new();
    let page = page_of(&mut old, entries.clone());
    let again = page_of(&mut MemoryBlobs::new(), entries.clone());
    assert_eq!(page, again, "an unchanged directory is the same page");
    let pages = old.ids().count();
    assert!(pages > 150, "{pages} pages");
    let rewritten = |change: &dyn Fn(&mut Vec<Entry>)| {
        let (mut new, mut entries) = (MemoryBlobs::new(), entries.clone());
        change(&mut entries);
        page_of(&mut new, entries);
        new_blobs(&old, &new)
    };
    assert_eq!(rewritten(&|entries| entries[50_000].meta.mtime_ns += 1), 2);
    let grown: Vec<_> = (0..64).map(|n| named(n, 9)).collect();
    for at in [1, 33_333, 50_001, 99_998] {
        let name = [entries[at].name.as_slice(), b"+"].concat();
        let heavy = file(name, grown.clone());
        let count = rewritten(&|entries| entries.insert(at + 1, heavy.clone()));
        assert!(count <= 6, "{count} pages for one heavy entry at {at}");
        let count = rewritten(&|entries| drop(entries.remove(at)));
        assert!(count <= 6, "{count} pages for a removal at {at}");
    }
    let count = rewritten(&|entries| drop(entries.drain(20_000..25_000)));
    assert!(count <= 8, "{count} pages for the removal of a stretch");
}

#[test]
fn heavy_entries_stay_within_the_references_of_a_page() {
    let extents = |number: u64| (0..64).map(|part| named(number * 64 + part, 5)).collect();
    let entries = (0..2000).map(|number| file(format!("{number:05}"), extents(number)));
    let mut blobs = MemoryBlobs::new();
    let page = page_of(&mut blobs, entries.clone().collect());
    for (kind, id) in blobs.ids() {
        assert!(blobs.blob(kind, id).unwrap().references.len() < REFERENCES_MAX / 2);
    }
    assert!(read(&blobs, page).into_iter().eq(entries));
    let xattr = |bytes| Xattr { name: b"user.x".to_vec(), value: vec![1; bytes] };
    let mut heavy = small("heavy", b"");
    heavy.meta.xattrs = vec![xattr(1 << 20)];
    assert!(DirectoryBuilder::new().push(heavy.clone(), &mut blobs).is_err());
    heavy.meta.xattrs = vec![xattr(900 << 10)];
    let page = page_of(&mut blobs, vec![heavy.clone(), small("light", b"")]);
    assert_eq!(read(&blobs, page).first(), Some(&heavy));
}

#[test]
fn a_damaged_page_costs_its_own_names_only() {
    let mut blobs = MemoryBlobs::new();
    let entries = many(20_000);
    let page = page_of(&mut blobs, entries.clone());
    let Page::Inner { children, .. } = ({
        let root = blobs.blob(BlobKind::Page, page).unwrap();
        decode_page(&root.plain, &root.references).unwrap()
    }) else {
        panic!("one page only");
    };
    let other = blobs.blob(BlobKind::Page, children[5].page).unwrap();
    blobs.replace(BlobKind::Page, children[7].page, other);
    blobs.remove(BlobKind::Page, children[3].page);
    let broken = Blob { references: Vec::new(), plain: vec![9; 100].into() };
    blobs.replace(BlobKind::Page, children[1].page, broken);
    let (mut names, mut errors) = (Vec::new(), Vec::new());
    for entry in DirectoryReader::new(&blobs, page) {
        match entry {
            Ok(entry) => names.push(entry.name),
            Err(error) => errors.push(error),
        }
    }
    let [PageError::Decode { .. }, PageError::Source { .. }, PageError::Misplaced { .. }] =
        errors.as_slice()
    else {
        panic!("{errors:?}");
    };
    let lost = |name: &[u8]| {
        let at = children.partition_point(|child| child.first.as_slice() <= name) - 1;
        [1, 3, 7].contains(&at)
    };
    let left = entries.into_iter().map(|entry| entry.name).filter(|name| !lost(name));
    assert!(left.eq(names));
    assert!(DirectoryReader::new(&blobs, page).find(&children[3].first).is_err());
    assert!(DirectoryReader::new(&blobs, page).find(&children[2].first).unwrap().is_some());
}

#[test]
fn pages_that_differ_in_references_alone_have_other_names() {
    let mut blobs = MemoryBlobs::new();
    let one = page_of(&mut blobs, vec![file("same", vec![named(1, 5)])]);
    let two = page_of(&mut blobs, vec![file("same", vec![named(2, 5)])]);
    assert_ne!(one, two);
}

#[test]
fn the_bytes_of_a_page_are_frozen() {
    let mut blobs = MemoryBlobs::new();
    let mut with_all = file("f", vec![named(1, 3), ChunkExtent::Hole { length: 9 }]);
    with_all.meta = Meta {
        mode: 0o4755,
        uid: 1,
        gid: 2,
        mtime_ns: -3,
        birth_ns: Some(4),
        flags: 0x10,
        project: 5,
        xattrs: vec![Xattr { name: b"user.a".to_vec(), value: b"\xff".to_vec() }],
        link_group: 6,
    };
    let link = entry("\u{e9}", Node::Symlink { target: b"/t".to_vec() });
    let page = page_of(&mut blobs, vec![with_all, small("g", b"in"), link]);
    let plain = blobs.blob(BlobKind::Page, page).unwrap().plain;
    let hex: String = plain.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, GOLDEN);
}

const GOLDEN: &str = "00030166010c0102000000030109ed13010205010810050106757365722e6101ff\
                      06016701020002696ea403e807e80709000000000002c3a902022f74a403e807e8\
                      07090000000000";
