//! A random history against a model: whatever is protected, changed, held, pinned, released,
//! pruned and restarted in between, every point the model keeps restores as the tree was at its
//! moment, from both sites. The seed is printed; the same seed gives the same history.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::PathBuf;

use strongroom_protocol::PointId;
use strongroom_protocol::admin::{Pinned, PointRef, PruneOrder, Request};
use strongroom_tests::lab::{Cast, Lab, copy_tree, random};
use strongroom_tests::seeded::Seeded;

const STEPS: usize = 40;
/// The policy keeps ten points; a history stays below, so that the model needs no retention.
const POINTS_MAX: usize = 9;

struct History {
    lab: Lab,
    chance: Seeded,
    /// Each point with the tree it must contain.
    points: Vec<(PointId, PathBuf)>,
    holds: Vec<String>,
    pinned: Vec<PointRef>,
    done: Vec<String>,
}

impl History {
    fn some_file(&mut self) -> PathBuf {
        let (folder, file) = (self.chance.below(3), self.chance.below(6));
        self.lab.source.join(format!("d{folder}/f{file}"))
    }

    fn some_point(&mut self) -> Option<(PointId, PathBuf)> {
        let at = self.chance.below(self.points.len());
        self.points.get(at).cloned()
    }

    async fn order(&self, request: Request) {
        self.lab.sites.ask("coordinator", &request).await.unwrap();
    }

    fn change(&mut self) {
        for _ in 0..=self.chance.below(4) {
            let path = self.some_file();
            let bytes = [0, 100, 5_000, 300_000][self.chance.below(4)];
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, random(bytes, self.chance.word())).unwrap();
        }
    }

    async fn protect(&mut self) {
        if self.points.len() == POINTS_MAX {
            return;
        }
        let point = self.lab.point().await.unwrap();
        let expected = self.lab.dir.path().join(format!("expected{}", self.points.len()));
        copy_tree(&self.lab.source, &expected).unwrap();
        self.points.push((point, expected));
    }

    async fn restart(&mut self, node: &str) {
        if node == "proxy" {
            self.lab.stop_proxy().await.unwrap();
            self.lab.start_proxy().unwrap();
        } else {
            self.lab.stop_coordinator().await.unwrap();
            self.lab.start_coordinator().unwrap();
        }
        self.lab.everybody().await.unwrap();
    }

    async fn mark(&mut self) {
        let Some((point, _)) = self.some_point() else { return };
        let point = PointRef::Id(point.to_string());
        match self.chance.below(4) {
            0 => {
                let name = format!("hold{}", self.holds.len());
                let why = "a test".to_owned();
                self.holds.push(name.clone());
                self.order(Request::HoldPlace { name, why, points: vec![point] }).await;
            }
            1 if !self.holds.is_empty() => {
                let name = self.holds.remove(0);
                self.order(Request::HoldRelease { name: name.clone() }).await;
                // Names are not used twice, so that the count above stays a name.
                self.holds.push(format!("{name}x"));
                let why = "a test".to_owned();
                let name = format!("{name}x");
                self.order(Request::HoldPlace { name, why, points: vec![point] }).await;
            }
            2 => {
                self.pinned.push(point.clone());
                self.order(Request::Pin { point, pinned: Pinned::Yes }).await;
            }
            _ => {
                let Some(point) = self.pinned.pop() else { return };
                self.pinned.retain(|other| *other != point);
                self.order(Request::Pin { point, pinned: Pinned::No }).await;
            }
        }
    }

    async fn step(&mut self) {
        let kind = self.chance.below(12);
        self.done.push(kind.to_string());
        match kind {
            0..=2 => self.change(),
            3..=5 => self.protect().await,
            6 => {
                let path = self.some_file();
                drop(std::fs::remove_file(path));
            }
            7 => self.mark().await,
            8 => self.order(Request::Prune { order: PruneOrder::Apply }).await,
            9 => self.restart("coordinator").await,
            10 => self.restart("proxy").await,
            _ => {
                let Some((point, expected)) = self.some_point() else { return };
                let restored = self.lab.restores_as("coordinator", point, &expected).await;
                restored.unwrap_or_else(|why| panic!("after {:?}: {why:#}", self.done));
            }
        }
    }
}

async fn play(seed: u64) {
    let lab = Lab::start(Cast::TwoSites).await.unwrap();
    lab.write("d0/f0", 300_000, seed).unwrap();
    let chance = Seeded::new(seed);
    let (points, holds, pinned, done) = (vec![], vec![], vec![], vec![]);
    let mut history = History { lab, chance, points, holds, pinned, done };
    for _ in 0..STEPS {
        history.step().await;
    }
    history.protect().await;
    let History { lab, mut points, .. } = history;
    lab.sites.await_copy("secondary", "readable").await.unwrap();
    let all = lab.sites.wait_for("every copy", async |sites| {
        Ok((sites.points("proxy").await?.len() == points.len()).then_some(()))
    });
    all.await.unwrap();
    let known = lab.sites.points("coordinator").await.unwrap();
    let mut known: Vec<PointId> = known.into_iter().map(|row| row.id).collect();
    known.sort();
    points.sort();
    assert_eq!(known, points.iter().map(|(point, _)| *point).collect::<Vec<_>>());
    for (point, expected) in points {
        for node in ["coordinator", "proxy"] {
            lab.restores_as(node, point, &expected).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_histories_end_as_the_model_says() {
    for seed in [1, 20_261_122] {
        play(seed).await;
    }
}
