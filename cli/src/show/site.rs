//! A site: what needs attention, its nodes, workloads and media, and what checking found.

use strongroom_protocol::admin::{
    MediumRow, NodeRow, ScrubReport, StatusReport, VerifiedReport, WorkloadRow,
};

use super::{Align, Sheet, section, when};
use crate::human;
use crate::output::Face;

/// What needs attention comes last, next to the prompt.
pub(super) fn status(report: &StatusReport, scrub: Option<&ScrubReport>, face: &Face) -> String {
    let node = &report.node;
    let mut text = format!(
        "{} {} at {} ({})\n  points    {}\n  stored    {} in {} packs\n  free      {}\n  jobs      \
         {} running or waiting\n",
        node.role,
        node.name,
        node.site,
        report.software,
        human::count(report.points),
        human::bytes(report.stored_bytes),
        human::count(report.packs),
        human::bytes(report.disk_free_bytes),
        report.live_jobs,
    );
    if let Some(scrub) = scrub {
        text.push_str(&format!("  scrubbed  {}\n", scrubbed(scrub, face)));
    }
    let skew = report.now.seconds_since(face.now);
    if skew.unsigned_abs() > 60 {
        let far = human::duration(skew.unsigned_abs());
        let side = if skew > 0 { "ahead of" } else { "behind" };
        text.push_str(&format!("  clock     {far} {side} this host\n"));
    }
    let connected: Vec<String> = report
        .connected
        .iter()
        .map(|peer| format!("{} {} at {}", peer.role, peer.name, peer.site))
        .collect();
    text.push_str(&section("connected", &connected));
    text.push_str(&section(&format!("owed ({})", report.debts.len()), &report.debts));
    text.push_str(&section(&format!("ATTENTION ({})", report.alarms.len()), &report.alarms));
    if report.debts.is_empty() && report.alarms.is_empty() {
        text.push_str("nothing is owed, nothing needs attention\n");
    }
    text
}

/// How old what is known of the files is, in a line.
fn scrubbed(report: &ScrubReport, face: &Face) -> String {
    let mut text = match report.oldest {
        Some(oldest) => format!("the oldest {}", human::relative(oldest, face.now)),
        None => "nothing yet".to_owned(),
    };
    if report.never > 0 {
        let (files, bytes) = (human::count(report.never), human::bytes(report.never_bytes));
        text.push_str(&format!("; {files} packs and manifests ({bytes}) never so far"));
    }
    if report.found > 0 || !report.hurt.is_empty() {
        let (found, healed) = (human::count(report.found), human::count(report.healed));
        text.push_str(&format!("; {found} found hurt since the start, {healed} healed"));
    }
    text
}

/// What scrubbing knows and met.
pub(super) fn scrub(report: &ScrubReport, face: &Face) -> String {
    let mut text = format!(
        "{} packs and manifests, read back: {}\n",
        human::count(report.files),
        scrubbed(report, face)
    );
    if report.last_found.is_some() || report.last_healed.is_some() {
        let (found, healed) = (when(report.last_found, face), when(report.last_healed, face));
        text.push_str(&format!("last found hurt {found}, last healed {healed}\n"));
    }
    text.push_str(&section(&format!("hurt ({})", report.hurt.len()), &report.hurt));
    text
}

/// Every node in a row.
pub(super) fn nodes(rows: &[NodeRow], face: &Face) -> String {
    let columns = [
        ("NODE", Align::Left),
        ("ROLE", Align::Left),
        ("SITE", Align::Left),
        ("CONNECTED", Align::Left),
        ("LAST SEEN", Align::Left),
        ("CERTIFICATE ENDS", Align::Left),
        ("SOFTWARE", Align::Left),
        ("HOST", Align::Flow),
    ];
    let mut sheet = Sheet::new(&columns, "no nodes yet: `strongroom token create`", face);
    for row in rows {
        sheet.row([
            row.identity.name.to_string(),
            row.identity.role.to_string(),
            row.identity.site.to_string(),
            if row.connected { "yes" } else { "NO" }.to_owned(),
            when(row.last_seen, face),
            when(row.certificate_until, face),
            row.software.clone(),
            row.host.clone(),
        ]);
    }
    sheet.finish()
}

/// Every workload in a row.
pub(super) fn workloads(rows: &[WorkloadRow], face: &Face) -> String {
    let columns = [
        ("WORKLOAD", Align::Left),
        ("KIND", Align::Left),
        ("AGENT", Align::Left),
        ("SOURCE", Align::Flow),
        ("POLICY", Align::Left),
        ("POINTS", Align::Right),
        ("LAST", Align::Left),
        ("NEXT", Align::Left),
    ];
    let empty = "no workloads: declare them in the policy file";
    let mut sheet = Sheet::new(&columns, empty, face);
    for row in rows {
        let policy = row.policy.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
        sheet.row([
            row.name.to_string(),
            row.kind.clone(),
            row.agent.to_string(),
            row.source.clone(),
            policy,
            row.points.to_string(),
            when(row.last, face),
            when(row.next, face),
        ]);
    }
    sheet.finish()
}

/// Every cartridge in a row.
pub(super) fn media(rows: &[MediumRow], face: &Face) -> String {
    let columns = [
        ("BARCODE", Align::Left),
        ("SET", Align::Left),
        ("SEQ", Align::Right),
        ("SESSIONS", Align::Right),
        ("POINTS", Align::Right),
        ("USED", Align::Right),
        ("OF", Align::Right),
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
            number(row.sessions),
            number(row.points),
            human::bytes(row.used_bytes),
            if row.capacity_bytes == 0 { "-".to_owned() } else { human::bytes(row.capacity_bytes) },
            row.detail.clone(),
        ]);
    }
    sheet.finish()
}

/// What reading back found.
pub(super) fn verified(report: &VerifiedReport) -> String {
    let seconds = report.seconds_ms.max(1) as f64 / 1000.0;
    let mut text = format!(
        "{} packs, {} read in {seconds:.1} s ({}/s); {} points are whole\n",
        human::count(report.packs),
        human::bytes(report.bytes),
        human::bytes((report.bytes as f64 / seconds) as u64),
        human::count(report.points_whole),
    );
    let packs: Vec<String> = report.damaged_packs.iter().map(ToString::to_string).collect();
    text.push_str(&section(&format!("damaged packs ({})", packs.len()), &packs));
    text.push_str(&section("what is hurt", &report.hurt));
    if packs.is_empty() && report.hurt.is_empty() {
        text.push_str("no damage\n");
    }
    text
}
