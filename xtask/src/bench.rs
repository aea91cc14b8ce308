//! The whole against a peer on the same trees in the same run: `strongroom try`, which crosses
//! the wire twice, in turn with restic writing straight into a directory. Prints seconds and
//! sizes side by side; judges nothing. What is not installed is said and left out.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::kill::mib;
use crate::sites::Profile;

/// What the measurement may be told.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The trees to protect; they are only read
    #[arg(required = true)]
    trees: Vec<PathBuf>,
    /// Runs of each, in turn
    #[arg(long, default_value_t = 1)]
    runs: u32,
    /// Where repositories and restores are made; a temporary directory if not told
    #[arg(long)]
    dir: Option<PathBuf>,
    /// This program, instead of building one
    #[arg(long)]
    exe: Option<PathBuf>,
}

/// One program's figures on one tree.
struct Figures {
    who: &'static str,
    first_seconds: f64,
    again_seconds: f64,
    restore_seconds: f64,
    stored_bytes: u64,
}

/// Runs everything and prints a line a run.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let exe = arguments.exe.clone().map_or_else(|| Profile::Release.build(), Ok)?;
    let restic = Command::new("restic").arg("version").output().ok();
    let version = restic.map(|said| String::from_utf8_lossy(&said.stdout).trim().to_owned());
    println!("peer: {}", version.as_deref().unwrap_or("restic is not installed and is left out"));
    println!(
        "{:<12} {:>9} {:>9} {:>9} {:>11}  tree",
        "", "first s", "again s", "restore s", "stored"
    );
    for _ in 0..arguments.runs {
        for tree in &arguments.trees {
            let dir = match &arguments.dir {
                Some(dir) => tempfile::Builder::new().prefix("bench-").tempdir_in(dir)?,
                None => tempfile::tempdir()?,
            };
            if version.is_some() {
                print(&with_restic(tree, dir.path())?, tree);
            }
            print(&with_strongroom(&exe, tree, dir.path())?, tree);
        }
    }
    Ok(())
}

fn print(figures: &Figures, tree: &Path) {
    let Figures { who, first_seconds, again_seconds, restore_seconds, stored_bytes } = figures;
    println!(
        "{who:<12} {first_seconds:>9.2} {again_seconds:>9.2} {restore_seconds:>9.2} {:>11}  {}",
        mib(*stored_bytes),
        tree.display()
    );
}

fn timed(command: &mut Command) -> Result<f64> {
    let began = Instant::now();
    let status = command.stdout(Stdio::null()).status().with_context(|| format!("{command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(began.elapsed().as_secs_f64())
}

fn with_restic(tree: &Path, dir: &Path) -> Result<Figures> {
    let repo = dir.join("restic");
    let restic = |words: &[&str]| {
        let mut command = Command::new("restic");
        command.arg("-q").arg("-r").arg(&repo).args(words).env("RESTIC_PASSWORD", "bench");
        command
    };
    timed(&mut restic(&["init"]))?;
    let first_seconds = timed(restic(&["backup"]).arg(tree))?;
    let stored_bytes = bytes_below(&repo)?;
    let again_seconds = timed(restic(&["backup"]).arg(tree))?;
    let restored = dir.join("restic-restored");
    let restore_seconds = timed(restic(&["restore", "latest", "--target"]).arg(&restored))?;
    std::fs::remove_dir_all(&restored)?;
    std::fs::remove_dir_all(&repo)?;
    Ok(Figures { who: "restic", first_seconds, again_seconds, restore_seconds, stored_bytes })
}

fn with_strongroom(exe: &Path, tree: &Path, dir: &Path) -> Result<Figures> {
    let lab = dir.join("lab");
    let mut command = Command::new(exe);
    command.arg("--json").arg("try").arg(tree).arg("--dir").arg(&lab);
    let said = command.stderr(Stdio::null()).output().context("cannot run strongroom")?;
    if !said.status.success() {
        bail!("strongroom try {} ended with {}", tree.display(), said.status);
    }
    let told: Value = serde_json::from_slice(&said.stdout)?;
    let seconds = |stage: &str| {
        let stages = told["stages"].as_array().into_iter().flatten();
        let found = stages.into_iter().find(|row| row["stage"] == stage);
        found.and_then(|row| row["seconds"].as_f64()).with_context(|| format!("no stage {stage}"))
    };
    let figures = Figures {
        who: "strongroom",
        first_seconds: seconds("protect")?,
        again_seconds: seconds("protect again, nothing changed")?,
        restore_seconds: seconds("restore from the primary snap")?,
        stored_bytes: told["stages"][1]["stored_bytes"].as_u64().unwrap_or_default(),
    };
    std::fs::remove_dir_all(&lab)?;
    Ok(figures)
}

fn bytes_below(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let meta = entry?;
        let kind = meta.file_type()?;
        bytes += if kind.is_dir() { bytes_below(&meta.path())? } else { meta.metadata()?.len() };
    }
    Ok(bytes)
}
