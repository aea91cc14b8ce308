//! mariabackup, run by a holder: its stream goes to the agent through a socket, its words are
//! listened to, and it ends with its holder, with the agent, and when it keeps transactions
//! from committing for longer than they may.

use std::collections::VecDeque;
use std::fs::{self, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::holder::Holding;
use crate::workload::mariadb::session::{Dial, series};

/// The word by which a holder knows that it runs mariabackup.
pub(super) const WHAT: &str = "mariadb-stream";
/// The agent listens here, in the directory it names.
pub(super) const SOCKET: &str = "stream";
/// What the program is called, newer name first.
const NAMES: [&str; 2] = ["mariadb-backup", "mariabackup"];
const FOLDERS: [&str; 3] = ["/usr/bin", "/usr/local/bin", "/usr/sbin"];
/// Its last words that are kept.
const LINES_KEPT: usize = 12;
/// Lines that may wait to be looked at.
const LINES_MAX: usize = 256;
/// By these words it says that nothing commits, that all goes again, and that all went well.
const BLOCKS: &str = "Starting BACKUP STAGE BLOCK_COMMIT";
const GOES: &str = "Executing BACKUP STAGE END";
const WELL: &str = "completed OK!";
/// By these it says that the deadline is over: ours, beside its own last words.
const LATE: &str = "ended by its holder: commits waited for longer than `freeze_deadline`";

/// What a holder is told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Told {
    pub dial: Dial,
    pub program: PathBuf,
    /// A directory of the agent's own, for the socket and for what the program makes.
    pub place: PathBuf,
    pub commits_wait_max_ms: u64,
}

/// What became of the program.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Outcome {
    pub well: bool,
    /// How long nothing could commit.
    pub commits_waited_ms: u64,
    /// Its last words.
    pub said: Vec<String>,
}

/// Where mariabackup is.
pub fn find(named: Option<&Path>) -> Option<PathBuf> {
    match named {
        Some(named) => named.is_file().then(|| named.to_owned()),
        None => FOLDERS
            .iter()
            .flat_map(|folder| NAMES.map(|name| Path::new(folder).join(name)))
            .find(|path| path.is_file()),
    }
}

/// Of which series of the server a program is, such as 10.11.
///
/// # Errors
/// It cannot be run.
pub fn series_of(program: &Path) -> io::Result<Option<(u32, u32)>> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    let mut words = said.split_whitespace().filter(|word| word.contains("-MariaDB"));
    Ok(words.find_map(series))
}

/// The program under way.
pub(super) struct Program {
    told: Told,
    child: Option<Child>,
    listening: Option<JoinHandle<Outcome>>,
}

impl Program {
    /// From what a holder is told.
    ///
    /// # Errors
    /// It cannot be understood.
    pub(super) fn new(about: &Value) -> Result<Self, String> {
        let told = serde_json::from_value(about.clone()).map_err(|error| error.to_string())?;
        Ok(Self { told, child: None, listening: None })
    }

    fn start(&mut self) -> io::Result<()> {
        let options = self.told.place.join("options");
        // The password is on no command line.
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&options)?;
        file.write_all(self.options().as_bytes())?;
        let made = self.told.place.join("made");
        fs::create_dir(&made)?;
        let stream = UnixStream::connect(self.told.place.join(SOCKET))?;
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(&self.told.program)
            .arg(format!("--defaults-file={}", options.display()))
            .args(["--backup", "--stream=mbstream"])
            .arg(format!("--target-dir={}", made.display()))
            .arg(format!("--ftwrl-wait-timeout={}", self.told.dial.lock_wait_seconds))
            .stdin(Stdio::null())
            .stdout(OwnedFd::from(stream))
            .stderr(Stdio::piped())
            .spawn()?;
        let words = child.stderr.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let pid = Pid::from_child(&child);
        self.child = Some(child);
        let (sender, lines) = sync_channel::<String>(LINES_MAX);
        let _reading = std::thread::spawn(move || {
            for line in BufReader::new(words).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let most = Duration::from_millis(self.told.commits_wait_max_ms);
        self.listening = Some(std::thread::spawn(move || listen(&lines, pid, most)));
        Ok(())
    }

    fn options(&self) -> String {
        let dial = &self.told.dial;
        let quoted =
            |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        let mut lines = vec!["[mariabackup]".to_owned(), format!("user={}", quoted(&dial.user))];
        lines.extend(dial.password.as_ref().map(|word| format!("password={}", quoted(word))));
        lines.extend(match dial.is_socket() {
            true => vec![format!("socket={}", quoted(&dial.host))],
            false => vec![format!("host={}", dial.host), format!("port={}", dial.port)],
        });
        lines.join("\n") + "\n"
    }

    /// Waits for its end.
    fn outcome(&mut self) -> Result<Outcome, String> {
        let gone = || "no backup is under way".to_owned();
        let mut child = self.child.take().ok_or_else(gone)?;
        let status = child.wait().map_err(|error| error.to_string())?;
        let listened = self.listening.take().ok_or_else(gone)?.join();
        let mut outcome = listened.map_err(|_| gone())?;
        outcome.well &= status.success();
        Ok(outcome)
    }
}

/// Hears what the program says until it ends; ends it when commits wait for too long.
fn listen(lines: &Receiver<String>, pid: Pid, most: Duration) -> Outcome {
    let mut outcome = Outcome::default();
    let mut said = VecDeque::new();
    let mut blocked: Option<Instant> = None;
    loop {
        let left =
            blocked.map_or(Duration::from_secs(3600), |since| most.saturating_sub(since.elapsed()));
        match lines.recv_timeout(left) {
            Ok(line) => {
                if line.contains(BLOCKS) {
                    blocked = Some(Instant::now());
                }
                if line.contains(GOES)
                    && let Some(since) = blocked.take()
                {
                    let waited = since.elapsed().as_millis();
                    outcome.commits_waited_ms = u64::try_from(waited).unwrap_or(u64::MAX);
                }
                outcome.well |= line.contains(WELL);
                said.push_back(line);
            }
            Err(RecvTimeoutError::Timeout) if blocked.is_some() => {
                said.push_back(LATE.to_owned());
                blocked = None;
                // It may have ended by itself at this very moment.
                let _ = kill_process(pid, Signal::KILL);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if said.len() > LINES_KEPT {
            said.pop_front();
        }
    }
    outcome.said = said.into();
    outcome
}

impl Holding for Program {
    fn freeze(&mut self) -> Result<Value, String> {
        let started = self.start();
        let program = self.told.program.display();
        started.map_err(|error| format!("{program} cannot be run: {error}"))?;
        Ok(Value::Null)
    }

    /// Whatever is asked: what became of the program, once it has ended.
    fn answer(&mut self, _question: &Value) -> Result<Value, String> {
        let outcome = self.outcome()?;
        serde_json::to_value(outcome).map_err(|error| error.to_string())
    }

    fn thaw(&mut self) -> Result<Value, String> {
        if let Some(mut child) = self.child.take() {
            child.kill().and_then(|()| child.wait()).map_err(|error| error.to_string())?;
        }
        Ok(Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_holds_commits_up_for_too_long_is_ended() {
        let (sender, lines) = sync_channel(LINES_MAX);
        let mut sleep = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_child(&sleep);
        sender.send(format!("[00] {BLOCKS}")).unwrap();
        let listening = std::thread::spawn(move || listen(&lines, pid, Duration::from_millis(50)));
        assert!(!sleep.wait().unwrap().success());
        drop(sender);
        let outcome = listening.join().unwrap();
        assert!(!outcome.well);
        assert!(outcome.said.iter().any(|line| line.contains("freeze_deadline")));
    }

    #[test]
    fn what_the_program_says_is_understood() {
        let (sender, lines) = sync_channel(LINES_MAX);
        let pid = Pid::from_raw(1).unwrap();
        for line in ["[00] a", BLOCKS, GOES, "[00] completed OK!"] {
            sender.send(line.to_owned()).unwrap();
        }
        drop(sender);
        let outcome = listen(&lines, pid, Duration::from_secs(60));
        assert!(outcome.well);
        assert_eq!(outcome.said.len(), 4);
    }
}
