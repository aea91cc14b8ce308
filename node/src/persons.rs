//! Orders that need two persons: one proposes, another confirms within the hour. Refuses one
//! person alone, the same name twice, a person whom the other made an operator in the last week,
//! and a proposal whose time is over. A restart forgets what waits: propose again.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use strongroom_certs::TokenSecret;
use strongroom_protocol::lead::{LeadOrder, Proposal};
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Chain, Identity, NodeName, Timestamp};

use crate::audit;

/// How long a proposal waits for the second person, in seconds.
pub const PROPOSAL_SECONDS: i64 = 3600;
/// So long whom one person made an operator is not a second person beside them, in seconds: time
/// for others to see it in the audit log.
pub const NEW_SECONDS: i64 = 7 * 86_400;
/// Longest reason, in bytes.
const WHY_BYTES_MAX: usize = 1000;
/// Characters of a proposal's name: it is copied by hand and guards nothing by itself.
const ID_BYTES: usize = 4;

/// The order that waits; a newer one takes its place.
#[derive(Debug, Default)]
pub struct Persons {
    waiting: Mutex<Option<Proposal>>,
}

fn forbidden(text: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::Forbidden, text)
}

impl Persons {
    fn waiting(&self) -> MutexGuard<'_, Option<Proposal>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What waits at this moment.
    pub fn proposed(&self, now: Timestamp) -> Option<Proposal> {
        self.waiting().clone().filter(|waiting| now < waiting.expires)
    }

    /// The first person's order.
    ///
    /// # Errors
    /// No reason was given, or one of unreasonable length.
    pub fn propose(
        &self,
        order: LeadOrder,
        by: Identity,
        why: &str,
        doubts: Vec<String>,
        now: Timestamp,
    ) -> Result<Proposal, Refusal> {
        let why = why.trim();
        if why.is_empty() || why.len() > WHY_BYTES_MAX {
            let text = format!("say why, in 1 to {WHY_BYTES_MAX} bytes: it is recorded");
            return Err(Refusal::new(RefusalKind::Invalid, text));
        }
        let failed = |error: &dyn std::error::Error| {
            Refusal::new(RefusalKind::Internal, Chain(error).to_string())
        };
        let secret = TokenSecret::generate().map_err(|error| failed(&error))?;
        let id = secret.as_bytes().iter().take(ID_BYTES).map(|byte| format!("{byte:02x}"));
        let proposal = Proposal {
            id: id.collect(),
            order,
            by,
            why: why.to_owned(),
            expires: now.plus_seconds(PROPOSAL_SECONDS),
            doubts,
        };
        *self.waiting() = Some(proposal.clone());
        Ok(proposal)
    }

    /// The second person's word: the order is to be carried out. It can be confirmed once.
    ///
    /// # Errors
    /// There is no such order, its time is over, or it is not a second person who confirms.
    pub fn confirm(
        &self,
        id: &str,
        by: &Identity,
        log: &Path,
        now: Timestamp,
    ) -> Result<Proposal, Refusal> {
        let mut waiting = self.waiting();
        let Some(proposal) = waiting.clone().filter(|waiting| waiting.id == id) else {
            let text = format!("no proposal {id:?} waits here: propose anew, and confirm that");
            return Err(Refusal::new(RefusalKind::Unknown, text));
        };
        let begun = proposal.expires.plus_seconds(-PROPOSAL_SECONDS);
        if !(begun..proposal.expires).contains(&now) {
            *waiting = None;
            let text = format!("proposal {id} was good until {}: propose anew", proposal.expires);
            return Err(Refusal::new(RefusalKind::Stale, text));
        }
        second(&proposal.by, by, &makers(log, now)?)?;
        *waiting = None;
        Ok(proposal)
    }
}

/// Who made whom an operator here in the last week, as the audit log has it: (maker, made).
fn makers(log: &Path, now: Timestamp) -> Result<Vec<(NodeName, NodeName)>, Refusal> {
    let records = audit::tail(log, usize::MAX).map(|(_, records)| records);
    let records = records
        .map_err(|error| Refusal::new(RefusalKind::Unavailable, Chain(&error).to_string()))?;
    let since = now.plus_seconds(-NEW_SECONDS);
    let made =
        records.into_iter().filter(|record| record.action == "token.create" && record.at > since);
    let pairs = made.filter_map(|record| {
        let made = record.subject.strip_prefix("operator ")?.parse().ok()?;
        Some((record.actor.parse::<Identity>().ok()?.name, made))
    });
    Ok(pairs.collect())
}

/// Whether `by` is another person than `first`, as far as can be told from here.
fn second(first: &Identity, by: &Identity, makers: &[(NodeName, NodeName)]) -> Result<(), Refusal> {
    if first.name == by.name {
        let text = format!("{} proposed it: another person has to confirm", first.name);
        return Err(forbidden(text));
    }
    for (maker, made) in [(&first.name, &by.name), (&by.name, &first.name)] {
        if has_made(maker, made, makers) {
            let text = format!(
                "{maker} made {made} an operator here less than a week ago, so the two may be one \
                 person: somebody else has to confirm"
            );
            return Err(forbidden(text));
        }
    }
    Ok(())
}

/// Whether `maker` made `made` an operator, be it through others whom it made.
fn has_made(maker: &NodeName, made: &NodeName, makers: &[(NodeName, NodeName)]) -> bool {
    let mut reached = vec![maker];
    let mut at = 0;
    while let Some(one) = reached.get(at).copied() {
        for (_, next) in makers.iter().filter(|(of, _)| of == one) {
            if next == made {
                return true;
            }
            if !reached.contains(&next) {
                reached.push(next);
            }
        }
        at += 1;
    }
    false
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail anywhere")]
mod tests {
    use super::*;
    use crate::audit::{AuditLog, Entry};

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

    fn person(name: &str) -> Identity {
        format!("strongroom://acme/site/b/operator/{name}").parse().unwrap()
    }

    fn propose(persons: &Persons) -> Proposal {
        persons.propose(LeadOrder::TakeOver, person("ann"), "fire at a", Vec::new(), NOW).unwrap()
    }

    fn kind(refused: Result<Proposal, Refusal>) -> RefusalKind {
        refused.unwrap_err().kind
    }

    #[test]
    fn one_person_alone_is_refused_and_two_are_obeyed_once() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("audit.log");
        let persons = Persons::default();
        assert!(persons.propose(LeadOrder::TakeOver, person("ann"), " ", Vec::new(), NOW).is_err());
        let asked = propose(&persons);
        let other_site = "strongroom://acme/site/a/operator/ann".parse().unwrap();
        for same in [person("ann"), other_site] {
            let refused = persons.confirm(&asked.id, &same, &log, NOW);
            assert_eq!(kind(refused), RefusalKind::Forbidden, "{same}");
        }
        let unknown = persons.confirm("00000000", &person("ben"), &log, NOW);
        assert_eq!(kind(unknown), RefusalKind::Unknown);
        assert_eq!(persons.confirm(&asked.id, &person("ben"), &log, NOW).unwrap(), asked);
        let again = persons.confirm(&asked.id, &person("ben"), &log, NOW);
        assert_eq!(kind(again), RefusalKind::Unknown);
    }

    #[test]
    fn a_proposal_is_good_for_an_hour_and_for_no_clock_that_went_back() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("audit.log");
        for (seconds, is_good) in [(-1, false), (PROPOSAL_SECONDS - 1, true)] {
            let persons = Persons::default();
            let asked = propose(&persons);
            let at = NOW.plus_seconds(seconds);
            assert_eq!(persons.confirm(&asked.id, &person("ben"), &log, at).is_ok(), is_good);
        }
        let persons = Persons::default();
        let asked = propose(&persons);
        let late = persons.confirm(&asked.id, &person("ben"), &log, asked.expires);
        assert_eq!(kind(late), RefusalKind::Stale);
    }

    #[test]
    fn whom_the_first_made_an_operator_this_week_is_no_second_person() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let log = AuditLog::open(&path, None, NOW).unwrap();
        for (maker, made) in [("ann", "ben"), ("ben", "carl"), ("root", "ann"), ("carl", "ben")] {
            let entry = Entry {
                actor: person(maker).to_string(),
                action: "token.create".to_owned(),
                subject: format!("operator {made}"),
                detail: String::new(),
            };
            log.append(entry, NOW).unwrap();
        }
        for (name, is_second) in [("ben", false), ("carl", false), ("root", false), ("dora", true)]
        {
            let persons = Persons::default();
            let asked = propose(&persons);
            let confirmed = persons.confirm(&asked.id, &person(name), &path, NOW);
            assert_eq!(confirmed.is_ok(), is_second, "{name}");
            let (persons, later) = (Persons::default(), NOW.plus_seconds(NEW_SECONDS));
            let ann = person("ann");
            let asked =
                persons.propose(LeadOrder::TakeOver, ann, "fire", Vec::new(), later).unwrap();
            persons.confirm(&asked.id, &person(name), &path, later).unwrap();
        }
    }
}
