//! Jobs: the list, one with its journal, and the line that is drawn while one runs.

use strongroom_protocol::Timestamp;
use strongroom_protocol::admin::{EventRow, JobRow};
use strongroom_protocol::control::Progress;

use super::{Align, Sheet, when};
use crate::human;
use crate::output::Face;

/// Every job in a row.
pub(super) fn jobs(rows: &[JobRow], face: &Face) -> String {
    let columns = [
        ("JOB", Align::Left),
        ("KIND", Align::Left),
        ("SUBJECT", Align::Flow),
        ("NODE", Align::Left),
        ("STATE", Align::Left),
        ("BEGAN", Align::Left),
        ("TOOK", Align::Right),
        ("DETAIL", Align::Flow),
    ];
    let mut sheet = Sheet::new(&columns, "no jobs", face);
    for row in rows {
        let node = row.node.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
        sheet.row([
            row.id.short(),
            row.kind.clone(),
            row.subject.clone(),
            node,
            row.state.clone(),
            when(Some(row.created), face),
            took(row, face.now),
            short(&detail(row)),
        ]);
    }
    sheet.finish()
}

/// A job by itself.
pub(super) fn job(row: &JobRow, face: &Face) -> String {
    let mut text = format!("job {} ({} {})\n", row.id, row.kind, row.subject);
    let mut fact = |name: &str, value: &str| {
        if !value.is_empty() {
            text.push_str(&format!("  {name:<9} {}\n", human::text(value)));
        }
    };
    fact("state", &row.state);
    fact("step", row.step.as_deref().unwrap_or_default());
    fact("detail", if row.detail == row.state { "" } else { &row.detail });
    fact("node", &row.node.as_ref().map(ToString::to_string).unwrap_or_default());
    fact("began", &human::moment(row.created, &face.zone));
    fact("took", &took(row, face.now));
    fact("progress", &progress(&row.progress));
    fact("point", &row.point.map(|point| point.to_string()).unwrap_or_default());
    text
}

/// A job with everything that happened to it.
pub(super) fn journal(row: &JobRow, events: &[EventRow], face: &Face) -> String {
    let columns = [("#", Align::Right), ("AT", Align::Left), ("EVENT", Align::Flow)];
    let mut sheet = Sheet::new(&columns, "nothing happened yet", face);
    for event in events {
        let at = event.at.to_jiff().to_zoned(face.zone.clone());
        let at = at.strftime("%Y-%m-%d %H:%M:%S").to_string();
        sheet.row([event.seq.to_string(), at, event.text.clone()]);
    }
    format!("{}\n{}", job(row, face), sheet.finish())
}

/// What is drawn while a job runs.
pub(crate) fn job_line(row: &JobRow) -> String {
    let step = row.step.as_deref().unwrap_or(&row.state);
    let figures = progress(&row.progress);
    match figures.is_empty() {
        true => human::text(&format!("{step} {}", short(&detail(row)))),
        false => human::text(&format!("{step}: {figures}")),
    }
}

fn progress(progress: &Progress) -> String {
    if *progress == Progress::default() {
        return String::new();
    }
    let Progress { files, bytes_seen, bytes_read, bytes_sent, gaps, bytes_total } = *progress;
    let total = bytes_total.map(|total| format!(" of {}", human::bytes(total))).unwrap_or_default();
    let gaps = match gaps {
        0 => String::new(),
        1 => ", 1 gap".to_owned(),
        gaps => format!(", {gaps} gaps"),
    };
    format!(
        "{} files, {}{total} seen, {} read, {} sent{gaps}",
        human::count(files),
        human::bytes(bytes_seen),
        human::bytes(bytes_read),
        human::bytes(bytes_sent)
    )
}

fn took(row: &JobRow, now: Timestamp) -> String {
    let end = row.ended.unwrap_or(now);
    human::duration(end.seconds_since(row.created).max(0).unsigned_abs())
}

fn detail(row: &JobRow) -> String {
    match (&row.step, row.ended) {
        (Some(step), None) if row.detail.is_empty() => step.clone(),
        (Some(step), None) => format!("{step}: {}", row.detail),
        // The column before says that it succeeded.
        _ if row.detail == row.state => String::new(),
        _ => row.detail.clone(),
    }
}

/// The first line, and no more of it than a table bears.
fn short(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(CHARS_MAX) {
        Some((at, _)) => format!("{}…", line.get(..at).unwrap_or_default()),
        None => line.to_owned(),
    }
}
