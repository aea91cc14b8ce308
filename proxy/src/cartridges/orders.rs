//! Orders of operators about cartridges, carried out one at a time while nobody else has the
//! drives. Everything that can be refused is refused before anything moves; what moves is in the
//! book first.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use strongroom_node::home::MediaSettings;
use strongroom_protocol::admin::{CartridgeOrder, Response};
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Clock, MediaSetName, MediumId, Timestamp};
use strongroom_store::media::{Health, MediaReader, MediumInfo, what_is_on};
use strongroom_store::repo::Repo;
use strongroom_store::tape::{Barcode, MailSlot, Slot, TapeLibrary};

use super::{Cartridges, Contents, Known, What, unavailable};
use crate::expire::MediaKeeper;

mod list;
mod renew;

/// Longest name of a place, in characters.
const PLACE_CHARACTERS_MAX: usize = 200;

pub(super) type Answer<T> = Result<T, Refusal>;

fn invalid(text: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::Invalid, text)
}

/// What orders about cartridges are carried out with.
pub(crate) struct Keeping {
    pub(crate) repo: Repo,
    pub(crate) library: Arc<dyn TapeLibrary>,
    pub(crate) book: Arc<Cartridges>,
    /// What was let go on media.
    pub(crate) keeper: Arc<MediaKeeper>,
    pub(crate) settings: MediaSettings,
    pub(crate) clock: Arc<dyn Clock>,
    /// Where what is read waits to be written, where there is one drive.
    pub(crate) spare: PathBuf,
    /// Who orders.
    pub(crate) by: String,
}

/// Carries out one order. Blocking; the caller has the drives.
///
/// # Errors
/// Refused, with what is in its way; or a part of it failed, and the rest is done.
pub(crate) fn carry_out(keeping: &Keeping, order: CartridgeOrder) -> Answer<Response> {
    match order {
        CartridgeOrder::List => keeping.list().map(Response::Cartridges),
        CartridgeOrder::Export { barcodes } => keeping.export(&barcodes).map(Response::Done),
        CartridgeOrder::Import => keeping.import().map(Response::Done),
        CartridgeOrder::Vault { barcodes, place } => {
            let place = place.trim().to_owned();
            let is_named = !place.is_empty()
                && place.chars().count() <= PLACE_CHARACTERS_MAX
                && !place.chars().any(char::is_control);
            if !is_named {
                let text = format!("a place has 1 to {PLACE_CHARACTERS_MAX} characters, in a line");
                return Err(invalid(text));
            }
            let words = format!("in {place}");
            let what = |contents| What::Vaulted { place: place.clone(), contents };
            keeping.leave(&barcodes, &words, &what).map(Response::Done)
        }
        CartridgeOrder::Lost { barcodes } => {
            let what = |contents| What::Lost { contents };
            keeping
                .leave(&barcodes, "lost: what lay only there is owed again", &what)
                .map(Response::Done)
        }
        CartridgeOrder::Copy { barcode, set } => keeping.copy(&barcode, &set).map(Response::Done),
        CartridgeOrder::Refresh { barcodes } => keeping.refresh(&barcodes).map(Response::Done),
    }
}

/// The library as it is.
struct Look {
    slots: Vec<Slot>,
    mail: Vec<MailSlot>,
    known: Known,
}

impl Look {
    fn slot(&self, barcode: &Barcode) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.barcode.as_ref() == Some(barcode))
    }

    fn mail(&self, barcode: &Barcode) -> Option<u32> {
        let mail = self.mail.iter().find(|mail| mail.barcode == *barcode);
        mail.map(|mail| mail.slot)
    }

    fn unknown(&self, barcode: &Barcode) -> Refusal {
        let here = self.slots.iter().filter_map(|slot| slot.barcode.as_ref());
        let here: Vec<&str> = here.map(Barcode::as_str).collect();
        let text =
            format!("no cartridge {barcode} is known here; in the library: {}", here.join(" "));
        Refusal::new(RefusalKind::Unknown, text)
    }
}

impl Keeping {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn look(&self) -> Answer<Look> {
        let known = self.book.look(&*self.library, self.now())?;
        let slots = self.library.inventory().map_err(|error| unavailable(&error))?;
        let mail = self.library.mail().map_err(|error| unavailable(&error))?;
        Ok(Look { slots, mail, known })
    }

    fn reader(&self) -> Answer<MediaReader> {
        MediaReader::open(Arc::clone(&self.library)).map_err(|error| unavailable(&error))
    }

    fn note(&self, barcode: &Barcode, what: What) -> Answer<()> {
        self.book.note(self.now(), &self.by, barcode, what)
    }

    /// To mail slots, each with what it holds noted before it moves.
    fn export(&self, barcodes: &[String]) -> Answer<String> {
        let barcodes = parsed(barcodes)?;
        let look = self.look()?;
        for barcode in &barcodes {
            if let Some(mail) = look.mail(barcode) {
                return Err(invalid(format!("cartridge {barcode} is at mail slot {mail} already")));
            }
            if let (None, Some(left)) = (look.slot(barcode), look.known.left.get(barcode)) {
                let since = left.at;
                return Err(invalid(format!("cartridge {barcode} left the library at {since}")));
            }
            look.slot(barcode).ok_or_else(|| look.unknown(barcode))?;
        }
        let mut done = Vec::new();
        for barcode in &barcodes {
            let moved = self.export_one(barcode);
            let slot = moved.map_err(|refusal| after(&done, refusal))?;
            done.push(format!("{barcode} is at mail slot {slot}"));
        }
        Ok(format!("{}; say where you take them with `media vault`", done.join("; ")))
    }

    fn export_one(&self, barcode: &Barcode) -> Answer<u32> {
        let what = what_is_on(&*self.library, barcode).map_err(|error| unavailable(&error))?;
        self.note(barcode, What::Exported { contents: what.map(Contents::from) })?;
        self.library.export(barcode).map_err(|error| unavailable(&error))
    }

    fn import(&self) -> Answer<String> {
        let came = self.library.import().map_err(|error| unavailable(&error))?;
        self.look()?;
        let came: Vec<&str> = came.iter().map(Barcode::as_str).collect();
        Ok(match came.is_empty() {
            true => "nothing lies in the mail slots".to_owned(),
            false => format!("came in: {}", came.join(" ")),
        })
    }

    /// Notes that cartridges are not in the library any more.
    fn leave(
        &self,
        barcodes: &[String],
        words: &str,
        what: &dyn Fn(Option<Contents>) -> What,
    ) -> Answer<String> {
        let barcodes = parsed(barcodes)?;
        let look = self.look()?;
        let mut told = None;
        let mut noted = Vec::new();
        for barcode in barcodes {
            if let Some(slot) = look.slot(&barcode) {
                let text = format!("cartridge {barcode} is in slot {}: export it first", slot.slot);
                return Err(invalid(text));
            }
            if let Some(mail) = look.mail(&barcode) {
                let text =
                    format!("cartridge {barcode} lies in mail slot {mail}: take it out first");
                return Err(invalid(text));
            }
            let contents = match look.known.left.contains_key(&barcode) {
                // What it held when it left is known.
                true => None,
                false => {
                    let reader = match told.take() {
                        Some(reader) => reader,
                        None => self.reader()?,
                    };
                    let contents = by_others(&reader, &barcode);
                    told = Some(reader);
                    Some(contents.ok_or_else(|| look.unknown(&barcode))?)
                }
            };
            noted.push((barcode, contents));
        }
        for (barcode, contents) in &noted {
            self.note(barcode, what(contents.clone()))?;
        }
        let names: Vec<&str> = noted.iter().map(|(barcode, _)| barcode.as_str()).collect();
        Ok(format!("{}: {words}", names.join(" ")))
    }
}

/// What other cartridges say of one that is not here.
fn by_others(reader: &MediaReader, barcode: &Barcode) -> Option<Contents> {
    let absent = |medium: &MediumInfo| medium.health == Health::Absent;
    let info =
        reader.media().into_iter().find(|medium| absent(medium) && medium.barcode == *barcode)?;
    let points = reader.held().points.iter();
    let on_it = points.filter(|(_, held)| held.places.iter().any(|at| at.medium == info.medium));
    Some(Contents::of(&info, on_it.map(|(point, _)| *point).collect()))
}

fn parsed(barcodes: &[String]) -> Answer<BTreeSet<Barcode>> {
    if barcodes.is_empty() {
        return Err(invalid("name at least one cartridge by its barcode"));
    }
    barcodes.iter().map(|text| text.parse().map_err(|error| invalid(format!("{error}")))).collect()
}

impl Known {
    /// Media whose cartridges may be written from the beginning: lapsed, or retired, and what
    /// took their place is neither gone nor lost.
    pub(crate) fn released(&self, slots: &[Slot]) -> BTreeSet<MediumId> {
        let is_there = |barcode: &Barcode| {
            let in_slot = slots.iter().any(|slot| slot.barcode.as_ref() == Some(barcode));
            in_slot || self.left.get(barcode).is_some_and(super::Left::can_be_fetched)
        };
        let retired = self.retired.iter();
        let retired =
            retired.filter(|(_, onto)| onto.iter().all(is_there)).map(|(medium, _)| *medium);
        retired.chain(self.lapsed.iter().copied()).collect()
    }

    /// The same, for a set: none where it is written once.
    pub(crate) fn released_for(
        &self,
        set: &MediaSetName,
        settings: &MediaSettings,
        slots: &[Slot],
    ) -> BTreeSet<MediumId> {
        match settings.write_once.contains(set) {
            true => BTreeSet::new(),
            false => self.released(slots),
        }
    }
}

/// What was done before it failed belongs to the answer.
fn after(done: &[String], refusal: Refusal) -> Refusal {
    match done.is_empty() {
        true => refusal,
        false => Refusal::new(refusal.kind, format!("{}; but {}", done.join("; "), refusal.text)),
    }
}
