//! A client of the QEMU guest agent, and the freeze of a guest's file systems by it, for a
//! holder process. Promises that a guest which was asked to freeze is asked to thaw and seen
//! thawed; a guest agent that hangs costs seconds, not the run.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::lines::{Lines, is_silence};
use crate::holder::Holding;

/// The word in a holder's order for this way of holding.
pub const GUEST_AGENT: &str = "guest-agent";
/// How long the agent may take for anything but a freeze: else it hangs.
const ANSWER: Duration = Duration::from_secs(5);
/// Begins what `guest-sync-delimited` answers, and what flushes the agent's parser.
const SENTINEL: u8 = 0xff;

/// Tells the connections of this process apart.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A connection to the agent in one guest.
#[derive(Debug)]
pub struct Guest {
    lines: Lines,
}

/// Why the guest agent did not do what it was told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuestError {
    /// Nobody listens there: the machine does not run.
    #[error("the guest agent's socket {} cannot be reached", .path.display())]
    Absent { path: PathBuf, source: io::Error },
    /// The connection broke.
    #[error("the connection to the guest agent broke at {command}")]
    Gone { command: String, source: io::Error },
    /// The agent says no.
    #[error("the guest agent refused {command}: {why}")]
    Refused { command: String, why: String },
    /// No answer in time.
    #[error(
        "the guest agent did not answer {command} within {} s: it is not installed, not \
         running, or hangs", .limit.as_secs()
    )]
    Silent { command: String, limit: Duration },
}

impl Guest {
    /// Connects and puts both ends in step: whatever an earlier client left is passed over.
    ///
    /// # Errors
    /// Nobody answers within five seconds.
    pub fn connect(path: &Path) -> Result<Self, GuestError> {
        let absent = |source| GuestError::Absent { path: path.to_owned(), source };
        let mut guest = Self { lines: Lines::connect(path, ANSWER).map_err(absent)? };
        let command = "guest-sync-delimited";
        // The guest may answer those who gave up before: each connection asks for its own.
        let id = u64::from(std::process::id()) << 20 | NEXT.fetch_add(1, Ordering::Relaxed);
        let mut order = vec![SENTINEL];
        order.extend(json!({ "execute": command, "arguments": { "id": id } }).to_string().bytes());
        order.push(b'\n');
        let until = Instant::now() + ANSWER;
        let failed = |error| failed(command, ANSWER, error);
        guest.lines.say(&order, until).map_err(failed)?;
        loop {
            guest.lines.up_to(SENTINEL, until).map_err(failed)?;
            let line = guest.lines.line(until).map_err(failed)?;
            let answer: Value = serde_json::from_slice(&line).unwrap_or_default();
            if answer["return"] == id {
                return Ok(guest);
            }
        }
    }

    /// Has a command carried out within the usual time.
    ///
    /// # Errors
    /// It was refused, or there is no answer.
    pub fn command(&mut self, command: &str, arguments: &Value) -> Result<Value, GuestError> {
        self.within(command, arguments, ANSWER)
    }

    /// Has a command carried out within `limit`.
    ///
    /// # Errors
    /// It was refused, or there is no answer.
    pub fn within(
        &mut self,
        command: &str,
        arguments: &Value,
        limit: Duration,
    ) -> Result<Value, GuestError> {
        let mut order = json!({ "execute": command });
        if let (Some(order), false) = (order.as_object_mut(), arguments.is_null()) {
            order.insert("arguments".to_owned(), arguments.clone());
        }
        let until = Instant::now() + limit;
        let failed = |error| failed(command, limit, error);
        self.lines.say(format!("{order}\n").as_bytes(), until).map_err(failed)?;
        let line = self.lines.line(until).map_err(failed)?;
        let answer: Value =
            serde_json::from_slice(&line).map_err(|error| failed(io::Error::other(error)))?;
        match answer.get("error") {
            Some(error) => {
                let why = error["desc"].as_str().unwrap_or("no reason given").to_owned();
                Err(GuestError::Refused { command: command.to_owned(), why })
            }
            None => Ok(answer["return"].clone()),
        }
    }
}

fn failed(command: &str, limit: Duration, source: io::Error) -> GuestError {
    let command = command.to_owned();
    match is_silence(&source) {
        true => GuestError::Silent { command, limit },
        false => GuestError::Gone { command, source },
    }
}

/// What a holder must know to freeze a guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GuestFreeze {
    pub socket: PathBuf,
    /// How long the freeze itself may take.
    pub limit_ms: u64,
}

/// What was seen when a guest froze.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Frozen {
    /// File systems.
    pub count: u64,
    /// What the guest calls itself, where it says so.
    pub system: Option<String>,
}

/// How far a freeze has come: what was never begun need not be ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Made to end what another process began.
    Unknown,
    Unbegun,
    Begun,
}

/// The file systems of a guest, held by a holder.
#[derive(Debug)]
struct GuestHolding {
    about: GuestFreeze,
    stage: Stage,
    guest: Option<Guest>,
}

/// Makes the holding an order asks for.
///
/// # Errors
/// The order cannot be read.
pub fn holding(about: &Value) -> Result<Box<dyn Holding>, String> {
    let about = GuestFreeze::deserialize(about).map_err(|error| error.to_string())?;
    Ok(Box::new(GuestHolding { about, stage: Stage::Unknown, guest: None }))
}

impl GuestHolding {
    fn freeze_it(&mut self) -> Result<Frozen, GuestError> {
        let mut guest = Guest::connect(&self.about.socket)?;
        let system = guest.command("guest-get-osinfo", &Value::Null).ok();
        let system = system.and_then(|info| info["id"].as_str().map(str::to_owned));
        let status = guest.command("guest-fsfreeze-status", &Value::Null)?;
        let refused = |why: &str| GuestError::Refused {
            command: "guest-fsfreeze-freeze".to_owned(),
            why: why.to_owned(),
        };
        if status != "thawed" {
            return Err(refused("somebody else holds the guest frozen"));
        }
        self.stage = Stage::Begun;
        let limit = Duration::from_millis(self.about.limit_ms);
        let frozen = guest.within("guest-fsfreeze-freeze", &Value::Null, limit)?;
        self.guest = Some(guest);
        Ok(Frozen { count: frozen.as_u64().unwrap_or_default(), system })
    }

    /// Thaws, and looks whether it is.
    fn thaw_it(&mut self) -> Result<u64, GuestError> {
        let mut guest = match self.guest.take() {
            Some(guest) => guest,
            None => Guest::connect(&self.about.socket)?,
        };
        let thawed = guest.command("guest-fsfreeze-thaw", &Value::Null)?;
        let status = guest.command("guest-fsfreeze-status", &Value::Null)?;
        if status != "thawed" {
            let command = "guest-fsfreeze-thaw".to_owned();
            return Err(GuestError::Refused { command, why: format!("it is {status} still") });
        }
        Ok(thawed.as_u64().unwrap_or_default())
    }
}

impl Holding for GuestHolding {
    fn freeze(&mut self) -> Result<Value, String> {
        self.stage = Stage::Unbegun;
        let frozen = self.freeze_it().map_err(|error| told(&error))?;
        serde_json::to_value(frozen).map_err(|error| error.to_string())
    }

    fn thaw(&mut self) -> Result<Value, String> {
        if self.stage == Stage::Unbegun {
            return Ok(Value::Null);
        }
        match self.thaw_it() {
            Ok(count) => Ok(json!({ "count": count })),
            // The machine ended, and its freeze with it.
            Err(GuestError::Absent { .. }) => Ok(json!({ "count": 0, "gone": true })),
            Err(error) => Err(told(&error)),
        }
    }
}

fn told(error: &GuestError) -> String {
    strongroom_protocol::Chain(error).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::os::unix::net::{UnixListener, UnixStream};

    fn asked(stream: &UnixStream) -> Value {
        let mut reader = BufReader::new(stream);
        reader.read_exact(&mut [0]).unwrap();
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        serde_json::from_str::<Value>(&line).unwrap()["arguments"]["id"].take()
    }

    #[test]
    fn late_answers_to_those_who_gave_up_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qga");
        let listener = UnixListener::bind(&path).unwrap();
        let agent = std::thread::spawn(move || {
            // A guest that boots: the first is not answered, its bytes are read later.
            let first = asked(&listener.accept().unwrap().0);
            let (mut stream, _) = listener.accept().unwrap();
            let second = asked(&stream);
            let error = br#"{"error": {"desc": "stray"}}"#;
            for id in [first, second] {
                let answer = json!({ "return": id }).to_string();
                let said = [&error[..], b"\n\xff", answer.as_bytes(), b"\n"].concat();
                stream.write_all(&said).unwrap();
            }
            BufReader::new(&stream).read_line(&mut String::new()).unwrap();
            stream.write_all(b"{\"return\": \"thawed\"}\n").unwrap();
        });
        assert!(Guest::connect(&path).is_err());
        let mut guest = Guest::connect(&path).unwrap();
        let status = guest.command("guest-fsfreeze-status", &Value::Null).unwrap();
        assert_eq!(status, "thawed");
        agent.join().unwrap();
    }
}
