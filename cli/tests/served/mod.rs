//! A command of this program that serves until it is told to end, and what it says meanwhile.

#![allow(dead_code, reason = "every test uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::Value;

use crate::lab::Sites;
use crate::lab::cluster::signal;

/// What is waited for comes within this, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(60);

/// A command that serves; it ends with this.
pub(crate) struct Served {
    child: Child,
    lines: Receiver<Value>,
    /// What it said first.
    pub(crate) begun: Value,
}

impl Served {
    /// Starts it, and waits for its first word.
    pub(crate) fn begin(sites: &Sites, words: &[&str]) -> Self {
        let mut command = sites.command(&[&["--json"], words].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let lines = heard(child.stdout.take().unwrap());
        let mut served = Self { child, lines, begun: Value::Null };
        served.begun = served.next(PATIENCE);
        served
    }

    /// The next thing it says.
    pub(crate) fn next(&self, patience: Duration) -> Value {
        self.lines.recv_timeout(patience).unwrap()
    }

    /// Where the export of this number is.
    pub(crate) fn uri(&self, number: usize) -> String {
        self.begun["exports"][number]["uri"].as_str().unwrap().to_owned()
    }

    pub(crate) fn port(&self) -> u16 {
        let place = self.begun["listening"].as_str().unwrap();
        place.rsplit(':').next().unwrap().parse().unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it to end, as a person at a terminal would; the last it says.
    pub(crate) fn end(self) -> Value {
        signal(self.child.id(), "INT");
        self.await_end(PATIENCE)
    }

    /// Waits until it ends by itself; the last it says.
    pub(crate) fn await_end(mut self, patience: Duration) -> Value {
        let last = self.next(patience);
        assert!(self.lines.recv_timeout(patience).is_err(), "more was said");
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {last}");
        last
    }

    /// Waits for its end, without a word; its exit code.
    pub(crate) fn ended_silently(mut self) -> Option<i32> {
        signal(self.child.id(), "TERM");
        assert!(self.lines.recv_timeout(PATIENCE).is_err(), "something was said");
        self.child.wait().unwrap().code()
    }

    /// SIGKILL, and nothing else.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // On the way out; one that is gone already is gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn heard(out: ChildStdout) -> Receiver<Value> {
    let (said, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            let Ok(value) = serde_json::from_str(&line) else { continue };
            if said.send(value).is_err() {
                return;
            }
        }
    });
    lines
}
