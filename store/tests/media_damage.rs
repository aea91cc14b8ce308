//! Kills and damage: a cartridge cut or flipped at every record, and what still holds.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod media_kit;

use std::collections::HashSet;
use std::path::Path;

use media_kit::*;
use strongroom_protocol::PackId;
use strongroom_store::media::{Health, Held, MediaError, Verdict};
use strongroom_store::tape::{Readout, TapeError, TapeLibrary};

const CAPACITY: u64 = 16 << 20;

/// A cartridge with two sessions; the first has a pack of several blocks.
fn two_sessions(root: &Path) -> (Load, Load, Vec<u8>) {
    let library = library(root, shape(CAPACITY), 3);
    let (mut first, second) = (Load::new(1, 2, 3000), Load::new(2, 2, 3000));
    first.packs.push(pack(1900, 0, 600_000));
    let mut writer = writer(&library);
    first.session(&mut writer).unwrap();
    second.session(&mut writer).unwrap();
    (first, second, std::fs::read(cartridge(root, 1)).unwrap())
}

/// Where each whole catalog ends, without its filemark.
fn catalog_ends(bytes: &[u8]) -> Vec<usize> {
    let records = records(bytes).into_iter();
    let catalogs = records.filter(|(at, _, _)| bytes[at + FRAME..].starts_with(b"SRCATL01"));
    catalogs.map(|(at, length, _)| at + FRAME + length).collect()
}

/// What a kill may leave: a cut, with nothing, zeros, or half-written noise behind it.
fn cuts(bytes: &[u8]) -> Vec<usize> {
    let mut cuts = vec![0];
    for (at, length, _) in records(bytes) {
        cuts.extend([at + 1, at + FRAME - 1, at + FRAME, at + FRAME + length]);
        cuts.extend([at + FRAME + length / 2, at + FRAME + length.saturating_sub(1)]);
    }
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}

#[test]
fn a_kill_anywhere_costs_no_finished_session_and_the_next_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let (first, second, whole) = two_sessions(root.path());
    let ends = catalog_ends(&whole);
    assert_eq!(ends.len(), 2);
    let third = Load::new(3, 2, 2000);
    for (turn, cut) in cuts(&whole).into_iter().enumerate() {
        let mut torn = whole[..cut].to_vec();
        torn.resize(cut + [0, 5000][turn % 2], 0);
        std::fs::write(cartridge(root.path(), 1), &torn).unwrap();
        let library = reopen(root.path());
        let finished = ends.iter().filter(|end| **end <= cut).count();
        let read = reader(&library);
        let expected: &[&Load] = &[&first, &second][..finished];
        expected.iter().for_each(|load| load.assert_readable(&read));
        assert_eq!(read.held().points.len(), finished, "cut at {cut}");
        assert!(read.media().iter().all(|m| m.health != Health::CatalogDamaged), "cut at {cut}");

        let mut write = writer(&library);
        assert_eq!(write.held().points.len(), finished);
        for load in [&first, &second, &third] {
            let report = load.session(&mut write).unwrap();
            assert!(report.media.iter().all(|used| *used == barcode(1)), "cut at {cut}");
        }
        let read = reader(&library);
        [&first, &second, &third].iter().for_each(|load| load.assert_readable(&read));
        let files = read.verify(read.media()[0].medium).unwrap();
        let flawed = files.iter().find(|file| file.verdict != Verdict::Whole);
        assert_eq!(flawed, None, "cut at {cut}");
    }
}

#[test]
fn a_kill_while_spanning_loses_nothing_that_was_catalogued() {
    let root = tempfile::tempdir().unwrap();
    let made = library(root.path(), shape(3 << 20), 4);
    let load = Load::new(1, 9, 700_000);
    load.session(&mut writer(&made)).unwrap();
    drop(made);
    let whole = std::fs::read(cartridge(root.path(), 3)).unwrap();
    let end = catalog_ends(&whole)[0];
    for cut in cuts(&whole) {
        std::fs::write(cartridge(root.path(), 3), &whole[..cut]).unwrap();
        let library = reopen(root.path());
        let mut write = writer(&library);
        let kept = if cut >= end { 9 } else { 6 };
        assert_eq!(write.held().packs.len(), kept, "cut at {cut}");
        assert_eq!(load.session(&mut write).unwrap().packs, 9 - kept as u64);
        load.assert_readable(&reader(&library));
    }
}

/// One flipped byte in this record, in its head or in its middle.
fn flips(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut file = 0;
    let mut flips = Vec::new();
    for (at, length, mark) in records(bytes) {
        flips.extend([(file, at), (file, at + 9), (file, at + 30)]);
        if length > 0 {
            flips.push((file, at + FRAME + length / 2));
        }
        file += usize::from(mark);
    }
    flips
}

fn pack_in(held: &Held, file: usize) -> Option<PackId> {
    let mut packs = held.packs.iter();
    let there = packs.find(|(_, held)| held.places.iter().any(|p| p.file as usize == file));
    there.map(|(id, _)| *id)
}

#[test]
fn a_flipped_byte_costs_one_file_and_never_gives_wrong_bytes() {
    let root = tempfile::tempdir().unwrap();
    let (first, second, whole) = two_sessions(root.path());
    let third = Load::new(3, 1, 2000);
    let sound = reader(&reopen(root.path())).held().clone();
    let all: HashSet<PackId> = first.ids().union(&second.ids()).copied().collect();
    for (file, at) in flips(&whole) {
        std::fs::write(cartridge(root.path(), 1), &whole).unwrap();
        std::fs::write(cartridge(root.path(), 2), b"").unwrap();
        flip(&cartridge(root.path(), 1), at);
        let library = reopen(root.path());
        let read = reader(&library);
        let (report, _) = fetch(&read, &all);
        let hit = pack_in(&sound, file);
        assert!(report.missing.iter().all(|id| Some(*id) == hit), "flip {at} in {file}");
        for number in [1, 2] {
            let own = sound.points[&point(number)].places[0].file as usize == file;
            match read.manifest(point(number)) {
                Ok(bytes) => assert_eq!(bytes, manifest(number)),
                Err(MediaError::NotHere { .. }) if own => {}
                Err(error) => panic!("flip {at} in file {file}: {error}"),
            }
        }
        // A pack no catalog names cannot be listed once its bytes are wrong.
        let unlisted = 5 - read.held().packs.len();
        assert!(unlisted <= report.missing.len(), "flip {at} in {file}");

        // The writer adds a session and overwrites nothing that was finished.
        let mut write = writer(&library);
        third.session(&mut write).unwrap();
        let kept = std::fs::read(cartridge(root.path(), 1)).unwrap();
        let end = catalog_ends(&whole)[1];
        assert!(kept[..end] == *flipped(&whole, at).get(..end).unwrap(), "overwritten at {at}");
        let read = reader(&library);
        third.assert_readable(&read);
        let (after, _) = fetch(&read, &all);
        assert_eq!(after.missing, report.missing, "flip {at} in {file}");
    }
}

fn flipped(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 0x10;
    bytes
}

#[test]
fn a_pack_found_damaged_can_be_put_again() {
    let root = tempfile::tempdir().unwrap();
    let (first, _, whole) = two_sessions(root.path());
    let (id, _) = first.packs[2];
    let file = reader(&reopen(root.path())).held().packs[&id].places[0].file as usize;
    flip(&cartridge(root.path(), 1), file_offset(&whole, file) + FRAME + 300_000);
    let library = reopen(root.path());
    let read = reader(&library);
    let medium = read.media()[0].medium;
    let files = read.verify(medium).unwrap();
    let flawed: Vec<_> = files.iter().filter(|f| f.verdict != Verdict::Whole).collect();
    assert_eq!(flawed.len(), 1);
    assert_eq!((flawed[0].pack, flawed[0].verdict), (Some(id), Verdict::Damaged { block: 1 }));
    let mut write = writer(&library);
    assert_eq!(first.session(&mut write).unwrap().packs, 0);
    write.forget_packs(&[id].into());
    assert_eq!(first.session(&mut write).unwrap().packs, 1);
    first.assert_readable(&reader(&library));
    write.forget_medium(medium);
    assert!(write.held().packs.is_empty() && write.held().points.is_empty());
}

#[test]
fn a_damaged_last_catalog_seals_the_medium_and_the_set_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let (first, second, whole) = two_sessions(root.path());
    flip(&cartridge(root.path(), 1), catalog_ends(&whole)[1] - 1);
    let library = reopen(root.path());
    let read = reader(&library);
    assert_eq!(read.media()[0].health, Health::CatalogDamaged);
    first.assert_readable(&read);
    second.assert_readable(&read);
    let mut write = writer(&library);
    assert_eq!(second.session(&mut write).unwrap().packs, 0, "found by scanning");
    let report = Load::new(3, 1, 1000).session(&mut write).unwrap();
    assert_eq!(report.media, [barcode(2)]);
    assert_eq!(reader(&library).media()[1].sequence, 2);
}

#[test]
fn a_medium_without_label_and_catalog_is_read_by_its_files() {
    let root = tempfile::tempdir().unwrap();
    let (first, second, whole) = two_sessions(root.path());
    flip(&cartridge(root.path(), 1), FRAME + 20);
    for end in catalog_ends(&whole) {
        flip(&cartridge(root.path(), 1), end - 1);
    }
    let library = reopen(root.path());
    let read = reader(&library);
    let [medium] = read.media().try_into().unwrap();
    assert_eq!((medium.health, medium.repo), (Health::LabelDamaged, REPO));
    assert_eq!((medium.org.as_str(), medium.packs, medium.points), ("acme", 5, 2));
    first.assert_readable(&read);
    second.assert_readable(&read);
    let base = read.stage_base(&root.path().join("staged"), point(1)).unwrap();
    assert_eq!(base.metadata.fetched, 2, "which session wrote what is not known");
    assert_eq!(writer(&library).blanks(), 2, "and it is not blank");
}

#[test]
fn a_drive_warns_ends_and_truncates_as_tape_does() {
    let root = tempfile::tempdir().unwrap();
    let library = library(root.path(), shape(10_000), 1);
    let mut drive = library.load(&barcode(1)).unwrap();
    let mut written = 0;
    let ended = loop {
        match drive.write_block(&[written; 1000]) {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    let at = matches!(ended, TapeError::EndOfMedium { file: 0, block: 9, .. });
    assert!(at && written == 9, "{ended}");
    drive.rewind().unwrap();
    drive.write_block(b"new").unwrap();
    drive.write_filemark().unwrap();
    let mut buffer = vec![0; drive.block_bytes_max()];
    assert_eq!(drive.read_block(&mut buffer).unwrap(), Readout::EndOfData);
    assert!(matches!(drive.locate_file(2), Err(TapeError::PastEndOfData { file: 2, .. })));
    drive.locate_file(0).unwrap();
    assert_eq!(drive.read_block(&mut buffer).unwrap(), Readout::Block(3));
    assert_eq!(drive.read_block(&mut buffer).unwrap(), Readout::Filemark);
    assert!(matches!(drive.write_block(&[]), Err(TapeError::BlockSize { .. })));
}
