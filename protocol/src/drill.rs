//! A drill: a recovery that is made to see whether it works, at the proxy, from the copy that a
//! disaster would leave. What it showed is told as a proof ([`crate::proof`]).

use serde::{Deserialize, Serialize};

use crate::id::{CopyName, JobId, NodeName, PointId, WorkloadName};
use crate::time::Timestamp;

/// What a proxy is ordered to recover, and how it is asked whether it works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillWork {
    pub copy: CopyName,
    pub point: PointId,
    pub workload: WorkloadName,
    pub kind: DrillKind,
    /// By the keys of the workload's `drill` in the policy file, in its order; a list is its key
    /// repeated.
    pub settings: Vec<(String, String)>,
    /// Longest the drill may take.
    pub seconds_max: u32,
}

/// What is done with the point. The order is the wire: append only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DrillKind {
    /// Mounted, and everything in it read through the kernel and compared.
    Files,
    /// Restored to a scratch directory, its server started and asked.
    Postgres,
    /// Booted, and its guest asked.
    Vm,
}

impl DrillKind {
    /// The word in tables and orders.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Files => "mount",
            Self::Postgres => "postgres",
            Self::Vm => "vm",
        }
    }
}

/// A drill as it is on record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillRow {
    pub job: JobId,
    pub workload: WorkloadName,
    pub point: PointId,
    /// Of the point; by it the age of what would have been recovered is told.
    pub moment: Timestamp,
    pub copy: CopyName,
    pub node: NodeName,
    /// `mount`, `postgres` or `vm`.
    pub kind: String,
    /// `schedule`, or who ordered it.
    pub by: String,
    pub began: Timestamp,
    pub ended: Option<Timestamp>,
    /// `running`, `held`, `failed`, or `broken off`: nothing was shown.
    pub verdict: String,
    /// The proof level that was tried.
    pub level: String,
    /// From the order until it answered, in milliseconds: the recovery time.
    pub recovery_ms: Option<u64>,
    /// What the policy wants of it now, in seconds.
    pub recovery_seconds_max: Option<u64>,
    /// Between the moment of the point and the order, in seconds: what would have been lost.
    pub point_age_seconds: u64,
    pub detail: String,
}
