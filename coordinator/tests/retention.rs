//! Retention: each reason by example, and the laws over random points, rules and clocks.

#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::TimeZone;
use proptest::prelude::*;
use strongroom_coordinator::retention::{
    AfterEvent, Consistency, CopyFacts, CopyRules, CopyState, Hold, Keep, Marks, Period, Pin,
    PointFacts, Proof, ProofLevel, Reason, Rules, Safety, Stance, Verdict, WorkloadRules, evaluate,
    what_if, why,
};
use strongroom_protocol::{CopyName, PointId, Timestamp};

const DAY: i64 = 86_400;
const START: i64 = 1_767_225_600; // 2026-01-01T00:00:00Z

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(START + seconds)
}

fn id(n: usize) -> PointId {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&(n as u64).to_be_bytes());
    PointId::from_bytes(bytes)
}

fn name(text: &str) -> CopyName {
    text.parse().unwrap()
}

fn facts(copy: &str, state: CopyState) -> CopyFacts {
    CopyFacts::new(name(copy), state)
}

fn point(n: usize, seconds: i64, copies: &[(&str, CopyState)]) -> PointFacts {
    PointFacts {
        point: id(n),
        workload: "w@a".parse().unwrap(),
        moment: at(seconds),
        consistency: Consistency::Crash,
        gaps: 0,
        copies: copies.iter().map(|(copy, state)| facts(copy, *state)).collect(),
    }
}

fn rule(copy: &str, from: Option<&str>, keep: Keep) -> CopyRules {
    CopyRules { copy: name(copy), from: from.map(name), keep, every: None, defer_seconds: 0 }
}

fn rules(copies: Vec<CopyRules>) -> Rules {
    let timezone = TimeZone::get("Europe/London").unwrap();
    let of = WorkloadRules { timezone, require: Consistency::Crash, copies };
    Rules { workloads: BTreeMap::from([("w@a".parse().unwrap(), of)]) }
}

fn newest(count: u32) -> Keep {
    Keep { newest: count, ..Keep::default() }
}

fn gfs(period: Period, count: u32) -> Keep {
    Keep { gfs: BTreeMap::from([(period, count)]), ..Keep::default() }
}

/// Point numbers with this stance in this copy.
fn with(verdicts: &[Verdict], copy: &str, stance: Stance) -> Vec<u64> {
    let fitting = verdicts.iter().filter(|v| v.copy == name(copy) && v.stance == stance);
    let number = |v: &Verdict| u64::from_be_bytes(*v.point.as_bytes().last_chunk().unwrap());
    fitting.map(number).collect()
}

use CopyState::{Expired, Failed, Owed, Present, Working};

const PRIMARY: &[(&str, CopyState)] = &[("primary", Present)];

#[test]
fn newest_gfs_and_minimum_age_add_up() {
    let points: Vec<PointFacts> = (0..20).map(|n| point(n, n as i64 * DAY / 2, PRIMARY)).collect();
    let keep = Keep {
        newest: 2,
        gfs: BTreeMap::from([(Period::Day, 4)]),
        min_age_seconds: Some(3 * DAY as u64),
        after: vec![],
    };
    let now = at(10 * DAY);
    let verdicts =
        evaluate(&points, &rules(vec![rule("primary", None, keep)]), &Marks::default(), now);
    assert_eq!(with(&verdicts, "primary", Stance::Keep), [12, 14, 15, 16, 17, 18, 19]);
    let fifteen = verdicts.iter().find(|v| v.point == id(15)).unwrap();
    assert_eq!(fifteen.keep, [Reason::MinAge { until: at(15 * DAY / 2 + 3 * DAY) }]);
    assert_eq!(fifteen.expires_at, Some(at(15 * DAY / 2 + 3 * DAY)));
    let twelve = verdicts.iter().find(|v| v.point == id(12)).unwrap();
    let label = "2026-01-07".to_owned();
    assert_eq!(twelve.keep, [Reason::Gfs { period: Period::Day, label }]);
    assert_eq!(twelve.expires_at, None);
}

#[test]
fn an_event_rule_keeps_while_open_and_counts_from_the_end() {
    let event: strongroom_coordinator::retention::Label = "contract-42".parse().unwrap();
    let after = vec![AfterEvent { event: event.clone(), keep_seconds: 7 * 366 * DAY as u64 }];
    let rules = rules(vec![rule("primary", None, Keep { after, ..Keep::default() })]);
    let points = [point(1, 0, PRIMARY), point(2, DAY, PRIMARY)];
    let late = at(20 * 366 * DAY);
    let kept =
        |marks: &Marks, now| with(&evaluate(&points, &rules, marks, now), "primary", Stance::Keep);
    assert_eq!(kept(&Marks::default(), late), [1, 2], "unknown keeps");
    let open = Marks { events: [(event.clone(), None)].into(), ..Marks::default() };
    assert_eq!(kept(&open, late), [1, 2]);
    let ended = Marks { events: [(event, Some(at(DAY)))].into(), ..Marks::default() };
    assert_eq!(kept(&ended, at(DAY + 7 * 366 * DAY - 1)), [1, 2]);
    assert_eq!(kept(&ended, at(DAY + 7 * 366 * DAY)), [2], "only the newest");
}

#[test]
fn holds_pins_and_locks_keep_and_say_who() {
    let mut points: Vec<PointFacts> = (0..6).map(|n| point(n, n as i64 * DAY, PRIMARY)).collect();
    points[2].copies[0].lock_until = Some(at(50 * DAY));
    let hold = Hold {
        name: "case 17".parse().unwrap(),
        by: "ann".into(),
        why: "court".into(),
        placed: at(0),
        points: BTreeSet::from([id(0)]),
        workloads: BTreeSet::new(),
    };
    let pin = |until| Pin { point: id(1), copy: None, by: "bob".into(), why: String::new(), until };
    let marks = Marks { holds: vec![hold.clone()], pins: vec![pin(None)], ..Marks::default() };
    let rules = rules(vec![rule("primary", None, newest(1))]);
    let verdicts = evaluate(&points, &rules, &marks, at(40 * DAY));
    assert_eq!(with(&verdicts, "primary", Stance::Keep), [0, 1, 2, 5]);
    assert_eq!(verdicts[0].keep[0].to_string(), "hold case 17 by ann: court");
    assert_eq!(verdicts[2].expires_at, Some(at(50 * DAY)));
    let marks = Marks { pins: vec![pin(Some(at(60 * DAY)))], ..Marks::default() };
    let verdicts = evaluate(&points, &rules, &marks, at(60 * DAY));
    assert_eq!(with(&verdicts, "primary", Stance::Keep), [5], "all ended");
    let whole = Hold {
        points: BTreeSet::new(),
        workloads: BTreeSet::from(["w@a".parse().unwrap()]),
        ..hold
    };
    let marks = Marks { holds: vec![whole], ..Marks::default() };
    let verdicts = evaluate(&points, &rules, &marks, at(60 * DAY));
    assert_eq!(with(&verdicts, "primary", Stance::Keep).len(), 6);
}

#[test]
fn the_last_good_and_the_last_proven_stay_behind_newer_ones() {
    let mut points: Vec<PointFacts> = (0..5).map(|n| point(n, n as i64 * DAY, PRIMARY)).collect();
    points[1].copies[0].proof = Some(Proof { level: ProofLevel::MountedChecked, at: at(DAY) });
    points[3].gaps = 7;
    points[4].consistency = Consistency::Fuzzy;
    let rules = rules(vec![rule("primary", None, Keep::default())]);
    let verdicts = evaluate(&points, &rules, &Marks::default(), at(99 * DAY));
    assert_eq!(with(&verdicts, "primary", Stance::Keep), [1, 2, 4]);
    assert_eq!(verdicts[2].keep, [Reason::Safety(Safety::LastGood)]);
    assert_eq!(verdicts[4].keep, [Reason::Safety(Safety::Latest)]);
}

#[test]
fn a_copy_owed_keeps_its_source_through_the_chain() {
    let tape =
        CopyRules { every: Some(Period::Week), ..rule("tape", Some("secondary"), newest(9)) };
    let rules = rules(vec![
        rule("primary", None, newest(1)),
        rule("secondary", Some("primary"), newest(1)),
        tape,
    ]);
    // Monday 2026-01-05 to Friday; only the week's first goes to tape.
    let days = [4, 5, 6, 7, 8];
    let mut points: Vec<PointFacts> = (0..5).map(|n| point(n, days[n] * DAY, PRIMARY)).collect();
    let now = at(9 * DAY);
    let verdicts = evaluate(&points, &rules, &Marks::default(), now);
    assert_eq!(with(&verdicts, "tape", Stance::Owe), [0]);
    assert_eq!(with(&verdicts, "secondary", Stance::Owe), [0, 4], "needed for the tape");
    assert_eq!(with(&verdicts, "primary", Stance::Keep), [0, 4]);
    assert_eq!(with(&verdicts, "primary", Stance::Expire), [1, 2, 3]);
    points[0].copies.push(facts("secondary", Present));
    points[0].copies.push(facts("tape", Working));
    points[4].copies.push(facts("secondary", Failed));
    let verdicts = evaluate(&points, &rules, &Marks::default(), now);
    assert_eq!(with(&verdicts, "primary", Stance::Keep), [4]);
    assert_eq!(with(&verdicts, "secondary", Stance::Keep), [0]);
    points[0].copies[2].state = Present;
    points[4].copies[1].state = Present;
    let verdicts = evaluate(&points, &rules, &Marks::default(), now);
    assert_eq!(with(&verdicts, "secondary", Stance::Expire), [0]);
    assert_eq!(with(&verdicts, "tape", Stance::Keep), [0]);
    assert!(with(&verdicts, "tape", Stance::Owe).is_empty());
}

#[test]
fn nothing_there_expires_for_something_that_has_not_arrived() {
    let rules = rules(vec![
        rule("primary", None, newest(10)),
        rule("secondary", Some("primary"), newest(2)),
    ]);
    let both = [("primary", Present), ("secondary", Present)];
    let owed = [("primary", Present), ("secondary", Owed)];
    let points: Vec<PointFacts> =
        (0..6).map(|n| point(n, n as i64 * DAY, if n < 3 { &both } else { &owed })).collect();
    let verdicts = evaluate(&points, &rules, &Marks::default(), at(9 * DAY));
    assert_eq!(with(&verdicts, "secondary", Stance::Keep), [1, 2]);
    assert_eq!(with(&verdicts, "secondary", Stance::Owe), [4, 5]);
    assert_eq!(with(&verdicts, "secondary", Stance::Lapse), [3]);
}

#[test]
fn a_debt_without_a_source_is_no_debt() {
    let rules = rules(vec![
        rule("primary", None, newest(1)),
        rule("secondary", Some("primary"), newest(9)),
    ]);
    let points = [point(1, 0, &[("primary", Expired)]), point(2, DAY, PRIMARY)];
    let verdicts = evaluate(&points, &rules, &Marks::default(), at(9 * DAY));
    assert_eq!(with(&verdicts, "secondary", Stance::Owe), [2]);
}

#[test]
fn what_no_policy_declares_stays_until_someone_decides() {
    let points = [point(1, 0, &[("primary", Present), ("old", Present), ("older", Owed)])];
    let verdicts = evaluate(&points, &Rules::default(), &Marks::default(), at(9999 * DAY));
    assert_eq!(with(&verdicts, "primary", Stance::Keep), [1]);
    assert_eq!(with(&verdicts, "older", Stance::Lapse), [1]);
    assert_eq!(verdicts[0].keep, [Reason::Undecided]);
    let rules = rules(vec![rule("primary", None, newest(1))]);
    let verdicts = why(id(1), &points, &rules, &Marks::default(), at(9999 * DAY));
    assert_eq!(with(&verdicts, "old", Stance::Keep), [1]);
}

#[test]
fn a_clock_set_back_decides_nothing_by_the_future() {
    let points: Vec<PointFacts> = (0..6).map(|n| point(n, n as i64 * 365 * DAY, PRIMARY)).collect();
    let rules = rules(vec![rule("primary", None, newest(1))]);
    let verdicts = evaluate(&points, &rules, &Marks::default(), at(3 * 365 * DAY));
    assert_eq!(with(&verdicts, "primary", Stance::Keep), [3, 4, 5]);
    assert_eq!(verdicts[5].keep, [Reason::FutureDated]);
}

#[test]
fn what_if_names_only_what_changes_and_why() {
    let points: Vec<PointFacts> = (0..4).map(|n| point(n, n as i64 * DAY, PRIMARY)).collect();
    let rules = |count| rules(vec![rule("primary", None, newest(count))]);
    let changes = what_if(&points, &rules(4), &rules(2), &Marks::default(), at(9 * DAY));
    assert_eq!(changes.len(), 2);
    let text = changes[0].to_string();
    assert!(text.contains("keep -> expire (was kept because among the newest 4"), "{text}");
}

fn any_keep() -> impl Strategy<Value = Keep> {
    let gfs = proptest::collection::btree_map(
        proptest::sample::select(Period::ALL.to_vec()),
        0..5_u32,
        0..4,
    );
    (0..4_u32, gfs, proptest::option::of(0..40_u64)).prop_map(|(newest, gfs, age)| Keep {
        newest,
        gfs,
        min_age_seconds: age.map(|days| days * DAY as u64),
        after: vec![],
    })
}

fn any_points() -> impl Strategy<Value = Vec<PointFacts>> {
    let states = prop_oneof![
        Just(None),
        Just(Some(Present)),
        Just(Some(Owed)),
        Just(Some(Failed)),
        Just(Some(Expired))
    ];
    let one =
        (0..400 * 24_i64, prop_oneof![3 => Just(Present), 1 => Just(Expired)], states, 0..4_u64);
    proptest::collection::vec(one, 1..40).prop_map(|all| {
        let each = all.into_iter().enumerate().map(|(n, (hour, primary, secondary, gaps))| {
            let mut point = point(n, hour * 3600, &[("primary", primary)]);
            point.copies.extend(secondary.map(|state| facts("secondary", state)));
            point.gaps = gaps / 3;
            point
        });
        each.collect()
    })
}

fn two(primary: &Keep, secondary: &Keep, every: Option<Period>) -> Rules {
    let second = CopyRules { every, ..rule("secondary", Some("primary"), secondary.clone()) };
    rules(vec![rule("primary", None, primary.clone()), second])
}

type Cells = BTreeSet<(PointId, CopyName)>;

fn kept(verdicts: &[Verdict]) -> Cells {
    let kept = verdicts.iter().filter(|v| v.stance == Stance::Keep);
    kept.map(|v| (v.point, v.copy.clone())).collect()
}

proptest! {
    #[test]
    fn adding_a_rule_never_removes_a_keep(
        points in any_points(), primary in any_keep(), secondary in any_keep(),
        more in any_keep(), now_days in 0..500_i64,
    ) {
        let wider = |keep: &Keep| {
            let mut wide = keep.clone();
            wide.newest = wide.newest.max(more.newest);
            for (period, count) in &more.gfs {
                let both = wide.gfs.entry(*period).or_default();
                *both = (*both).max(*count);
            }
            wide.min_age_seconds = wide.min_age_seconds.max(more.min_age_seconds);
            wide
        };
        let now = at(now_days * DAY);
        let marks = Marks::default();
        let before = kept(&evaluate(&points, &two(&primary, &secondary, None), &marks, now));
        for rules in [
            two(&wider(&primary), &secondary, None),
            two(&primary, &wider(&secondary), None),
            two(&wider(&primary), &wider(&secondary), None),
        ] {
            let after = kept(&evaluate(&points, &rules, &marks, now));
            prop_assert!(before.is_subset(&after), "{:?}", before.difference(&after));
        }
    }

    #[test]
    fn no_clock_loses_the_newest_the_pinned_the_held_or_the_proven(
        mut points in any_points(), primary in any_keep(), secondary in any_keep(),
        now_days in -4000..4000_i64, chosen in any::<proptest::sample::Index>(),
    ) {
        let chosen = chosen.index(points.len());
        points[chosen].copies[0].state = Present;
        points[chosen].copies[0].proof = Some(Proof { level: ProofLevel::Readable, at: at(0) });
        let hold = Hold {
            name: "h".parse().unwrap(), by: "a".into(), why: "w".into(), placed: at(0),
            points: BTreeSet::from([points[0].point]), workloads: BTreeSet::new(),
        };
        let last = points.len() - 1;
        let pin = Pin {
            point: points[last].point, copy: None, by: "a".into(), why: "".into(), until: None,
        };
        let marks = Marks { holds: vec![hold], pins: vec![pin], ..Marks::default() };
        let rules = two(&primary, &secondary, None);
        let verdicts = evaluate(&points, &rules, &marks, at(now_days * DAY));
        let kept = kept(&verdicts);
        for copy in ["primary", "secondary"] {
            let present = |p: &&PointFacts| p.copy(&name(copy)).is_some_and(|c| c.state == Present);
            let there = points.iter().filter(present);
            if let Some(newest) = there.clone().max_by_key(|p| (p.moment, p.point)) {
                prop_assert!(kept.contains(&(newest.point, name(copy))));
            }
            let both = [points[0].point, points[last].point];
            for marked in there.filter(|p| both.contains(&p.point)) {
                prop_assert!(kept.contains(&(marked.point, name(copy))));
            }
        }
        prop_assert!(kept.contains(&(points[chosen].point, name("primary"))));
    }

    #[test]
    fn gfs_picks_exactly_one_of_each_bucket(points in any_points(), count in 1..9_u32) {
        for period in Period::ALL {
            let rules = rules(vec![rule("primary", None, gfs(*period, count))]);
            let verdicts = evaluate(&points, &rules, &Marks::default(), at(9999 * DAY));
            let mut labels = Vec::new();
            for reason in verdicts.iter().flat_map(|v| &v.keep) {
                if let Reason::Gfs { label, .. } = reason {
                    labels.push(label.clone());
                }
            }
            let distinct: BTreeSet<&String> = labels.iter().collect();
            prop_assert_eq!(distinct.len(), labels.len());
            let there = points.iter().filter(|p| p.copies[0].state == Present).count();
            prop_assert!(labels.len() <= there.min(count as usize));
            prop_assert!(there == 0 || !labels.is_empty());
        }
    }

    #[test]
    fn verdicts_are_one_a_cell_and_reasons_fit_the_stance(
        points in any_points(), primary in any_keep(), secondary in any_keep(),
        every in proptest::option::of(proptest::sample::select(Period::ALL.to_vec())),
    ) {
        let rules = two(&primary, &secondary, every);
        let verdicts = evaluate(&points, &rules, &Marks::default(), at(500 * DAY));
        let cells: Cells = verdicts.iter().map(|v| (v.point, v.copy.clone())).collect();
        prop_assert_eq!(cells.len(), verdicts.len());
        for verdict in &verdicts {
            let wanted = matches!(verdict.stance, Stance::Keep | Stance::Owe);
            prop_assert_eq!(wanted, !verdict.keep.is_empty());
        }
        let secondary = verdicts.iter().filter(|v| v.copy == name("secondary"));
        for debt in secondary.filter(|v| v.stance == Stance::Owe) {
            let of_point = |v: &&Verdict| v.point == debt.point && v.copy == name("primary");
            let source = verdicts.iter().find(of_point);
            prop_assert_eq!(source.map(|v| v.stance), Some(Stance::Keep));
        }
    }
}
