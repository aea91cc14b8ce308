//! Runs one hook to its end or its deadline, in a process group of its own, and says what
//! happened.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use crate::hooks::Hook;

/// How long a look at the hook may be late.
const POLL_MS: u64 = 5;
/// How much of what a hook wrote is kept, in bytes: the end says what went wrong.
const OUTPUT_BYTES_MAX: u64 = 4096;

/// How a hook ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum HookExit {
    /// By itself.
    Code(i32),
    /// Killed with its group when its time was over.
    Deadline,
    /// Never began.
    NotStarted { why: String },
    /// By a signal.
    Signal(i32),
}

/// What a hook did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HookOutcome {
    /// `pre` or `post`.
    pub role: String,
    pub command: Vec<String>,
    pub exit: HookExit,
    pub duration_ms: u64,
    /// The end of what it wrote.
    pub output: String,
}

impl HookOutcome {
    /// Whether it says it did what it should.
    pub fn succeeded(&self) -> bool {
        self.exit == HookExit::Code(0)
    }

    /// A few words for reports.
    pub fn describe(&self) -> String {
        let command = self.command.join(" ");
        match &self.exit {
            HookExit::Code(code) => format!("{command:?} ended with code {code}"),
            HookExit::Deadline => {
                format!("{command:?} was killed at its deadline after {} ms", self.duration_ms)
            }
            HookExit::NotStarted { why } => format!("{command:?} could not be started: {why}"),
            HookExit::Signal(signal) => format!("{command:?} was ended by signal {signal}"),
        }
    }
}

/// A process group as it can be recognised later, when its number may be somebody else's.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct ProcessMark {
    group: i32,
    started_ticks: u64,
}

impl ProcessMark {
    fn of(child: &Child) -> Option<Self> {
        let group = i32::try_from(child.id()).ok()?;
        Some(Self { group, started_ticks: started_ticks(group)? })
    }

    /// Kills the group if it is still the same.
    pub(super) fn kill(&self) {
        if started_ticks(self.group) == Some(self.started_ticks) {
            kill_group(self.group);
        }
    }
}

/// When a process began, in ticks since boot: field 22 of its stat line.
fn started_ticks(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

fn kill_group(group: i32) {
    if let Some(group) = Pid::from_raw(group) {
        // Fails only when all are gone, which is what is wanted.
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
}

/// Runs a hook; `began` is told of the process as soon as it is there.
pub(super) fn run(hook: &Hook, role: &str, began: impl FnOnce(ProcessMark)) -> HookOutcome {
    let since = Instant::now();
    let mut output = tempfile::tempfile().ok();
    let exit = match start(hook, output.as_ref()) {
        Ok(mut child) => {
            if let Some(mark) = ProcessMark::of(&child) {
                began(mark);
            }
            wait(&mut child, since + Duration::from_secs(u64::from(hook.deadline_seconds)))
        }
        Err(why) => HookExit::NotStarted { why },
    };
    HookOutcome {
        role: role.to_owned(),
        command: hook.command.clone(),
        exit,
        duration_ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
        output: output.as_mut().map(tail).unwrap_or_default(),
    }
}

fn start(hook: &Hook, output: Option<&File>) -> Result<Child, String> {
    let Some((program, arguments)) = hook.command.split_first() else {
        return Err("no program is named".to_owned());
    };
    // A file, not a pipe: nobody left behind by the hook can hold us up.
    let sink =
        || output.and_then(|file| file.try_clone().ok()).map_or_else(Stdio::null, Stdio::from);
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(sink()).stderr(sink()).process_group(0);
    command.spawn().map_err(|error| error.to_string())
}

fn wait(child: &mut Child, deadline: Instant) -> HookExit {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return exit_of(status),
            Ok(None) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(POLL_MS));
            }
            Ok(None) | Err(_) => break,
        }
    }
    kill_group(i32::try_from(child.id()).unwrap_or(0));
    // Reaped, or it would stay as a zombie; killed, so this does not take long.
    let _ = child.wait();
    HookExit::Deadline
}

fn exit_of(status: ExitStatus) -> HookExit {
    match (status.code(), status.signal()) {
        (Some(code), _) => HookExit::Code(code),
        (None, signal) => HookExit::Signal(signal.unwrap_or(0)),
    }
}

fn tail(file: &mut File) -> String {
    let mut bytes = Vec::new();
    let length = file.seek(SeekFrom::End(0)).unwrap_or(0);
    let from = length.saturating_sub(OUTPUT_BYTES_MAX);
    if file.seek(SeekFrom::Start(from)).is_ok() {
        // What cannot be read back is only missing from a report.
        let _ = file.take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
