//! A chore as a list of named parts, each timed. The first part that fails ends the chore with
//! its name; the closing line is printed only when every part passed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// Times the parts of one chore.
pub(crate) struct Parts {
    chore: &'static str,
    started: Instant,
    seconds: Vec<(String, f64)>,
}

impl Parts {
    /// Starts the clock of `chore`.
    pub(crate) fn begin(chore: &'static str) -> Self {
        Self { chore, started: Instant::now(), seconds: Vec::new() }
    }

    /// Runs one part; its failure carries its name.
    pub(crate) fn part(&mut self, name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        println!("==> {}: {name}", self.chore);
        let started = Instant::now();
        work().with_context(|| format!("{}: {name} failed", self.chore))?;
        self.seconds.push((name.to_owned(), started.elapsed().as_secs_f64()));
        Ok(())
    }

    /// Prints how long each part took, and the closing line.
    pub(crate) fn finish(self) {
        println!();
        for (name, seconds) in &self.seconds {
            println!("{seconds:>9.1} s  {name}");
        }
        let whole = self.started.elapsed().as_secs_f64();
        println!("{}: all {} parts passed in {whole:.1} s", self.chore, self.seconds.len());
    }
}

/// Says how much room the checkout's disk has: a linker on a full one ends with a signal and
/// names no reason.
pub(crate) fn say_room() {
    if let Ok(place) = rustix::fs::statvfs(root().as_path()) {
        println!("    {} MiB free here", (place.f_bavail * place.f_frsize) >> 20);
    }
}

/// The top of the checkout: the folder above this package.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// The cargo that runs us, at the top of the checkout, without a terminal to ask questions on.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root()).stdin(Stdio::null());
    command
}

/// Runs a command to its end; anything but success is an error that names it.
pub(crate) fn must(command: &mut Command) -> Result<()> {
    let line = line_of(command);
    println!("    {line}");
    let status = command.status().with_context(|| format!("cannot start `{line}`"))?;
    if status.success() {
        return Ok(());
    }
    bail!("`{line}` ended with {status}")
}

fn line_of(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut line = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}
