//! A point of a million files as a file system: how soon the first listing is there, whether a
//! thousand files at random are right, how fast all names and one long file are read, beside the
//! file system they came from.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::bench::peak_bytes;
use crate::kill::mib;
use crate::random::Random;
use crate::scale::make;
use crate::sites::{Sites, WORKLOAD, Way};
use crate::stage::Stage;

/// From the order to the first listing.
const LISTING_GOAL: Duration = Duration::from_millis(100);
/// Mounts whose first listing is timed.
const MOUNTS: usize = 5;
/// Pieces the long file is made and read in.
const STEP_BYTES: usize = 1 << 20;
/// The long file, in a directory of its own.
const LONG: &str = "long/file";
/// What ends in order does so within this.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the measurement may be told.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Small files of the tree
    #[arg(long, default_value_t = 1_000_000)]
    files: u64,
    /// Files at random that are compared
    #[arg(long, default_value_t = 1000)]
    random: u64,
    /// Length of the long file, in MiB
    #[arg(long, default_value_t = 1024)]
    long: u64,
    /// The copy that is mounted: primary or secondary
    #[arg(long, default_value = "secondary")]
    from: String,
    #[command(flatten)]
    stage: Stage,
}

/// A point that is mounted.
pub(crate) struct Mounted {
    at: PathBuf,
    process: Child,
}

/// Makes the tree, protects it, and looks at it through a mount.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if !Path::new("/dev/fuse").exists() {
        bail!("this host has no /dev/fuse: modprobe fuse");
    }
    let exe = arguments.stage.exe()?;
    let place = arguments.stage.place()?;
    let (tree, at) = (place.path().join("tree"), place.path().join("at"));
    let bytes = make(&tree, arguments.files, false)?;
    let sum = long(&tree.join(LONG), arguments.long)?;
    println!("{} files, {}, and one of {} MiB", arguments.files, mib(bytes), arguments.long);
    let mut sites = Sites::raise(&exe, &place.path().join("sites"), &tree, Way::Direct)?;
    let job = sites.protect()?;
    sites.finished(&job)?;
    sites.replicated(Some("readable"))?;
    fs::create_dir_all(&at)?;

    let missed = listing(&sites, arguments, &at)?;
    let mounted = Mounted::make(&sites, &arguments.from, &at)?;
    let began = Instant::now();
    let wrong = random(&tree, &at, arguments)?;
    println!(
        "{} files at random: {:.2} s, {wrong} differ",
        arguments.random,
        began.elapsed().as_secs_f64()
    );
    let began = Instant::now();
    let names = names_below(&at)?;
    let seconds = began.elapsed().as_secs_f64();
    println!("{names} names listed with their attributes: {seconds:.1} s");
    println!("peak {}", mib(peak_bytes(mounted.process.id())?));
    mounted.end()?;
    sequential(&sites, arguments, (&tree, &at), sum)?;

    let expected = names_below(&tree)?;
    if wrong > 0 || names != expected {
        bail!("{wrong} files differ; {names} names, not {expected}");
    }
    match missed {
        true => bail!("the first listing took longer than {} ms", LISTING_GOAL.as_millis()),
        false => Ok(()),
    }
}

/// Times the first listing of several mounts; whether the median is over the goal.
fn listing(sites: &Sites, arguments: &Arguments, at: &Path) -> Result<bool> {
    let mut times = Vec::new();
    for _ in 0..MOUNTS {
        let began = Instant::now();
        let mounted = Mounted::make(sites, &arguments.from, at)?;
        let names = fs::read_dir(at)?.count();
        times.push(began.elapsed());
        mounted.end()?;
        if names == 0 {
            bail!("the first listing is empty");
        }
    }
    times.sort();
    let all: Vec<String> = times.iter().map(|time| time.as_millis().to_string()).collect();
    let median = times.get(MOUNTS / 2).copied().unwrap_or_default();
    let goal = LISTING_GOAL.as_millis();
    let verdict = if median > LISTING_GOAL { "OVER" } else { "under" };
    println!(
        "order to first listing: median {} ms of {} ms, {verdict} {goal} ms",
        median.as_millis(),
        all.join(", ")
    );
    Ok(median > LISTING_GOAL)
}

/// Compares files at random; how many differ.
fn random(tree: &Path, at: &Path, arguments: &Arguments) -> Result<u64> {
    let (mut chance, mut wrong) = (Random::new(1), 0);
    for _ in 0..arguments.random {
        let name = crate::scale::name(chance.below(arguments.files));
        let seen = fs::read(at.join(&name)).with_context(|| format!("{name} through the mount"))?;
        wrong += u64::from(seen != fs::read(tree.join(&name))?);
    }
    Ok(wrong)
}

/// Reads the long file from the disk it came from and through a mount, each with nothing in the
/// page cache.
fn sequential(
    sites: &Sites,
    arguments: &Arguments,
    (tree, at): (&Path, &Path),
    sum: blake3::Hash,
) -> Result<()> {
    forget_pages()?;
    let (local, found) = read(&tree.join(LONG))?;
    if found != sum {
        bail!("the long file is not what was written");
    }
    let mounted = Mounted::make(sites, &arguments.from, at)?;
    forget_pages()?;
    let (through, found) = read(&at.join(LONG))?;
    let peak = peak_bytes(mounted.process.id())?;
    let (again, _) = read(&at.join(LONG))?;
    mounted.end()?;
    if found != sum {
        bail!("the long file reads differently through the mount");
    }
    let rate = |time: Duration| arguments.long as f64 / time.as_secs_f64().max(1e-9);
    println!(
        "one file of {} MiB in order: {:.0} MiB/s from its disk, {:.0} MiB/s through the mount \
         (ratio {:.2}), {:.0} MiB/s again; peak {}",
        arguments.long,
        rate(local),
        rate(through),
        rate(through) / rate(local),
        rate(again),
        mib(peak)
    );
    Ok(())
}

/// Reads a file in order; how long that took, and its hash, which is not timed.
fn read(path: &Path) -> Result<(Duration, blake3::Hash)> {
    let mut hasher = blake3::Hasher::new();
    let (mut file, mut buffer) = (File::open(path)?, vec![0; STEP_BYTES]);
    let mut spent = Duration::ZERO;
    loop {
        let began = Instant::now();
        let count = file.read(&mut buffer)?;
        spent += began.elapsed();
        match buffer.get(..count) {
            Some(bytes) if count > 0 => hasher.update(bytes),
            _ => return Ok((spent, hasher.finalize())),
        };
    }
}

/// Makes the long file, of bytes that do not compress; its hash.
fn long(path: &Path, mebibytes: u64) -> Result<blake3::Hash> {
    fs::create_dir_all(path.parent().context("a file has a folder")?)?;
    let mut hasher = blake3::Hasher::new();
    let mut noise = blake3::Hasher::new().update(b"long").finalize_xof();
    let (mut file, mut step) = (File::create(path)?, vec![0; STEP_BYTES]);
    for _ in 0..mebibytes {
        noise.fill(&mut step);
        hasher.update(&step);
        file.write_all(&step)?;
    }
    file.sync_all()?;
    Ok(hasher.finalize())
}

fn forget_pages() -> Result<()> {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").context("only root can empty the page cache")
}

/// Counts what lies below a directory, each with its attributes.
fn names_below(dir: &Path) -> Result<u64> {
    let output = Command::new("find").arg(dir).args(["-printf", "%s\n"]).output()?;
    if !output.status.success() {
        bail!("find: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout.iter().filter(|byte| **byte == b'\n').count() as u64)
}

impl Mounted {
    /// Mounts the newest point of a copy.
    fn make(sites: &Sites, from: &str, at: &Path) -> Result<Self> {
        Self::make_of(sites, &format!("latest:{WORKLOAD}"), from, at)
    }

    /// Mounts a point of a copy; returns once it is there.
    pub(crate) fn make_of(sites: &Sites, point: &str, from: &str, at: &Path) -> Result<Self> {
        let mut command = sites.command(&["mount", point, "--from", from]);
        command.arg(at).stdout(Stdio::piped());
        let mut process = command.spawn().context("cannot run the program")?;
        let said = process.stdout.take().context("its output")?;
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line)?;
        if line.is_empty() {
            bail!("not mounted: {}", process.wait()?);
        }
        Ok(Self { at: at.to_owned(), process })
    }

    /// Takes it away as a person does.
    pub(crate) fn end(mut self) -> Result<()> {
        crate::parts::must(Command::new("umount").arg(&self.at))?;
        let until = Instant::now() + PATIENCE;
        while self.process.try_wait()?.is_none() {
            if Instant::now() > until {
                bail!("it does not end");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // On the way out; one that ended is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
