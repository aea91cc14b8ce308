//! A SCSI library: an arm, slots, mail slots and drives. Promises that the map is read anew
//! before every move, so that a library that forgot it, or an operator who changed it, costs
//! nothing but the look. Refuses cleaning cartridges for data, and whatever is in a mail slot
//! until it is imported.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::tape::scsi::bays::{Bay, CHANGER, TAPE_DRIVE, discover, match_bays};
use crate::tape::scsi::changer::{elements, initialize, is_cleaning, move_medium};
use crate::tape::scsi::iscsi::Iscsi;
use crate::tape::scsi::sg::Sg;
use crate::tape::scsi::unit::{ScsiError, Unit};
use crate::tape::scsi::{Element, ElementKind, LibraryAddress, ScsiDrive, Transport, UnitAddress};
use crate::tape::virtual_drive::{Seat, Seats};
use crate::tape::{Barcode, Drive, MailSlot, Slot, TapeError, TapeLibrary};

/// How units are reached; another than the usual one injects faults.
pub type Connect =
    Arc<dyn Fn(&UnitAddress) -> io::Result<Box<dyn Transport>> + Send + Sync + 'static>;

/// A library with its drives.
pub struct ScsiLibrary {
    connect: Connect,
    changer: UnitAddress,
    /// The arm: one move at a time, so it is held while it moves. None after a lost session.
    arm: Mutex<Option<Unit>>,
    bays: Vec<Bay>,
    seats: Seats,
}

impl fmt::Debug for ScsiLibrary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScsiLibrary").field("bays", &self.bays).finish_non_exhaustive()
    }
}

impl ScsiLibrary {
    /// Opens a library and finds out which element each drive is.
    pub fn open(address: &LibraryAddress) -> Result<Self, TapeError> {
        Self::open_with(address, Arc::new(connect))
    }

    /// As [`ScsiLibrary::open`], with another way to reach units.
    pub fn open_with(address: &LibraryAddress, connect: Connect) -> Result<Self, TapeError> {
        let (changer, drives) = match address {
            LibraryAddress::Units { changer, drives } => (changer.clone(), drives.clone()),
            LibraryAddress::Iscsi(target) => discover(target, &connect)?,
        };
        let mut arm = reach(&connect, &changer)?;
        let found = arm.identity()?;
        if found.kind != CHANGER {
            return Err(arm.unusable("it is no media changer").into());
        }
        arm.ready()?;
        let places = elements(&mut arm, ElementKind::DataTransfer)?;
        let mut named = Vec::new();
        for unit in drives {
            let mut drive = reach(&connect, &unit)?;
            let identity = drive.identity()?;
            if identity.kind != TAPE_DRIVE {
                return Err(drive.unusable("it is no tape drive").into());
            }
            named.push((unit, identity));
        }
        let bays = match_bays(&places, named);
        if bays.is_empty() {
            return Err(arm.unusable("the library has no drive for any of the units named").into());
        }
        tracing::info!(vendor = found.vendor, product = found.product, ?bays, "library opened");
        let seats = Arc::new(Mutex::new(vec![None; bays.len()]));
        Ok(Self { connect, changer, arm: Mutex::new(Some(arm)), bays, seats })
    }

    /// Every element: slots, mail slots and drives.
    pub fn elements(&self) -> Result<Vec<Element>, TapeError> {
        let mut arm = self.arm();
        self.with_arm(&mut arm, map)
    }

    /// Has the library look at its slots again, after somebody filled them by hand.
    pub fn rescan(&self) -> Result<(), TapeError> {
        let mut arm = self.arm();
        self.with_arm(&mut arm, initialize)
    }

    /// Moves a cartridge to a mail slot, to be taken to a vault; the mail slot's address.
    pub fn export(&self, barcode: &Barcode) -> Result<u16, TapeError> {
        let mut arm = self.arm();
        let places = self.with_arm(&mut arm, map)?;
        let from = self.place_of(&places, barcode)?;
        self.refuse_seated(barcode)?;
        let mail = empty(&places, ElementKind::ImportExport).ok_or_else(|| {
            let barcode = barcode.clone();
            match places.iter().any(|place| place.kind == ElementKind::ImportExport) {
                true => TapeError::MailSlotsFull { barcode },
                false => TapeError::NoMailSlot { barcode, slot: u32::from(from.address) },
            }
        })?;
        if let Some(bay) = self.bays.iter().find(|bay| bay.element == from.address) {
            ScsiDrive::eject(&mut reach(&self.connect, &bay.unit)?)?;
        }
        self.carry(&mut arm, &places, from.address, mail)?;
        Ok(mail)
    }

    /// Moves what lies in the mail slots into empty slots; what came in.
    pub fn import(&self) -> Result<Vec<Barcode>, TapeError> {
        let mut arm = self.arm();
        let mut places = self.with_arm(&mut arm, map)?;
        let mut came = Vec::new();
        let mail: Vec<Element> = places
            .iter()
            .filter(|place| place.kind == ElementKind::ImportExport && place.full)
            .cloned()
            .collect();
        for Element { address, barcode, .. } in mail {
            let Some(barcode) = barcode else { continue };
            let Some(slot) = empty(&places, ElementKind::Storage) else {
                return Err(TapeError::SlotTaken { barcode });
            };
            self.carry(&mut arm, &places, address, slot)?;
            if let Some(place) = places.iter_mut().find(|place| place.address == slot) {
                place.full = true;
            }
            came.push(barcode);
        }
        Ok(came)
    }

    fn arm(&self) -> MutexGuard<'_, Option<Unit>> {
        self.arm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the arm something that may be asked twice: a lost session is begun anew once.
    fn with_arm<T>(
        &self,
        arm: &mut Option<Unit>,
        ask: impl Fn(&mut Unit) -> Result<T, ScsiError>,
    ) -> Result<T, TapeError> {
        if let Some(unit) = arm {
            match ask(unit) {
                Err(ScsiError::Unreachable { .. }) => *arm = None,
                other => return Ok(other?),
            }
        }
        let mut unit = reach(&self.connect, &self.changer)?;
        let asked = ask(&mut unit);
        *arm = Some(unit);
        Ok(asked?)
    }

    fn carry(
        &self,
        arm: &mut Option<Unit>,
        places: &[Element],
        from: u16,
        to: u16,
    ) -> Result<(), TapeError> {
        let hand = places.iter().find(|place| place.kind == ElementKind::Transport);
        let hand = hand.map_or(0, |hand| hand.address);
        let unit = arm.as_mut();
        let unreachable = || ScsiError::Unreachable {
            unit: self.changer.to_string(),
            command: "MOVE MEDIUM",
            source: io::ErrorKind::NotConnected.into(),
        };
        let moved = move_medium(unit.ok_or_else(unreachable)?, hand, from, to);
        // A move whose answer was lost may have happened: the next look at the map tells.
        if matches!(moved, Err(ScsiError::Unreachable { .. })) {
            *arm = None;
        }
        Ok(moved?)
    }

    fn place_of(&self, places: &[Element], barcode: &Barcode) -> Result<Element, TapeError> {
        let reachable = |place: &&Element| match place.kind {
            ElementKind::Storage => true,
            ElementKind::DataTransfer => self.bay_at(place.address).is_some(),
            ElementKind::Transport | ElementKind::ImportExport => false,
        };
        let found = places.iter().filter(reachable).find(|p| p.barcode.as_ref() == Some(barcode));
        found.cloned().ok_or_else(|| TapeError::NoSuchCartridge { barcode: barcode.clone() })
    }

    fn bay_at(&self, element: u16) -> Option<usize> {
        self.bays.iter().position(|bay| bay.element == element)
    }

    fn seats(&self) -> MutexGuard<'_, Vec<Option<Barcode>>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuse_seated(&self, barcode: &Barcode) -> Result<(), TapeError> {
        match self.seats().iter().flatten().any(|seated| seated == barcode) {
            true => Err(TapeError::DriveBusy { barcode: barcode.clone() }),
            false => Ok(()),
        }
    }

    /// A drive nobody uses, an empty one first, and what is in it.
    fn free_bay(&self, places: &[Element]) -> Option<(usize, bool)> {
        let seats = self.seats();
        let free = seats.iter().enumerate().filter(|(_, seat)| seat.is_none());
        let full = |bay: usize| {
            let mut there = places.iter().filter(|place| place.address == self.bays[bay].element);
            there.any(|place| place.full)
        };
        free.map(|(bay, _)| (bay, full(bay))).min_by_key(|(bay, full)| (*full, *bay))
    }

    /// Takes a cartridge out of a drive and back to where it came from.
    fn clear(
        &self,
        arm: &mut Option<Unit>,
        places: &[Element],
        bay: usize,
    ) -> Result<(), TapeError> {
        let Bay { element, unit } = &self.bays[bay];
        let Some(held) = places.iter().find(|place| place.address == *element && place.full) else {
            return Ok(());
        };
        ScsiDrive::eject(&mut reach(&self.connect, unit)?)?;
        let empty_slot = |address: &u16| {
            let mut slots = places.iter().filter(|place| place.kind == ElementKind::Storage);
            slots.any(|slot| slot.address == *address && !slot.full)
        };
        let home = held.source.filter(empty_slot);
        let home = home.or_else(|| empty(places, ElementKind::Storage));
        let home = home.ok_or_else(|| match &held.barcode {
            Some(barcode) => TapeError::SlotTaken { barcode: barcode.clone() },
            None => ScsiError::Unusable {
                unit: self.changer.to_string(),
                reason: format!("no slot is empty for the cartridge in drive {element}"),
            }
            .into(),
        })?;
        self.carry(arm, places, *element, home)
    }
}

impl TapeLibrary for ScsiLibrary {
    /// Cleaning cartridges and what lies in mail slots are not listed.
    fn inventory(&self) -> Result<Vec<Slot>, TapeError> {
        let places = self.elements()?;
        let mut slots: Vec<Slot> = Vec::new();
        for place in places.iter().filter(|place| place.kind == ElementKind::Storage) {
            let barcode = place.barcode.clone().filter(|barcode| !is_cleaning(barcode));
            slots.push(Slot { slot: u32::from(place.address), barcode, loaded_in: None });
        }
        for place in places.iter().filter(|place| place.full && !place.is_cleaning()) {
            let Some(bay) = self.bay_at(place.address) else { continue };
            let home = u32::from(place.source.unwrap_or(place.address));
            let (barcode, loaded_in) = (place.barcode.clone(), u32::try_from(bay).ok());
            let empty = |slot: &&mut Slot| slot.slot == home && slot.barcode.is_none();
            match slots.iter_mut().find(empty) {
                Some(slot) => (slot.barcode, slot.loaded_in) = (barcode, loaded_in),
                None => slots.push(Slot { slot: u32::from(place.address), barcode, loaded_in }),
            }
        }
        slots.sort_by_key(|slot| slot.slot);
        Ok(slots)
    }

    fn load(&self, barcode: &Barcode) -> Result<Box<dyn Drive>, TapeError> {
        if is_cleaning(barcode) {
            return Err(TapeError::CleaningCartridge { barcode: barcode.clone() });
        }
        let mut arm = self.arm();
        let mut places = self.with_arm(&mut arm, map)?;
        let place = self.place_of(&places, barcode)?;
        self.refuse_seated(barcode)?;
        let bay = match self.bay_at(place.address) {
            Some(bay) => bay,
            None => {
                let busy = || TapeError::DriveBusy { barcode: barcode.clone() };
                let (bay, full) = self.free_bay(&places).ok_or_else(busy)?;
                if full {
                    self.clear(&mut arm, &places, bay)?;
                    places = self.with_arm(&mut arm, map)?;
                }
                self.carry(&mut arm, &places, place.address, self.bays[bay].element)?;
                bay
            }
        };
        self.seats()[bay] = Some(barcode.clone());
        let seat = Seat { seats: Arc::clone(&self.seats), drive: bay };
        drop(arm);
        let unit = reach(&self.connect, &self.bays[bay].unit)?;
        Ok(Box::new(ScsiDrive::open(unit, barcode.clone(), seat)?))
    }

    fn unload(&self, mut drive: Box<dyn Drive>) -> Result<(), TapeError> {
        drive.flush()?;
        let seat = self.seats().iter().position(|seat| seat.as_ref() == Some(drive.barcode()));
        let mut arm = self.arm();
        // Its session ends, and with it its hold on the drive, before another one ejects.
        drop(drive);
        let places = self.with_arm(&mut arm, map)?;
        seat.map_or(Ok(()), |bay| self.clear(&mut arm, &places, bay))
    }

    fn drives(&self) -> usize {
        self.bays.len()
    }

    fn mail(&self) -> Result<Vec<MailSlot>, TapeError> {
        let places = self.elements()?.into_iter();
        let mail = places.filter(|place| place.kind == ElementKind::ImportExport);
        let full = mail.filter_map(|place| {
            Some(MailSlot { slot: u32::from(place.address), barcode: place.barcode? })
        });
        Ok(full.collect())
    }

    fn export(&self, barcode: &Barcode) -> Result<u32, TapeError> {
        Self::export(self, barcode).map(u32::from)
    }

    fn import(&self) -> Result<Vec<Barcode>, TapeError> {
        Self::import(self)
    }
}

/// A unit by device file or over the network, as its address says.
pub fn connect(address: &UnitAddress) -> io::Result<Box<dyn Transport>> {
    Ok(match address {
        UnitAddress::Iscsi(address) => Box::new(Iscsi::connect(address)?),
        UnitAddress::Sg(path) => Box::new(Sg::open(path)?),
    })
}

pub(super) fn reach(connect: &Connect, address: &UnitAddress) -> Result<Unit, ScsiError> {
    let unreachable = |source| ScsiError::Unreachable {
        unit: address.to_string(),
        command: "connecting",
        source,
    };
    connect(address).map(Unit::new).map_err(unreachable)
}

fn map(arm: &mut Unit) -> Result<Vec<Element>, ScsiError> {
    let mut places = Vec::new();
    for kind in [
        ElementKind::Transport,
        ElementKind::Storage,
        ElementKind::ImportExport,
        ElementKind::DataTransfer,
    ] {
        places.extend(elements(arm, kind)?);
    }
    Ok(places)
}

fn empty(places: &[Element], kind: ElementKind) -> Option<u16> {
    places.iter().find(|place| place.kind == kind && !place.full).map(|place| place.address)
}
