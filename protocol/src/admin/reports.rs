//! Longer answers to operators: what is stored and needed, and what scrubbing met.

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// What a node's repository holds, and what a collection would give back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpaceReport {
    pub points: u64,
    pub packs: u64,
    pub bytes: u64,
    /// Needed by points.
    pub live_bytes: u64,
    /// In packs that no point needs: condemned, or to be.
    pub dead_packs: u64,
    pub dead_bytes: u64,
    /// In packs mostly unneeded: what is needed of them is copied first.
    pub sparse_packs: u64,
    pub sparse_bytes: u64,
    /// What comes back once no session counts on it.
    pub returned_bytes: u64,
    pub open_sessions: u64,
    pub disk_free_bytes: Option<u64>,
    /// Why nothing would be removed.
    pub refusal: Option<String>,
    /// What the collection that was ordered did.
    pub done: Option<String>,
    pub last: Option<SpaceRun>,
}

/// The last collection since the node started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpaceRun {
    pub at: Timestamp,
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubReport {
    /// Packs and manifests.
    pub files: u64,
    /// When the one that waits longest was last found whole; none when none was.
    pub oldest: Option<Timestamp>,
    /// Never read back so far, and the bytes of the packs among them.
    pub never: u64,
    pub never_bytes: u64,
    /// Since the node started.
    pub found: u64,
    pub healed: u64,
    pub last_found: Option<Timestamp>,
    pub last_healed: Option<Timestamp>,
    /// How often it was looked what is due.
    pub rounds: u64,
    /// Hurt and not healed, each in a sentence.
    pub hurt: Vec<String>,
}
