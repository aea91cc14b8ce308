//! Answers of nodes as text for people. Pure: the same answer, moment, zone and width give the
//! same text, so that tests can pin it. Refuses nothing; what a node said is shown, with what
//! could move the cursor taken out.

mod cartridges;
mod drills;
mod entries;
mod jobs;
mod lead;
mod people;
mod points;
mod site;
mod space;
pub(crate) mod table;

pub(crate) use entries::{entry_json, entry_line, kind_word};
pub(crate) use jobs::job_line;
pub(crate) use lead::line as lead_line;
pub(crate) use table::{Align, Sheet};

use strongroom_protocol::Timestamp;
use strongroom_protocol::admin::{Response, ScrubReport, StatusReport};

use crate::human;
use crate::output::Face;

/// The answer as text.
pub(crate) fn response(response: &Response, face: &Face) -> String {
    match response {
        Response::Done(text) => human::text(text),
        Response::Refused(refusal) => format!("refused: {}", human::text(&refusal.to_string())),
        Response::Status(report) => site::status(report, None, face),
        Response::Nodes(rows) => site::nodes(rows, face),
        Response::Token { text, expires } => people::token(text, *expires, face),
        Response::Policy { version, file, toml, applied, by } => {
            let head = format!(
                "# version {version}, {file}, applied {} by {by}",
                human::moment(*applied, &face.zone)
            );
            format!("{}\n{}", human::text(&head), human::text(toml))
        }
        Response::Plan { changes, warnings } => people::plan(changes, warnings),
        Response::Workloads(rows) => site::workloads(rows, face),
        Response::Job(row) => jobs::job(row, face),
        Response::Jobs(rows) => jobs::jobs(rows, face),
        Response::Journal { job, events } => jobs::journal(job, events, face),
        Response::Points(rows) => points::points(rows, face),
        Response::Why(report) => points::why(report, face),
        Response::Verdicts(rows) => points::verdicts(rows, face),
        Response::Holds(rows) => people::holds(rows, face),
        Response::Scrub(report) => site::scrub(report, face),
        Response::Verified(report) => site::verified(report),
        Response::Media(rows) => site::media(rows, face),
        Response::Drills(rows) => drills::drills(rows, face),
        Response::Cartridges(rows) => cartridges::table(rows, face),
        Response::Space(report) => space::space(report, face),
        Response::Lead(report) => lead::lead(report, face),
        Response::Proposed(proposal) => lead::proposal(proposal, face),
        Response::Audit { checked, broken_at, records } => {
            people::audit(*checked, *broken_at, records, face)
        }
    }
}

/// A site's status with how old what is known of its files is.
pub(crate) fn status(report: &StatusReport, scrub: &ScrubReport, face: &Face) -> String {
    site::status(report, Some(scrub), face)
}

/// A moment and how long ago it is, or a dash.
fn when(moment: Option<Timestamp>, face: &Face) -> String {
    moment.map_or_else(|| "-".to_owned(), |moment| human::relative(moment, face.now))
}

/// Lines under a heading, or nothing where there are none.
fn section(heading: &str, lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let mut text = format!("{heading}\n");
    for line in lines {
        text.push_str(&format!("  {}\n", human::text(line)));
    }
    text
}

#[cfg(test)]
mod tests;
