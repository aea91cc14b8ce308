//! What collecting costs agents that write meanwhile: the same agents protect fresh bytes with
//! and without a coordinator that marks and gives space back once a second, in turns.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::agents::{Arguments, Protected, judge, make, policy, raise};
use crate::bench::median;
use crate::sites::Sites;

/// Rounds of each kind; before them one that is not counted.
const ROUNDS: usize = 5;
/// A round under collection may take this much of one without.
const COST_MAX: f64 = 1.1;
/// Points kept while nothing is to be collected, and while everything older is.
const KEPT: [u32; 2] = [1000, 1];
/// Between two collections: to order one costs a process of its own.
const PAUSE: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(300);

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let exe = arguments.stage.exe()?;
    let place = arguments.stage.place()?;
    let trees = place.path().join("trees");
    std::fs::create_dir_all(&trees)?;
    let sites = place.path().join("sites");
    let (mut sites, workloads) = raise(&exe, &sites, &trees, arguments.agents)?;
    let mut seconds = [Vec::new(), Vec::new()];
    let mut collections = 0;
    for round in 0..=ROUNDS * 2 {
        for agent in 0..arguments.agents {
            // Bytes of its own for every round.
            let seed = agent + (round + 1) * 1000;
            make(&trees.join(format!("{agent:03}")), seed, arguments.mib)?;
        }
        let collecting = round % 2 == 0 && round > 0;
        sites.apply(&policy(&workloads, KEPT[usize::from(collecting)])?)?;
        if round == 0 {
            // The schedule orders the first points itself.
            sites.wait("the first points", |sites| Ok(ended(sites)? >= workloads.len()))?;
            continue;
        }
        let (took, collected) = once(&sites, &workloads, collecting)?;
        println!("round {round}: {took:.2} s, {collected} collections");
        collections += collected;
        seconds[usize::from(collecting)].push(took);
        sites.check()?;
    }
    if collections == 0 {
        bail!("nothing was collected meanwhile");
    }
    let [alone, under] = seconds.map(median);
    println!("{} agents: {alone:.2} s alone, {under:.2} s under collection", workloads.len());
    judge(&[("time under collection against time without", under / alone, 0.0, COST_MAX)])
}

fn ended(sites: &Sites) -> Result<usize> {
    let rows = sites.ask(&["jobs", "list", "-n", "1000"])?;
    let rows = rows.as_array().context("no list of jobs")?;
    Ok(rows.iter().filter(|row| !row["ended"].is_null()).count())
}

/// A point of each workload: from the first job's beginning to the last one's end, in seconds,
/// and how many collections there were.
fn once(sites: &Sites, workloads: &[Protected], collecting: bool) -> Result<(f64, u64)> {
    let (over, collections) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while collecting && !over.load(Ordering::Relaxed) {
                // One that is refused, because another runs, is none.
                if sites.text(&["--site", "a", "space", "--collect"]).is_ok() {
                    collections.fetch_add(1, Ordering::Relaxed);
                }
                thread::sleep(PAUSE);
            }
        });
        let took = protect_all(sites, workloads);
        over.store(true, Ordering::Relaxed);
        Ok((took?, collections.load(Ordering::Relaxed)))
    })
}

fn protect_all(sites: &Sites, workloads: &[Protected]) -> Result<f64> {
    let jobs: Vec<String> =
        workloads.iter().map(|(name, ..)| sites.protect_one(name)).collect::<Result<_>>()?;
    let (mut first, mut last) = (i64::MAX, i64::MIN);
    for id in jobs {
        let job = loop {
            let job = sites.job(&id)?;
            if !job["ended"].is_null() {
                break job;
            }
            thread::sleep(LOOK);
        };
        if job["state"] != "succeeded" {
            bail!("job {id} ended {}: {}", job["state"], job["detail"]);
        }
        let moment = |job: &Value, key: &str| job[key].as_i64().context("a job without times");
        first = first.min(moment(&job, "created")?);
        last = last.max(moment(&job, "ended")?);
    }
    Ok((last - first) as f64 / 1e9)
}
