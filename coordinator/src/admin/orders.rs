//! What operators may order. Each order is recorded with who gave it before it is answered.

use std::collections::BTreeSet;

use strongroom_certs::TokenOrder;
use strongroom_protocol::admin::{Pinned, PointRef, Response};
use strongroom_protocol::control::{Overwrite, ToNode};
use strongroom_protocol::frame::HEADER_BYTES_MAX;
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Chain, Identity, NodeName, Role, SiteName, Timestamp};

use super::going::still_there;
use super::tables::{known_points, resolve};
use super::{proxy_setting, unavailable};
use crate::foreman::RecoverOrder;
use crate::policy::{self, Declared, Parsed};
use crate::retention::{self, Hold, Label, Pin};
use crate::site::{InForce, Site};

/// What stands in the place of the moment a proxy was made known.
const REVOKED: &str = "revoked";

fn invalid(text: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::Invalid, text)
}

fn parse(file: &str, toml: &str) -> Result<Parsed, Refusal> {
    policy::parse_to_apply(file, toml).map_err(|problems| invalid(problems.to_string()))
}

fn label(name: &str) -> Result<Label, Refusal> {
    name.parse().map_err(|error: retention::LabelError| invalid(Chain(&error).to_string()))
}

/// What applying a file would change.
pub(super) fn policy_plan(site: &Site, file: &str, toml: &str) -> Result<Response, Refusal> {
    let parsed = parse(file, toml)?;
    let facts = site.catalog.point_facts(None).map_err(|error| unavailable(&error))?;
    let marks = site.catalog.marks().map_err(|error| unavailable(&error))?;
    let in_force = site.in_force();
    let before: Option<&Declared> = (in_force.version > 0).then_some(&in_force.declared);
    let changes = policy::plan(before, &parsed.declared, &facts, &marks, site.now());
    let warnings = parsed.warnings.iter().map(ToString::to_string);
    let doubts = policy::doubts(&parsed.declared, &facts);
    Ok(Response::Plan {
        changes: changes.iter().map(ToString::to_string).collect(),
        warnings: warnings.chain(doubts).collect(),
    })
}

/// Longest policy that is told to proxies, in bytes: it has to fit into a header.
const POLICY_BYTES_MAX: usize = HEADER_BYTES_MAX - 4096;

/// The policy in force, as proxies keep it for the day they have to lead.
pub(crate) fn policy_for_proxies(site: &Site) -> Option<ToNode> {
    let current = site.catalog.current_policy().unwrap_or_default()?;
    let (version, file, toml) = (current.version, current.file, current.toml);
    if toml.len() + file.len() > POLICY_BYTES_MAX {
        let text = format!("{file} is too long to be kept by proxies: apply it after a takeover");
        site.alarm("policy at proxies", text);
        return None;
    }
    Some(ToNode::Policy { version, file, toml })
}

/// Applies a file.
pub(crate) fn policy_apply(
    site: &Site,
    file: &str,
    toml: &str,
    by: &str,
) -> Result<Response, Refusal> {
    let parsed = parse(file, toml)?;
    let now = site.now();
    let version =
        site.catalog.set_policy(file, toml, by, now).map_err(|error| unavailable(&error))?;
    for name in parsed.declared.workloads.keys() {
        let fresh = strongroom_protocol::WorkloadId::fresh(now.unix_ms());
        site.catalog.ensure_workload(name, fresh, now).map_err(|error| unavailable(&error))?;
    }
    site.record(by, "policy.apply", file, &format!("version {version}"));
    site.enforce(InForce { version, declared: parsed.declared });
    if let Some(kept) = policy_for_proxies(site) {
        for session in site.sessions.all() {
            if session.identity.role == Role::Proxy {
                session.say(kept.clone());
            }
        }
    }
    Ok(Response::Done(format!("version {version} of the policy is in force")))
}

/// A one-time token.
pub(super) fn token(
    site: &Site,
    role: Role,
    name: NodeName,
    seconds_valid: u32,
    by: &str,
) -> Result<Response, Refusal> {
    if role == Role::Agent {
        site.lead.while_leading("no agent is taken in", || ())?;
    }
    let me = site.guard.me().identity;
    let settings = site.home.settings();
    let address = settings.advertise.clone().or_else(|| settings.listen.map(|at| at.to_string()));
    let address = address.ok_or_else(|| invalid("node.toml names no address to advertise"))?;
    let at = match role {
        Role::Agent | Role::Operator => me.site.clone(),
        Role::Proxy => proxy_site(site)?,
        Role::Coordinator => return Err(invalid("a coordinator holds its site's authority")),
    };
    let order = TokenOrder {
        org: me.org,
        root: site.guard.root().fingerprint(),
        address,
        site: at,
        role,
        name: Some(name.clone()),
        lifetime_seconds: i64::from(seconds_valid),
    };
    let made = site.book.create(order, site.now());
    let token = made.map_err(|error| invalid(Chain(&error).to_string()))?;
    site.record(by, "token.create", &format!("{role} {name}"), &token.expires.to_string());
    let text = token.to_text().map_err(|error| invalid(Chain(&error).to_string()))?;
    Ok(Response::Token { text: text.to_string(), expires: token.expires })
}

/// The site proxies are of.
fn proxy_site(site: &Site) -> Result<SiteName, Refusal> {
    site.home
        .settings()
        .dr_site
        .clone()
        .ok_or_else(|| invalid("node.toml names no dr_site, so no proxy can be introduced"))
}

/// Remembers a proxy that showed its token.
pub(crate) fn make_known(site: &Site, identity: &Identity) {
    let now = site.now().to_string();
    if let Err(error) = site.catalog.set_setting(&proxy_setting(identity), &now) {
        tracing::error!(error = %Chain(&error), "a proxy was not remembered");
    }
}

/// Whether a proxy has shown a token.
pub(crate) fn is_known_proxy(site: &Site, identity: &Identity) -> bool {
    let known = site.catalog.setting(&proxy_setting(identity));
    known.is_ok_and(|known| known.is_some_and(|known| known != REVOKED))
}

/// Everything issued to an identity until now is worth nothing.
pub(super) fn revoke(site: &Site, identity: &Identity, by: &str) -> Result<Response, Refusal> {
    let now = site.now();
    site.guard.revocations().revoke_identity(identity, now).map_err(|error| unavailable(&error))?;
    site.record(by, "revoke", &identity.to_string(), "");
    let pushed = ToNode::Revoked { revoked: vec![(identity.clone(), now)] };
    if identity.role == Role::Proxy {
        // It holds its own site's authority: a newer certificate must not let it in again.
        let forgotten = site.catalog.set_setting(&proxy_setting(identity), REVOKED);
        forgotten.map_err(|error| unavailable(&error))?;
    }
    for session in site.sessions.all() {
        if session.identity == *identity {
            session.close("the certificate was revoked");
        } else {
            session.say(pushed.clone());
        }
    }
    Ok(Response::Done(format!("{identity} is revoked; its connections close within a second")))
}

/// A restore onto an agent's host.
pub(super) fn recover_order(
    site: &Site,
    point: &PointRef,
    agent: NodeName,
    target: Vec<u8>,
    select: Vec<String>,
    overwrite: Overwrite,
    by: String,
) -> Result<RecoverOrder, Refusal> {
    let point = resolve(site, point)?;
    let known = known_points(site)?;
    let workload = known.into_iter().find(|(id, ..)| *id == point).map(|(_, of, _)| of);
    let workload = workload.ok_or_else(|| invalid(format!("point {point} is not known")))?;
    if std::str::from_utf8(&target).is_err() {
        return Err(invalid("the directory to restore into must be named in UTF-8"));
    }
    if target.first() != Some(&b'/') {
        return Err(invalid("the directory to restore into must be an absolute path"));
    }
    Ok(RecoverOrder { point, workload, node: agent, target, select, overwrite, by })
}

/// Places a hold.
pub(super) fn hold_place(
    site: &Site,
    name: &str,
    why: String,
    points: &[PointRef],
    by: &str,
) -> Result<Response, Refusal> {
    let _keeping = site.keeping();
    let points: BTreeSet<_> =
        points.iter().map(|point| resolve(site, point)).collect::<Result<_, _>>()?;
    if points.is_empty() {
        return Err(invalid("a hold needs at least one point"));
    }
    for point in &points {
        still_there(site, *point)?;
    }
    let hold = Hold {
        name: label(name)?,
        by: by.to_owned(),
        why: why.clone(),
        placed: site.now(),
        points,
        workloads: BTreeSet::new(),
    };
    site.catalog.place_hold(&hold).map_err(|error| invalid(Chain(&error).to_string()))?;
    site.record(by, "hold.place", name, &why);
    Ok(Response::Done(format!("hold {name} is placed on {} points", hold.points.len())))
}

/// Releases a hold.
pub(super) fn hold_release(site: &Site, name: &str, by: &str) -> Result<Response, Refusal> {
    let released = site.catalog.release_hold(&label(name)?);
    released.map_err(|error| invalid(Chain(&error).to_string()))?;
    site.record(by, "hold.release", name, "");
    Ok(Response::Done(format!("hold {name} is released")))
}

/// Pins or unpins a point.
pub(super) fn pin(
    site: &Site,
    point: &PointRef,
    pinned: Pinned,
    by: &str,
) -> Result<Response, Refusal> {
    let _keeping = site.keeping();
    let point = resolve(site, point)?;
    let (action, done) = match pinned {
        Pinned::Yes => {
            still_there(site, point)?;
            let why = String::new();
            let pin = Pin { point, copy: None, by: by.to_owned(), why, until: None };
            site.catalog.pin(&pin).map_err(|error| unavailable(&error))?;
            ("pin", "pinned")
        }
        Pinned::No => {
            site.catalog.unpin(point, None).map_err(|error| unavailable(&error))?;
            ("unpin", "no longer pinned")
        }
    };
    site.record(by, action, &point.to_string(), "");
    Ok(Response::Done(format!("point {point} is {done}")))
}

/// Notes that an event of event-based retention began or ended.
pub(super) fn event(
    site: &Site,
    name: &str,
    ended: Option<Timestamp>,
    by: &str,
) -> Result<Response, Refusal> {
    let _keeping = site.keeping();
    let label = label(name)?;
    site.catalog.note_event(&label, ended, by, site.now()).map_err(|error| unavailable(&error))?;
    let detail = ended.map_or_else(|| "open".to_owned(), |ended| format!("ended {ended}"));
    site.record(by, "event", name, &detail);
    Ok(Response::Done(format!("event {name}: {detail}")))
}
