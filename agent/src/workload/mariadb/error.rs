//! Why a server was not protected, each with the way out.

use std::io;
use std::path::PathBuf;

use mysql::Error;
use strongroom_protocol::opening::RefusalKind;

use crate::holder::HolderError;
use crate::workload::apps::SettingError;
use crate::workload::btrfs::SnapshotError;
use crate::workload::mariadb::stream::StreamError;

/// What the server answers when a user, a host or a password is wrong.
const ACCESS_DENIED: u16 = 1045;
/// When the host is not let in at all.
const HOST_NOT_ALLOWED: u16 = 1130;
/// When the account wants TLS.
const INSECURE_REFUSED: u16 = 3159;
/// When a right is missing.
const RIGHT_MISSING: [u16; 3] = [1044, 1142, 1227];
/// When a lock was not had in time.
const LOCK_WAIT: u16 = 1205;

/// Why a server was not protected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MariaError {
    /// The data directory is another server's.
    #[error(
        "{} is not the data directory of the server at {place}: {why}; name it with `data`",
        .data.display()
    )]
    Another { data: PathBuf, place: String, why: String },
    /// Something of it cannot be read or made on this host.
    #[error(
        "{} cannot be used; the agent must run on the server's host, as root or as the owner of \
         the files",
        .path.display()
    )]
    File { path: PathBuf, source: io::Error },
    /// The process that holds the backup.
    #[error("the session of the backup did not go on")]
    Holder(#[from] HolderError),
    /// The account may not come in.
    #[error(
        "the server at {place} does not let {user} in ({said}); check the account and the \
         password in the file that `password_file` names"
    )]
    NotLetIn { place: String, user: String, said: String },
    /// It is not MariaDB.
    #[error(
        "the server at {place} is {version}, and not MariaDB: it knows no BACKUP STAGE; protect \
         it as files with hooks, or as the virtual machine it runs in"
    )]
    NotMaria { place: String, version: String },
    /// The password file is for too many eyes, or cannot be read.
    #[error("the password file {} cannot be used: {why}", .path.display())]
    PasswordFile { path: PathBuf, why: String },
    /// A right is missing.
    #[error(
        "{user} may not {what} ({said}); as an administrator: GRANT RELOAD, PROCESS, LOCK \
         TABLES, BINLOG MONITOR ON *.* TO {user}"
    )]
    Privilege { user: String, what: &'static str, said: String },
    /// The program that reads the server did not end well.
    #[error("{program} made no backup: {said}")]
    Program { program: String, said: String },
    /// The program is not here.
    #[error(
        "no mariabackup is on this host, and the data directory cannot be snapshot ({why}); \
         install the package mariadb-backup of the server's version, or put the data directory \
         on btrfs, or name the program with `program`"
    )]
    ProgramMissing { why: String },
    /// The program is of another version.
    #[error(
        "{program} is of version {its}, the server of {server}: install the one of the server's \
         version, or name it with `program`"
    )]
    ProgramVersion { program: String, its: String, server: String },
    /// A question was not answered.
    #[error("the server could not {what}")]
    Query { what: &'static str, source: Error },
    /// A setting that cannot be used.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// No snapshot of the data directory.
    #[error("the data directory could not be snapshot; `way = \"stream\"` needs none")]
    Snapshot(#[from] SnapshotError),
    /// Parts of the server lie where one snapshot does not reach.
    #[error(
        "{} is not in one snapshot of the data directory: {why}; `way = \"stream\"` needs none",
        .path.display()
    )]
    Scattered { path: PathBuf, why: String },
    /// What the program gave is no stream, or not all of it.
    #[error("what mariabackup gave cannot be used")]
    Stream(#[from] StreamError),
    /// A lock of the backup was not had in time.
    #[error(
        "the server did not {what} within {seconds} s: a statement holds it up (a long ALTER \
         TABLE, LOCK TABLES or FLUSH TABLES; SHOW PROCESSLIST tells); the next run tries again, \
         and `lock_wait` sets how long it waits"
    )]
    Waited { what: &'static str, seconds: u64 },
    /// Nobody answers.
    #[error("the server at {place} cannot be reached; is it running, and is `host` its socket?")]
    Unreachable { place: String, source: Error },
    /// Its log was not written while commits could wait.
    #[error(
        "the server did not write its log within the {seconds} s that commits may wait; where \
         innodb_flush_log_at_trx_commit is 0, it writes it every innodb_flush_log_at_timeout \
         seconds: set it to 1, or raise `freeze_deadline`"
    )]
    Unwritten { seconds: u64 },
    /// A version this agent does not know.
    #[error(
        "the server at {place} is of version {version}; BACKUP STAGE is there from 10.5 on, and \
         this agent knows 10.5 to 12.3"
    )]
    Version { place: String, version: String },
}

impl MariaError {
    /// How a person is told, and by that whether trying again may help.
    pub const fn refusal(&self) -> RefusalKind {
        match self {
            Self::Another { .. }
            | Self::NotLetIn { .. }
            | Self::NotMaria { .. }
            | Self::PasswordFile { .. }
            | Self::Privilege { .. }
            | Self::ProgramMissing { .. }
            | Self::ProgramVersion { .. }
            | Self::Scattered { .. }
            | Self::Setting(_)
            | Self::Version { .. } => RefusalKind::Invalid,
            Self::File { .. }
            | Self::Holder(_)
            | Self::Program { .. }
            | Self::Query { .. }
            | Self::Snapshot(_)
            | Self::Stream(_)
            | Self::Unreachable { .. }
            | Self::Unwritten { .. }
            | Self::Waited { .. } => RefusalKind::Unavailable,
        }
    }

    /// Why no connection came about.
    pub(super) fn of_connecting(source: Error, place: String, user: &str) -> Self {
        match &source {
            Error::MySqlError(said)
                if [ACCESS_DENIED, HOST_NOT_ALLOWED, INSECURE_REFUSED].contains(&said.code) =>
            {
                Self::NotLetIn { place, user: user.to_owned(), said: said.message.clone() }
            }
            _ => Self::Unreachable { place, source },
        }
    }

    /// Why a statement did not come about; `seconds` is how long a lock is waited for.
    pub(super) fn of_statement(
        source: Error,
        what: &'static str,
        user: &str,
        seconds: u64,
    ) -> Self {
        match &source {
            Error::MySqlError(said) if RIGHT_MISSING.contains(&said.code) => {
                Self::Privilege { user: user.to_owned(), what, said: said.message.clone() }
            }
            Error::MySqlError(said) if said.code == LOCK_WAIT => Self::Waited { what, seconds },
            _ => Self::Query { what, source },
        }
    }
}
