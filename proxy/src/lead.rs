//! Who leads, at a proxy: what it answers operators of its site, and the order by which two of
//! them have its site lead. Everything asked and refused is in its audit log, before it is
//! answered.

use strongroom_certs::TokenOrder;
use strongroom_node::audit::Entry;
use strongroom_node::lead::Standing;
use strongroom_protocol::admin::Response;
use strongroom_protocol::lead::{LeadOrder, LeadReport};
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Chain, Identity, NodeName, Role};

use crate::visitors::Site;

impl Site {
    /// Puts on record who did what.
    pub(crate) fn record(
        &self,
        actor: &str,
        action: &str,
        subject: &str,
        detail: &str,
    ) -> Result<(), Refusal> {
        let entry = Entry {
            actor: actor.to_owned(),
            action: action.to_owned(),
            subject: subject.to_owned(),
            detail: detail.to_owned(),
        };
        let appended = self.audit.append(entry, self.guard.clock().now());
        appended.map(drop).map_err(|error| {
            tracing::error!(error = %Chain(&error), "the audit log cannot be written");
            Refusal::new(RefusalKind::Unavailable, Chain(&error).to_string())
        })
    }

    /// A refusal that is on record.
    fn refused(&self, by: &Identity, action: &str, subject: &str, refusal: Refusal) -> Refusal {
        // Refused in any case; that it could not be written was said.
        let _ = self.record(&by.to_string(), action, subject, &refusal.to_string());
        refusal
    }
}

/// Who leads, for people.
pub(crate) fn report(site: &Site) -> LeadReport {
    // A proxy that is to lead ends at once: its home is opened as a coordinator.
    let standing = match site.lead.standing() {
        Standing::Follows => Standing::Follows.as_str(),
        Standing::HandsOver(_) | Standing::Leads => "begins to lead",
    };
    LeadReport {
        lead: site.lead.lead(),
        standing: standing.to_owned(),
        proposed: site.persons.proposed(site.guard.clock().now()),
        facts: site.doubts(),
    }
}

impl Site {
    /// What two persons should know before they have this site lead.
    fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        if self.coordinator_is_here() {
            let lead = self.lead.lead();
            doubts.push(format!("the coordinator of site {} is connected now", lead.site));
        }
        doubts
    }
}

/// The first person's order.
pub(crate) fn propose(
    site: &Site,
    order: LeadOrder,
    why: &str,
    by: &Identity,
) -> Result<Response, Refusal> {
    let (word, now) = (order.as_str(), site.guard.clock().now());
    let made = site
        .lead
        .may(order, None)
        .and_then(|()| site.persons.propose(order, by.clone(), why, site.doubts(), now));
    let proposal =
        made.map_err(|refusal| site.refused(by, &format!("{word}.refused"), "propose", refusal))?;
    site.record(&by.to_string(), &format!("{word}.proposed"), &proposal.id, why)?;
    Ok(Response::Proposed(proposal))
}

/// The second person's: when this returns the site leads, and the proxy ends to go on as that.
pub(crate) fn confirm(site: &Site, id: &str, by: &Identity) -> Result<Response, Refusal> {
    let now = site.guard.clock().now();
    let confirmed = site.persons.confirm(id, by, site.audit.path(), now);
    let proposal =
        confirmed.map_err(|refusal| site.refused(by, "takeover.refused", id, refusal))?;
    let detail = format!("proposed by {}: {}", proposal.by, proposal.why);
    site.record(&by.to_string(), "takeover.confirmed", id, &detail)?;
    let lead = site.lead.order(&proposal, by, None, now)?;
    tracing::warn!(%lead, "this site leads from now on");
    Ok(Response::Lead(report(site)))
}

/// A one-time token for a further operator of this site. It makes nobody a second person for
/// whoever ordered it until a week has passed.
pub(crate) fn token(
    site: &Site,
    role: Role,
    name: NodeName,
    seconds_valid: u32,
    by: &Identity,
) -> Result<Response, Refusal> {
    let invalid = |text: String| Refusal::new(RefusalKind::Invalid, text);
    if role != Role::Operator {
        let text = format!("a proxy makes tokens for operators of its site, not for any {role}");
        return Err(Refusal::new(RefusalKind::Forbidden, text));
    }
    let me = site.guard.me().identity;
    let order = TokenOrder {
        org: me.org,
        root: site.guard.root().fingerprint(),
        address: site.address.clone(),
        site: me.site,
        role,
        name: Some(name.clone()),
        lifetime_seconds: i64::from(seconds_valid),
    };
    let made = site.book.create(order, site.guard.clock().now());
    let token = made.map_err(|error| invalid(Chain(&error).to_string()))?;
    let subject = format!("{role} {name}");
    site.record(&by.to_string(), "token.create", &subject, &token.expires.to_string())?;
    let text = token.to_text().map_err(|error| invalid(Chain(&error).to_string()))?;
    Ok(Response::Token { text: text.to_string(), expires: token.expires })
}
