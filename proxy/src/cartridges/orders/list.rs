//! Every cartridge that is known here, and where it is. Loads each once, as every look at media.

use strongroom_protocol::Timestamp;
use strongroom_protocol::admin::{CartridgeRow, Whereabouts};
use strongroom_store::media::{Health, MediumInfo};
use strongroom_store::tape::Barcode;

use super::{Answer, Keeping, Look};
use crate::cartridges::{Contents, Known, Left};

const DAY_SECONDS: i64 = 86_400;

impl Keeping {
    pub(super) fn list(&self) -> Answer<Vec<CartridgeRow>> {
        let look = self.look()?;
        let mut media = self.reader()?.media();
        // One whose cartridge was written anew is no more, whatever older catalogs say of it.
        media.retain(|medium| {
            medium.health != Health::Absent
                || !look.known.retired.contains_key(&medium.medium)
                || look.known.left(medium.medium, &medium.barcode).is_some()
        });
        let mut rows: Vec<CartridgeRow> =
            media.iter().map(|medium| self.row(&look, medium)).collect();
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

    fn row(&self, look: &Look, medium: &MediumInfo) -> CartridgeRow {
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
