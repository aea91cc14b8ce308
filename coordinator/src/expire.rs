//! Lets go of what no reason keeps: its grace first, then the removal, each step on disk before
//! the next. The decision is in the catalog, its reason in the audit log, then the manifest goes;
//! whatever was begun is finished at the next start. Removes nothing that a verdict of the same
//! moment keeps, and nothing while the clock is doubted. What lies at the other site is for its
//! own floor to let go: `far`. So it is with copies on media, whose bytes stay on their cartridges
//! until those are written anew.

pub(crate) mod far;
mod place;

use std::collections::BTreeMap;

use strongroom_protocol::{Chain, CopyName, PointId, Timestamp, WorkloadName};
use strongroom_store::repo::RepoError;

use crate::catalog::{CatalogError, CopyEvent, Doomed, LedgerRow};
use crate::policy::Declared;
use crate::retention::{self, CopyState, Grace, RetentionClock, Stance, Verdict};
use crate::site::Site;
use crate::space;
use strongroom_node::audit::AuditError;

/// Points removed in one pass: the foreman has more to do.
pub(crate) const POINTS_A_PASS_MAX: usize = 32;
/// The counted time is put on disk when this much was added.
const KEEP_CLOCK_NANOS: i64 = 30_000_000_000;
/// How long a point that is gone in every copy is still listed.
const LISTED_SECONDS: i64 = 30 * 86_400;
/// How long the journal of a job that ended is kept: what was done is in the audit log.
const JOBS_KEPT_SECONDS: i64 = 90 * 86_400;
/// Journals dropped in one pass, so that it stays short.
const JOBS_A_PASS_MAX: usize = 1000;
/// A copy that was ordered away and is declared no more is not waited for any longer than this
/// where nobody can be asked of it.
const UNDECLARED_SECONDS: i64 = 30 * 86_400;
/// The subject of the alarm about a clock that is not believed.
const CLOCK: &str = "retention clock";

/// Why something was not removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ExpireError {
    #[error("the audit log cannot be written")]
    Audit(#[from] AuditError),
    #[error("the catalog does not answer")]
    Catalog(#[from] CatalogError),
    #[error("the manifest cannot be removed")]
    Repo(#[from] RepoError),
}

/// The verdicts of one moment, on the books.
pub(crate) struct Judged {
    pub(crate) clock: RetentionClock,
    pub(crate) now: Timestamp,
    pub(crate) verdicts: Vec<Verdict>,
}

/// What one pass did.
#[derive(Default)]
pub(crate) struct Pass {
    /// What went, each in a sentence.
    pub(crate) gone: Vec<String>,
    /// What did not, and why.
    pub(crate) failed: Vec<String>,
    /// There is more to be removed.
    pub(crate) more: bool,
}

/// The coordinator's counted time at this moment.
pub(crate) fn clock(site: &Site, now: Timestamp) -> Result<RetentionClock, CatalogError> {
    let kept = site.catalog.retention_clock()?;
    Ok(kept.map_or_else(|| RetentionClock::begin(now), |kept| kept.look(now)))
}

/// Judges everything and puts it on the books. Whoever removes by it holds `site.keeping()`
/// from before until after.
pub(crate) fn judge(site: &Site, now: Timestamp) -> Result<Judged, CatalogError> {
    let kept = site.catalog.retention_clock()?;
    let clock = clock(site, now)?;
    let fresh = |kept: RetentionClock| {
        clock.nanos() - kept.nanos() < KEEP_CLOCK_NANOS && clock.believed() >= kept.believed()
    };
    if !kept.is_some_and(fresh) {
        site.catalog.set_retention_clock(clock)?;
    }
    if clock.is_doubted(now) {
        let believed = clock.believed();
        let text = format!(
            "the clock went from {believed} to {now} while nobody looked: nothing is removed \
             until it comes back or `strongroom prune --believe-clock` says that it is right"
        );
        tracing::warn!(%believed, %now, "the clock is not believed: nothing is removed");
        site.alarm(CLOCK, text);
    } else {
        site.all_clear(CLOCK);
    }
    let facts = site.catalog.point_facts(None)?;
    let marks = site.catalog.marks()?;
    let rules = site.in_force().declared.rules();
    let verdicts = retention::evaluate(&facts, &rules, &marks, now);
    site.catalog.settle(&verdicts, clock, now)?;
    Ok(Judged { clock, now, verdicts })
}

/// Where a doomed copy is in its grace, by a policy. One without policy never gets there.
pub(crate) fn grace_of(
    declared: &Declared,
    workload: &WorkloadName,
    row: &LedgerRow,
    clock: RetentionClock,
    now: Timestamp,
) -> Grace {
    let policy = declared.policy_of(workload);
    let seconds = policy.map_or(u64::MAX, |policy| policy.grace_seconds);
    clock.grace(row.doomed_counted, seconds, now)
}

/// Copies whose grace is over and that no verdict of this moment keeps.
pub(crate) fn ripe(site: &Site, judged: &Judged) -> Result<Vec<Doomed>, CatalogError> {
    let in_force = site.in_force();
    let condemned: BTreeMap<(PointId, &CopyName), Stance> =
        judged.verdicts.iter().map(|of| ((of.point, &of.copy), of.stance)).collect();
    let mut doomed = site.catalog.doomed()?;
    doomed.retain(|doomed| {
        let row = &doomed.row;
        let stance = condemned.get(&(row.point, &row.copy));
        let grace = grace_of(&in_force.declared, &doomed.workload, row, judged.clock, judged.now);
        stance == Some(&Stance::Expire) && grace == Grace::Over
    });
    Ok(doomed)
}

/// Judges, finishes what is in the middle of being removed, and removes up to `most` points from
/// the primary snap whose grace is over.
pub(crate) fn pass(
    site: &Site,
    by: &str,
    now: Timestamp,
    most: usize,
) -> Result<Pass, CatalogError> {
    if !site.lets_go() {
        return Ok(Pass::default());
    }
    let _keeping = site.keeping();
    let judged = space::with_reserve(site, || judge(site, now))?;
    let mut pass = Pass { failed: finish_all(site, by)?, ..Pass::default() };
    let mut ripe = ripe(site, &judged)?;
    ripe.retain(place::is_primary);
    pass.more = ripe.len() > most;
    for doomed in ripe.iter().take(most) {
        match space::with_reserve(site, || remove(site, doomed, by)) {
            Ok(()) => pass.gone.push(subject(doomed)),
            Err(error) => pass.failed.push(format!("{}: {}", subject(doomed), Chain(&error))),
        }
    }
    if !pass.gone.is_empty() {
        site.collector.want();
    }
    match pass.failed.first() {
        Some(first) => site.alarm("expire", format!("not removed: {first}")),
        None => site.all_clear("expire"),
    }
    if !judged.clock.is_doubted(now) {
        forget(site, now)?;
    }
    Ok(pass)
}

/// Points that were gone in every copy long ago leave the list, and jobs that ended long ago
/// with their journals.
fn forget(site: &Site, now: Timestamp) -> Result<(), CatalogError> {
    site.catalog.forget_jobs(now.plus_seconds(-JOBS_KEPT_SECONDS), JOBS_A_PASS_MAX)?;
    for point in site.catalog.gone_points(now.plus_seconds(-LISTED_SECONDS))? {
        site.catalog.forget_point(point)?;
    }
    Ok(())
}

/// Which copy it is, for people.
pub(crate) fn subject(doomed: &Doomed) -> String {
    let row = &doomed.row;
    format!("{} of point {} of {}", row.copy, row.point, doomed.workload)
}

/// Why it goes, for the audit log.
pub(crate) fn because(row: &LedgerRow) -> String {
    let since = row.doomed.map_or_else(|| "some time".to_owned(), |since| since.to_string());
    let ended = row.reasons.as_deref().unwrap_or("none was noted");
    format!("no reason keeps it since {since} and its grace is over; what kept it: {ended}")
}

fn remove(site: &Site, doomed: &Doomed, by: &str) -> Result<(), ExpireError> {
    let (point, copy) = doomed.key();
    site.catalog.record_copy(point, &copy, &CopyEvent::Removing, site.now())?;
    finish(site, doomed, by)
}

/// The rest of a removal that the catalog has decided; each step may have been done before.
fn finish(site: &Site, doomed: &Doomed, by: &str) -> Result<(), ExpireError> {
    let (point, copy) = doomed.key();
    site.try_record(by, "expire", &subject(doomed), &because(&doomed.row))?;
    let points = site.repo.points()?;
    if let Some((workload, _)) = points.into_iter().find(|(_, id)| *id == point) {
        site.repo.remove_point(workload, point)?;
    }
    site.catalog.record_copy(point, &copy, &CopyEvent::Expired, site.now())?;
    tracing::info!(%point, workload = %doomed.workload, "a point was removed: nothing keeps it");
    Ok(())
}

/// Takes a copy off the books that nothing here removes.
fn strike(site: &Site, doomed: &Doomed, by: &str, how: &str) -> Result<(), ExpireError> {
    let (point, copy) = doomed.key();
    let detail = format!("{how}: {}", because(&doomed.row));
    site.try_record(by, "expire", &subject(doomed), &detail)?;
    site.catalog.record_copy(point, &copy, &CopyEvent::Expired, site.now())?;
    tracing::info!(%point, %copy, workload = %doomed.workload, how, "a copy left the books");
    Ok(())
}

/// Finishes what an earlier run left in the middle. What was ordered of another site is asked
/// about again: whether it obeyed is not known here.
pub(crate) fn take_up(site: &Site) -> Result<(), CatalogError> {
    if !site.lets_go() {
        return Ok(());
    }
    let _keeping = site.keeping();
    for failed in finish_all(site, "coordinator")? {
        site.alarm("expire", format!("not removed: {failed}"));
    }
    Ok(())
}

/// Finishes every removal that is for this node to finish; what failed, each in a sentence.
fn finish_all(site: &Site, by: &str) -> Result<Vec<String>, CatalogError> {
    let mut failed = Vec::new();
    for doomed in site.catalog.removing()? {
        let finished = match place::is_primary(&doomed) {
            true => space::with_reserve(site, || finish(site, &doomed, by)),
            false => {
                let Some(how) = struck_because(site, &doomed) else { continue };
                space::with_reserve(site, || strike(site, &doomed, by, how))
            }
        };
        if let Err(error) = finished {
            tracing::error!(error = %Chain(&error), "a removal cannot be finished");
            failed.push(format!("{}: {}", subject(&doomed), Chain(&error)));
        }
    }
    Ok(failed)
}

/// Why a copy in the middle of being removed waits for nobody, if so. One at a proxy waits for that
/// proxy, but not for ever once no policy declares it.
fn struck_because(site: &Site, doomed: &Doomed) -> Option<&'static str> {
    let is_declared = site
        .in_force()
        .declared
        .policy_of(&doomed.workload)
        .is_some_and(|policy| policy.copies.contains_key(&doomed.row.copy));
    let now = site.now();
    let is_believed = clock(site, now).is_ok_and(|clock| !clock.is_doubted(now));
    let is_old = is_believed && now.seconds_since(doomed.row.changed) >= UNDECLARED_SECONDS;
    (!is_declared && is_old).then_some(
        "no policy declares it any more, and nobody answered whether the order was obeyed",
    )
}

/// What stands beside a copy that goes, for people; nothing for one that stays.
pub(crate) fn standing(row: &LedgerRow, grace: Grace) -> Option<String> {
    let ended = row.reasons.as_deref().unwrap_or("not known");
    if row.state == CopyState::Removing {
        return Some(format!("being removed; what kept it: {ended}"));
    }
    let since = row.doomed?;
    let goes = match (grace, &row.last_error) {
        (Grace::Doubted { believed }, _) => {
            format!("stays while the clock is doubted, which was last believed at {believed}")
        }
        (Grace::Runs { over_at }, _) => format!("in its grace until {over_at}"),
        (Grace::Over, Some(why)) => format!("its grace is over; {why}"),
        (Grace::Over, None) => "its grace is over".to_owned(),
    };
    Some(format!("no reason keeps it since {since}; {goes}; what kept it: {ended}"))
}
