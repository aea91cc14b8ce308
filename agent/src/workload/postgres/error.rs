//! Why a cluster was not protected, each with the way out.

use std::io;
use std::path::PathBuf;

use postgres::error::SqlState;
use strongroom_protocol::opening::RefusalKind;

use crate::holder::HolderError;
use crate::workload::apps::SettingError;
use crate::workload::directory::tls::TrustError;
use crate::workload::postgres::lsn::Lsn;
use crate::workload::postgres::tls;
use crate::workload::postgres::wire::WireError;

/// Why a cluster was not protected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PgError {
    /// The data directory is another cluster's.
    #[error(
        "{} is not the data directory of the server at {place}: {why}; name it with `data`",
        .data.display()
    )]
    Another { data: PathBuf, place: String, why: String },
    /// Files are read where there are none.
    #[error(
        "{host:?} is not this host, where the server's files would be read; name its socket \
         directory or a loopback address, or use mode = \"wire\" (for the log: by = \"stream\")"
    )]
    Elsewhere { host: String },
    /// Something of it cannot be read on this host.
    #[error(
        "{} cannot be read; the agent must run on the server's host, as root or as the owner of \
         the files",
        .path.display()
    )]
    File { path: PathBuf, source: io::Error },
    /// The process that holds the backup.
    #[error("the session of the backup did not go on")]
    Holder(#[from] HolderError),
    /// The member is not the one that the policy wants.
    #[error("this member is not protected now: {why}")]
    Member { why: String },
    /// It cannot seal what it says.
    #[error(
        "the server at {place} does not offer TLS; set ssl = on with a certificate in its \
         configuration, or say tls = \"off\" where nobody else can listen"
    )]
    NoTls { place: String },
    /// Refused before any password.
    #[error(
        "the server at {place} does not let {user} in ({said}); add a line to pg_hba.conf, such \
         as `local all {user} scram-sha-256` (from elsewhere: `hostssl postgres {user} ADDRESS \
         scram-sha-256`), and reload it"
    )]
    NotLetIn { place: String, user: String, said: String },
    /// It does not stream what a point is made of.
    #[error(
        "the server at {place} is of version {version}, and mode = \"wire\" needs 15 or newer; \
         protect it on its own host with mode = \"direct\""
    )]
    Old { place: String, version: String },
    /// Refused for the password.
    #[error(
        "the server at {place} does not take the password of {user}; put the right one into the \
         file that `password_file` names"
    )]
    Password { place: String, user: String },
    /// The password file is for too many eyes, or cannot be read.
    #[error("the password file {} cannot be used: {why}", .path.display())]
    PasswordFile { path: PathBuf, why: String },
    /// Not the server itself.
    #[error(
        "something stands between the agent and the server at {place}: {why}; name the server's \
         own socket directory with `host`"
    )]
    Pooler { place: String, why: String },
    /// A right is missing.
    #[error("{user} may not {what}; as a superuser: {grant}")]
    Privilege { user: String, what: String, grant: String },
    /// A question was not answered.
    #[error("the server could not {what}")]
    Query { what: &'static str, source: postgres::Error },
    /// A setting that cannot be used.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The slot keeps what the next run needs no more.
    #[error(
        "the replication slot {slot} lost what it kept ({why}): the log since the last point \
         has a gap; make a point of the cluster itself, then drop the slot: SELECT \
         pg_drop_replication_slot('{slot}'), and the log is protected from there on; a larger \
         max_slot_wal_keep_size avoids it"
    )]
    SlotLost { slot: String, why: String },
    /// The slot is somebody else's.
    #[error("the replication slot {slot} cannot be used: {why}; name another with `slot`")]
    SlotTaken { slot: String, why: String },
    /// Nobody can be believed.
    #[error("no certificate of a server can be believed")]
    Trust(#[from] TrustError),
    /// It became something else meanwhile.
    #[error(
        "{what} changed from {before} to {after} while the backup was made: no point is made; \
         the next run begins anew"
    )]
    Turned { what: &'static str, before: String, after: String },
    /// Nobody answers.
    #[error(
        "the server at {place} cannot be reached; is it running, and is `host` the directory of \
         its socket, or an address that leads to it?"
    )]
    Unreachable { place: String, source: postgres::Error },
    /// It is not who was expected.
    #[error("the server at {place} is not believed: {why}")]
    Untrusted { place: String, why: String },
    /// A version this agent does not know.
    #[error("the server at {place} is of version {version}; this agent knows 13 to 18")]
    Version { place: String, version: String },
    /// A piece of the log is not there.
    #[error("the log from {from} to {until} is not whole in {}: {name} {why}", .dir.display())]
    Wal { from: Lsn, until: Lsn, dir: PathBuf, name: String, why: String },
    /// The server does not write what is needed.
    #[error("wal_level is {level}; set it to replica and restart the server")]
    WalLevel { level: String },
    /// The replication protocol.
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl PgError {
    /// How a person is told, and by that whether trying again may help.
    pub const fn refusal(&self) -> RefusalKind {
        match self {
            Self::Another { .. }
            | Self::Elsewhere { .. }
            | Self::NoTls { .. }
            | Self::NotLetIn { .. }
            | Self::Old { .. }
            | Self::Password { .. }
            | Self::PasswordFile { .. }
            | Self::Pooler { .. }
            | Self::Privilege { .. }
            | Self::Setting(_)
            | Self::SlotLost { .. }
            | Self::SlotTaken { .. }
            | Self::Trust(_)
            | Self::Untrusted { .. }
            | Self::Version { .. }
            | Self::WalLevel { .. } => RefusalKind::Invalid,
            Self::File { .. }
            | Self::Holder(_)
            | Self::Member { .. }
            | Self::Query { .. }
            | Self::Turned { .. }
            | Self::Unreachable { .. }
            | Self::Wal { .. }
            | Self::Wire(_) => RefusalKind::Unavailable,
        }
    }

    /// Why no connection came about.
    pub(super) fn of_connecting(error: postgres::Error, place: String, user: String) -> Self {
        if let Some(why) = tls::said(&error) {
            return Self::Untrusted { place, why };
        }
        let said = || error.as_db_error().map(|said| said.message().to_owned()).unwrap_or_default();
        if let Some(refused) =
            error.code().and_then(|code| Self::of_code(code.code(), (&place, &user), said()))
        {
            return refused;
        }
        let text = strongroom_protocol::Chain(&error).to_string();
        match error.code() {
            None if text.contains("server does not support TLS") => Self::NoTls { place },
            // The library asks for a password and has none.
            None if text.contains("password missing") => Self::Password { place, user },
            _ => Self::Unreachable { place, source: error },
        }
    }

    /// What a server means that does not let a role in, by the code of its refusal.
    pub(super) fn of_code(code: &str, (place, user): (&str, &str), said: String) -> Option<Self> {
        let (place, user) = (place.to_owned(), user.to_owned());
        if code == SqlState::INVALID_PASSWORD.code() {
            return Some(Self::Password { place, user });
        }
        let refused = code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION.code();
        refused.then_some(Self::NotLetIn { place, user, said })
    }
}
