//! Two drives of a SCSI library (tgt) at once: a cartridge copied to another while both move, two
//! sets written side by side, and cartridges that go to mail slots and come back.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod media_kit;
mod scsi_kit;

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use media_kit::{Load, order};
use scsi_kit::{MAIL, Tgt, tape};
use strongroom_protocol::{Clock, FixedClock, Timestamp};
use strongroom_store::media::{
    BLOCK_BYTES, Health, MediaReader, MediaSetWriter, Source, Spare, copy_media, wanting,
};
use strongroom_store::tape::scsi::{Answer, Connect, Data, ScsiLibrary, Transport, connect};
use strongroom_store::tape::{MailSlot, TapeError, TapeLibrary};

const READ: u8 = 0x08;
const WRITE: u8 = 0x0a;
/// The arm carries a cartridge.
const MOVE: u8 = 0xa5;
/// How long a drive waits for another: on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(60);

/// Blocks read and written, by which unit, in the order in which they went; and who waits for whom.
#[derive(Default)]
struct Events {
    moved: Mutex<Vec<(String, u8)>>,
    changed: Condvar,
    /// Units that write before any of them goes on.
    together: usize,
}

impl Events {
    fn note(&self, unit: &str, command: u8) -> bool {
        let mut moved = self.moved.lock().unwrap();
        moved.push((unit.to_owned(), command));
        self.changed.notify_all();
        if command != WRITE {
            return true;
        }
        let alone = |moved: &mut Vec<(String, u8)>| writers(moved).len() < self.together;
        let (moved, _) = self.changed.wait_timeout_while(moved, PATIENCE, alone).unwrap();
        writers(&moved).len() >= self.together
    }
}

fn writers(moved: &[(String, u8)]) -> BTreeSet<&str> {
    moved.iter().filter(|(_, command)| *command == WRITE).map(|(unit, _)| unit.as_str()).collect()
}

struct Watched {
    inner: Box<dyn Transport>,
    events: Arc<Events>,
    unit: String,
}

impl Transport for Watched {
    fn execute(&mut self, cdb: &[u8], data: Data<'_>, patience: Duration) -> io::Result<Answer> {
        let moves = matches!(cdb[0], READ | WRITE | MOVE);
        if moves && !self.events.note(&self.unit, cdb[0]) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.inner.execute(cdb, data, patience)
    }

    fn name(&self) -> &str {
        self.inner.name()
    }
}

fn watched(tgt: &Tgt, together: usize) -> (Arc<dyn TapeLibrary>, Arc<Events>) {
    let events = Arc::new(Events { together, ..Events::default() });
    let seen = Arc::clone(&events);
    let way: Connect = Arc::new(move |address| {
        let (events, unit) = (Arc::clone(&seen), address.to_string());
        Ok(Box::new(Watched { inner: connect(address)?, events, unit }))
    });
    (Arc::new(ScsiLibrary::open_with(&tgt.address(), way).unwrap()), events)
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(FixedClock::at(Timestamp::from_unix_seconds(1_800_000_000)))
}

fn writer(library: &Arc<dyn TapeLibrary>, set: &str) -> MediaSetWriter {
    MediaSetWriter::open(Arc::clone(library), order(set), clock()).unwrap()
}

fn reader(library: &Arc<dyn TapeLibrary>) -> MediaReader {
    MediaReader::open(Arc::clone(library)).unwrap()
}

#[test]
fn a_set_on_two_cartridges_is_copied_while_both_drives_move() {
    let tgt = Tgt::start(4, 8);
    let (library, events) = watched(&tgt, 0);
    assert_eq!(library.drives(), 2);
    let load = Load::new(1, 12, 900_000);
    let report = load.session(&mut writer(&library, "weekly")).unwrap();
    assert_eq!(report.media.len(), 2, "{report:?}");
    let from = reader(&library);
    let media: Vec<_> = from.media().into_iter().map(|medium| medium.medium).collect();
    let mut to = writer(&library, "yearly");
    events.moved.lock().unwrap().clear();
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("spare");
    let spare = Spare { folder: &folder, bytes: 1 << 20 };
    let source = Source { reader: &from, media: &media, session_max: u32::MAX };
    let copied = copy_media(&library, source, &mut to, spare).unwrap();
    assert!(copied.is_whole() && copied.packs == 12 && copied.points == 1, "{copied:?}");

    // Between the first block written and the last one, the other drive read again.
    let moved = events.moved.lock().unwrap();
    let writes = |(_, command): &&(String, u8)| *command == WRITE;
    let packs: Vec<&(String, u8)> = moved.iter().skip_while(|event| event.1 != WRITE).collect();
    let writing = moved.iter().find(writes).unwrap().0.clone();
    let last = packs.iter().rposition(|event| event.1 == WRITE).unwrap();
    let read_meanwhile = packs[..last].iter().filter(|e| e.1 == READ && e.0 != writing).count();
    assert!(read_meanwhile > 12, "{read_meanwhile} blocks were read while the other drive wrote");
    drop(moved);

    // The cartridges it was copied from leave by the mail slots: the copy is enough.
    assert_eq!(library.export(&tape(1)).unwrap(), u32::from(MAIL));
    library.export(&tape(2)).unwrap();
    let full = library.export(&tape(3)).unwrap_err();
    assert!(matches!(full, TapeError::MailSlotsFull { .. }), "{full}");
    let mail = [1, 2].map(tape).into_iter().zip(u32::from(MAIL)..);
    let mail: Vec<_> = mail.map(|(barcode, slot)| MailSlot { slot, barcode }).collect();
    assert_eq!(library.mail().unwrap(), mail);
    load.assert_readable(&reader(&library));
    assert_eq!(library.import().unwrap(), [tape(1), tape(2)]);
    assert_eq!(library.mail().unwrap(), []);
    let sound = |health: Health| health == Health::Sound;
    assert!(reader(&library).media().iter().all(|medium| sound(medium.health)));
}

#[test]
fn two_sets_are_written_at_once_on_cartridges_of_their_own() {
    let tgt = Tgt::start(4, 16);
    // No drive writes a block before the other has one to write.
    let (library, events) = watched(&tgt, 2);
    let orders = vec![order("weekly"), order("weekly.2")];
    let mut writers = MediaSetWriter::open_all(&library, orders, &clock()).unwrap();
    let loads = [Load::new(1, 6, 900_000), Load::new(2, 6, 900_000)];
    let both = std::thread::scope(|scope| {
        let each = writers.iter_mut().zip(&loads);
        let each: Vec<_> =
            each.map(|(writer, load)| scope.spawn(|| load.session(writer).unwrap())).collect();
        each.into_iter().map(|one| one.join().unwrap()).collect::<Vec<_>>()
    });
    assert_ne!(both[0].media, both[1].media);
    assert_eq!(writers_of(&events), 2);
    drop(writers);
    let read = reader(&library);
    loads.iter().for_each(|load| load.assert_readable(&read));
    // Neither holds what the other has.
    let sets = read.media().into_iter().map(|medium| (medium.set.to_string(), medium.points));
    assert_eq!(sets.collect::<Vec<_>>(), [("weekly".into(), 1), ("weekly.2".into(), 1)]);
}

fn writers_of(events: &Events) -> usize {
    writers(&events.moved.lock().unwrap()).len()
}

#[test]
fn every_cartridge_that_is_wanted_is_named_before_any_is_read() {
    let tgt = Tgt::start(5, 4);
    let (library, events) = watched(&tgt, 0);
    let load = Load::new(1, 9, 900_000);
    let report = load.session(&mut writer(&library, "weekly")).unwrap();
    assert!(report.media.len() >= 3, "{report:?}");
    // The last one tells of the others.
    for away in &report.media[..2] {
        library.export(away).unwrap();
    }
    let read = reader(&library);
    events.moved.lock().unwrap().clear();
    let told = wanting(&read, &load.ids(), &[], &|_| true);
    let barcodes: Vec<_> = told.fetch.into_values().collect();
    let wanted: BTreeSet<_> = report.media[..2].iter().cloned().collect();
    assert_eq!(barcodes.into_iter().collect::<BTreeSet<_>>(), wanted);
    assert_eq!((told.nowhere.len(), told.nowhere_points.len()), (0, 0));
    assert_eq!(*events.moved.lock().unwrap(), [], "nothing was read for it");
    let gone = wanting(&read, &load.ids(), &[], &|_| false);
    assert!(gone.fetch.is_empty() && !gone.nowhere.is_empty());
    library.import().unwrap();
    load.assert_readable(&reader(&library));
}

#[test]
fn many_packs_are_read_with_each_cartridge_loaded_once_and_one_pack_by_its_own_blocks() {
    let tgt = Tgt::start(5, 4);
    let (library, events) = watched(&tgt, 0);
    let load = Load::new(1, 9, 900_000);
    let report = load.session(&mut writer(&library, "weekly")).unwrap();
    assert!(report.media.len() >= 3, "{report:?}");
    let read = reader(&library);
    let count = |command: u8| {
        let moved = std::mem::take(&mut *events.moved.lock().unwrap());
        moved.into_iter().filter(|event| event.1 == command).count()
    };
    count(MOVE);
    let mut came = Vec::new();
    let all = read.fetch_packs(&load.ids(), &mut |pack, source| {
        came.push(pack);
        io::copy(source, &mut io::sink()).map(drop)
    });
    assert!(all.unwrap().missing.is_empty());
    let written: Vec<_> = load.packs.iter().map(|(pack, _)| *pack).collect();
    assert_eq!(came, written, "in the order in which they lie");
    assert_eq!(count(MOVE), 2 * report.media.len(), "each is carried there and back once");

    // Where one lies is known: nothing else is read for it.
    let (pack, bytes) = &load.packs[7];
    let one = read
        .fetch_packs(&[*pack].into(), &mut |_, source| io::copy(source, &mut io::sink()).map(drop));
    assert!(one.unwrap().missing.is_empty());
    // Its blocks, and the mark behind them.
    assert_eq!(count(READ), bytes.len().div_ceil(BLOCK_BYTES) + 1);
}
