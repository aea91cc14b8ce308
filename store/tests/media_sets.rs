//! Writing and reading media sets: spanning, appending, staging, and every refusal.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod media_kit;

use std::collections::HashSet;
use std::io::Cursor;
use std::sync::Arc;

use media_kit::*;
use strongroom_protocol::{FixedClock, RepoId};
use strongroom_store::media::{
    Health, MediaError, MediaIdentity, MediaReader, MediaSetWriter, Put, SetOrder, Verdict, stage,
};
use strongroom_store::tape::{Protection, TapeError, TapeLibrary, VirtualLibrary};

const MIB: usize = 1 << 20;

#[test]
fn one_session_spans_three_cartridges() {
    for shape in [shape(3 * MIB as u64), untold(3 * MIB as u64)] {
        let root = tempfile::tempdir().unwrap();
        let library = library(root.path(), shape, 4);
        let load = Load::new(1, 9, 700_000);
        let mut writer = writer(&library);
        let report = load.session(&mut writer).unwrap();
        assert_eq!((report.session, report.packs, report.points), (1, 9, 1));
        assert_eq!(report.media, [barcode(1), barcode(2), barcode(3)]);
        assert_eq!(writer.blanks(), 1);
        assert!(load.ids().iter().all(|id| writer.held().has_pack(id)));

        let reader = reader(&library);
        load.assert_readable(&reader);
        let media = reader.media();
        assert_eq!(media.iter().map(|m| m.sequence).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(media.iter().all(|m| m.health == Health::Sound));
        assert_eq!(media.iter().map(|m| m.packs).sum::<u64>(), 9, "no pack is on two media");
        for medium in media {
            let files = reader.verify(medium.medium).unwrap();
            assert!(files.iter().all(|f| f.verdict == Verdict::Whole), "{files:?}");
        }
    }
}

#[test]
fn sessions_append_and_send_only_what_lacks() {
    let root = tempfile::tempdir().unwrap();
    let library = library(root.path(), shape(8 * MIB as u64), 2);
    let (first, second) = (Load::new(1, 3, 300_000), Load::new(2, 3, 300_000));
    first.session(&mut writer(&library)).unwrap();
    let mut again = writer(&library);
    again.begin(0).unwrap();
    let (id, bytes) = &first.packs[1];
    let put = again.put_pack(*id, bytes.len() as u64, &mut Cursor::new(bytes)).unwrap();
    assert_eq!(put, Put::AlreadyThere);
    let report = again.finish().unwrap();
    assert_eq!((report.session, report.media.len()), (0, 0), "nothing to write, nothing loaded");
    let report = second.session(&mut again).unwrap();
    assert_eq!((report.session, report.media), (2, vec![barcode(1)]));
    drop(library.load(&barcode(1)).unwrap());
    let reader = reader(&library);
    first.assert_readable(&reader);
    second.assert_readable(&reader);
    let [set] = reader.sets().try_into().unwrap();
    assert_eq!(set.sessions.into_iter().collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn changed_keys_are_written_with_the_next_session() {
    let root = tempfile::tempdir().unwrap();
    let library = library(root.path(), shape(8 * MIB as u64), 1);
    Load::new(1, 1, 1000).session(&mut writer(&library)).unwrap();
    assert_eq!(reader(&library).keys(REPO).unwrap(), keys(REPO, b"first"));
    let order = SetOrder { keys: keys(REPO, b"second recipient"), ..order("weekly") };
    let clock = Arc::new(FixedClock::default());
    let mut writer = MediaSetWriter::open(library.clone(), order, clock).unwrap();
    Load::new(2, 1, 1000).session(&mut writer).unwrap();
    let reader = reader(&library);
    assert_eq!(reader.keys(REPO).unwrap(), keys(REPO, b"second recipient"));
    assert_eq!(reader.config(REPO).unwrap(), config(REPO));
}

#[test]
fn a_staged_directory_is_laid_out_as_a_repository() {
    let root = tempfile::tempdir().unwrap();
    let library = library(&root.path().join("library"), shape(3 * MIB as u64), 4);
    let (first, second) = (Load::new(1, 4, 500_000), Load::new(2, 4, 500_000));
    let mut writer = writer(&library);
    first.session(&mut writer).unwrap();
    second.session(&mut writer).unwrap();
    let reader = reader(&library);
    let staged = root.path().join("staged");
    let base = reader.stage_base(&staged, point(1)).unwrap();
    assert_eq!((base.repo, base.workload, base.metadata.fetched), (REPO, WORKLOAD, 1));
    assert_eq!(base.data, first.packs[1..].iter().map(|(id, _)| *id).collect::<HashSet<_>>());
    let read = |path: String| std::fs::read(staged.join(path)).unwrap();
    assert_eq!(read("config".to_owned()), config(REPO));
    assert_eq!(read("keys".to_owned()), keys(REPO, b"first"));
    assert_eq!(read(format!("points/{WORKLOAD}/{}", point(1))), manifest(1));
    let (metadata, bytes) = &first.packs[0];
    assert!(&read(format!("packs/m/{}/{metadata}", &metadata.to_string()[..2])) == bytes);

    let one: HashSet<_> = [first.packs[2].0].into();
    assert_eq!(reader.stage_packs(&staged, &one).unwrap().fetched, 1);
    let (_, rest) = stage(&reader, point(1), &staged).unwrap();
    assert_eq!(rest.fetched, 2, "what was staged is not read again");
    let (_, all) = stage(&reader, point(2), &root.path().join("other")).unwrap();
    assert_eq!(all.fetched, 6, "the later point may need the packs of both sessions");
    assert_eq!(std::fs::read_dir(staged.join("tmp")).unwrap().count(), 0);
}

#[test]
fn a_full_library_says_what_is_wanted_and_keeps_what_was_catalogued() {
    let root = tempfile::tempdir().unwrap();
    let library = library(root.path(), shape(3 * MIB as u64), 1);
    let load = Load::new(1, 6, 700_000);
    let mut first = writer(&library);
    match load.session(&mut first) {
        Err(MediaError::NoBlankCartridge { wanted_bytes, protected: 0, set }) => {
            assert_eq!((wanted_bytes, set.as_str()), (3 * 700_000, "weekly"));
        }
        other => panic!("{other:?}"),
    }
    drop(first);
    library.add_blank(&barcode(2)).unwrap();
    let mut second = writer(&library);
    assert_eq!(second.held().packs.len(), 3);
    let report = load.session(&mut second).unwrap();
    assert_eq!((report.packs, report.media), (3, vec![barcode(2)]));
    load.assert_readable(&reader(&library));
}

#[test]
fn a_pack_larger_than_a_cartridge_is_refused_once() {
    let root = tempfile::tempdir().unwrap();
    let library = library(root.path(), shape(MIB as u64), 3);
    let mut writer = writer(&library);
    writer.begin(0).unwrap();
    let (id, bytes) = pack(1, 0, 2 * MIB);
    let refused = writer.put_pack(id, bytes.len() as u64, &mut Cursor::new(&bytes));
    assert!(matches!(refused, Err(MediaError::TooLargeForMedium { .. })), "{refused:?}");
    assert_eq!(writer.blanks(), 2, "one blank was labelled, no more");
    Load::new(1, 1, 1000).put(&mut writer).unwrap();
    assert_eq!(writer.finish().unwrap().media, [barcode(1)]);
}

#[test]
fn wrong_packs_and_manifests_leave_no_trace() {
    let root = tempfile::tempdir().unwrap();
    let library = library(root.path(), shape(8 * MIB as u64), 1);
    let mut writer = writer(&library);
    let load = Load::new(1, 2, 400_000);
    writer.begin(0).unwrap();
    let (id, mut bytes) = pack(77, 0, 600_000);
    bytes[500_000] ^= 1;
    let length = bytes.len() as u64;
    let refused = writer.put_pack(id, length, &mut Cursor::new(&bytes));
    assert!(matches!(refused, Err(MediaError::PackMismatch { pack }) if pack == id));
    bytes[500_000] ^= 1;
    let refused = writer.put_pack(id, length + 5, &mut Cursor::new(&bytes));
    assert!(matches!(refused, Err(MediaError::Source { .. })), "{refused:?}");
    let refused = writer.put_manifest(WORKLOAD, point(2), &manifest(1));
    assert!(matches!(refused, Err(MediaError::PointMismatch { .. })));
    load.put(&mut writer).unwrap();
    writer.finish().unwrap();
    let reader = reader(&library);
    load.assert_readable(&reader);
    assert!(!reader.held().has_pack(&id));
    let files = reader.verify(reader.media()[0].medium).unwrap();
    assert!(files.iter().all(|f| f.verdict == Verdict::Whole), "{files:?}");
    assert_eq!(files.len(), 3 + 2 + 1 + 1);
}

#[test]
fn cartridges_of_others_are_never_written() {
    let root = tempfile::tempdir().unwrap();
    let library = library(root.path(), shape(8 * MIB as u64), 2);
    Load::new(1, 1, 1000).session(&mut writer(&library)).unwrap();
    let foreign = cartridge(root.path(), 2);
    {
        let mut drive = library.load(&barcode(2)).unwrap();
        drive.write_block(b"somebody's tar archive").unwrap();
        drive.write_filemark().unwrap();
        library.unload(drive).unwrap();
    }
    let before = (std::fs::read(cartridge(root.path(), 1)).unwrap(), std::fs::read(&foreign));
    let other_repo = RepoId::from_bytes([8; 16]);
    let other = SetOrder {
        identity: MediaIdentity { repo: other_repo, ..order("weekly").identity },
        config: config(other_repo),
        keys: keys(other_repo, b""),
        ..order("weekly")
    };
    for order in [order("monthly"), other] {
        let clock = Arc::new(FixedClock::default());
        let mut writer = MediaSetWriter::open(library.clone(), order, clock).unwrap();
        assert!(writer.held().packs.is_empty());
        writer.begin(123_456).unwrap();
        let (id, bytes) = pack(5, 0, 1000);
        let refused = writer.put_pack(id, 1000, &mut Cursor::new(&bytes));
        let wanted =
            matches!(refused, Err(MediaError::NoBlankCartridge { wanted_bytes: 123_456, .. }));
        assert!(wanted, "{refused:?}");
    }
    let after = (std::fs::read(cartridge(root.path(), 1)).unwrap(), std::fs::read(&foreign));
    assert!(before.0 == after.0 && before.1.unwrap() == after.1.unwrap());
    let clock = Arc::new(FixedClock::default());
    let crossed = SetOrder { config: config(other_repo), ..order("weekly") };
    let refused = MediaSetWriter::open(library, crossed, clock).map(drop);
    assert!(matches!(refused, Err(MediaError::ForeignFile { what: "config" })));
}

#[test]
fn write_protected_cartridges_are_read_but_not_written() {
    let root = tempfile::tempdir().unwrap();
    let library = library(root.path(), shape(8 * MIB as u64), 2);
    let (first, second) = (Load::new(1, 1, 1000), Load::new(2, 1, 1000));
    first.session(&mut writer(&library)).unwrap();
    library.protect(&barcode(1), Protection::WriteProtected).unwrap();
    library.protect(&barcode(2), Protection::WriteProtected).unwrap();
    let mut drive = library.load(&barcode(1)).unwrap();
    let refused = drive.write_block(b"x");
    assert!(matches!(refused, Err(TapeError::WriteProtected { .. })));
    drop(drive);
    let refused = second.session(&mut writer(&library));
    let named = matches!(refused, Err(MediaError::NoBlankCartridge { protected: 1, .. }));
    assert!(named, "{refused:?}");
    library.protect(&barcode(2), Protection::Writable).unwrap();
    assert_eq!(second.session(&mut writer(&library)).unwrap().media, [barcode(2)]);
    let reader = reader(&library);
    first.assert_readable(&reader);
    second.assert_readable(&reader);
}

#[test]
fn a_missing_cartridge_is_asked_for_and_costs_only_its_own() {
    let root = tempfile::tempdir().unwrap();
    let (inside, outside) = (root.path().join("in"), root.path().join("out"));
    std::fs::create_dir(&outside).unwrap();
    let library = library(&inside, shape(3 * MIB as u64), 3);
    let load = Load::new(1, 9, 700_000);
    load.session(&mut writer(&library)).unwrap();
    let out = library.eject(&barcode(2), &outside).unwrap();
    let reader_without = reader(&library);
    let (report, got) = fetch(&reader_without, &load.ids());
    assert_eq!(report.wanted.into_iter().collect::<Vec<_>>(), [barcode(2)]);
    assert_eq!((got.len(), report.missing.len()), (6, 3));
    let absent = &reader_without.media()[1];
    assert_eq!((absent.health, &absent.barcode), (Health::Absent, &barcode(2)));
    let refused = reader_without.verify(absent.medium);
    assert!(matches!(refused, Err(MediaError::MediumAbsent { .. })));
    assert_eq!(writer(&library).held().packs.len(), 9, "absent is not lost");
    // One medium alone, in another library.
    let alone = Arc::new(VirtualLibrary::create(&root.path().join("b"), shape(1), &[]).unwrap());
    assert_eq!(alone.insert(&out).unwrap(), barcode(2));
    let (report, got) = fetch(&MediaReader::open(alone.clone()).unwrap(), &load.ids());
    assert_eq!((got.len(), report.wanted.len()), (3, 1), "it knows of the one before it");
    let out = alone.eject(&barcode(2), &outside).unwrap();
    library.insert(&out).unwrap();
    load.assert_readable(&reader(&library));
}

#[test]
fn a_library_is_for_one_process_and_a_drive_for_one_cartridge() {
    let root = tempfile::tempdir().unwrap();
    let library = library(root.path(), shape(8 * MIB as u64), 2);
    let refused = VirtualLibrary::open(root.path()).map(drop);
    assert!(matches!(refused, Err(TapeError::LibraryInUse { .. })));
    let drive = library.load(&barcode(1)).unwrap();
    for number in [1, 2] {
        let refused = library.load(&barcode(number)).map(drop);
        assert!(matches!(refused, Err(TapeError::DriveBusy { .. })));
    }
    assert_eq!(library.inventory().unwrap()[0].loaded_in, Some(0));
    assert!(matches!(try_writer(&library).map(drop), Err(MediaError::Tape(_))));
    drop(drive);
    assert!(library.load(&barcode(2)).is_ok());
    let refused = library.load(&barcode(9)).map(drop);
    assert!(matches!(refused, Err(TapeError::NoSuchCartridge { .. })));
    let refused = library.add_blank(&barcode(1));
    assert!(matches!(refused, Err(TapeError::SlotTaken { .. })));
}
