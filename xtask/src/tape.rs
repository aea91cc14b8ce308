//! What an aux copy gives a drive: bytes a second from a site's repository to a tape library of
//! tgt, beside the same driver writing the same blocks out of memory; and how long the drive
//! waited for data.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "the library is a test's")]

#[path = "../../store/tests/scsi_kit/mod.rs"]
pub(crate) mod scsi_kit;

use std::io::Write as _;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use strongroom_store::media::BLOCK_BYTES;
use strongroom_store::tape::TapeLibrary as _;

use crate::kill::mib;
use crate::packages;
use crate::sites::{Role, Sites, WORKLOAD, Way, copy_of};
use crate::stage::Stage;
use scsi_kit::{Tgt, tape};

/// One file of the tree.
const FILE_BYTES: u64 = 64 << 20;
const PIECE_BYTES: usize = 1 << 20;

/// What it may be told.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// MiB that are protected and copied
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// How often each is measured
    #[arg(long, default_value_t = 3)]
    rounds: u64,
    #[command(flatten)]
    stage: Stage,
}

/// Measures both in turns.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    packages::ensure()?;
    ensure!(arguments.rounds > 0, "no round is nothing to measure");
    let exe = arguments.stage.exe()?;
    let place = arguments.stage.place()?;
    let dir = place.path();
    let tree = dir.join("tree");
    std::fs::create_dir_all(&tree)?;
    let roomy = u32::try_from(arguments.mib * 2 + 256).context("so long a tape")?;
    let tgt = Tgt::start(usize::try_from(arguments.rounds)?, roomy);
    // A library has one master: what is written beside goes to another.
    let beside = Tgt::start(1, roomy);
    let mut sites = Sites::raise(&exe, &dir.join("sites"), &tree, Way::Direct)?;
    take_library(&mut sites, &tgt.text())?;
    println!("{:>12} {:>14} {:>8}  the job's own account", "plain", "aux copy", "ratio");
    for round in 0..arguments.rounds {
        plant(&tree, round, arguments.mib << 20)?;
        sites.apply(&policy(&tree, round))?;
        let job = sites.protect()?;
        sites.finished(&job)?;
        let said = copied(&mut sites, round)?;
        let seconds = seconds_of(&said).with_context(|| format!("no seconds in {said:?}"))?;
        let plain = plain(&beside, arguments.mib)?;
        let rate = arguments.mib as f64 / seconds;
        println!("{plain:>6.0} MiB/s {rate:>8.0} MiB/s {:>8.2}  {said}", rate / plain);
    }
    println!("peak of the proxy {}", mib(sites.peak_bytes(Role::Proxy)?));
    Ok(())
}

/// The proxy begins again with another library.
pub(crate) fn take_library(sites: &mut Sites, address: &str) -> Result<()> {
    sites.kill(Role::Proxy)?;
    let file = sites.home(Role::Proxy).join("node.toml");
    let mut settings: toml::Table = std::fs::read_to_string(&file)?.parse()?;
    settings.insert("library".to_owned(), address.into());
    std::fs::write(&file, settings.to_string())?;
    sites.start(Role::Proxy)?;
    sites.connected(2)
}

/// Bytes that neither compress nor came before.
fn plant(tree: &std::path::Path, round: u64, bytes: u64) -> Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    for number in 0..bytes / FILE_BYTES {
        let mut file = std::fs::File::create(tree.join(format!("{number}")))?;
        for part in 0..FILE_BYTES / PIECE_BYTES as u64 {
            let seed = [round, number, part].map(u64::to_le_bytes).concat();
            blake3::Hasher::new().update(&seed).finalize_xof().fill(&mut piece);
            file.write_all(&piece)?;
        }
    }
    Ok(())
}

/// What the job of the aux copy said of the drive, once the copy is there.
fn copied(sites: &mut Sites, round: u64) -> Result<String> {
    let copy = format!("tape{round}");
    sites
        .wait("the aux copy", |sites| Ok(copy_of(&sites.latest()?, &copy)["state"] == "present"))?;
    let jobs = sites.ask(&["jobs", "list"])?;
    let jobs = jobs.as_array().cloned().unwrap_or_default();
    let details = jobs.iter().filter_map(|job| job["detail"].as_str());
    let told = details.into_iter().find(|detail| detail.contains("the drive waited"));
    told.map(str::to_owned).with_context(|| format!("no job told of its drive: {jobs:?}"))
}

/// The seconds that writing took, out of what the job says.
fn seconds_of(said: &str) -> Option<f64> {
    said.split(" of ").last()?.split(' ').next()?.parse().ok()
}

/// As many blocks by the driver alone, in MiB a second.
fn plain(tgt: &Tgt, mib: u64) -> Result<f64> {
    let library = tgt.library();
    let mut drive = library.load(&tape(1))?;
    let mut block = vec![0; BLOCK_BYTES];
    blake3::Hasher::new().finalize_xof().fill(&mut block);
    drive.rewind()?;
    let began = Instant::now();
    for _ in 0..(mib << 20) / BLOCK_BYTES as u64 {
        drive.write_block(&block)?;
    }
    drive.write_filemark()?;
    drive.flush()?;
    let rate = mib as f64 / began.elapsed().as_secs_f64();
    library.unload(drive)?;
    Ok(rate)
}

/// Each round has a media set of its own.
fn policy(tree: &std::path::Path, round: u64) -> String {
    let host = WORKLOAD.split('@').nth(1).unwrap_or("host1");
    format!(
        r#"[policy.p]
timezone = "Europe/London"
[policy.p.primary]
keep = {{ newest = 1 }}
[policy.p.copy.secondary]
kind = "secondary-snap"
from = "primary"
node = "proxy"
keep = {{ newest = 1 }}
[policy.p.copy.tape{round}]
kind = "aux"
from = "secondary"
media_set = "set{round}"
keep = {{ newest = 1 }}
[workload."{WORKLOAD}"]
agent = "{host}"
kind = "files"
path = "{}"
policy = "p"
"#,
        tree.display()
    )
}
