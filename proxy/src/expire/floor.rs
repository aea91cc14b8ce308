//! What an order to remove a point may take, and what it may not. Pure. The other site is not
//! trusted here: its clock, its word for what is newest and its haste count for nothing. Ages and
//! grace are counted by this node's own time, and only what has been here long enough counts as
//! newer than what goes.

use std::collections::BTreeMap;

use strongroom_node::counted::Counted;
use strongroom_node::home::Floor;
use strongroom_protocol::{PointId, Timestamp, WorkloadId};

/// The day of the daily bound.
pub(super) const DAY_SECONDS: i64 = 86_400;
/// An order that was not repeated for so long after its grace is forgotten: who still wants
/// the point gone asks every day.
const FORGOTTEN_SECONDS: i64 = 7 * DAY_SECONDS;

/// A point that is here. Counts are of this node's own time, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Held {
    pub(super) workload: WorkloadId,
    pub(super) moment: Timestamp,
    pub(super) arrived: i64,
    /// It was read whole here and found good.
    pub(super) proven: bool,
    /// When it was first and last ordered away.
    pub(super) asked: Option<(i64, i64)>,
}

/// Everything the judgement needs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Holding {
    pub(super) points: BTreeMap<PointId, Held>,
    /// When points were removed by order, oldest first.
    pub(super) removed: Vec<i64>,
}

/// Whether a point may go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Ruling {
    /// More goes than this site allows, whatever the point.
    Excess {
        why: String,
        until: Option<Timestamp>,
    },
    May,
    Stays {
        why: String,
        until: Option<Timestamp>,
    },
}

fn stays(why: String, until: Option<Timestamp>) -> Ruling {
    Ruling::Stays { why, until }
}

impl Holding {
    /// Notes that a point was ordered away, now.
    pub(super) fn ask(&mut self, point: PointId, floor: &Floor, counted: Counted) {
        let Some(held) = self.points.get_mut(&point) else { return };
        let first = held.asked_since(floor, counted).unwrap_or(counted.nanos);
        held.asked = Some((first, counted.nanos));
    }

    /// Forgets removals that no bound counts any more.
    pub(super) fn trim(&mut self, counted: Counted) {
        self.removed.retain(|at| counted.seconds_since(*at) < DAY_SECONDS);
    }

    /// May this point, which is here, go now?
    pub(super) fn rule(&self, point: PointId, floor: &Floor, counted: Counted) -> Ruling {
        let Some(held) = self.points.get(&point) else {
            return stays("it is not known since when it is here".to_owned(), None);
        };
        if floor.points_a_day_max == 0 {
            return stays("this site removes nothing by order".to_owned(), None);
        }
        let min_age = i64::from(floor.min_age_seconds);
        if counted.seconds_since(held.arrived) < min_age {
            let until = counted.moment_after(held.arrived, min_age);
            return stays("it has not been here long enough".to_owned(), Some(until));
        }
        let of_workload = || self.points.iter().filter(|(_, of)| of.workload == held.workload);
        let place = |(id, of): (&PointId, &Held)| (of.moment, *id);
        let newest_proven = of_workload().filter(|(_, of)| of.proven).map(place).max();
        if newest_proven == Some((held.moment, point)) {
            return stays("the newest of its workload that was proven here".to_owned(), None);
        }
        let newer = of_workload().filter(|(id, of)| {
            (of.moment, **id) > (held.moment, point) && counted.seconds_since(of.arrived) >= min_age
        });
        if newer.count() < floor.newest as usize {
            let newest = floor.newest;
            let why = format!("fewer than {newest} newer ones have been here long enough");
            return stays(why, None);
        }
        let grace = i64::from(floor.grace_seconds);
        let since = held.asked_since(floor, counted).unwrap_or(counted.nanos);
        if counted.seconds_since(since) < grace {
            let until = counted.moment_after(since, grace);
            return stays("in its grace at this site".to_owned(), Some(until));
        }
        let lately = self.removed.iter().filter(|at| counted.seconds_since(**at) < DAY_SECONDS);
        let lately: Vec<i64> = lately.copied().collect();
        if lately.len() >= floor.points_a_day_max as usize {
            let until = lately.iter().min().map(|at| counted.moment_after(*at, DAY_SECONDS));
            let most = floor.points_a_day_max;
            let why = format!("no more than {most} points go in a day");
            return Ruling::Excess { why, until };
        }
        Ruling::May
    }
}

impl Held {
    /// Since when the order stands, unless it was forgotten.
    fn asked_since(&self, floor: &Floor, counted: Counted) -> Option<i64> {
        let forgotten = i64::from(floor.grace_seconds) + FORGOTTEN_SECONDS;
        let stands = |last| counted.seconds_since(last) < forgotten;
        self.asked.filter(|(_, last)| stands(*last)).map(|(first, _)| first)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail anywhere")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FLOOR: Floor = Floor {
        min_age_seconds: 1000,
        newest: 2,
        grace_seconds: 500,
        points_an_order_max: 64,
        points_a_day_max: 3,
    };

    #[derive(Clone, Debug)]
    enum Act {
        Arrive {
            workload: u8,
            moment: i64,
        },
        /// Every point is ordered away.
        Order,
        Prove(prop::sample::Index),
        /// The clock moves by so many seconds, back too.
        Clock(i64),
    }

    fn act() -> impl Strategy<Value = Act> {
        let clock = prop_oneof![-5_000_i64..5_000, Just(400_000_000), Just(-400_000_000)];
        prop_oneof![
            (0_u8..2, 0_i64..50).prop_map(|(workload, moment)| Act::Arrive { workload, moment }),
            Just(Act::Order),
            any::<prop::sample::Index>().prop_map(Act::Prove),
            clock.clone().prop_map(Act::Clock),
            clock.prop_map(Act::Clock),
        ]
    }

    /// What the test knows by itself, in seconds that passed.
    #[derive(Default)]
    struct Model {
        passed: i64,
        arrived: BTreeMap<PointId, i64>,
        asked: BTreeMap<PointId, i64>,
        removed: Vec<i64>,
    }

    impl Model {
        fn check(&self, point: PointId, holding: &Holding) {
            let old = |id: &PointId| self.passed - self.arrived[id] >= 1000;
            assert!(old(&point), "too young");
            assert!(self.passed - self.asked[&point] >= 500, "no grace");
            let day = self.removed.iter().filter(|at| self.passed - **at < 86_400).count();
            assert!(day < 3, "too many in a day");
            let going = holding.points[&point];
            let others: Vec<_> = holding
                .points
                .iter()
                .filter(|(id, of)| {
                    of.workload == going.workload && (of.moment, **id) > (going.moment, point)
                })
                .collect();
            assert!(others.iter().filter(|(id, _)| old(id)).count() >= 2, "among the newest");
            assert!(!going.proven || others.iter().any(|(_, of)| of.proven), "newest proven");
        }
    }

    proptest! {
        #[test]
        fn no_order_takes_what_the_floor_keeps(acts in prop::collection::vec(act(), 1..150)) {
            let mut now = Timestamp::from_unix_seconds(1_780_000_000);
            let mut counted = Counted::begin(now);
            let (mut holding, mut model) = (Holding::default(), Model::default());
            for (number, act) in acts.into_iter().enumerate() {
                match act {
                    Act::Clock(seconds) => {
                        now = now.plus_seconds(seconds);
                        counted = counted.look(now);
                        model.passed += seconds.clamp(0, 3600);
                    }
                    Act::Arrive { workload, moment } => {
                        let point = PointId::from_bytes([u8::try_from(number).unwrap(); 16]);
                        let workload = WorkloadId::from_bytes([workload; 16]);
                        let (moment, arrived) = (Timestamp(moment), counted.nanos);
                        let held = Held { workload, moment, arrived, proven: false, asked: None };
                        holding.points.insert(point, held);
                        model.arrived.insert(point, model.passed);
                    }
                    Act::Prove(index) => {
                        let mut points: Vec<_> = holding.points.values_mut().collect();
                        if !points.is_empty() {
                            let at = index.index(points.len());
                            points[at].proven = true;
                        }
                    }
                    Act::Order => {
                        let points: Vec<PointId> = holding.points.keys().copied().collect();
                        for point in &points {
                            if holding.rule(*point, &FLOOR, counted) == Ruling::May {
                                model.check(*point, &holding);
                                holding.points.remove(point);
                                holding.removed.push(counted.nanos);
                                model.removed.push(model.passed);
                            }
                            model.asked.entry(*point).or_insert(model.passed);
                            holding.ask(*point, &FLOOR, counted);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn an_order_that_is_not_repeated_is_forgotten() {
        let mut counted = Counted::begin(Timestamp(0));
        let mut holding = Holding::default();
        for n in 1..=4 {
            let (workload, moment) = (WorkloadId::from_bytes([0; 16]), Timestamp(i64::from(n)));
            let held = Held { workload, moment, arrived: 0, proven: false, asked: None };
            holding.points.insert(PointId::from_bytes([n; 16]), held);
        }
        let first = PointId::from_bytes([1; 16]);
        holding.ask(first, &FLOOR, counted);
        let mut hours = |count: i64| {
            for _ in 0..count {
                counted = counted.look(counted.seen.plus_seconds(3600));
            }
            counted
        };
        assert_eq!(holding.rule(first, &FLOOR, hours(1)), Ruling::May);
        let late = hours(8 * 24);
        let Ruling::Stays { why, until } = holding.rule(first, &FLOOR, late) else { panic!() };
        assert!(why.contains("grace"), "{why}");
        assert_eq!(until, Some(late.seen.plus_seconds(500)));
    }
}
