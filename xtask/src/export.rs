//! What an export costs: an image read through NBD as a ratio to reading the same bytes from the
//! local file system, and the seconds from the order to a machine that answers from its point.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::bench::median;
use crate::kill::{mib, parse_bytes};
use crate::packages::{self, kernel};
use crate::parts::must;
use crate::sites::{Sites, Way};
use crate::stage::Stage;
use crate::vm::guest::Guest;
use crate::vm::{CHECKS, WORKLOAD, policy};

/// Pieces in which the image is made, in bytes.
const PIECE_BYTES: usize = 1 << 20;
/// How long a machine may write before it is protected.
const WRITING: Duration = Duration::from_secs(5);
/// What the measurement may be told.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Bytes of the image
    #[arg(long, default_value = "1GiB", value_parser = parse_bytes)]
    image: u64,
    /// How often each is measured; the median is told
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Leave the machine out
    #[arg(long)]
    no_boot: bool,
    #[command(flatten)]
    stage: Stage,
}

/// Measures both.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    packages::ensure_machines()?;
    ensure!(arguments.rounds > 0, "no round is nothing to measure");
    let exe = arguments.stage.exe()?;
    let place = arguments.stage.place()?;
    let dir = place.path();
    let tree = dir.join("tree");
    std::fs::create_dir_all(&tree)?;
    let image = tree.join("disk.raw");
    make(&image, arguments.image)?;
    let mut sites = Sites::raise(&exe, &dir.join("sites"), &tree, Way::Direct)?;
    let began = Instant::now();
    let job = sites.protect()?;
    sites.finished(&job)?;
    println!("{} protected in {:.1} s", mib(arguments.image), began.elapsed().as_secs_f64());
    reads(arguments, &sites, &image, &dir.join("s"))?;
    if !arguments.no_boot {
        boots(arguments, &mut sites, dir)?;
    }
    Ok(())
}

/// An image of which no two blocks are alike, and nothing compresses.
fn make(path: &Path, bytes: u64) -> Result<()> {
    let mut file = std::fs::File::create(path)?;
    let mut piece = vec![0; PIECE_BYTES];
    for number in 0..bytes.div_ceil(PIECE_BYTES as u64) {
        blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut piece);
        file.write_all(&piece)?;
    }
    file.set_len(bytes)?;
    Ok(file.sync_all()?)
}

/// The local file and the export in turns, and how the one compares with the other.
fn reads(arguments: &Arguments, sites: &Sites, image: &Path, socket: &Path) -> Result<()> {
    let (mut here, mut there, mut converted) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        let local = format!("if={}", image.display());
        here.push(timed(Command::new("dd").args([&local, "of=/dev/null", "bs=1M"]))?);
        // Each client has a server of its own, that has nothing at hand yet.
        let export = Export::begin(sites, socket)?;
        there.push(timed(Command::new("nbdcopy").args([&export.uri, "null:"]))?);
        drop(export);
        let export = Export::begin(sites, socket)?;
        let nowhere = format!("driver=null-co,size={}", arguments.image);
        let mut convert = Command::new("qemu-img");
        convert.args(["convert", "-n", "-f", "raw", "--target-image-opts"]);
        converted.push(timed(convert.args([&export.uri, &nowhere]))?);
    }
    let rate = |seconds: f64| arguments.image as f64 / seconds / 1e6;
    let (here, there, converted) = (median(here), median(there), median(converted));
    println!(
        "local file {:.0} MB/s; through NBD by nbdcopy {:.0} MB/s ({:.3} of it), by qemu-img \
         {:.0} MB/s ({:.3})",
        rate(here),
        rate(there),
        here / there,
        rate(converted),
        here / converted
    );
    Ok(())
}

/// Seconds a command takes.
fn timed(command: &mut Command) -> Result<f64> {
    let began = Instant::now();
    must(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
    Ok(began.elapsed().as_secs_f64())
}

/// A machine that writes is protected and ended; its point boots, and is restored and booted.
fn boots(arguments: &Arguments, sites: &mut Sites, dir: &Path) -> Result<()> {
    let guest = Guest::start(&dir.join("machine"), &kernel::dir())?;
    sites.apply(&policy(&guest)?)?;
    std::thread::sleep(WRITING);
    let job = sites.protect_one(WORKLOAD)?;
    sites.finished(&job)?;
    drop(guest);
    let (latest, kernel) = (format!("latest:{WORKLOAD}"), kernel::dir());
    let kernel = kernel.to_string_lossy();
    let lab = ["--from", "a", "--lab-kernel", &kernel, "--lab-program", "sqlite3"];
    let checks = CHECKS.iter().flat_map(|check| ["--check", check]);
    let words: Vec<&str> = lab.into_iter().chain(checks).collect();
    let (mut straight, mut restored) = (Vec::new(), Vec::new());
    let mut read = 0;
    for _ in 0..arguments.rounds {
        let place = dir.join("boot").to_string_lossy().into_owned();
        let order = ["--json", "vm", "boot", &latest, "--dir", &place];
        let booted = Speaking::begin(sites, &[&order[..], &words[..]].concat())?;
        ensure!(
            booted.said["proved"] == true,
            "the guest failed what it was asked: {}",
            booted.said
        );
        straight.push(booted.said["booted_seconds"].as_f64().context("no seconds were told")?);
        read = booted.said["read_bytes"].as_u64().unwrap_or_default();
        drop(booted);
        let began = Instant::now();
        sites.json(&[&["vm", "prove", &latest][..], &words].concat())?;
        restored.push(began.elapsed().as_secs_f64());
    }
    println!(
        "from the order to the guest's answer: {:.1} s straight from the point ({} read of it), \
         {:.1} s where it is restored first",
        median(straight),
        mib(read),
        median(restored)
    );
    Ok(())
}

/// A command that speaks once it has begun, and goes on until it is told to end.
pub(crate) struct Speaking {
    child: Child,
    pub(crate) said: Value,
}

impl Speaking {
    pub(crate) fn begin(sites: &Sites, words: &[&str]) -> Result<Self> {
        let mut command = sites.command(words);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut speaking = Self { child, said: Value::Null };
        let out = speaking.child.stdout.take().context("no standard output")?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        speaking.said = serde_json::from_str(&line).context("the command ended early")?;
        Ok(speaking)
    }
}

impl Drop for Speaking {
    fn drop(&mut self) {
        // In order, so that nothing is left of it.
        let told = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        if !told.is_ok_and(|status| status.success()) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// The image served at a socket.
struct Export {
    uri: String,
    _serving: Speaking,
}

impl Export {
    fn begin(sites: &Sites, socket: &Path) -> Result<Self> {
        let place = format!("unix:{}", socket.display());
        let words = ["--json", "export", "latest:tree@host1", "--path", "disk.raw"];
        let serving = Speaking::begin(sites, &[&words[..], &["--listen", &place]].concat())?;
        let uri = serving.said["exports"][0]["uri"].as_str().context("no export was told")?;
        Ok(Self { uri: uri.to_owned(), _serving: serving })
    }
}
