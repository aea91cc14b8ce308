//! Every cartridge that is known here, and where it is. Loads each once, as every look at media.

use std::collections::BTreeSet;

use strongroom_protocol::admin::{CartridgeRow, Whereabouts};
use strongroom_protocol::{MediaSetName, MediumId, Timestamp};
use strongroom_store::media::{Health, MediaReader, MediumInfo};
use strongroom_store::tape::Barcode;

use super::{Answer, Keeping, Look};
use crate::aux::first_lane;
use crate::cartridges::{Contents, Known, Left};

const DAY_SECONDS: i64 = 86_400;

impl Keeping {
    pub(super) fn list(&self) -> Answer<Vec<CartridgeRow>> {
        let look = self.look()?;
        let reader = self.reader()?;
        let mut media = reader.media();
        let lapsed = self.lapsed(&look.known, &reader, &media);
        // One whose cartridge was written anew is no more, whatever older catalogs say of it.
        let known = &look.known;
        media.retain(|medium| {
            let was_released =
                known.retired.contains_key(&medium.medium) || known.lapsed.contains(&medium.medium);
            medium.health != Health::Absent
                || !was_released
                || known.left(medium.medium, &medium.barcode).is_some()
        });
        let mut rows: Vec<CartridgeRow> = media
            .iter()
            .map(|medium| self.row(&look, medium, lapsed.contains(&medium.medium)))
            .collect();
        let is_told = |rows: &[CartridgeRow], barcode: &Barcode| {
            rows.iter().any(|row| row.barcode == barcode.as_str())
        };
        for slot in &look.slots {
            let Some(barcode) = &slot.barcode else { continue };
            if !is_told(&rows, barcode) {
                let detail = "blank, or not ours".to_owned();
                rows.push(bare(barcode, look.here(barcode), detail));
            }
        }
        for (barcode, left) in &look.known.left {
            if !is_told(&rows, barcode) {
                rows.push(of_left(&look, barcode, left));
            }
        }
        for mail in &look.mail {
            if !is_told(&rows, &mail.barcode) {
                rows.push(bare(&mail.barcode, look.here(&mail.barcode), String::new()));
            }
        }
        Ok(rows)
    }

    /// Media on which nothing is kept any more.
    fn lapsed(
        &self,
        known: &Known,
        reader: &MediaReader,
        media: &[MediumInfo],
    ) -> BTreeSet<MediumId> {
        let mut all = known.lapsed.clone();
        let sets: BTreeSet<&MediaSetName> = media.iter().map(|medium| &medium.set).collect();
        for set in sets {
            let points = self.keeper.released(&first_lane(set));
            let of_set = |info: &MediumInfo| info.set == *set && info.repo == self.repo.id();
            all.extend(known.lapsed_on(set, &points).media(reader, of_set));
        }
        all
    }

    fn row(&self, look: &Look, medium: &MediumInfo, has_lapsed: bool) -> CartridgeRow {
        let MediumInfo {
            medium: id, barcode, set, sequence, points, bytes, written, health, ..
        } = medium;
        let absent = *health == Health::Absent;
        let left = look.known.left(*id, barcode).map(Left::whereabouts);
        let whereabouts = match (absent, look.mail(barcode)) {
            (false, _) => look.here(barcode),
            (true, Some(slot)) => Whereabouts::Mail { slot },
            (true, None) => left.unwrap_or(Whereabouts::Unknown),
        };
        let mut words = vec![health_in_words(*health).to_owned()];
        if let Some(onto) = look.known.retired.get(id) {
            let onto: Vec<&str> = onto.iter().map(Barcode::as_str).collect();
            let next = match self.settings.write_once.contains(set) {
                true => "is written once and may be taken away for good",
                false => "may be written from its beginning",
            };
            words.push(format!("retired: all of it is on {}; {next}", onto.join(" ")));
        } else if has_lapsed {
            let next = match (self.settings.write_once.contains(&first_lane(set)), absent) {
                (true, _) => "is written once and may be taken away for good",
                (false, true) => "may be brought back to be written from its beginning",
                (false, false) => "may be written from its beginning",
            };
            words.push(format!("past its time: no reason keeps anything on it; {next}"));
        } else if let Some(why) = self.due(&look.known, medium) {
            words.push(format!("due for refresh: {why}"));
        }
        words.retain(|word| !word.is_empty());
        CartridgeRow {
            barcode: barcode.to_string(),
            medium: Some(*id),
            set: Some(set.clone()),
            sequence: *sequence,
            points: u32::try_from(*points).unwrap_or(u32::MAX),
            used_bytes: *bytes,
            written: Some(*written),
            whereabouts,
            detail: words.join("; "),
        }
    }

    /// Why a cartridge that is here should be copied to a younger one.
    pub(super) fn due(&self, known: &Known, medium: &MediumInfo) -> Option<String> {
        match medium.health {
            Health::LabelDamaged => return Some("its label cannot be read".to_owned()),
            Health::CatalogDamaged => return Some("its catalog cannot be read".to_owned()),
            Health::Absent => return None,
            _ => {}
        }
        if let Some(at) = known.flawed.get(&medium.barcode) {
            return Some(format!("packs on it could not be read at {at}"));
        }
        let days = i64::from(self.settings.refresh_days?.get());
        let age = self.now().seconds_since(medium.written) / DAY_SECONDS;
        (medium.written > Timestamp(0) && age >= days)
            .then(|| format!("its label was written {age} days ago"))
    }
}

const fn health_in_words(health: Health) -> &'static str {
    match health {
        Health::Sound => "sound",
        Health::Interrupted => "sound, a session broke off",
        Health::LabelDamaged => "label damaged",
        Health::CatalogDamaged => "catalog damaged",
        _ => "",
    }
}

impl Look {
    /// Where a cartridge is that an inventory met.
    fn here(&self, barcode: &Barcode) -> Whereabouts {
        match (self.slot(barcode), self.mail(barcode)) {
            (Some(slot), _) => match slot.loaded_in {
                Some(drive) => Whereabouts::Drive { drive },
                None => Whereabouts::Slot { slot: slot.slot },
            },
            (None, Some(slot)) => Whereabouts::Mail { slot },
            (None, None) => Whereabouts::Unknown,
        }
    }
}

fn bare(barcode: &Barcode, whereabouts: Whereabouts, detail: String) -> CartridgeRow {
    CartridgeRow {
        barcode: barcode.to_string(),
        medium: None,
        set: None,
        sequence: 0,
        points: 0,
        used_bytes: 0,
        written: None,
        whereabouts,
        detail,
    }
}

fn of_left(look: &Look, barcode: &Barcode, left: &Left) -> CartridgeRow {
    let mail = look.mail(barcode).map(|slot| Whereabouts::Mail { slot });
    let row = bare(barcode, mail.unwrap_or_else(|| left.whereabouts()), String::new());
    let Some(contents) = &left.contents else { return row };
    let Contents { medium, set, sequence, written, used_bytes, points } = contents;
    CartridgeRow {
        medium: Some(*medium),
        set: Some(set.clone()),
        sequence: *sequence,
        points: u32::try_from(points.len()).unwrap_or(u32::MAX),
        used_bytes: *used_bytes,
        written: Some(*written),
        detail: "as it was when it left".to_owned(),
        ..row
    }
}
