//! The quiet moment as types: what was made quiet yields a view only by thawing, and what
//! is dropped is thawed. Promises that a thaw is tried on every path and that what a point
//! claims is what was observed; refuses to call a broken window consistent.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::hooks::HookOutcome;

/// What a point may claim about the moment it shows. Ordered: more is greater.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// Files read one after another while in use.
    #[default]
    Fuzzy,
    /// One moment, as after a power cut.
    Crash,
    /// One moment, file system in order.
    Filesystem,
    /// One moment, and the application was told and ready.
    Application,
}

/// What was seen of a quiet window: the ground for what the point claims.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Evidence {
    pub consistency: Consistency,
    /// From the first act of freezing to the observed thaw.
    pub frozen_ms: u64,
    /// Hooks that ran, in order.
    pub hooks: Vec<HookOutcome>,
    /// Why less is claimed than was wanted.
    pub broken: Vec<String>,
}

impl Evidence {
    /// Claims at most `most`, and says why.
    pub fn downgrade(&mut self, most: Consistency, why: impl Into<String>) {
        self.consistency = self.consistency.min(most);
        self.broken.push(why.into());
    }
}

/// What a thaw showed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Thaw {
    /// It is going again, and was still held until now.
    Observed,
    /// It is going again, but had not been held all the time.
    Lost { why: String },
    /// It could not be seen to go again.
    Unseen { why: String },
}

/// Something held still that can be let go.
pub trait Freeze: Send {
    /// Lets go and looks whether it goes. Called once.
    fn thaw(&mut self, evidence: &mut Evidence) -> Thaw;
}

/// Nothing is held: for views that need no quiet.
#[derive(Debug, Default)]
pub struct Unheld;

impl Freeze for Unheld {
    fn thaw(&mut self, _evidence: &mut Evidence) -> Thaw {
        Thaw::Observed
    }
}

/// Something is quiet now. Only [`Quiesced::view`] leads on, and it thaws.
pub struct Quiesced {
    freeze: Option<Box<dyn Freeze>>,
    since: Instant,
    evidence: Evidence,
}

impl std::fmt::Debug for Quiesced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Quiesced").field("evidence", &self.evidence).finish_non_exhaustive()
    }
}

impl Quiesced {
    /// From a freeze that began at `since`, with what it claims so far.
    pub fn new(freeze: Box<dyn Freeze>, since: Instant, evidence: Evidence) -> Self {
        Self { freeze: Some(freeze), since, evidence }
    }

    /// Takes the view, then thaws, whatever came of the view. No byte of the view is read
    /// before the thaw.
    ///
    /// # Errors
    /// No view was taken; the evidence says that the thaw was tried all the same.
    pub fn view<V, E: std::error::Error + 'static>(
        mut self,
        take: impl FnOnce() -> Result<(V, Consistency), E>,
    ) -> Result<Viewed<V>, NotViewed<E>> {
        let taken = take();
        self.thaw();
        let mut evidence = std::mem::take(&mut self.evidence);
        match taken {
            Ok((view, reached)) => {
                evidence.consistency = evidence.consistency.min(reached);
                Ok(Viewed { view, evidence })
            }
            Err(source) => Err(NotViewed { source, evidence }),
        }
    }

    fn thaw(&mut self) {
        let Some(mut freeze) = self.freeze.take() else { return };
        let thaw = freeze.thaw(&mut self.evidence);
        let elapsed = self.since.elapsed().as_millis();
        self.evidence.frozen_ms = u64::try_from(elapsed).unwrap_or(u64::MAX);
        match thaw {
            Thaw::Observed => {}
            Thaw::Lost { why } | Thaw::Unseen { why } => {
                self.evidence.downgrade(Consistency::Crash, why);
            }
        }
    }
}

impl Drop for Quiesced {
    fn drop(&mut self) {
        self.thaw();
    }
}

/// A view of a moment; whatever was quiet goes again.
#[derive(Debug)]
pub struct Viewed<V> {
    pub view: V,
    pub evidence: Evidence,
}

/// No view could be taken; whatever was quiet goes again.
#[derive(Debug, thiserror::Error)]
#[error("no view of the quiet moment could be taken")]
pub struct NotViewed<E: std::error::Error + 'static> {
    pub source: E,
    pub evidence: Evidence,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    struct Counted(Arc<AtomicU32>, Thaw);
    impl Freeze for Counted {
        fn thaw(&mut self, _evidence: &mut Evidence) -> Thaw {
            self.0.fetch_add(1, Ordering::SeqCst);
            self.1.clone()
        }
    }

    fn quiesced(thaw: Thaw) -> (Quiesced, Arc<AtomicU32>) {
        let count = Arc::new(AtomicU32::new(0));
        let evidence = Evidence { consistency: Consistency::Application, ..Evidence::default() };
        let freeze = Box::new(Counted(Arc::clone(&count), thaw));
        (Quiesced::new(freeze, Instant::now(), evidence), count)
    }

    #[test]
    fn thaw_happens_once_on_every_path() {
        let (held, count) = quiesced(Thaw::Observed);
        drop(held);
        assert_eq!(count.load(Ordering::SeqCst), 1);
        let (held, count) = quiesced(Thaw::Observed);
        let viewed = held.view(|| Ok::<_, std::io::Error>(((), Consistency::Application)));
        assert_eq!(viewed.unwrap().evidence.consistency, Consistency::Application);
        assert_eq!(count.load(Ordering::SeqCst), 1);
        let (held, count) = quiesced(Thaw::Observed);
        let failed = held.view(|| Err::<((), Consistency), _>(std::io::Error::other("no")));
        assert!(failed.is_err());
        assert_eq!(count.load(Ordering::SeqCst), 1);
        let (held, count) = quiesced(Thaw::Observed);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _ = held.view(|| -> Result<((), Consistency), std::io::Error> { panic!("view") });
        }));
        assert!(panicked.is_err());
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_broken_window_is_never_called_application_consistent() {
        for thaw in [Thaw::Lost { why: "early".into() }, Thaw::Unseen { why: "silent".into() }] {
            let (held, _) = quiesced(thaw);
            let viewed = held.view(|| Ok::<_, std::io::Error>(((), Consistency::Application)));
            let evidence = viewed.unwrap().evidence;
            assert_eq!(evidence.consistency, Consistency::Crash);
            assert_eq!(evidence.broken.len(), 1);
        }
    }
}
