//! What policies demand: what can never be met is refused by name, what only points can show is
//! doubted until they do; what starts of the application showed is kept, and keeps.

#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use strongroom_coordinator::catalog::{
    Catalog, CatalogError, CopyEvent, PointRecord, PointStats, Start,
};
use strongroom_coordinator::policy::{doubts, parse, parse_to_apply, primary};
use strongroom_coordinator::retention::{
    Consistency, CopyFacts, CopyRules, CopyState, Keep, Marks, PointFacts, Proof, ProofLevel,
    Reason, Rules, Safety, WorkloadRules, evaluate,
};
use strongroom_protocol::control::Shown;
use strongroom_protocol::{PointId, Timestamp};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(1_780_000_000 + seconds)
}

/// A policy that requires something and a workload of a kind, with more lines of both.
fn policy(require: &str, rules: &str, workload: &str) -> String {
    format!(
        "[policy.p]\nschedule = \"every 4h\"\ntimezone = \"UTC\"\nrequire = \"{require}\"\n\
         primary.keep = {{ newest = 9 }}\n{rules}[workload.\"w@a\"]\nagent = \"a\"\n\
         policy = \"p\"\n{workload}"
    )
}

fn wrong(text: &str) -> String {
    let problems = parse_to_apply("p.toml", text).map(|parsed| parsed.warnings).unwrap_err();
    problems.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

const FILES: &str = "kind = \"files\"\npath = \"/srv\"\n";
const HOOKS: &str = "pre_hook = \"/bin/quiet\"\npost_hook = \"/bin/going\"\n";
const VM: &str = "kind = \"vm\"\nmachine = \"web1\"\nqmp = \"/run/vm/web1.qmp\"\n";
const AGENT: &str = "guest_agent = \"/run/vm/web1.agent\"\n";
const POSTGRES: &str = "kind = \"postgres\"\nhost = \"/run/pg\"\n";
const DIRECTORY: &str = "kind = \"directory\"\nurl = \"ldaps://dc\"\nbind = \"b@x\"\n\
     password_file = \"/etc/pw\"\n";
const VSPHERE: &str = "kind = \"vsphere\"\nmachine = \"web1\"\nurl = \"https://vc\"\n\
     user = \"b\"\npassword_file = \"/etc/pw\"\n";

#[test]
fn what_a_workload_can_never_hold_is_refused_with_place_and_way_out() {
    let never = "quiesce = \"never\"\n";
    for (require, workload, most) in [
        ("application", FILES.to_owned(), Some("filesystem")),
        ("filesystem", FILES.to_owned(), None),
        ("application", format!("{FILES}{HOOKS}"), None),
        ("application", POSTGRES.to_owned(), None),
        ("application", DIRECTORY.to_owned(), None),
        ("filesystem", VM.to_owned(), Some("crash")),
        ("crash", VM.to_owned(), None),
        ("application", format!("{VM}{AGENT}"), None),
        ("filesystem", format!("{VM}{AGENT}{never}"), Some("crash")),
        ("application", VSPHERE.to_owned(), None),
        ("filesystem", format!("{VSPHERE}{never}"), Some("crash")),
    ] {
        let text = policy(require, "", &workload);
        let Some(most) = most else {
            parse_to_apply("p.toml", &text).unwrap();
            continue;
        };
        // One that is in force already does not stop being so.
        parse("p.toml", &text).unwrap();
        let said = wrong(&text);
        let expected =
            format!("p.toml:8:10: policy p requires {require}; w@a holds {most} at most");
        assert!(said.starts_with(&expected), "{said}");
        assert!(said.contains(&format!("a policy that requires {most}")), "{said}");
    }
}

#[test]
fn proofs_that_nothing_makes_are_refused_and_the_others_read() {
    let started = "primary.prove = { level = \"started\", every = \"30d\" }\n";
    for workload in [POSTGRES.to_owned(), format!("{VM}{AGENT}"), VSPHERE.to_owned()] {
        let parsed = parse_to_apply("p.toml", &policy("crash", started, &workload)).unwrap();
        let policy = parsed.declared.policies.values().next().unwrap();
        let (copy, prove, _) = policy.proofs().next().unwrap();
        assert_eq!((copy, prove.level), (primary(), ProofLevel::Started));
        assert_eq!(prove.every_seconds, 30 * 86_400);
    }
    let whole = format!("{DIRECTORY}domain = \"offline\"\n");
    parse_to_apply("p.toml", &policy("crash", started, &whole)).unwrap();
    let log = format!("{POSTGRES}mode = \"wal\"\n");
    for workload in [FILES, DIRECTORY, &log] {
        let said = wrong(&policy("crash", started, workload));
        assert!(said.contains("wants copy primary proven started"), "{said}");
        assert!(said.contains("vm prove"), "{said}");
    }
    let tape = "[policy.p.copy.tape]\nkind = \"aux\"\nfrom = \"primary\"\nnode = \"dr1\"\n\
         media_set = \"m\"\nmin_proof = \"started\"\nkeep = { newest = 9 }\n";
    let said = wrong(&policy("crash", tape, FILES));
    assert!(said.contains("makes copy tape of what is proven started"), "{said}");
    parse_to_apply("p.toml", &policy("crash", tape, POSTGRES)).unwrap();
    for (rule, expected) in [
        ("{ level = \"started\" }", "primary.prove has no `every`; such as prove ="),
        ("{ level = \"written\", every = \"1d\" }", "`level` cannot be \"written\""),
        ("{ level = \"startet\", every = \"1d\" }", "did you mean `started`?"),
        ("{ level = \"started\", every = \"1m\" }", "is at least 1h"),
        ("{ level = \"started\", evry = \"1d\" }", "did you mean `every`?"),
    ] {
        let said = wrong(&policy("crash", &format!("primary.prove = {rule}\n"), POSTGRES));
        assert!(said.contains(expected), "{rule}: {said}");
    }
}

fn facts(n: u8, holds: Consistency) -> PointFacts {
    PointFacts {
        point: PointId::from_bytes([n; 16]),
        workload: "w@a".parse().unwrap(),
        moment: at(i64::from(n)),
        consistency: holds,
        gaps: 0,
        copies: vec![CopyFacts::new(primary(), CopyState::Present)],
    }
}

#[test]
fn what_only_points_can_show_is_doubted_until_one_does() {
    let declared = parse("p.toml", &policy("crash", "", FILES)).unwrap().declared;
    let before = doubts(&declared, &[]);
    assert!(before[0].contains("its first point shows") && before[0].contains("btrfs"));
    let weak = doubts(&declared, &[facts(1, Consistency::Fuzzy)]);
    assert!(weak[0].contains("crash is required, its newest point holds fuzzy"), "{weak:?}");
    let shown = [facts(1, Consistency::Fuzzy), facts(2, Consistency::Filesystem)];
    assert_eq!(doubts(&declared, &shown), [] as [String; 0]);
    for text in [policy("fuzzy", "", FILES), policy("application", "", POSTGRES)] {
        let sure = parse("p.toml", &text).unwrap().declared;
        assert_eq!(doubts(&sure, &[]), [] as [String; 0]);
    }
}

fn record(n: u8) -> PointRecord {
    PointRecord {
        point: PointId::from_bytes([n; 16]),
        workload: "w@a".parse().unwrap(),
        policy: None,
        policy_version: 1,
        agent: "a".parse().unwrap(),
        job: None,
        previous: None,
        moment: at(0),
        committed: at(1),
        consistency: Consistency::Crash,
        gaps: 0,
        stats: PointStats::default(),
    }
}

fn start(seconds: i64) -> Start {
    let (by, detail) = ("ann".to_owned(), "pg_amcheck: 2 errors".to_owned());
    let level = ProofLevel::Started;
    Start { at: at(seconds), took_ms: 4200, by, detail, level }
}

#[test]
fn what_starts_showed_outlives_the_process_and_goes_with_the_copy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.db");
    let shown = |outcome, seconds| CopyEvent::Shown { outcome, start: start(seconds) };
    let (one, two) = (record(1), record(2));
    {
        let catalog = Catalog::open(&path).unwrap();
        catalog.upsert_point(&one).unwrap();
        catalog.upsert_point(&two).unwrap();
        let book = |point: &PointRecord, event: &CopyEvent| {
            catalog.record_copy(point.point, &primary(), event, at(9)).unwrap();
        };
        book(&one, &shown(Shown::Held, 5));
        book(&one, &shown(Shown::Failed, 6));
        book(&two, &shown(Shown::Held, 7));
        let absent =
            catalog.record_copy(one.point, &"tape".parse().unwrap(), &shown(Shown::Held, 8), at(9));
        assert!(matches!(absent, Err(CatalogError::Copy { .. })), "{absent:?}");
    }
    let catalog = Catalog::open(&path).unwrap();
    let row = catalog.ledger_of(one.point).unwrap().remove(0);
    assert_eq!((row.suspect(), row.started.as_ref()), (Some(&start(6)), Some(&start(5))));
    let suspects = catalog.suspects().unwrap();
    assert_eq!(suspects.len(), 1);
    assert_eq!((suspects[0].0.as_str(), suspects[0].1.point), ("w@a", one.point));
    let facts = catalog.point_facts(None).unwrap();
    let proven = |n: usize| facts[n].copies[0].proven().unwrap().level;
    assert_eq!((proven(0), proven(1)), (ProofLevel::Written, ProofLevel::Started));
    assert_eq!(facts[0].copies[0].suspect, Some(at(6)));
    let lost = CopyEvent::Lost { error: "gone".to_owned() };
    let row = catalog.record_copy(one.point, &primary(), &lost, at(10)).unwrap().unwrap();
    assert_eq!((row.started, row.failed), (None, None));
    assert_eq!(catalog.suspects().unwrap(), []);
}

#[test]
fn a_suspect_copy_does_not_take_the_place_of_the_last_proven_one() {
    let mut points: Vec<PointFacts> = (1..=4).map(|n| facts(n, Consistency::Crash)).collect();
    for (n, started) in [(0, 10), (1, 20)] {
        points[n].copies[0].started = Some(Proof { level: ProofLevel::Started, at: at(started) });
        points[n].copies[0].proof = Some(Proof { level: ProofLevel::Readable, at: at(5) });
    }
    let timezone = TimeZone::UTC;
    let rule = CopyRules {
        copy: primary(),
        from: None,
        keep: Keep::default(),
        every: None,
        defer_seconds: 0,
    };
    let of = WorkloadRules { timezone, require: Consistency::Crash, copies: vec![rule] };
    let rules = Rules { workloads: BTreeMap::from([("w@a".parse().unwrap(), of)]) };
    let proven = |points: &[PointFacts]| -> Vec<u8> {
        let verdicts = evaluate(points, &rules, &Marks::default(), at(99));
        let kept = verdicts.iter().filter(|verdict| {
            verdict.keep.contains(&Reason::Safety(Safety::LastProven(ProofLevel::Readable)))
        });
        kept.map(|verdict| verdict.point.as_bytes()[0]).collect()
    };
    assert_eq!(proven(&points), [2]);
    points[1].copies[0].suspect = Some(at(30));
    assert_eq!(proven(&points), [1]);
    // With none that is beyond suspicion, the newest is better than nothing.
    points[0].copies[0].suspect = Some(at(31));
    assert_eq!(proven(&points), [2]);
}
