//! What something cost: wall time, processor time and peak memory, of a command and its
//! children, or of nodes that go on running. Processor time comes from the kernel's own
//! accounts in `/proc`, in ticks of 10 ms.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often the memory of a command is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// USER_HZ: what `/proc` counts in, whatever the kernel's own clock (proc(5)).
const TICKS_A_SECOND: f64 = 100.0;

/// The cost of one step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Cost {
    pub(crate) seconds: f64,
    pub(crate) cpu_seconds: f64,
    pub(crate) peak_bytes: u64,
}

/// Runs a command to its end; anything but success is an error with what it said.
pub(crate) fn run(command: &mut Command) -> Result<Cost> {
    let log = tempfile::NamedTempFile::new()?;
    command.stdin(Stdio::null()).stdout(log.reopen()?).stderr(log.reopen()?);
    let before = own_children_seconds()?;
    let began = Instant::now();
    let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
    let (status, peak_bytes) = watch(&mut child)?;
    let seconds = began.elapsed().as_secs_f64();
    if !status.success() {
        let said = std::fs::read_to_string(log.path()).unwrap_or_default();
        let last: Vec<&str> = said.lines().rev().take(5).collect();
        bail!("{command:?} ended with {status}: {}", last.join(" | "));
    }
    Ok(Cost { seconds, cpu_seconds: own_children_seconds()? - before, peak_bytes })
}

fn watch(child: &mut Child) -> Result<(std::process::ExitStatus, u64)> {
    let mut peak = 0;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status, peak));
        }
        peak = peak.max(tree_peak_bytes(child.id()));
        std::thread::sleep(LOOK);
    }
}

/// The peaks of a process and all below it, added up.
fn tree_peak_bytes(pid: u32) -> u64 {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let below = children.unwrap_or_default();
    let below = below.split_whitespace().filter_map(|child| child.parse().ok());
    peak_bytes(pid).unwrap_or_default() + below.map(tree_peak_bytes).sum::<u64>()
}

/// The most memory a process had since its start, or since [`forget_peak`].
pub(crate) fn peak_bytes(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")).context("no VmHWM")?;
    Ok(kib.trim().parse::<u64>()? * 1024)
}

/// From here on the peak counts anew (proc(5): `clear_refs`, 5).
pub(crate) fn forget_peak(pid: u32) -> Result<()> {
    Ok(std::fs::write(format!("/proc/{pid}/clear_refs"), "5")?)
}

/// Processor seconds a running process has used itself.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    ticks_of(&format!("/proc/{pid}/stat"), 11)
}

/// Processor seconds of all our children that have ended.
fn own_children_seconds() -> Result<f64> {
    ticks_of("/proc/self/stat", 13)
}

/// Two fields of a `stat` file in seconds, user and system; counted behind the name.
fn ticks_of(path: &str, field: usize) -> Result<f64> {
    let text = std::fs::read_to_string(path)?;
    let behind = text.rsplit_once(')').context("a stat file without a name")?.1;
    let ticks = behind.split_whitespace().skip(field).take(2).map(str::parse::<u64>);
    let ticks = ticks.sum::<std::result::Result<u64, _>>()?;
    Ok(ticks as f64 / TICKS_A_SECOND)
}

/// Bytes of all files below a directory.
pub(crate) fn bytes_below(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).with_context(|| format!("{}", dir.display()))? {
        let entry = entry?;
        let kind = entry.file_type()?;
        bytes += if kind.is_dir() { bytes_below(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}

/// Waits until others leave the processors alone, two minutes at most; says how busy they were.
pub(crate) fn quiet() -> Result<()> {
    let until = Instant::now() + Duration::from_secs(120);
    loop {
        let (busy, all) = processors()?;
        std::thread::sleep(Duration::from_secs(1));
        let (later_busy, later_all) = processors()?;
        let share = (later_busy - busy) as f64 / (later_all - all).max(1) as f64;
        if share < 0.15 {
            return Ok(());
        }
        if Instant::now() > until {
            println!(
                "    the processors stay busy ({:.0} %): measured all the same",
                share * 100.0
            );
            return Ok(());
        }
    }
}

fn processors() -> Result<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("an empty /proc/stat")?;
    let ticks: Vec<u64> =
        line.split_whitespace().skip(1).take(8).filter_map(|field| field.parse().ok()).collect();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    let all: u64 = ticks.iter().sum();
    Ok((all - idle, all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_works_costs_and_one_that_fails_is_named() -> Result<()> {
        let work = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done";
        let cost = run(Command::new("sh").args(["-c", work]))?;
        assert!(cost.cpu_seconds > 0.0 && cost.seconds >= cost.cpu_seconds / 2.0, "{cost:?}");
        let failed = run(Command::new("sh").args(["-c", "echo so not; exit 3"]));
        assert!(failed.is_err_and(|error| error.to_string().contains("so not")));
        Ok(())
    }
}
