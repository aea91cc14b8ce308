//! Two sites whose clock belongs to the test, to see what goes, where and when.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::sync::Arc;
use std::time::Duration;

use strongroom_protocol::admin::{CopyRow, Request, Response};
use strongroom_protocol::{Clock, FixedClock, PointId, SystemClock};

use crate::lab::{Cast, Lab};

/// The longest life a node's certificate may have.
const LIFE_SECONDS: u32 = 90 * 24 * 3600;
/// What a proxy keeps whatever it is told, in its settings: half an hour of each.
pub const SHORT_FLOOR: &str =
    "\n[floor]\nmin_age_seconds = 1800\nnewest = 1\ngrace_seconds = 1800\n";

/// Whether it is gone.
pub fn expired(row: &CopyRow) -> bool {
    row.state == "expired"
}

/// Whether it waits for its grace to end.
pub fn in_grace(row: &CopyRow) -> bool {
    row.detail.contains("in its grace until")
}

/// Two sites whose clock the test moves.
pub struct Ageing {
    pub lab: Lab,
    pub policy: String,
    pub clock: Arc<FixedClock>,
}

impl Ageing {
    /// Two sites that keep one point each, with a grace of half an hour at the coordinator.
    pub async fn start(cast: Cast, keep: &str, floor: &str) -> Self {
        let ageing = Self::begin(cast, floor).await;
        let whole = ageing.lab.policy();
        let (head, rest) = whole.split_once("[policy.standard.copy.tape]").unwrap_or((&whole, ""));
        let tail = rest.find("[workload").map_or("", |at| rest.split_at(at).1);
        ageing.keep(&format!("{head}{tail}"), keep).await
    }

    /// The same with a copy on media.
    pub async fn start_with_media(keep: &str, floor: &str) -> Self {
        let ageing = Self::begin(Cast::TwoSites, floor).await;
        let whole = ageing.lab.policy();
        ageing.keep(&whole, keep).await
    }

    async fn keep(mut self, policy: &str, keep: &str) -> Self {
        self.policy = policy
            .replace("schedule = \"monthly 1 03:00\"\n", "")
            .replace("timezone = \"UTC\"", "timezone = \"UTC\"\ngrace = \"30m\"")
            .replace("newest = 10", keep);
        self.lab.sites.apply(&self.policy).await.unwrap();
        self
    }

    async fn begin(cast: Cast, floor: &str) -> Self {
        let clock = Arc::new(FixedClock::at(SystemClock.now()));
        let shared: Arc<dyn Clock> = Arc::<FixedClock>::clone(&clock);
        let mut lab = Lab::start_with(cast, shared, LIFE_SECONDS).await.unwrap();
        if cast == Cast::TwoSites {
            lab.stop_proxy().await.unwrap();
            let path = lab.sites.home("proxy").join("node.toml");
            let settings = std::fs::read_to_string(&path).unwrap();
            std::fs::write(&path, settings + floor).unwrap();
            lab.start_proxy().unwrap();
            lab.everybody().await.unwrap();
        }
        Self { lab, policy: String::new(), clock }
    }

    /// Another grace at the coordinator.
    pub async fn grace(&self, grace: &str) {
        let policy = self.policy.replace("grace = \"30m\"", &format!("grace = \"{grace}\""));
        self.lab.sites.apply(&policy).await.unwrap();
    }

    /// A point of a tree that shares nothing with the one before, there in every copy.
    pub async fn point(&self, seed: u64) -> PointId {
        self.lab.write("file", 3_000_000, seed).unwrap();
        let point = self.lab.point().await.unwrap();
        if self.lab.proxy.is_some() {
            self.lab.sites.await_copy("secondary", "readable").await.unwrap();
        }
        self.pass(1).await;
        point
    }

    /// Time goes on, in steps that count.
    pub async fn pass(&self, seconds: i64) {
        self.clock.set(self.clock.now().plus_seconds(seconds));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    /// Hours go by while the coordinator looks.
    pub async fn hours(&self, count: i64) {
        for _ in 0..count {
            self.pass(3000).await;
            tokio::time::sleep(Duration::from_millis(600)).await;
        }
    }

    /// One copy of a point, as operators see it.
    pub async fn copy(&self, point: PointId, copy: &str) -> CopyRow {
        let points = self.lab.sites.points("coordinator").await.unwrap();
        let row = points.into_iter().find(|row| row.id == point).unwrap();
        row.copies.into_iter().find(|row| row.copy.as_str() == copy).unwrap()
    }

    /// Time goes on until the copy is as `fits` says.
    pub async fn until(
        &self,
        point: PointId,
        copy: &str,
        fits: impl Fn(&CopyRow) -> bool,
    ) -> CopyRow {
        let what = format!("{copy} of {point} to be so");
        let came = self.lab.sites.wait_for(&what, async |_| {
            self.pass(240).await;
            Ok(Some(self.copy(point, copy).await).filter(&fits))
        });
        match came.await {
            Ok(row) => row,
            Err(error) => panic!("{error}: {:?}", self.copy(point, copy).await),
        }
    }

    /// The points that a node lists.
    pub async fn there(&self, node: &str) -> Vec<PointId> {
        self.lab.sites.points(node).await.unwrap().into_iter().map(|row| row.id).collect()
    }

    /// Orders something of the coordinator.
    pub async fn order(&self, request: Request) -> Response {
        self.lab.sites.ask("coordinator", &request).await.unwrap()
    }
}
