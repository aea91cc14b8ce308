//! What people order and have ordered: tokens, plans, holds and the audit log.

use strongroom_protocol::Timestamp;
use strongroom_protocol::admin::{AuditRow, HoldRow};

use super::{Align, Sheet, section};
use crate::human;
use crate::output::Face;

/// The token on a line of its own, to be copied.
pub(super) fn token(text: &str, expires: Timestamp, face: &Face) -> String {
    let end = human::relative(expires, face.now);
    format!("{}\nexpires {end}; it works once: `strongroom enrol DIR TOKEN`\n", human::text(text))
}

/// Changes first, then what to look at again.
pub(super) fn plan(changes: &[String], warnings: &[String]) -> String {
    let mut text = match changes.is_empty() {
        true => "nothing would change\n".to_owned(),
        false => section(&format!("would change ({})", changes.len()), changes),
    };
    text.push_str(&section(&format!("look again ({})", warnings.len()), warnings));
    text
}

/// Every hold in a row.
pub(super) fn holds(rows: &[HoldRow], face: &Face) -> String {
    let columns = [
        ("HOLD", Align::Left),
        ("PLACED", Align::Left),
        ("BY", Align::Left),
        ("POINTS", Align::Left),
        ("WHY", Align::Flow),
    ];
    let mut sheet = Sheet::new(&columns, "no holds", face);
    for row in rows {
        let points: Vec<String> = row.points.iter().map(|point| point.short()).collect();
        sheet.row([
            row.name.clone(),
            human::moment(row.placed, &face.zone),
            row.by.clone(),
            points.join(" "),
            row.why.clone(),
        ]);
    }
    sheet.finish()
}

/// The records, and whether their chain holds.
pub(super) fn audit(
    checked: u64,
    broken_at: Option<u64>,
    records: &[AuditRow],
    face: &Face,
) -> String {
    let columns = [
        ("#", Align::Right),
        ("AT", Align::Left),
        ("WHO", Align::Left),
        ("ACTION", Align::Left),
        ("SUBJECT", Align::Flow),
        ("DETAIL", Align::Flow),
    ];
    let mut sheet = Sheet::new(&columns, "no records", face);
    for row in records {
        let at = row.at.to_jiff().to_zoned(face.zone.clone());
        sheet.row([
            row.seq.to_string(),
            at.strftime("%Y-%m-%d %H:%M:%S").to_string(),
            row.actor.clone(),
            row.action.clone(),
            row.subject.clone(),
            row.detail.clone(),
        ]);
    }
    let verdict = match broken_at {
        Some(seq) => format!("THE CHAIN IS BROKEN at record {seq}: the log was changed\n"),
        None => format!("{} records checked: the chain holds\n", human::count(checked)),
    };
    format!("{}{verdict}", sheet.finish())
}
