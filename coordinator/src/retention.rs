//! Why each copy of each point is kept. Pure: facts, rules and marks go in, a verdict with every
//! reason comes out; reasons are a union, so that adding a rule never removes a keep. The newest
//! point and the last proven one always have a reason, and nothing is selected by a wall clock
//! except what a rule itself dates. Refuses to decide for a copy no policy declares: it is kept
//! until someone does.

mod evaluate;
mod gfs;
mod grace;
mod marks;
mod reason;

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use strongroom_protocol::{CopyName, PointId, Timestamp, WorkloadName};

pub use evaluate::{evaluate, why};
pub use gfs::Period;
pub use grace::{Grace, JUMP_SECONDS_MAX, RetentionClock};
pub use marks::{Hold, Label, LabelError, Marks, Pin};
pub use reason::{Difference, Reason, Safety, Stance, Verdict, what_if};

/// What a point promises about the applications inside it, weakest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// Read while it changed.
    Fuzzy,
    /// As after a power cut.
    Crash,
    /// The file system was quiet.
    Filesystem,
    /// The application was quiet.
    Application,
}

/// How far a copy was proven, weakest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProofLevel {
    /// Acknowledged by the medium.
    Written,
    /// Read back; every pack matches its name.
    HashVerified,
    /// Opened, decompressed and listed.
    Readable,
    /// Mounted and checked.
    MountedChecked,
    /// The application was started from it and answered.
    Started,
}

/// What became of one copy of one point.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CopyState {
    /// Owed and not begun.
    Owed,
    /// Being made.
    Working,
    /// There.
    Present,
    /// The last attempt failed; still owed.
    Failed,
    /// Was there, or was owed, and no reason kept it.
    Expired,
    /// Being removed, because no reason kept it and its grace was over.
    Removing,
}

/// Words of the closed lists above, as in the policy file, the catalog and tables.
macro_rules! words {
    ($($name:ident { $($variant:ident $word:literal)* })*) => {$(
        impl $name {
            /// Every value, weakest or earliest first.
            pub const ALL: &[Self] = &[$(Self::$variant),*];
            /// The word in files and tables.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }
            /// The value a word stands for.
            pub fn from_word(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.as_str() == word)
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    )*};
}

words! {
    Consistency {
        Fuzzy "fuzzy" Crash "crash" Filesystem "filesystem" Application "application"
    }
    ProofLevel {
        Written "written" HashVerified "hash-verified" Readable "readable"
        MountedChecked "mounted-checked" Started "started"
    }
    CopyState {
        Owed "owed" Working "working" Present "present" Failed "failed" Expired "expired"
        Removing "removing"
    }
}

/// A proof level and when it was reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Proof {
    pub level: ProofLevel,
    pub at: Timestamp,
}

/// What retention knows about one copy of a point.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CopyFacts {
    pub copy: CopyName,
    pub state: CopyState,
    /// By reading it.
    pub proof: Option<Proof>,
    /// What was last shown by using it: its application started, or all of it mounted.
    pub started: Option<Proof>,
    /// When it did not start from it, if that is the last that was tried.
    pub suspect: Option<Timestamp>,
    /// The medium itself refuses deletion until then.
    pub lock_until: Option<Timestamp>,
}

impl CopyFacts {
    /// A copy of which nothing was proven.
    pub const fn new(copy: CopyName, state: CopyState) -> Self {
        Self { copy, state, proof: None, started: None, suspect: None, lock_until: None }
    }

    /// How far it is proven, by whatever means.
    pub fn proven(&self) -> Option<Proof> {
        proven(self.proof, self.started, self.suspect)
    }
}

/// How far a copy is proven: by its use where that is known and none failed since, else by reading.
pub fn proven(
    read: Option<Proof>,
    started: Option<Proof>,
    suspect: Option<Timestamp>,
) -> Option<Proof> {
    started.filter(|_| suspect.is_none()).or(read)
}

/// What retention knows about a point. `copies` holds the ledger's rows; a copy without a row was
/// never asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PointFacts {
    pub point: PointId,
    pub workload: WorkloadName,
    /// The moment of the snapshot: the only time by which points are selected.
    pub moment: Timestamp,
    pub consistency: Consistency,
    /// Things that could not be read.
    pub gaps: u64,
    pub copies: Vec<CopyFacts>,
}

impl PointFacts {
    /// The row of one copy.
    pub fn copy(&self, copy: &CopyName) -> Option<&CopyFacts> {
        self.copies.iter().find(|facts| facts.copy == *copy)
    }
}

/// What one copy keeps, as the policy file's `keep` says. Counts are of the newest buckets that
/// hold a point, so that neither a clock nor a pause of the schedule empties them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Keep {
    pub newest: u32,
    pub gfs: BTreeMap<Period, u32>,
    /// Every point is kept this long after its moment.
    pub min_age_seconds: Option<u64>,
    /// Kept until so long after a named event ended; while it is open or unknown: kept.
    pub after: Vec<AfterEvent>,
}

impl Keep {
    /// True when no rule keeps anything beyond what safety keeps.
    pub fn is_empty(&self) -> bool {
        self.newest == 0
            && self.gfs.values().all(|count| *count == 0)
            && self.min_age_seconds.unwrap_or(0) == 0
            && self.after.is_empty()
    }
}

/// One event rule.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AfterEvent {
    pub event: Label,
    pub keep_seconds: u64,
}

/// One copy's part of a workload's rules.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CopyRules {
    pub copy: CopyName,
    /// The copy it is made from; none for the primary snap.
    pub from: Option<CopyName>,
    pub keep: Keep,
    /// Only the first point of each of these periods is owed to this copy.
    pub every: Option<Period>,
    /// The debt is due so long after the point's moment.
    pub defer_seconds: u64,
}

/// The rules of one workload. `copies` is a tree: each `from` names another of the list.
#[derive(Clone, PartialEq, Debug)]
pub struct WorkloadRules {
    pub timezone: TimeZone,
    /// Points weaker than this count as not met: preferred last, never the last good one.
    pub require: Consistency,
    pub copies: Vec<CopyRules>,
}

/// The rules of every workload a policy file declares.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Rules {
    pub workloads: BTreeMap<WorkloadName, WorkloadRules>,
}
