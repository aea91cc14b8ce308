//! What is lost and comes back: the link in the middle of a copy, every node at work, site A, then
//! everything but the cartridges.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::lab::engine::{Lab, Place};
use crate::lab::work::{LATEST, copied, ended, newest, noise, ordered, protect, same};
use crate::sites::copy_of;

/// Noise that crosses the link while it is cut and while nodes are killed, in MiB.
const NOISE_MIB: u64 = 192;
/// So much of it has crossed when the link is cut, in bytes.
const CUT_BYTES: u64 = 48 << 20;
/// How wide the link is while something is cut on it, as `tc` says it.
const NARROW: &str = "240mbit";
/// What a cut may cost at most, sent again, in bytes.
const AGAIN_BYTES_MAX: u64 = 64 << 20;
/// One part of so many of what is sent goes for headers, acknowledgements and answers.
const OVERHEAD_PART: u64 = 12;

/// Everything comes up from empty volumes, and the first point gets its copies by itself.
pub(super) fn two_sites(lab: &Lab) -> Result<()> {
    lab.up()?;
    lab.wait("the first point and its copies", |lab| Ok(copied(&newest(lab)?)))
}

/// The whole of it by the agent, elsewhere on its host.
pub(super) fn home(lab: &Lab) -> Result<()> {
    lab.operator(&["restore", LATEST, "--on", "fs1:/srv/restored/agent"])?;
    same(lab, "/srv/restored/agent")
}

/// A cut costs what was under way, the point is made all the same and the debt is told; the
/// copies follow by themselves once the link is there again.
pub(super) fn cut(lab: &Lab) -> Result<()> {
    lab.narrow(Some(NARROW))?;
    noise(lab, "cut", NOISE_MIB)?;
    let before = lab.sent()?;
    protect(lab)?;
    lab.wait("a part of the copy", |lab| Ok(lab.sent()? - before > CUT_BYTES))?;
    lab.unplug()?;
    if copied(&newest(lab)?) {
        bail!("the copy was there before the link was cut");
    }
    // While nothing gets through: protected all the same, and said.
    lab.shell(Place::Agent, "date >/srv/documents/noise/meanwhile")?;
    protect(lab)?;
    // The ledger is settled a moment after the point is acknowledged.
    lab.wait("the debt of the point that was made meanwhile", |lab| {
        let state = copy_of(&newest(lab)?, "secondary")["state"].clone();
        if state == "present" {
            bail!("a copy crossed a link that was cut");
        }
        let told = lab.json(&["status"])?["debts"].to_string().contains("owes copy secondary");
        Ok(told && !state.is_null())
    })?;
    lab.plug()?;
    lab.wait("the copies after the cut", |lab| Ok(copied(&newest(lab)?)))?;
    lab.narrow(None)?;
    let sent = lab.sent()? - before;
    let noise = NOISE_MIB << 20;
    let most = noise + noise / OVERHEAD_PART + AGAIN_BYTES_MAX;
    println!("    {} MiB sent for {NOISE_MIB} MiB and a cut", sent >> 20);
    match sent > most {
        true => bail!("more was sent again than the 64 MiB a cut may cost"),
        false => Ok(()),
    }
}

/// SIGKILL of each node while it works: the work goes on when the node is back, and both sites
/// are whole.
pub(super) fn kills(lab: &Lab) -> Result<()> {
    for node in [Place::Agent, Place::Coordinator] {
        noise(lab, node.service(), NOISE_MIB)?;
        let job = ordered(lab)?;
        std::thread::sleep(Duration::from_millis(400));
        lab.kill(node)?;
        lab.start(node)?;
        ended(lab, &job)?;
    }
    lab.narrow(Some(NARROW))?;
    noise(lab, "proxy", NOISE_MIB)?;
    let before = lab.sent()?;
    protect(lab)?;
    lab.wait("a part of the copy", |lab| Ok(lab.sent()? - before > CUT_BYTES))?;
    lab.kill(Place::Proxy)?;
    lab.start(Place::Proxy)?;
    lab.wait("the copies after the kills", |lab| Ok(copied(&newest(lab)?)))?;
    lab.narrow(None)?;
    for site in ["a", "b"] {
        lab.operator(&["--site", site, "verify", "--full"])?;
    }
    Ok(())
}

/// The other site by itself lists the points and gives everything back.
pub(super) fn without_a(lab: &Lab) -> Result<()> {
    lab.stop(&[Place::Coordinator, Place::Agent])?;
    lab.operator(&["--site", "b", "points"])?;
    lab.operator(&["restore", LATEST, "--from", "b", "--to", "/srv/restored/from-b"])?;
    same(lab, "/srv/restored/from-b")
}

/// A copy of the cartridges and the recovery key, no network and no node.
pub(super) fn cartridges(lab: &Lab) -> Result<()> {
    lab.alone(&format!(
        "cp -a /proxy/library /tmp/library && \
         strongroom restore {LATEST} --media /tmp/library \
         --recovery-key-file /org/recovery-key --to /srv/restored/media"
    ))?;
    same(lab, "/srv/restored/media")
}

/// The site that was away takes up its work, and the copies follow.
pub(super) fn back(lab: &Lab) -> Result<()> {
    lab.start(Place::Coordinator)?;
    lab.start(Place::Agent)?;
    lab.wait("site A", |lab| Ok(lab.json(&["--site", "a", "status"]).is_ok()))?;
    lab.shell(Place::Agent, "date >/srv/documents/noise/back")?;
    lab.wait("the agent", |lab| Ok(protect(lab).is_ok()))?;
    lab.wait("the copies after the return", |lab| Ok(copied(&newest(lab)?)))
}
