//! The keeper against a stolen coordinator, crashes and lost journals.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use strongroom_protocol::{FixedClock, Timestamp};
use strongroom_store::disk::sim::SimDisk;

use super::*;
use crate::aux::testing::{WORKLOAD, manifest, repo};

const HOUR: i64 = 3600;
const JOB: JobId = JobId::from_bytes([9; 16]);

struct Stage {
    dir: tempfile::TempDir,
    repo: Repo,
    clock: Arc<FixedClock>,
    floor: Floor,
}

impl Stage {
    fn new(floor: Floor) -> Self {
        let clock = FixedClock::at(Timestamp::from_unix_seconds(1_780_000_000));
        let dir = tempfile::tempdir().unwrap();
        Self { dir, repo: repo(&SimDisk::new()), clock: Arc::new(clock), floor }
    }

    fn keeper(&self) -> Keeper {
        let clock: Arc<dyn Clock> = Arc::<FixedClock>::clone(&self.clock);
        let path = self.dir.path().join(JOURNAL_FILE);
        Keeper::open(&path, self.floor.clone(), self.repo.clone(), clock).unwrap()
    }

    /// Points of which the later numbers are the newer.
    fn receive(&self, keeper: &Keeper, numbers: std::ops::Range<u8>) -> Vec<PointId> {
        let points: Vec<PointId> =
            numbers.map(|number| PointId::from_bytes([number; 16])).collect();
        for point in &points {
            self.repo.commit_point(WORKLOAD, *point, &manifest(*point)).unwrap();
            keeper.arrived(*point);
        }
        points
    }

    fn hours(&self, keeper: &Keeper, count: i64) {
        for _ in 0..count {
            self.clock.set(self.clock.now().plus_seconds(HOUR));
            keeper.look().unwrap();
        }
    }

    fn here(&self) -> usize {
        self.repo.points().unwrap().len()
    }
}

#[test]
fn a_stolen_coordinator_that_orders_everything_away_gets_what_the_floor_allows() {
    let stage = Stage::new(Floor { points_a_day_max: 2, ..Floor::default() });
    let mut keeper = stage.keeper();
    let points = stage.receive(&keeper, 1..11);
    keeper.proven(points[5]);
    let mut alarms = Vec::new();
    // It claims newer points, so that the old ones seem old.
    for hour in 0..24 * 14_i64 {
        if hour == 24 {
            stage.receive(&keeper, 100..104);
        }
        if hour % 50 == 0 {
            keeper = stage.keeper();
        }
        stage.hours(&keeper, 1);
        let before = stage.here();
        let all: Vec<PointId> =
            stage.repo.points().unwrap().into_iter().map(|(_, point)| point).collect();
        keeper.obey(JOB, &all, ExpireOrder::Remove).unwrap();
        if hour + 1 < 24 * 7 {
            assert_eq!(stage.here(), before, "within the minimum age");
        }
        assert!(before - stage.here() <= 2);
        alarms.extend(keeper.alarm());
    }
    let mut left: Vec<PointId> =
        stage.repo.points().unwrap().into_iter().map(|(_, point)| point).collect();
    left.sort();
    assert!(left.contains(&points[5]), "the newest that was proven here");
    assert!(left.len() >= 4, "{left:?}");
    assert!(alarms.iter().any(|alarm| alarm.contains("more than 2 points")), "{alarms:?}");
    let text = std::fs::read_to_string(stage.dir.path().join(JOURNAL_FILE)).unwrap();
    assert!(text.lines().filter(|line| line.contains("\"order\"")).count() >= 24 * 14);
}

#[test]
fn an_order_waits_for_the_grace_here_and_then_is_obeyed_once() {
    let stage = Stage::new(Floor { newest: 1, ..Floor::default() });
    let keeper = stage.keeper();
    let points = stage.receive(&keeper, 1..4);
    stage.hours(&keeper, 24 * 7);
    let ask =
        |keeper: &Keeper, order| keeper.obey(JOB, &points[..1], order).unwrap().remove(0).outcome;
    let ExpireOutcome::Stays { until, .. } = ask(&keeper, ExpireOrder::Announce) else {
        panic!("no grace");
    };
    assert_eq!(until, Some(stage.clock.now().plus_seconds(86_400)));
    stage.hours(&keeper, 24);
    assert_eq!(ask(&keeper, ExpireOrder::Announce), ExpireOutcome::Ready);
    assert_eq!(stage.here(), 3, "an announcement removes nothing");
    assert_eq!(ask(&keeper, ExpireOrder::Remove), ExpireOutcome::Gone);
    assert_eq!(ask(&keeper, ExpireOrder::Remove), ExpireOutcome::Gone, "twice is once");
    assert_eq!(stage.here(), 2);
}

#[test]
fn an_order_that_names_too_many_is_refused_whole() {
    let floor = Floor { points_an_order_max: 3, min_age_seconds: 0, ..Floor::default() };
    let stage = Stage::new(Floor { newest: 0, grace_seconds: 0, ..floor });
    let keeper = stage.keeper();
    let points = stage.receive(&keeper, 1..6);
    let answers = keeper.obey(JOB, &points[..4], ExpireOrder::Remove).unwrap();
    assert!(answers.iter().all(|a| matches!(a.outcome, ExpireOutcome::Stays { .. })));
    assert_eq!(stage.here(), 5);
    keeper.obey(JOB, &points[..3], ExpireOrder::Remove).unwrap();
    assert_eq!(stage.here(), 2);
}

#[test]
fn a_crash_between_the_journal_and_the_manifest_is_made_good_by_the_next_order() {
    let floor = Floor { newest: 0, min_age_seconds: 600, ..Floor::default() };
    let stage = Stage::new(Floor { grace_seconds: 0, ..floor });
    let keeper = stage.keeper();
    let points = stage.receive(&keeper, 1..3);
    stage.hours(&keeper, 1);
    let line = What::Removing { point: points[0] };
    locked(&keeper.journal).append(line, &stage.floor).unwrap();
    drop(keeper);
    let path = stage.dir.path().join(JOURNAL_FILE);
    let mut torn = std::fs::read(&path).unwrap();
    torn.extend_from_slice(b"{\"counted\":{\"seen\":17");
    std::fs::write(&path, torn).unwrap();
    let keeper = stage.keeper();
    assert_eq!(stage.here(), 2);
    let answers = keeper.obey(JOB, &points[..1], ExpireOrder::Remove).unwrap();
    assert_eq!(answers[0].outcome, ExpireOutcome::Gone);
    assert_eq!(stage.here(), 1);
}

#[test]
fn a_lost_journal_makes_every_point_new_and_a_jump_makes_none_old() {
    let stage = Stage::new(Floor { newest: 0, grace_seconds: 0, ..Floor::default() });
    let keeper = stage.keeper();
    let points = stage.receive(&keeper, 1..3);
    stage.clock.set(stage.clock.now().plus_seconds(10 * 365 * 86_400));
    keeper.obey(JOB, &points, ExpireOrder::Remove).unwrap();
    assert_eq!(stage.here(), 2);
    stage.hours(&keeper, 24 * 8);
    drop(keeper);
    std::fs::remove_file(stage.dir.path().join(JOURNAL_FILE)).unwrap();
    let keeper = stage.keeper();
    keeper.obey(JOB, &points, ExpireOrder::Remove).unwrap();
    assert_eq!(stage.here(), 2);
    stage.hours(&keeper, 24 * 7);
    keeper.obey(JOB, &points, ExpireOrder::Remove).unwrap();
    assert_eq!(stage.here(), 0, "an old order of an honest coordinator is obeyed");
}

#[test]
fn a_journal_that_is_mostly_over_is_written_anew_and_says_the_same() {
    let floor = Floor { newest: 1, min_age_seconds: 600, ..Floor::default() };
    let stage = Stage::new(floor);
    let keeper = stage.keeper();
    let points = stage.receive(&keeper, 1..6);
    keeper.proven(points[4]);
    stage.hours(&keeper, 1);
    keeper.obey(JOB, &points[..2], ExpireOrder::Announce).unwrap();
    stage.hours(&keeper, 24);
    keeper.obey(JOB, &points[..1], ExpireOrder::Remove).unwrap();
    assert_eq!(stage.here(), 4);
    let path = stage.dir.path().join(JOURNAL_FILE);
    let length = || std::fs::metadata(&path).unwrap().len();
    {
        let mut journal = locked(&keeper.journal);
        let line = What::Proven { point: points[0] };
        while length() < compact::BYTES_MIN {
            journal.append(line.clone(), &stage.floor).unwrap();
        }
    }
    let before = length();
    let said = |keeper: &Keeper| {
        let journal = locked(&keeper.journal);
        (journal.holding.clone(), journal.counted)
    };
    let expected = said(&keeper);
    drop(keeper);
    // One that a crash left half written takes nobody's place.
    std::fs::write(path.with_extension("log.new"), b"half").unwrap();
    let keeper = stage.keeper();
    assert!(length() * 2 < before, "{} of {before}", length());
    assert!(!path.with_extension("log.new").exists());
    assert_eq!(said(&keeper), expected);
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().filter(|line| line.contains("\"order\"")).count(), 2, "evidence");
    assert_eq!(text.lines().filter(|line| line.contains("\"removing\"")).count(), 1, "evidence");
    // What comes after goes on in the new one.
    stage.receive(&keeper, 7..8);
    let expected = said(&keeper);
    drop(keeper);
    let keeper = stage.keeper();
    assert_eq!(said(&keeper), expected);
    assert!(expected.0.points.contains_key(&PointId::from_bytes([7; 16])));
}
