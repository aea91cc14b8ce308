//! What a policy demands of a workload beside its copies, and nothing held shows: a point of less
//! consistency than `require`, a schedule that passed without a point, a proof that is missing or
//! too old. Pure: policy, points and the moment go in; debts come out, each with since when. A debt
//! ends by a point or a proof that meets it or by a policy that demands less, and by nothing else.

mod proof;

use std::collections::BTreeMap;

use strongroom_protocol::{PointId, Timestamp, WorkloadName};

use crate::policy::{Declared, Policy, Reach, Workload};
use crate::retention::{Consistency, CopyState, PointFacts};
use crate::schedule::{History, next_after};

pub use proof::Unproven;
use proof::unproven;

/// A run may take so long before its point is missed: as long as from one run to the next, but at
/// least a quarter of an hour and at most a day.
const SLACK_SECONDS_MIN: i64 = 900;
const SLACK_SECONDS_MAX: i64 = 86_400;

/// A debt of a workload.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Unmet {
    /// The schedule passed, and no point came.
    Late(Late),
    /// A copy was not proven as far or as lately as is wanted.
    Proof(Unproven),
    /// The newest point holds less than is required.
    Weak(Weak),
}

/// A schedule that passed without a point.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Late {
    pub workload: WorkloadName,
    pub required: Consistency,
    /// The moment of the newest point there is.
    pub last: Option<Timestamp>,
    /// When a point was due.
    pub since: Timestamp,
}

/// A newest point that holds too little.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Weak {
    pub workload: WorkloadName,
    pub required: Consistency,
    pub point: PointId,
    pub moment: Timestamp,
    pub holds: Consistency,
    pub gaps: u64,
    /// The moment of the newest point that holds what is required.
    pub met: Option<Timestamp>,
    /// The moment of the first point after it.
    pub since: Timestamp,
    /// What the kind of workload needs to hold more.
    pub way: &'static str,
}

/// Every debt of every declared workload; `histories` tell since when each is declared.
pub fn unmet(
    declared: &Declared,
    points: &[PointFacts],
    histories: &BTreeMap<WorkloadName, History>,
    now: Timestamp,
) -> Vec<Unmet> {
    let mut there: BTreeMap<&WorkloadName, Vec<&PointFacts>> = BTreeMap::new();
    for point in points.iter().filter(|point| is_there(point)) {
        there.entry(&point.workload).or_default().push(point);
    }
    let mut found = Vec::new();
    for workload in declared.workloads.values() {
        let Some(policy) = declared.policies.get(&workload.policy) else { continue };
        let mut points = there.remove(&workload.name).unwrap_or_default();
        points.sort_by_key(|point| (point.moment, point.point));
        let since = histories.get(&workload.name).map(|history| history.since);
        found.extend(weak(workload, policy, &points).map(Unmet::Weak));
        found.extend(late(workload, policy, &points, since, now).map(Unmet::Late));
        found.extend(unproven(workload, policy, &points, now).into_iter().map(Unmet::Proof));
    }
    found
}

fn is_there(point: &PointFacts) -> bool {
    point.copies.iter().any(|copy| copy.state == CopyState::Present)
}

fn weak(workload: &Workload, policy: &Policy, points: &[&PointFacts]) -> Option<Weak> {
    let newest = points.last()?;
    if newest.consistency >= policy.require {
        return None;
    }
    let met = points.iter().rposition(|point| point.consistency >= policy.require);
    let first = points.get(met.map_or(0, |met| met + 1))?;
    Some(Weak {
        workload: workload.name.clone(),
        required: policy.require,
        point: newest.point,
        moment: newest.moment,
        holds: newest.consistency,
        gaps: newest.gaps,
        met: met.and_then(|met| points.get(met)).map(|point| point.moment),
        since: first.moment,
        way: Reach::of(&workload.source).way,
    })
}

fn late(
    workload: &Workload,
    policy: &Policy,
    points: &[&PointFacts],
    declared: Option<Timestamp>,
    now: Timestamp,
) -> Option<Late> {
    let last = points.last().map(|point| point.moment);
    let anchor = last.or(declared)?;
    let slots = policy.schedule.iter().map(|cadence| {
        let after = |last| next_after(cadence, &policy.timezone, Some(last), now);
        let due = after(anchor);
        (due, after(due))
    });
    let (due, next) = slots.min()?;
    let slack = next.seconds_since(due).clamp(SLACK_SECONDS_MIN, SLACK_SECONDS_MAX);
    (now.seconds_since(due) > slack).then(|| Late {
        workload: workload.name.clone(),
        required: policy.require,
        last,
        since: due,
    })
}

impl Unmet {
    /// The debt in a sentence; `evidence` is what the newest point says of why it holds no more.
    pub fn sentence(&self, evidence: &str) -> String {
        match self {
            Self::Late(late) => late.sentence(),
            Self::Proof(unproven) => unproven.sentence(),
            Self::Weak(weak) => weak.sentence(evidence),
        }
    }
}

impl Late {
    fn sentence(&self) -> String {
        let Self { workload, required, last, since } = self;
        let last = match last {
            Some(last) => format!("the last is of {last}"),
            None => "there is none yet".to_owned(),
        };
        format!(
            "{workload} owes a point that holds {required}: one was due at {since}, {last}; \
             `strongroom jobs` says what came of its runs"
        )
    }
}

impl Weak {
    fn sentence(&self, evidence: &str) -> String {
        let Self { workload, required, moment, holds, since, way, .. } = self;
        let short = self.point.short();
        let gaps = match self.gaps {
            0 => String::new(),
            gaps => format!(", with {gaps} gaps"),
        };
        let met = match self.met {
            Some(met) => format!("the last point that held it is of {met}"),
            None => "no point that is there ever held it".to_owned(),
        };
        format!(
            "{workload} owes consistency {required}: its newest point {short} of {moment} holds \
             {holds}{gaps}: {evidence}; so since {since}, {met}; {way}"
        )
    }
}

#[cfg(test)]
mod tests {
    use strongroom_protocol::CopyName;

    use super::*;
    use crate::policy::{parse, primary};
    use crate::retention::CopyFacts;

    const POLICY: &str = "[policy.p]\nschedule = \"every 4h\"\ntimezone = \"UTC\"\n\
         require = \"crash\"\nprimary.keep = { newest = 9 }\n[workload.\"web@a\"]\n\
         agent = \"a\"\nkind = \"files\"\npath = \"/srv\"\npolicy = \"p\"\n";
    const HOUR: i64 = 3600;

    fn at(seconds: i64) -> Timestamp {
        // An hour at which the schedule runs.
        Timestamp::from_unix_seconds(1_780_012_800 + seconds)
    }

    fn point(n: u8, seconds: i64, holds: Consistency) -> PointFacts {
        let copy: CopyName = primary();
        PointFacts {
            point: PointId::from_bytes([n; 16]),
            workload: "web@a".parse().unwrap(),
            moment: at(seconds),
            consistency: holds,
            gaps: 0,
            copies: vec![CopyFacts::new(copy, CopyState::Present)],
        }
    }

    fn judged(points: &[PointFacts], now: i64) -> Vec<Unmet> {
        let declared = parse("p.toml", POLICY).unwrap().declared;
        let history = History { since: at(0), last: None, ahead: None };
        let histories = BTreeMap::from([("web@a".parse().unwrap(), history)]);
        unmet(&declared, points, &histories, at(now))
    }

    #[test]
    fn the_newest_point_decides_and_the_first_weak_one_dates_the_debt() {
        use Consistency::{Crash, Filesystem, Fuzzy};
        let mut points = vec![point(3, 3 * HOUR, Fuzzy), point(1, HOUR, Filesystem)];
        points.push(point(2, 2 * HOUR, Fuzzy));
        let found = judged(&points, 4 * HOUR);
        let [Unmet::Weak(weak)] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((weak.required, weak.holds, weak.moment), (Crash, Fuzzy, at(3 * HOUR)));
        assert_eq!((weak.met, weak.since), (Some(at(HOUR)), at(2 * HOUR)));
        let said = found[0].sentence("read live");
        for part in ["web@a owes consistency crash", "holds fuzzy: read live", "only on btrfs"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        // That it holds too little does not make up for one that never came.
        let both = judged(&points, 12 * HOUR + 1);
        assert!(matches!(both.as_slice(), [Unmet::Weak(_), Unmet::Late(_)]), "{both:?}");
        points.push(point(4, 4 * HOUR, Crash));
        assert_eq!(judged(&points, 4 * HOUR), []);
        // One that is nowhere any more shows nothing.
        points[3].copies[0].state = CopyState::Expired;
        assert_eq!(judged(&points, 4 * HOUR), found);
    }

    #[test]
    fn where_none_ever_held_it_the_debt_is_as_old_as_the_oldest() {
        let points = [point(1, 0, Consistency::Fuzzy), point(2, 9, Consistency::Fuzzy)];
        let found = judged(&points, 10);
        let [Unmet::Weak(weak)] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((weak.met, weak.since), (None, at(0)));
    }

    #[test]
    fn a_schedule_that_passed_without_a_point_is_a_debt_after_as_long_again() {
        assert_eq!(judged(&[], 8 * HOUR), []);
        let found = judged(&[], 8 * HOUR + 1);
        let [Unmet::Late(late)] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((late.last, late.since), (None, at(4 * HOUR)));
        let points = [point(1, HOUR, Consistency::Crash)];
        assert_eq!(judged(&points, 8 * HOUR), []);
        let found = judged(&points, 8 * HOUR + 1);
        let said = found[0].sentence("");
        assert!(said.contains("owes a point that holds crash") && said.contains("jobs"), "{said}");
        // A clock that went back makes no debt of a point that is yet to come.
        assert_eq!(judged(&[point(1, 99 * HOUR, Consistency::Crash)], 0), []);
    }

    #[test]
    fn what_no_policy_declares_owes_nothing() {
        let mut stranger = point(1, 0, Consistency::Fuzzy);
        stranger.workload = "other@a".parse().unwrap();
        assert_eq!(judged(&[stranger], 0), []);
    }
}
