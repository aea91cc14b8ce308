//! Who holds a freeze: a small process of its own, so that an application goes again whatever
//! becomes of the agent. It lets go when told, when its deadline comes, when its pipe ends (the
//! agent died), and a freeze that outlives it is noted on tmpfs for the next start to end.
//! Never waits for the network between freeze and thaw; refuses a second freeze of one thing.

mod child;
mod note;

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use child::{Held, Holding, serve};
pub use note::{reap, reap_note};

/// The word by which this program becomes a holder.
pub const HOLDER_WORD: &str = "freeze-holder";
/// Names the program that is started as a holder, where it is not this one (tests).
const HOLDER_PROGRAM: &str = "STRONGROOM_FREEZE_HOLDER";
/// How much longer than its deadline a holder may take to end before it is killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a holder is told first, one line of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Which way of holding: a word the child knows.
    pub what: String,
    /// What it needs to know; may hold a secret, so it goes by the pipe and is never noted.
    pub about: Value,
    /// Longest the freeze may last.
    pub deadline_ms: u64,
    /// Where it is noted, on tmpfs; a name that is unique to what is frozen. None: the freeze
    /// dies with the holder's session, so nothing need be noted.
    pub note: Option<PathBuf>,
}

/// What a holder answers, one line of JSON each.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Said {
    /// It is held since now; what was seen.
    Held(Value),
    /// It goes again; what was seen.
    Released(Value),
    /// It was not frozen, or not seen to go again.
    Failed(String),
    /// It was let go without being told: the deadline came.
    Expired(String),
}

/// Why something is not held, or was not seen to go again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HolderError {
    /// The deadline came before the release.
    #[error("the freeze was let go at its deadline: {why}")]
    Expired { why: String },
    /// What the holder said.
    #[error("{why}")]
    Refused { why: String },
    /// The holder could not be started or spoken to.
    #[error("the process that holds the freeze cannot be used")]
    Process(#[source] io::Error),
}

/// A freeze held by another process. Dropping it lets go.
#[derive(Debug)]
pub struct Holder {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// What was seen when it froze.
    pub seen: Value,
    patience: Duration,
}

impl Holder {
    /// Starts the holder and waits until the freeze is held.
    ///
    /// # Errors
    /// Nothing is held.
    pub fn hold(order: &Order) -> Result<Self, HolderError> {
        let program = std::env::var_os(HOLDER_PROGRAM).map(PathBuf::from);
        let program = program.unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
        Self::hold_by(&program, order)
    }

    /// The same by a program that knows [`HOLDER_WORD`].
    ///
    /// # Errors
    /// Nothing is held.
    pub fn hold_by(program: &Path, order: &Order) -> Result<Self, HolderError> {
        let mut command = Command::new(program);
        command.arg(HOLDER_WORD).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(HolderError::Process)?;
        let (orders, answers) = (child.stdin.take(), child.stdout.take());
        let gone = || HolderError::Process(io::Error::from(io::ErrorKind::BrokenPipe));
        let answers = BufReader::new(answers.ok_or_else(gone)?);
        let patience = Duration::from_millis(order.deadline_ms) + PATIENCE;
        let mut holder = Self { child, orders, answers, seen: Value::Null, patience };
        let line = serde_json::to_string(order).map_err(|e| HolderError::Process(e.into()))?;
        holder.say(&line).map_err(HolderError::Process)?;
        match holder.hear()? {
            Said::Held(seen) => {
                holder.seen = seen;
                Ok(holder)
            }
            Said::Released(_) => Err(gone()),
            Said::Failed(why) => Err(HolderError::Refused { why }),
            Said::Expired(why) => Err(HolderError::Expired { why }),
        }
    }

    /// Asks what is held for something more, while it is held; the answer.
    ///
    /// # Errors
    /// It refused; or it holds no more.
    pub fn ask(&mut self, question: &Value) -> Result<Value, HolderError> {
        self.say(&question.to_string()).map_err(HolderError::Process)?;
        match self.hear()? {
            Said::Held(answer) | Said::Released(answer) => Ok(answer),
            Said::Failed(why) => Err(HolderError::Refused { why }),
            Said::Expired(why) => Err(HolderError::Expired { why }),
        }
    }

    /// Lets go; what was seen. An error says that it had been let go before, or that nobody
    /// saw it go: then the point claims less.
    ///
    /// # Errors
    /// See there.
    pub fn release(mut self) -> Result<Value, HolderError> {
        // The end of the pipe is the order.
        drop(self.orders.take());
        match self.hear()? {
            Said::Released(seen) | Said::Held(seen) => Ok(seen),
            Said::Failed(why) => Err(HolderError::Refused { why }),
            Said::Expired(why) => Err(HolderError::Expired { why }),
        }
    }

    fn say(&mut self, line: &str) -> io::Result<()> {
        let pipe = self.orders.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        pipe.write_all(line.as_bytes())?;
        pipe.write_all(b"\n")?;
        pipe.flush()
    }

    fn hear(&mut self) -> Result<Said, HolderError> {
        let mut line = String::new();
        let read = self.answers.read_line(&mut line).map_err(HolderError::Process)?;
        if read == 0 {
            let why = "the process that held the freeze ended".to_owned();
            return Err(HolderError::Refused { why });
        }
        serde_json::from_str(&line).map_err(|error| HolderError::Process(error.into()))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.orders.take());
        let until = std::time::Instant::now() + self.patience;
        while std::time::Instant::now() < until {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        tracing::error!("a process that holds a freeze did not end and is killed");
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait().map(drop)) {
            tracing::error!(%error, "it could not be killed");
        }
    }
}
