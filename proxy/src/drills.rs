//! Drills as the coordinator orders them: a point of the secondary snap is recovered by a process
//! of its own, apart from everything. It has no network at all, mounts and processes that nobody
//! else sees, a directory that goes with it, and a time by which it is over. It ends with this
//! process, however that ends. What it showed is kept as a proof before the order is answered.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use strongroom_node::desk::Task;
use strongroom_node::drill::{DRILL_PROCESS, DrillAnswer, DrillOrder};
use strongroom_node::home::{DrillSettings, Home};
use strongroom_protocol::control::{MOUNTED_CHECKED, Progress, ProofNews, STARTED, Showing, Shown};
use strongroom_protocol::drill::{DrillKind, DrillWork};
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Chain, Clock, Identity};
use strongroom_store::disk::{Disk as _, LocalDisk};
use strongroom_store::keys::VaultKey;
use strongroom_store::repo::Repo;

use crate::expire::Keeper;
use crate::proofs::Proofs;

/// Where drills lie unless `node.toml` says otherwise, and how the directory of one begins.
const FOLDER: &str = "drills";
const PREFIX: &str = "drill-";
/// What the process said, in its directory.
const LOG_FILE: &str = "log";
const LOG_TOLD_BYTES: usize = 600;
/// The program of util-linux that gives a process its own network, mounts and processes.
const UNSHARE: &str = "unshare";
/// The program that carries out drills.
const PROGRAM: &str = "strongroom";
/// How often a drill is looked at, and how often the room it takes is counted.
const LOOK: Duration = Duration::from_millis(100);
const COUNT: Duration = Duration::from_secs(1);
/// Left of the disk for everything else, in bytes; a drill that goes below is broken off.
const FREE_BYTES_MIN: u64 = 256 << 20;
/// Removing what a process that is just ending still writes is tried so often.
const REMOVALS_MAX: u32 = 50;

/// Removes what drills of an earlier run left. What they had mounted and running ended with them.
pub(crate) fn sweep(home: &Home) {
    let dir = scratch(home);
    let Ok(entries) = fs::read_dir(&dir) else { return };
    for entry in entries.flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            let path = entry.path();
            match remove(&path) {
                Ok(()) => tracing::info!(path = %path.display(), "cleared what a drill left"),
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "what a drill left stays");
                }
            }
        }
    }
}

fn scratch(home: &Home) -> PathBuf {
    home.settings().drills.scratch.clone().unwrap_or_else(|| home.path(FOLDER))
}

fn remove(dir: &Path) -> io::Result<()> {
    let mut tried = 0;
    loop {
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if tried >= REMOVALS_MAX => return Err(error),
            Err(_) => {
                tried += 1;
                std::thread::sleep(LOOK);
            }
            Ok(()) => return Ok(()),
        }
    }
}

fn unavailable(text: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::Unavailable, text)
}

/// What a drill needs of the proxy.
pub(crate) struct Range<'p> {
    pub(crate) home: &'p Home,
    pub(crate) repo: &'p Repo,
    pub(crate) proofs: &'p Proofs,
    pub(crate) keeper: &'p Keeper,
    pub(crate) clock: &'p dyn Clock,
}

/// Carries out a drill to its end. Blocking.
pub(crate) fn drill(
    range: &Range<'_>,
    task: &Task,
    work: &DrillWork,
) -> Result<(Progress, String), Refusal> {
    let ordered = Instant::now();
    // What the point needs stays until the drill is over, whatever is collected meanwhile.
    let session = range.repo.session();
    let key = session.vault_key().map_err(|error| unavailable(Chain(&error).to_string()))?;
    let settings = &range.home.settings().drills;
    let dir = scratch(range.home).join(format!("{PREFIX}{}", task.job));
    let made = fs::create_dir_all(&dir);
    made.map_err(|error| unavailable(format!("cannot make {}: {error}", dir.display())))?;
    let limits = Limits {
        until: ordered + Duration::from_secs(work.seconds_max.into()),
        seconds_max: work.seconds_max,
        bytes_max: settings.scratch_gib_max.map(|gib| u64::from(gib.get()) << 30),
    };
    let order = DrillOrder { repo: range.home.repo(), work: work.clone(), dir: dir.clone() };
    let run = run(settings, &order, key, &limits, task);
    let answer = run.and_then(|()| answer(&dir, &limits));
    if let Err(error) = remove(&dir) {
        tracing::error!(dir = %dir.display(), %error, "what a drill left stays");
    }
    match answer? {
        DrillAnswer::Nothing { why } => Err(unavailable(why)),
        DrillAnswer::Shown { outcome, took_ms, detail } => {
            keep(range, work, Showing { level: level(work.kind), outcome, took_ms, detail })
        }
    }
}

/// What the process answered. That a copy did not do is not believed of a drill without room.
fn answer(dir: &Path, limits: &Limits) -> Result<DrillAnswer, Refusal> {
    let answer = DrillAnswer::read(dir);
    let answer = answer.ok_or_else(|| unavailable(format!("it gave up: {}", last(dir))))?;
    if matches!(answer, DrillAnswer::Shown { outcome: Shown::Failed, .. }) {
        room(dir, limits)?;
    }
    Ok(answer)
}

fn level(kind: DrillKind) -> String {
    let word = match kind {
        DrillKind::Files => MOUNTED_CHECKED,
        DrillKind::Postgres | DrillKind::Vm => STARTED,
    };
    word.to_owned()
}

/// Keeps what it showed, which is told until the coordinator has it.
fn keep(
    range: &Range<'_>,
    work: &DrillWork,
    showing: Showing,
) -> Result<(Progress, String), Refusal> {
    let settings = range.home.settings();
    let by = Identity {
        org: settings.org.clone(),
        site: settings.site.clone(),
        role: settings.role,
        name: settings.name.clone(),
    };
    let text = match showing.outcome {
        Shown::Held => format!("held: {}", showing.detail),
        Shown::Failed => format!("FAILED: {}", showing.detail),
    };
    let (at, outcome) = (range.clock.now(), showing.outcome);
    range.proofs.keep(ProofNews { point: work.point, copy: None, by, at, showing })?;
    if outcome == Shown::Held {
        range.keeper.proven(work.point);
    }
    Ok((Progress::default(), text))
}

/// How far a drill may go.
struct Limits {
    until: Instant,
    seconds_max: u32,
    bytes_max: Option<u64>,
}

/// The process of a drill; ended, with all it started, when dropped.
struct Apart {
    child: Child,
    /// The process lives as long as this.
    _line: ChildStdin,
}

impl Drop for Apart {
    fn drop(&mut self) {
        // What it started goes with it: it is the first of its processes.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(
    settings: &DrillSettings,
    order: &DrillOrder,
    key: &VaultKey,
    limits: &Limits,
    task: &Task,
) -> Result<(), Refusal> {
    room(&order.dir, limits)?;
    let mut apart = start(settings, order, key)?;
    let mut counted = Instant::now();
    loop {
        let ended = apart.child.try_wait();
        if ended.map_err(|error| unavailable(error.to_string()))?.is_some() {
            return Ok(());
        }
        if task.cancelled.is_cancelled() {
            return Err(Refusal::new(RefusalKind::Cancelled, "stopped by an operator"));
        }
        if Instant::now() > limits.until {
            let text = format!(
                "it was not over within {} s (`within` in the policy): {}",
                limits.seconds_max,
                last(&order.dir)
            );
            return Err(unavailable(text));
        }
        if counted.elapsed() >= COUNT {
            room(&order.dir, limits)?;
            counted = Instant::now();
        }
        std::thread::sleep(LOOK);
    }
}

/// Refuses to go on where it takes too much room.
fn room(dir: &Path, limits: &Limits) -> Result<(), Refusal> {
    let free = LocalDisk::new(dir).free_bytes();
    if let Some(free) = free.filter(|free| *free < FREE_BYTES_MIN) {
        let text = format!(
            "the disk of {} has {free} bytes left: give drills another with `scratch` in \
             `[drills]` of node.toml",
            dir.display()
        );
        return Err(unavailable(text));
    }
    let taken = limits.bytes_max.map(|most| (most, taken(dir)));
    if let Some((most, taken)) = taken.filter(|(most, taken)| taken > most) {
        let text = format!(
            "what it recovered takes {taken} bytes of {}, {most} are allowed (`scratch_gib_max` \
             in `[drills]` of node.toml)",
            dir.display()
        );
        return Err(unavailable(text));
    }
    Ok(())
}

/// The bytes that lie in a directory.
fn taken(dir: &Path) -> u64 {
    const BLOCK_BYTES: u64 = 512;
    let mut bytes = 0;
    let mut waiting = vec![dir.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            // What goes meanwhile takes nothing.
            let Ok(about) = entry.metadata() else { continue };
            if about.is_dir() {
                waiting.push(entry.path());
            }
            bytes += about.blocks() * BLOCK_BYTES;
        }
    }
    bytes
}

/// Starts the process, apart from everything.
fn start(settings: &DrillSettings, order: &DrillOrder, key: &VaultKey) -> Result<Apart, Refusal> {
    let program = program(settings)?;
    let log = fs::File::create(order.dir.join(LOG_FILE));
    let log = log.map_err(|error| unavailable(format!("cannot write a log: {error}")))?;
    let mut command = Command::new(UNSHARE);
    if !is_root() {
        // Its own user all the same: a server does not run as root.
        command.args(["--user", "--map-current-user", "--keep-caps"]);
    }
    command.args(["--net", "--mount", "--ipc", "--pid", "--fork", "--kill-child", "--"]);
    command.arg(&program).arg(DRILL_PROCESS).current_dir("/");
    command.env("LC_ALL", "C").env("TMPDIR", &order.dir).env_remove("STRONGROOM_PASSPHRASE");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
    let mut child = command.spawn().map_err(|error| {
        unavailable(format!("{UNSHARE} cannot be started: {error}; the package util-linux has it"))
    })?;
    let mut line = child.stdin.take().ok_or_else(|| unavailable("the process has no input"))?;
    // One that is gone already says why in its log.
    let _ = order.send(key, &mut line);
    Ok(Apart { child, _line: line })
}

/// The owner of this process's own entry is who it runs as.
fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|about| about.uid() == 0)
}

fn program(settings: &DrillSettings) -> Result<PathBuf, Refusal> {
    if let Some(named) = &settings.program {
        return Ok(named.clone());
    }
    let own = std::env::current_exe().map_err(|error| unavailable(error.to_string()))?;
    let beside = own.with_file_name(PROGRAM);
    match beside.exists() {
        true => Ok(beside),
        false => Err(unavailable(format!(
            "{} is not there, and drills are carried out by it: name it as `program` in \
             `[drills]` of node.toml",
            beside.display()
        ))),
    }
}

/// The last words of the process.
fn last(dir: &Path) -> String {
    let log = fs::read(dir.join(LOG_FILE)).unwrap_or_default();
    let tail = log.get(log.len().saturating_sub(LOG_TOLD_BYTES)..).unwrap_or_default();
    let text = String::from_utf8_lossy(tail).trim().to_owned();
    if text.is_empty() { "it said nothing".to_owned() } else { text }
}
