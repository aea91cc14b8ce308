//! Cartridges: what each is, and where.

use strongroom_protocol::admin::{CartridgeRow, Whereabouts};

use super::{Align, Sheet};
use crate::human;
use crate::output::Face;

/// Every cartridge in a row.
pub(super) fn table(rows: &[CartridgeRow], face: &Face) -> String {
    let columns = [
        ("BARCODE", Align::Left),
        ("SET", Align::Left),
        ("SEQ", Align::Right),
        ("POINTS", Align::Right),
        ("USED", Align::Right),
        ("WRITTEN", Align::Left),
        ("WHERE", Align::Flow),
        ("DETAIL", Align::Flow),
    ];
    let mut sheet = Sheet::new(&columns, "no cartridges", face);
    for row in rows {
        let known = row.set.is_some();
        let number = |number: u32| if known { number.to_string() } else { "-".to_owned() };
        sheet.row([
            row.barcode.clone(),
            row.set.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            number(row.sequence),
            number(row.points),
            human::bytes(row.used_bytes),
            row.written.map_or_else(|| "-".to_owned(), |at| human::moment(at, &face.zone)),
            whereabouts(&row.whereabouts, face),
            row.detail.clone(),
        ]);
    }
    sheet.finish()
}

fn whereabouts(whereabouts: &Whereabouts, face: &Face) -> String {
    let at = |since: &_| human::moment(*since, &face.zone);
    match whereabouts {
        Whereabouts::Slot { slot } => format!("slot {slot}"),
        Whereabouts::Drive { drive } => format!("in drive {drive}"),
        Whereabouts::Mail { slot } => format!("mail slot {slot}"),
        Whereabouts::Out { since } => format!("taken out after {}", at(since)),
        Whereabouts::Vault { place, since } => format!("vault: {place}, since {}", at(since)),
        Whereabouts::Lost { since } => format!("lost, since {}", at(since)),
        Whereabouts::Unknown => "not here; nobody said where".to_owned(),
    }
}
