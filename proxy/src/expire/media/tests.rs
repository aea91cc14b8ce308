//! What is let go on media, against the floor, crashes and a change of mind.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use strongroom_protocol::FixedClock;

use super::*;

const JOB: JobId = JobId::from_bytes([9; 16]);
const FLOOR: Floor = Floor {
    min_age_seconds: 1000,
    newest: 1,
    grace_seconds: 500,
    points_an_order_max: 8,
    points_a_day_max: 2,
};

struct Stage {
    dir: tempfile::TempDir,
    clock: Arc<FixedClock>,
}

impl Stage {
    fn new() -> Self {
        let clock = FixedClock::at(Timestamp::from_unix_seconds(1_780_000_000));
        Self { dir: tempfile::tempdir().unwrap(), clock: Arc::new(clock) }
    }

    /// As it is after a crash: from what is on disk.
    fn keeper(&self) -> MediaKeeper {
        let clock: Arc<dyn Clock> = Arc::<FixedClock>::clone(&self.clock);
        MediaKeeper::open(&self.dir.path().join(FOLDER), FLOOR, clock).unwrap()
    }

    fn pass(&self, keeper: &MediaKeeper, seconds: i64) {
        self.clock.set(self.clock.now().plus_seconds(seconds));
        keeper.look();
    }
}

fn set() -> MediaSetName {
    "weekly".parse().unwrap()
}

const fn point(n: u8) -> PointId {
    PointId::from_bytes([n; 16])
}

fn put(keeper: &MediaKeeper, numbers: std::ops::Range<u8>) {
    let workload = WorkloadId::from_bytes([1; 16]);
    let points = numbers.map(|n| (point(n), workload, Timestamp(i64::from(n))));
    keeper.arrived(&set(), points).unwrap();
}

fn asked(keeper: &MediaKeeper, points: &[PointId], order: ExpireOrder) -> Vec<ExpireOutcome> {
    let (set, away) = (set(), BTreeSet::from([point(90)]));
    let release = Release { job: JOB, set: &set, points, order, away: &away };
    keeper.obey(&release).unwrap().into_iter().map(|answer| answer.outcome).collect()
}

fn why(outcome: &ExpireOutcome) -> &str {
    match outcome {
        ExpireOutcome::Stays { why, .. } => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn media_are_let_go_as_far_as_the_floor_allows_and_never_twice_decided() {
    let stage = Stage::new();
    let keeper = stage.keeper();
    put(&keeper, 1..6);
    let all: Vec<PointId> = (1..6).map(point).collect();
    let remove = |keeper: &MediaKeeper| asked(keeper, &all, ExpireOrder::Remove);
    assert!(remove(&keeper).iter().all(|told| why(told).contains("long enough")));
    stage.pass(&keeper, 1100);
    let told = remove(&keeper);
    assert_eq!(told[0], ExpireOutcome::Gone, "its grace began with the first order");
    assert_eq!(told[1], ExpireOutcome::Gone);
    assert!(why(&told[2]).contains("no more than 2 points go in a day"));
    assert!(why(&told[4]).contains("fewer than 1 newer"), "{told:?}");
    assert!(keeper.alarm().unwrap().contains("media set weekly"));
    // What was answered stands over a crash, and is not counted twice.
    let keeper = stage.keeper();
    assert_eq!(keeper.released(&set()), BTreeSet::from([point(1), point(2)]));
    assert_eq!(remove(&keeper)[..2], [ExpireOutcome::Gone, ExpireOutcome::Gone]);
    put(&keeper, 1..6);
    assert_eq!(keeper.released(&set()).len(), 2, "what was let go is there as long as its bytes");
}

#[test]
fn what_is_wanted_again_is_kept_again_and_ages_anew() {
    let stage = Stage::new();
    let keeper = stage.keeper();
    put(&keeper, 1..4);
    asked(&keeper, &[point(1)], ExpireOrder::Announce);
    stage.pass(&keeper, 1100);
    assert_eq!(asked(&keeper, &[point(1)], ExpireOrder::Announce), [ExpireOutcome::Ready]);
    assert!(keeper.released(&set()).is_empty(), "it was only announced");
    assert_eq!(asked(&keeper, &[point(1)], ExpireOrder::Remove), [ExpireOutcome::Gone]);
    keeper.wanted(&set(), &[point(1), point(2)]).unwrap();
    let keeper = stage.keeper();
    assert!(keeper.released(&set()).is_empty());
    put(&keeper, 1..4);
    let told = asked(&keeper, &[point(1)], ExpireOrder::Remove);
    assert!(why(&told[0]).contains("long enough"), "{told:?}");
}

#[test]
fn what_is_on_no_cartridge_is_gone_and_what_is_away_stays() {
    let stage = Stage::new();
    let keeper = stage.keeper();
    assert!(keeper.is_unknown(&set(), &[point(80)]), "the media are looked at first");
    let told = asked(&keeper, &[point(80), point(90)], ExpireOrder::Remove);
    assert_eq!(told[0], ExpireOutcome::Gone);
    assert!(why(&told[1]).contains("not in the library"), "{told:?}");
    assert!(keeper.released(&set()).is_empty(), "nothing here frees a cartridge by that");
    put(&keeper, 1..11);
    let many: Vec<PointId> = (1..11).map(point).collect();
    stage.pass(&keeper, 1100);
    let told = asked(&keeper, &many, ExpireOrder::Remove);
    assert!(told.iter().all(|told| why(told).contains("more than 8 points")), "{told:?}");
}
