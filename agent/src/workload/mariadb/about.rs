//! `strongroom.json` at the top of a point: what it is and what a restore must know, without
//! the catalog.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The name of the file.
pub const NAME: &str = "strongroom.json";
/// Where the files of the server lie in a point.
pub const DATA: &str = "data";

/// What a point is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub enum About {
    /// A data directory.
    #[serde(rename = "mariadb")]
    Server(Box<ServerPoint>),
}

/// How the files were taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// A snapshot of the file system while commits waited: the server recovers it by itself.
    Snapshot,
    /// The stream of mariabackup: to be prepared before a server starts on it.
    Stream,
}

/// A data directory at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerPoint {
    /// As the server says it, such as `10.11.19-MariaDB-0+deb12u1-log`.
    pub version: String,
    pub way: Way,
    pub server_id: u64,
    /// Told by newer servers only.
    pub server_uid: Option<String>,
    /// Where the files lay.
    pub data: PathBuf,
    /// Up to where its own log of changes is in the point; none: it writes none.
    pub binlog: Option<Binlog>,
    /// The last transactions in that log, and the last a replica had applied, as GTIDs.
    pub gtid_binlog: String,
    pub gtid_slave: String,
    /// How long no transaction could commit, in milliseconds.
    pub commits_waited_ms: u64,
    /// Seconds since 1970 by the agent's clock.
    pub started: i64,
    pub taken: i64,
    /// Settings without which no server starts on these files.
    pub settings: BTreeMap<String, String>,
}

/// A place in the log of changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binlog {
    pub file: String,
    pub position: u64,
}
