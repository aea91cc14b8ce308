//! What happens to a tape library, one thing at a time, against tgt: each ends in a state that
//! is told, no point that was acknowledged is lost, and the set goes on.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod media_kit;
mod scsi_kit;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use media_kit::{Load, fetch, manifest, order, point};
use scsi_kit::{Fault, FaultKind, Faults, MAIL, Tgt, faulty, tape};
use strongroom_protocol::{Chain, FixedClock, Timestamp};
use strongroom_store::media::{Health, MediaError, MediaReader, MediaSetWriter, SessionReport};
use strongroom_store::tape::TapeLibrary;
use strongroom_store::tape::scsi::{Data, GOOD, ScsiLibrary, connect};

const WRITE: u8 = 0x0a;
const WRITE_FILEMARKS: u8 = 0x10;
const REWIND: u8 = 0x01;
const MOVE: u8 = 0xa5;
const READ: u8 = 0x08;

struct World {
    tgt: Tgt,
    faults: Faults,
}

impl World {
    fn fault(&self, command: u8, after: usize, kind: FaultKind) {
        self.faults.lock().unwrap().push(Fault { command, after, kind });
    }

    fn library(&self) -> Arc<ScsiLibrary> {
        faulty(&self.tgt, &self.faults)
    }

    fn session(&self, set: &str, load: &Load) -> Result<SessionReport, MediaError> {
        let clock = Arc::new(FixedClock::at(Timestamp::from_unix_seconds(1_800_000_000)));
        let mut writer = MediaSetWriter::open(self.library(), order(set), clock)?;
        load.session(&mut writer)
    }
}

/// What became of the session that met the harm.
enum Told {
    Finished,
    /// It broke off and said this.
    Refused(&'static str),
}

/// What became of the point that was acknowledged before.
enum Kept {
    Readable(Health),
    /// Its cartridge is not here, and nobody here knows of it.
    Away,
}

use Kept::{Away, Readable};
use Told::{Finished, Refused};

struct Case {
    name: &'static str,
    harm: fn(&mut World),
    told: Told,
    kept: Kept,
}

/// Where each block and filemark of a cartridge of tgt begins, with its length.
fn blocks(image: &[u8]) -> Vec<(usize, usize, bool)> {
    let number = |at: usize, length: usize| {
        image[at..at + length].iter().fold(0, |sum, byte| (sum << 8) | usize::from(*byte))
    };
    let mut at = number(40, 8);
    let mut found = Vec::new();
    while number(at + 12, 4) != 0x20 {
        found.push((at, number(at + 4, 4), number(at + 12, 4) == 0x40));
        at = number(at + 40, 8);
    }
    found
}

fn change(path: &Path, how: impl FnOnce(&mut Vec<u8>)) {
    let mut image = std::fs::read(path).unwrap();
    how(&mut image);
    std::fs::write(path, image).unwrap();
}

/// Flips a byte in the middle of the first block that begins with `magic`, from the end.
fn flip(world: &World, magic: &[u8]) {
    change(&world.tgt.cartridge(1), |image| {
        let found = blocks(image).into_iter().rev();
        let mut ours = found.filter(|(at, _, _)| image[at + 48..].starts_with(magic));
        let (at, length, _) = ours.next().unwrap();
        image[at + 48 + length / 2] ^= 1;
    });
}

/// Exchanges what lies in two cartridges: the labels on the outside stay.
fn exchange(world: &World, one: usize, other: usize) {
    let (one, other) = (world.tgt.cartridge(one), world.tgt.cartridge(other));
    let beside = one.with_extension("beside");
    std::fs::rename(&one, &beside).unwrap();
    std::fs::rename(&other, &one).unwrap();
    std::fs::rename(&beside, &other).unwrap();
}

/// Somebody else's bytes on a cartridge that was blank.
fn foreign(world: &World, bytes: &[u8]) {
    let library = world.library();
    let mut drive = library.load(&tape(2)).unwrap();
    if !bytes.is_empty() {
        drive.write_block(bytes).unwrap();
    }
    drive.write_filemark().unwrap();
    drive.flush().unwrap();
    library.unload(drive).unwrap();
}

/// Somebody else's block, longer than any of ours, past our driver.
fn foreign_and_long(world: &World) {
    let library = world.library();
    let drive = library.load(&tape(2)).unwrap();
    let mut raw = connect(&world.tgt.unit(1)).unwrap();
    let patience = Duration::from_secs(60);
    // The first command of a session is told of the reset before it.
    raw.execute(&[0; 6], Data::Nothing, patience).unwrap();
    let block = vec![b'V'; 2 << 20];
    let answer = raw.execute(&[0x0a, 0, 0x20, 0, 0, 0], Data::Out(&block), patience).unwrap();
    assert_eq!(answer.status, GOOD, "{answer:?}");
    drop(raw);
    library.unload(drive).unwrap();
}

const BROKEN: &[Case] = &[
    Case {
        name: "the drive cannot write in the middle of a pack",
        harm: |world| world.fault(WRITE, 3, FaultKind::Sense(3, 0x0c, 0)),
        told: Refused("WRITE: medium error (3/0c/00: cannot write)"),
        kept: Readable(Health::Interrupted),
    },
    Case {
        name: "the drive fails in the middle of a pack",
        harm: |world| world.fault(WRITE, 3, FaultKind::Sense(4, 0x44, 0)),
        told: Refused("hardware error (4/44/00: a fault inside the device)"),
        kept: Readable(Health::Interrupted),
    },
    Case {
        name: "the drive is reset in the middle of a pack",
        harm: |world| world.fault(WRITE, 2, FaultKind::Sense(6, 0x29, 0)),
        told: Refused("the drive lost its position"),
        kept: Readable(Health::Interrupted),
    },
    Case {
        name: "the cartridge is changed while it is written",
        harm: |world| world.fault(WRITE, 2, FaultKind::Sense(6, 0x28, 0)),
        told: Refused("the drive may hold another one now"),
        kept: Readable(Health::Interrupted),
    },
    Case {
        name: "the write-protect tab is found set when it is written",
        harm: |world| world.fault(WRITE, 0, FaultKind::Sense(7, 0x27, 0)),
        told: Refused("write-protected"),
        kept: Readable(Health::Sound),
    },
    Case {
        name: "the answer to a write is lost",
        harm: |world| world.fault(WRITE, 2, FaultKind::AnswerLost),
        told: Refused("WRITE: the device cannot be reached"),
        kept: Readable(Health::Interrupted),
    },
    Case {
        name: "a filemark never reaches the drive",
        harm: |world| world.fault(WRITE_FILEMARKS, 1, FaultKind::CommandLost),
        told: Refused("WRITE FILEMARKS: the device cannot be reached"),
        kept: Readable(Health::Interrupted),
    },
    Case {
        name: "power is lost within the last block of a pack",
        harm: |world| world.fault(WRITE, 1, FaultKind::Torn),
        told: Refused("the device cannot be reached"),
        kept: Readable(Health::Interrupted),
    },
    Case {
        name: "power is lost within the catalog",
        harm: |world| world.fault(WRITE, 5, FaultKind::Torn),
        told: Refused("the device cannot be reached"),
        kept: Readable(Health::Interrupted),
    },
    Case {
        name: "the drive cannot rewind",
        harm: |world| world.fault(REWIND, 0, FaultKind::Sense(3, 0x3b, 0)),
        told: Refused("REWIND: medium error (3/3b/00: positioning failed)"),
        kept: Readable(Health::Sound),
    },
    Case {
        name: "the arm finds its place empty",
        harm: |world| world.fault(MOVE, 0, FaultKind::Sense(5, 0x3b, 0x0e)),
        told: Refused("the place the cartridge should come from is empty"),
        kept: Readable(Health::Sound),
    },
    Case {
        name: "the arm moved and its answer is lost",
        harm: |world| world.fault(MOVE, 0, FaultKind::AnswerLost),
        told: Refused("MOVE MEDIUM: the device cannot be reached"),
        kept: Readable(Health::Sound),
    },
    Case {
        name: "the label cannot be read this once",
        harm: |world| world.fault(READ, 0, FaultKind::Sense(3, 0x11, 0)),
        told: Finished,
        kept: Readable(Health::Sound),
    },
];

const DAMAGED: &[Case] = &[
    Case {
        name: "the label is destroyed",
        harm: |world| flip(world, b"SRLABL01"),
        told: Finished,
        kept: Readable(Health::LabelDamaged),
    },
    Case {
        name: "the last catalog is destroyed",
        harm: |world| flip(world, b"SRCATL01"),
        told: Finished,
        kept: Readable(Health::CatalogDamaged),
    },
    Case {
        name: "label and catalog are destroyed",
        harm: |world| {
            flip(world, b"SRLABL01");
            flip(world, b"SRCATL01");
        },
        told: Finished,
        kept: Readable(Health::LabelDamaged),
    },
    Case {
        name: "the keys on the cartridge are destroyed",
        harm: |world| flip(world, b"SRKEYS01"),
        told: Finished,
        kept: Readable(Health::Sound),
    },
    Case {
        name: "the library is killed and forgets its map",
        harm: |world| world.tgt.restart(),
        told: Finished,
        kept: Readable(Health::Sound),
    },
    Case {
        name: "the labels on the outside of two cartridges are exchanged",
        harm: |world| exchange(world, 1, 3),
        told: Finished,
        kept: Readable(Health::Sound),
    },
    Case {
        name: "the cartridge lies in a mail slot",
        harm: |world| assert_eq!(world.library().export(&tape(1)).unwrap(), MAIL),
        told: Finished,
        kept: Away,
    },
    Case {
        name: "a blank was put in the place of the cartridge",
        harm: |world| {
            let image = world.tgt.cartridge(1);
            std::fs::rename(&image, image.with_extension("taken")).unwrap();
            std::fs::copy(world.tgt.cartridge(4), &image).unwrap();
        },
        told: Finished,
        kept: Away,
    },
    Case {
        name: "a tape of another program is in a slot",
        harm: |world| foreign(world, &[b'V'; 32_768]),
        told: Finished,
        kept: Readable(Health::Sound),
    },
    Case {
        name: "a tape of blocks longer than any of ours is in a slot",
        harm: |world| foreign_and_long(world),
        told: Finished,
        kept: Readable(Health::Sound),
    },
    Case {
        name: "a tape that begins with a filemark is in a slot",
        harm: |world| foreign(world, &[]),
        told: Finished,
        kept: Readable(Health::Sound),
    },
    Case {
        name: "a medium of a newer format is in a slot",
        harm: |world| foreign(world, b"SRLABL02 and more that is not known here"),
        told: Finished,
        kept: Readable(Health::Sound),
    },
];

fn run(case: &Case) {
    let Case { name, harm, told, kept } = case;
    let mut world = World { tgt: Tgt::start(4, 16), faults: Faults::default() };
    let (first, second, third) =
        (Load::new(1, 2, 300_000), Load::new(2, 2, 300_000), Load::new(3, 1, 100_000));
    assert_eq!(world.session("weekly", &first).unwrap().media, [tape(1)], "{name}");
    let before = std::fs::read(world.tgt.cartridge(2)).unwrap();
    harm(&mut world);
    let foreign = std::fs::read(world.tgt.cartridge(2)).unwrap();
    let outcome = world.session("weekly", &second);
    match (told, &outcome) {
        (Finished, Ok(_)) => {}
        (Refused(text), Err(error)) => {
            let found = Chain(error).to_string();
            assert!(found.contains(text), "{name}: {found}");
        }
        _ => panic!("{name}: {outcome:?}"),
    }
    assert!(world.faults.lock().unwrap().is_empty(), "{name}: the harm was never met");
    let library: Arc<dyn TapeLibrary> = world.tgt.library();
    let read = MediaReader::open(Arc::clone(&library)).unwrap();
    let acknowledged = |load: &Load, read: &MediaReader| {
        let (report, _) = fetch(read, &load.ids());
        assert!(report.missing.is_empty(), "{name}: {report:?}");
        let number = load.number;
        assert_eq!(read.manifest(point(number)).unwrap(), manifest(number), "{name}");
    };
    match kept {
        Readable(health) => {
            acknowledged(&first, &read);
            // The session after it may have gone on with the same medium.
            let found = read.media().into_iter().min_by_key(|medium| medium.sequence).unwrap();
            assert_eq!(found.health, *health, "{name}");
        }
        Away => {
            let missing = read.manifest(point(1)).unwrap_err();
            assert!(matches!(missing, MediaError::NotHere { .. }), "{name}: {missing}");
        }
    }
    if outcome.is_ok() {
        acknowledged(&second, &read);
    }
    drop(read);
    // The set goes on, and nothing acknowledged is overwritten by it.
    world.session("weekly", &third).unwrap();
    let read = MediaReader::open(library).unwrap();
    acknowledged(&third, &read);
    if matches!(kept, Readable(_)) {
        acknowledged(&first, &read);
    }
    if before != foreign {
        let after = std::fs::read(world.tgt.cartridge(2)).unwrap();
        assert!(blocks(&after) == blocks(&foreign), "{name}: somebody's tape was written on");
    }
}

/// Runs every case, then says which were not as they should be.
fn all(cases: &[Case]) {
    let wrong = |case: &&Case| std::panic::catch_unwind(|| run(case)).is_err();
    let names: Vec<_> = cases.iter().filter(wrong).map(|case| case.name).collect();
    assert!(names.is_empty(), "{names:#?}");
}

#[test]
fn what_breaks_off_a_session_costs_that_session_only() {
    all(BROKEN);
}

#[test]
fn what_is_damaged_foreign_or_away_is_told_and_the_set_goes_on() {
    all(DAMAGED);
}

#[test]
fn another_pool_and_an_empty_shelf_are_told() {
    let world = World { tgt: Tgt::start(2, 16), faults: Faults::default() };
    let (first, second, third) =
        (Load::new(1, 1, 50_000), Load::new(2, 1, 50_000), Load::new(3, 1, 50_000));
    world.session("weekly", &first).unwrap();
    assert_eq!(world.session("monthly", &second).unwrap().media, [tape(2)], "a set of its own");
    let none = world.session("yearly", &third).unwrap_err();
    assert!(matches!(none, MediaError::NoBlankCartridge { .. }), "{none}");
    let read = MediaReader::open(world.library()).unwrap();
    [&first, &second].into_iter().for_each(|load| load.assert_readable(&read));
    assert!(read.manifest(point(3)).is_err());
}

#[test]
fn a_cartridge_taken_away_is_asked_for_by_name() {
    let world = World { tgt: Tgt::start(3, 4), faults: Faults::default() };
    let load = Load::new(1, 7, 900_000);
    let report = world.session("weekly", &load).unwrap();
    assert!(report.media.len() > 1, "{report:?}");
    world.library().export(&tape(1)).unwrap();
    let read = MediaReader::open(world.library()).unwrap();
    let (report, got) = fetch(&read, &load.ids());
    assert_eq!(report.wanted, [tape(1)].into());
    assert!(!report.missing.is_empty() && !got.is_empty());
    world.library().import().unwrap();
    load.assert_readable(&MediaReader::open(world.library()).unwrap());
}
