//! Gives space back in the background: collects soon after points were removed, and from time to
//! time, one collection at a time, stopped between two of its steps when the node stops. What a
//! collection did, or why it refused, is told to whoever keeps the log.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use strongroom_protocol::admin::{SpaceOrder, SpaceReport, SpaceRun};
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Chain, Timestamp};
use strongroom_store::repo::{CollectError, CollectLimits, CollectReport, PackTally, Repo};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::reserve::{Reserve, tells_of_no_room};

/// What is removed together is collected together.
const GATHER: Duration = Duration::from_secs(5);
/// Between two collections, so that many removals do not make many.
const REST: Duration = Duration::from_secs(60);
/// What a session may still have counted on is looked at again after this.
const AGAIN: Duration = Duration::from_secs(600);
/// A collection is due after this in any case.
const INTERVAL: Duration = Duration::from_secs(6 * 3600);

/// How a collection ended, in words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// What it did; none when there was nothing to do.
    Done(Option<String>),
    /// Nothing may be removed, and why.
    Refused(String),
}

/// The collector of a node's repository.
pub struct Collector {
    repo: Repo,
    reserve: Reserve,
    wanted: Notify,
    stop: CancellationToken,
    last: Mutex<Option<(Timestamp, Outcome)>>,
}

impl Collector {
    /// A collector that does nothing yet, with the reserve of the node's home.
    pub fn new(repo: Repo, reserve: Reserve) -> Self {
        let (wanted, stop) = (Notify::new(), CancellationToken::new());
        Self { repo, reserve, wanted, stop, last: Mutex::default() }
    }

    /// Points were removed: space may come back.
    pub fn want(&self) {
        self.wanted.notify_one();
    }

    /// Collects when due, until `stop`; each end is told, off the runtime.
    pub async fn run(
        self: Arc<Self>,
        stop: CancellationToken,
        now: impl Fn() -> Timestamp + Send + Sync + 'static,
        told: impl Fn(&Outcome) + Send + Sync + 'static,
    ) {
        let both = Arc::new((now, told));
        let collecting = async {
            let mut pause = AGAIN;
            while stop.run_until_cancelled(self.due(pause)).await.is_some() {
                let (collector, both) = (Arc::clone(&self), Arc::clone(&both));
                let once = tokio::task::spawn_blocking(move || {
                    let (waits, outcome) = collector.once(both.0());
                    if let Some(outcome) = outcome {
                        both.1(&outcome);
                    }
                    waits
                });
                // A worker that died has said so in the log.
                let waits = once.await.unwrap_or_default();
                pause = if waits { AGAIN } else { INTERVAL };
                stop.run_until_cancelled(tokio::time::sleep(REST)).await;
            }
        };
        // A collection under way ends between two of its steps, and is waited for.
        let watching = async {
            stop.cancelled().await;
            self.stop.cancel();
        };
        tokio::join!(collecting, watching);
    }

    async fn due(&self, pause: Duration) {
        tokio::select! {
            () = self.wanted.notified() => tokio::time::sleep(GATHER).await,
            () = tokio::time::sleep(pause) => {}
        }
    }

    /// What a person must look at.
    pub fn alarm(&self) -> Option<String> {
        match &*self.last.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((_, Outcome::Refused(why))) => Some(format!("no space comes back: {why}")),
            _ => None,
        }
    }

    /// One collection; whether another is due soon, and how it ended unless another one runs.
    fn once(&self, now: Timestamp) -> (bool, Option<Outcome>) {
        let collected = self.collect();
        let waits = match &collected {
            Ok(report) => report.waiting > 0 || report.stopped || !report.removed.is_empty(),
            Err(_) => true,
        };
        (waits, self.note(&collected, now))
    }

    fn collect(&self) -> Result<CollectReport, CollectError> {
        let mut watch = |_| match self.stop.is_cancelled() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let limits = CollectLimits::default();
        let collected = match self.repo.collect(&limits, &mut watch) {
            Err(error) if tells_of_no_room(&error) && self.reserve.give_up() => {
                self.repo.collect(&limits, &mut watch)
            }
            collected => collected,
        };
        if collected.is_ok() {
            self.reserve.make();
        }
        collected
    }

    fn note(
        &self,
        collected: &Result<CollectReport, CollectError>,
        now: Timestamp,
    ) -> Option<Outcome> {
        let outcome = match collected {
            Ok(report) => Outcome::Done(summary(report)),
            Err(CollectError::Busy | CollectError::Stopped) => return None,
            Err(error) => Outcome::Refused(Chain(error).to_string()),
        };
        match &outcome {
            Outcome::Done(Some(text)) => tracing::info!(%text, "collected"),
            Outcome::Done(None) => tracing::debug!("there was nothing to collect"),
            Outcome::Refused(why) => tracing::warn!(%why, "a collection was refused"),
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, outcome.clone()));
        Some(outcome)
    }

    /// What an operator sees: what a collection would give back, or what one gave. Blocking.
    ///
    /// # Errors
    /// The repository does not answer, or a collection runs.
    pub fn space(&self, order: SpaceOrder, now: Timestamp) -> Result<SpaceReport, Refusal> {
        let done = match order {
            SpaceOrder::Show => None,
            SpaceOrder::Collect => {
                let collected = self.collect();
                self.note(&collected, now);
                let report = collected.map_err(|error| refusal(&error))?;
                Some(summary(&report).unwrap_or_else(|| "there was nothing to collect".to_owned()))
            }
        };
        let plan = self.repo.collection_plan(&CollectLimits::default());
        let plan = plan.map_err(|error| refusal(&error))?;
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let bytes = |packs: &[PackTally]| packs.iter().map(PackTally::bytes).sum();
        Ok(SpaceReport {
            points: plan.points,
            packs: plan.packs,
            bytes: plan.bytes,
            live_bytes: plan.live_bytes,
            dead_packs: plan.remove.len() as u64,
            dead_bytes: bytes(&plan.remove),
            sparse_packs: plan.repack.len() as u64,
            sparse_bytes: bytes(&plan.repack),
            returned_bytes: plan.returned_bytes(),
            open_sessions: plan.open_sessions as u64,
            disk_free_bytes: self.repo.free_bytes(),
            refusal: plan.refusal,
            done,
            last: last.map(|(at, outcome)| SpaceRun { at, text: told(&outcome) }),
        })
    }
}

fn refusal(error: &CollectError) -> Refusal {
    Refusal::new(RefusalKind::Unavailable, Chain(error).to_string())
}

fn told(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done(Some(text)) => text.clone(),
        Outcome::Done(None) => "there was nothing to collect".to_owned(),
        Outcome::Refused(why) => format!("refused: {why}"),
    }
}

/// What a collection did; nothing when it changed nothing.
fn summary(report: &CollectReport) -> Option<String> {
    let CollectReport { removed, removed_bytes, copied_bytes, rescued, waiting, .. } = report;
    if removed.is_empty() && *copied_bytes == 0 && rescued.is_empty() {
        return None;
    }
    let mut text = format!(
        "{} packs of {removed_bytes} bytes are no more, {copied_bytes} bytes were copied out first",
        removed.len()
    );
    let more = [
        (rescued.len(), "packs are needed again"),
        (*waiting, "packs wait for sessions to end"),
        (report.damaged.len(), "packs do not read back"),
    ];
    for (count, what) in more.into_iter().filter(|(count, _)| *count > 0) {
        text.push_str(&format!(", {count} {what}"));
    }
    Some(text)
}
