//! The grace: laws over any movement of clocks, and the ledger's steps of letting go, across
//! reopening.

#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

use proptest::prelude::*;
use strongroom_coordinator::catalog::{
    Catalog, CatalogError, CopyEvent, LedgerRow, PointRecord, PointStats,
};
use strongroom_coordinator::policy::{parse, primary};
use strongroom_coordinator::retention::{
    Consistency, CopyState, Grace, Hold, JUMP_SECONDS_MAX, RetentionClock, evaluate,
};
use strongroom_protocol::{CopyName, PointId, Timestamp};

const DAY: i64 = 86_400;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(1_780_000_000 + seconds)
}

proptest! {
    /// Whatever the clock shows at each look: a grace is over only after as much time as it
    /// lasts was seen to pass, in steps of an hour at most, none of it while in doubt.
    #[test]
    fn no_movement_of_the_clock_shortens_a_grace(
        moves in prop::collection::vec(prop_oneof![
            4 => -10_000_i64..10_000,
            1 => -1_000_000_000_i64..1_000_000_000,
        ], 1..200),
        begun in 0_usize..50,
        grace_seconds in 0_u64..200_000,
    ) {
        let mut now = at(0);
        let mut clock = RetentionClock::begin(now);
        let (mut doomed, mut passed) = (None, 0_i64);
        let (mut believed, mut before) = (now, clock.nanos());
        for (step, seconds) in moves.into_iter().enumerate() {
            if step == begun {
                doomed = Some(clock.nanos());
                passed = 0;
            }
            now = now.plus_seconds(seconds);
            let gap = now.seconds_since(believed);
            clock = clock.look(now);
            if gap <= JUMP_SECONDS_MAX {
                passed += gap.clamp(0, 3600);
                believed = now;
            }
            prop_assert_eq!(clock.is_doubted(now), gap > JUMP_SECONDS_MAX);
            prop_assert!(clock.nanos() >= before, "counted time goes forward");
            before = clock.nanos();
            let Some(doomed) = doomed else { continue };
            match clock.grace(Some(doomed), grace_seconds, now) {
                Grace::Over => prop_assert!(passed >= i64::try_from(grace_seconds).unwrap()),
                Grace::Runs { over_at } => {
                    prop_assert!(passed < i64::try_from(grace_seconds).unwrap());
                    let left = i64::try_from(grace_seconds).unwrap() - passed;
                    prop_assert_eq!(over_at, now.plus_seconds(left));
                }
                Grace::Doubted { believed: since } => prop_assert_eq!(since, believed),
            }
        }
    }
}

#[test]
fn a_doubted_clock_is_believed_when_it_comes_back_or_somebody_says_so() {
    let clock = RetentionClock::begin(at(0)).look(at(60));
    let ahead = at(400 * DAY);
    let jumped = clock.look(ahead);
    assert!(jumped.is_doubted(ahead));
    assert_eq!(jumped.grace(Some(0), 1, ahead), Grace::Doubted { believed: at(60) });
    assert!(!jumped.look(at(90)).is_doubted(at(90)), "it came back");
    let believed = jumped.believe(ahead);
    assert!(!believed.is_doubted(ahead));
    assert_eq!(believed.nanos(), clock.nanos(), "the jump itself counts nothing");
    let back = clock.look(at(-400 * DAY));
    assert!(!back.is_doubted(at(-400 * DAY)), "a clock set back delays only");
    assert_eq!(back.nanos(), clock.nanos());
}

fn id(n: u8) -> PointId {
    PointId::from_bytes([n; 16])
}

fn point(n: u8) -> PointRecord {
    PointRecord {
        point: id(n),
        workload: "docs@fs1".parse().unwrap(),
        policy: Some("standard".parse().unwrap()),
        policy_version: 1,
        agent: "fs1".parse().unwrap(),
        job: None,
        previous: None,
        moment: at(i64::from(n)),
        committed: at(i64::from(n)),
        consistency: Consistency::Crash,
        gaps: 0,
        stats: PointStats::default(),
    }
}

const POLICY: &str = r#"
[policy.standard]
timezone = "UTC"
grace = "1h"
[policy.standard.primary]
keep = { newest = 3 }
[workload."docs@fs1"]
agent = "fs1"
kind = "files"
path = "/srv"
policy = "standard"
"#;

fn settle(catalog: &Catalog, policy: &str, clock: RetentionClock, now: Timestamp) {
    let declared = parse("p.toml", policy).unwrap().declared;
    let facts = catalog.point_facts(None).unwrap();
    let verdicts = evaluate(&facts, &declared.rules(), &catalog.marks().unwrap(), now);
    catalog.settle(&verdicts, clock, now).unwrap();
}

fn row(catalog: &Catalog, n: u8) -> LedgerRow {
    catalog.ledger_of(id(n)).unwrap().remove(0)
}

#[test]
fn the_books_say_since_when_and_what_ended_and_any_reason_takes_out_of_the_grace() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.db");
    let tighter = POLICY.replace("newest = 3", "newest = 1");
    let clock = RetentionClock::begin(at(0)).look(at(100));
    {
        let catalog = Catalog::open(&path).unwrap();
        for n in 1..=3 {
            catalog.upsert_point(&point(n)).unwrap();
        }
        settle(&catalog, POLICY, clock, at(100));
        assert!(row(&catalog, 1).reasons.unwrap().contains("among the newest 3"));
        settle(&catalog, &tighter, clock, at(100));
        catalog.set_retention_clock(clock).unwrap();
    }
    let catalog = Catalog::open(&path).unwrap();
    assert_eq!(catalog.retention_clock().unwrap(), Some(clock));
    let doomed = row(&catalog, 1);
    assert_eq!((doomed.doomed, doomed.doomed_counted), (Some(at(100)), Some(clock.nanos())));
    assert!(doomed.reasons.unwrap().contains("among the newest 3"), "what ended is remembered");
    let hold = Hold {
        name: "case".parse().unwrap(),
        by: "ann".into(),
        why: "court".into(),
        placed: at(100),
        points: [id(1)].into(),
        workloads: [].into(),
    };
    catalog.place_hold(&hold).unwrap();
    settle(&catalog, &tighter, clock, at(200));
    assert_eq!(row(&catalog, 1).doomed, None, "the hold rescues");
    assert!(row(&catalog, 2).doomed.is_some());
    catalog.release_hold(&hold.name).unwrap();
    let later = clock.look(at(300));
    settle(&catalog, &tighter, later, at(300));
    assert_eq!(row(&catalog, 1).doomed_counted, Some(later.nanos()), "the grace begins anew");
    settle(&catalog, POLICY, later, at(300));
    assert!(catalog.doomed().unwrap().is_empty(), "an edit of the policy rescues");
}

#[test]
fn a_removal_is_decided_once_and_survives_a_crash_at_every_step() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.db");
    let clock = RetentionClock::begin(at(0));
    let tighter = POLICY.replace("newest = 3", "newest = 1");
    let open = || Catalog::open(&path).unwrap();
    let record = |event: &CopyEvent, n| open().record_copy(id(n), &primary(), event, at(50));
    for n in 1..=3 {
        open().upsert_point(&point(n)).unwrap();
    }
    let kept = record(&CopyEvent::Removing, 1);
    assert!(matches!(kept, Err(CatalogError::Copy { .. })), "nothing doomed it");
    settle(&open(), &tighter, clock, at(10));
    record(&CopyEvent::Removing, 1).unwrap();
    record(&CopyEvent::Removing, 1).unwrap();
    let going = open().removing().unwrap();
    assert_eq!(going.iter().map(|of| of.row.point).collect::<Vec<_>>(), [id(1)]);
    assert!(going[0].row.doomed.is_some(), "with the reason");
    settle(&open(), POLICY, clock, at(60));
    assert_eq!(row(&open(), 1).state, CopyState::Removing, "no verdict undoes it");
    assert!(open().forget_point(id(1)).is_err());
    record(&CopyEvent::Expired, 1).unwrap();
    record(&CopyEvent::Expired, 1).unwrap();
    assert_eq!(row(&open(), 1).state, CopyState::Expired);
    assert_eq!(open().gone_points(at(50)).unwrap(), []);
    assert_eq!(open().gone_points(at(51)).unwrap(), [id(1)]);
    let other: CopyName = "secondary".parse().unwrap();
    assert!(open().record_copy(id(1), &other, &CopyEvent::Removing, at(50)).is_err());
    settle(&open(), &tighter, clock, at(70));
    record(&CopyEvent::Removing, 2).unwrap();
    let stayed = CopyEvent::Stayed { why: "too young there".into(), until: at(900) };
    let row = record(&stayed, 2).unwrap().unwrap();
    assert_eq!((row.state, row.next_attempt), (CopyState::Present, Some(at(900))));
    assert!(row.doomed.is_some(), "it stays doomed");
}
