//! Scrubbing in the background: reads back what is due, oldest first, at a bounded rate, and
//! hands what is hurt to whoever can mend it. The same at both sites, because it needs nothing
//! but the repository. It never removes anything and never ends by an error.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use strongroom_protocol::admin::ScrubReport;
use strongroom_protocol::{Chain, Clock, Timestamp};
use strongroom_store::repo::{Checked, Repo, ScrubTerms, Subject};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The ages are written down at least this often.
const SAVE_EVERY: Duration = Duration::from_secs(60);
/// What was found hurt waits no longer than this for mending.
const MEND_WITHIN: Duration = Duration::from_secs(30);
/// Mending is tried again this soon while something is hurt.
const MEND_AGAIN: Duration = Duration::from_secs(60);
/// Hurt things named in one report.
const HURT_NAMED_MAX: usize = 1000;

/// `[scrub]` of `node.toml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScrubSettings {
    /// Every pack is read back this often.
    pub period_seconds: u32,
    /// A new pack is read back after this; within a day with the look that finds it due.
    pub new_seconds: u32,
    /// How often it is looked whether something is due, missing, or can be mended now.
    pub look_seconds: u32,
    /// Most bytes read in a second.
    pub bytes_per_second: u64,
    /// A copy's proof older than this is renewed (coordinator).
    pub proof_seconds: u32,
}

impl Default for ScrubSettings {
    fn default() -> Self {
        Self {
            period_seconds: 30 * 24 * 3600,
            new_seconds: 12 * 3600,
            look_seconds: 600,
            bytes_per_second: 64 << 20,
            proof_seconds: 30 * 24 * 3600,
        }
    }
}

/// What scrubbing has met since the node started.
#[derive(Debug, Clone, Copy, Default)]
struct Met {
    found: u64,
    healed: u64,
    last_found: Option<Timestamp>,
    last_healed: Option<Timestamp>,
    rounds: u64,
}

/// Whoever can do something about what is hurt.
pub trait Mender: Send + Sync {
    /// Heals what can be healed and tells of the rest; called after every round.
    fn mend(&self) -> impl Future<Output = ()> + Send;
}

/// The scrubber of one node.
pub struct Scrubber {
    repo: Repo,
    clock: Arc<dyn Clock>,
    settings: ScrubSettings,
    met: Mutex<Met>,
}

impl Scrubber {
    /// A scrubber that does nothing yet.
    pub fn new(repo: Repo, clock: Arc<dyn Clock>, settings: ScrubSettings) -> Self {
        Self { repo, clock, settings, met: Mutex::default() }
    }

    fn met(&self) -> MutexGuard<'_, Met> {
        self.met.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that so many hurt things were found, and so many healed.
    pub fn note(&self, found: usize, healed: usize) {
        let now = self.clock.now();
        let mut met = self.met();
        met.found += found as u64;
        met.healed += healed as u64;
        if found > 0 {
            met.last_found = Some(now);
        }
        if healed > 0 {
            met.last_healed = Some(now);
        }
    }

    /// What it knows, for people. Blocking.
    pub fn report(&self) -> ScrubReport {
        let age = self.repo.scrub_age();
        let met = *self.met();
        let hurt = self.repo.hurt();
        ScrubReport {
            files: age.files,
            oldest: age.oldest,
            never: age.never,
            never_bytes: age.never_bytes,
            found: met.found,
            healed: met.healed,
            last_found: met.last_found,
            last_healed: met.last_healed,
            rounds: met.rounds,
            hurt: hurt.iter().take(HURT_NAMED_MAX).map(sentence).collect(),
        }
    }

    /// Scrubs until `stop`.
    pub async fn keep(&self, mender: &impl Mender, stop: &CancellationToken) {
        let look = Duration::from_secs(u64::from(self.settings.look_seconds.max(1)));
        let mut pace = Pace::new(self.settings.bytes_per_second);
        while !stop.is_cancelled() {
            pace = self.round(mender, pace, stop).await;
            self.met().rounds += 1;
            let look = if self.repo.hurt().is_empty() { look } else { look.min(MEND_AGAIN) };
            if stop.run_until_cancelled(tokio::time::sleep(look)).await.is_none() {
                return;
            }
        }
    }

    /// Reads back what is due now.
    async fn round(&self, mender: &impl Mender, mut pace: Pace, stop: &CancellationToken) -> Pace {
        let terms = ScrubTerms {
            period_seconds: i64::from(self.settings.period_seconds),
            new_seconds: i64::from(self.settings.new_seconds),
        };
        let (repo, now) = (self.repo.clone(), self.clock.now());
        let due = tokio::task::spawn_blocking(move || repo.scrub_due(terms, now)).await;
        let due = match due {
            Ok(Ok(due)) => due,
            Ok(Err(error)) => {
                tracing::error!(error = %Chain(&error), "cannot tell what is to be scrubbed");
                Vec::new()
            }
            Err(_) => Vec::new(),
        };
        let mut saved = Instant::now();
        let mut waiting: Option<Instant> = None;
        for subject in due {
            if stop.is_cancelled() {
                break;
            }
            let checked;
            (checked, pace) = self.check(subject, pace, stop).await;
            if matches!(checked, Checked::Hurt(_)) && waiting.is_none() {
                waiting = Some(Instant::now());
            }
            if waiting.is_some_and(|since| since.elapsed() > MEND_WITHIN) {
                mender.mend().await;
                waiting = None;
            }
            if saved.elapsed() > SAVE_EVERY {
                self.save().await;
                saved = Instant::now();
            }
        }
        self.save().await;
        if !stop.is_cancelled() {
            mender.mend().await;
        }
        pace
    }

    async fn check(
        &self,
        subject: Subject,
        mut pace: Pace,
        stop: &CancellationToken,
    ) -> (Checked, Pace) {
        let (repo, clock, stop) = (self.repo.clone(), Arc::clone(&self.clock), stop.clone());
        let unpaced = pace.clone();
        let runtime = tokio::runtime::Handle::current();
        let checking = tokio::task::spawn_blocking(move || {
            let checked = repo.scrub_check(subject, clock.now(), &mut |bytes| {
                let until = pace.after(bytes);
                let waited = stop.run_until_cancelled(tokio::time::sleep_until(until));
                match runtime.block_on(waited) {
                    Some(()) => ControlFlow::Continue(()),
                    None => ControlFlow::Break(()),
                }
            });
            (checked, pace)
        });
        checking.await.unwrap_or((Checked::Stopped, unpaced))
    }

    async fn save(&self) {
        let repo = self.repo.clone();
        let saved = tokio::task::spawn_blocking(move || repo.scrub_save()).await;
        if let Ok(Err(error)) = saved {
            tracing::warn!(error = %Chain(&error), "the ages of packs were not written down");
        }
    }
}

/// One hurt thing for people.
pub fn sentence((subject, why): (&Subject, &String)) -> String {
    match subject {
        Subject::Pack(pack) => format!("pack {pack}: {why}"),
        Subject::Point(_, point) => format!("point {point}: {why}"),
    }
}

/// Keeps to a rate.
#[derive(Clone)]
struct Pace {
    bytes_per_second: u64,
    due: Instant,
}

impl Pace {
    fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), due: Instant::now() }
    }

    /// When to go on after so many bytes.
    fn after(&mut self, bytes: u64) -> Instant {
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        self.due = self.due.max(Instant::now()) + cost;
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pace_is_kept_and_time_that_passed_is_not_made_up_for() {
        let mut pace = Pace::new(1000);
        let began = Instant::now();
        assert_eq!(pace.after(500) - began, Duration::from_millis(500));
        assert_eq!(pace.after(500) - began, Duration::from_secs(1));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(pace.after(1000) - began, Duration::from_secs(61));
    }

    #[test]
    fn settings_have_defaults_and_refuse_what_they_do_not_know() {
        let some: ScrubSettings = toml::from_str("period_seconds = 60").unwrap();
        assert_eq!(some, ScrubSettings { period_seconds: 60, ..ScrubSettings::default() });
        assert!(toml::from_str::<ScrubSettings>("perod_seconds = 60").is_err());
    }
}
