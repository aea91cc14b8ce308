//! Random reads of a file against its bytes: whatever its layout, wherever one reads, with chunks
//! lost and with a source that is far away.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use strongroom_present::reader::{BYTES_MAX, ReadError, Reader, Source, StretchKind};
use strongroom_protocol::{BlobKind, ChunkId};
use strongroom_store::content::{ChunkExtent, FileContent};
use strongroom_store::list::ListBuilder;
use strongroom_store::tree::{
    Blob, BlobSink, BlobSource, Gather, InOrder, MemoryBlobs, SourceError,
};

/// A file's bytes, where they lie, and which of them were written.
struct Sample {
    blobs: MemoryBlobs,
    content: FileContent,
    bytes: Vec<u8>,
    data: Vec<bool>,
}

/// Lays out a file: for each stretch its length, where in its chunk it begins, none for a hole.
fn sample(stretches: &[(u16, Option<u8>)]) -> Sample {
    let mut blobs = MemoryBlobs::new();
    let (mut bytes, mut data) = (Vec::new(), Vec::new());
    let mut list = ListBuilder::new();
    for (number, (length, within)) in stretches.iter().enumerate() {
        let length = usize::from(*length).max(1);
        let extent = match within {
            None => {
                bytes.extend(vec![0; length]);
                ChunkExtent::Hole { length: length as u64 }
            }
            Some(within) => {
                let offset = usize::from(*within);
                let byte = |at: usize| u8::try_from((at * 31 + number * 7) % 251).unwrap();
                let plain: Vec<u8> = (0..offset + length + 3).map(byte).collect();
                bytes.extend(&plain[offset..offset + length]);
                let id = blobs.put(BlobKind::Data, Vec::new(), plain).unwrap();
                let (offset, length) = (u32::from(*within), u32::try_from(length).unwrap());
                ChunkExtent::Chunk { id, offset, length }
            }
        };
        data.resize(bytes.len(), within.is_some());
        list.push(extent, &mut blobs).unwrap();
    }
    let content = list.finish(&mut blobs).unwrap();
    Sample { blobs, content, bytes, data }
}

fn stretch() -> impl Strategy<Value = (u16, Option<u8>)> {
    (1_u16..2000, prop::option::weighted(0.8, any::<u8>()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_read_of_any_layout_is_right(
        stretches in prop::collection::vec(stretch(), 0..200),
        reads in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..9000), 1..40),
    ) {
        let Sample { blobs, content, bytes, data } = sample(&stretches);
        let reader = Reader::new(Arc::new(blobs), 1 << 20).unwrap();
        let file = reader.open(bytes.len() as u64, &content);
        for (index, length) in reads {
            let at = index.index(bytes.len() + 10);
            let wanted = &bytes[at.min(bytes.len())..(at + length).min(bytes.len())];
            let offset = at as u64;
            if let Some(here) = file.bytes_if_here(offset, length) {
                prop_assert_eq!(&here[..], wanted);
            }
            let mut into = vec![0xee; length];
            let read = file.read_at(offset, &mut into).unwrap();
            prop_assert_eq!(&into[..read], wanted);
            let given = file.bytes_at(offset, length).unwrap();
            prop_assert_eq!(&given[..], wanted);
            prop_assert!(
                file.bytes_if_here(offset, length).is_some_and(|here| here[..] == *wanted),
                "what was read just now is here"
            );
            let next = |kind| (at..data.len()).find(|at| data[*at] == kind).map(|at| at as u64);
            prop_assert_eq!(file.next_data(offset).unwrap(), next(true));
            let end = bytes.len() as u64;
            prop_assert_eq!(file.next_hole(offset).unwrap(), next(false).unwrap_or(end));
        }
    }
}

#[test]
fn stretches_are_whole_and_of_one_kind_each() {
    let layout: Vec<_> = (0..5000).map(|n| (100, (n % 50 > 1).then_some(3))).collect();
    let Sample { blobs, content, bytes, data } = sample(&layout);
    assert!(matches!(content, FileContent::Listed { .. }), "long enough for lists");
    let reader = Reader::new(Arc::new(blobs), BYTES_MAX).unwrap();
    let file = reader.open(bytes.len() as u64, &content);
    let all = file.stretches(50..bytes.len() as u64, usize::MAX).unwrap();
    assert_eq!(all.len(), 200);
    let mut at = 50;
    for stretch in &all {
        assert_eq!(stretch.at, at);
        let (from, to) = (usize::try_from(at).unwrap(), (at + stretch.length) as usize);
        let kind = stretch.kind == StretchKind::Data;
        assert!(data[from..to].iter().all(|data| *data == kind), "at {at}");
        at += stretch.length;
    }
    assert_eq!(at, bytes.len() as u64);
    assert_eq!(file.stretches(50..bytes.len() as u64, 3).unwrap(), all[..3]);
    let written = data.iter().filter(|data| **data).count() as u64;
    assert_eq!(file.data_bytes().unwrap(), None, "a list of lists is not gone through for it");
    let short = sample(&layout[..300]);
    let reader = Reader::new(Arc::new(short.blobs), BYTES_MAX).unwrap();
    let few = short.data.iter().filter(|data| **data).count() as u64;
    let opened = reader.open(short.bytes.len() as u64, &short.content);
    assert_eq!(opened.data_bytes().unwrap(), Some(few));
    assert!(few < written);
}

/// A source a round trip away, which counts how it was asked, and has lost some chunks.
struct Far {
    blobs: MemoryBlobs,
    lost: Mutex<HashSet<ChunkId>>,
    singles: AtomicUsize,
    gathers: AtomicUsize,
    chunks: AtomicUsize,
    round_trip: Duration,
}

impl Far {
    fn new(blobs: MemoryBlobs, round_trip: Duration) -> Arc<Self> {
        let (singles, gathers) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (lost, chunks) = (Mutex::default(), AtomicUsize::new(0));
        Arc::new(Self { blobs, lost, singles, gathers, chunks, round_trip })
    }
}

/// The chunks of one question, which are not waited for one by one.
struct Near<'f>(&'f Far);

impl BlobSource for Near<'_> {
    fn blob(&self, kind: BlobKind, id: ChunkId) -> Result<Blob, SourceError> {
        self.0.chunks.fetch_add(usize::from(kind == BlobKind::Data), Ordering::Relaxed);
        match self.0.lost.lock().unwrap().contains(&id) {
            true => Err(SourceError::Missing { kind, id }),
            false => self.0.blobs.blob(kind, id),
        }
    }
}

struct Gathering<'f> {
    near: Near<'f>,
    left: Mutex<Vec<ChunkId>>,
}

impl Gather for Gathering<'_> {
    fn next(&self) -> Option<(ChunkId, Result<Bytes, SourceError>)> {
        let id = self.left.lock().unwrap().pop()?;
        Some((id, self.near.plain(BlobKind::Data, id)))
    }
}

impl BlobSource for Far {
    fn blob(&self, kind: BlobKind, id: ChunkId) -> Result<Blob, SourceError> {
        self.singles.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(self.round_trip);
        Near(self).blob(kind, id)
    }

    fn gather<'s>(&'s self, ids: Vec<ChunkId>) -> Box<dyn Gather + 's> {
        self.gathers.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(self.round_trip);
        Box::new(Gathering { near: Near(self), left: Mutex::new(ids) })
    }
}

/// A file of `count` chunks of 64 KiB.
fn chunky(count: usize) -> Sample {
    let mut blobs = MemoryBlobs::new();
    let (mut bytes, mut list) = (Vec::new(), ListBuilder::new());
    for number in 0..count {
        let mut plain = vec![u8::try_from(number % 251).unwrap(); 65_536];
        plain[..8].copy_from_slice(&(number as u64).to_be_bytes());
        bytes.extend(&plain);
        let id = blobs.put(BlobKind::Data, Vec::new(), plain).unwrap();
        list.push(ChunkExtent::Chunk { id, offset: 0, length: 65_536 }, &mut blobs).unwrap();
    }
    let content = list.finish(&mut blobs).unwrap();
    let data = vec![true; bytes.len()];
    Sample { blobs, content, bytes, data }
}

#[test]
fn who_reads_in_order_waits_for_few_round_trips_and_fetches_nothing_twice() {
    let Sample { blobs, content, bytes, .. } = chunky(512);
    let far = Far::new(blobs, Duration::from_millis(2));
    let reader = Reader::new(Arc::clone(&far) as Source, BYTES_MAX).unwrap();
    let file = reader.open(bytes.len() as u64, &content);
    let mut part = vec![0; 128 << 10];
    for (number, wanted) in bytes.chunks(part.len()).enumerate() {
        let at = (number * part.len()) as u64;
        assert_eq!(file.read_at(at, &mut part).unwrap(), wanted.len());
        assert!(part == wanted, "read {number} is right");
    }
    let (gathers, chunks) = (&far.gathers, &far.chunks);
    assert_eq!(chunks.load(Ordering::Relaxed), 512, "each chunk once");
    let questions = far.singles.load(Ordering::Relaxed) + gathers.load(Ordering::Relaxed);
    assert!(questions < 40, "{questions} questions for 512 chunks");
}

#[test]
fn many_readers_of_one_file_fetch_each_chunk_once() {
    let Sample { blobs, content, bytes, .. } = chunky(64);
    let far = Far::new(blobs, Duration::from_millis(1));
    let reader = Reader::new(Arc::clone(&far) as Source, BYTES_MAX).unwrap();
    let file = reader.open(bytes.len() as u64, &content);
    std::thread::scope(|scope| {
        for begin in 0..32_usize {
            let (file, bytes) = (&file, &bytes);
            scope.spawn(move || {
                for step in 0..64_usize {
                    let at = (begin * 7 + step * 13) % 64 * 65_536 + 100;
                    let got = file.bytes_at(at as u64, 70_000).unwrap();
                    assert!(got == bytes[at..(at + 70_000).min(bytes.len())]);
                }
            });
        }
    });
    assert_eq!(far.chunks.load(Ordering::Relaxed), 64);
}

#[test]
fn a_lost_chunk_costs_what_it_holds_and_can_come_back() {
    let Sample { blobs, content, bytes, .. } = chunky(100);
    let far = Far::new(blobs, Duration::ZERO);
    let reader = Reader::new(Arc::clone(&far) as Source, BYTES_MAX).unwrap();
    let file = reader.open(bytes.len() as u64, &content);
    let gone = file.bytes_at(40 * 65_536, 1).map(|_| ()).ok();
    assert_eq!(gone, Some(()), "it is there first");
    let lost = far
        .blobs
        .ids()
        .find(|(kind, id)| {
            let plain = far.blobs.plain(*kind, *id).unwrap();
            *kind == BlobKind::Data && plain[..8] == 60_u64.to_be_bytes()
        })
        .unwrap();
    far.lost.lock().unwrap().insert(lost.1);
    for number in 0..100_u64 {
        let (at, mut block) = (number * 65_536, vec![0; 65_536]);
        match file.read_at(at, &mut block) {
            Ok(read) => assert_eq!((number == 60, read), (false, 65_536)),
            Err(error) => {
                assert_eq!(number, 60, "{error}");
                let about = matches!(error, ReadError::Chunk { at: 3_932_160, .. });
                assert!(about && error.blob() == Some(lost.1), "{error:?}");
            }
        }
    }
    assert!(file.bytes_at(59 * 65_536, 131_072).is_err(), "a read that touches it");
    far.lost.lock().unwrap().clear();
    assert!(file.bytes_at(60 * 65_536, 65_536).unwrap() == bytes[60 * 65_536..61 * 65_536]);
}

#[test]
fn inline_content_and_an_empty_file() {
    let reader = Reader::new(Arc::new(MemoryBlobs::new()), BYTES_MAX).unwrap();
    let file = reader.open(5, &FileContent::Inline(b"hello".to_vec()));
    assert_eq!(&file.bytes_at(1, 100).unwrap()[..], b"ello");
    assert_eq!(&file.bytes_if_here(0, 2).unwrap()[..], b"he");
    let mut into = [0; 3];
    assert_eq!((file.read_at(3, &mut into).unwrap(), into), (2, *b"lo\0"));
    assert_eq!((file.next_data(2).unwrap(), file.next_data(5).unwrap()), (Some(2), None));
    assert_eq!((file.next_hole(2).unwrap(), file.data_bytes().unwrap()), (5, Some(5)));
    let empty = reader.open(0, &FileContent::Extents(Vec::new()));
    assert!(empty.bytes_at(0, 10).unwrap().is_empty());
    assert_eq!((empty.next_data(0).unwrap(), empty.next_hole(0).unwrap()), (None, 0));
}

#[test]
fn a_source_that_reads_in_order_serves_as_well() {
    let Sample { blobs, content, bytes, .. } = chunky(40);
    let ids: Vec<ChunkId> = blobs.ids().map(|(_, id)| id).take(2).collect();
    assert!(InOrder::new(&blobs, ids).next().is_some());
    let reader = Reader::new(Arc::new(blobs), 2 << 20).unwrap();
    let file = reader.open(bytes.len() as u64, &content);
    let mut all = vec![0; bytes.len()];
    assert_eq!(file.read_at(0, &mut all).unwrap(), bytes.len());
    assert!(all == bytes);
}
