//! Whether what a coordinator says on the uplink is obeyed: only from the one whose site leads in
//! the highest term this node ever saw. Work of any other is declined with the reason, and what
//! else it says is passed over, but for renewals of our own certificate.

use std::sync::Arc;

use strongroom_protocol::control::{Ending, FromNode, RetryAdvice, ToNode};
use strongroom_protocol::lead::taken_over;
use strongroom_protocol::opening::Refusal;
use strongroom_protocol::{Chain, Lead, SiteName};

use crate::lead::{Heard, LeadBook};
use crate::uplink::Course;

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
    pub(crate) fn new(course: &Course) -> Self {
        let site = course.coordinator_site.clone();
        Self {
            book: Arc::clone(&course.lead),
            said: Lead::first(site.clone()),
            site,
            fenced: Arc::clone(&course.fenced),
            was_told: false,
        }
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
