//! A real cluster under load, protected while agent, holder, coordinator, link, backend and the
//! server itself are killed at random moments, on a primary and on a standby that is promoted in
//! the middle in the end: each job must make its point, and every point must restore to a
//! consistent cluster. Then what that costs, beside `pg_basebackup` (and pgBackRest, where it is
//! installed) on the same cluster.

mod peers;
mod policy;
mod server;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::random::Random;
use crate::sites::{Profile, Role, Sites, Way};
use policy::{policy, workload};
use server::Server;

/// Debits, credits and their history agree, or the cluster is of no one moment.
const SUMS: &str = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = \
                    (SELECT coalesce(sum(delta), 0) FROM pgbench_history) \
                    AND (SELECT sum(bbalance) FROM pgbench_branches) = \
                    (SELECT sum(tbalance) FROM pgbench_tellers) \
                    AND (SELECT sum(abalance) FROM pgbench_accounts) = \
                    (SELECT sum(bbalance) FROM pgbench_branches)";
/// The slice `cargo xtask test` runs.
const SLICE_KILLS: usize = 6;
const SLICE_SCALE: u32 = 2;
/// Nothing of a backup may stay in the server for longer.
const RID_MAX: Duration = Duration::from_secs(30);
/// A backup that has not begun by then was over before it was seen.
const BEGUN_MAX: Duration = Duration::from_secs(5);
/// How long a link stays away.
const AWAY: Duration = Duration::from_secs(2);
/// Longest a job may take with all its tries.
const JOB_MAX: Duration = Duration::from_secs(300);
/// The port in the name of the server's socket, and of the standby's.
const PORT: u16 = 15_500;
const STANDBY_PORT: u16 = 15_501;
/// A campaign of fewer kills has no standby.
const STANDBY_FROM: usize = 24;
/// The workloads that they are.
const WORKLOADS: [&str; 2] = ["db", "standby"];

/// What the campaign may be told.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Kills altogether
    #[arg(long, default_value_t = 50)]
    kills: usize,
    /// Size of the cluster, as pgbench counts: about 15 MiB each
    #[arg(long, default_value_t = 10)]
    scale: u32,
    /// Leave the comparison with other programs out
    #[arg(long)]
    no_peers: bool,
    /// Where everything is made; a temporary directory if not told
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Where the random numbers start
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// This program, instead of building one
    #[arg(long)]
    exe: Option<PathBuf>,
    /// Which build of the program is driven
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    profile: Profile,
}

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Agent,
    Backend,
    Coordinator,
    Holder,
    Link,
    Server,
}

/// When somebody is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Any,
    Within,
}

const VICTIMS: [Victim; 6] = [
    Victim::Agent,
    Victim::Holder,
    Victim::Backend,
    Victim::Server,
    Victim::Coordinator,
    Victim::Link,
];

/// The bounded slice of it that every checkout passes.
pub(crate) fn slice() -> Result<()> {
    run(&Arguments {
        kills: SLICE_KILLS,
        scale: SLICE_SCALE,
        no_peers: true,
        dir: None,
        seed: 1,
        exe: None,
        profile: Profile::Dev,
    })
}

/// The campaign.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let exe = arguments.exe.clone().map_or_else(|| arguments.profile.build(), Ok)?;
    let temporary = match &arguments.dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    // The user that runs the server must come through.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(temporary.path(), mode)?;
    let dir = temporary.path();
    let server = Server::make(&dir.join("pg"), PORT, arguments.scale)?;
    let sites = Sites::raise(&exe, &dir.join("sites"), dir, Way::Direct)?;
    let mut text = policy(&server)?;
    let mut standby = None;
    if arguments.kills >= STANDBY_FROM {
        let made = Server::follow(&server, &dir.join("pg2"), STANDBY_PORT)?;
        text += &workload(WORKLOADS[1], &made)?;
        standby = Some(made);
    }
    sites.apply(&text)?;
    let mut campaign = Campaign {
        server,
        standby,
        sites,
        random: Random::new(arguments.seed),
        typical: Duration::from_secs(1),
        kills: BTreeMap::new(),
        hit: 0,
    };
    println!("seed {}, {} kills", arguments.seed, arguments.kills);
    campaign.undisturbed()?;
    for number in 0..arguments.kills {
        let victim = VICTIMS.get(number % VICTIMS.len()).copied().unwrap_or(Victim::Agent);
        // Every other one in the middle of a backup, the others at any moment.
        let when =
            if (number / VICTIMS.len()).is_multiple_of(2) { When::Within } else { When::Any };
        // Twelve on the primary, twelve on the standby, and so on.
        let on = usize::from(campaign.standby.is_some() && number / 12 % 2 == 1);
        let what = || format!("kill {number}, of {victim:?}, protecting {}", WORKLOADS[on]);
        campaign.round(on, victim, when).with_context(what)?;
    }
    campaign.promotion().context("a promotion in the middle")?;
    campaign.conclude()?;
    if !arguments.no_peers {
        peers::compare(&campaign.server, &exe, dir)?;
    }
    Ok(())
}

struct Campaign {
    server: Server,
    standby: Option<Server>,
    sites: Sites,
    random: Random,
    /// How long an undisturbed point takes.
    typical: Duration,
    /// Kills and the longest time to the point, by victim.
    kills: BTreeMap<Victim, (usize, Duration)>,
    /// Kills that came while a backup was under way.
    hit: usize,
}

impl Campaign {
    /// Points under load and load without them: what the load feels of it.
    fn undisturbed(&mut self) -> Result<()> {
        let window = 10;
        let load = self.server.load(window, "alone")?;
        load.finish()?;
        let load = self.server.load(window, "beside")?;
        let began = Instant::now();
        let mut points = 0_u32;
        while began.elapsed() < Duration::from_secs(window) {
            let job = self.sites.protect_one("db")?;
            self.sites.finished(&job)?;
            points += 1;
        }
        self.typical = began.elapsed() / points.max(1);
        load.finish()?;
        let (alone, alone_count) = self.server.slowest("alone")?;
        let (beside, beside_count) = self.server.slowest("beside")?;
        println!("{points} points one after another, {:.2} s each", self.typical.as_secs_f64());
        println!("transactions without: {alone_count}, the slowest took {alone:.0} ms");
        println!("transactions beside:  {beside_count}, the slowest took {beside:.0} ms");
        Ok(())
    }

    /// The server of a workload.
    fn on(&self, on: usize) -> &Server {
        self.standby.as_ref().filter(|_| on == 1).unwrap_or(&self.server)
    }

    fn round(&mut self, on: usize, victim: Victim, when: When) -> Result<()> {
        let load = self.server.load(JOB_MAX.as_secs(), "kills")?;
        let job = self.sites.protect_one(WORKLOADS[on])?;
        let most = u64::try_from(self.typical.as_millis()).unwrap_or(1000);
        let most = match when {
            When::Any => most,
            When::Within => {
                let until = Instant::now() + BEGUN_MAX;
                while self.sessions(on)? == 0 && Instant::now() < until {}
                most / 10
            }
        };
        std::thread::sleep(Duration::from_millis(self.random.below(most)));
        let under_way = self.sessions(on).unwrap_or(0) > 0;
        self.kill(on, victim)?;
        self.hit += usize::from(under_way);
        let began = Instant::now();
        self.ended(&job)?;
        let took = began.elapsed();
        drop(load);
        self.rid(on)?;
        let of = self.kills.entry(victim).or_default();
        *of = (of.0 + 1, of.1.max(took));
        Ok(())
    }

    /// Waits until the server has nothing of a backup left.
    fn rid(&self, on: usize) -> Result<()> {
        let rid = Instant::now();
        while self.sessions(on)? > 0 {
            if rid.elapsed() > RID_MAX {
                bail!("the server still has a backup under way");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// The standby becomes a primary in the middle of a backup from it: what was begun makes no
    /// point, the next try makes one of the new timeline.
    fn promotion(&self) -> Result<()> {
        let Some(standby) = &self.standby else { return Ok(()) };
        let load = self.server.load(JOB_MAX.as_secs(), "kills")?;
        let job = self.sites.protect_one(WORKLOADS[1])?;
        let until = Instant::now() + BEGUN_MAX;
        while self.sessions(1)? == 0 {
            if Instant::now() > until {
                bail!("the backup was over before it was seen");
            }
        }
        let agent = self.sites.pid(Role::Agent)?;
        signal(agent, "STOP")?;
        let promoted = standby.ask("SELECT pg_promote()");
        signal(agent, "CONT")?;
        if promoted? != "t" {
            bail!("the standby was not promoted");
        }
        self.ended(&job)?;
        drop(load);
        self.rid(1)?;
        let said = self.sites.text(&["jobs", "show", &job])?;
        if !said.contains("promoted") {
            bail!("nothing in the journal names the promotion: {said}");
        }
        println!("promoted in the middle of a backup: nothing of it is a point, the next try is");
        Ok(())
    }

    fn kill(&mut self, on: usize, victim: Victim) -> Result<()> {
        match victim {
            Victim::Agent => self.again(Role::Agent),
            Victim::Coordinator => self.again(Role::Coordinator),
            Victim::Server => self.on(on).kill(),
            Victim::Backend => {
                let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                           WHERE application_name = 'strongroom'";
                self.on(on).ask(end).map(drop)
            }
            Victim::Holder => match below(self.sites.pid(Role::Agent)?) {
                Some(holder) => signal(holder, "KILL"),
                None => Ok(()),
            },
            Victim::Link => {
                // Nobody hears of the other for a while, and neither is told.
                let coordinator = self.sites.pid(Role::Coordinator)?;
                signal(coordinator, "STOP")?;
                std::thread::sleep(AWAY);
                signal(coordinator, "CONT")
            }
        }
    }

    fn again(&mut self, role: Role) -> Result<()> {
        self.sites.kill(role)?;
        self.sites.start(role)
    }

    /// Waits for the job's end: it may have been tried several times, and must have made it.
    fn ended(&self, job: &str) -> Result<()> {
        let until = Instant::now() + JOB_MAX;
        loop {
            let row = self.sites.job(job).unwrap_or_default();
            if !row["ended"].is_null() {
                if row["state"] != "succeeded" {
                    bail!("job {job} ended {}: {}", row["state"], row["detail"]);
                }
                return Ok(());
            }
            if Instant::now() > until {
                bail!("job {job} did not end: {}", self.sites.text(&["jobs", "show", job])?);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Backups the server knows of.
    fn sessions(&self, on: usize) -> Result<usize> {
        let count = "SELECT count(*) FROM pg_replication_slots WHERE temporary";
        Ok(self.on(on).ask(count)?.parse()?)
    }

    /// Every point there is restores, starts, passes the server's checks, and its sums agree.
    fn conclude(&self) -> Result<()> {
        let mut points = Vec::new();
        for workload in WORKLOADS.iter().take(1 + usize::from(self.standby.is_some())) {
            let of = self.sites.ask(&["points", workload])?;
            points.extend(of.as_array().cloned().unwrap_or_default());
        }
        let made: usize = self.kills.values().map(|(count, _)| count).sum();
        if points.len() < made {
            bail!("{made} jobs made a point, and there are {} points", points.len());
        }
        let began = Instant::now();
        let made = points.len();
        for point in &points {
            let id = point["id"].as_str().context("a point without a name")?;
            if point["consistency"] != "application" || point["gaps"] != 0 {
                bail!("point {id} is {} with {} gaps", point["consistency"], point["gaps"]);
            }
            prove(&self.sites, id, &["--from", "a"])?;
        }
        let secondary = points
            .iter()
            .find(|point| crate::sites::copy_of(point, "secondary")["state"] == "present");
        let id = secondary.and_then(|point| point["id"].as_str()).context("no copy at site b")?;
        prove(&self.sites, id, &["--from", "b"])?;
        println!("\n{:<14} {:>6} {:>22}", "killed", "times", "longest to its point");
        for (victim, (count, longest)) in &self.kills {
            let name = format!("{victim:?}").to_lowercase();
            println!("{name:<14} {count:>6} {:>20.1} s", longest.as_secs_f64());
        }
        println!("{} of them while the server had the backup under way", self.hit);
        println!(
            "{made} points proven from the primary and one from the other site in {:.0} s:",
            began.elapsed().as_secs_f64()
        );
        println!("started, recovered, pg_amcheck, pg_checksums, sums of pgbench equal");
        println!("{made} passed, 0 failed");
        Ok(())
    }
}

fn prove(sites: &Sites, point: &str, how: &[&str]) -> Result<Value> {
    let words = [&["postgres", "prove", point, "--query", SUMS][..], how].concat();
    let proof = sites.json(&words)?;
    let checks = proof["checks"].as_array().cloned().unwrap_or_default();
    let agrees = checks.iter().any(|check| check["said"] == "t");
    let passed = checks.iter().all(|check| check["passed"] == true);
    if !agrees || !passed {
        bail!("point {point} is not proven: {proof}");
    }
    Ok(proof)
}

/// A child of a process.
fn below(pid: u32) -> Option<u32> {
    let mut pids = fs::read_dir("/proc").ok()?.flatten();
    pids.find_map(|entry| {
        let child: u32 = entry.file_name().to_str()?.parse().ok()?;
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        status.lines().any(|line| line == format!("PPid:\t{pid}")).then_some(child)
    })
}

fn signal(pid: u32, name: &str) -> Result<()> {
    let mut kill = std::process::Command::new("kill");
    // Not there any more is as good as killed.
    kill.args(["-s", name, &pid.to_string()]).stderr(Stdio::null()).status()?;
    Ok(())
}
