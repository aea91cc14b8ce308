//! What a node knows of who leads, in `lead.json` of its home: the highest term it ever saw, and
//! whether this site is about to hand over. One file, written whole and durable before anybody is
//! told, so that a crash leaves what was before or what is after. A lower term, or another leader
//! of the same term, never replaces what is known.

use std::path::PathBuf;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use serde::{Deserialize, Serialize};
use strongroom_certs::{FileError, files};
use strongroom_protocol::lead::{LeadOrder, Proposal, taken_over};
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Chain, Identity, Lead, Role, SiteName, Timestamp};
use tokio::sync::watch;

use crate::home::{Home, HomeError};

/// The file in a node's home.
pub const LEAD_FILE: &str = "lead.json";

/// What is on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    lead: Lead,
    /// Ordered by two persons, and not yet taken by the site that is to lead.
    #[serde(default)]
    handing: Option<Lead>,
}

/// What this site is to the organisation at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    Follows,
    /// It takes no points any more; the other site takes the lead in this term.
    HandsOver(Lead),
    Leads,
}

impl Standing {
    /// The word for people.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Follows => "follows",
            Self::HandsOver(_) => "hands over",
            Self::Leads => "leads",
        }
    }
}

/// How what somebody says compares with what is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It is what is known, or newer and known from now on.
    Agreed,
    Newer,
    /// Of a lower term, or of the same with another leader.
    Stale,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Follow,
    Lead,
}

/// The file, and who waits for its changes.
#[derive(Debug)]
pub struct LeadBook {
    path: PathBuf,
    me: SiteName,
    known: RwLock<Known>,
    changed: watch::Sender<u64>,
}

impl LeadBook {
    /// Reads the file of `home`; without one it is the first term, and the coordinator leads.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn open(home: &Home) -> Result<Self, HomeError> {
        let (path, settings) = (home.path(LEAD_FILE), home.settings());
        let me = settings.site.clone();
        let first = match settings.role {
            Role::Coordinator => me.clone(),
            _ => settings.coordinator_site.clone().unwrap_or_else(|| me.clone()),
        };
        let unusable = |source: Box<dyn std::error::Error + Send + Sync>| HomeError::Part {
            what: "who leads",
            path: path.clone(),
            source,
        };
        let known = match files::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|error| unusable(Box::new(error)))?
            }
            Err(error) if error.is_missing() => Known { lead: Lead::first(first), handing: None },
            Err(error) => return Err(unusable(Box::new(error))),
        };
        Ok(Self { path, me, known: RwLock::new(known), changed: watch::channel(0).0 })
    }

    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The highest term known and who leads in it.
    pub fn lead(&self) -> Lead {
        self.known().lead.clone()
    }

    /// What this site is.
    pub fn standing(&self) -> Standing {
        self.known().standing(&self.me)
    }

    /// Whether this site leads.
    pub fn leads(&self) -> bool {
        self.standing() == Standing::Leads
    }

    /// Does `work` only if this site leads, and so that it leads until the work is done.
    ///
    /// # Errors
    /// Another site leads; `what` is not done.
    pub fn while_leading<T>(&self, what: &str, work: impl FnOnce() -> T) -> Result<T, Refusal> {
        let known = self.known();
        match known.standing(&self.me) {
            Standing::Leads => Ok(work()),
            Standing::Follows => Err(taken_over(&known.lead, what)),
            Standing::HandsOver(to) => Err(taken_over(&to, what)),
        }
    }

    /// Takes in what somebody who may say it says of who leads.
    ///
    /// # Errors
    /// It cannot be written: nothing changed.
    pub fn hear(&self, said: &Lead) -> Result<Heard, FileError> {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if (said.term, &said.site) == (known.lead.term, &known.lead.site) {
            return Ok(Heard::Agreed);
        }
        if said.term <= known.lead.term {
            return Ok(Heard::Stale);
        }
        self.put(&mut known, Known { lead: said.clone(), handing: None })?;
        Ok(Heard::Newer)
    }

    /// This site leads from now on in the term of `lead`, as two persons ordered.
    ///
    /// # Errors
    /// It cannot be written: nothing changed.
    pub fn take(&self, lead: Lead) -> Result<(), FileError> {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        self.put(&mut known, Known { lead, handing: None })
    }

    /// This site takes no points any more, and `next` leads as soon as it says so.
    ///
    /// # Errors
    /// It cannot be written: nothing changed.
    pub fn hand_over(&self, next: Lead) -> Result<(), FileError> {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let handing = Known { lead: known.lead.clone(), handing: Some(next) };
        self.put(&mut known, handing)
    }

    /// Whether an order makes sense at this site now; `home` is the site to give the lead back
    /// to, where there is one.
    ///
    /// # Errors
    /// Why it does not.
    pub fn may(&self, order: LeadOrder, home: Option<&SiteName>) -> Result<(), Refusal> {
        let invalid = |text: String| Err(Refusal::new(RefusalKind::Invalid, text));
        match (order, self.standing(), home) {
            (LeadOrder::TakeOver, Standing::Leads, _) => {
                invalid(format!("{}: there is nothing to take over", self.lead()))
            }
            (LeadOrder::TakeOver, ..) | (LeadOrder::GiveBack, Standing::Leads, Some(_)) => Ok(()),
            (LeadOrder::GiveBack, Standing::Leads, None) => {
                invalid("this coordinator took over from nobody".to_owned())
            }
            (LeadOrder::GiveBack, Standing::HandsOver(to), _) => {
                invalid(format!("it is ordered already: {to}"))
            }
            (LeadOrder::GiveBack, Standing::Follows, _) => {
                invalid(format!("this site has no lead to give back: {}", self.lead()))
            }
        }
    }

    /// Carries out what two persons ordered; what was decided is on disk when this returns.
    ///
    /// # Errors
    /// It makes no sense any more, or cannot be written: nothing changed.
    pub fn order(
        &self,
        proposal: &Proposal,
        second: &Identity,
        home: Option<&SiteName>,
        now: Timestamp,
    ) -> Result<Lead, Refusal> {
        self.may(proposal.order, home)?;
        let site = match (proposal.order, home) {
            (LeadOrder::GiveBack, Some(home)) => home.clone(),
            _ => self.me.clone(),
        };
        let lead = Lead {
            term: self.next_term(),
            site,
            since: Some(now),
            by: vec![proposal.by.clone(), second.clone()],
            why: proposal.why.clone(),
        };
        let done = match proposal.order {
            LeadOrder::TakeOver => self.take(lead.clone()),
            LeadOrder::GiveBack => self.hand_over(lead.clone()),
        };
        let failed = |error| Refusal::new(RefusalKind::Unavailable, Chain(&error).to_string());
        done.map_err(failed).map(|()| lead)
    }

    /// Waits until this site follows, or until it does not.
    pub async fn until(&self, wanted: Turn) {
        let mut changes = self.changed.subscribe();
        while (self.standing() == Standing::Follows) != (wanted == Turn::Follow) {
            // Fails only when the book is gone, and this holds it.
            let _ = changes.changed().await;
        }
    }

    fn put(&self, known: &mut Known, next: Known) -> Result<(), FileError> {
        let text = serde_json::to_vec_pretty(&next).unwrap_or_default();
        if let Err(error) = files::write_private(&self.path, &text) {
            tracing::error!(error = %Chain(&error), "who leads cannot be written");
            return Err(error);
        }
        *known = next;
        self.changed.send_modify(|count| *count += 1);
        Ok(())
    }

    /// The term that follows every one known here.
    pub fn next_term(&self) -> strongroom_protocol::Term {
        let known = self.known();
        let handing = known.handing.as_ref().map_or(known.lead.term, |next| next.term);
        known.lead.term.max(handing).next()
    }
}

impl Known {
    fn standing(&self, me: &SiteName) -> Standing {
        match &self.handing {
            _ if self.lead.site != *me => Standing::Follows,
            Some(next) => Standing::HandsOver(next.clone()),
            None => Standing::Leads,
        }
    }
}

#[cfg(test)]
mod killed_tests;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail anywhere")]
mod tests {
    use strongroom_protocol::Term;

    use super::*;

    fn home(dir: &std::path::Path) -> Home {
        let text = "org = \"acme\"\nsite = \"b\"\nrole = \"proxy\"\nname = \"dr\"\n\
                    coordinator_site = \"a\"\n";
        std::fs::write(dir.join(crate::home::SETTINGS_FILE), text).unwrap();
        Home::open(dir).unwrap()
    }

    fn lead(term: u64, site: &str) -> Lead {
        Lead { term: Term(term), ..Lead::first(site.parse().unwrap()) }
    }

    #[test]
    fn a_lower_term_or_another_leader_of_the_same_is_stale() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(dir.path());
        let book = LeadBook::open(&home).unwrap();
        assert_eq!((book.lead(), book.standing()), (lead(1, "a"), Standing::Follows));
        book.take(lead(2, "b")).unwrap();
        assert!(book.leads());
        for (said, heard) in [
            (lead(1, "a"), Heard::Stale),
            (lead(2, "a"), Heard::Stale),
            (lead(2, "b"), Heard::Agreed),
        ] {
            assert_eq!(book.hear(&said).unwrap(), heard, "{said}");
            assert!(book.leads());
        }
        book.hand_over(lead(3, "a")).unwrap();
        assert!(book.while_leading("a point", || ()).is_err());
        assert_eq!(book.next_term(), Term(4));
        // What a restart finds is what was.
        let again = LeadBook::open(&home).unwrap();
        assert_eq!(again.standing(), Standing::HandsOver(lead(3, "a")));
        assert_eq!(again.hear(&lead(3, "a")).unwrap(), Heard::Newer);
        assert_eq!(again.standing(), Standing::Follows);
    }

    #[test]
    fn a_damaged_file_is_named_and_never_taken_for_the_first_term() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(dir.path());
        LeadBook::open(&home).unwrap().take(lead(2, "b")).unwrap();
        let whole = std::fs::read(dir.path().join(LEAD_FILE)).unwrap();
        for length in 0..whole.len() - 1 {
            std::fs::write(dir.path().join(LEAD_FILE), &whole[..length]).unwrap();
            assert!(LeadBook::open(&home).is_err(), "{length}");
        }
    }
}
