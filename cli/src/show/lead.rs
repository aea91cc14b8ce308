//! Who leads, for people.

use strongroom_protocol::lead::{LeadReport, Proposal};

use crate::human;
use crate::output::Face;

/// Who leads, what waits for a second person, and what else is to be known.
pub(crate) fn lead(report: &LeadReport, face: &Face) -> String {
    let mut text = format!("{}; this site {}\n", line(report), human::text(&report.standing));
    for fact in &report.facts {
        text.push_str(&format!("  {}\n", human::text(fact)));
    }
    if let Some(waiting) = &report.proposed {
        text.push_str(&proposal(waiting, face));
    }
    text
}

/// Who leads, in a line.
pub(crate) fn line(report: &LeadReport) -> String {
    human::text(&report.lead.to_string())
}

/// An order that waits, and how it is confirmed.
pub(crate) fn proposal(waiting: &Proposal, face: &Face) -> String {
    let Proposal { id, order, by, why, expires, doubts } = waiting;
    let mut text = format!(
        "{} {id} proposed by {by}: {}\nnext: another operator of this site confirms it {}: \
         `strongroom {} confirm {id}`\n",
        order.as_str(),
        human::text(why),
        human::relative(*expires, face.now),
        order.as_str(),
    );
    for doubt in doubts {
        text.push_str(&format!("look twice: {}\n", human::text(doubt)));
    }
    text
}
