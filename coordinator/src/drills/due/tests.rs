//! Tables of what is due.

use strongroom_protocol::JobId;

use super::*;
use crate::policy::{parse, primary};
use crate::retention::{Consistency, CopyFacts, ProofLevel};

const POLICY: &str = "[policy.p]\nschedule = \"every 4h\"\ntimezone = \"UTC\"\n\
     primary.keep = { newest = 9 }\n[policy.p.copy.far]\nkind = \"secondary-snap\"\n\
     from = \"primary\"\nnode = \"dr1\"\nkeep = { newest = 9 }\n\
     drill = { schedule = \"every 1d\", age = \"3d\", within = \"1h\" }\n\
     [workload.\"web@a\"]\nagent = \"a\"\nkind = \"files\"\npath = \"/srv\"\npolicy = \"p\"\n\
     [workload.\"db@a\"]\nagent = \"a\"\nkind = \"postgres\"\nhost = \"/run/pg\"\n\
     policy = \"p\"\ndrill = { query = \"SELECT 1\" }\n";
const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// From a midnight: intervals are counted from there.
fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(1_780_012_800 + seconds)
}

fn point(n: u8, workload: &str, far: CopyState) -> PointFacts {
    PointFacts {
        point: PointId::from_bytes([n; 16]),
        workload: workload.parse().unwrap(),
        moment: at(i64::from(n)),
        consistency: Consistency::Crash,
        gaps: 0,
        copies: vec![
            CopyFacts::new(primary(), CopyState::Present),
            CopyFacts::new("far".parse().unwrap(), far),
        ],
    }
}

fn drill(began: i64, verdict: Option<Verdict>) -> DrillRecord {
    DrillRecord {
        job: JobId::from_bytes([7; 16]),
        workload: "web@a".parse().unwrap(),
        point: PointId::from_bytes([1; 16]),
        moment: at(0),
        copy: "far".parse().unwrap(),
        node: "dr1".parse().unwrap(),
        kind: DrillKind::Files,
        by: "schedule".to_owned(),
        began: at(began),
        ended: verdict.map(|_| at(began)),
        verdict,
        level: ProofLevel::MountedChecked,
        took_ms: None,
        detail: String::new(),
    }
}

fn judged(points: &[PointFacts], drills: &[DrillRecord], now: i64) -> Vec<Due> {
    let declared = parse("p.toml", POLICY).unwrap().declared;
    let history = History { since: at(0), last: None, ahead: None };
    let histories = ["web@a", "db@a"].map(|name| (name.parse().unwrap(), history));
    let pasts = pasts(drills, at(now));
    due(&declared, points, &BTreeMap::from(histories), &pasts, at(now))
}

#[test]
fn the_newest_point_that_is_there_is_drilled_once_its_time_came() {
    let present = CopyState::Present;
    let mut points = vec![point(1, "web@a", present), point(2, "web@a", present)];
    points.push(point(3, "web@a", CopyState::Owed));
    assert_eq!(judged(&points, &[], DAY - 1), []);
    let found = judged(&points, &[], DAY);
    let [one] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((one.point, one.slot), (points[1].point, at(DAY)));
    assert_eq!((one.kind, one.seconds_max, one.node.as_str()), (DrillKind::Files, 3600, "dr1"));
    assert_eq!(judged(&points[2..], &[], DAY), [], "nothing is there to be drilled");
    points.push(point(4, "db@a", present));
    let found = judged(&points, &[drill(DAY, Some(Verdict::Held))], 2 * DAY);
    let order: Vec<&str> = found.iter().map(|due| due.workload.as_str()).collect();
    assert_eq!(order, ["db@a", "web@a"], "the longest overdue first");
    assert_eq!(found[0].kind, DrillKind::Postgres);
    assert_eq!(found[0].settings, [("query".to_owned(), "SELECT 1".to_owned())]);
}

#[test]
fn what_was_missed_is_made_up_for_once_and_what_did_not_hold_after_a_pause() {
    use Verdict::{BrokenOff, Failed, Held};
    let points = [point(1, "web@a", CopyState::Present)];
    type Row<'r> = (&'r str, &'r [(i64, Option<Verdict>)], i64, bool);
    let table: &[Row<'_>] = &[
        ("held a day ago", &[(0, Some(Held))], DAY, true),
        ("held less than a day ago", &[(0, Some(Held))], DAY - 1, false),
        ("held ten days ago", &[(0, Some(Held))], 10 * DAY, true),
        ("made up for", &[(10 * DAY, Some(Held)), (0, Some(Held))], 10 * DAY + 1, false),
        ("open", &[(DAY, None), (0, Some(Held))], 5 * DAY, false),
        ("failed just now", &[(DAY, Some(Failed)), (0, Some(Held))], DAY + 599, false),
        ("failed", &[(DAY, Some(Failed)), (0, Some(Held))], DAY + 600, true),
        (
            "broken off twice",
            &[(DAY + 600, Some(BrokenOff)), (DAY, Some(BrokenOff))],
            DAY + 600 + 1199,
            false,
        ),
        (
            "broken off twice, and rested",
            &[(DAY + 600, Some(BrokenOff)), (DAY, Some(BrokenOff))],
            DAY + 600 + 1200,
            true,
        ),
        ("what failed before it held", &[(DAY, Some(Held)), (0, Some(Failed))], DAY + 9, false),
        ("the clock went back", &[(50 * DAY, Some(Held))], 2 * DAY, true),
        (
            "and once is enough",
            &[(50 * DAY, Some(Held)), (2 * DAY, Some(Held))],
            2 * DAY + 9,
            false,
        ),
        ("failed ahead of the clock", &[(50 * DAY, Some(Failed))], 2 * DAY, true),
    ];
    for (what, drills, now, expected) in table {
        let drills: Vec<DrillRecord> =
            drills.iter().map(|(began, verdict)| drill(*began, *verdict)).collect();
        assert_eq!(!judged(&points, &drills, *now).is_empty(), *expected, "{what}");
    }
}

#[test]
fn the_pause_has_an_end() {
    let points = [point(1, "web@a", CopyState::Present)];
    let drills: Vec<DrillRecord> =
        (0..40).rev().map(|n| drill(DAY + n, Some(Verdict::Failed))).collect();
    assert_eq!(judged(&points, &drills, DAY + 39 + 6 * HOUR - 1), []);
    assert_eq!(judged(&points, &drills, DAY + 39 + 6 * HOUR).len(), 1);
}
