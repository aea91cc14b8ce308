//! What operators of this site proved by starting applications from the copies here: on disk
//! before it is answered, told to the coordinator until that has it on record, and the newest kept
//! after that, so that this site tells it by itself when the other is gone. A file that cannot be
//! read is put aside, and costs no start.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use strongroom_certs::{FileError, files};
use strongroom_node::uplink::Uplink;
use strongroom_protocol::control::{FromNode, ProofNews};
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Chain, PointId, Timestamp};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Its file in the proxy's directory.
pub(crate) const PROOFS_FILE: &str = "proofs.json";
/// Proofs that the coordinator does not have yet: a person makes each by hand.
const WAITING_MAX: usize = 1000;
/// Proofs kept that it has.
const KEPT_MAX: usize = 1000;
/// What was not answered is told again after this.
const AGAIN: Duration = Duration::from_secs(15);

/// A proof, and whether the coordinator has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Kept {
    news: ProofNews,
    is_noted: bool,
}

/// The proofs of this site.
pub(crate) struct Proofs {
    path: PathBuf,
    /// Oldest first.
    kept: Mutex<Vec<Kept>>,
    /// Answers of the coordinator that are not on disk yet.
    noted: Mutex<Vec<(PointId, Timestamp)>>,
    wanted: Notify,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proofs {
    /// Those of an earlier run.
    pub(crate) fn open(path: &Path) -> Self {
        let kept = match files::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                put_aside(path, &error);
                Vec::new()
            }),
            Err(error) if error.is_missing() => Vec::new(),
            Err(error) => {
                put_aside(path, &error);
                Vec::new()
            }
        };
        let (kept, noted) = (Mutex::new(kept), Mutex::default());
        Self { path: path.to_owned(), kept, noted, wanted: Notify::new() }
    }

    /// Keeps a proof. Blocking.
    ///
    /// # Errors
    /// It cannot be put on disk, or too many wait for the coordinator.
    pub(crate) fn keep(&self, news: ProofNews) -> Result<(), Refusal> {
        let mut kept = locked(&self.kept);
        if kept.iter().filter(|kept| !kept.is_noted).count() >= WAITING_MAX {
            let text = format!(
                "{WAITING_MAX} proofs wait here for the coordinator, and no more are kept until \
                 it was reached"
            );
            return Err(Refusal::new(RefusalKind::Unavailable, text));
        }
        kept.push(Kept { news, is_noted: false });
        if let Err(error) = self.write(&kept) {
            kept.pop();
            return Err(Refusal::new(RefusalKind::Unavailable, Chain(&error).to_string()));
        }
        drop(kept);
        self.wanted.notify_one();
        Ok(())
    }

    /// What is known of one point, oldest first, and whether the coordinator has it.
    pub(crate) fn of(&self, point: PointId) -> Vec<(ProofNews, bool)> {
        let kept = locked(&self.kept);
        let its = kept.iter().filter(|kept| kept.news.point == point);
        its.map(|kept| (kept.news.clone(), kept.is_noted)).collect()
    }

    /// What the coordinator is owed, in a sentence.
    pub(crate) fn owed(&self) -> Option<String> {
        let waiting = self.waiting().len();
        let text = format!("{waiting} proofs made here are not with the coordinator yet");
        (waiting > 0).then_some(text)
    }

    /// The coordinator has one.
    pub(crate) fn noted(&self, point: PointId, at: Timestamp) {
        locked(&self.noted).push((point, at));
        self.wanted.notify_one();
    }

    /// Tells the coordinator what it does not have, until `stop`.
    pub(crate) async fn hand_over(self: Arc<Self>, uplink: Uplink, stop: CancellationToken) {
        let telling = async {
            while uplink.contact().await.is_some() {
                let proofs = Arc::clone(&self);
                let settled = tokio::task::spawn_blocking(move || proofs.settle()).await;
                if let Ok(Err(error)) = settled {
                    tracing::warn!(error = %Chain(&error), "proofs are told once more");
                }
                for news in self.waiting() {
                    uplink.say(FromNode::Proven(news)).await;
                }
                tokio::select! {
                    () = self.wanted.notified() => {}
                    () = tokio::time::sleep(AGAIN) => {}
                }
            }
        };
        stop.run_until_cancelled(telling).await;
    }

    fn waiting(&self) -> Vec<ProofNews> {
        let kept = locked(&self.kept);
        kept.iter().filter(|kept| !kept.is_noted).map(|kept| kept.news.clone()).collect()
    }

    /// Puts the coordinator's answers on disk; the oldest that it has are forgotten. Blocking.
    fn settle(&self) -> Result<(), FileError> {
        let answers = std::mem::take(&mut *locked(&self.noted));
        if answers.is_empty() {
            return Ok(());
        }
        let mut kept = locked(&self.kept);
        for one in kept.iter_mut() {
            one.is_noted |= answers.contains(&(one.news.point, one.news.at));
        }
        let mut surplus = kept.iter().filter(|kept| kept.is_noted).count().saturating_sub(KEPT_MAX);
        kept.retain(|kept| {
            let goes = kept.is_noted && surplus > 0;
            surplus -= usize::from(goes);
            !goes
        });
        self.write(&kept)
    }

    fn write(&self, kept: &[Kept]) -> Result<(), FileError> {
        let expected = "proofs that can be written as JSON";
        let json = serde_json::to_vec_pretty(kept)
            .map_err(|_| FileError::Malformed { path: self.path.clone(), expected })?;
        files::write_private(&self.path, &json)
    }
}

fn put_aside(path: &Path, error: &dyn std::error::Error) {
    let aside = path.with_extension("damaged");
    tracing::error!(path = %path.display(), error = %Chain(error), "put aside: not to be read");
    if let Err(error) = std::fs::rename(path, aside) {
        tracing::error!(path = %path.display(), %error, "it stays where it is");
    }
}

#[cfg(test)]
mod tests {
    use strongroom_protocol::control::{Showing, Shown};

    use super::*;

    fn news(n: u16) -> ProofNews {
        let mut id = [0; 16];
        id[..2].copy_from_slice(&n.to_le_bytes());
        let (level, detail) = ("started".to_owned(), "5 checks".to_owned());
        ProofNews {
            point: PointId::from_bytes(id),
            copy: None,
            by: "strongroom://acme/site/b/operator/ann".parse().unwrap(),
            at: Timestamp::from_unix_seconds(1_780_000_000 + i64::from(n)),
            showing: Showing { level, outcome: Shown::Held, took_ms: 900, detail },
        }
    }

    #[test]
    fn what_was_kept_outlives_the_process_until_it_is_noted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(PROOFS_FILE);
        let proofs = Proofs::open(&path);
        for n in 0..3 {
            proofs.keep(news(n)).unwrap();
        }
        let proofs = Proofs::open(&path);
        assert_eq!(proofs.waiting(), [news(0), news(1), news(2)]);
        proofs.noted(news(1).point, news(1).at);
        // Another proof of the same point is not meant.
        proofs.noted(news(2).point, news(0).at);
        proofs.settle().unwrap();
        let proofs = Proofs::open(&path);
        assert_eq!(proofs.waiting(), [news(0), news(2)]);
        assert_eq!(proofs.of(news(1).point), [(news(1), true)]);
    }

    #[test]
    fn what_waits_is_bounded_and_what_is_noted_is_forgotten_oldest_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(PROOFS_FILE);
        let kept: Vec<Kept> = (0..1000).map(|n| Kept { news: news(n), is_noted: false }).collect();
        std::fs::write(&path, serde_json::to_vec(&kept).unwrap()).unwrap();
        let proofs = Proofs::open(&path);
        let refusal = proofs.keep(news(1000)).unwrap_err();
        assert!(refusal.text.contains("1000 proofs wait"), "{refusal}");
        for n in 0..1000 {
            proofs.noted(news(n).point, news(n).at);
        }
        proofs.settle().unwrap();
        proofs.keep(news(1000)).unwrap();
        proofs.noted(news(1000).point, news(1000).at);
        proofs.settle().unwrap();
        assert!(proofs.of(news(0).point).is_empty());
        assert_eq!(proofs.of(news(1000).point).len(), 1);
    }

    #[test]
    fn a_damaged_file_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(PROOFS_FILE);
        std::fs::write(&path, "[{").unwrap();
        let proofs = Proofs::open(&path);
        assert!(proofs.waiting().is_empty());
        assert!(path.with_extension("damaged").exists() && !path.exists());
        proofs.keep(news(1)).unwrap();
    }
}
