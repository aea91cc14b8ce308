//! Many agents at once into one coordinator, all of them real processes, against one agent that
//! protects the same bytes alone: the rate of all together, how evenly it is shared, and the
//! memory the coordinator took. Fails where a goal is missed.

mod collect;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::bench::cpu_seconds;
use crate::kill::mib;
use crate::sites::{Role, Sites, Way};
use crate::stage::Stage;

/// What the coordinator may take.
const COORDINATOR_BYTES_MAX: u64 = 192 << 20;
/// The slowest of all may be this much slower than the fastest.
const UNFAIR_MAX: f64 = 2.0;
/// Together they may be slower than one alone by this much, which is the machine's noise.
const NOISE: f64 = 0.9;
/// Bytes of a file.
const FILE_BYTES: usize = 256 << 10;
/// Points of each workload that are kept.
const KEPT: u32 = 1000;
/// How often jobs are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// No job takes longer.
const PATIENCE: Duration = Duration::from_secs(1200);

/// What the measurement may be told.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Agents at once
    #[arg(long, default_value_t = 50)]
    agents: usize,
    /// MiB that each of them protects
    #[arg(long, default_value_t = 32)]
    mib: usize,
    /// What collecting costs them instead, in turns with and without
    #[arg(long)]
    collect: bool,
    #[command(flatten)]
    stage: Stage,
}

/// A workload's name, its agent and its tree.
type Protected = (String, String, PathBuf);

/// What one run showed.
struct Seen {
    /// From the first job's beginning to the last one's end.
    seconds: f64,
    /// From its beginning to its end, of every job.
    each: Vec<f64>,
    coordinator_bytes: u64,
    /// Processor seconds of the coordinator meanwhile.
    coordinator_cpu: f64,
}

/// One alone, then all together.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.collect {
        return collect::run(arguments);
    }
    let exe = arguments.stage.exe()?;
    let place = arguments.stage.place()?;
    let dir = place.path();
    let trees = dir.join("trees");
    for agent in 0..arguments.agents {
        make(&trees.join(format!("{agent:03}")), agent, arguments.mib)?;
    }
    let total = (arguments.agents * arguments.mib) as f64 * f64::from(1 << 20);
    let alone = alone(&exe, &dir.join("alone"), &trees)?;
    println!("{:<22} {:>7.1} MB/s", "one agent", total / alone.seconds / 1e6);
    coordinator(&alone);
    let many = together(&exe, &dir.join("together"), &trees, arguments.agents)?;
    println!(
        "{:<22} {:>7.1} MB/s",
        format!("{} agents", arguments.agents),
        total / many.seconds / 1e6
    );
    let slowest = many.each.iter().copied().fold(0.0, f64::max);
    let fastest = many.each.iter().copied().fold(f64::INFINITY, f64::min);
    let rate = |seconds: f64| total / arguments.agents as f64 / seconds / 1e6;
    println!("{:<22} {:>7.2} to {:.2} MB/s each", "", rate(slowest), rate(fastest));
    coordinator(&many);
    judge(&[
        ("aggregate against one agent", alone.seconds / many.seconds, NOISE, f64::INFINITY),
        ("fastest against slowest", slowest / fastest, 0.0, UNFAIR_MAX),
        (
            "coordinator's memory against its bound",
            many.coordinator_bytes as f64 / COORDINATOR_BYTES_MAX as f64,
            0.0,
            1.0,
        ),
    ])
}

fn coordinator(seen: &Seen) {
    let (peak, cpu) = (mib(seen.coordinator_bytes), seen.coordinator_cpu);
    println!("{:<22} {peak:>11} peak, {cpu:.2} CPU s", "    coordinator");
}

fn judge(rows: &[(&str, f64, f64, f64)]) -> Result<()> {
    let mut failed = 0;
    for (what, found, least, most) in rows {
        let holds = (*least..=*most).contains(found);
        println!("{what}: {found:.2}, {}", if holds { "reached" } else { "NOT REACHED" });
        failed += usize::from(!holds);
    }
    println!("{} passed, {failed} failed", rows.len() - failed);
    if failed > 0 {
        bail!("{failed} goals were missed");
    }
    Ok(())
}

fn alone(exe: &Path, dir: &Path, trees: &Path) -> Result<Seen> {
    let mut sites = Sites::raise(exe, dir, trees, Way::Direct)?;
    measure(&mut sites, &[("all@host1".to_owned(), "host1".to_owned(), trees.to_owned())])
}

fn together(exe: &Path, dir: &Path, trees: &Path, agents: usize) -> Result<Seen> {
    let (mut sites, workloads) = raise(exe, dir, trees, agents)?;
    measure(&mut sites, &workloads)
}

/// Sites with many agents, connected, and a workload for each: a tree of its own below `trees`.
fn raise(exe: &Path, dir: &Path, trees: &Path, agents: usize) -> Result<(Sites, Vec<Protected>)> {
    let mut sites = Sites::raise(exe, dir, trees, Way::Direct)?;
    let mut workloads = Vec::new();
    for agent in 0..agents {
        let host = format!("many{agent:03}");
        sites.add_agent(&host)?;
        workloads.push((format!("tree@{host}"), host, trees.join(format!("{agent:03}"))));
    }
    // They, the first agent and the proxy.
    sites.connected(agents + 2)?;
    Ok((sites, workloads))
}

/// Applies the policy, whose schedule orders a point of each workload at once, and waits for all
/// of them. Times are the coordinator's own: no tool runs meanwhile but a look twice a second.
fn measure(sites: &mut Sites, workloads: &[Protected]) -> Result<Seen> {
    let cpu_before = cpu_seconds(sites.pid(Role::Coordinator)?)?;
    sites.apply(&policy(workloads, KEPT)?)?;
    let began = Instant::now();
    let most = (workloads.len() + 1).to_string();
    let ended = loop {
        sites.check()?;
        if began.elapsed() > PATIENCE {
            bail!("the jobs did not end within {} s", PATIENCE.as_secs());
        }
        let rows = sites.ask(&["jobs", "list", "-n", &most])?;
        let rows = rows.as_array().context("no list of jobs")?.clone();
        let over: Vec<Value> = rows.into_iter().filter(|row| !row["ended"].is_null()).collect();
        if over.len() >= workloads.len() {
            break over;
        }
        thread::sleep(LOOK);
    };
    let mut spans = Vec::new();
    for row in &ended {
        if row["state"] != "succeeded" {
            bail!("job {} ended {}: {}", row["id"], row["state"], row["detail"]);
        }
        let moment = |key: &str| row[key].as_i64().with_context(|| format!("no {key}: {row}"));
        spans.push((moment("created")?, moment("ended")?));
    }
    let first = spans.iter().map(|span| span.0).min().unwrap_or_default();
    let last = spans.iter().map(|span| span.1).max().unwrap_or_default();
    let seconds = |from: i64, to: i64| (to - from) as f64 / 1e9;
    Ok(Seen {
        seconds: seconds(first, last),
        each: spans.iter().map(|span| seconds(span.0, span.1)).collect(),
        coordinator_bytes: sites.peak_bytes(Role::Coordinator)?,
        coordinator_cpu: cpu_seconds(sites.pid(Role::Coordinator)?)? - cpu_before,
    })
}

/// Files of bytes that nobody else has and nothing compresses.
fn make(dir: &Path, agent: usize, mib: usize) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    let mut bytes = vec![0; FILE_BYTES];
    for file in 0..mib * (1 << 20) / FILE_BYTES {
        let seed = (agent << 32 | file) as u64;
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        std::fs::write(dir.join(format!("f{file:05}")), &bytes)?;
    }
    Ok(())
}

fn policy(workloads: &[Protected], kept: u32) -> Result<String> {
    let mut text = format!(
        "[policy.alone]\nschedule = [\"every 24h\"]\ntimezone = \"UTC\"\nrequire = \"fuzzy\"\n\
         [policy.alone.primary]\nkeep = {{ newest = {kept} }}\n"
    );
    for (name, agent, path) in workloads {
        let path = path.to_str().context("a path that TOML cannot hold")?;
        writeln!(
            text,
            "[workload.\"{name}\"]\nagent = \"{agent}\"\nkind = \"files\"\npath = \"{path}\"\n\
             policy = \"alone\""
        )?;
    }
    Ok(text)
}
