//! A session with the server: refuses what is not MariaDB, versions nobody knows, and a data
//! directory of somebody else's, before anything is begun.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mysql::prelude::Queryable as _;
use mysql::{Conn, OptsBuilder, Row};
use serde::{Deserialize, Serialize};

use crate::workload::mariadb::about::Binlog;
use crate::workload::mariadb::error::MariaError;

/// The first and the last series whose stages and files are known.
const SERIES: std::ops::RangeInclusive<(u32, u32)> = (10, 5)..=(12, 3);
/// The server is on this host.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Settings without which no server starts on the files of another.
const KEPT: [&str; 5] = [
    "innodb_data_file_path",
    "innodb_page_size",
    "innodb_undo_tablespaces",
    "innodb_checksum_algorithm",
    "lower_case_table_names",
];
/// Settings that say where files of the server lie; relative ones lie in the data directory.
const PLACES: [&str; 4] = [
    "aria_log_dir_path",
    "innodb_data_home_dir",
    "innodb_log_group_home_dir",
    "innodb_undo_directory",
];
/// Asks for [`LogEnds`].
const LOG_ENDS: &str = "SHOW GLOBAL STATUS WHERE Variable_name IN \
                        ('Innodb_lsn_current', 'Innodb_lsn_flushed')";

/// How to reach the server.
#[derive(Clone, Serialize, Deserialize)]
pub struct Dial {
    /// Its socket, or an address of this host.
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: Option<String>,
    /// How long a lock of the backup is waited for.
    pub lock_wait_seconds: u64,
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
    /// The first two numbers of it: what has to be equal to understand its files.
    pub series: (u32, u32),
    pub server_id: u64,
    pub server_uid: Option<String>,
    pub data: PathBuf,
    pub pid_file: PathBuf,
    /// Where else its files lie, by the setting that says so.
    pub elsewhere: BTreeMap<String, PathBuf>,
    pub settings: BTreeMap<String, String>,
}

/// Up to where a server's log of changes goes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Marks {
    pub binlog: Option<Binlog>,
    pub gtid_binlog: String,
    pub gtid_slave: String,
}

/// The log of InnoDB, in bytes from its very beginning.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogEnds {
    pub current: u64,
    /// Up to where it is in its file.
    pub flushed: u64,
}

impl Dial {
    /// Where, in words.
    pub fn place(&self) -> String {
        match self.is_socket() {
            true => self.host.clone(),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// Whether it is reached by its socket.
    pub(super) fn is_socket(&self) -> bool {
        self.host.starts_with('/')
    }

    /// A session.
    ///
    /// # Errors
    /// Who refused, and the way out.
    pub fn connect(&self) -> Result<Conn, MariaError> {
        let options = OptsBuilder::new()
            .user(Some(&self.user))
            .pass(self.password.as_ref())
            .prefer_socket(false)
            .tcp_connect_timeout(Some(CONNECT_MAX))
            .stmt_cache_size(Some(0_usize));
        let options = match self.is_socket() {
            true => options.socket(Some(&self.host)),
            false => options.ip_or_hostname(Some(&self.host)).tcp_port(self.port),
        };
        let refused = |error| MariaError::of_connecting(error, self.place(), &self.user);
        Conn::new(options).map_err(refused)
    }

    /// Carries out a statement that a backup needs.
    ///
    /// # Errors
    /// What it could not do, and the way out.
    pub(super) fn order(
        &self,
        session: &mut Conn,
        what: &'static str,
        statement: &str,
    ) -> Result<(), MariaError> {
        let seconds = self.lock_wait_seconds;
        let failed = |error| MariaError::of_statement(error, what, &self.user, seconds);
        session.query_drop(statement).map_err(failed)
    }

    /// What the server is.
    ///
    /// # Errors
    /// It is none that this agent knows.
    pub fn look(&self, session: &mut Conn) -> Result<Server, MariaError> {
        let failed = |what| move |source| MariaError::Query { what, source };
        let version: Option<String> =
            session.query_first("SELECT VERSION()").map_err(failed("say its version"))?;
        let version = version.unwrap_or_default();
        let place = self.place();
        if !version.contains("MariaDB") {
            return Err(MariaError::NotMaria { place, version });
        }
        let Some(series) = series(&version).filter(|series| SERIES.contains(series)) else {
            return Err(MariaError::Version { place, version });
        };
        let names = [&KEPT[..], &PLACES, &["datadir", "pid_file", "server_id", "server_uid"]];
        let names: Vec<String> = names.concat().iter().map(|name| format!("'{name}'")).collect();
        let question =
            format!("SHOW GLOBAL VARIABLES WHERE Variable_name IN ({})", names.join(", "));
        let rows: Vec<(String, String)> =
            session.query(question).map_err(failed("say its settings"))?;
        let mut known: BTreeMap<String, String> = rows.into_iter().collect();
        let data = PathBuf::from(known.remove("datadir").unwrap_or_default());
        let place_of = |name: &str| known.get(name).filter(|path| !path.is_empty());
        let lies = |path: &String| data.join(path);
        let elsewhere = PLACES.iter().filter_map(|name| {
            let path = place_of(name).map(lies)?;
            (!path.starts_with(&data)).then(|| ((*name).to_owned(), path))
        });
        Ok(Server {
            series,
            server_id: known.get("server_id").and_then(|id| id.parse().ok()).unwrap_or_default(),
            server_uid: known.get("server_uid").cloned(),
            pid_file: place_of("pid_file").map(lies).unwrap_or_default(),
            elsewhere: elsewhere.collect(),
            settings: KEPT
                .iter()
                .filter_map(|name| Some(((*name).to_owned(), known.get(*name)?.clone())))
                .collect(),
            version,
            data,
        })
    }

    /// Up to where the log of InnoDB goes; none where there is no InnoDB.
    ///
    /// # Errors
    /// It does not answer.
    pub(super) fn log_ends(&self, session: &mut Conn) -> Result<Option<LogEnds>, MariaError> {
        let what = "say up to where its log is written";
        let failed = |source| MariaError::of_statement(source, what, &self.user, 0);
        let rows: Vec<(String, u64)> = session.query(LOG_ENDS).map_err(failed)?;
        let of =
            |name| rows.iter().find(|(row, _)| row.eq_ignore_ascii_case(name)).map(|row| row.1);
        let ends = of("Innodb_lsn_current").zip(of("Innodb_lsn_flushed"));
        Ok(ends.map(|(current, flushed)| LogEnds { current, flushed }))
    }

    /// Up to where its log of changes goes; to be asked while nothing can commit.
    ///
    /// # Errors
    /// A right is missing, or it does not answer.
    pub(super) fn marks(&self, session: &mut Conn) -> Result<Marks, MariaError> {
        let what = "say where its log of changes ends";
        let failed = |source| MariaError::of_statement(source, what, &self.user, 0);
        let row: Option<Row> = session.query_first("SHOW MASTER STATUS").map_err(failed)?;
        let binlog = row.and_then(|row| {
            let file: String = row.get(0)?;
            Some(Binlog { file, position: row.get(1)? })
        });
        let gtids: Option<(Option<String>, Option<String>)> = session
            .query_first("SELECT @@GLOBAL.gtid_binlog_pos, @@GLOBAL.gtid_slave_pos")
            .map_err(failed)?;
        let (gtid_binlog, gtid_slave) = gtids.unwrap_or_default();
        Ok(Marks {
            binlog,
            gtid_binlog: gtid_binlog.unwrap_or_default(),
            gtid_slave: gtid_slave.unwrap_or_default(),
        })
    }
}

/// The first two numbers of a version.
pub(super) fn series(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(['.', '-']).map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// The data directory, once it is sure to be that of the server.
///
/// # Errors
/// It is not there, or another server runs in it, or none.
pub(super) fn data_of(
    named: Option<&Path>,
    dial: &Dial,
    server: &Server,
) -> Result<PathBuf, MariaError> {
    let unread = |path: PathBuf| move |source| MariaError::File { path, source };
    let named = named.unwrap_or(&server.data);
    let data = fs::canonicalize(named).map_err(unread(named.to_owned()))?;
    let pid = fs::read_to_string(&server.pid_file).map_err(unread(server.pid_file.clone()))?;
    // A server of MariaDB works in its data directory.
    let works = fs::read_link(format!("/proc/{}/cwd", pid.trim()));
    let why = match works {
        Ok(works) if works == data => return Ok(data),
        Ok(works) => format!("the server works in {}", works.display()),
        Err(error) => format!("no process {} of this host can be looked at: {error}", pid.trim()),
    };
    Err(MariaError::Another { data, place: dial.place(), why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_by_their_first_two_numbers() {
        assert_eq!(series("10.11.19-MariaDB-0+deb12u1-log"), Some((10, 11)));
        assert_eq!(series("12.0-rc"), Some((12, 0)));
        assert_eq!(series("8"), None);
        assert_eq!(series("MariaDB"), None);
        assert!(SERIES.contains(&(11, 8)) && !SERIES.contains(&(10, 4)));
    }
}
