//! The catalog against what the product asks of it, across reopening and damage.

#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

use std::collections::BTreeSet;

use strongroom_coordinator::catalog::{
    Catalog, CatalogError, CopyEvent, Medium, NodeNote, PointFilter, PointRecord, PointStats,
};
use strongroom_coordinator::policy::{parse, primary};
use strongroom_coordinator::retention::{
    Consistency, CopyFacts, CopyState, Hold, Marks, Pin, Proof, ProofLevel, RetentionClock, Stance,
    evaluate,
};
use strongroom_node::audit::{AuditLog, Entry};
use strongroom_protocol::{CopyName, JobId, MediumId, PointId, Timestamp};

const START: i64 = 1_780_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(START + seconds)
}

fn point_id(n: u8) -> PointId {
    PointId::from_bytes([n; 16])
}

fn point(n: u8, seconds: i64) -> PointRecord {
    PointRecord {
        point: point_id(n),
        workload: "docs@fs1".parse().unwrap(),
        policy: Some("standard".parse().unwrap()),
        policy_version: 1,
        agent: "fs1".parse().unwrap(),
        job: Some(JobId::from_bytes([n; 16])),
        previous: None,
        moment: at(seconds),
        committed: at(seconds + 60),
        consistency: Consistency::Crash,
        gaps: 0,
        stats: PointStats { files: 10, bytes: 1000, stored_bytes: 400, frozen_ms: 5, seconds: 60 },
    }
}

fn copy(name: &str) -> CopyName {
    name.parse().unwrap()
}

const POLICY: &str = r#"
[policy.standard]
schedule = "every 4h"
timezone = "UTC"
[policy.standard.primary]
keep = { newest = 2 }
[policy.standard.copy.secondary]
kind = "secondary-snap"
from = "primary"
node = "dr1"
keep = { newest = 2 }
defer = "1h"
[workload."docs@fs1"]
agent = "fs1"
kind = "files"
path = "/srv"
policy = "standard"
"#;

#[test]
fn a_point_and_its_ledger_survive_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.db");
    {
        let catalog = Catalog::open(&path).unwrap();
        for n in 1..=3 {
            catalog.upsert_point(&point(n, i64::from(n) * 100)).unwrap();
        }
        catalog.upsert_point(&point(3, 300)).unwrap();
    }
    let catalog = Catalog::open(&path).unwrap();
    assert_eq!(catalog.point(point_id(2)).unwrap(), Some(point(2, 200)));
    let newest = PointFilter { most: Some(2), ..PointFilter::default() };
    let ids: Vec<PointId> = catalog.points(&newest).unwrap().iter().map(|p| p.point).collect();
    assert_eq!(ids, [point_id(3), point_id(2)]);
    let ledger = catalog.ledger_of(point_id(1)).unwrap();
    assert_eq!(ledger.len(), 1);
    assert_eq!(ledger[0].copy, primary());
    assert_eq!(ledger[0].state, CopyState::Present);
    assert_eq!(catalog.find_points("0202").unwrap(), [point_id(2)]);
    assert_eq!(catalog.find_points("%").unwrap(), []);
    assert_eq!(catalog.totals().unwrap().stored_bytes, 1200);
}

#[test]
fn verdicts_become_debts_and_debts_end_only_by_arriving() {
    let catalog = Catalog::in_memory().unwrap();
    let declared = parse("p.toml", POLICY).unwrap().declared;
    for n in 1..=3 {
        catalog.upsert_point(&point(n, i64::from(n) * 100)).unwrap();
    }
    let settle = |now| {
        let facts = catalog.point_facts(None).unwrap();
        let verdicts = evaluate(&facts, &declared.rules(), &catalog.marks().unwrap(), now);
        catalog.settle(&verdicts, RetentionClock::begin(now), now).unwrap()
    };
    let settled = settle(at(400));
    assert_eq!((settled.owed, settled.doomed), (2, 1), "{settled:?}");
    assert_eq!(settle(at(400)), Default::default(), "settling twice changes nothing");
    assert_eq!(catalog.debts(Some(at(400))).unwrap().len(), 0, "deferred by an hour");
    let debts = catalog.debts(Some(at(3800))).unwrap();
    assert_eq!(debts.iter().map(|d| d.row.point).collect::<Vec<_>>(), [point_id(2)]);
    assert_eq!(catalog.debts(None).unwrap().len(), 2);

    let secondary = copy("secondary");
    let record = |event: CopyEvent| catalog.record_copy(point_id(2), &secondary, &event, at(4000));
    record(CopyEvent::Began).unwrap();
    let next_attempt = at(5000);
    record(CopyEvent::Failed { error: "link down".into(), next_attempt }).unwrap();
    assert_eq!(catalog.debts(Some(at(4999))).unwrap().len(), 1, "only the other one is due");
    let debt = &catalog.debts(Some(at(5000))).unwrap()[0].row;
    assert_eq!((debt.attempts, debt.last_error.as_deref()), (1, Some("link down")));
    record(CopyEvent::Began).unwrap();
    assert_eq!(catalog.reset_working(at(6000)).unwrap(), 1);
    record(CopyEvent::Began).unwrap();
    let row = record(CopyEvent::Arrived { bytes_sent: 5, bytes_stored: 9, seconds: 1 }).unwrap();
    assert_eq!(row.unwrap().state, CopyState::Present);
    assert_eq!(catalog.debts(None).unwrap().len(), 1);

    let doomed = catalog.doomed().unwrap();
    assert_eq!(doomed.iter().map(|d| d.row.point).collect::<Vec<_>>(), [point_id(1)]);
    let pin =
        Pin { point: point_id(1), copy: None, by: "ann".into(), why: "needed".into(), until: None };
    catalog.pin(&pin).unwrap();
    assert_eq!(settle(at(7000)).spared, 1);
    assert!(catalog.doomed().unwrap().is_empty());
}

#[test]
fn news_that_cannot_be_is_refused() {
    let catalog = Catalog::in_memory().unwrap();
    catalog.upsert_point(&point(1, 0)).unwrap();
    let proof = Proof { level: ProofLevel::Readable, at: at(10) };
    let record = |name: &str, event: CopyEvent, seconds| {
        catalog.record_copy(point_id(1), &copy(name), &event, at(seconds))
    };
    let arrived = CopyEvent::Arrived { bytes_sent: 1, bytes_stored: 1, seconds: 1 };
    assert!(matches!(record("tape", arrived, 5), Err(CatalogError::Copy { .. })));
    assert!(record("tape", CopyEvent::Proven(proof), 5).is_err());
    record("primary", CopyEvent::Proven(proof), 10).unwrap();
    let weaker = Proof { level: ProofLevel::HashVerified, at: at(20) };
    let row = record("primary", CopyEvent::Proven(weaker), 20).unwrap().unwrap();
    assert_eq!(row.proof, Some(proof));
    record("primary", CopyEvent::Locked { until: at(100) }, 20).unwrap();
    let row = record("primary", CopyEvent::Locked { until: at(50) }, 20).unwrap().unwrap();
    assert_eq!(row.lock_until, Some(at(100)), "a lock is never shortened");
    assert!(record("primary", CopyEvent::Expired, 99).is_err());
    assert!(catalog.forget_point(point_id(1)).is_err());
    record("primary", CopyEvent::Expired, 100).unwrap();
    assert!(record("primary", CopyEvent::Began, 101).is_err());
    catalog.forget_point(point_id(1)).unwrap();
    assert_eq!(catalog.ledger_of(point_id(1)).unwrap(), []);
}

#[test]
fn holds_pins_and_events_come_back_as_placed() {
    let catalog = Catalog::in_memory().unwrap();
    let hold = Hold {
        name: "case 17".parse().unwrap(),
        by: "ann".into(),
        why: "court order".into(),
        placed: at(1),
        points: BTreeSet::from([point_id(1), point_id(2)]),
        workloads: BTreeSet::from(["docs@fs1".parse().unwrap()]),
    };
    catalog.place_hold(&hold).unwrap();
    let taken = catalog.place_hold(&Hold { points: BTreeSet::new(), ..hold.clone() });
    assert!(matches!(taken, Err(CatalogError::HoldTaken { .. })));
    let event = "contract-42".parse().unwrap();
    assert_eq!(catalog.note_event(&event, None, "ann", at(1)).unwrap(), None);
    assert_eq!(catalog.note_event(&event, Some(at(5)), "ann", at(6)).unwrap(), Some(None));
    let pin = Pin {
        point: point_id(3),
        copy: Some(copy("tape")),
        by: "bob".into(),
        why: String::new(),
        until: Some(at(50)),
    };
    catalog.pin(&pin).unwrap();
    let marks = catalog.marks().unwrap();
    let events = [(event, Some(at(5)))].into();
    assert_eq!(marks, Marks { holds: vec![hold.clone()], pins: vec![pin.clone()], events });
    assert_eq!(catalog.release_hold(&hold.name).unwrap(), hold);
    assert!(catalog.release_hold(&hold.name).is_err());
    assert!(catalog.unpin(point_id(3), None).is_err());
    catalog.unpin(point_id(3), pin.copy.as_ref()).unwrap();
    assert!(catalog.pins().unwrap().is_empty());
}

#[test]
fn every_policy_version_is_kept() {
    let catalog = Catalog::in_memory().unwrap();
    assert_eq!(catalog.current_policy().unwrap(), None);
    assert_eq!(catalog.set_policy("p.toml", "a = 1", "ann", at(1)).unwrap(), 1);
    assert_eq!(catalog.set_policy("p.toml", "a = 1", "bob", at(2)).unwrap(), 1);
    assert_eq!(catalog.set_policy("p.toml", "a = 2", "bob", at(3)).unwrap(), 2);
    assert_eq!(catalog.set_policy("p.toml", "a = 1", "bob", at(4)).unwrap(), 3);
    let current = catalog.current_policy().unwrap().unwrap();
    assert_eq!((current.version, current.by.as_str()), (3, "bob"));
    assert_eq!(catalog.policy_version(1).unwrap().unwrap().by, "ann");
    assert_eq!(catalog.policy_versions().unwrap().len(), 3);
}

#[test]
fn nodes_media_and_settings_are_remembered() {
    let catalog = Catalog::in_memory().unwrap();
    let identity = "strongroom://acme/site/hq/agent/fs1".parse().unwrap();
    let note = NodeNote {
        identity,
        serial: "01".into(),
        software: "0.1.0".into(),
        host: "fs1.acme".into(),
        certificate_until: Some(at(9)),
    };
    catalog.note_node(&note, at(5)).unwrap();
    catalog.note_node(&NodeNote { serial: "02".into(), ..note }, at(3)).unwrap();
    let nodes = catalog.nodes().unwrap();
    assert_eq!(nodes.len(), 1);
    assert_eq!((nodes[0].first_seen, nodes[0].last_seen), (at(5), at(5)));
    assert_eq!(nodes[0].note.serial, "02");
    let medium = Medium {
        medium: MediumId::from_bytes([7; 16]),
        barcode: "A00001L9".into(),
        set: Some("weekly".parse().unwrap()),
        sequence: 1,
        sessions: 2,
        used_bytes: 3,
        capacity_bytes: 4,
        written: Some(at(1)),
        detail: String::new(),
    };
    catalog.upsert_medium(&medium).unwrap();
    catalog.place_on_medium(medium.medium, point_id(1), &copy("tape")).unwrap();
    catalog.place_on_medium(medium.medium, point_id(1), &copy("tape")).unwrap();
    let of_point = catalog.media_of(point_id(1), &copy("tape")).unwrap();
    assert_eq!(of_point, std::slice::from_ref(&medium));
    assert_eq!(catalog.points_on(medium.medium).unwrap(), [(point_id(1), copy("tape"))]);
    catalog.forget_medium(medium.medium).unwrap();
    assert!(catalog.media_of(point_id(1), &copy("tape")).unwrap().is_empty());
    catalog.set_setting("site", "hq").unwrap();
    assert_eq!(catalog.setting("site").unwrap().as_deref(), Some("hq"));
}

#[test]
fn a_cut_audit_log_is_found_by_the_anchor_in_the_catalog() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let catalog = Catalog::open(&folder.path().join("catalog.db")).unwrap();
    let log = AuditLog::open(&path, catalog.audit_anchor().unwrap().as_ref(), at(0)).unwrap();
    let entry = Entry {
        actor: "ann".into(),
        action: "pin".into(),
        subject: "x".into(),
        detail: String::new(),
    };
    log.append(entry, at(1)).unwrap();
    catalog.anchor_audit(&log.head()).unwrap();
    drop(log);
    std::fs::write(&path, "").unwrap();
    let anchor = catalog.audit_anchor().unwrap();
    assert!(AuditLog::open(&path, anchor.as_ref(), at(2)).is_err());
}

#[test]
fn damage_is_found_at_opening_and_the_way_out_works() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.db");
    let found: Vec<(PointRecord, Vec<CopyFacts>)> = (1..=200)
        .map(|n| {
            let facts = CopyFacts {
                proof: Some(Proof { level: ProofLevel::Written, at: at(i64::from(n)) }),
                ..CopyFacts::new(primary(), CopyState::Present)
            };
            (point(n, i64::from(n)), vec![facts])
        })
        .collect();
    {
        let catalog = Catalog::open(&path).unwrap();
        assert_eq!(catalog.rebuild(found.clone()).unwrap(), 200);
    }
    let whole = std::fs::read(&path).unwrap();
    let mut named = 0;
    for page in 0..whole.len() / 4096 {
        let mut damaged = whole.clone();
        damaged[page * 4096..page * 4096 + 512].fill(0xa5);
        std::fs::write(&path, &damaged).unwrap();
        match Catalog::open(&path) {
            Err(error @ CatalogError::Damaged { .. }) => {
                assert!(error.to_string().contains("move it away"), "{error}");
                named += 1;
            }
            Err(other) => panic!("page {page}: {other:?}"),
            Ok(_) => {}
        }
    }
    assert!(named * 2 > whole.len() / 4096, "{named} of {} pages", whole.len() / 4096);
    std::fs::rename(&path, folder.path().join("catalog.damaged")).unwrap();
    let catalog = Catalog::open(&path).unwrap();
    catalog.rebuild(found.clone()).unwrap();
    catalog.rebuild(found).unwrap();
    assert_eq!(catalog.points(&PointFilter::default()).unwrap().len(), 200);
    let facts = catalog.point_facts(None).unwrap();
    assert!(facts.iter().all(|f| f.copies.len() == 1));
    let declared = parse("p.toml", POLICY).unwrap().declared;
    let verdicts = evaluate(&facts, &declared.rules(), &Marks::default(), at(1000));
    assert_eq!(verdicts.iter().filter(|v| v.stance == Stance::Keep).count(), 2);
}

#[test]
fn newer_and_foreign_files_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.db");
    drop(Catalog::open(&path).unwrap());
    let db = rusqlite::Connection::open(&path).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    drop(db);
    assert!(matches!(Catalog::open(&path), Err(CatalogError::Newer { found: 99, .. })));
    std::fs::write(&path, "this is no database at all, but a text of some length").unwrap();
    assert!(matches!(Catalog::open(&path), Err(CatalogError::Damaged { .. })));
}

#[test]
fn a_copy_of_the_catalog_opens() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(&folder.path().join("catalog.db")).unwrap();
    catalog.upsert_point(&point(1, 0)).unwrap();
    let target = folder.path().join("copy.db");
    catalog.backup_to(&target).unwrap();
    let copy = Catalog::open(&target).unwrap();
    assert_eq!(copy.point(point_id(1)).unwrap(), Some(point(1, 0)));
}
