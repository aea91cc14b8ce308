//! A site with a library that is a directory: what leaves it, what comes back, what is copied.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

#[path = "killed_tests.rs"]
mod killed;

use std::fs;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use strongroom_node::home::MediaSettings;
use strongroom_protocol::admin::{CartridgeOrder, CartridgeRow, Response};
use strongroom_protocol::{Clock, FixedClock};
use strongroom_store::disk::sim::SimDisk;
use strongroom_store::media::{MediaSetWriter, RepoPack};
use strongroom_store::repo::Repo;
use strongroom_store::tape::{Shape, VirtualLibrary};
use tempfile::TempDir;

use super::*;
use crate::aux::order_of;
use crate::aux::testing::{WORKLOAD, manifest_over, media_keeper, page, repo};
use crate::orders::Media;
use crate::{look, prove};

/// A site with a library that is a directory, and one point on its first cartridge.
struct Scene {
    dir: TempDir,
    repo: Repo,
    library: Arc<VirtualLibrary>,
    settings: MediaSettings,
}

const POINT: PointId = PointId::from_bytes([5; 16]);

fn barcode(number: usize) -> Barcode {
    format!("SR{number:04}L9").parse().unwrap()
}

fn names(numbers: &[usize]) -> Vec<String> {
    numbers.iter().map(|number| barcode(*number).to_string()).collect()
}

impl Scene {
    fn new(cartridges: usize, drives: u32, mail_slots: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repo = repo(&SimDisk::new());
        let manifest = manifest_over(POINT, &[page(&repo)]);
        repo.commit_point(WORKLOAD, POINT, &manifest).unwrap();
        let blanks: Vec<Barcode> = (1..=cartridges).map(barcode).collect();
        let shape = Shape { drives, mail_slots, ..Shape::with_capacity(8 << 20) };
        let root = dir.path().join("library");
        let library = Arc::new(VirtualLibrary::create(&root, shape, &blanks).unwrap());
        let scene = Self { dir, repo, library, settings: MediaSettings::default() };
        scene.write("weekly");
        scene
    }

    fn at(&self) -> Arc<dyn Clock> {
        Arc::new(FixedClock::at(Timestamp::from_unix_seconds(1_800_000_000)))
    }

    /// Puts the point on a set, with nothing but the store.
    fn write(&self, set: &str) {
        let (order, _) = order_of(&self.repo, set.parse().unwrap()).unwrap();
        let library: Arc<dyn TapeLibrary> = self.library.clone();
        let mut writer = MediaSetWriter::open(library, order, self.at()).unwrap();
        writer.begin(0).unwrap();
        for pack in self.repo.packs() {
            let mut source = RepoPack::new(&self.repo, pack).unwrap();
            writer.put_pack(pack, self.repo.pack_len(pack).unwrap(), &mut source).unwrap();
        }
        let (workload, manifest) = self.repo.manifest_of(POINT).unwrap();
        writer.put_manifest(workload, POINT, &manifest).unwrap();
        writer.finish().unwrap();
    }

    fn book(&self) -> Arc<Cartridges> {
        Arc::new(Cartridges::open(&self.dir.path().join(CARTRIDGES_FILE)).unwrap())
    }

    fn media(&self) -> Media {
        Media {
            library: self.library.clone(),
            cartridges: self.book(),
            keeper: media_keeper(&self.dir.path().join(CARTRIDGES_FILE)),
            settings: self.settings.clone(),
            clock: self.at(),
        }
    }

    /// As the node does it, with a book that was opened again.
    fn order(&self, order: CartridgeOrder) -> Result<Response, Refusal> {
        let keeping = Keeping {
            repo: self.repo.clone(),
            library: self.library.clone(),
            book: self.book(),
            keeper: media_keeper(&self.dir.path().join(CARTRIDGES_FILE)),
            settings: self.settings.clone(),
            clock: self.at(),
            spare: self.dir.path().join("spare"),
            by: "operator/ann".to_owned(),
        };
        carry_out(&keeping, order)
    }

    fn done(&self, order: CartridgeOrder) -> String {
        match self.order(order).unwrap() {
            Response::Done(text) => text,
            other => panic!("{other:?}"),
        }
    }

    fn refused(&self, order: CartridgeOrder) -> Refusal {
        self.order(order).unwrap_err()
    }

    fn row(&self, number: usize) -> CartridgeRow {
        let Response::Cartridges(rows) = self.order(CartridgeOrder::List).unwrap() else {
            panic!("no rows")
        };
        let mut its = rows.iter().filter(|row| row.barcode == barcode(number).as_str());
        let row = its.next().unwrap_or_else(|| panic!("{rows:?}")).clone();
        assert_eq!(its.next(), None, "told twice");
        row
    }

    fn mail(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("library/mail/{}.tape", barcode(number)))
    }

    fn file(&self, number: usize) -> PathBuf {
        self.library.cartridge_path(&barcode(number))
    }

    fn export(&self, numbers: &[usize]) -> Result<Response, Refusal> {
        self.order(CartridgeOrder::Export { barcodes: names(numbers) })
    }

    fn vault(&self, numbers: &[usize], place: &str) -> Result<Response, Refusal> {
        self.order(CartridgeOrder::Vault { barcodes: names(numbers), place: place.to_owned() })
    }

    /// Exported, taken to `outside` and said to be in the safe.
    fn put_away(&self, number: usize) -> PathBuf {
        self.export(&[number]).unwrap();
        let outside = self.dir.path().join(format!("{}.tape", barcode(number)));
        fs::rename(self.mail(number), &outside).unwrap();
        self.vault(&[number], "the safe").unwrap();
        outside
    }

    fn lost(&self) -> Vec<(PointId, String)> {
        look::media(&self.repo, &self.media(), &[POINT]).unwrap()
    }

    fn proven(&self) -> Result<String, Refusal> {
        prove::read_media(&self.repo, &self.media(), POINT).map(|(_, text)| text)
    }
}

#[test]
fn a_vaulted_cartridge_keeps_its_copy_and_is_named_when_it_is_needed() {
    let scene = Scene::new(2, 1, 2);
    assert_eq!(scene.row(1).whereabouts, Whereabouts::Slot { slot: 1 });
    scene.export(&[1]).unwrap();
    assert_eq!(scene.row(1).whereabouts, Whereabouts::Mail { slot: 1 });
    assert_eq!(scene.row(1).points, 1, "what it holds is known though it is not loaded");
    let early = scene.vault(&[1], "the safe").unwrap_err();
    assert!(early.text.contains("take it out first"), "{early}");
    let outside = scene.dir.path().join("SR0001L9.tape");
    fs::rename(scene.mail(1), &outside).unwrap();
    assert!(matches!(scene.row(1).whereabouts, Whereabouts::Out { .. }));
    scene.vault(&[1], "the safe").unwrap();
    let Whereabouts::Vault { place, since } = scene.row(1).whereabouts else { panic!("not there") };
    assert_eq!((place.as_str(), since), ("the safe", Timestamp::from_unix_seconds(1_800_000_000)));

    // It is the only one of its set: nothing in the library tells of it.
    assert_eq!(scene.lost(), [], "it is still present");
    let away = scene.proven().unwrap_err();
    assert_eq!(away.kind, RefusalKind::Away);
    assert_eq!(away.text, "fetch cartridges SR0001L9 from the safe");

    // It comes back by the mail slot, and the proof goes on by itself.
    fs::rename(&outside, scene.mail(1)).unwrap();
    assert_eq!(scene.done(CartridgeOrder::Import), "came in: SR0001L9");
    assert_eq!(scene.row(1).whereabouts, Whereabouts::Slot { slot: 1 });
    assert!(scene.proven().unwrap().ends_with("packs read back from media"));
    let text = fs::read_to_string(scene.dir.path().join(CARTRIDGES_FILE)).unwrap();
    let said: Vec<&str> = text.lines().collect();
    assert_eq!(said.len(), 3, "{text}");
    assert!(said[0].contains("exported") && said[0].contains("operator/ann"), "{text}");
    assert!(said[1].contains("vaulted") && said[2].contains("returned"), "{text}");
}

#[test]
fn every_cartridge_to_fetch_is_named_at_once_with_its_place() {
    // The packs are on the first cartridge, and the point's second manifest on another.
    let scene = Scene::new(3, 1, 2);
    scene.write("monthly");
    scene.put_away(1);
    assert!(scene.proven().is_ok(), "the other set has it");
    scene.put_away(2);
    scene.vault(&[2], "the bank").unwrap();
    let away = scene.proven().unwrap_err();
    assert_eq!(away.kind, RefusalKind::Away);
    assert!(away.text.contains("SR0001L9 from the safe"), "{away}");
    assert_eq!(scene.lost(), []);

    let lost = CartridgeOrder::Lost { barcodes: names(&[1, 2]) };
    scene.done(lost);
    let [(point, _)] = scene.lost().try_into().unwrap();
    assert_eq!(point, POINT, "what is lost is owed again");
    assert!(matches!(scene.row(1).whereabouts, Whereabouts::Lost { .. }));
    assert_eq!(scene.proven().unwrap_err().kind, RefusalKind::Missing);
}

#[test]
fn what_cannot_be_done_is_refused_before_anything_moves() {
    let scene = Scene::new(3, 1, 1);
    let unknown = scene.export(&[1, 9]).unwrap_err();
    assert_eq!(unknown.kind, RefusalKind::Unknown);
    assert!(unknown.text.contains("SR0009L9") && unknown.text.contains("SR0001L9"), "{unknown}");
    assert!(scene.file(1).exists(), "nothing moved");
    let odd = scene.refused(CartridgeOrder::Export { barcodes: vec!["a b".to_owned()] });
    assert_eq!(odd.kind, RefusalKind::Invalid);
    let none = scene.refused(CartridgeOrder::Export { barcodes: Vec::new() });
    assert_eq!(none.kind, RefusalKind::Invalid);

    // In a drive, and in use.
    let drive = scene.library.load(&barcode(1)).unwrap();
    let busy = scene.export(&[1]).unwrap_err();
    assert!(busy.text.contains("no drive is free, or another user has it"), "{busy}");
    drop(drive);

    scene.export(&[1]).unwrap();
    let again = scene.export(&[1]).unwrap_err();
    assert!(again.text.contains("at mail slot 1 already"), "{again}");
    let full = scene.export(&[2]).unwrap_err();
    assert!(full.text.contains("every mail slot is full"), "{full}");
    assert_eq!(scene.row(2).whereabouts, Whereabouts::Slot { slot: 2 }, "it stayed");

    let here = scene.vault(&[2], "the safe").unwrap_err();
    assert!(here.text.contains("is in slot 2: export it first"), "{here}");
    for place in ["", "  ", "two\nlines", &"x".repeat(201)] {
        assert_eq!(scene.vault(&[1], place).unwrap_err().kind, RefusalKind::Invalid, "{place:?}");
    }
    let never = scene.vault(&[9], "the safe").unwrap_err();
    assert_eq!(never.kind, RefusalKind::Unknown);

    let shut = Scene::new(1, 1, 0);
    let door = shut.export(&[1]).unwrap_err();
    assert!(door.text.contains("open its door") && door.text.contains("slot 1"), "{door}");
    assert!(shut.file(1).exists());
    assert_eq!(shut.row(1).whereabouts, Whereabouts::Slot { slot: 1 });
}

#[test]
fn a_copy_goes_to_another_set_with_one_drive_and_with_two() {
    for drives in [1, 2] {
        let scene = Scene::new(3, drives, 2);
        let copy = |set: &str| CartridgeOrder::Copy {
            barcode: barcode(1).to_string(),
            set: set.parse().unwrap(),
        };
        let itself = scene.refused(copy("weekly"));
        assert!(itself.text.contains("media refresh"), "{itself}");
        let text = scene.done(copy("yearly"));
        assert!(text.contains("SR0002L9") && text.contains("read back"), "{text}");
        assert_eq!(scene.row(2).set.unwrap().as_str(), "yearly");
        assert!(scene.done(copy("yearly")).contains("holds all of SR0001L9 already"));
        // The new one alone is enough.
        fs::remove_file(scene.file(1)).unwrap();
        assert!(scene.proven().is_ok(), "{drives} drives");
        assert!(!scene.dir.path().join("spare").read_dir().unwrap().any(|_| true));
        let away = scene.refused(copy("other"));
        assert_eq!(away.kind, RefusalKind::Unknown, "{away}");
    }
}

#[test]
fn a_refreshed_cartridge_is_retired_and_only_then_written_anew() {
    let mut scene = Scene::new(2, 2, 2);
    let refresh = |numbers: &[usize]| CartridgeOrder::Refresh { barcodes: names(numbers) };
    assert_eq!(scene.done(refresh(&[])), "no cartridge here is due for refresh");
    let blank = scene.refused(refresh(&[2]));
    assert!(blank.text.contains("blank or not ours"), "{blank}");
    // The current cartridge of the set is not appended to: a copy onto itself is none.
    let text = scene.done(refresh(&[1]));
    assert!(text.starts_with("SR0001L9 is retired") && text.contains("SR0002L9"), "{text}");
    let again = scene.refused(refresh(&[1]));
    assert!(again.text.contains("it is on SR0002L9"), "{again}");
    assert!(scene.row(1).detail.contains("may be written from its beginning"));
    assert!(scene.proven().is_ok());

    // No blank is left: a set that is written once gets none, another gets the retired one.
    scene.settings.write_once.insert("weekly".parse().unwrap());
    let full = scene.refused(refresh(&[2]));
    assert!(full.text.contains("needs a blank cartridge"), "{full}");
    assert!(scene.row(1).detail.contains("written once"), "{:?}", scene.row(1));
    scene.settings.write_once.clear();
    let before = scene.row(1).medium;
    let text = scene.done(refresh(&[2]));
    assert!(text.contains("SR0001L9"), "{text}");
    assert_ne!(scene.row(1).medium, before);
    fs::remove_file(scene.file(2)).unwrap();
    assert!(scene.proven().is_ok());
}

#[test]
fn a_retired_cartridge_is_kept_while_what_took_its_place_is_gone() {
    let scene = Scene::new(3, 1, 2);
    scene.done(CartridgeOrder::Refresh { barcodes: names(&[1]) });
    let slots = || scene.library.inventory().unwrap();
    assert_eq!(scene.book().known().released(&slots()).len(), 1);
    let outside = scene.put_away(2);
    assert_eq!(scene.book().known().released(&slots()).len(), 1, "it is in the vault");
    fs::remove_file(outside).unwrap();
    scene.done(CartridgeOrder::Lost { barcodes: names(&[2]) });
    assert_eq!(scene.book().known().released(&slots()).len(), 0);
    assert!(scene.proven().is_ok(), "the old one still has it");
}

#[test]
fn what_cannot_be_read_anywhere_keeps_the_old_cartridge() {
    let mut scene = Scene::new(2, 2, 2);
    scene.settings.refresh_days = NonZeroU32::new(1);
    let path = scene.file(1);
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(8).position(|bytes| bytes == b"SRPACK01").unwrap() + 70;
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    let refusal = scene.refused(CartridgeOrder::Refresh { barcodes: names(&[1]) });
    assert_eq!(refusal.kind, RefusalKind::Damaged);
    assert!(refusal.text.contains("the old one stays"), "{refusal}");
    assert_eq!(scene.book().known().retired.len(), 0);
    assert!(!scene.row(1).detail.contains("due"), "it was written just now");
}

#[test]
fn the_book_survives_a_torn_line_and_is_not_read_over_an_unknown_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(CARTRIDGES_FILE);
    let at = Timestamp(7);
    let vaulted = || What::Vaulted { place: "the safe".to_owned(), contents: None };
    Cartridges::open(&path).unwrap().note(at, "ann", &barcode(1), vaulted()).unwrap();
    let whole = fs::read(&path).unwrap();
    let torn = [whole.as_slice(), &whole[..whole.len() / 2]].concat();
    fs::write(&path, torn).unwrap();
    let book = Cartridges::open(&path).unwrap();
    book.note(at, "ann", &barcode(2), vaulted()).unwrap();
    assert_eq!(Cartridges::open(&path).unwrap().known().left.len(), 2);
    fs::write(&path, [whole.as_slice(), b"{\"what\":\"sold\"}\n"].concat()).unwrap();
    let failed = Cartridges::open(&path).map(drop).unwrap_err();
    assert!(failed.to_string().contains("line 2"), "{failed}");
    assert!(Cartridges::open(Path::new("/nowhere/at/all")).is_err());
}

#[test]
fn a_cartridge_with_packs_that_could_not_be_read_is_due_until_it_is_refreshed() {
    let scene = Scene::new(3, 2, 2);
    scene.done(CartridgeOrder::Copy {
        barcode: barcode(1).to_string(),
        set: "other".parse().unwrap(),
    });
    let flip = |number: usize| {
        let path = scene.file(number);
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.windows(8).position(|bytes| bytes == b"SRPACK01").unwrap() + 70;
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
    };
    // Which of the two is read first is not said; the one that is has the hurt.
    let is_due = |number: usize| scene.row(number).detail.contains("due for refresh: packs on it");
    let (hurt, other) = [(1, 2), (2, 1)]
        .into_iter()
        .find(|(hurt, _)| {
            flip(*hurt);
            assert!(scene.proven().is_ok(), "the other copy has it");
            let due = is_due(*hurt);
            if !due {
                flip(*hurt);
            }
            due
        })
        .unwrap();
    assert!(!scene.row(other).detail.contains("due"));
    let text = scene.done(CartridgeOrder::Refresh { barcodes: Vec::new() });
    let retired = format!("{} is retired", barcode(hurt));
    assert!(text.starts_with(&retired) && text.contains("SR0003L9"), "{text}");
    assert!(!scene.row(3).detail.contains("due"));
    assert!(scene.row(hurt).detail.contains("retired"));
}
