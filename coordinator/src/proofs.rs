//! What operators say came of starting an application from a copy, at this site or at that of a
//! proxy, and what drills there showed, into the ledger and the audit log. A start that failed
//! makes its copy suspect and takes nothing away. Refuses proofs of copies that are not there or,
//! named as cartridges, are none, and levels that nobody tells.

use strongroom_protocol::control::{ProofNews, Showing, Shown, ToNode};
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Chain, CopyName, NodeName, PointId, Role, Timestamp};

use crate::catalog::{CatalogError, CopyEvent, LedgerRow, Start};
use crate::drills;
use crate::policy::{CopyKind, primary};
use crate::retention::{CopyState, ProofLevel};
use crate::site::Site;

/// Characters of what was checked or failed.
const DETAIL_CHARS_MAX: usize = 600;

/// A proof as this coordinator's own operators tell it; what they are answered.
pub(crate) fn told(
    site: &Site,
    point: PointId,
    copy: Option<CopyName>,
    showing: &Showing,
    by: &str,
) -> Result<String, Refusal> {
    let unavailable =
        |error: CatalogError| Refusal::new(RefusalKind::Unavailable, Chain(&error).to_string());
    if let Some(named) = &copy
        && is_on_media(site, point, named).map_err(unavailable)? == Some(false)
    {
        let text = format!("{named} is no copy on media by the policy of point {point}");
        return Err(Refusal::new(RefusalKind::Invalid, text));
    }
    let copy = copy.unwrap_or_else(primary);
    let Some(level) = level_of(showing).filter(|level| *level == ProofLevel::Started) else {
        let text = format!(
            "{:?} is no level that an operator proves: {} is",
            showing.level,
            ProofLevel::Started
        );
        return Err(Refusal::new(RefusalKind::Invalid, text));
    };
    let row = row_of(site, point, &copy).map_err(unavailable)?;
    match row.map(|row| row.state) {
        Some(CopyState::Present) => {}
        state => {
            let state = state.map_or("not on the books", CopyState::as_str);
            let text = format!("copy {copy} of point {point} is {state}: nothing is proven of it");
            return Err(Refusal::new(RefusalKind::Unknown, text));
        }
    }
    let start = start_of(showing, level, by, site.now());
    book(site, point, &copy, (showing.outcome, Told::ByPerson), start).map_err(unavailable)?;
    Ok(match showing.outcome {
        Shown::Held => format!("copy {copy} of point {point} is proven {level}"),
        Shown::Failed => format!("copy {copy} of point {point} is suspect"),
    })
}

/// A proof as a proxy hands it over: answered once it is on record, or of no use.
pub(crate) fn hear(site: &Site, proxy: &NodeName, news: &ProofNews) -> Result<(), CatalogError> {
    let of_drill = news.by.role == Role::Proxy && news.by.name == *proxy;
    let told = if of_drill { Told::ByDrill } else { Told::ByPerson };
    let settled = match level_of(&news.showing) {
        Some(level) if of_drill || level == ProofLevel::Started => {
            take_over(site, proxy, news, level, told)?
        }
        _ => true,
    };
    if settled && let Some(session) = site.sessions.proxy(proxy) {
        // Where it does not keep up, it tells it again.
        session.say(ToNode::ProofNoted { point: news.point, at: news.at });
    }
    Ok(())
}

/// Whether nothing more is to come of it.
fn take_over(
    site: &Site,
    proxy: &NodeName,
    news: &ProofNews,
    level: ProofLevel,
    told: Told,
) -> Result<bool, CatalogError> {
    // A catalog that was lost learns of points and copies again.
    let Some(record) = site.catalog.point(news.point)? else { return Ok(false) };
    let in_force = site.in_force();
    let Some(policy) = in_force.declared.policy_of(&record.workload) else { return Ok(false) };
    // A proxy speaks for the copies that it holds, and for no others.
    let its = policy.copies.values().filter(|copy| copy.node == *proxy);
    let meant = its.filter(|copy| match &news.copy {
        Some(named) => copy.name == *named && matches!(copy.kind, CopyKind::Aux { .. }),
        None => matches!(copy.kind, CopyKind::SecondarySnap),
    });
    let copies: Vec<CopyName> = meant.map(|copy| copy.name.clone()).collect();
    if copies.is_empty() {
        let what = if news.copy.is_some() { "copy on media" } else { "secondary snap" };
        ignore(site, proxy, news, &format!("it is no {what} at {proxy} by the policy in force"));
    }
    let mut settled = true;
    for copy in copies {
        let row = row_of(site, news.point, &copy)?;
        match row.map(|row| row.state) {
            Some(CopyState::Present) => {
                // No proof is of a time to come, whatever the clock over there shows.
                let at = news.at.min(site.now());
                let start = start_of(&news.showing, level, &news.by.to_string(), at);
                if told == Told::ByDrill {
                    drills::shown(site, proxy, &copy, news, &start)?;
                }
                book(site, news.point, &copy, (news.showing.outcome, told), start)?;
            }
            Some(CopyState::Expired | CopyState::Removing) => {}
            _ => settled = false,
        }
    }
    Ok(settled)
}

/// Says of a proof that it counts for nothing.
fn ignore(site: &Site, proxy: &NodeName, news: &ProofNews, why: &str) {
    let copy = news.copy.as_ref().map_or("the secondary snap", CopyName::as_str);
    tracing::warn!(%proxy, point = %news.point, copy, why, "a proof does not count");
    let subject = format!("{copy} of point {}", news.point);
    site.record(&news.by.to_string(), "prove.ignored", &subject, why);
}

/// Whether a copy is on media by the policy in force; none of a point that is not known.
fn is_on_media(site: &Site, point: PointId, copy: &CopyName) -> Result<Option<bool>, CatalogError> {
    let Some(record) = site.catalog.point(point)? else { return Ok(None) };
    let in_force = site.in_force();
    let policy = in_force.declared.policy_of(&record.workload);
    let kind = policy.and_then(|policy| policy.copies.get(copy)).map(|copy| &copy.kind);
    Ok(Some(matches!(kind, Some(CopyKind::Aux { .. }))))
}

fn level_of(showing: &Showing) -> Option<ProofLevel> {
    let known = [ProofLevel::MountedChecked, ProofLevel::Started];
    ProofLevel::from_word(&showing.level).filter(|level| known.contains(level))
}

/// Who found it out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Told {
    ByDrill,
    ByPerson,
}

fn start_of(showing: &Showing, level: ProofLevel, by: &str, at: Timestamp) -> Start {
    let detail = showing.detail.chars().take(DETAIL_CHARS_MAX).collect();
    Start { at, took_ms: showing.took_ms, by: by.to_owned(), detail, level }
}

fn row_of(site: &Site, point: PointId, copy: &CopyName) -> Result<Option<LedgerRow>, CatalogError> {
    let rows = site.catalog.ledger_of(point)?;
    Ok(rows.into_iter().find(|row| row.copy == *copy))
}

/// Onto the books and into the audit log, once however often it is told.
fn book(
    site: &Site,
    point: PointId,
    copy: &CopyName,
    (outcome, told): (Shown, Told),
    start: Start,
) -> Result<(), CatalogError> {
    let before = row_of(site, point, copy)?;
    let known = before.is_some_and(|row| [row.started, row.failed].contains(&Some(start.clone())));
    if known {
        return Ok(());
    }
    let action = match (outcome, told) {
        (Shown::Held, Told::ByPerson) => "prove.started",
        (Shown::Failed, Told::ByPerson) => "prove.failed",
        (Shown::Held, Told::ByDrill) => "drill.held",
        (Shown::Failed, Told::ByDrill) => "drill.failed",
    };
    let subject = format!("{copy} of point {point}");
    let detail = format!("after {} s: {}", start.took_ms / 1000, start.detail);
    let by = start.by.clone();
    let event = CopyEvent::Shown { outcome, start };
    site.catalog.record_copy(point, copy, &event, site.now())?;
    site.record(&by, action, &subject, &detail);
    Ok(())
}
