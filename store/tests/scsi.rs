//! The SCSI driver against the tape library of tgt, over iSCSI in user space: commands, blocks,
//! marks, the arm, and whole media sets.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod media_kit;
mod scsi_kit;

use std::path::Path;
use std::sync::Arc;

use media_kit::{Load, order};
use scsi_kit::{Fault, FaultKind, Faults, MAIL, Tgt, faulty, tape};
use strongroom_protocol::{FixedClock, Timestamp};
use strongroom_store::media::{BLOCK_BYTES, Health, MediaReader, MediaSetWriter, Verdict};
use strongroom_store::tape::scsi::{ElementKind, LibraryAddress, ScsiLibrary};
use strongroom_store::tape::{Protection, Readout, Room, TapeError, TapeLibrary, open_library};

fn writer(library: &Arc<ScsiLibrary>) -> MediaSetWriter {
    let clock = Arc::new(FixedClock::at(Timestamp::from_unix_seconds(1_800_000_000)));
    MediaSetWriter::open(library.clone(), order("weekly"), clock).unwrap()
}

fn reader(library: &Arc<ScsiLibrary>) -> MediaReader {
    MediaReader::open(library.clone()).unwrap()
}

#[test]
fn blocks_and_marks_come_back_as_they_were_written() {
    let tgt = Tgt::start(1, 64);
    let library = tgt.library();
    let mut drive = library.load(&tape(1)).unwrap();
    assert_eq!((drive.block_bytes_max(), drive.protection()), (1 << 20, Protection::Writable));
    assert_eq!(drive.position(), None, "tgt does not know its position, whatever it says");
    let mut buffer = vec![0; 1 << 20];
    assert_eq!(drive.read_block(&mut buffer).unwrap(), Readout::EndOfData);
    let block = |bytes: usize, seed: u8| vec![seed; bytes];
    let files = [vec![1, 4096, 1 << 20, BLOCK_BYTES], vec![BLOCK_BYTES + 1], vec![7]];
    for (file, blocks) in files.iter().enumerate() {
        for (number, bytes) in blocks.iter().enumerate() {
            let seed = u8::try_from(file * 16 + number).unwrap();
            assert_eq!(drive.write_block(&block(*bytes, seed)).unwrap(), Room::Plenty);
        }
        assert_eq!(drive.write_filemark().unwrap(), Room::Plenty);
    }
    drive.flush().unwrap();
    let too_long = drive.write_block(&vec![0; (1 << 20) + 1]).unwrap_err();
    assert!(matches!(too_long, TapeError::BlockSize { .. }), "{too_long}");
    drive.rewind().unwrap();
    for (file, blocks) in files.iter().enumerate() {
        for (number, bytes) in blocks.iter().enumerate() {
            let seed = u8::try_from(file * 16 + number).unwrap();
            assert_eq!(drive.read_block(&mut buffer).unwrap(), Readout::Block(*bytes));
            assert!(buffer[..*bytes] == block(*bytes, seed), "file {file} block {number}");
        }
        assert_eq!(drive.read_block(&mut buffer).unwrap(), Readout::Filemark);
    }
    assert_eq!(drive.read_block(&mut buffer).unwrap(), Readout::EndOfData);
    drive.rewind().unwrap();
    assert_eq!(drive.space_filemarks(2).unwrap(), 2);
    assert_eq!(drive.read_block(&mut buffer).unwrap(), Readout::Block(7));
    drive.locate_file(1).unwrap();
    assert_eq!(drive.space_filemarks(9).unwrap(), 2, "counted where the drive does not say");
    assert!(matches!(drive.locate_file(4), Err(TapeError::PastEndOfData { file: 4, .. })));
    drive.locate_file(1).unwrap();
    let short = drive.read_block(&mut buffer[..4096]).unwrap_err();
    assert!(matches!(short, TapeError::BlockSize { bytes: 262_145, limit: 4096, .. }), "{short}");
    drive.locate_file(1).unwrap();
    drive.write_block(b"over").unwrap();
    drive.write_filemark().unwrap();
    assert_eq!(drive.read_block(&mut buffer).unwrap(), Readout::EndOfData, "a write ends the data");
    library.unload(drive).unwrap();
}

#[test]
fn the_arm_moves_cartridges_and_leaves_cleaning_and_mail_alone() {
    let tgt = Tgt::start(3, 8);
    let library = tgt.library();
    let slots = library.inventory().unwrap().into_iter();
    let listed: Vec<_> = slots.filter_map(|slot| slot.barcode).collect();
    assert_eq!(listed, [tape(1), tape(2), tape(3)], "the cleaning cartridge is not for data");
    let cleaning = library.load(&"CLN001L6".parse().unwrap()).map(drop).unwrap_err();
    assert!(matches!(cleaning, TapeError::CleaningCartridge { .. }), "{cleaning}");

    let (first, second) = (library.load(&tape(1)).unwrap(), library.load(&tape(2)).unwrap());
    let slots = library.inventory().unwrap().into_iter();
    let loaded: Vec<_> = slots.filter_map(|slot| slot.loaded_in).collect();
    assert_eq!(loaded, [0, 1]);
    for number in [1, 3] {
        let busy = library.load(&tape(number)).map(drop).unwrap_err();
        assert!(matches!(busy, TapeError::DriveBusy { .. }), "{busy}");
    }
    library.unload(first).unwrap();
    // Dropped, not unloaded: the drive is free, and what is in it makes room for the next.
    drop(second);
    let (third, first) = (library.load(&tape(3)).unwrap(), library.load(&tape(1)).unwrap());
    [third, first].into_iter().for_each(|drive| library.unload(drive).unwrap());

    assert_eq!(library.export(&tape(2)).unwrap(), MAIL);
    let gone = library.load(&tape(2)).map(drop).unwrap_err();
    assert!(matches!(gone, TapeError::NoSuchCartridge { .. }), "{gone}");
    let mail = |place: &strongroom_store::tape::scsi::Element| {
        place.kind == ElementKind::ImportExport && place.full
    };
    assert_eq!(library.elements().unwrap().into_iter().filter(mail).count(), 1);
    library.rescan().unwrap();
    assert_eq!(library.import().unwrap(), [tape(2)]);
    let back = library.load(&tape(2)).unwrap();
    library.unload(back).unwrap();
}

#[test]
fn a_set_spans_cartridges_and_is_read_back_in_a_library_that_forgot_its_map() {
    let mut tgt = Tgt::start(4, 4);
    let library = tgt.library();
    let load = Load::new(1, 9, 900_000);
    let report = load.session(&mut writer(&library)).unwrap();
    assert!(report.media.len() >= 2, "{report:?}");
    tgt.restart();
    // The same library object begins a new session by itself.
    load.assert_readable(&reader(&library));
    let read = reader(&tgt.library());
    load.assert_readable(&read);
    for medium in read.media() {
        assert_eq!(medium.health, Health::Sound);
        let files = read.verify(medium.medium).unwrap();
        assert!(files.iter().all(|file| file.verdict == Verdict::Whole), "{files:?}");
    }
    let next = Load::new(2, 1, 50_000);
    let report = next.session(&mut writer(&library)).unwrap();
    assert_eq!(report.session, 2);
    next.assert_readable(&reader(&library));
}

#[test]
fn a_hard_end_of_the_medium_goes_on_with_the_next() {
    let tgt = Tgt::start(3, 16);
    let faults = Faults::default();
    let library = faulty(&tgt, &faults);
    // Label, config and keys are three blocks, each pack two.
    let kind = FaultKind::Sense(0xd, 0, 2);
    faults.lock().unwrap().push(Fault { command: 0x0a, after: 8, kind });
    let load = Load::new(1, 4, 400_000);
    let report = load.session(&mut writer(&library)).unwrap();
    assert_eq!(report.media, [tape(1), tape(2)]);
    load.assert_readable(&reader(&library));
}

#[test]
fn a_library_that_is_switched_on_later_is_reached_then() {
    let mut tgt = Tgt::start(2, 8);
    tgt.stop();
    let home = tempfile::tempdir().unwrap();
    let library = open_library(Path::new(&tgt.text()), home.path()).unwrap();
    let away = library.inventory().unwrap_err();
    assert!(matches!(away, TapeError::Scsi(_)), "{away}");
    tgt.start_again();
    assert_eq!(
        library.inventory().unwrap().iter().filter(|slot| slot.barcode.is_some()).count(),
        2
    );
    let drive = library.load(&tape(1)).unwrap();
    library.unload(drive).unwrap();
}

#[test]
fn who_may_log_in_is_the_targets_to_say() {
    let tgt = Tgt::start(1, 8);
    tgt.demand("backup", "twelve-characters");
    let told = |address: LibraryAddress| {
        let error = ScsiLibrary::open(&address).map(drop).unwrap_err();
        strongroom_protocol::Chain(&error).to_string()
    };
    let refused = told(tgt.address());
    assert!(refused.contains("iSCSI"), "{refused}");
    let named: LibraryAddress = tgt.text().replace("iscsi://", "iscsi://backup@").parse().unwrap();
    let wrong = told(named.clone().with_secret("another secret"));
    assert!(wrong.contains("does not accept this user and secret"), "{wrong}");
    assert!(!wrong.contains("another secret"));
    let library = ScsiLibrary::open(&named.with_secret("twelve-characters")).unwrap();
    let drive = library.load(&tape(1)).unwrap();
    library.unload(drive).unwrap();
    let nowhere = tgt.text().replace(":vtl", ":no-such");
    let missing = told(nowhere.parse().unwrap());
    assert!(missing.contains("there is no such target"), "{missing}");
}
