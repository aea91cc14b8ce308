//! The whole product in one run, on real parts: a machine under write load is quiesced, kept,
//! replicated, mounted and looked into at the other site, and put on cartridges of a SCSI library;
//! its site is destroyed; the machine boots at the other site, which two persons let lead; a file
//! comes back from tape alone; and the first site is built anew and gets everything back.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::mount::Mounted;
use crate::packages::{self, kernel};
use crate::parts::must;
use crate::sites::{Role, Sites, Way, copy_of};
use crate::stage::Stage;
use crate::tape::scsi_kit::Tgt;
use crate::vm::guest::Guest;
use crate::vm::{CHECKS, WORKLOAD, policy};

const LATEST: &str = "latest:lab-vm@host1";
/// The disk, and in it the database that the guest writes to.
const DISK: &str = "disks/vda.raw";
const DATABASE: &str = "db";
/// Two who may order together, beside the one who made the sites.
const PERSONS: [&str; 2] = ["second", "third"];
/// A cartridge holds the disk several times over.
const TAPE_MIB: u32 = 1024;

/// What it may be told.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    stage: Stage,
}

/// The chain of the build that the tests are of.
pub(crate) fn slice() -> Result<()> {
    run(&Arguments { stage: Stage::dev() })
}

/// Links of the chain, in order; each fails by itself with what it was.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    packages::ensure()?;
    let exe = arguments.stage.exe()?;
    let place = arguments.stage.place()?;
    let dir = place.path();
    let tgt = Tgt::start(2, TAPE_MIB);
    let sites = Sites::raise(&exe, &dir.join("sites"), dir, Way::Direct)?;
    let mut chain = Chain { sites, dir: dir.to_owned(), tape: tgt.text(), point: String::new() };
    crate::tape::take_library(&mut chain.sites, &chain.tape)?;
    let guest = Guest::start(&dir.join("machine"), &kernel::dir())?;
    told("a machine is quiesced and kept", || chain.keep(&guest))?;
    told("replicated, and proven by reading", || chain.replicate())?;
    told("mounted at the proxy", || chain.mount())?;
    told("one file out of its disk, from the secondary", || {
        chain.file("secondary", &["--from", "b"])
    })?;
    told("on cartridges of a SCSI library, read back", || chain.aux())?;
    told("site a destroyed", || chain.destroy(guest))?;
    told("the machine boots at site b", || chain.boot())?;
    told("two persons let site b lead", || chain.take_over())?;
    told("that file from tape alone", || chain.tape_alone())?;
    told("site a built anew, everything given back", || chain.give_back())?;
    println!("all of the chain held");
    Ok(())
}

fn told(what: &str, link: impl FnOnce() -> Result<String>) -> Result<()> {
    let began = Instant::now();
    let said = link().with_context(|| what.to_owned())?;
    println!("{:>7.1} s  {what}: {said}", began.elapsed().as_secs_f64());
    Ok(())
}

struct Chain {
    sites: Sites,
    dir: PathBuf,
    tape: String,
    point: String,
}

impl Chain {
    fn keep(&mut self, guest: &Guest) -> Result<String> {
        let text = policy(guest)? + COPIES;
        self.sites.apply(&text)?;
        let job = self.sites.protect_one(WORKLOAD)?;
        self.sites.finished(&job)?;
        let row = self.newest("a")?;
        ensure!(row["consistency"] == "filesystem", "the point is {}", row["consistency"]);
        self.point = row["id"].as_str().context("no id")?.to_owned();
        Ok(format!("point {} is {}", self.point, row["consistency"]))
    }

    fn newest(&self, site: &str) -> Result<Value> {
        let points = self.sites.json(&["--site", site, "points", WORKLOAD])?;
        points.as_array().and_then(|rows| rows.first()).cloned().context("there is no point")
    }

    /// Waits for a copy with that proof.
    fn copied(&mut self, copy: &str, proof: &str) -> Result<()> {
        self.sites.wait(copy, |sites| {
            let points = sites.ask(&["points", WORKLOAD])?;
            let first = points.as_array().and_then(|rows| rows.first()).cloned();
            let row = copy_of(&first.unwrap_or_default(), copy);
            Ok(row["state"] == "present" && row["proof"] == proof)
        })
    }

    fn replicate(&mut self) -> Result<String> {
        self.copied("secondary", "readable")?;
        Ok("every page and chunk was read at site b".to_owned())
    }

    fn mount(&self) -> Result<String> {
        let at = self.dir.join("mounted");
        fs::create_dir_all(&at)?;
        let mounted = Mounted::make_of(&self.sites, LATEST, "b", &at)?;
        let disk = at.join(DISK);
        let bytes = fs::metadata(&disk)?.len();
        let mut magic = [0; 2];
        std::os::unix::fs::FileExt::read_exact_at(&fs::File::open(&disk)?, &mut magic, 0x438)?;
        ensure!(magic == [0x53, 0xef], "no ext4 lies on the disk: {magic:02x?}");
        mounted.end()?;
        Ok(format!("the disk of {} MiB holds its ext4", bytes >> 20))
    }

    /// The database out of the image, whole by its own check.
    fn file(&self, name: &str, from: &[&str]) -> Result<String> {
        let to = self.dir.join(name);
        let inside = format!("{}:{DISK}//p1/{DATABASE}", self.point);
        let place = to.display().to_string();
        self.sites.text(&[&["restore", &inside, "--to", &place][..], from].concat())?;
        let file = to.join(DATABASE);
        // With its log beside it the database is what it was when the guest was frozen.
        let log = format!("{}:{DISK}//p1/{DATABASE}-wal", self.point);
        match self.sites.text(&[&["restore", &log, "--to", &place][..], from].concat()) {
            // Between two transactions there is none.
            Err(error) if error.to_string().contains("-wal\n") => {}
            done => drop(done?),
        }
        let checked = said(
            Command::new("sqlite3")
                .arg(&file)
                .arg("pragma integrity_check; select count(*) = max(n), count(*) from t"),
        )?;
        Ok(checked.replace('\n', ", "))
    }

    fn aux(&mut self) -> Result<String> {
        self.copied("tape", "hash-verified")?;
        Ok(self.tape.clone())
    }

    /// Nodes, agent and machine of site a, and all they had.
    fn destroy(&mut self, guest: Guest) -> Result<String> {
        drop(guest);
        for role in [Role::Agent, Role::Coordinator] {
            self.sites.kill(role)?;
        }
        for gone in [self.dir.join("sites/a"), self.dir.join("machine")] {
            // The authority of the site is in its plan for the worst day, kept elsewhere.
            if gone.ends_with("a") {
                fs::rename(&gone, self.dir.join("kept-apart"))?;
            } else {
                fs::remove_dir_all(&gone)?;
            }
        }
        let row = self.newest("b")?;
        ensure!(row["id"] == self.point.as_str(), "site b knows {}", row["id"]);
        Ok("site b lists the point".to_owned())
    }

    fn boot(&self) -> Result<String> {
        let kernel = kernel::dir();
        let kernel = kernel.to_string_lossy();
        let place = self.dir.join("boot").display().to_string();
        let lab = ["--from", "b", "--lab-kernel", &kernel, "--lab-program", "sqlite3"];
        let checks = CHECKS.iter().flat_map(|check| ["--check", check]);
        let words: Vec<&str> = lab.into_iter().chain(checks).collect();
        let order = [&["--json", "vm", "boot", &self.point, "--dir", &place][..], &words].concat();
        let booted = crate::export::Speaking::begin(&self.sites, &order)?;
        ensure!(booted.said["proved"] == true, "the guest failed: {}", booted.said);
        Ok(format!("answered {} s after the order", booted.said["booted_seconds"]))
    }

    /// One alone is refused; two are heard.
    fn take_over(&mut self) -> Result<String> {
        for person in PERSONS {
            let token = self.sites.json(&["--site", "b", "token", "create", "operator", person])?;
            let token = token["text"].as_str().context("no token was printed")?.to_owned();
            self.sites.text(&["enrol", &self.home(person), &token])?;
        }
        self.both("takeover", "site a burnt down")?;
        self.sites.wait("site b to lead", |sites| {
            let status = sites.text(&["--site", "b", "status"]).unwrap_or_default();
            Ok(status.contains("site b leads"))
        })?;
        Ok("one alone was refused".to_owned())
    }

    fn home(&self, person: &str) -> String {
        self.dir.join(person).display().to_string()
    }

    fn person(&self, which: usize, words: &[&str]) -> Result<String> {
        let home = self.home(PERSONS.get(which).context("two persons")?);
        let site = [&["--site", "b"][..], words].concat();
        said(&mut self.sites.command_as(Path::new(&home), &site))
    }

    /// No node runs; there are a library and the recovery key.
    fn tape_alone(&mut self) -> Result<String> {
        self.sites.kill(Role::Proxy)?;
        let tape = self.tape.clone();
        let found = self.file("tape", &["--media", &tape])?;
        self.same("tape")?;
        self.sites.start(Role::Proxy)?;
        Ok(found)
    }

    /// A new home of the coordinator with an empty repository of the same vault.
    fn give_back(&mut self) -> Result<String> {
        let (old, home) = (self.dir.join("kept-apart"), self.dir.join("sites/a"));
        fs::create_dir_all(&home)?;
        copy(&old.join("coordinator"), &home.join("coordinator"))?;
        let repo = self.sites.repo(Role::Coordinator);
        let empty = ["repo", "catalog.db", "catalog.db-wal", "catalog.db-shm", "audit.log"];
        for name in empty {
            let path = home.join("coordinator").join(name);
            let _ = fs::remove_file(&path);
            let _ = fs::remove_dir_all(&path);
        }
        fs::create_dir_all(&repo)?;
        for name in ["config", "keys"] {
            fs::copy(self.sites.repo(Role::Proxy).join(name), repo.join(name))?;
        }
        self.sites.start(Role::Coordinator)?;
        self.sites.wait("site a", |sites| Ok(sites.ask(&["status"]).is_ok()))?;
        let token = self.sites.ask(&["token", "create", "proxy", "proxy"])?;
        let token = token["text"].as_str().context("no token was printed")?.to_owned();
        let proxy = self.sites.home(Role::Proxy).display().to_string();
        self.sites.text(&["enrol", &proxy, &token])?;
        self.sites.wait("everything at site a", |sites| {
            let shown = sites.text(&["--site", "b", "takeover", "show"]).unwrap_or_default();
            Ok(shown.contains(" 0 are lacking"))
        })?;
        self.both("giveback", "site a is rebuilt")?;
        self.sites.wait("site a to lead", |sites| {
            Ok(sites.text(&["--site", "a", "status"]).unwrap_or_default().contains("site a leads"))
        })?;
        let found = self.file("returned", &["--from", "a"])?;
        self.same("returned")?;
        Ok(found)
    }

    /// An order of two persons; one alone is refused.
    fn both(&self, order: &str, reason: &str) -> Result<()> {
        let proposed = self.person(0, &["--json", order, "propose", "--reason", reason])?;
        let proposed: Value = serde_json::from_str(&proposed)?;
        let id = proposed["id"].as_str().with_context(|| format!("no proposal: {proposed}"))?;
        if self.person(0, &[order, "confirm", id]).is_ok() {
            bail!("one person alone was obeyed");
        }
        self.person(1, &[order, "confirm", id]).map(drop)
    }

    /// The database is byte for byte the one that came from the secondary.
    fn same(&self, name: &str) -> Result<()> {
        let read = |name: &str| fs::read(self.dir.join(name).join(DATABASE));
        ensure!(read(name)? == read("secondary")?, "the file of {name} is another");
        Ok(())
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    must(Command::new("cp").arg("-a").arg(from).arg(to))
}

/// What a command says; it must succeed.
fn said(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let refused = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} {text}", refused.trim());
    Ok(text)
}

/// What is added to the policy of machines.
const COPIES: &str = r#"
[policy.standard.copy.secondary]
kind = "secondary-snap"
from = "primary"
node = "proxy"
keep = { newest = 1000 }
[policy.standard.copy.tape]
kind = "aux"
from = "secondary"
media_set = "weekly"
min_proof = "readable"
keep = { newest = 1000 }
"#;
