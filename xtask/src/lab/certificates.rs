//! Certificates that live for seconds: renewed again and again while points are made and copied,
//! with no job of a point that fails; one that has ended is refused.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use serde_json::Value;

use crate::lab::engine::{Lab, Place};
use crate::lab::work::{DOCUMENTS, copied, failed, newest, noise, protect};

/// How long they live: a copy on the narrow link takes longer.
const LIFE_SECONDS: u32 = 15;
/// What is copied, in MiB, and how wide the link is then, as `tc` says it.
const NOISE_MIB: u64 = 96;
const NARROW: &str = "40mbit";
/// So many certificates of each node are seen.
const SEEN_MIN: usize = 4;
/// Whose certificates are looked at.
const NODES: [Place; 3] = [Place::Agent, Place::Coordinator, Place::Proxy];
/// Where the agent's home is put as it was, with a certificate that will have ended.
const OLD: &str = "/srv/restored/old-agent";

/// All of it; certificates live for a day again afterwards.
pub(super) fn scene(lab: &Lab) -> Result<()> {
    lab.shell(Place::Agent, &format!("rm -rf {DOCUMENTS}/noise"))?;
    live_for(lab, Some(LIFE_SECONDS))?;
    lab.shell(Place::Agent, &format!("cp -a /home/agent {OLD}"))?;
    lab.narrow(Some(NARROW))?;
    let mut seen = BTreeSet::new();
    noise(lab, "certificates", NOISE_MIB)?;
    protect(lab)?;
    lab.wait("a copy that outlives its certificates", |lab| {
        look(lab, &mut seen)?;
        Ok(copied(&newest(lab)?))
    })?;
    lab.narrow(None)?;
    let few = |seen: &BTreeSet<(&str, String)>| {
        NODES.iter().any(|node| {
            let of = seen.iter().filter(|(name, _)| *name == node.service());
            of.count() < SEEN_MIN
        })
    };
    let mut points = 1;
    while few(&seen) {
        lab.shell(Place::Agent, &format!("date >{DOCUMENTS}/noise/renewed"))?;
        protect(lab)?;
        points += 1;
        look(lab, &mut seen)?;
    }
    lab.wait("the copies of all of them", |lab| Ok(copied(&newest(lab)?)))?;
    println!("    {} certificates, {points} points made and copied meanwhile", seen.len());
    unbroken(lab)?;
    refused(lab)?;
    live_for(lab, None)
}

/// Every node gets a certificate of its own that lives so long, or for a day.
fn live_for(lab: &Lab, seconds: Option<u32>) -> Result<()> {
    lab.stop(&[Place::Agent, Place::Proxy, Place::Coordinator])?;
    let line = seconds.map_or_else(String::new, |n| format!("1i certificate_seconds = {n}"));
    for place in [Place::Coordinator, Place::Proxy] {
        let home = format!("/home/{}", place.service());
        let script = format!(
            "sed -i -e '/^certificate_seconds/d' {home}/node.toml && \
             sed -i -e '{line}' {home}/node.toml && rm {home}/node.crt {home}/node.key"
        );
        lab.aside(place, "wan", &script)?;
    }
    lab.start(Place::Coordinator)?;
    lab.wait("the coordinator", |lab| Ok(lab.json(&["--site", "a", "status"]).is_ok()))?;
    lab.enrol_agent("a", "")?;
    lab.start(Place::Agent)?;
    lab.start(Place::Proxy)?;
    lab.wait("the agent and the proxy", |lab| {
        let nodes = lab.json(&["--site", "a", "nodes"])?;
        let nodes = nodes.as_array().cloned().unwrap_or_default();
        let there = |name: &str| {
            let of = |node: &&Value| node["identity"]["name"] == name;
            nodes.iter().find(of).is_some_and(|node| node["connected"] == true)
        };
        Ok(there("fs1") && there("proxy"))
    })
}

/// Adds the certificates that the nodes have at this moment, each by its hash.
fn look(lab: &Lab, seen: &mut BTreeSet<(&'static str, String)>) -> Result<()> {
    for node in NODES {
        let hash = format!("sha256sum </home/{}/node.crt", node.service());
        seen.insert((node.service(), lab.shell(node, &hash)?));
    }
    Ok(())
}

/// No job of a point failed.
fn unbroken(lab: &Lab) -> Result<()> {
    match failed(lab)? {
        None => Ok(()),
        Some(job) => bail!("a job failed: {job}"),
    }
}

/// The home as it was is turned away at the door.
fn refused(lab: &Lab) -> Result<()> {
    let run = format!("timeout 5 strongroom run agent {OLD} 2>&1; true");
    let said = lab.shell(Place::Agent, &run)?;
    match said.contains("expired") {
        true => Ok(()),
        false => bail!("a certificate that has ended was not refused: {said}"),
    }
}
