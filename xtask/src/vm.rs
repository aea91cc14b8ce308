//! The campaign of virtual machines: a real guest with a database under write load, protected
//! again and again by real processes; every point boots and its database is checked. Then the
//! agent is killed while the guest is frozen: the guest must write again within ten seconds.

pub(crate) mod guest;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::packages::kernel;
use crate::parts::must;
use crate::random::Random;
use crate::sites::{Profile, Role, Sites, Way};
use guest::Guest;

pub(crate) const WORKLOAD: &str = "lab-vm@host1";
/// A guest that does not write for so long is held up.
const WRITES_WITHIN: Duration = Duration::from_secs(10);
/// A freeze is looked for this long after a protect was ordered.
const FREEZE_PATIENCE: Duration = Duration::from_secs(60);
/// Bytes sent may be so many hundredths of those written.
const HUNDREDTHS_MAX: u64 = 120;
/// Kills are spread over so much of the freeze, in ms.
const SPREAD_MS: u64 = 80;
/// What must hold in a guest that was restored.
pub(crate) const CHECKS: [&str; 2] = [
    "[ \"$(sqlite3 /mnt/vda/db 'pragma integrity_check')\" = ok ]",
    "[ \"$(sqlite3 /mnt/vda/db 'select count(*) = max(n) from t')\" = 1 ]",
];

/// What the campaign may be told.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Points, each booted and checked
    #[arg(long, default_value_t = 20)]
    points: usize,
    /// Seconds between points
    #[arg(long, default_value_t = 60)]
    every: u64,
    /// Kills of the agent while the guest is frozen
    #[arg(long, default_value_t = 50)]
    kills: usize,
    /// Where the sites are made; a temporary directory if not told
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

/// The bounded slice of it that every checkout passes.
pub(crate) fn slice() -> Result<()> {
    run(&Arguments {
        points: 2,
        every: 1,
        kills: 3,
        dir: None,
        seed: 1,
        exe: None,
        profile: Profile::Dev,
    })?;
    // The same as people see it, with two sites and media.
    let mut story = Command::new(Profile::Dev.build()?);
    story.args(["try", "--workload", "vm", "--kernel"]).arg(kernel::dir());
    let temporary = tempfile::tempdir()?;
    must(story.arg("--dir").arg(temporary.path().join("try")))
}

/// The campaign.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let exe = arguments.exe.clone().map_or_else(|| arguments.profile.build(), Ok)?;
    let temporary = tempfile::tempdir()?;
    let dir = arguments.dir.as_deref().unwrap_or_else(|| temporary.path()).join("vm");
    ensure!(!dir.exists(), "{} is there already", dir.display());
    let guest = Guest::start(&dir.join("machine"), &kernel::dir())?;
    let source = dir.join("source");
    std::fs::create_dir_all(&source)?;
    let sites = Sites::raise(&exe, &dir, &source, Way::Direct)?;
    sites.apply(&policy(&guest)?)?;
    let mut campaign = Campaign { sites, guest, random: Random::new(arguments.seed) };
    for number in 0..arguments.points {
        std::thread::sleep(Duration::from_secs(arguments.every));
        campaign.point(number).with_context(|| format!("point {number}"))?;
    }
    campaign.formats().context("restoring in both formats")?;
    let mut worst = Duration::ZERO;
    let (mut hit, mut tried) = (0, 0);
    while hit < arguments.kills {
        tried += 1;
        ensure!(tried <= arguments.kills * 4 + 10, "the freeze was hit {hit} times of {tried}");
        if let Some(took) = campaign.kill().with_context(|| format!("kill {tried}"))? {
            hit += 1;
            worst = worst.max(took);
            println!("    kill {hit}: the guest wrote again after {} ms", took.as_millis());
        }
    }
    campaign.prove().context("the point after the kills")?;
    println!(
        "{} points booted and their database checked; {hit} kills while frozen ({tried} tried), \
         the guest wrote again after at most {} ms",
        arguments.points,
        worst.as_millis()
    );
    Ok(())
}

struct Campaign {
    sites: Sites,
    guest: Guest,
    random: Random,
}

impl Campaign {
    /// A point, proven.
    fn point(&mut self, number: usize) -> Result<()> {
        let began = Instant::now();
        let job = self.sites.protect_one(WORKLOAD)?;
        self.sites.finished(&job)?;
        let took = began.elapsed();
        let point = self.latest()?;
        ensure!(point["consistency"] == "filesystem", "it claims {}", point["consistency"]);
        let id = point["id"].as_str().context("a point without an id")?;
        let description = self.sites.text(&["dump", &format!("{id}:strongroom.json")])?;
        let description: Value = serde_json::from_str(&description)?;
        let disk = &description["disks"][0];
        let wanted = if number == 0 { "whole" } else { "changed" };
        ensure!(disk["read"] == wanted, "read {}: {}", disk["read"], disk["whole_because"]);
        let changed = disk["changed_bytes"].as_u64().unwrap_or_default();
        let fetched = disk["read_bytes"].as_u64().unwrap_or_default();
        ensure!(number == 0 || fetched * 100 <= changed * HUNDREDTHS_MAX, "{disk}");
        let seconds = self.prove()?;
        println!(
            "    point {number}: {:.1} s, frozen {} ms, read {fetched} of {changed} bytes \
             written; booted in {seconds:.1} s",
            took.as_secs_f64(),
            description["quiet"]["frozen_ms"],
        );
        Ok(())
    }

    fn latest(&self) -> Result<Value> {
        let points = self.sites.ask(&["points", WORKLOAD])?;
        points.as_array().and_then(|points| points.first()).cloned().context("there is no point")
    }

    /// Boots the newest point and asks its database; how long the guest took.
    fn prove(&self) -> Result<f64> {
        let (latest, kernel) = (format!("latest:{WORKLOAD}"), kernel::dir());
        let kernel = kernel.to_string_lossy();
        let mut words = vec!["vm", "prove", &latest, "--from", "a", "--lab-kernel", &kernel];
        words.extend(["--lab-program", "sqlite3"]);
        for check in CHECKS {
            words.extend(["--check", check]);
        }
        let proved = self.sites.json(&words)?;
        proved["booted_seconds"].as_f64().context("it was not said how long the boot took")
    }

    /// Kills the agent while the guest is frozen; how long until the guest wrote again, or
    /// nothing where the freeze was over by then.
    fn kill(&mut self) -> Result<Option<Duration>> {
        let job = self.sites.protect_one(WORKLOAD)?;
        let note = self.frozen()?;
        std::thread::sleep(Duration::from_millis(self.random.below(SPREAD_MS)));
        let frozen = note.exists();
        let before = self.guest.ticks()?;
        self.sites.kill(Role::Agent)?;
        let began = Instant::now();
        while self.guest.ticks()? < before + 2 {
            if began.elapsed() > WRITES_WITHIN {
                bail!("the guest did not write for {} s", WRITES_WITHIN.as_secs());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let took = began.elapsed();
        self.sites.start(Role::Agent)?;
        self.sites.finished(&job)?;
        self.clean()?;
        Ok(frozen.then_some(took))
    }

    /// Nothing of a killed run is left: scratch images go last, after what uses them.
    fn clean(&self) -> Result<()> {
        let scratch = self.sites.home(Role::Agent).join("cache/scratch");
        let listing = std::fs::read_dir(&scratch).with_context(|| scratch.display().to_string())?;
        let left: Vec<_> = listing.flatten().map(|entry| entry.file_name()).collect();
        ensure!(left.is_empty(), "{left:?} are left in {}", scratch.display());
        Ok(())
    }

    /// Restores the newest point in both formats; they must say the same.
    fn formats(&self) -> Result<()> {
        let latest = format!("latest:{WORKLOAD}");
        let place = |name: &str| self.sites.dir.join("restored").join(name);
        for format in ["raw", "qcow2"] {
            let to = place(format).to_string_lossy().into_owned();
            let words = ["vm", "restore", &latest, "--from", "a", "--to", &to];
            let more = ["--disk", "vda", "--format", format];
            self.sites.text(&[&words[..], &more[..]].concat())?;
        }
        let (raw, qcow2) = (place("raw/disks/vda.raw"), place("qcow2/disks/vda.qcow2"));
        let mut compare = Command::new("qemu-img");
        compare.args(["compare", "-f", "raw", "-F", "qcow2"]).args([&raw, &qcow2]);
        must(compare.stdout(Stdio::null()))?;
        let more = place("qcow2/disks/vda.raw");
        ensure!(!more.exists(), "{} was left beside the other format", more.display());
        let wrong = ["vm", "restore", &latest, "--from", "a", "--disk", "none", "--to"];
        let to = place("none").to_string_lossy().into_owned();
        let refused = self.sites.command(&[&wrong[..], &[&to]].concat()).output()?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(!refused.status.success() && said.contains("has no disk none"), "{said}");
        Ok(())
    }

    /// Waits until the freeze is noted; the note.
    fn frozen(&self) -> Result<PathBuf> {
        let home = self.sites.home(Role::Agent).canonicalize()?;
        let mark = blake3::hash(home.as_os_str().as_encoded_bytes()).to_hex();
        let place = PathBuf::from("/run/strongroom").join(mark.get(..12).unwrap_or_default());
        let until = Instant::now() + FREEZE_PATIENCE;
        loop {
            let listing = std::fs::read_dir(&place).into_iter().flatten().flatten();
            let mut notes = listing.map(|entry| entry.path());
            if let Some(note) = notes.find(|path| path.extension().is_some_and(|e| e == "freeze")) {
                return Ok(note);
            }
            ensure!(Instant::now() < until, "no freeze was noted in {}", place.display());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

pub(crate) fn policy(guest: &Guest) -> Result<String> {
    let text = |path: PathBuf| path.to_str().map(str::to_owned).context("a path TOML cannot hold");
    Ok(format!(
        r#"[policy.standard]
timezone = "Europe/London"
require = "crash"
[policy.standard.primary]
keep = {{ newest = 1000 }}
[workload."{WORKLOAD}"]
agent = "host1"
kind = "vm"
machine = "lab"
qmp = "{}"
guest_agent = "{}"
policy = "standard"
"#,
        text(guest.qmp())?,
        text(guest.guest_agent())?,
    ))
}
