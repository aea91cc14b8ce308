//! Histories against a model: points are sent, committed and removed by sessions that overlap with
//! collections, openings and crashes, in any order. What the model has is there and whole.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod common;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use common::{
    WORKLOAD, check_point, commit, create, key, open, point_id, protect, send, tree, write_small,
};
use proptest::prelude::*;
use strongroom_store::disk::sim::{Crash, SimDisk};
use strongroom_store::repo::{CollectLimits, Depth, Repo, Session};

/// Sessions a history may have open at once.
const SESSIONS: usize = 3;

#[derive(Clone, Debug)]
enum Deed {
    Begin(usize),
    Checkpoint,
    Collect { percent: u8 },
    Crash(u64),
    End(usize),
    Finish(usize, u8),
    Protect(u8),
    Remove(u8),
    Reopen,
    SendPart(usize, u8, usize),
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let number = 1..8_u8;
    let percent = prop_oneof![Just(0_u8), Just(70), Just(100)];
    let deed = prop_oneof![
        2 => (0..SESSIONS).prop_map(Deed::Begin),
        1 => Just(Deed::Checkpoint),
        6 => percent.prop_map(|percent| Deed::Collect { percent }),
        1 => any::<u64>().prop_map(Deed::Crash),
        2 => (0..SESSIONS).prop_map(Deed::End),
        4 => (0..SESSIONS, number.clone()).prop_map(|(slot, n)| Deed::Finish(slot, n)),
        3 => number.clone().prop_map(Deed::Protect),
        5 => number.clone().prop_map(Deed::Remove),
        1 => Just(Deed::Reopen),
        5 => (0..SESSIONS, number, 1..5_usize).prop_map(|(s, n, k)| Deed::SendPart(s, n, k)),
    ];
    prop::collection::vec(deed, 1..40)
}

struct World {
    disk: SimDisk,
    repo: Option<Repo>,
    sessions: [Option<Session>; SESSIONS],
    points: BTreeSet<u8>,
    removed: u64,
}

impl World {
    fn new() -> Self {
        let disk = SimDisk::new();
        create(&disk);
        let repo = Some(open(&disk));
        let sessions = std::array::from_fn(|_| None);
        Self { disk, repo, sessions, points: BTreeSet::new(), removed: 0 }
    }

    fn repo(&self) -> &Repo {
        self.repo.as_ref().unwrap()
    }

    fn collect(&mut self, percent: u8) {
        let limits = CollectLimits {
            data_live_percent_min: percent,
            metadata_live_percent_min: percent,
            ..CollectLimits::default()
        };
        let report = self.repo().collect(&limits, &mut |_| ControlFlow::Continue(())).unwrap();
        self.removed += report.removed.len() as u64;
    }

    fn reopen(&mut self, disk: SimDisk) {
        self.sessions = std::array::from_fn(|_| None);
        self.disk = disk;
        self.repo = Some(Repo::open(Arc::new(self.disk.clone()), &key(), write_small()).unwrap());
        assert!(self.repo().health().is_sound(), "{:?}", self.repo().health());
    }

    fn is_new(&self, number: u8) -> bool {
        !self.points.contains(&number)
    }

    fn apply(&mut self, deed: Deed) {
        match deed {
            Deed::Begin(slot) => self.sessions[slot] = Some(self.repo().session()),
            Deed::Checkpoint => self.repo().checkpoint().unwrap(),
            Deed::Collect { percent } => self.collect(percent),
            Deed::Crash(seed) => {
                let image = self.disk.crash_image(self.disk.log_len(), Crash::Mix(seed));
                self.reopen(image);
            }
            Deed::End(slot) => self.sessions[slot] = None,
            Deed::Finish(slot, number) if self.is_new(number) => {
                let Some(session) = &self.sessions[slot] else { return };
                // Whatever was collected since it began: a session is never disappointed.
                send(session, &tree(u64::from(number))).unwrap();
                commit(session, number).unwrap();
                self.points.insert(number);
            }
            Deed::Protect(number) if self.is_new(number) => {
                protect(self.repo(), number).unwrap();
                self.points.insert(number);
            }
            Deed::Remove(number) if !self.is_new(number) => {
                self.repo().remove_point(WORKLOAD, point_id(number)).unwrap();
                self.points.remove(&number);
            }
            Deed::Reopen => {
                self.sessions = std::array::from_fn(|_| None);
                self.repo = None;
                self.reopen(self.disk.clone());
            }
            Deed::SendPart(slot, number, count) => {
                let Some(session) = &self.sessions[slot] else { return };
                for child in tree(u64::from(number)).children.iter().take(count) {
                    send(session, child).unwrap();
                }
            }
            Deed::Finish(..) | Deed::Protect(_) | Deed::Remove(_) => {}
        }
        let points = self.repo().points().unwrap();
        let found: BTreeSet<u8> = points.iter().map(|(_, point)| point.as_bytes()[0]).collect();
        assert_eq!(found, self.points);
    }

    fn check(&self) {
        for number in &self.points {
            check_point(self.repo(), *number).unwrap();
        }
        assert!(self.repo().verify(Depth::Plain).unwrap().is_sound());
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_the_model_has_is_there(deeds in deeds()) {
        let mut world = World::new();
        for deed in deeds {
            world.apply(deed);
            for number in &world.points {
                check_point(world.repo(), *number).unwrap();
            }
        }
        world.check();
        for session in &mut world.sessions {
            *session = None;
        }
        world.collect(100);
        world.check();
        for number in std::mem::take(&mut world.points) {
            world.repo().remove_point(WORKLOAD, point_id(number)).unwrap();
        }
        // What was sent and never committed may get its pack while the first one runs.
        world.collect(70);
        world.collect(70);
        let packs = world.disk.paths().into_iter().filter(|path| path.starts_with("packs/"));
        prop_assert_eq!(packs.collect::<Vec<_>>(), Vec::<String>::new());
    }
}
