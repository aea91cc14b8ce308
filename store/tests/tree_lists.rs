//! Long content as lists: round trips, seeking, stability and damage.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tree_support;

use std::collections::BTreeSet;

use proptest::prelude::*;
use strongroom_protocol::blob::REFERENCES_MAX;
use strongroom_protocol::{BlobKind, ChunkId, Reference};
use strongroom_store::content::{ChunkExtent, FILE_BYTES_MAX, FileContent};
use strongroom_store::list::{ExtentReader, List, ListBuilder, ListError, decode_list};
use strongroom_store::tree::{Blob, BlobSink, BlobSource, MemoryBlobs, SinkError};
use tree_support::{named, new_blobs};

fn build(blobs: &mut MemoryBlobs, extents: impl IntoIterator<Item = ChunkExtent>) -> FileContent {
    let mut builder = ListBuilder::new();
    for extent in extents {
        builder.push(extent, blobs).unwrap();
    }
    builder.finish(blobs).unwrap()
}

fn read(blobs: &MemoryBlobs, content: &FileContent) -> Vec<ChunkExtent> {
    let mut at = 0;
    let mut extents = Vec::new();
    for placed in ExtentReader::new(blobs, content) {
        let placed = placed.unwrap();
        assert_eq!(placed.at, at);
        at += placed.extent.length();
        extents.push(placed.extent);
    }
    extents
}

fn many(count: u64) -> Vec<ChunkExtent> {
    let extent = |number| match number % 10 {
        9 => ChunkExtent::Hole { length: 1 << 30 },
        _ => named(number, 400_000 + u32::try_from(number % 1000).unwrap()),
    };
    (0..count).map(extent).collect()
}

#[test]
fn few_extents_need_no_list_and_neighbours_are_joined() {
    let mut blobs = MemoryBlobs::new();
    let some = many(64);
    assert_eq!(build(&mut blobs, some.clone()), FileContent::Extents(some));
    assert_eq!(build(&mut blobs, []), FileContent::Extents(Vec::new()));
    let hole = ChunkExtent::Hole { length: 7 };
    let joined = build(&mut blobs, vec![hole; 1000]);
    assert_eq!(joined, FileContent::Extents(vec![ChunkExtent::Hole { length: 7000 }]));
    assert_eq!(blobs.ids().count(), 0);
    assert!(matches!(build(&mut blobs, many(65)), FileContent::Listed { .. }));
    assert_eq!(blobs.ids().count(), 1);
}

#[test]
fn a_hundred_thousand_extents_are_read_and_sought() {
    let mut blobs = MemoryBlobs::new();
    let extents = many(100_000);
    let content = build(&mut blobs, extents.clone());
    assert_eq!(read(&blobs, &content), extents);
    let mut reader = ExtentReader::new(&blobs, &content);
    let mut at = 0;
    for (number, extent) in extents.iter().enumerate() {
        if number % 997 == 0 {
            let before = blobs.reads();
            for offset in [at, at + extent.length() - 1] {
                reader.seek(offset).unwrap();
                let placed = reader.next().unwrap().unwrap();
                assert_eq!((placed.at, placed.extent), (at, *extent));
            }
            assert_eq!(blobs.reads() - before, 4, "one list of each level for each offset");
        }
        at += extent.length();
    }
    reader.seek(at).unwrap();
    assert!(reader.next().is_none());
}

#[test]
fn a_change_rewrites_the_lists_around_it_only() {
    let extents = many(100_000);
    let mut old = MemoryBlobs::new();
    let content = build(&mut old, extents.clone());
    assert_eq!(content, build(&mut MemoryBlobs::new(), extents.clone()));
    for at in [0, 12_345, 50_000, 99_999] {
        let mut changed = extents.clone();
        changed.insert(at, named(1 << 40, 5));
        let mut new = MemoryBlobs::new();
        build(&mut new, changed);
        let count = new_blobs(&old, &new);
        assert!(count <= 5, "{count} lists for one extent at {at}");
    }
}

/// Keeps nothing, counts what came and how long the longest was.
#[derive(Default)]
struct Counting {
    count: u64,
    longest: usize,
}

impl BlobSink for Counting {
    fn put(
        &mut self,
        kind: BlobKind,
        references: Vec<Reference>,
        plain: Vec<u8>,
    ) -> Result<ChunkId, SinkError> {
        assert!(kind == BlobKind::List && references.len() <= REFERENCES_MAX);
        self.count += 1;
        self.longest = self.longest.max(plain.len());
        Ok(ChunkId(*blake3::hash(&self.count.to_le_bytes()).as_bytes()))
    }
}

#[test]
fn ten_tebibytes_are_lists_of_bounded_length() {
    let mut sink = Counting::default();
    let mut builder = ListBuilder::new();
    while builder.size() < 10 << 40 {
        builder.push(named(builder.size(), 4 << 20), &mut sink).unwrap();
    }
    let content = builder.finish(&mut sink).unwrap();
    assert!(matches!(content, FileContent::Listed { size, .. } if size == 10 << 40));
    assert!(sink.longest < 100 << 10, "{}", sink.longest);
    assert!((700..2600).contains(&sink.count), "{} lists", sink.count);
}

#[test]
fn extents_that_cannot_be_are_refused() {
    let mut blobs = MemoryBlobs::new();
    let mut builder = ListBuilder::new();
    builder.push(ChunkExtent::Hole { length: FILE_BYTES_MAX }, &mut blobs).unwrap();
    assert!(builder.push(ChunkExtent::Hole { length: 1 }, &mut blobs).is_err());
    assert!(ListBuilder::new().push(named(1, 0), &mut blobs).is_err());
    assert!(ListBuilder::new().push(named(1, (4 << 20) + 1), &mut blobs).is_err());
}

#[test]
fn a_damaged_list_costs_its_own_stretch_only() {
    let mut blobs = MemoryBlobs::new();
    let extents = many(20_000);
    let content = build(&mut blobs, extents.clone());
    let FileContent::Listed { list, size } = content else { panic!("no list") };
    let root = blobs.blob(BlobKind::List, list).unwrap();
    let List::Inner { children, .. } = decode_list(&root.plain, &root.references).unwrap() else {
        panic!("one list only");
    };
    blobs.remove(BlobKind::List, children[1].list);
    let other = blobs.blob(BlobKind::List, children[0].list).unwrap();
    blobs.replace(BlobKind::List, children[3].list, other);
    let starts: Vec<u64> = children
        .iter()
        .scan(0, |sum, child| Some(std::mem::replace(sum, *sum + child.bytes)))
        .collect();
    let lost = |at| [1, 3].contains(&(starts.partition_point(|start| *start <= at) - 1));
    let mut at = 0;
    let mut left = BTreeSet::new();
    for extent in extents {
        if !lost(at) {
            left.insert(at);
        }
        at += extent.length();
    }
    let (mut found, mut errors) = (BTreeSet::new(), Vec::new());
    for placed in ExtentReader::new(&blobs, &content) {
        match placed {
            Ok(placed) => drop(found.insert(placed.at)),
            Err(error) => errors.push(error),
        }
    }
    assert_eq!(found, left);
    let [ListError::Source { .. }, ListError::Misplaced { .. }] = errors.as_slice() else {
        panic!("{errors:?}");
    };
    let wrong = FileContent::Listed { list, size: size + 1 };
    let first = ExtentReader::new(&blobs, &wrong).next();
    assert!(matches!(first, Some(Err(ListError::Misplaced { .. }))));
}

proptest! {
    #[test]
    fn hostile_lists_are_refused_or_harmless(
        plain in prop::collection::vec(any::<u8>(), 0..200),
        kinds in prop::collection::vec(0_u8..4, 0..5),
    ) {
        let references: Vec<Reference> = kinds
            .into_iter()
            .map(|code| {
                let kind = BlobKind::from_code(code).unwrap();
                Reference { kind, id: ChunkId([code; 32]) }
            })
            .collect();
        if let Ok(list) = decode_list(&plain, &references) {
            prop_assert!(list.bytes().is_some());
        }
    }

    #[test]
    fn broken_lists_are_refused_or_add_up(at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let mut blobs = MemoryBlobs::new();
        let content = build(&mut blobs, many(100));
        let FileContent::Listed { list, .. } = content else { panic!("no list") };
        let Blob { references, plain } = blobs.blob(BlobKind::List, list).unwrap();
        let mut broken = plain.to_vec();
        let at = at.index(broken.len());
        broken[at] ^= 1 << bit;
        if let Ok(list) = decode_list(&broken, &references) {
            prop_assert!(list.bytes().is_some());
        }
        prop_assert!(decode_list(&plain[..at], &references).is_err());
        prop_assert!(decode_list(&plain, &references[1..]).is_err());
    }
}

#[test]
fn the_bytes_of_a_list_are_frozen() {
    let mut blobs = MemoryBlobs::new();
    let content = build(&mut blobs, many(65));
    let FileContent::Listed { list, .. } = content else { panic!("no list") };
    let plain = blobs.blob(BlobKind::List, list).unwrap().plain;
    let head: String = plain.iter().take(24).map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(head, "00004100000080b51800010081b51800020082b518000300");
    assert_eq!(
        blake3::hash(&plain).to_string(),
        "679f4bdb1e1028f6b322396d4743e06ad0443d17f04d595a9701fad6cb2f3f7c"
    );
}
