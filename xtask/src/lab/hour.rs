//! An hour of scheduled work, compressed: several trees that change are protected every minute and
//! copied on, while nodes are killed and the link is cut as chance has it. At the end nothing is
//! owed, no job of a point failed, and the newest of each tree comes back from both sites.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::lab::engine::{Lab, Place};
use crate::lab::work::{DOCUMENTS, compare, copied, ended, failed, ordered_of, points_of, print};
use crate::parts::root;
use crate::random::Random;

/// So many trees.
const TREES: usize = 4;
/// What is written anew into one of them at a time, in KiB.
const CHANGE_KIB: u64 = 512;
/// Between two things that happen, in milliseconds: this, and as much again by chance.
const PAUSE_MILLIS: u64 = 2500;
/// The longest cut, in milliseconds.
const CUT_MILLIS: u64 = 6000;

/// Works for so long; the same seed does the same in the same order.
pub(super) fn scene(lab: &Lab, seconds: u64, seed: u64) -> Result<()> {
    println!("    {seconds} s with seed {seed}");
    let mut random = Random::new(seed);
    lab.shell(Place::Agent, &format!("rm -rf {DOCUMENTS}/noise"))?;
    for number in 0..TREES {
        lab.shell(Place::Agent, &format!("mkdir -p {}", tree(number)))?;
        change(lab, &mut random, number)?;
    }
    lab.apply(&policy()?)?;
    let until = Instant::now() + Duration::from_secs(seconds);
    let (mut kills, mut cuts) = (0, 0);
    while Instant::now() < until {
        pause(PAUSE_MILLIS + random.below(PAUSE_MILLIS));
        let number = usize::try_from(random.below(TREES as u64))?;
        change(lab, &mut random, number)?;
        let node = match random.below(4) {
            0 => Place::Agent,
            1 => Place::Coordinator,
            2 => Place::Proxy,
            _ => {
                lab.unplug()?;
                pause(random.below(CUT_MILLIS));
                lab.plug()?;
                cuts += 1;
                continue;
            }
        };
        lab.kill(node)?;
        lab.start(node)?;
        kills += 1;
    }
    println!("    {kills} kills and {cuts} cuts");
    ended_well(lab)?;
    lab.operator(&["policy", "apply", "/usr/local/share/strongroom/policy.toml"]).map(drop)
}

/// Nothing is owed, no job of a point failed, and what is newest comes back from both sites.
fn ended_well(lab: &Lab) -> Result<()> {
    let mut made = 0;
    for number in 0..TREES {
        ended(lab, &ordered_of(lab, "a", &workload(number))?)?;
    }
    // Copies that their rules do not keep go again, and are owed no more.
    lab.wait("every copy", |lab| {
        let debts = lab.json(&["--site", "a", "status"])?["debts"].clone();
        Ok(debts.as_array().is_some_and(Vec::is_empty))
    })?;
    for number in 0..TREES {
        let workload = workload(number);
        let points = points_of(lab, "a", &workload)?;
        if !points.first().is_some_and(copied) {
            bail!("nothing is owed, and the newest point of {workload} has no copies");
        }
        made += points.len();
        let was = print(lab, &tree(number))?;
        for site in ["a", "b"] {
            let back = format!("/srv/restored/hour-{site}-{number}");
            let latest = format!("latest:{workload}");
            lab.operator(&["restore", &latest, "--from", site, "--to", &back])?;
            compare(lab, &was, &back)?;
            lab.alone(&format!("rm -r {back}"))?;
        }
    }
    println!("    {made} points, and nothing is owed");
    match failed(lab)? {
        None => Ok(()),
        Some(job) => bail!("a job failed: {job}"),
    }
}

fn tree(number: usize) -> String {
    format!("{DOCUMENTS}/hour/tree-{number}")
}

fn workload(number: usize) -> String {
    format!("tree-{number}@fs1")
}

/// A file of a tree is written anew.
fn change(lab: &Lab, random: &mut Random, number: usize) -> Result<()> {
    let file = format!("{}/file-{}", tree(number), random.below(8));
    let write = format!("head -c {} /dev/urandom >{file}", CHANGE_KIB << 10);
    lab.shell(Place::Agent, &write).map(drop)
}

fn pause(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

/// The lab's own policy, and one that runs every minute for the trees.
fn policy() -> Result<String> {
    let file = root().join("docs/lab/policy.toml");
    let own = std::fs::read_to_string(&file).with_context(|| format!("{}", file.display()))?;
    let first = own.find("[workload.").context("the policy names no workload")?;
    let (rules, _) = own.split_at(first);
    let often = rules.replace("policy.documents", "policy.minutes").replace("15m", "1m");
    let mut text = own.clone() + "\n" + &often;
    for number in 0..TREES {
        text += &format!(
            "[workload.\"{}\"]\nagent = \"fs1\"\nkind = \"files\"\npath = \"{}\"\n\
             policy = \"minutes\"\n",
            workload(number),
            tree(number)
        );
    }
    Ok(text)
}
