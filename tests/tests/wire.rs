//! The wire holds still: every variant of every message has its bytes pinned in
//! `tests/golden/wire`, and the code that shapes them has its hash in `docs/wire.md`. A change
//! that moves bytes fails here; a new variant fails until it is pinned and described.
//!
//! `STRONGROOM_GOLDEN=print` prints the lines of samples that are not pinned yet.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use proptest::prelude::*;
use strongroom_protocol::frame::{
    BULK_BYTES_MAX, Decoder, FrameError, HEADER_BYTES_MAX, PREFIX_BYTES, decode, encode,
};
use strongroom_protocol::opening::Opening;
use strongroom_tests::samples::{Sampled, Visitor, variant_of, visit_all};
use strongroom_tests::{fuzzing, source};

/// The files whose code is the wire.
const WIRE: [&str; 13] = [
    "admin",
    "admin/cartridges",
    "admin/reports",
    "blob",
    "control",
    "data",
    "drill",
    "enrol",
    "frame",
    "lead",
    "member",
    "opening",
    "proof",
];

fn read(path: &str) -> String {
    let path = source::root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Lines of code above the unit tests: no blank lines, no comments.
fn code_lines(text: &str) -> String {
    text.lines()
        .take_while(|line| line.trim() != "#[cfg(test)]")
        .map(str::trim_end)
        .filter(|line| !line.is_empty() && !line.trim_start().starts_with("//"))
        .fold(String::new(), |all, line| all + line + "\n")
}

#[test]
fn the_page_describes_this_code() {
    let code: String =
        WIRE.iter().map(|name| code_lines(&read(&format!("protocol/src/{name}.rs")))).collect();
    let hash = blake3::hash(code.as_bytes()).to_hex();
    let page = read("docs/wire.md");
    assert!(
        page.contains(&format!("`{hash}`")),
        "protocol/src/{{{}}}.rs changed: bring docs/wire.md up to date, then write this hash \
         into its last section: {hash}",
        WIRE.join(",")
    );
}

/// Compares samples with the pinned lines `Variant hex` and gathers what differs.
#[derive(Default)]
struct Pinned {
    files: BTreeSet<String>,
    wrong: String,
    unpinned: String,
}

impl Visitor for Pinned {
    fn visit<M: Sampled>(&mut self) {
        let type_name = std::any::type_name::<M>().rsplit("::").next().unwrap_or_default();
        let file = format!("{type_name}.hex");
        let path = source::root().join("tests/golden/wire").join(&file);
        let pinned = std::fs::read_to_string(&path).unwrap_or_default();
        let mut lines = pinned.lines();
        let mut tags = BTreeSet::new();
        for sample in M::samples() {
            let bytes = encode(&sample, 0).unwrap();
            let header = &bytes[PREFIX_BYTES..];
            tags.insert(postcard::take_from_bytes::<u32>(header).unwrap().0);
            assert_eq!(decode::<M>(header).as_ref(), Ok(&sample));
            let line = format!("{} {}", variant_of(&sample), HEXLOWER.encode(header));
            match lines.next() {
                Some(golden) if golden == line => self.thawed(&sample, golden),
                Some(golden) => {
                    let _ = writeln!(self.wrong, "{file}\n  pinned {golden}\n  now    {line}");
                }
                None => {
                    let _ = writeln!(self.unpinned, "{file} {line}");
                }
            }
        }
        if tags != (0..M::VARIANTS).collect() {
            let _ = writeln!(self.wrong, "{file}: samples cover {tags:?} of {}", M::VARIANTS);
        }
        for line in lines {
            let _ = writeln!(self.wrong, "{file}: no sample gives {line}");
        }
        self.files.insert(file);
    }
}

impl Pinned {
    /// The pinned bytes decode to the value they were made from.
    fn thawed<M: Sampled>(&self, sample: &M, golden: &str) {
        let (_, hex) = golden.split_once(' ').unwrap();
        let bytes = HEXLOWER.decode(hex.as_bytes()).unwrap();
        assert_eq!(decode::<M>(&bytes).as_ref(), Ok(sample));
    }
}

#[test]
fn every_variant_is_pinned() {
    let mut pinned = Pinned::default();
    visit_all(&mut pinned);
    if std::env::var("STRONGROOM_GOLDEN").as_deref() == Ok("print") {
        println!("{}", pinned.unpinned);
    }
    let folder = source::root().join("tests/golden/wire");
    let present: BTreeSet<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(present, pinned.files, "files in tests/golden/wire against message types");
    assert!(pinned.wrong.is_empty(), "pinned bytes moved:\n{}", pinned.wrong);
    assert!(
        pinned.unpinned.is_empty(),
        "not pinned yet; append to the files of tests/golden/wire:\n{}",
        pinned.unpinned
    );
}

/// Every message is declared to the list of samples: a new one cannot be forgotten.
#[test]
fn every_message_is_sampled() {
    #[derive(Default)]
    struct Count(usize);
    impl Visitor for Count {
        fn visit<M: Sampled>(&mut self) {
            self.0 += 1;
        }
    }
    let mut count = Count::default();
    visit_all(&mut count);
    let declared: usize = WIRE
        .iter()
        .map(|name| code_lines(&read(&format!("protocol/src/{name}.rs"))))
        .map(|code| code.lines().filter(|line| line.starts_with("message!(")).count())
        .sum();
    assert_eq!(count.0, declared, "messages visited by samples.rs against messages declared");
}

/// An unknown variant, a cut header and surplus bytes are refused by every type.
struct Refusals;

impl Visitor for Refusals {
    fn visit<M: Sampled>(&mut self) {
        let unknown = postcard::to_allocvec(&M::VARIANTS).unwrap();
        let error = decode::<M>(&unknown).unwrap_err();
        assert!(matches!(error, FrameError::Unsupported { .. }), "{}: {error}", M::NAME);
        for sample in M::samples() {
            let bytes = encode(&sample, 0).unwrap();
            let header = &bytes[PREFIX_BYTES..];
            for end in 0..header.len() {
                assert!(decode::<M>(&header[..end]).is_err(), "{} cut at {end}", M::NAME);
            }
            assert!(decode::<M>(&[header, &[0]].concat()).is_err(), "{} with more", M::NAME);
        }
    }
}

#[test]
fn unknown_cut_and_surplus_are_refused() {
    visit_all(&mut Refusals);
}

#[test]
fn lengths_are_refused_at_their_limits() {
    let at_limit = encode(&Opening::Packs, BULK_BYTES_MAX).unwrap();
    assert_eq!(at_limit.len(), PREFIX_BYTES + 1);
    let over = encode(&Opening::Packs, BULK_BYTES_MAX + 1);
    assert!(matches!(over, Err(FrameError::TooLong { .. })));
    for (header, bulk) in [(HEADER_BYTES_MAX + 1, 0), (0, BULK_BYTES_MAX + 1)] {
        let mut decoder = Decoder::default();
        let lengths = [header, bulk].map(|len| u32::try_from(len).unwrap().to_le_bytes());
        decoder.feed(Bytes::from(lengths.concat()));
        assert!(matches!(decoder.next_frame(), Err(FrameError::TooLong { .. })));
    }
}

proptest! {
    #[test]
    fn frames_round_trip_however_they_arrive(
        bulks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 1..6),
        cuts in prop::collection::vec(1_usize..700, 1..20),
    ) {
        let mut wire = Vec::new();
        for bulk in &bulks {
            wire.extend_from_slice(&encode(&Opening::Admin, bulk.len()).unwrap());
            wire.extend_from_slice(bulk);
        }
        let mut decoder = Decoder::default();
        let mut found = Vec::new();
        let (mut rest, mut cuts) = (&wire[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            decoder.feed(Bytes::copy_from_slice(piece));
            while let Some(frame) = decoder.next_frame().unwrap() {
                prop_assert_eq!(frame.message::<Opening>(), Ok(Opening::Admin));
                found.push(frame.bulk.to_vec());
            }
            rest = after;
        }
        prop_assert_eq!(decoder.finish(), Ok(()));
        prop_assert_eq!(found, bulks);
    }

    #[test]
    fn flipped_bits_never_panic(pick in any::<prop::sample::Index>(), flips in
        prop::collection::vec(any::<prop::sample::Index>(), 1..8))
    {
        let seeds = fuzzing::seeds();
        let mut bytes = seeds[pick.index(seeds.len())].clone();
        for flip in flips {
            let bit = flip.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        fuzzing::message(&bytes);
        fuzzing::frame(&bytes);
    }

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        for target in fuzzing::TARGETS {
            (target.run)(&bytes);
        }
    }
}

/// The page is found by people who start at the folder.
#[test]
fn the_page_names_every_message() {
    let page = read("docs/wire.md");
    let golden = Path::new("tests/golden/wire");
    let mut missing = Vec::new();
    for entry in std::fs::read_dir(source::root().join(golden)).unwrap() {
        let path = entry.unwrap().path();
        let pinned = std::fs::read_to_string(&path).unwrap();
        let variants: BTreeSet<&str> =
            pinned.lines().filter_map(|line| line.split(' ').next()).collect();
        let type_name = path.file_stem().unwrap().to_str().unwrap();
        for word in variants.into_iter().chain([type_name]) {
            if !source::has_word(&page, word) {
                missing.push(format!("{type_name}: {word}"));
            }
        }
    }
    assert!(missing.is_empty(), "docs/wire.md does not mention {missing:#?}");
}
