//! The commands that give one order and print what became of it: `revoke`, `hold`, `pin`,
//! `unpin`, `event`, `prune`, `space`, `jobs cancel`.

use clap::{Args, Subcommand};
use strongroom_protocol::admin::{Pinned, PointRef, PruneOrder, Request, SpaceOrder};
use strongroom_protocol::{Identity, NodeName, OrgName, Role, SiteName, Timestamp};

use crate::failure::{Failure, While};
use crate::operator::OperatorHome;
use crate::point_at::point;

/// Make everything issued to a node or operator worthless, at once
#[derive(Args, Debug)]
pub(crate) struct RevokeArgs {
    /// strongroom://ORG/site/SITE/ROLE/NAME, or ROLE/NAME of the site
    identity: String,
}

impl RevokeArgs {
    pub(crate) fn request(
        self,
        home: &OperatorHome,
        site: Option<&SiteName>,
    ) -> Result<Request, Failure> {
        let org = &home.settings().org;
        let site = home.context(site)?.site.clone();
        Ok(Request::Revoke { identity: identity(&self.identity, org, site)? })
    }
}

fn identity(text: &str, org: &OrgName, site: SiteName) -> Result<Identity, Failure> {
    if let Ok(identity) = text.parse() {
        return Ok(identity);
    }
    let (role, name) = text.split_once('/').ok_or_else(|| {
        Failure::usage(format!("{text:?} names no node"))
            .hint("write agent/NAME, proxy/NAME, operator/NAME or the whole strongroom:// identity")
    })?;
    let role: Role = role.parse().doing("no such node")?;
    let name: NodeName = name.parse().doing("no such node")?;
    Ok(Identity { org: org.clone(), site, role, name })
}

/// Keep points whatever the policy says
#[derive(Args, Debug)]
pub(crate) struct HoldArgs {
    #[command(subcommand)]
    order: HoldOrder,
}

#[derive(Subcommand, Debug)]
enum HoldOrder {
    /// Place a hold on points
    Place {
        /// What the hold is called
        name: String,
        /// The points: ids, last digits, or latest:WORKLOAD
        #[arg(required = true, value_parser = point())]
        points: Vec<PointRef>,
        /// Why; it is recorded
        #[arg(long)]
        why: String,
    },
    /// Release a hold
    Release {
        /// What the hold is called
        name: String,
    },
    /// List the holds
    List,
}

impl HoldArgs {
    pub(crate) fn request(self) -> Request {
        match self.order {
            HoldOrder::Place { name, points, why } => Request::HoldPlace { name, why, points },
            HoldOrder::Release { name } => Request::HoldRelease { name },
            HoldOrder::List => Request::Holds,
        }
    }
}

/// A point to pin or unpin
#[derive(Args, Debug)]
pub(crate) struct PinArgs {
    /// An id, its last 8 or more digits, or latest:WORKLOAD
    #[arg(value_parser = point())]
    point: PointRef,
}

impl PinArgs {
    pub(crate) fn request(self, pinned: Pinned) -> Request {
        Request::Pin { point: self.point, pinned }
    }
}

/// Say that an event of event-based retention began or ended
#[derive(Args, Debug)]
pub(crate) struct EventArgs {
    /// The event, as the policy calls it
    name: String,
    /// It ended: now, or at this moment (RFC 3339)
    #[arg(long, value_name = "MOMENT", num_args = 0..=1, default_missing_value = "now")]
    ended: Option<String>,
}

impl EventArgs {
    pub(crate) fn request(self, now: Timestamp) -> Result<Request, Failure> {
        let ended = match self.ended.as_deref() {
            None => None,
            Some("now") => Some(now),
            Some(text) => {
                let moment: jiff::Timestamp = text.parse().map_err(|error: jiff::Error| {
                    Failure::usage(format!("{text:?} is no moment: {error}"))
                        .hint("write it like 2026-11-22T10:00:00Z")
                })?;
                Some(Timestamp::from_jiff(moment))
            }
        };
        Ok(Request::Event { name: self.name, ended })
    }
}

/// Show or remove points that no reason keeps any more and whose grace is over
#[derive(Args, Debug)]
pub(crate) struct PruneArgs {
    /// Do it now; without, it is only shown, and the coordinator does it by itself
    #[arg(long)]
    apply: bool,
    /// The clock went far forward and is right: let retention go on by it
    #[arg(long, conflicts_with = "apply")]
    believe_clock: bool,
}

impl PruneArgs {
    pub(crate) const fn request(&self) -> Request {
        let order = match (self.apply, self.believe_clock) {
            (true, _) => PruneOrder::Apply,
            (false, true) => PruneOrder::BelieveClock,
            (false, false) => PruneOrder::Show,
        };
        Request::Prune { order }
    }
}

/// Say what is stored and not needed any more, or give it back now
#[derive(Args, Debug)]
pub(crate) struct SpaceArgs {
    /// Collect now; without, it is only shown, and the node does it by itself
    #[arg(long)]
    collect: bool,
}

impl SpaceArgs {
    pub(crate) const fn request(&self) -> Request {
        let order = if self.collect { SpaceOrder::Collect } else { SpaceOrder::Show };
        Request::Space { order }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_named_in_full_or_in_brief() {
        let (org, site): (OrgName, SiteName) = ("acme".parse().unwrap(), "hq".parse().unwrap());
        let whole = "strongroom://acme/site/dr/proxy/p1";
        assert_eq!(identity(whole, &org, site.clone()).unwrap().to_string(), whole);
        let brief = identity("agent/db1", &org, site.clone()).unwrap();
        assert_eq!(brief.to_string(), "strongroom://acme/site/hq/agent/db1");
        for text in ["db1", "boss/db1", "agent/DB 1"] {
            assert!(identity(text, &org, site.clone()).is_err(), "{text}");
        }
    }

    #[test]
    fn an_event_begins_or_ends_at_a_moment() {
        let now = Timestamp::from_unix_seconds(100);
        let request = |ended: Option<&str>| {
            let args = EventArgs { name: "left".to_owned(), ended: ended.map(str::to_owned) };
            args.request(now)
        };
        let ended = |ended| Request::Event { name: "left".to_owned(), ended };
        assert_eq!(request(None).unwrap(), ended(None));
        assert_eq!(request(Some("now")).unwrap(), ended(Some(now)));
        let second = Timestamp::from_unix_seconds(1);
        assert_eq!(request(Some("1970-01-01T00:00:01Z")).unwrap(), ended(Some(second)));
        assert_eq!(request(Some("yesterday")).unwrap_err().code(), 2);
    }
}
