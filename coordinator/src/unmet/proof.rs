//! Proofs that a policy demands of its copies, and that are missing or too old: the newest of any
//! point in the copy counts, and one of a copy that is suspect does not. What was never proven is
//! a debt from the first point on.

use strongroom_protocol::{CopyName, NodeName, PointId, Timestamp, WorkloadName};

use crate::policy::{CopyKind, Policy, Prove, Seconds, Workload, proving};
use crate::retention::{CopyFacts, CopyState, PointFacts, ProofLevel};

/// A proof that is missing, or too old.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unproven {
    pub workload: WorkloadName,
    pub copy: CopyName,
    pub prove: Prove,
    /// When the newest was made.
    pub newest: Option<Timestamp>,
    /// The last try, if it failed and none held since: of which point, and when.
    pub failed: Option<(PointId, Timestamp)>,
    pub since: Timestamp,
    /// What pays it.
    pub way: String,
}

/// Every proof that is wanted of a workload and not there; `points` are oldest first.
pub(super) fn unproven(
    workload: &Workload,
    policy: &Policy,
    points: &[&PointFacts],
    now: Timestamp,
) -> Vec<Unproven> {
    let drilled = policy.copies.values().filter_map(|copy| {
        let rule = copy.drill.as_ref()?;
        Some((copy.name.clone(), rule.proof(&workload.source), Some(&copy.kind)))
    });
    let wanted = policy.proofs().chain(drilled).filter_map(|(copy, prove, kind)| {
        let present = points.iter().filter_map(|point| {
            let facts = point.copy(&copy).filter(|facts| facts.state == CopyState::Present)?;
            Some((*point, facts))
        });
        let present: Vec<(&PointFacts, &CopyFacts)> = present.collect();
        // What is not there is owed itself.
        let (first, _) = present.first()?;
        let newest = present.iter().filter_map(|(_, facts)| proven(facts, prove.level)).max();
        let every = i64::try_from(prove.every_seconds).unwrap_or(i64::MAX);
        if newest.is_some_and(|newest| now.seconds_since(newest) <= every) {
            return None;
        }
        let failed =
            present.iter().filter_map(|(point, facts)| facts.suspect.map(|at| (point.point, at)));
        let failed = failed.max_by_key(|(_, at)| *at);
        let node = policy.copies.get(&copy).map(|copy| &copy.node);
        Some(Unproven {
            workload: workload.name.clone(),
            way: way(workload, policy, &copy, prove, kind.zip(node)),
            copy,
            prove,
            newest,
            failed: failed.filter(|(_, at)| newest.is_none_or(|newest| newest < *at)),
            since: newest.map_or(first.moment, |newest| newest.plus_seconds(every)),
        })
    });
    wanted.collect()
}

/// When a copy was last proven as far as `level`.
fn proven(facts: &CopyFacts, level: ProofLevel) -> Option<Timestamp> {
    let read = facts.proof.filter(|proof| proof.level >= level).map(|proof| proof.at);
    let best = facts.proven().filter(|proof| proof.level >= level).map(|proof| proof.at);
    read.max(best)
}

/// Who or what makes the proof.
fn way(
    workload: &Workload,
    policy: &Policy,
    copy: &CopyName,
    prove: Prove,
    place: Option<(&CopyKind, &NodeName)>,
) -> String {
    let of = &workload.name;
    let read = place.map(|(kind, _)| kind.proven_by_reading());
    if let Some((_, node)) = place.filter(|_| read.is_some_and(|read| read >= prove.level)) {
        return format!("{node} makes it by itself once it is connected and idle");
    }
    let rule = policy.copies.get(copy).and_then(|copy| copy.drill.as_ref());
    if rule.is_some_and(|rule| rule.proof(&workload.source).level >= prove.level) {
        return format!(
            "a drill makes it at its time; `strongroom drill run {of} --copy {copy}` makes one now"
        );
    }
    let Some(command) = proving(&workload.source) else {
        return "nothing makes it of this kind of workload".to_owned();
    };
    let from = match place {
        None => "--from primary".to_owned(),
        Some((CopyKind::SecondarySnap, _)) => "--from secondary".to_owned(),
        Some((CopyKind::Aux { .. }, _)) => format!("--media LIBRARY --record {copy}"),
    };
    format!("`strongroom {command} prove latest:{of} {from}` makes it")
}

impl Unproven {
    pub(super) fn sentence(&self) -> String {
        let Self { workload, copy, prove, since, way, .. } = self;
        let (level, every) = (prove.level, Seconds(prove.every_seconds));
        let newest = match self.newest {
            Some(newest) => format!("the newest is of {newest}"),
            None => "there is none".to_owned(),
        };
        let failed = match self.failed {
            Some((point, at)) => {
                format!(", the last try, of point {} at {at}, failed", point.short())
            }
            None => String::new(),
        };
        format!(
            "{workload} owes proof {level} of copy {copy}: wanted every {every}, {newest}{failed}; \
             so since {since}; {way}"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::policy::{Declared, parse};
    use crate::retention::{Consistency, Proof};
    use crate::unmet::{Unmet, unmet};

    const POLICY: &str = "[policy.p]\ntimezone = \"UTC\"\nprimary.keep = { newest = 9 }\n\
         primary.prove = { level = \"started\", every = \"30d\" }\n\
         [policy.p.copy.far]\nkind = \"secondary-snap\"\nfrom = \"primary\"\nnode = \"dr1\"\n\
         keep = { newest = 9 }\nprove = { level = \"readable\", every = \"7d\" }\n\
         [policy.p.copy.tape]\nkind = \"aux\"\nfrom = \"far\"\nmedia_set = \"m\"\n\
         keep = { newest = 9 }\nprove = { level = \"started\", every = \"1y\" }\n\
         [workload.\"db@a\"]\nagent = \"a\"\nkind = \"postgres\"\nhost = \"/run/pg\"\n\
         policy = \"p\"\n";
    const DAY: i64 = 86_400;

    fn at(days: i64) -> Timestamp {
        Timestamp::from_unix_seconds(1_780_000_000 + days * DAY)
    }

    fn declared() -> Declared {
        parse("p.toml", POLICY).unwrap().declared
    }

    fn point(n: u8, copies: &[&str]) -> PointFacts {
        let present = |name: &&str| CopyFacts::new(name.parse().unwrap(), CopyState::Present);
        PointFacts {
            point: PointId::from_bytes([n; 16]),
            workload: "db@a".parse().unwrap(),
            moment: at(i64::from(n)),
            consistency: Consistency::Application,
            gaps: 0,
            copies: copies.iter().map(present).collect(),
        }
    }

    fn owed(points: &[PointFacts], day: i64) -> Vec<Unproven> {
        let found = unmet(&declared(), points, &BTreeMap::new(), at(day));
        let proofs = found.into_iter().map(|debt| match debt {
            Unmet::Proof(unproven) => unproven,
            other => panic!("{other:?}"),
        });
        proofs.collect()
    }

    #[test]
    fn what_was_never_proven_is_owed_from_the_first_point_that_is_there() {
        assert_eq!(owed(&[], 9), []);
        let found = owed(&[point(2, &["primary"]), point(1, &["primary"])], 3);
        let [unproven] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((unproven.copy.as_str(), unproven.since), ("primary", at(1)));
        let said = unproven.sentence();
        let pays = "`strongroom postgres prove latest:db@a --from primary` makes it";
        assert!(said.contains("there is none") && said.ends_with(pays), "{said}");
        let mut gone = point(1, &["primary"]);
        gone.copies[0].state = CopyState::Owed;
        assert_eq!(owed(&[gone], 9), []);
    }

    #[test]
    fn the_newest_proof_of_any_point_pays_until_it_is_too_old() {
        let mut points = [point(1, &["primary"]), point(2, &["primary"])];
        points[0].copies[0].started = Some(Proof { level: ProofLevel::Started, at: at(5) });
        assert_eq!(owed(&points, 35), []);
        let found = owed(&points, 36);
        assert_eq!((found[0].newest, found[0].since), (Some(at(5)), at(35)));
        assert!(found[0].sentence().contains("wanted every 30d, the newest is of"));
        points[1].copies[0].started = Some(Proof { level: ProofLevel::Started, at: at(36) });
        assert_eq!(owed(&points, 66), []);
        // Reading is less than starting, however new.
        points[1].copies[0].started = None;
        points[1].copies[0].proof = Some(Proof { level: ProofLevel::Readable, at: at(36) });
        assert_eq!(owed(&points, 36).len(), 1);
        // A clock that went back does not age what was proven.
        assert_eq!(owed(&points, 1), []);
    }

    #[test]
    fn a_failed_try_does_not_pay_and_is_told() {
        let mut points = [point(1, &["primary"])];
        points[0].copies[0].started = Some(Proof { level: ProofLevel::Started, at: at(5) });
        points[0].copies[0].suspect = Some(at(6));
        let found = owed(&points, 7);
        assert_eq!((found[0].newest, found[0].failed), (None, Some((points[0].point, at(6)))));
        assert!(found[0].sentence().contains("the last try, of point 01010101"), "{found:?}");
    }

    #[test]
    fn each_copy_has_its_own_rule_and_its_own_way_out() {
        let mut points = [point(1, &["far", "tape"])];
        let found = owed(&points, 2);
        let ways: Vec<&str> = found.iter().map(|unproven| unproven.way.as_str()).collect();
        assert!(ways[0].contains("dr1 makes it by itself"), "{ways:?}");
        assert!(ways[1].contains("latest:db@a --media LIBRARY --record tape"), "{ways:?}");
        points[0].copies[0].proof = Some(Proof { level: ProofLevel::Readable, at: at(1) });
        points[0].copies[1].started = Some(Proof { level: ProofLevel::Started, at: at(1) });
        assert_eq!(owed(&points, 8), []);
        // A start is worth more than reading, and pays that too.
        points[0].copies[0].proof = None;
        points[0].copies[0].started = Some(Proof { level: ProofLevel::Started, at: at(9) });
        assert_eq!(owed(&points, 16), []);
        assert_eq!(owed(&points, 17)[0].copy.as_str(), "far");
    }
}
