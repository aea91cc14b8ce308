//! A million small files through real processes: peak memory of agent and coordinator has a
//! bound that does not grow with the tree.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};
use serde_json::Value;

use crate::kill::mib;
use crate::sites::{Role, Sites, Way};
use crate::stage::Stage;

/// What each process may take at its peak.
const AGENT_BYTES_MAX: u64 = 128 << 20;
const COORDINATOR_BYTES_MAX: u64 = 256 << 20;
/// Files of a directory, unless all lie in one.
const DIRECTORY_FILES: u64 = 1000;
/// Sizes are spread over these.
const FILE_BYTES_MIN: u64 = 100;
const FILE_BYTES_MAX: u64 = 2000;

/// What the measurement may be told.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Files of the tree
    #[arg(long, default_value_t = 1_000_000)]
    files: u64,
    /// All of them in one directory
    #[arg(long)]
    flat: bool,
    #[command(flatten)]
    stage: Stage,
}

/// Makes the tree, protects it twice, and looks at the peaks.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let exe = arguments.stage.exe()?;
    let place = arguments.stage.place()?;
    let dir = place.path();
    let tree = dir.join("tree");
    let bytes = make(&tree, arguments.files, arguments.flat)?;
    let shape = if arguments.flat { "one directory" } else { "directories of 1000" };
    println!("{} files in {shape}, {}", arguments.files, mib(bytes));
    let mut sites = Sites::raise(&exe, &dir.join("sites"), &tree, Way::Direct)?;
    protect(&mut sites, arguments.files, "first run")?;
    let began = Instant::now();
    let copy = sites.replicated(Some("readable"))?;
    println!("replicated and proven: {:.1} s, {}", began.elapsed().as_secs_f64(), copy["proof"]);
    protect(&mut sites, arguments.files, "unchanged")?;
    sites.replicated(Some("readable"))?;
    let mut over = 0;
    let bounds = [
        (Role::Agent, Some(AGENT_BYTES_MAX)),
        (Role::Coordinator, Some(COORDINATOR_BYTES_MAX)),
        (Role::Proxy, None),
    ];
    for (role, bound) in bounds {
        let peak = sites.peak_bytes(role)?;
        let verdict = match bound {
            Some(bound) if peak > bound => {
                over += 1;
                format!("OVER {}", mib(bound))
            }
            Some(bound) => format!("under {}", mib(bound)),
            None => "no bound is set".to_owned(),
        };
        println!("{:<12} peak {:>10}, {verdict}", role.as_str(), mib(peak));
    }
    drop(sites);
    println!("{} passed, {over} failed", 2 - over);
    if over > 0 {
        bail!("{over} processes took more memory than they may");
    }
    Ok(())
}

fn protect(sites: &mut Sites, files: u64, what: &str) -> Result<()> {
    let began = Instant::now();
    let job = sites.protect()?;
    let row: Value = sites.finished(&job)?;
    let seconds = began.elapsed().as_secs_f64();
    let sent = row["progress"]["bytes_sent"].as_u64().unwrap_or_default();
    let read = row["progress"]["bytes_read"].as_u64().unwrap_or_default();
    println!("{what}: {seconds:.1} s, {} read, {} sent", mib(read), mib(sent));
    for role in [Role::Agent, Role::Coordinator] {
        println!("    {} peak {}", role.as_str(), mib(sites.peak_bytes(role)?));
    }
    let seen = sites.latest()?["files"].as_u64();
    if seen != Some(files) {
        bail!("the point holds {seen:?} files, not {files}");
    }
    Ok(())
}

/// Where a file of a tree that is not flat lies.
pub(crate) fn name(number: u64) -> String {
    format!("d{:06}/f{number:07}", number / DIRECTORY_FILES)
}

/// Makes the tree; how many bytes it has.
pub(crate) fn make(tree: &Path, files: u64, flat: bool) -> Result<u64> {
    let mut bytes = 0;
    let mut directory = tree.to_owned();
    std::fs::create_dir_all(&directory)?;
    for number in 0..files {
        if !flat && number % DIRECTORY_FILES == 0 {
            directory = tree.join(format!("d{:06}", number / DIRECTORY_FILES));
            std::fs::create_dir_all(&directory)?;
        }
        let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        let len = FILE_BYTES_MIN + spread % (FILE_BYTES_MAX - FILE_BYTES_MIN);
        // No two files alike, and nothing that compresses: every byte travels.
        let mut text = vec![0; len as usize];
        blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut text);
        std::fs::write(directory.join(format!("f{number:07}")), text)?;
        bytes += len;
    }
    Ok(bytes)
}
