//! Whether what a coordinator says on the uplink is obeyed: only from the one whose site leads in
//! the highest term this node ever saw. Work of any other is declined with the reason, and what
//! else it says is passed over, but for renewals of our own certificate.

use std::sync::Arc;

use strongroom_protocol::control::{Ending, FromNode, RetryAdvice, ToNode};
use strongroom_protocol::lead::taken_over;
use strongroom_protocol::opening::Refusal;
use strongroom_protocol::{Chain, Lead, SiteName};

use crate::lead::{Heard, LeadBook};

/// What becomes of a message.
#[derive(Debug)]
pub(crate) enum Passed {
    /// This is said instead.
    Answered(FromNode),
    On(ToNode),
    Over,
}

/// One conversation's.
pub(crate) struct Fence {
    book: Arc<LeadBook>,
    /// Of which site the coordinator is.
    site: SiteName,
    /// Who leads as it said; one that says nothing is of a time before terms.
    said: Lead,
    fenced: Arc<dyn Fn(&Refusal) + Send + Sync>,
    was_told: bool,
}

impl Fence {
    pub(crate) fn new(
        book: Arc<LeadBook>,
        site: SiteName,
        fenced: Arc<dyn Fn(&Refusal) + Send + Sync>,
    ) -> Self {
        Self { book, said: Lead::first(site.clone()), site, fenced, was_told: false }
    }

    pub(crate) fn pass(&mut self, message: ToNode) -> Passed {
        if let ToNode::Lead(said) = &message {
            self.said = said.clone();
            match self.book.hear(said) {
                Ok(Heard::Newer) => tracing::warn!(lead = %said, "another term"),
                Ok(Heard::Agreed | Heard::Stale) => {}
                Err(error) => {
                    tracing::error!(error = %Chain(&error), "a newer term was not kept");
                }
            }
        }
        let lead = self.book.lead();
        let is_newest = (self.said.term, &self.said.site) == (lead.term, &lead.site);
        if is_newest && lead.site == self.site {
            return Passed::On(message);
        }
        match message {
            ToNode::Lead(_) | ToNode::Renewed { .. } | ToNode::Refused(_) => Passed::On(message),
            ToNode::Assign { job, generation, .. } => {
                let who = format!("the coordinator of site {} is not obeyed here", self.site);
                let refusal = taken_over(&lead, &who);
                tracing::warn!(%job, %refusal, "an order was declined");
                if !std::mem::replace(&mut self.was_told, true) {
                    (self.fenced)(&refusal);
                }
                let ending = Ending::Failed { refusal, retry: RetryAdvice::Later };
                Passed::Answered(FromNode::Ended { job, generation, ending })
            }
            message => {
                tracing::debug!(?message, "passed over: its coordinator does not lead");
                Passed::Over
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail anywhere")]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use strongroom_protocol::control::Work;
    use strongroom_protocol::opening::RefusalKind;
    use strongroom_protocol::{Generation, JobId, PointId, Term};

    use super::*;
    use crate::home::{Home, SETTINGS_FILE};

    fn lead(term: u64, site: &str) -> Lead {
        Lead { term: Term(term), ..Lead::first(site.parse().unwrap()) }
    }

    fn removal() -> ToNode {
        let point = PointId::from_bytes([2; 16]);
        let work = Work::Replicate { point, bits_per_second_max: None };
        ToNode::Assign { job: JobId::from_bytes([1; 16]), generation: Generation(1), work }
    }

    fn is_obeyed(fence: &mut Fence) -> bool {
        match fence.pass(removal()) {
            Passed::On(_) => true,
            Passed::Answered(FromNode::Ended {
                ending: Ending::Failed { refusal, .. }, ..
            }) => {
                assert_eq!(refusal.kind, RefusalKind::Stale);
                assert!(matches!(
                    fence.pass(ToNode::Revoked { revoked: Vec::new() }),
                    Passed::Over
                ));
                false
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_the_leader_of_the_highest_term_seen_is_obeyed() {
        let dir = tempfile::tempdir().unwrap();
        let text = "org = \"acme\"\nsite = \"a\"\nrole = \"agent\"\nname = \"db\"\n";
        std::fs::write(dir.path().join(SETTINGS_FILE), text).unwrap();
        let book = Arc::new(LeadBook::open(&Home::open(dir.path()).unwrap()).unwrap());
        let told = Arc::new(AtomicU32::new(0));
        let fence = || {
            let told = Arc::clone(&told);
            let fenced = Arc::new(move |_: &Refusal| {
                told.fetch_add(1, Ordering::Relaxed);
            });
            Fence::new(Arc::clone(&book), "a".parse().unwrap(), fenced)
        };
        // One of a time before terms says nothing, and is obeyed in the first.
        assert!(is_obeyed(&mut fence()));
        let mut standing = fence();
        fence().pass(ToNode::Lead(lead(2, "b")));
        assert!(!is_obeyed(&mut standing), "a conversation that stands is fenced too");
        assert!(!is_obeyed(&mut fence()), "one that says nothing is of the first term");
        for (said, obeyed) in [(lead(1, "a"), false), (lead(2, "b"), false), (lead(3, "a"), true)] {
            let mut fence = fence();
            fence.pass(ToNode::Lead(said.clone()));
            assert_eq!(is_obeyed(&mut fence), obeyed, "{said}");
            is_obeyed(&mut fence);
        }
        assert_eq!(told.load(Ordering::Relaxed), 4, "once a conversation");
    }
}
