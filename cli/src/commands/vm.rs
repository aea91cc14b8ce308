//! `vm`: a point of a virtual machine made a machine again: its disks in a format of choice, and
//! the proof that it boots and that its guest answers.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use strongroom_agent::vmlab::{
    Boot, Kernel, LabDisk, MEMORY_MIB, Machine, Setup, Writes, convert, shell,
};
use strongroom_agent::workload::vm::{DESCRIPTION, DISKS};
use strongroom_protocol::admin::PointRef;
use strongroom_protocol::control::Shown;
use strongroom_protocol::{Chain, PointId};

use crate::commands::restore::{CopyArgs, Overwrite, RestoreArgs, copy_site};
use crate::failure::{Ending, Failure, While};
use crate::operator::Contact;
use crate::point_at::{PointAt, point};
use crate::proving::{RecordArgs, Tried, tell, unrecorded};
use crate::restoring::find;
use crate::scene::resolve;
use crate::session::{Session, blocking};
use crate::shelf::Shelf;

/// Restore virtual machines, and prove that they boot
#[derive(Args, Debug)]
pub(crate) struct VmArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    Restore(VmRestoreArgs),
    Prove(VmProveArgs),
}

/// Restore the disks and the configuration of a machine into a directory
#[derive(Args, Debug)]
struct VmRestoreArgs {
    /// A point: an id, its last 8 digits, or latest:WORKLOAD
    #[arg(value_name = "POINT", value_parser = point())]
    point: PointRef,
    /// The directory of this host to restore into
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Only this disk; may be repeated
    #[arg(long, value_name = "NAME")]
    disk: Vec<String>,
    /// The format of the images
    #[arg(long, value_enum, default_value_t = ImageFormat::Raw)]
    format: ImageFormat,
    #[command(flatten)]
    copy: CopyArgs,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum ImageFormat {
    Qcow2,
    Raw,
}

/// Restore a machine, boot it without a network, and wait until its guest answers
#[derive(Args, Debug)]
struct VmProveArgs {
    /// A point: an id, its last 8 digits, or latest:WORKLOAD
    #[arg(value_name = "POINT", value_parser = point())]
    point: PointRef,
    #[command(flatten)]
    record: RecordArgs,
    /// Where to restore it meanwhile; a temporary directory otherwise
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// A shell command in the guest that must succeed; may be repeated
    #[arg(long, value_name = "COMMAND")]
    check: Vec<String>,
    /// Boot this kernel instead of what is on the disks
    #[arg(long, value_name = "FILE", requires = "boot_initrd")]
    boot_kernel: Option<PathBuf>,
    /// With --boot-kernel: its file system in memory
    #[arg(long, value_name = "FILE")]
    boot_initrd: Option<PathBuf>,
    /// With --boot-kernel: the words of its command line
    #[arg(long, value_name = "WORDS", default_value = "")]
    boot_append: String,
    /// Boot a guest of the lab beside the disks, from a Debian kernel unpacked here
    #[arg(long, value_name = "DIR", conflicts_with = "boot_kernel")]
    lab_kernel: Option<PathBuf>,
    /// With --lab-kernel: a program of this host that the guest has too; may be repeated
    #[arg(long, value_name = "NAME", requires = "lab_kernel")]
    lab_program: Vec<String>,
    /// How long the guest may take to answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    patience: u64,
    #[command(flatten)]
    copy: CopyArgs,
}

impl VmArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        match self.action {
            Action::Restore(args) => args.run(session).await,
            Action::Prove(args) => args.run(session).await,
        }
    }
}

fn restore(copy: CopyArgs, point: PointRef, to: &Path, select: Vec<String>) -> RestoreArgs {
    RestoreArgs {
        at: PointAt { point, path: Vec::new() },
        to: Some(to.to_owned()),
        select,
        copy,
        overwrite: Overwrite::IfDifferent,
        on: None,
    }
}

impl VmRestoreArgs {
    async fn run(self, session: &Session) -> Result<Ending, Failure> {
        let mut select: Vec<String> =
            self.disk.iter().map(|name| format!("/{DISKS}/{name}.raw")).collect();
        if !select.is_empty() {
            select.push(format!("/{DESCRIPTION}"));
        }
        let restore = restore(self.copy, self.point, &self.to, select);
        let ending = restore.run(session).await?;
        let (to, wanted, format) = (self.to, self.disk, self.format);
        blocking(move || {
            let known = described(&to)?;
            if let Some(name) = wanted.iter().find(|name| !known.iter().any(|d| d.name == **name)) {
                let all: Vec<&str> = known.iter().map(|disk| disk.name.as_str()).collect();
                return Err(Failure::new(format!("the machine has no disk {name}"))
                    .hint(format!("it has {}", all.join(", "))));
            }
            if format == ImageFormat::Qcow2 {
                let here = known.iter().filter(|disk| disk.path.exists());
                here.map(|disk| &disk.path).try_for_each(|path| {
                    convert((path, "raw"), (&path.with_extension("qcow2"), "qcow2"))?;
                    std::fs::remove_file(path).doing(format!("{}", path.display()))
                })?;
            }
            Ok(ending)
        })
        .await
    }
}

/// The disks of a machine that was restored into `dir`.
fn described(dir: &Path) -> Result<Vec<LabDisk>, Failure> {
    let about = description(dir)?;
    let disks = about["disks"].as_array().cloned().unwrap_or_default();
    let disk = |told: Value| {
        let name = told["name"].as_str()?.to_owned();
        let path = dir.join(DISKS).join(format!("{name}.raw"));
        Some(LabDisk { path, format: "raw".to_owned(), name })
    };
    Ok(disks.into_iter().filter_map(disk).collect())
}

fn description(dir: &Path) -> Result<Value, Failure> {
    let path = dir.join(DESCRIPTION);
    let wrong = || Failure::new("that is no point of a virtual machine");
    let text =
        std::fs::read(&path).map_err(|_| wrong().hint("`strongroom restore` restores it"))?;
    let about: Value = serde_json::from_slice(&text).map_err(|_| wrong())?;
    match about["kind"] == "vm" {
        true => Ok(about),
        false => Err(wrong()),
    }
}

impl VmProveArgs {
    async fn run(self, session: &Session) -> Result<Ending, Failure> {
        let temporary = tempfile::tempdir()?;
        let to = self.to.clone().unwrap_or_else(|| temporary.path().join("restored"));
        let quiet = Session {
            home: session.home.clone(),
            site: session.site.clone(),
            out: session.out.without_answers(),
            clock: session.clock.clone(),
        };
        let meant = meant(session, &self).await?;
        let began = Instant::now();
        let exactly = meant.as_ref().map(|(_, point)| PointRef::Id(point.to_string()));
        let restore = restore(self.copy, exactly.unwrap_or(self.point), &to, Vec::new());
        if restore.run(&quiet).await? != Ending::Done {
            return Err(Failure::new("the machine was not restored whole, and is not booted"));
        }
        let restored = began.elapsed();
        let boot = match (self.boot_kernel, self.boot_initrd, self.lab_kernel) {
            (Some(image), Some(initrd), _) => {
                Booting::Kernel { image, initrd, words: self.boot_append }
            }
            (_, _, Some(dir)) => Booting::Lab(dir, self.lab_program),
            _ => Booting::Disk,
        };
        let (checks, patience) = (self.check, Duration::from_secs(self.patience));
        let place = temporary.path().join("machine");
        let proved = blocking(move || prove(&to, &place, boot, &checks, patience)).await?;
        drop(temporary);
        session.out.either(&proved, |_| told(&proved))?;
        let recorded = match meant {
            Some((reader, point)) => {
                let tried = tried(&proved, point, restored);
                tell(session, reader.as_ref(), self.record, tried).await
            }
            None => unrecorded(session),
        };
        match (proved["proved"] == true, proved["why"].as_str()) {
            (true, _) => Ok(recorded),
            (false, Some(_)) => Err(Failure::new("the machine did not answer")),
            (false, None) => {
                Err(Failure::new("the machine booted, and what its guest was asked failed"))
            }
        }
    }
}

/// Which point is meant, and the node it is read from; none where its proof is told to nobody.
async fn meant(
    session: &Session,
    args: &VmProveArgs,
) -> Result<Option<(Option<Contact>, PointId)>, Failure> {
    let Some(media) = args.copy.media.clone() else {
        let site = copy_site(session, args.copy.from.as_deref())?;
        let contact = session.contact_at(site.as_ref()).await?;
        let point = resolve(&contact, &args.point).await?;
        return Ok(Some((Some(contact), point)));
    };
    if args.record.record.is_none() {
        return Ok(None);
    }
    let (opener, point) = (args.copy.opener.opener()?, args.point.clone());
    let found = blocking(move || find(Shelf::open(&media)?.points(Some(&opener))?, &point)).await?;
    Ok(Some((None, found.point)))
}

/// What came of it, for the books.
fn tried(proved: &Value, point: PointId, restored: Duration) -> Tried {
    let booted = proved["booted_seconds"].as_f64().unwrap_or_default();
    let took = restored + Duration::from_secs_f64(booted);
    let checks = proved["checks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let failed = checks.iter().find(|check| check["code"] != 0);
    let (outcome, detail) = match (proved["why"].as_str(), failed) {
        (Some(why), _) => (Shown::Failed, why.to_owned()),
        (None, Some(check)) => {
            let words = |key: &str| check[key].as_str().unwrap_or_default().to_owned();
            (Shown::Failed, format!("{}: {}", words("command"), words("said")))
        }
        (None, None) => (Shown::Held, format!("booted, {} checks passed", checks.len())),
    };
    Tried { point, outcome, took, detail }
}

/// What boots.
enum Booting {
    Disk,
    Kernel { image: PathBuf, initrd: PathBuf, words: String },
    Lab(PathBuf, Vec<String>),
}

/// Boots what was restored into `dir`, and asks its guest; nothing of it is changed.
fn prove(
    dir: &Path,
    place: &Path,
    boot: Booting,
    checks: &[String],
    patience: Duration,
) -> Result<Value, Failure> {
    let about = description(dir)?;
    std::fs::create_dir_all(place)?;
    let boot = match boot {
        Booting::Disk => Boot::Disk,
        Booting::Kernel { image, initrd, words } => Boot::Kernel { image, initrd, words },
        Booting::Lab(kernel, programs) => {
            let kernel = Kernel::get(&kernel)?;
            let initrd = place.join("initrd");
            let programs: Vec<&str> = programs.iter().map(String::as_str).collect();
            kernel.initramfs(&initrd, &programs)?;
            Boot::Kernel { image: kernel.image, initrd, words: String::new() }
        }
    };
    let memory = about["machine"]["memory_bytes"].as_u64().unwrap_or_default() >> 20;
    let (disks, memory_mib) = (described(dir)?, memory.max(MEMORY_MIB));
    let began = Instant::now();
    let setup = Setup { disks, boot, writes: Writes::Thrown, memory_mib };
    let mut machine = Machine::start(place, &setup)?;
    let name = &about["machine"]["name"];
    if let Err(error) = machine.await_agent(patience) {
        let why = Chain(&error).to_string();
        return Ok(json!({ "machine": name, "checks": [], "proved": false, "why": why }));
    }
    let booted = began.elapsed();
    let mut asked = Vec::new();
    for check in checks {
        let (code, said) = shell(machine.await_agent(patience)?, check)?;
        asked.push(json!({ "command": check, "code": code, "said": said.trim_end() }));
    }
    let proved = asked.iter().all(|check| check["code"] == 0);
    Ok(json!({
        "machine": name, "taken_unix_ms": about["taken_unix_ms"],
        "reached": about["quiet"]["reached"], "booted_seconds": booted.as_secs_f64(),
        "checks": asked, "proved": proved,
    }))
}

fn told(proved: &Value) -> String {
    let seconds = proved["booted_seconds"].as_f64().unwrap_or_default();
    let name = proved["machine"].as_str().unwrap_or("the machine");
    if let Some(why) = proved["why"].as_str() {
        return format!("{name} did not answer: {why}\n");
    }
    let mut text = format!("{name} booted, and its guest answered after {seconds:.1} s\n");
    for check in proved["checks"].as_array().into_iter().flatten() {
        let command = check["command"].as_str().unwrap_or_default();
        let said = check["said"].as_str().unwrap_or_default();
        text.push_str(&match check["code"].as_i64() {
            Some(0) => format!("  passed: {command}\n"),
            code => format!("  FAILED ({}): {command}: {said}\n", code.unwrap_or(-1)),
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_points_of_machines_are_booted() {
        let dir = tempfile::tempdir().unwrap();
        let wrong = described(dir.path()).unwrap_err().to_string();
        assert!(wrong.contains("no point of a virtual machine"), "{wrong}");
        let path = dir.path().join(DESCRIPTION);
        std::fs::write(&path, r#"{"kind":"postgres"}"#).unwrap();
        assert!(described(dir.path()).is_err());
        std::fs::write(&path, r#"{"kind":"vm","disks":[{"name":"vda"},{"name":"vdb"}]}"#).unwrap();
        let disks = described(dir.path()).unwrap();
        assert_eq!(disks.len(), 2);
        assert_eq!(disks[1].path, dir.path().join("disks/vdb.raw"));
    }

    #[test]
    fn a_failed_check_and_a_silent_guest_are_told_from_one_that_answered() {
        let (point, second) = (PointId::from_bytes([1; 16]), Duration::from_secs(1));
        let check = |code: i64| json!({ "command": "fsck", "code": code, "said": "hurt" });
        for (proved, outcome, detail) in [
            (
                json!({ "booted_seconds": 2.0, "checks": [check(0)] }),
                Shown::Held,
                "booted, 1 checks passed",
            ),
            (
                json!({ "booted_seconds": 2.0, "checks": [check(0), check(1)] }),
                Shown::Failed,
                "fsck: hurt",
            ),
            (json!({ "checks": [], "why": "no answer" }), Shown::Failed, "no answer"),
        ] {
            let tried = tried(&proved, point, second);
            assert_eq!((tried.outcome, tried.detail.as_str()), (outcome, detail));
        }
    }
}
