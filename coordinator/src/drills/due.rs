//! Which drill is due of which point. Pure: the policy, the points, the drills on record and the
//! moment go in. A drill is of the newest point that is present in the copy. A time that passed
//! without a drill that held is made up for once; one that failed or broke off is made again after
//! a pause that grows. A clock that went back makes one drill, and no storm of them.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use strongroom_protocol::drill::DrillKind;
use strongroom_protocol::{CopyName, NodeName, PointId, Timestamp, WorkloadName};

use crate::catalog::{DrillRecord, Verdict};
use crate::policy::{Copy, Declared, kind_of};
use crate::retention::{CopyState, PointFacts};
use crate::schedule::{History, next_after};

/// A drill that did not hold is made again after this, doubling up to the longest.
const PAUSE_SECONDS_FIRST: i64 = 600;
const PAUSE_SECONDS_MAX: i64 = 6 * 3600;
const DOUBLINGS_MAX: u32 = 10;

/// What a drill was of.
pub(crate) type Place = (WorkloadName, CopyName);

/// The drills of a workload's copy, as far as they decide about the next.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Past {
    /// The newest that held.
    pub(crate) held: Option<DrillRecord>,
    /// How many did not since.
    misses: u32,
    /// When the last of those ended.
    missed: Option<Timestamp>,
    /// One of which nothing is known yet.
    is_open: bool,
}

/// What drills on record say, newest first; of those that lie after now nothing where there are
/// others.
pub(crate) fn pasts(drills: &[DrillRecord], now: Timestamp) -> BTreeMap<Place, Past> {
    let limit = History::newest_now(now);
    let mut pasts: BTreeMap<Place, Past> = BTreeMap::new();
    let (past, ahead): (Vec<_>, Vec<_>) = drills.iter().partition(|drill| drill.began <= limit);
    for drill in past.into_iter().chain(ahead) {
        let place = (drill.workload.clone(), drill.copy.clone());
        let known = pasts.entry(place).or_default();
        if known.held.is_some() {
            continue;
        }
        match drill.verdict {
            Some(Verdict::Held) => known.held = Some(drill.clone()),
            Some(Verdict::BrokenOff | Verdict::Failed) if drill.began <= limit => {
                known.misses = known.misses.saturating_add(1);
                known.missed = known.missed.max(Some(drill.ended.unwrap_or(drill.began)));
            }
            Some(Verdict::BrokenOff | Verdict::Failed) => {}
            None => known.is_open = true,
        }
    }
    pasts
}

/// A drill whose time has come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Due {
    pub(crate) workload: WorkloadName,
    pub(crate) copy: CopyName,
    pub(crate) node: NodeName,
    pub(crate) point: PointId,
    pub(crate) moment: Timestamp,
    pub(crate) kind: DrillKind,
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) seconds_max: u32,
    /// When it was due.
    pub(crate) slot: Timestamp,
}

/// The newest point that is present in a copy, and its moment.
pub(crate) fn newest(
    points: &[PointFacts],
    workload: &WorkloadName,
    copy: &CopyName,
) -> Option<(PointId, Timestamp)> {
    let there = points.iter().filter(|point| {
        let row = point.copy(copy);
        point.workload == *workload && row.is_some_and(|row| row.state == CopyState::Present)
    });
    let newest = there.max_by_key(|point| (point.moment, point.point))?;
    Some((newest.point, newest.moment))
}

/// A drill of a copy's newest point that is made now; none where there is no point.
pub(crate) fn drill_of(
    declared: &Declared,
    points: &[PointFacts],
    (workload, copy): (&WorkloadName, &Copy),
    (slot, seconds_max): (Timestamp, u32),
) -> Option<Due> {
    let of = declared.workloads.get(workload)?;
    let (point, moment) = newest(points, workload, &copy.name)?;
    Some(Due {
        workload: workload.clone(),
        copy: copy.name.clone(),
        node: copy.node.clone(),
        point,
        moment,
        kind: kind_of(&of.source),
        settings: of.drill.clone(),
        seconds_max,
        slot,
    })
}

/// Every drill that is due, the longest overdue first.
pub(crate) fn due(
    declared: &Declared,
    points: &[PointFacts],
    histories: &BTreeMap<WorkloadName, History>,
    pasts: &BTreeMap<Place, Past>,
    now: Timestamp,
) -> Vec<Due> {
    let mut found = Vec::new();
    let none = Past::default();
    for workload in declared.workloads.values() {
        let Some(policy) = declared.policies.get(&workload.policy) else { continue };
        let since = histories.get(&workload.name).map_or(now, |history| history.since);
        for copy in policy.copies.values() {
            let Some(rule) = &copy.drill else { continue };
            let past = pasts.get(&(workload.name.clone(), copy.name.clone())).unwrap_or(&none);
            let last = past.held.as_ref().map_or(since, |held| held.began);
            let slots = rule.schedule.iter();
            let slots = slots.map(|cadence| next_after(cadence, &policy.timezone, Some(last), now));
            let Some(slot) = slots.min().filter(|slot| *slot <= now) else { continue };
            if past.is_open || rests(past, now) {
                continue;
            }
            let when = (slot, rule.seconds_max);
            found.extend(drill_of(declared, points, (&workload.name, copy), when));
        }
    }
    found.sort_by_key(|due| (due.slot, Reverse(due.moment), due.workload.clone()));
    found
}

/// Whether one that did not hold is too short ago. A pause longer than the longest means that the
/// clock went back since: it is over.
fn rests(past: &Past, now: Timestamp) -> bool {
    let Some(missed) = past.missed else { return false };
    let doublings = past.misses.saturating_sub(1).min(DOUBLINGS_MAX);
    let until = missed.plus_seconds((PAUSE_SECONDS_FIRST << doublings).min(PAUSE_SECONDS_MAX));
    until > now && until <= now.plus_seconds(PAUSE_SECONDS_MAX)
}

#[cfg(test)]
mod tests;
