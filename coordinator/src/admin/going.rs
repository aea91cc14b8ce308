//! What stays, what goes and when, for operators: `why`, `what-if` and `prune`.

use std::collections::BTreeMap;

use strongroom_node::inspect;
use strongroom_protocol::admin::{PointRef, PruneOrder, Response, VerdictRow, WhyReport};
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{CopyName, PointId};

use super::owed::{evidence, required};
use super::tables::{point_row, resolve};
use super::unavailable;
use crate::catalog::LedgerRow;
use crate::expire::{self, standing};
use crate::policy::{self, Declared};
use crate::retention::{self, CopyState, Grace, ProofLevel, RetentionClock, Stance, Verdict};
use crate::site::Site;

type Answer<T> = Result<T, Refusal>;

/// Ledger rows by copy of point.
type Books = BTreeMap<(PointId, CopyName), LedgerRow>;

/// Why one point is kept, and where what is not kept is in its grace.
pub(super) fn why(site: &Site, point: &PointRef) -> Answer<WhyReport> {
    let point = resolve(site, point)?;
    let record = site.catalog.point(point).map_err(|error| unavailable(&error))?;
    let record = record
        .ok_or_else(|| Refusal::new(RefusalKind::Unknown, format!("no point {point} is known")))?;
    let facts =
        site.catalog.point_facts(Some(&record.workload)).map_err(|error| unavailable(&error))?;
    let marks = site.catalog.marks().map_err(|error| unavailable(&error))?;
    let in_force = site.in_force();
    let verdicts = retention::why(point, &facts, &in_force.declared.rules(), &marks, site.now());
    let manifest = site.repo.point(point).ok();
    let mut known = manifest.as_ref().map(inspect::facts).unwrap_or_default();
    if let Some(required) = required(site, &record.workload, record.consistency) {
        let text = format!("{required}, which is not met: {}", evidence(site, point));
        known.push(("required".to_owned(), text));
    }
    Ok(WhyReport {
        point: point_row(site, &record)?,
        verdicts: rows(site, &verdicts, &in_force.declared)?,
        gaps: match &manifest {
            Some(manifest) => inspect::gaps(&site.repo, manifest)?,
            None => vec!["the primary snap is not here any more".to_owned()],
        },
        facts: known,
    })
}

/// What another file would keep and expire.
pub(super) fn what_if(site: &Site, file: &str, toml: &str) -> Answer<Response> {
    let parsed = policy::parse(file, toml)
        .map_err(|problems| Refusal::new(RefusalKind::Invalid, problems.to_string()))?;
    let facts = site.catalog.point_facts(None).map_err(|error| unavailable(&error))?;
    let marks = site.catalog.marks().map_err(|error| unavailable(&error))?;
    let rules = parsed.declared.rules();
    let verdicts = retention::evaluate(&facts, &rules, &marks, site.now());
    rows(site, &verdicts, &parsed.declared).map(Response::Verdicts)
}

fn rows(site: &Site, verdicts: &[Verdict], declared: &Declared) -> Answer<Vec<VerdictRow>> {
    let mut books = Books::new();
    if verdicts.iter().any(|verdict| verdict.stance == Stance::Expire) {
        let doomed = site.catalog.doomed().map_err(|error| unavailable(&error))?;
        books.extend(doomed.into_iter().map(|doomed| (doomed.key(), doomed.row)));
    }
    let clock = expire::clock(site, site.now()).map_err(|error| unavailable(&error))?;
    let row = |verdict: &Verdict| {
        let doomed = books.get(&(verdict.point, verdict.copy.clone()));
        verdict_row(site, verdict, doomed, declared, clock)
    };
    Ok(verdicts.iter().map(row).collect())
}

fn verdict_row(
    site: &Site,
    verdict: &Verdict,
    doomed: Option<&LedgerRow>,
    declared: &Declared,
    clock: RetentionClock,
) -> VerdictRow {
    let mut reasons: Vec<String> = verdict.keep.iter().map(ToString::to_string).collect();
    let mut expires = verdict.expires_at;
    match verdict.stance {
        Stance::Owe => reasons.insert(0, "not there yet, and owed".to_owned()),
        Stance::Expire => {
            let now = site.now();
            let policy = declared.policy_of(&verdict.workload);
            let seconds = policy.map_or(u64::MAX, |policy| policy.grace_seconds);
            let counted = doomed.and_then(|row| row.doomed_counted);
            let grace = clock.grace(counted, seconds, now);
            expires = match grace {
                Grace::Doubted { .. } => None,
                Grace::Over => Some(now),
                Grace::Runs { over_at } => Some(over_at),
            };
            let told = doomed.and_then(|row| standing(row, grace));
            reasons.push(told.unwrap_or_else(|| "no reason; its grace would begin".to_owned()));
        }
        Stance::Keep | Stance::Lapse => {}
    }
    VerdictRow {
        point: verdict.point,
        workload: verdict.workload.clone(),
        moment: verdict.moment,
        copy: verdict.copy.clone(),
        kept: matches!(verdict.stance, Stance::Keep | Stance::Owe),
        reasons,
        expires,
    }
}

/// What stands beside one copy in the tables.
pub(super) fn detail(
    site: &Site,
    row: &LedgerRow,
    workload: &strongroom_protocol::WorkloadName,
) -> Answer<String> {
    let goes = row.doomed.is_some() || row.state == CopyState::Removing;
    if !goes {
        return Ok(match (&row.last_error, row.suspect(), &row.started) {
            (Some(error), ..) => error.clone(),
            (None, Some(failed), _) => {
                let what =
                    if failed.level == ProofLevel::Started { "started from" } else { "sound" };
                format!("not {what} at {}: {}", failed.at, failed.detail)
            }
            (None, None, Some(start)) => {
                let seconds = start.took_ms as f64 / 1000.0;
                match start.level {
                    ProofLevel::Started => {
                        format!("started from, and answered after {seconds:.1} s")
                    }
                    _ => format!("mounted and compared in {seconds:.1} s"),
                }
            }
            (None, None, None) => String::new(),
        });
    }
    let now = site.now();
    let clock = expire::clock(site, now).map_err(|error| unavailable(&error))?;
    let grace = expire::grace_of(&site.in_force().declared, workload, row, clock, now);
    Ok(standing(row, grace).unwrap_or_default())
}

/// Shows what goes, or lets it go now instead of at the coordinator's next look.
pub(super) fn prune(site: &Site, order: PruneOrder, by: &str) -> Answer<Response> {
    match order {
        PruneOrder::Apply if !site.lets_go() => {
            let text = format!("nothing is let go here now: {}", site.lead.lead());
            Err(Refusal::new(RefusalKind::Stale, text))
        }
        PruneOrder::Apply => {
            let pass = expire::pass(site, by, site.now(), usize::MAX);
            let pass = pass.map_err(|error| unavailable(&error))?;
            Ok(Response::Plan { changes: pass.gone, warnings: pass.failed })
        }
        PruneOrder::Show => show(site),
        PruneOrder::BelieveClock => {
            let _keeping = site.keeping();
            let now = site.now();
            let clock = expire::clock(site, now).map_err(|error| unavailable(&error))?;
            let detail =
                format!("last believed at {}, said to be right at {now}", clock.believed());
            site.record(by, "prune.believe-clock", "", &detail);
            let kept = site.catalog.set_retention_clock(clock.believe(now));
            kept.map_err(|error| unavailable(&error))?;
            Ok(Response::Done(format!("retention goes on by the clock, which shows {now}")))
        }
    }
}

fn show(site: &Site) -> Answer<Response> {
    let _keeping = site.keeping();
    let judged = expire::judge(site, site.now()).map_err(|error| unavailable(&error))?;
    let ripe = expire::ripe(site, &judged).map_err(|error| unavailable(&error))?;
    let in_force = site.in_force();
    let (mut changes, mut warnings) = (Vec::new(), Vec::new());
    for doomed in site.catalog.doomed().map_err(|error| unavailable(&error))? {
        let goes = ripe.iter().any(|one| one.key() == doomed.key());
        let grace = expire::grace_of(
            &in_force.declared,
            &doomed.workload,
            &doomed.row,
            judged.clock,
            judged.now,
        );
        let told = standing(&doomed.row, grace).unwrap_or_default();
        let text = format!("{}: {told}", expire::subject(&doomed));
        if goes { changes.push(text) } else { warnings.push(text) }
    }
    Ok(Response::Plan { changes, warnings })
}

/// Refuses to promise what cannot be kept: a point whose every copy is gone or going.
pub(super) fn still_there(site: &Site, point: PointId) -> Answer<()> {
    let rows = site.catalog.ledger_of(point).map_err(|error| unavailable(&error))?;
    let going = |row: &LedgerRow| matches!(row.state, CopyState::Expired | CopyState::Removing);
    if rows.iter().all(going) {
        let text = format!("point {point} is gone, or being removed, in every copy");
        return Err(Refusal::new(RefusalKind::Unknown, text));
    }
    Ok(())
}
