//! What an agent may be ordered to do: make a point, or write one back. Everything else is
//! refused.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use strongroom_node::desk::{Task, Worker};
use strongroom_node::home::Home;
use strongroom_protocol::Clock;
use strongroom_protocol::control::{Ending, RetryAdvice, Work};
use strongroom_protocol::member::{MemberAnswer, MemberQuestion};
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_store::cut::Blocks;

use crate::assignment::Assignment;
use crate::workload::apps::{self, Settings};
use crate::{holder, hooks, protect, recover};

/// Where hook windows are noted while they are open: gone with the power, as the
/// application's quiet is.
const JOURNAL_DIR: &str = "/run/strongroom";

/// A member that was not seen in this time is not there; connecting to it may take 10 s.
const LOOK_MAX: Duration = Duration::from_secs(15);

/// An agent's hands.
pub(crate) struct Hands {
    pub(crate) cache: PathBuf,
    pub(crate) journal: PathBuf,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Hands {
    pub(crate) fn new(home: &Home, clock: Arc<dyn Clock>) -> Self {
        let mark = blake3::hash(home.dir().as_os_str().as_encoded_bytes()).to_hex();
        let own = mark.get(..12).unwrap_or_default();
        Self { cache: home.cache(), journal: PathBuf::from(JOURNAL_DIR).join(own), clock }
    }

    /// Ends what an agent that was killed had begun: open hook windows are closed before
    /// anything else is done.
    pub(crate) async fn put_in_order(&self) {
        let journal = self.journal.clone();
        let reaped = tokio::task::spawn_blocking(move || hooks::reap(&journal)).await;
        match reaped {
            Ok(Ok(reaped)) => {
                for window in reaped {
                    tracing::warn!(window = %window.name, "a hook window left open was closed");
                }
            }
            Ok(Err(error)) => tracing::error!(%error, "open hook windows cannot be looked for"),
            Err(_) => tracing::error!("looking for open hook windows failed"),
        }
        let journal = self.journal.clone();
        let ended = tokio::task::spawn_blocking(move || holder::reap(&journal, apps::held)).await;
        match ended {
            Ok(Ok(ended)) => {
                for (path, outcome) in ended {
                    let path = path.display();
                    match outcome {
                        Ok(()) => tracing::warn!(%path, "a freeze left behind was ended"),
                        Err(why) => tracing::error!(%path, why, "a freeze left behind stays"),
                    }
                }
            }
            Ok(Err(error)) => tracing::error!(%error, "freezes left behind cannot be looked for"),
            Err(_) => tracing::error!("looking for freezes left behind failed"),
        }
    }
}

/// A refusal as the ending of an assignment.
pub(crate) fn failed(refusal: Refusal, retry: RetryAdvice) -> Ending {
    tracing::warn!(%refusal, "an assignment failed");
    Ending::Failed { refusal, retry }
}

/// A flag for plain threads that rises when the task is cancelled, or the guard is dropped.
pub(crate) struct StopFlag {
    pub(crate) flag: Arc<AtomicBool>,
    watch: tokio::task::JoinHandle<()>,
}

impl StopFlag {
    pub(crate) fn of(task: &Task) -> Self {
        let flag = Arc::new(AtomicBool::new(false));
        let (raised, cancelled) = (Arc::clone(&flag), task.cancelled.clone());
        let watch = tokio::task::spawn(async move {
            cancelled.cancelled().await;
            raised.store(true, Ordering::Relaxed);
        });
        Self { flag, watch }
    }
}

impl Drop for StopFlag {
    fn drop(&mut self) {
        self.flag.store(true, Ordering::Relaxed);
        self.watch.abort();
    }
}

impl Worker for Hands {
    async fn member(self: Arc<Self>, question: MemberQuestion) -> MemberAnswer {
        let MemberQuestion { kind, settings, .. } = question;
        let looking =
            tokio::task::spawn_blocking(move || apps::member(kind, &Settings::new(settings)));
        let refused = |kind, text: &str| MemberAnswer::Refused(Refusal::new(kind, text));
        match tokio::time::timeout(LOOK_MAX, looking).await {
            Ok(Ok(Ok(state))) => MemberAnswer::Is(state),
            Ok(Ok(Err(refusal))) => MemberAnswer::Refused(refusal),
            Ok(Err(_)) => refused(RefusalKind::Internal, "looking at it failed"),
            Err(_) => refused(RefusalKind::Unavailable, "it does not answer its agent"),
        }
    }

    async fn perform(self: Arc<Self>, task: Task) -> Ending {
        match task.work.clone() {
            Work::Protect(work) => {
                let assignment = Assignment::files(*work, Blocks::AsFiles);
                protect::perform(&self, &task, assignment).await
            }
            Work::ProtectApp(work) => protect::perform(&self, &task, Assignment::app(*work)).await,
            Work::ProtectBlocks { work, blocks_min: min, blocks_max: max } => {
                let assignment = Assignment::files(*work, Blocks::Sized { min, max });
                protect::perform(&self, &task, assignment).await
            }
            Work::Recover(work) => recover::perform(&task, *work).await,
            Work::Aux { .. }
            | Work::Drill(_)
            | Work::Expire { .. }
            | Work::Release { .. }
            | Work::Heal { .. }
            | Work::Look { .. }
            | Work::Prove { .. }
            | Work::Replicate { .. } => {
                let text = "an agent makes no copies";
                failed(Refusal::new(RefusalKind::Invalid, text), RetryAdvice::Pointless)
            }
        }
    }
}
