//! A client of QEMU's monitor protocol. Promises that a command is answered, refused or given
//! up within its time; events are passed over, for every state can be asked for.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::lines::{Lines, is_silence};

/// How long the monitor may take to greet: it is busy with another client otherwise.
const GREETING: Duration = Duration::from_secs(5);
/// How long a command may take; those that take long are jobs.
const COMMAND: Duration = Duration::from_secs(30);
/// How often a state is asked for that must change by itself.
const LOOK: Duration = Duration::from_millis(10);

/// A connection to the monitor of one machine.
#[derive(Debug)]
pub struct Qmp {
    lines: Lines,
    path: PathBuf,
    next: u64,
}

/// Why the monitor did not do what it was told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QmpError {
    /// Nobody listens there.
    #[error(
        "the monitor of the machine at {} cannot be reached; does it run, with \
         `-qmp unix:{},server=on,wait=off`?", .path.display(), .path.display()
    )]
    Absent { path: PathBuf, source: io::Error },
    /// It does not greet.
    #[error(
        "the monitor at {} does not greet: somebody else is connected; give the machine a \
         second `-qmp` socket for the backup", .path.display()
    )]
    Busy { path: PathBuf },
    /// The connection broke.
    #[error("the monitor at {} went away", .path.display())]
    Gone { path: PathBuf, source: io::Error },
    /// QEMU says no.
    #[error("the machine refused {command}: {why}")]
    Refused { command: String, why: String },
    /// No answer in time.
    #[error("the machine did not answer {command} within {} s", .limit.as_secs())]
    Silent { command: String, limit: Duration },
}

impl Qmp {
    /// Connects and makes the monitor ready for commands.
    ///
    /// # Errors
    /// It is not there, or serves somebody else.
    pub fn connect(path: &Path) -> Result<Self, QmpError> {
        let absent = |source| QmpError::Absent { path: path.to_owned(), source };
        let lines = match Lines::connect(path, GREETING) {
            Err(error) if is_silence(&error) => {
                return Err(QmpError::Busy { path: path.to_owned() });
            }
            lines => lines.map_err(absent)?,
        };
        let mut qmp = Self { lines, path: path.to_owned(), next: 0 };
        match qmp.lines.line(Instant::now() + GREETING) {
            Ok(line) => {
                let greeting: Value = serde_json::from_slice(&line).unwrap_or_default();
                if greeting.get("QMP").is_none() {
                    let why = "that is no QEMU monitor";
                    return Err(absent(io::Error::new(io::ErrorKind::InvalidData, why)));
                }
            }
            Err(error) if is_silence(&error) => {
                return Err(QmpError::Busy { path: path.to_owned() });
            }
            Err(source) => return Err(absent(source)),
        }
        qmp.command("qmp_capabilities", &Value::Null)?;
        Ok(qmp)
    }

    /// The process of the machine, where the kernel knows it.
    pub fn process(&self) -> Option<u32> {
        self.lines.peer()
    }

    /// Has a command carried out; its answer. `Null` for no arguments.
    ///
    /// # Errors
    /// It was refused, or there is no answer.
    pub fn command(&mut self, command: &str, arguments: &Value) -> Result<Value, QmpError> {
        self.next += 1;
        let id = self.next;
        let mut order = json!({ "execute": command, "id": id });
        if let (Some(order), false) = (order.as_object_mut(), arguments.is_null()) {
            order.insert("arguments".to_owned(), arguments.clone());
        }
        let until = Instant::now() + COMMAND;
        let failed = |path: &Path, error: io::Error| match is_silence(&error) {
            true => QmpError::Silent { command: command.to_owned(), limit: COMMAND },
            false => QmpError::Gone { path: path.to_owned(), source: error },
        };
        let text = format!("{order}\n");
        self.lines.say(text.as_bytes(), until).map_err(|error| failed(&self.path, error))?;
        loop {
            let line = self.lines.line(until).map_err(|error| failed(&self.path, error))?;
            let mut answer: Value = serde_json::from_slice(&line)
                .map_err(|error| failed(&self.path, io::Error::other(error)))?;
            if let Some(error) = answer.get("error").filter(|_| answer["id"] == id) {
                let why = error["desc"].as_str().unwrap_or("no reason given").to_owned();
                return Err(QmpError::Refused { command: command.to_owned(), why });
            }
            if answer["id"] == id {
                return Ok(answer["return"].take());
            }
            // An event, or the late answer to a command that was given up.
        }
    }

    /// Asks until the answer is such that `done` says something.
    ///
    /// # Errors
    /// It did not come to that in time.
    pub(super) fn until<T>(
        &mut self,
        command: &str,
        limit: Duration,
        mut done: impl FnMut(&Value) -> Option<T>,
    ) -> Result<T, QmpError> {
        let until = Instant::now() + limit;
        loop {
            let answer = self.command(command, &Value::Null)?;
            if let Some(found) = done(&answer) {
                return Ok(found);
            }
            if Instant::now() > until {
                return Err(QmpError::Silent { command: command.to_owned(), limit });
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Has something created by a job of this id, and waits for it.
    ///
    /// # Errors
    /// It was not created.
    pub(super) fn create(&mut self, id: &str, options: &Value) -> Result<(), QmpError> {
        self.command("blockdev-create", &json!({ "job-id": id, "options": options }))?;
        let why = self.until("query-jobs", COMMAND, |jobs| {
            let job = find(jobs, "id", id)?;
            (job["status"] == "concluded").then(|| job["error"].as_str().map(str::to_owned))
        })?;
        self.command("job-dismiss", &json!({ "id": id }))?;
        match why {
            None => Ok(()),
            Some(why) => Err(QmpError::Refused { command: "blockdev-create".to_owned(), why }),
        }
    }
}

/// The first of a list whose `key` is `value`.
pub(super) fn find<'v>(list: &'v Value, key: &str, value: &str) -> Option<&'v Value> {
    list.as_array()?.iter().find(|item| item[key] == value)
}
