//! Drills: what was recovered, how long that took, and how old it was.

use strongroom_protocol::admin::DrillRow;

use super::{Align, Sheet, when};
use crate::human;
use crate::output::Face;

/// Every drill in a row.
pub(super) fn drills(rows: &[DrillRow], face: &Face) -> String {
    let columns = [
        ("DRILL", Align::Left),
        ("WORKLOAD", Align::Left),
        ("POINT", Align::Left),
        ("COPY", Align::Left),
        ("BEGAN", Align::Left),
        ("RECOVERED IN", Align::Right),
        ("POINT'S AGE", Align::Right),
        ("LEVEL", Align::Left),
        ("VERDICT", Align::Left),
        ("DETAIL", Align::Flow),
    ];
    let mut sheet = Sheet::new(&columns, "no drills", face);
    for row in rows {
        sheet.row([
            row.job.short(),
            row.workload.to_string(),
            row.point.short(),
            row.copy.to_string(),
            when(Some(row.began), face),
            recovery(row),
            human::duration(row.point_age_seconds),
            if row.verdict == "held" { row.level.clone() } else { "-".to_owned() },
            row.verdict.clone(),
            row.detail.clone(),
        ]);
    }
    sheet.finish()
}

/// What the recovery took, and what was wanted where that is less.
fn recovery(row: &DrillRow) -> String {
    // What did not hold recovered nothing.
    let took_ms = row.recovery_ms.filter(|_| row.verdict == "held");
    let Some(took_ms) = took_ms else { return "-".to_owned() };
    let took = match took_ms {
        ..60_000 => format!("{:.1} s", took_ms as f64 / 1000.0),
        _ => human::duration(took_ms / 1000),
    };
    match row.recovery_seconds_max.filter(|most| took_ms > most.saturating_mul(1000)) {
        Some(most) => format!("{took}, {} wanted", human::duration(most)),
        None => took,
    }
}
