//! Points: the list with the state of every copy, and why each is kept.

use strongroom_protocol::admin::{CopyRow, PointRow, VerdictRow, WhyReport};

use super::{Align, Sheet, section, when};
use crate::human;
use crate::output::Face;

/// Every point in a row.
pub(super) fn points(rows: &[PointRow], face: &Face) -> String {
    let columns = [
        ("POINT", Align::Left),
        ("WORKLOAD", Align::Left),
        ("MOMENT", Align::Left),
        ("CONSISTENCY", Align::Left),
        ("FILES", Align::Right),
        ("SIZE", Align::Right),
        ("NEW", Align::Right),
        ("GAPS", Align::Right),
        ("COPIES", Align::Flow),
    ];
    let mut sheet = Sheet::new(&columns, "no points yet", face);
    for row in rows {
        let copies: Vec<String> = row.copies.iter().map(copy_in_brief).collect();
        sheet.row([
            row.id.short(),
            row.workload.to_string(),
            human::moment(row.moment, &face.zone),
            row.consistency.clone(),
            human::count(row.files),
            human::bytes(row.bytes),
            human::bytes(row.stored_bytes),
            row.gaps.to_string(),
            copies.join(" "),
        ]);
    }
    sheet.finish()
}

/// `tape` where it is present and proven, else the copy with what it is.
fn copy_in_brief(copy: &CopyRow) -> String {
    match (copy.state.as_str(), copy.proof.as_str()) {
        ("present", "" | "none") => copy.copy.to_string(),
        ("present", proof) => format!("{}({proof})", copy.copy),
        (state, _) => format!("{}:{state}", copy.copy),
    }
}

/// Where a point is, copy by copy, and why.
pub(super) fn why(report: &WhyReport, face: &Face) -> String {
    let row = &report.point;
    let mut text = format!(
        "point {} of {}\n  moment    {} ({})\n  content   {} files, {}; {} stored anew\n",
        row.id,
        row.workload,
        human::moment(row.moment, &face.zone),
        human::relative(row.moment, face.now),
        human::count(row.files),
        human::bytes(row.bytes),
        human::bytes(row.stored_bytes),
    );
    let columns = [
        ("COPY", Align::Left),
        ("KIND", Align::Left),
        ("STATE", Align::Left),
        ("PROOF", Align::Left),
        ("PROVEN", Align::Left),
        ("SIZE", Align::Right),
        ("TOOK", Align::Right),
        ("DETAIL", Align::Flow),
    ];
    let mut sheet = Sheet::new(&columns, "no copy is known", face);
    for copy in &row.copies {
        sheet.row([
            copy.copy.to_string(),
            copy.kind.clone(),
            copy.state.clone(),
            copy.proof.clone(),
            when(copy.proven, face),
            human::bytes(copy.bytes),
            human::duration(copy.seconds),
            copy.detail.clone(),
        ]);
    }
    text.push_str(&format!("\n{}\n", sheet.finish()));
    text.push_str(&verdicts(&report.verdicts, face));
    let facts: Vec<String> =
        report.facts.iter().map(|(name, value)| format!("{name:<15} {value}")).collect();
    text.push_str(&format!("\n{}", section("facts", &facts)));
    text.push_str(&section(&format!("gaps ({})", row.gaps), &report.gaps));
    text
}

/// What is kept and what goes, and why.
pub(super) fn verdicts(rows: &[VerdictRow], face: &Face) -> String {
    let columns = [
        ("POINT", Align::Left),
        ("WORKLOAD", Align::Left),
        ("MOMENT", Align::Left),
        ("COPY", Align::Left),
        ("VERDICT", Align::Left),
        ("UNTIL", Align::Left),
        ("REASONS", Align::Flow),
    ];
    let mut sheet = Sheet::new(&columns, "nothing is judged", face);
    for row in rows {
        let until = row.expires.map(|moment| human::moment(moment, &face.zone));
        sheet.row([
            row.point.short(),
            row.workload.to_string(),
            human::moment(row.moment, &face.zone),
            row.copy.to_string(),
            if row.kept { "keep" } else { "expire" }.to_owned(),
            until.unwrap_or_else(|| "-".to_owned()),
            row.reasons.join("; "),
        ]);
    }
    sheet.finish()
}
