//! `strongroom.json` at the top of a point: what it is and what a restore must know, without
//! the catalog.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::workload::postgres::lsn::Lsn;

/// The name of the file.
pub const NAME: &str = "strongroom.json";
/// Where segments of the log lie in a point of the log.
pub const LOG_DIRECTORY: &str = "wal";

/// What a point is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub enum About {
    /// A data directory.
    #[serde(rename = "postgres")]
    Cluster(Box<ClusterPoint>),
    /// A stretch of the log.
    #[serde(rename = "postgres-wal")]
    Log(LogPoint),
}

/// A data directory, with the log that makes it whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClusterPoint {
    pub version: String,
    pub major: u32,
    #[serde(with = "as_text")]
    pub system_identifier: u64,
    pub timeline: u32,
    pub from_standby: bool,
    pub start_lsn: Lsn,
    pub stop_lsn: Lsn,
    /// Seconds since 1970 by the agent's clock.
    pub started: i64,
    pub stopped: i64,
    pub wal_segment_bytes: u64,
    /// Files of the log that the point holds.
    pub wal: Vec<String>,
    pub page_bytes: u32,
    /// Whether pages carry checksums.
    pub checksums: bool,
    /// Pages that were read and looked at; those of unchanged files were by an earlier run.
    pub pages_checked: u64,
    pub pages_torn: u64,
    pub pages_corrupt: u64,
    /// Files with corrupt pages, and the first of their blocks.
    pub corrupt: BTreeMap<String, Vec<u32>>,
    pub tablespaces: Vec<Tablespace>,
    /// Configuration that lay elsewhere than in the data directory, and is kept in
    /// `strongroom-config`.
    pub config: BTreeMap<String, PathBuf>,
    /// Settings a restored cluster must match or exceed to come up.
    pub settings: BTreeMap<String, String>,
    /// How the server named its tablespaces when the backup ended.
    pub tablespace_map: String,
    pub snapshot: bool,
}

/// A tablespace, which lies in the point as `pg_tblspc/OID`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tablespace {
    pub oid: u32,
    pub name: String,
    pub location: PathBuf,
}

/// A stretch of the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogPoint {
    pub version: String,
    pub major: u32,
    #[serde(with = "as_text")]
    pub system_identifier: u64,
    pub timeline: u32,
    /// The first place in the log that the point holds.
    pub from_lsn: Lsn,
    /// The first it does not hold.
    pub to_lsn: Lsn,
    pub wal_segment_bytes: u64,
    pub files: Vec<String>,
    pub slot: String,
}

/// Numbers of 64 bits as text: readers of JSON that know only floats keep them.
mod as_text {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(value: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&value.to_string())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}
