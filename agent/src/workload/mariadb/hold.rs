//! The session of a backup, in a process of its own: the stages by which the server comes to
//! rest, up to where nothing can commit. They end with the session, so whatever becomes of the
//! agent, the server goes on; and with a deadline that counts from where commits wait.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mysql::Conn;
use mysql::prelude::Queryable as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use strongroom_protocol::Chain;

use crate::holder::{Holding, Order};
use crate::workload::mariadb::error::MariaError;
use crate::workload::mariadb::session::{Dial, LogEnds, Marks};

/// The word by which a holder knows that it holds the stages of a backup.
pub(super) const WHAT: &str = "mariadb";
/// How long the session may be idle; its holder's deadline comes earlier.
const IDLE_SECONDS: u64 = 28_800;

/// The stages, in order, up to where nothing commits; the last is the one that holds
/// transactions up. In words, what the server could not do if one fails.
const STAGES: [(&str, &str); 4] = [
    ("BACKUP STAGE START", "begin a backup"),
    ("BACKUP STAGE FLUSH", "close the tables that nobody uses"),
    ("BACKUP STAGE BLOCK_DDL", "hold statements that change tables"),
    ("BACKUP STAGE BLOCK_COMMIT", "hold commits"),
];
/// What is committed is in the files, unless the server writes its log once a second: InnoDB
/// passes the order over where `innodb_flush_log_at_trx_commit` is 0, so its log is looked at.
const FLUSH_LOGS: &str = "FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS";
/// How long between two looks at that log.
const LOOK: Duration = Duration::from_millis(10);

/// Nothing commits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Blocked {
    pub marks: Marks,
    /// How long that has been so already.
    pub since_ms: u64,
}

/// Transactions commit again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Released {
    /// Whether they waited until now; otherwise the session had broken before.
    pub held: bool,
}

/// What a holder is told, to keep the transactions of a server from committing for as long as
/// this at most.
///
/// # Errors
/// Never for a dial that was read from a policy.
pub fn order(dial: &Dial, commits_wait_max: Duration) -> Result<Order, serde_json::Error> {
    // Each stage before the last waits for a lock at most so long; commits wait for none of it.
    let waits = Duration::from_secs(dial.lock_wait_seconds) * 4 + commits_wait_max * 2;
    let milliseconds = |of: Duration| u64::try_from(of.as_millis()).unwrap_or(u64::MAX);
    Ok(Order {
        what: WHAT.to_owned(),
        about: serde_json::to_value((dial, milliseconds(commits_wait_max)))?,
        deadline_ms: milliseconds(waits),
        note: None,
    })
}

/// A session that whoever comes first ends: who holds it, or the deadline.
type Shared = Arc<Mutex<Option<Conn>>>;

/// The session.
pub(super) struct Stages {
    dial: Dial,
    commits_wait_max: Duration,
    session: Shared,
    /// Its end calls the deadline off.
    deadline: Option<Sender<()>>,
}

impl Stages {
    /// From what a holder is told.
    ///
    /// # Errors
    /// It cannot be understood.
    pub(super) fn new(about: &Value) -> Result<Self, String> {
        let (dial, milliseconds): (Dial, u64) =
            serde_json::from_value(about.clone()).map_err(|error| error.to_string())?;
        let commits_wait_max = Duration::from_millis(milliseconds);
        Ok(Self { dial, commits_wait_max, session: Shared::default(), deadline: None })
    }

    fn block(&mut self) -> Result<Blocked, MariaError> {
        let dial = &self.dial;
        let mut session = dial.connect()?;
        let seconds = dial.lock_wait_seconds;
        let limits = format!(
            "SET SESSION lock_wait_timeout = {seconds}, wait_timeout = {IDLE_SECONDS}, \
             max_statement_time = 0"
        );
        dial.order(&mut session, "prepare the session", &limits)?;
        let [before @ .., (last, what)] = STAGES;
        for (stage, what) in before {
            dial.order(&mut session, what, stage)?;
        }
        // While it waits for transactions that are committing, new ones wait behind it.
        let most = self.commits_wait_max.as_secs().clamp(1, seconds);
        let limit = format!("SET SESSION lock_wait_timeout = {most}");
        dial.order(&mut session, "prepare the session", &limit)?;
        let since = Instant::now();
        dial.order(&mut session, what, last)?;
        dial.order(&mut session, "write its logs down", FLUSH_LOGS)?;
        self.written(&mut session, since)?;
        let marks = dial.marks(&mut session)?;
        let waited = since.elapsed();
        self.watch(session, self.commits_wait_max.saturating_sub(waited));
        let since_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
        Ok(Blocked { marks, since_ms })
    }

    /// Waits until the log of InnoDB is written as far as it went when commits began to wait.
    fn written(&self, session: &mut Conn, since: Instant) -> Result<(), MariaError> {
        let Some(LogEnds { current: wanted, mut flushed }) = self.dial.log_ends(session)? else {
            return Ok(());
        };
        while flushed < wanted {
            if since.elapsed() > self.commits_wait_max {
                return Err(MariaError::Unwritten { seconds: self.commits_wait_max.as_secs() });
            }
            std::thread::sleep(LOOK);
            flushed = self.dial.log_ends(session)?.map_or(wanted, |ends| ends.flushed);
        }
        Ok(())
    }

    /// Keeps the session, until the deadline at most.
    fn watch(&mut self, session: Conn, left: Duration) {
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
        let (sender, called_off) = channel::<()>();
        self.deadline = Some(sender);
        let shared = Arc::clone(&self.session);
        let _watching = std::thread::spawn(move || {
            if called_off.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
                end(&shared);
            }
        });
    }
}

/// Ends the stages, if nobody has; whether they had lasted until now.
fn end(shared: &Shared) -> bool {
    let session = shared.lock().unwrap_or_else(PoisonError::into_inner).take();
    session.is_some_and(|mut session| session.query_drop("BACKUP STAGE END").is_ok())
}

impl Holding for Stages {
    fn freeze(&mut self) -> Result<Value, String> {
        let blocked = self.block().map_err(|error| Chain(&error).to_string())?;
        serde_json::to_value(blocked).map_err(|error| error.to_string())
    }

    /// The server lets go with the session, whatever the session says.
    fn thaw(&mut self) -> Result<Value, String> {
        let held = end(&self.session);
        self.deadline = None;
        serde_json::to_value(Released { held }).map_err(|error| error.to_string())
    }
}
