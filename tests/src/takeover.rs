//! What a takeover needs beside two sites: a second site that is a proxy or a coordinator in turn
//! as its home says, persons at a site, and agents that move.

#![allow(clippy::expect_used, reason = "a test that cannot go on fails")]

use std::sync::Arc;

use anyhow::bail;
use strongroom_certs::{Authority, Token};
use strongroom_coordinator::Coordinator;
use strongroom_node::ask::{AskError, ask};
use strongroom_node::enrol::enrol;
use strongroom_node::home::{Home, Settings};
use strongroom_node::lead::{LeadBook, Standing};
use strongroom_node::run::until_free;
use strongroom_protocol::admin::{JobRow, Request, Response};
use strongroom_protocol::lead::{LeadOrder, LeadReport};
use strongroom_protocol::{Identity, Role, SiteName};
use strongroom_proxy::Proxy;

use crate::site::{Running, TwoSites, name};

impl TwoSites {
    /// Starts the second site as what its home says, and goes on as what it says then.
    pub fn start_second(&self) -> anyhow::Result<Running> {
        let (dir, clock, at) = (self.home("proxy"), Arc::clone(&self.clock), self.proxy_at);
        Ok(Running::start(|stop| async move {
            while !stop.is_cancelled() {
                until_free(at).await;
                let (home, clock) = (Home::open_as(&dir, Role::Proxy)?, Arc::clone(&clock));
                if LeadBook::open(&home)?.standing() == Standing::Follows {
                    Proxy::open(home, clock)?.run(stop.clone()).await;
                } else {
                    Coordinator::open(home, clock)?.run(stop.clone()).await?;
                }
            }
            Ok(())
        }))
    }

    /// Asks a node as an operator of its site with this name.
    pub async fn ask_as(
        &self,
        person: &str,
        node: &str,
        request: &Request,
    ) -> Result<Response, AskError> {
        let authority = Authority::open(&self.home(node).join("authority")).expect("an authority");
        let identity = Identity {
            org: authority.org().clone(),
            site: authority.site().clone(),
            role: Role::Operator,
            name: name(person),
        };
        let link = self.link_as(&authority, &identity, node).await.expect("a link");
        let answer = ask(&link, request).await;
        link.close("done");
        answer
    }

    /// One person's proposal.
    pub async fn propose(&self, person: &str, order: LeadOrder) -> anyhow::Result<String> {
        let request = Request::LeadPropose { order, why: "fire at a".to_owned() };
        match self.ask_as(person, "proxy", &request).await? {
            Response::Proposed(proposal) => Ok(proposal.id),
            other => bail!("no proposal: {other:?}"),
        }
    }

    /// Ann proposes and Ben confirms, at the second site.
    pub async fn order(&self, order: LeadOrder) -> anyhow::Result<()> {
        let proposal = self.propose("ann", order).await?;
        match self.ask_as("ben", "proxy", &Request::LeadConfirm { proposal }).await? {
            Response::Lead(_) => Ok(()),
            other => bail!("not done: {other:?}"),
        }
    }

    /// Who leads, as a node has it.
    pub async fn lead(&self, node: &str) -> anyhow::Result<LeadReport> {
        match self.ask(node, &Request::Lead).await? {
            Response::Lead(report) => Ok(report),
            other => bail!("no lead: {other:?}"),
        }
    }

    /// Waits until a node is what is wanted, in a term.
    pub async fn await_lead(&self, node: &str, standing: &str, term: u64) -> anyhow::Result<()> {
        self.wait_for(&format!("{node} {standing} in term {term}"), async |sites| {
            // A node that turns is not there for a moment.
            let Ok(report) = sites.lead(node).await else { return Ok(None) };
            Ok((report.standing == standing && report.lead.term.0 == term).then_some(()))
        })
        .await
    }

    /// Enrols an agent that does not run at the site of another node, into its own home.
    pub async fn move_agent(&self, agent: &str, node: &str) -> anyhow::Result<()> {
        let request =
            Request::TokenCreate { role: Role::Agent, name: name(agent), seconds_valid: 600 };
        let Response::Token { text, .. } = self.ask(node, &request).await? else {
            bail!("no token");
        };
        let token: Token = text.parse()?;
        let identity = token.identity(&name(agent));
        enrol(&self.home(agent), &token, &identity, Arc::clone(&self.clock)).await?;
        let settings = Home::open(&self.home(agent))?.settings().clone();
        let (site, coordinator): (SiteName, _) = (identity.site, Some(token.address.clone()));
        let moved = Settings { site, coordinator, coordinator_site: None, ..settings };
        Ok(Home::create(&self.home(agent), moved).map(drop)?)
    }

    /// Makes a point at a node and waits for the job's end.
    pub async fn protect_at(&self, node: &str, workload: &str) -> anyhow::Result<JobRow> {
        let request = Request::Protect { workload: name(workload) };
        let Response::Job(job) = self.ask(node, &request).await? else { bail!("no job") };
        self.wait_for("the protect job", async |sites| {
            match sites.ask(node, &Request::Job { job: job.id }).await {
                Ok(Response::Journal { job, .. }) => Ok(job.ended.is_some().then_some(job)),
                _ => Ok(None),
            }
        })
        .await
    }

    /// Waits until a node knows so many points.
    pub async fn await_points(&self, node: &str, count: usize) -> anyhow::Result<()> {
        self.wait_for(&format!("{count} points at {node}"), async |sites| {
            let Ok(points) = sites.points(node).await else { return Ok(None) };
            Ok((points.len() >= count).then_some(()))
        })
        .await
    }

    /// Waits until an agent is connected to a node.
    pub async fn await_agent(&self, node: &str, agent: &str) -> anyhow::Result<()> {
        self.wait_for(&format!("{agent} at {node}"), async |sites| {
            let Ok(Response::Status(status)) = sites.ask(node, &Request::Status).await else {
                return Ok(None);
            };
            let is_there = |of: &Identity| of.role == Role::Agent && of.name.as_str() == agent;
            Ok(status.connected.iter().any(is_there).then_some(()))
        })
        .await
    }

    /// What a node's audit log has of an action: who, and the detail.
    pub async fn audited(&self, node: &str, action: &str) -> anyhow::Result<Vec<(String, String)>> {
        match self.ask(node, &Request::Audit { most: 1000 }).await? {
            Response::Audit { broken_at: None, records, .. } => Ok(records
                .into_iter()
                .filter(|record| record.action == action)
                .map(|record| (record.actor, record.detail))
                .collect()),
            other => bail!("no audit log: {other:?}"),
        }
    }
}
