//! A session with the server itself: refuses whatever stands between, versions nobody knows,
//! and a role that lacks a right, before anything is begun.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use postgres::config::SslMode;
use postgres::{Client, Config, NoTls};
use serde::{Deserialize, Serialize};

use crate::workload::postgres::error::PgError;
use crate::workload::postgres::lsn::Lsn;
use crate::workload::postgres::tls;

/// Versions whose calls and files are known, as `server_version_num / 10000`.
const VERSIONS: std::ops::RangeInclusive<u32> = 13..=18;
/// A server that takes longer to answer a connection is not there.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Questions by which one backend is told from many.
const PID_LOOKS: usize = 4;
/// Settings a restored cluster must match or exceed to come up, and that tell how it was run.
const SETTINGS: &[&str] = &[
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_wal_senders",
    "max_worker_processes",
    "shared_preload_libraries",
    "wal_level",
];

/// Whether what is said on the way is sealed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Tls {
    Off,
    /// By the authorities of this file, or those the system believes.
    Verify {
        ca_file: Option<PathBuf>,
    },
}

/// How far away the server is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Reach {
    /// Wherever the network leads, perhaps by another port than its own.
    Anywhere(Tls),
    /// On this host, where its files are read.
    Here,
}

/// How to reach the server.
#[derive(Clone, Serialize, Deserialize)]
pub struct Dial {
    /// The directory of its socket, or an address.
    pub host: String,
    pub port: u16,
    pub user: String,
    pub database: String,
    pub password: Option<String>,
    pub reach: Reach,
}

impl std::fmt::Debug for Dial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dial").field("place", &self.place()).finish_non_exhaustive()
    }
}

/// What a server is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Server {
    /// As it says itself.
    pub version: String,
    /// Its major version.
    pub major: u32,
    pub system_identifier: u64,
    pub timeline: u32,
    pub in_recovery: bool,
    pub data: PathBuf,
    /// Configuration that lies elsewhere than in the data directory, by its setting.
    pub config: BTreeMap<String, PathBuf>,
    pub settings: BTreeMap<String, String>,
    pub segment_bytes: u64,
    pub page_bytes: u32,
    pub checksums: bool,
    /// When it was started, in seconds since 1970.
    pub started: i64,
    /// Tablespaces that lie elsewhere than in the data directory: oid, name, place.
    pub tablespaces: Vec<(u32, String, PathBuf)>,
}

fn query(what: &'static str) -> impl Fn(postgres::Error) -> PgError {
    move |source| PgError::Query { what, source }
}

impl Dial {
    /// Where, in words.
    pub fn place(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Whether others can listen to what is said on the way.
    pub(super) fn is_overheard(&self) -> bool {
        let is_loopback = self.host.parse().is_ok_and(|a: std::net::IpAddr| a.is_loopback());
        let is_near = self.host.starts_with('/') || is_loopback;
        self.reach == Reach::Anywhere(Tls::Off) && !is_near
    }

    /// A session that nothing ends but the server or us.
    ///
    /// # Errors
    /// Who refused, and the way out.
    pub fn connect(&self) -> Result<Client, PgError> {
        let mut config = Config::new();
        config.host(&self.host).port(self.port).user(&self.user).dbname(&self.database);
        config.connect_timeout(CONNECT_MAX).application_name("strongroom");
        if let Some(password) = &self.password {
            config.password(password);
        }
        let refused = |error| PgError::of_connecting(error, self.place(), self.user.clone());
        let mut client = match &self.reach {
            Reach::Anywhere(Tls::Verify { ca_file }) => {
                config.ssl_mode(SslMode::Require);
                config.connect(tls::Greeter::new(ca_file.as_deref())?).map_err(refused)?
            }
            Reach::Anywhere(Tls::Off) | Reach::Here => {
                config.ssl_mode(SslMode::Disable);
                config.connect(NoTls).map_err(refused)?
            }
        };
        let quiet = "SET statement_timeout = 0; SET lock_timeout = 0; \
                     SET idle_in_transaction_session_timeout = 0; \
                     SET client_min_messages = warning; SET DateStyle = ISO";
        client.batch_execute(quiet).map_err(query("prepare the session"))?;
        self.is_the_server(&mut client)?;
        Ok(client)
    }

    fn is_the_server(&self, client: &mut Client) -> Result<(), PgError> {
        let pooled = |why: String| PgError::Pooler { place: self.place(), why };
        let mut pids = Vec::new();
        for _ in 0..PID_LOOKS {
            let row = client.query_one("SELECT pg_backend_pid(), current_setting('port')", &[]);
            let row = row.map_err(query("say which process serves the session"))?;
            let port: String = row.get(1);
            if self.reach == Reach::Here && port != self.port.to_string() {
                let own = self.port;
                return Err(pooled(format!("port {own} answers for a server at port {port}")));
            }
            pids.push(row.get::<_, i32>(0));
        }
        pids.dedup();
        match pids.len() {
            1 => Ok(()),
            _ => Err(pooled(format!("the session is served by processes {pids:?} in turn"))),
        }
    }

    /// What the server is, and that the role may do what a run needs.
    ///
    /// # Errors
    /// See [`PgError`].
    pub fn look(&self, client: &mut Client) -> Result<Server, PgError> {
        let version = "SELECT current_setting('server_version'), \
                       current_setting('server_version_num')::int4";
        let row = client.query_one(version, &[]).map_err(query("say its version"))?;
        let (version, number): (String, i32) = (row.get(0), row.get(1));
        let major = u32::try_from(number / 10_000).unwrap_or_default();
        if !VERSIONS.contains(&major) {
            return Err(PgError::Version { place: self.place(), version });
        }
        self.may(client, major)?;
        let facts = "SELECT (SELECT system_identifier FROM pg_control_system()), \
             pg_is_in_recovery(), current_setting('data_directory'), \
             pg_size_bytes(current_setting('wal_segment_size')), \
             current_setting('block_size')::int4, current_setting('data_checksums') = 'on', \
             extract(epoch FROM pg_postmaster_start_time())::int8, \
             current_setting('wal_level')";
        let row = client.query_one(facts, &[]).map_err(query("describe itself"))?;
        let level: String = row.get(7);
        if level == "minimal" {
            return Err(PgError::WalLevel { level });
        }
        let in_recovery = row.get(1);
        let data = PathBuf::from(row.get::<_, String>(2));
        let config = config(client, &data)?;
        Ok(Server {
            version,
            major,
            system_identifier: row.get::<_, i64>(0).cast_unsigned(),
            timeline: timeline(client, in_recovery)?,
            in_recovery,
            config,
            settings: settings(client)?,
            segment_bytes: row.get::<_, i64>(3).cast_unsigned(),
            page_bytes: row.get::<_, i32>(4).cast_unsigned(),
            checksums: row.get(5),
            started: row.get(6),
            tablespaces: tablespaces(client)?,
            data,
        })
    }

    fn may(&self, client: &mut Client, major: u32) -> Result<(), PgError> {
        let (start, stop) = match major {
            ..15 => ("pg_start_backup(text, boolean, boolean)", "pg_stop_backup(boolean, boolean)"),
            _ => ("pg_backup_start(text, boolean)", "pg_backup_stop(boolean)"),
        };
        let rights = "SELECT has_function_privilege($1::text, 'EXECUTE'), \
             has_function_privilege($2::text, 'EXECUTE'), \
             pg_has_role('pg_read_all_settings', 'USAGE'), \
             (SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = current_user)";
        let row = client.query_one(rights, &[&start, &stop]);
        let row = row.map_err(query("say what the role may do"))?;
        let user = &self.user;
        // Over the wire the server itself begins and ends the backup.
        let by_hand = if self.reach == Reach::Here { 0 } else { 2 };
        let lacking = [
            (format!("call {start}"), format!("GRANT EXECUTE ON FUNCTION {start} TO {user}")),
            (format!("call {stop}"), format!("GRANT EXECUTE ON FUNCTION {stop} TO {user}")),
            ("read the settings".to_owned(), format!("GRANT pg_read_all_settings TO {user}")),
            ("keep the log by a slot".to_owned(), format!("ALTER ROLE {user} REPLICATION")),
        ];
        for (at, (what, grant)) in lacking.into_iter().enumerate().skip(by_hand) {
            if !row.get::<_, bool>(at) {
                return Err(PgError::Privilege { user: user.clone(), what, grant });
            }
        }
        Ok(())
    }
}

/// The timeline the server writes, or follows.
///
/// # Errors
/// The server did not answer.
pub(super) fn timeline(client: &mut Client, in_recovery: bool) -> Result<u32, PgError> {
    let question = match in_recovery {
        true => {
            "SELECT greatest((SELECT timeline_id FROM pg_control_checkpoint()), \
             (SELECT min_recovery_end_timeline FROM pg_control_recovery()))"
        }
        false => {
            "SELECT ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))\
             ::bit(32)::int4"
        }
    };
    let row = client.query_one(question, &[]).map_err(query("say its timeline"))?;
    Ok(row.get::<_, i32>(0).cast_unsigned())
}

/// A place in the log that a question answers with.
///
/// # Errors
/// The server did not answer.
pub(super) fn lsn(client: &mut Client, what: &'static str, question: &str) -> Result<Lsn, PgError> {
    let row = client.query_one(question, &[]).map_err(query(what))?;
    Ok(row.get::<_, String>(0).parse().unwrap_or_default())
}

fn config(
    client: &mut Client,
    data: &std::path::Path,
) -> Result<BTreeMap<String, PathBuf>, PgError> {
    let question = "SELECT name, setting FROM pg_settings \
                    WHERE name IN ('config_file', 'hba_file', 'ident_file')";
    let rows = client.query(question, &[]).map_err(query("say where its configuration lies"))?;
    let named = rows.into_iter().map(|row| (row.get(0), PathBuf::from(row.get::<_, String>(1))));
    Ok(named.filter(|(_, path)| !path.starts_with(data)).collect())
}

fn settings(client: &mut Client) -> Result<BTreeMap<String, String>, PgError> {
    let question = "SELECT name, setting FROM pg_settings WHERE name = ANY($1)";
    let rows = client.query(question, &[&SETTINGS]).map_err(query("say its settings"))?;
    Ok(rows.into_iter().map(|row| (row.get(0), row.get(1))).collect())
}

fn tablespaces(client: &mut Client) -> Result<Vec<(u32, String, PathBuf)>, PgError> {
    let question = "SELECT oid, spcname, pg_tablespace_location(oid) FROM pg_tablespace \
                    WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY oid";
    let rows = client.query(question, &[]).map_err(query("list its tablespaces"))?;
    let spaces = rows
        .into_iter()
        .map(|row| (row.get::<_, u32>(0), row.get(1), PathBuf::from(row.get::<_, String>(2))));
    // One that lies in the data directory goes with it.
    Ok(spaces.filter(|(_, _, place)| place.is_absolute()).collect())
}
