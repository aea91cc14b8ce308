//! What came of using a copy as after a disaster: an application started from it, or all of it
//! mounted and compared.

use serde::{Deserialize, Serialize};

use crate::id::{CopyName, Identity, PointId};
use crate::time::Timestamp;

/// The word of the proof level of an application that was started.
pub const STARTED: &str = "started";
/// The word of the proof level of a point that was mounted and compared whole.
pub const MOUNTED_CHECKED: &str = "mounted-checked";

/// What starting the application from a copy showed, or mounting it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Showing {
    /// The word of the proof level that was tried: [`STARTED`] or [`MOUNTED_CHECKED`].
    pub level: String,
    pub outcome: Shown,
    /// From the order until the application answered, in milliseconds: what a recovery takes.
    pub took_ms: u64,
    /// What was checked, or what failed, in a sentence.
    pub detail: String,
}

/// Whether a proof held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shown {
    Failed,
    Held,
}

/// A proof as it was made at a proxy's site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofNews {
    pub point: PointId,
    /// None: the secondary snap of the proxy.
    pub copy: Option<CopyName>,
    /// Who told it there, and when by the proxy's clock. The proxy itself: a drill showed it.
    pub by: Identity,
    pub at: Timestamp,
    pub showing: Showing,
}
