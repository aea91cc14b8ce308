//! The kill campaign: SIGKILL of agent, coordinator and proxy at random moments of a protect and
//! of a replication, started again at once and then left alone. Each time the work must
//! complete, little may be sent again, and every point that was acknowledged must restore.

mod round;
mod tree;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::sites::{Profile, Role};
use round::{Campaign, Kill, Phase};

/// At most so much is sent again for one kill.
const AGAIN_BYTES_MAX: u64 = 64 << 20;
/// The slice `cargo xtask test` runs.
const SLICE_BYTES: u64 = 256 << 20;
/// New bytes of each later protect of the slice: some of it lasts long enough to be hit.
const SLICE_PART_BYTES: u64 = 128 << 20;
const SLICE_KILLS: usize = 2;

/// What the campaign may be told.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Kill only these
    #[arg(long, value_enum)]
    role: Vec<Role>,
    /// Kills for each role and phase
    #[arg(long, default_value_t = 20)]
    kills: usize,
    /// Bytes of the tree, and of the first protect that is killed
    #[arg(long, default_value = "1GiB", value_parser = parse_bytes)]
    bytes: u64,
    /// New bytes of every later protect; a quarter of the tree if not told
    #[arg(long, value_parser = parse_bytes)]
    part: Option<u64>,
    /// Where the sites are made; a temporary directory if not told
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Where the random numbers start
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// This program, instead of building one
    #[arg(long)]
    exe: Option<PathBuf>,
    /// Which build of the program is killed
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    profile: Profile,
}

/// A number of bytes, with KiB, MiB or GiB.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("", 1)];
    let found = units.iter().find_map(|(unit, bytes)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(*bytes)
    });
    found.ok_or_else(|| format!("{text} is not a number of bytes such as 64MiB"))
}

/// The bounded slice of it that every checkout passes.
pub(crate) fn slice() -> Result<()> {
    run(&Arguments {
        role: Vec::new(),
        kills: SLICE_KILLS,
        bytes: SLICE_BYTES,
        part: Some(SLICE_PART_BYTES),
        dir: None,
        exe: None,
        seed: 1,
        profile: Profile::Dev,
    })
}

/// The campaign.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let exe = arguments.exe.clone().map_or_else(|| arguments.profile.build(), Ok)?;
    let temporary = tempfile::tempdir()?;
    let dir = arguments.dir.as_deref().unwrap_or_else(|| temporary.path()).join("kill");
    if dir.exists() {
        bail!("{} is there already", dir.display());
    }
    let part = arguments.part.unwrap_or(arguments.bytes / 4);
    println!("tree of {}, then {} new for each kill", mib(arguments.bytes), mib(part));
    println!("sent again: bytes on the wire, counted by a relay before the coordinator, less what");
    println!("an undisturbed run of as many new bytes put there\n");
    let began = Instant::now();
    let mut campaign = Campaign::begin(&exe, &dir, arguments.bytes, part, arguments.seed)?;
    for (number, kills) in plan(arguments).into_iter().enumerate() {
        let fresh = if number == 0 { arguments.bytes } else { part };
        campaign.round(&kills, fresh).with_context(|| format!("round {number}"))?;
    }
    campaign.conclude()?;
    std::fs::remove_dir_all(&dir)?;
    report(&campaign, began)
}

/// Which processes die in which round. One round is a protect and its replication: each may be
/// hit once.
fn plan(arguments: &Arguments) -> Vec<Vec<(Role, Phase)>> {
    let wanted = |role| arguments.role.is_empty() || arguments.role.contains(&role);
    let pairs = [
        [(Role::Agent, Phase::Protect), (Role::Proxy, Phase::Replication)],
        [(Role::Coordinator, Phase::Protect), (Role::Coordinator, Phase::Replication)],
    ];
    let mut rounds = Vec::new();
    for _ in 0..arguments.kills {
        for pair in pairs {
            let kills: Vec<_> = pair.into_iter().filter(|(role, _)| wanted(*role)).collect();
            if !kills.is_empty() {
                rounds.push(kills);
            }
        }
    }
    rounds
}

fn report(campaign: &Campaign, began: Instant) -> Result<()> {
    println!(
        "\n{:<12} {:<12} {:>6} {:>14} {:>18}",
        "role", "phase", "kills", "slowest", "most again"
    );
    for role in Role::ALL {
        for phase in [Phase::Protect, Phase::Replication] {
            let of: Vec<&Kill> =
                campaign.kills.iter().filter(|k| k.role == role && k.phase == phase).collect();
            let Some(slowest) = of.iter().map(|kill| kill.took).max() else { continue };
            let again = of.iter().map(|kill| kill.again_bytes).max().unwrap_or_default();
            println!(
                "{:<12} {:<12} {:>6} {:>12.1} s {:>18}",
                role.as_str(),
                phase.as_str(),
                of.len(),
                slowest.as_secs_f64(),
                mib(again)
            );
        }
    }
    let points = campaign.restored;
    println!(
        "{points} restores of acknowledged points compared, in {:.0} s altogether",
        began.elapsed().as_secs_f64()
    );
    let passed = campaign.kills.iter().filter(|kill| kill.again_bytes <= AGAIN_BYTES_MAX).count();
    let failed = campaign.kills.len() - passed;
    println!("{passed} passed, {failed} failed");
    if failed > 0 {
        bail!("{failed} kills cost more than {} sent again", mib(AGAIN_BYTES_MAX));
    }
    Ok(())
}

pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
