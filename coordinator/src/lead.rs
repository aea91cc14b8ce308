//! Who leads, at a coordinator: what it answers operators, what it believes of proxies, and how
//! one that does not lead is brought up by the site that does. A coordinator that does not lead
//! takes no points, gives no orders and lets nothing go; what it holds stays readable. One that
//! leads in another's place lets nothing go either: holds, pins and the other site's reasons are
//! not known to it.

use std::collections::BTreeSet;

use strongroom_node::door::Visit;
use strongroom_node::heal::reseed;
use strongroom_node::lead::{Heard, Standing};
use strongroom_protocol::admin::Response;
use strongroom_protocol::control::ToNode;
use strongroom_protocol::data::FromProxy;
use strongroom_protocol::lead::{LeadOrder, LeadReport, Reseeded};
use strongroom_protocol::link::LinkError;
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Chain, Identity, Lead, PointId, Role};
use tokio_util::sync::CancellationToken;

use crate::policy::PRIMARY;
use crate::retention::CopyState;
use crate::site::Site;
use crate::{admin, commit};

/// The subject of the alarm about who leads.
pub(crate) const LEAD: &str = "lead";
/// Reasons that are told.
const WHY_NAMED_MAX: usize = 20;

impl Site {
    /// Whether points may go: only where the site leads by itself, and knows why they are kept.
    pub(crate) fn lets_go(&self) -> bool {
        self.lead.leads() && self.in_place_of.is_none()
    }

    /// Says by an alarm what is not as it should be.
    pub(crate) fn show_lead(&self) {
        let lead = self.lead.lead();
        match (self.lead.standing(), &self.in_place_of) {
            (Standing::Follows, _) => self.alarm(
                LEAD,
                format!(
                    "{lead}: this coordinator takes no points, gives no orders and lets nothing \
                     go; what it holds can be read and restored"
                ),
            ),
            (Standing::HandsOver(next), _) => {
                self.alarm(LEAD, format!("takes no points any more, and hands over: {next}"));
            }
            (Standing::Leads, Some(home)) => self.alarm(
                LEAD,
                format!(
                    "{lead}: this site stands in for site {home}, its points lie here alone, and \
                     nothing is let go until the lead is given back"
                ),
            ),
            (Standing::Leads, None) => self.all_clear(LEAD),
        }
    }

    /// Everybody who is connected is told who leads.
    fn tell_lead(&self) {
        let lead = self.lead.lead();
        for session in self.sessions.all() {
            session.say(ToNode::Lead(lead.clone()));
        }
    }
}

/// Who leads, for people.
pub(crate) fn report(site: &Site) -> LeadReport {
    let mut facts = Vec::new();
    if let Some(home) = &site.in_place_of {
        facts.push(format!("stands in for site {home}"));
    }
    if let Standing::HandsOver(next) = site.lead.standing() {
        facts.push(format!("next: {next}"));
    }
    facts.extend(site.reseeding());
    LeadReport {
        lead: site.lead.lead(),
        standing: site.lead.standing().as_str().to_owned(),
        proposed: site.persons.proposed(site.now()),
        facts,
    }
}

/// The first person's order.
pub(crate) fn propose(
    site: &Site,
    order: LeadOrder,
    why: &str,
    by: &Identity,
) -> Result<Response, Refusal> {
    let word = order.as_str();
    let made = site
        .lead
        .may(order, site.in_place_of.as_ref())
        .and_then(|()| site.persons.propose(order, by.clone(), why, Vec::new(), site.now()));
    let proposal = made.inspect_err(|refusal| {
        site.record(&by.to_string(), &format!("{word}.refused"), "propose", &refusal.to_string());
    })?;
    let record = site.try_record(&by.to_string(), &format!("{word}.proposed"), &proposal.id, why);
    record.map_err(|error| admin::unavailable(&error))?;
    Ok(Response::Proposed(proposal))
}

/// The second person's: it is done when this returns.
pub(crate) fn confirm(site: &Site, id: &str, by: &Identity) -> Result<Response, Refusal> {
    let who = by.to_string();
    let confirmed = site.persons.confirm(id, by, site.audit.path(), site.now());
    let proposal = confirmed.inspect_err(|refusal| {
        site.record(&who, "lead.refused", id, &refusal.to_string());
    })?;
    let action = format!("{}.confirmed", proposal.order.as_str());
    let detail = format!("proposed by {}: {}", proposal.by, proposal.why);
    let recorded = site.try_record(&who, &action, id, &detail);
    recorded.map_err(|error| admin::unavailable(&error))?;
    site.lead.order(&proposal, by, site.in_place_of.as_ref(), site.now())?;
    site.show_lead();
    site.tell_lead();
    Ok(Response::Lead(report(site)))
}

/// What a node says of who leads. A known proxy is believed: it is the other site's word. An
/// agent is not, and what it says is for people to look at.
pub(crate) fn hear(site: &Site, from: &Identity, said: &Lead) {
    let (who, own) = (from.to_string(), site.lead.lead());
    if from.role != Role::Proxy {
        if said.term > own.term {
            let text = format!("{from} does not obey this coordinator: {said}");
            site.record(&who, "lead.doubted", &own.to_string(), &said.to_string());
            site.alarm(&format!("lead of {from}"), text);
        }
        return;
    }
    let me = site.guard.me().identity.site;
    if said.site != from.site && said.site != me {
        let why = "a proxy speaks for its own site and for this one";
        site.record(&who, "lead.refused", &said.to_string(), why);
        return;
    }
    take(site, &who, said, "lead.lost");
}

/// A proxy that took over gives the lead back.
pub(crate) fn handed_back(site: &Site, from: &Identity, next: &Lead) {
    let who = from.to_string();
    if from.role != Role::Proxy || next.site != site.guard.me().identity.site {
        site.record(&who, "lead.refused", &next.to_string(), "it is not theirs to give");
        return;
    }
    take(site, &who, next, "lead.taken");
}

fn take(site: &Site, who: &str, said: &Lead, action: &str) {
    match site.lead.hear(said) {
        Ok(Heard::Newer) => {
            tracing::warn!(lead = %said, "another term");
            site.record(who, action, &said.site.to_string(), &said.to_string());
            site.show_lead();
        }
        Ok(Heard::Agreed) => {}
        Ok(Heard::Stale) => {
            let own = site.lead.lead().to_string();
            site.record(who, "lead.refused", &own, &format!("it said: {said}"));
        }
        Err(error) => site.alarm(LEAD, format!("who leads cannot be kept: {}", Chain(&error))),
    }
    site.tell_lead();
}

/// Points that this coordinator let go itself: its policy's reasons hold.
fn let_go(site: &Site) -> BTreeSet<PointId> {
    let facts = site.catalog.point_facts(None).unwrap_or_else(|error| {
        tracing::error!(error = %Chain(&error), "the catalog does not answer");
        Vec::new()
    });
    let gone = |state| matches!(state, CopyState::Expired | CopyState::Removing);
    let mut points = BTreeSet::new();
    for facts in facts {
        let primary = facts.copies.iter().find(|copy| copy.copy.as_str() == PRIMARY);
        if primary.is_some_and(|copy| gone(copy.state)) {
            points.insert(facts.point);
        }
    }
    points
}

/// Asks the site that leads for every point that is not here, and says what came of it.
pub(crate) async fn be_brought_up(site: &Site, visit: Visit) -> Result<(), LinkError> {
    let Visit { peer, mut sender, mut receiver, .. } = visit;
    let who = peer.identity.to_string();
    let gone = let_go(site);
    let wanted = |offered: &[(strongroom_protocol::WorkloadId, PointId)]| {
        let points = offered.iter().map(|(_, point)| *point);
        points.filter(|point| !site.repo.has_point(*point) && !gone.contains(point)).collect()
    };
    let stop = CancellationToken::new();
    let asked = reseed(&site.repo, &mut sender, &mut receiver, wanted, &stop).await;
    let (healed, offered) = match asked {
        Ok(done) => done,
        Err(error) => {
            site.note_reseeding(format!("bringing it up broke off: {}", Chain(&error)));
            tracing::warn!(error = %Chain(&error), "bringing this site up broke off");
            return Ok(());
        }
    };
    let mut why = healed.refused;
    if let Err(error) = commit::catch_up(site) {
        why.push(format!("the catalog: {error}"));
    }
    let offered: BTreeSet<PointId> = offered.into_iter().collect();
    let here = site.repo.points().unwrap_or_default();
    let here: BTreeSet<PointId> = here.into_iter().map(|(_, point)| point).collect();
    let missing = offered.difference(&here).filter(|point| !gone.contains(*point)).count();
    // What came and is in no catalog is not there yet.
    let lacking = missing.max(why.len());
    why.truncate(WHY_NAMED_MAX);
    let reseeded = Reseeded {
        held: offered.intersection(&here).count() as u64,
        let_go: offered.intersection(&gone).count() as u64,
        only_there: here.difference(&offered).count() as u64,
        lacking: lacking as u64,
        why,
    };
    if !healed.points.is_empty() {
        let came = healed.points.len();
        site.record(&who, "reseed", "primary", &format!("{came} points came; {reseeded}"));
    }
    site.note_reseeding(reseeded.to_string());
    sender.send(&FromProxy::Reseeded(reseeded)).await?;
    sender.finish();
    sender.delivered().await;
    Ok(())
}

/// Why a coordinator that leads is not brought up.
pub(crate) fn may_be_brought_up(site: &Site) -> Result<(), Refusal> {
    match site.lead.standing() {
        Standing::Follows => Ok(()),
        Standing::HandsOver(_) | Standing::Leads => {
            let text = format!("{}: it takes points from agents only", site.lead.lead());
            Err(Refusal::new(RefusalKind::Stale, text))
        }
    }
}
