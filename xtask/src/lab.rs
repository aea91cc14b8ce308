//! Two sites in containers, as `docker-compose.yml` makes them, used hard: the link between them
//! cut in the middle of a copy, every node killed, site A lost, both sites lost but for the
//! cartridges, and site A back. After each, what was protected is compared with what comes back.

mod base;
mod engine;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::lab::engine::{Engine, Lab, Place};
use crate::parts::Parts;
use crate::sites::copy_of;
use crate::stage::Stage;

/// What is protected, and the newest point of it.
const WORKLOAD: &str = "documents@fs1";
const LATEST: &str = "latest:documents@fs1";
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

/// What the lab may be told.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Leave the containers and volumes for a person to look at
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    stage: Stage,
}

/// Runs every scene.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let engine = Engine::find().context("the lab needs a Docker engine and docker-compose")?;
    scenes(engine, &arguments.stage, arguments.keep)
}

/// As part of the test command: every scene where an engine runs; where none does that is said.
pub(crate) fn slice() -> Result<()> {
    match Engine::find() {
        Ok(engine) => scenes(engine, &Stage::dev(), false),
        Err(error) => {
            println!("    NOT RUN: no lab without a Docker engine and docker-compose: {error:#}");
            Ok(())
        }
    }
}

fn scenes(engine: Engine, stage: &Stage, keep: bool) -> Result<()> {
    let exe = stage.exe()?;
    let mut parts = Parts::begin("lab");
    let lab = Lab::new(engine, &format!("srlab{}", std::process::id()), keep);
    parts.part("image", || base::build(&lab.engine, &exe))?;
    parts.part("two sites from nothing", || two_sites(&lab))?;
    parts.part("back to the host it came from", || back_home(&lab))?;
    parts.part("the link is cut in the middle of a copy", || cut(&lab))?;
    parts.part("every node is killed at work", || kills(&lab))?;
    parts.part("site A is lost", || without_a(&lab))?;
    parts.part("only the cartridges are left", || cartridges(&lab))?;
    parts.part("site A is back", || back(&lab))?;
    parts.finish();
    Ok(())
}

/// Everything comes up from empty volumes, and the first point gets its copies by itself.
fn two_sites(lab: &Lab) -> Result<()> {
    lab.up()?;
    lab.wait("the first point and its copies", |lab| Ok(copied(&newest(lab)?)))
}

/// The whole of it by the agent, elsewhere on its host.
fn back_home(lab: &Lab) -> Result<()> {
    lab.operator(&["restore", LATEST, "--on", "fs1:/srv/restored/agent"])?;
    same(lab, "/srv/restored/agent")
}

/// A cut costs what was under way, the point is made all the same and the debt is told; the
/// copies follow by themselves once the link is there again.
fn cut(lab: &Lab) -> Result<()> {
    lab.narrow(Some(NARROW))?;
    noise(lab, "cut")?;
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
fn kills(lab: &Lab) -> Result<()> {
    for node in [Place::Agent, Place::Coordinator] {
        noise(lab, node.service())?;
        let job = ordered(lab)?;
        std::thread::sleep(std::time::Duration::from_millis(400));
        lab.kill(node)?;
        lab.start(node)?;
        ended(lab, &job)?;
    }
    lab.narrow(Some(NARROW))?;
    noise(lab, "proxy")?;
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
fn without_a(lab: &Lab) -> Result<()> {
    lab.stop(&[Place::Coordinator, Place::Agent])?;
    lab.operator(&["--site", "b", "points"])?;
    lab.operator(&["restore", LATEST, "--from", "b", "--to", "/srv/restored/from-b"])?;
    same(lab, "/srv/restored/from-b")
}

/// A copy of the cartridges and the recovery key, no network and no node.
fn cartridges(lab: &Lab) -> Result<()> {
    lab.alone(&format!(
        "cp -a /proxy/library /tmp/library && \
         strongroom restore {LATEST} --media /tmp/library \
         --recovery-key-file /org/recovery-key --to /srv/restored/media"
    ))?;
    same(lab, "/srv/restored/media")
}

/// The site that was away takes up its work, and the copies follow.
fn back(lab: &Lab) -> Result<()> {
    lab.start(Place::Coordinator)?;
    lab.start(Place::Agent)?;
    lab.wait("site A", |lab| Ok(lab.json(&["--site", "a", "status"]).is_ok()))?;
    lab.shell(Place::Agent, "date >/srv/documents/noise/back")?;
    lab.wait("the agent", |lab| Ok(protect(lab).is_ok()))?;
    lab.wait("the copies after the return", |lab| Ok(copied(&newest(lab)?)))
}

/// Bytes that nothing shrinks, new ones for each `name`.
fn noise(lab: &Lab, name: &str) -> Result<()> {
    let file = format!("/srv/documents/noise/{name}");
    let fill = format!("head -c {} /dev/urandom >{file}", NOISE_MIB << 20);
    lab.shell(Place::Agent, &format!("mkdir -p /srv/documents/noise && {fill}"))?;
    Ok(())
}

/// A point, waited for.
fn protect(lab: &Lab) -> Result<()> {
    ended(lab, &ordered(lab)?)
}

/// Orders a point; the job.
fn ordered(lab: &Lab) -> Result<String> {
    let job = lab.json(&["--site", "a", "protect", WORKLOAD])?;
    Ok(job["id"].as_str().context("no job was started")?.to_owned())
}

/// Waits for a job, also while the coordinator does not answer; it must succeed.
fn ended(lab: &Lab, id: &str) -> Result<()> {
    let mut job = Value::Null;
    lab.wait(&format!("the end of job {id}"), |lab| {
        let shown = lab.json(&["--site", "a", "jobs", "show", id]).unwrap_or_default();
        job = shown["job"].clone();
        Ok(!job["ended"].is_null())
    })?;
    match job["state"] == "succeeded" {
        true => Ok(()),
        false => bail!("job {id} ended {}: {}", job["state"], job["detail"]),
    }
}

/// The newest point, with its copies; null while there is none.
fn newest(lab: &Lab) -> Result<Value> {
    let points = lab.json(&["--site", "a", "points", WORKLOAD])?;
    Ok(points.as_array().and_then(|points| points.first()).cloned().unwrap_or_default())
}

/// Both copies are there, and proven as far as each can be.
fn copied(point: &Value) -> bool {
    let proven = |copy: &str, level: &str| {
        let row = copy_of(point, copy);
        row["state"] == "present" && row["proof"] == level
    };
    proven("secondary", "readable") && proven("tape", "hash-verified")
}

/// What was protected and what came back: bytes, kinds, modes, owners, links and times.
fn same(lab: &Lab, back: &str) -> Result<()> {
    let print = |dir: &str| {
        let each = "find . -mindepth 1 -exec stat -c '%N %f %u %g %h %Y %t %T' {} +";
        let bytes = "find . -type f -exec sha256sum {} +";
        let all = format!("cd {dir} && {{ {each}; {bytes}; }} | sort | sha256sum; find . | wc -l");
        lab.alone(&all)
    };
    let (was, is) = (print("/srv/documents")?, print(back)?);
    if was != is {
        bail!("{back} is not what was protected: {} and {}", was.trim(), is.trim());
    }
    println!("    {back}: {} entries are the same", is.lines().last().unwrap_or_default().trim());
    Ok(())
}
