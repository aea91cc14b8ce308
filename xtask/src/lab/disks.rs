//! The disks of the nodes: a file system of its own for each home, which is filled while work goes
//! on. What is full is told by name, what was acknowledged stays, and the work goes on by itself
//! once there is room.

use std::process::Command;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::lab::engine::{Lab, Place, said};
use crate::lab::work::{
    DOCUMENTS, LATEST, WORKLOAD, agree, compare, copied, ended, newest, noise, ordered, print,
    print_of, protect,
};
use crate::parts::must;

/// How large each is; the files they lie in are sparse.
const DISK_MIB: u64 = 8192;
/// What is left when one is filled: enough to begin a point, too little to end it, in KiB.
const LEFT_KIB: u64 = 40 << 10;
/// What a point brings then, in MiB.
const NOISE_MIB: u64 = 96;

/// File systems in files, each for the volume that bears its name.
pub(super) struct Disks {
    place: TempDir,
    /// The volume, and the block device for it.
    made: Vec<(&'static str, String)>,
}

impl Disks {
    /// # Errors
    /// A file system cannot be made, or there is no block device for it.
    pub(super) fn make() -> Result<Self> {
        let mut disks = Self { place: tempfile::tempdir()?, made: Vec::new() };
        for name in ["agent", "coordinator", "proxy"] {
            let image = disks.place.path().join(name);
            let size = format!("{DISK_MIB}M");
            let mut make = Command::new("mke2fs");
            must(make.args(["-q", "-t", "ext4", "-m", "0"]).arg(&image).arg(size))?;
            let mut attach = Command::new("losetup");
            let device = said(attach.args(["--find", "--show"]).arg(&image))?;
            disks.made.push((name, device.trim().to_owned()));
        }
        Ok(disks)
    }

    /// The devices as `docs/lab/disks.yml` names them.
    pub(super) fn devices(&self) -> Vec<(String, String)> {
        let named = |(name, device): &(&'static str, String)| {
            (format!("LAB_DISK_{}", name.to_uppercase()), device.clone())
        };
        self.made.iter().map(named).collect()
    }

    /// Leaves them for a person to look at.
    pub(super) fn keep(&mut self) {
        self.place.disable_cleanup(true);
        self.made.clear();
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        for (_, device) in &self.made {
            if let Err(error) = said(Command::new("losetup").args(["--detach", device])) {
                println!("    {device} was not let go: {error:#}");
            }
        }
    }
}

/// The coordinator's, the proxy's and the agent's, one after the other.
pub(super) fn scene(lab: &Lab) -> Result<()> {
    lab.shell(Place::Agent, &format!("rm -rf {DOCUMENTS}/noise"))?;
    protect(lab)?;
    lab.wait("the copies before", |lab| Ok(copied(&newest(lab)?)))?;
    coordinator(lab)?;
    proxy(lab)?;
    agent(lab)
}

/// The job waits and says why, what there is can be read, and the job ends once there is room.
fn coordinator(lab: &Lab) -> Result<()> {
    let (point, was) = (id_of_newest(lab)?, print(lab, DOCUMENTS)?);
    noise(lab, "full-coordinator", NOISE_MIB)?;
    let full = Full::make(lab, Place::Coordinator)?;
    let job = ordered(lab)?;
    lab.wait("a word about the full disk", |lab| {
        let shown = lab.json(&["--site", "a", "jobs", "show", &job])?;
        if !shown["job"]["ended"].is_null() {
            bail!("it ended on a full disk: {}", shown["job"]);
        }
        let events = shown["events"].to_string();
        Ok(events.contains("full") && events.contains("/home/coordinator"))
    })?;
    restored(lab, &point, "a", &was)?;
    full.free()?;
    ended(lab, &job)?;
    lab.wait("the copies then", |lab| Ok(copied(&newest(lab)?)))?;
    restored(lab, &point, "b", &was)
}

/// The point is made, its debt says why, and the copies follow once there is room.
fn proxy(lab: &Lab) -> Result<()> {
    let (point, was) = (id_of_newest(lab)?, print(lab, DOCUMENTS)?);
    noise(lab, "full-proxy", NOISE_MIB)?;
    let full = Full::make(lab, Place::Proxy)?;
    protect(lab)?;
    lab.wait("a debt that says why", |lab| {
        let debts = lab.json(&["--site", "a", "status"])?["debts"].to_string();
        Ok(debts.contains("full") && debts.contains("/home/proxy"))
    })?;
    restored(lab, &point, "b", &was)?;
    full.free()?;
    lab.wait("the copies then", |lab| Ok(copied(&newest(lab)?)))?;
    restored(lab, LATEST, "b", &print(lab, DOCUMENTS)?)
}

/// What it remembers may not fit any more, and a point is made all the same; what does not fit is
/// not restored there, and is once there is room.
fn agent(lab: &Lab) -> Result<()> {
    let full = Full::make(lab, Place::Agent)?;
    lab.shell(Place::Agent, "dd if=/dev/zero of=/home/agent/rest bs=64k 2>/dev/null || true")?;
    lab.shell(Place::Agent, &format!("date >{DOCUMENTS}/full-agent"))?;
    protect(lab)?;
    let words = ["restore", LATEST, "--on", "fs1:/home/agent/back"];
    match lab.operator(&words) {
        Ok(told) => bail!("it was restored to a full disk: {told}"),
        Err(error) if format!("{error:#}").contains("full") => {}
        Err(error) => return Err(error.context("it failed, and not for the full disk")),
    }
    full.free()?;
    lab.shell(Place::Agent, "rm -f /home/agent/rest")?;
    lab.operator(&words)?;
    let is = lab.shell(Place::Agent, &print_of("/home/agent/back"))?;
    agree(&print(lab, DOCUMENTS)?, &is, "/home/agent/back")?;
    lab.shell(Place::Agent, "rm -r /home/agent/back")?;
    protect(lab)?;
    lab.wait("the copies then", |lab| Ok(copied(&newest(lab)?)))
}

/// A disk with something large on it.
struct Full<'lab> {
    lab: &'lab Lab,
    place: Place,
}

impl<'lab> Full<'lab> {
    fn make(lab: &'lab Lab, place: Place) -> Result<Self> {
        let home = format!("/home/{}", place.service());
        let free = format!("df -k {home} | awk 'END {{ print $4 }}'");
        let free: u64 = lab.shell(place, &free)?.trim().parse()?;
        let kib = free.checked_sub(LEFT_KIB).context("there is no room to fill")?;
        lab.shell(place, &format!("fallocate -l {} {home}/filler", kib << 10))?;
        Ok(Self { lab, place })
    }

    fn free(self) -> Result<()> {
        let rm = format!("rm /home/{}/filler", self.place.service());
        self.lab.shell(self.place, &rm).map(drop)
    }
}

fn id_of_newest(lab: &Lab) -> Result<String> {
    let id = newest(lab)?["id"].as_str().map(str::to_owned);
    id.with_context(|| format!("{WORKLOAD} has no point"))
}

/// A point from a site, compared with the print of what it holds.
fn restored(lab: &Lab, point: &str, site: &str, was: &str) -> Result<()> {
    let back = format!("/srv/restored/full-{site}");
    lab.operator(&["restore", point, "--from", site, "--to", &back])?;
    compare(lab, was, &back)?;
    lab.alone(&format!("rm -r {back}")).map(drop)
}
