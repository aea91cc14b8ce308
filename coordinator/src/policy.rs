//! The policy file: what is protected, how often, how far and how long, in TOML kept under version
//! control by its owner. [`parse`] turns text into [`Declared`], which is valid once it exists;
//! [`plan()`] says what an edit would change, point by point. Refuses unknown keys, unknown
//! names and impossible times with file, line, column and a suggestion, several in one go.

mod plan;
mod problem;
mod read;
mod read_app;
mod read_copy;
mod read_workload;
mod sheet;
mod text;

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use strongroom_protocol::control::AppKind;
use strongroom_protocol::{CopyName, MediaSetName, NodeName, PolicyName, WorkloadName};

use crate::retention::{Consistency, CopyRules, Keep, Period, ProofLevel, Rules, WorkloadRules};
use crate::schedule::{Cadence, Throttle, Window};

pub use plan::{Change, plan};
pub use problem::{Problem, Problems};
pub use read::parse;
pub use text::{Bytes, Seconds, TextError};

/// The name of the copy every policy starts with.
pub const PRIMARY: &str = "primary";
/// How long a copy without reasons stays before it is removed, unless the policy says otherwise:
/// a day to notice a mistake.
pub const GRACE_SECONDS_DEFAULT: u64 = 86_400;
/// How long a hook may run unless the workload says otherwise.
pub const HOOK_SECONDS_DEFAULT: u32 = 60;

/// The name of the primary snap.
pub fn primary() -> CopyName {
    #[expect(clippy::expect_used, reason = "the constant is letters only; a test parses it")]
    PRIMARY.parse().expect("a usable name")
}

/// A policy file that was understood, and what its author should look at again.
#[derive(Clone, Debug)]
pub struct Parsed {
    pub declared: Declared,
    pub warnings: Vec<Problem>,
}

/// Everything a policy file declares. Every workload's policy is among the policies.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Declared {
    pub policies: BTreeMap<PolicyName, Policy>,
    pub workloads: BTreeMap<WorkloadName, Workload>,
}

impl Declared {
    /// The policy of a workload.
    pub fn policy_of(&self, workload: &WorkloadName) -> Option<&Policy> {
        self.policies.get(&self.workloads.get(workload)?.policy)
    }

    /// What retention needs to know of it.
    pub fn rules(&self) -> Rules {
        let workloads = self.workloads.values().filter_map(|workload| {
            let policy = self.policies.get(&workload.policy)?;
            Some((workload.name.clone(), policy.rules()))
        });
        Rules { workloads: workloads.collect() }
    }
}

/// A storage policy.
#[derive(Clone, PartialEq, Debug)]
pub struct Policy {
    pub name: PolicyName,
    /// Empty: points are made only when someone asks.
    pub schedule: Vec<Cadence>,
    pub timezone: TimeZone,
    pub require: Consistency,
    /// How long a copy without reasons stays before it is removed.
    pub grace_seconds: u64,
    /// What the primary snap keeps.
    pub primary: Keep,
    /// The other copies. Their `from` leads to the primary snap without a circle.
    pub copies: BTreeMap<CopyName, Copy>,
}

impl Policy {
    /// What retention needs to know of it.
    pub fn rules(&self) -> WorkloadRules {
        let first = CopyRules {
            copy: primary(),
            from: None,
            keep: self.primary.clone(),
            every: None,
            defer_seconds: 0,
        };
        let others = self.copies.values().map(|copy| CopyRules {
            copy: copy.name.clone(),
            from: Some(copy.from.clone()),
            keep: copy.keep.clone(),
            every: copy.every,
            defer_seconds: copy.defer_seconds,
        });
        WorkloadRules {
            timezone: self.timezone.clone(),
            require: self.require,
            copies: std::iter::once(first).chain(others).collect(),
        }
    }
}

/// A node of a policy's copy graph other than the primary snap.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Copy {
    pub name: CopyName,
    pub kind: CopyKind,
    /// The copy it is made from.
    pub from: CopyName,
    /// The node that makes and holds it.
    pub node: NodeName,
    pub keep: Keep,
    /// The source must be proven so far first.
    pub min_proof: ProofLevel,
    pub throttle: Vec<Throttle>,
    /// When it may run; empty: always.
    pub window: Vec<Window>,
    /// Due only so long after the point's moment.
    pub defer_seconds: u64,
    /// Only the first point of each such period.
    pub every: Option<Period>,
}

/// What a copy is.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum CopyKind {
    /// On media of a set.
    Aux { media_set: MediaSetName },
    /// In the proxy's repository at the other site.
    SecondarySnap,
}

impl CopyKind {
    /// The word in the policy file and in tables.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Aux { .. } => "aux",
            Self::SecondarySnap => "secondary-snap",
        }
    }
}

/// A protected thing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Workload {
    pub name: WorkloadName,
    pub agent: NodeName,
    pub policy: PolicyName,
    pub source: Source,
}

/// What a workload reads.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Source {
    App(AppSource),
    Files(FilesSource),
}

impl Source {
    /// The word in the policy file and in tables.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::App(app) => app.kind.as_str(),
            Self::Files(_) => "files",
        }
    }

    /// What it is pointed at, in a word or two.
    pub fn place(&self) -> String {
        match self {
            Self::App(app) => app.settings.first().map(|(_, value)| value.clone()),
            Self::Files(files) => Some(files.path.clone()),
        }
        .unwrap_or_default()
    }
}

/// An application.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AppSource {
    pub kind: AppKind,
    /// Key and value in the order of the kind's table (`read_app.rs`); lists repeat their key.
    pub settings: Vec<(String, String)>,
}

/// A tree of files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FilesSource {
    /// Absolute.
    pub path: String,
    /// Gitignore-style, relative to the path.
    pub exclude: Vec<String>,
    /// A directory holding a file of one of these names is left out.
    pub exclude_if_present: Vec<String>,
    pub exclude_larger_bytes: Option<u64>,
    /// Other file systems mounted below are not entered.
    pub one_file_system: bool,
    /// Program and arguments; empty: none.
    pub pre_hook: Vec<String>,
    pub post_hook: Vec<String>,
    pub hook_seconds_max: u32,
}
