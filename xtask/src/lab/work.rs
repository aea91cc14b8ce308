//! What every scene does: has a point made and waits for its end, looks at its copies, compares
//! what comes back with what was protected.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::lab::engine::{Lab, Place};
use crate::sites::copy_of;

/// What is protected, and the newest point of it.
pub(super) const WORKLOAD: &str = "documents@fs1";
pub(super) const LATEST: &str = "latest:documents@fs1";
/// Where it lies.
pub(super) const DOCUMENTS: &str = "/srv/documents";

/// Bytes that nothing shrinks, new ones for each `name`.
pub(super) fn noise(lab: &Lab, name: &str, mib: u64) -> Result<()> {
    let file = format!("/srv/documents/noise/{name}");
    let fill = format!("head -c {} /dev/urandom >{file}", mib << 20);
    lab.shell(Place::Agent, &format!("mkdir -p /srv/documents/noise && {fill}"))?;
    Ok(())
}

/// A point, waited for.
pub(super) fn protect(lab: &Lab) -> Result<()> {
    ended(lab, &ordered(lab)?)
}

/// Orders a point; the job.
pub(super) fn ordered(lab: &Lab) -> Result<String> {
    ordered_at(lab, "a")
}

/// As [`ordered`], of a site.
pub(super) fn ordered_at(lab: &Lab, site: &str) -> Result<String> {
    ordered_of(lab, site, WORKLOAD)
}

/// As [`ordered_at`], of a workload; one that its schedule began is let end.
pub(super) fn ordered_of(lab: &Lab, site: &str, workload: &str) -> Result<String> {
    let mut ordered = Ok(Value::Null);
    lab.wait("the end of a scheduled job", |lab| {
        ordered = lab.json(&["--site", site, "protect", workload]);
        let busy = |error: &anyhow::Error| format!("{error:#}").contains(" already");
        Ok(!ordered.as_ref().is_err_and(busy))
    })?;
    let job = ordered?;
    Ok(job["id"].as_str().context("no job was started")?.to_owned())
}

/// Waits for a job, also while the coordinator does not answer; it must succeed.
pub(super) fn ended(lab: &Lab, id: &str) -> Result<()> {
    ended_at(lab, "a", id).map(drop)
}

/// As [`ended`], of a site; what the job was.
pub(super) fn ended_at(lab: &Lab, site: &str, id: &str) -> Result<Value> {
    let mut job = Value::Null;
    lab.wait(&format!("the end of job {id}"), |lab| {
        let shown = lab.json(&["--site", site, "jobs", "show", id]).unwrap_or_default();
        job = shown["job"].clone();
        Ok(!job["ended"].is_null())
    })?;
    match job["state"] == "succeeded" {
        true => Ok(job),
        false => bail!("job {id} ended {}: {}", job["state"], job["detail"]),
    }
}

/// The newest point, with its copies; null while there is none.
pub(super) fn newest(lab: &Lab) -> Result<Value> {
    Ok(points_of(lab, "a", WORKLOAD)?.into_iter().next().unwrap_or_default())
}

/// The points of a workload as a site has them, the newest first.
pub(super) fn points_of(lab: &Lab, site: &str, workload: &str) -> Result<Vec<Value>> {
    let points = lab.json(&["--site", site, "points", workload])?;
    Ok(points.as_array().cloned().unwrap_or_default())
}

/// A job of a point that failed, of those that are remembered. A copy that was broken off is
/// another job when it goes on; that it arrived is looked at by itself.
pub(super) fn failed(lab: &Lab) -> Result<Option<Value>> {
    let jobs = lab.json(&["--site", "a", "jobs", "list", "--most", "1000"])?;
    let jobs = jobs.as_array().cloned().unwrap_or_default();
    Ok(jobs.into_iter().find(|job| job["kind"] == "protect" && job["state"] == "failed"))
}

/// Both copies are there, and proven as far as each can be.
pub(super) fn copied(point: &Value) -> bool {
    let proven = |copy: &str, level: &str| {
        let row = copy_of(point, copy);
        row["state"] == "present" && row["proof"] == level
    };
    proven("secondary", "readable") && proven("tape", "hash-verified")
}

/// What was protected and what came back: bytes, kinds, modes, owners, links and times.
pub(super) fn same(lab: &Lab, back: &str) -> Result<()> {
    compare(lab, &print(lab, DOCUMENTS)?, back)
}

/// As [`same`], with what was protected as its print had it then.
pub(super) fn compare(lab: &Lab, was: &str, back: &str) -> Result<()> {
    agree(was, &print(lab, back)?, back)
}

/// Two prints are of the same tree; `back` is said of the second.
pub(super) fn agree(was: &str, is: &str, back: &str) -> Result<()> {
    if was != is {
        bail!("{back} is not what was protected: {} and {}", was.trim(), is.trim());
    }
    println!("    {back}: {} entries are the same", is.lines().last().unwrap_or_default().trim());
    Ok(())
}

/// A hash over all that a tree is, and how many entries it has.
pub(super) fn print(lab: &Lab, dir: &str) -> Result<String> {
    lab.alone(&print_of(dir))
}

/// What prints it, as a line of shell.
pub(super) fn print_of(dir: &str) -> String {
    let each = "find . -mindepth 1 -exec stat -c '%N %f %u %g %h %Y %t %T' {} +";
    let bytes = "find . -type f -exec sha256sum {} +";
    format!("cd {dir} && {{ {each}; {bytes}; }} | sort | sha256sum; find . | wc -l")
}
