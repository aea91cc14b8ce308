//! What is owed, as status says it: copies of the ledger, and what policies demand and points do
//! not show, with the evidence that is on record in the point itself.

use strongroom_protocol::opening::Refusal;
use strongroom_protocol::{PointId, WorkloadName};

use super::unavailable;
use crate::drills;
use crate::retention::{Consistency, ProofLevel};
use crate::site::Site;
use crate::unmet::{Unmet, unmet};

/// Characters of a point's evidence in one debt.
const EVIDENCE_CHARS_MAX: usize = 400;

/// Every debt, each in a sentence.
pub(super) fn debts(site: &Site) -> Result<Vec<String>, Refusal> {
    let copies = site.catalog.debts(None).map_err(|error| unavailable(&error))?;
    let copies = copies.iter().map(|debt| {
        let row = &debt.row;
        let why = row.last_error.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        format!("{} of {} owes copy {}{why}", debt.workload, debt.moment, row.copy)
    });
    let mut debts: Vec<String> = copies.collect();
    let now = site.now();
    let points = site.catalog.point_facts(None).map_err(|error| unavailable(&error))?;
    let histories = site.catalog.histories(now).map_err(|error| unavailable(&error))?;
    for debt in unmet(&site.in_force().declared, &points, &histories, now) {
        let evidence = match &debt {
            Unmet::Weak(weak) => evidence(site, weak.point),
            _ => String::new(),
        };
        debts.push(debt.sentence(&evidence));
    }
    debts.extend(drills::slow(site).map_err(|error| unavailable(&error))?);
    Ok(debts)
}

/// Copies from which the application did not start when that was last tried, each in a sentence.
pub(super) fn suspects(site: &Site) -> Result<Vec<String>, Refusal> {
    let suspects = site.catalog.suspects().map_err(|error| unavailable(&error))?;
    let told = suspects.iter().filter_map(|(workload, row)| {
        let failed = row.suspect()?;
        let (copy, short, at, why) = (&row.copy, row.point.short(), failed.at, &failed.detail);
        let what = match failed.level {
            ProofLevel::Started => "the application did not start from it",
            _ => "it did not hold in a drill",
        };
        Some(format!(
            "copy {copy} of point {short} of {workload} is suspect: {what} at {at}: {why}; \
             prove it again, and other points of it"
        ))
    });
    Ok(told.collect())
}

/// What the point itself says of why it holds no more.
pub(super) fn evidence(site: &Site, point: PointId) -> String {
    match site.repo.point(point) {
        Ok(manifest) if manifest.body.hooks.is_empty() => "it does not say why".to_owned(),
        Ok(manifest) => manifest.body.hooks.chars().take(EVIDENCE_CHARS_MAX).collect(),
        Err(_) => "its manifest cannot be read here".to_owned(),
    }
}

/// What the policy in force requires of a point of this workload, if the point holds less.
pub(super) fn required(
    site: &Site,
    workload: &WorkloadName,
    holds: Consistency,
) -> Option<Consistency> {
    let in_force = site.in_force();
    let policy = in_force.declared.policy_of(workload)?;
    Some(policy.require).filter(|required| *required > holds)
}
