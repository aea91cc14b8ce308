//! The session of a backup, in a process of its own: a temporary slot that keeps the log from
//! its start on, and the backup itself. Both die with the session, so whatever becomes of the
//! agent, the server is rid of them.

use postgres::Client;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use strongroom_protocol::Chain;

use crate::holder::Holding;
use crate::workload::postgres::error::PgError;
use crate::workload::postgres::lsn::Lsn;
use crate::workload::postgres::session::{Dial, Server, timeline};

/// The word by which a holder knows that it holds a backup of PostgreSQL.
pub(super) const WHAT: &str = "postgres";

/// What the holder is told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Told {
    pub dial: Dial,
    pub label: String,
    pub slot: String,
}

/// A backup that was started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Started {
    pub server: Server,
    pub start: Lsn,
    /// The process of the server that serves the session.
    pub backend: i32,
}

/// A backup that was ended in order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Stopped {
    pub stop: Lsn,
    pub label: String,
    pub map: String,
    pub timeline: u32,
    pub in_recovery: bool,
    pub system_identifier: u64,
}

/// Asks the holder to end the backup and to go on keeping the log.
pub(super) fn stop_question() -> Value {
    Value::String("stop".to_owned())
}

/// The session.
pub(super) struct Session {
    told: Told,
    client: Option<Client>,
    running: Option<Server>,
}

impl Session {
    /// From what a holder is told.
    ///
    /// # Errors
    /// It cannot be understood.
    pub(super) fn new(about: &Value) -> Result<Self, String> {
        let told = serde_json::from_value(about.clone()).map_err(|error| error.to_string())?;
        Ok(Self { told, client: None, running: None })
    }

    fn start(&mut self) -> Result<Started, PgError> {
        let Told { dial, label, slot } = &self.told;
        let mut client = dial.connect()?;
        let server = dial.look(&mut client)?;
        let query = |what| move |source| PgError::Query { what, source };
        let keep = "SELECT pg_create_physical_replication_slot($1, true, true)";
        client.execute(keep, &[slot]).map_err(query(
            "make a temporary replication slot (is max_replication_slots reached?)",
        ))?;
        let start = match server.major {
            ..15 => "SELECT pg_start_backup($1, true, false)::text, pg_backend_pid()",
            _ => "SELECT pg_backup_start($1, true)::text, pg_backend_pid()",
        };
        let row = client.query_one(start, &[label]).map_err(query("start the backup"))?;
        let start = row.get::<_, String>(0).parse().unwrap_or_default();
        let started = Started { server, start, backend: row.get(1) };
        self.running = Some(started.server.clone());
        self.client = Some(client);
        Ok(started)
    }

    fn stop(&mut self) -> Result<Stopped, PgError> {
        let gone = || PgError::Member { why: "no backup is under way".to_owned() };
        let server = self.running.take().ok_or_else(gone)?;
        let client = self.client.as_mut().ok_or_else(gone)?;
        let query = |what| move |source| PgError::Query { what, source };
        let stop = match server.major {
            ..15 => "SELECT lsn::text, labelfile, spcmapfile FROM pg_stop_backup(false, false)",
            _ => "SELECT lsn::text, labelfile, spcmapfile FROM pg_backup_stop(false)",
        };
        let row = client.query_one(stop, &[]).map_err(query("end the backup"))?;
        let same = "SELECT pg_is_in_recovery(), \
                    (SELECT system_identifier FROM pg_control_system())";
        let now = client.query_one(same, &[]).map_err(query("describe itself"))?;
        let in_recovery = now.get(0);
        Ok(Stopped {
            stop: row.get::<_, String>(0).parse().unwrap_or_default(),
            label: row.get(1),
            map: row.get::<_, Option<String>>(2).unwrap_or_default(),
            timeline: timeline(client, in_recovery)?,
            in_recovery,
            system_identifier: now.get::<_, i64>(1).cast_unsigned(),
        })
    }
}

impl Holding for Session {
    fn freeze(&mut self) -> Result<Value, String> {
        let started = self.start().map_err(|error| Chain(&error).to_string())?;
        serde_json::to_value(started).map_err(|error| error.to_string())
    }

    fn answer(&mut self, question: &Value) -> Result<Value, String> {
        if *question != stop_question() {
            return Err("a backup can only be stopped".to_owned());
        }
        let stopped = self.stop().map_err(|error| Chain(&error).to_string())?;
        serde_json::to_value(stopped).map_err(|error| error.to_string())
    }

    /// The server ends the backup and drops the slot with the session, and has done so when
    /// the session is closed; a session that broke is at its end already.
    fn thaw(&mut self) -> Result<Value, String> {
        self.running = None;
        if let Some(client) = self.client.take()
            && let Err(error) = client.close()
        {
            tracing::debug!(%error, "the session of the backup had broken");
        }
        Ok(Value::Null)
    }
}
