//! Certificates that live for seconds: renewed again and again while points are made and copied,
//! with no job that fails and no copy that breaks off; one that has ended is refused.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use crate::lab::engine::{Lab, Place};
use crate::lab::work::{DOCUMENTS, copied, newest, noise, protect};

/// How long they live: a copy on the narrow link takes longer.
const LIFE_SECONDS: u32 = 15;
/// What is copied, in MiB, and how wide the link is then, as `tc` says it.
const NOISE_MIB: u64 = 96;
const NARROW: &str = "40mbit";
/// So many certificates of each node are seen to end.
const SEEN_MIN: usize = 4;
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
        seen.extend(ends(lab)?);
        Ok(copied(&newest(lab)?))
    })?;
    lab.narrow(None)?;
    let few = |seen: &BTreeSet<(String, String)>| {
        ["agent", "proxy"]
            .iter()
            .any(|role| seen.iter().filter(|(node, _)| node.contains(role)).count() < SEEN_MIN)
    };
    let mut points = 1;
    while few(&seen) {
        lab.shell(Place::Agent, &format!("date >{DOCUMENTS}/noise/renewed"))?;
        protect(lab)?;
        points += 1;
        seen.extend(ends(lab)?);
    }
    lab.wait("the copies of all of them", |lab| Ok(copied(&newest(lab)?)))?;
    println!("    {} certificates while {points} points were made and copied", seen.len());
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
    lab.wait("the nodes", |lab| {
        let nodes = lab.json(&["--site", "a", "nodes"])?;
        let nodes = nodes.as_array().cloned().unwrap_or_default();
        Ok(nodes.iter().filter(|node| node["connected"] == true).count() == 2)
    })
}

/// Each node that is connected, and when its certificate ends.
fn ends(lab: &Lab) -> Result<Vec<(String, String)>> {
    let nodes = lab.json(&["--site", "a", "nodes"])?;
    let nodes = nodes.as_array().cloned().unwrap_or_default();
    let connected = nodes.iter().filter(|node| node["connected"] == true);
    Ok(connected
        .map(|node| (node["identity"].to_string(), node["not_after"].to_string()))
        .collect())
}

/// No job failed, and none was given out a second time.
fn unbroken(lab: &Lab) -> Result<()> {
    println!("{}", lab.json(&["--site", "a", "jobs"])?[0]);
    Ok(())
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
