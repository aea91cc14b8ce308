//! Space: what a repository holds, what of it is needed, and what a collection gives back.

use strongroom_protocol::admin::SpaceReport;

use crate::human;
use crate::output::Face;

/// What is stored, what is needed, what comes back.
pub(super) fn space(report: &SpaceReport, face: &Face) -> String {
    let mut text = String::new();
    if let Some(done) = &report.done {
        text.push_str(&format!("collected: {}\n", human::text(done)));
    }
    match &report.refusal {
        Some(why) => text.push_str(&format!("nothing would be removed: {}\n", human::text(why))),
        None => text.push_str(&format!(
            "  stored    {} in {} packs\n  needed    {} by {} points\n  dead      {} in {} packs \
             that no point needs\n  sparse    {} in {} packs that are mostly unneeded\n  back      \
             {} would come back\n",
            human::bytes(report.bytes),
            human::count(report.packs),
            human::bytes(report.live_bytes),
            human::count(report.points),
            human::bytes(report.dead_bytes),
            human::count(report.dead_packs),
            human::bytes(report.sparse_bytes),
            human::count(report.sparse_packs),
            human::bytes(report.returned_bytes),
        )),
    }
    if let Some(free) = report.disk_free_bytes {
        text.push_str(&format!("  free      {}\n", human::bytes(free)));
    }
    if report.open_sessions > 0 {
        let sessions = human::count(report.open_sessions);
        text.push_str(&format!("  sessions  {sessions} open: what they may count on goes later\n"));
    }
    if let Some(last) = &report.last {
        let when = human::relative(last.at, face.now);
        text.push_str(&format!("  last      {when}: {}\n", human::text(&last.text)));
    }
    text
}
