//! The policy file: what is protected, how often, how far and how long, in TOML kept under version
//! control by its owner. [`parse`] turns text into [`Declared`], which is valid once it exists;
//! [`plan()`] says what an edit would change, point by point. Refuses unknown keys, unknown
//! names and impossible times with file, line, column and a suggestion, several in one go.

mod drill;
mod plan;
mod problem;
mod reach;
mod read;
mod read_app;
mod read_copy;
mod read_drill;
mod read_members;
mod read_workload;
mod sheet;
mod text;

use std::collections::BTreeMap;
use std::fmt;

use jiff::tz::TimeZone;
use strongroom_protocol::control::AppKind;
use strongroom_protocol::{CopyName, MediaSetName, NodeName, PolicyName, WorkloadName};

use crate::retention::{Consistency, CopyRules, Keep, Period, ProofLevel, Rules, WorkloadRules};
use crate::schedule::{Cadence, Throttle, Window};

pub use drill::{Drill, kind_of, level_of};
pub use plan::{Change, plan};
pub use problem::{Problem, Problems};
pub use reach::{Reach, doubts, proving};
pub use read::{parse, parse_to_apply};
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
    /// How far, and how often, the primary snap is to be proven.
    pub primary_prove: Option<Prove>,
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

    /// The proofs it demands, copy by copy; what the copy is, but for the primary snap.
    pub fn proofs(&self) -> impl Iterator<Item = (CopyName, Prove, Option<&CopyKind>)> {
        let first = self.primary_prove.map(|prove| (primary(), prove, None));
        let others = self.copies.values().filter_map(|copy| {
            copy.prove.map(|prove| (copy.name.clone(), prove, Some(&copy.kind)))
        });
        first.into_iter().chain(others)
    }
}

/// A proof that a copy is to have, again and again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prove {
    pub level: ProofLevel,
    /// The newest proof of any point in the copy may be so old.
    pub every_seconds: u64,
}

impl fmt::Display for Prove {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} every {}", self.level, Seconds(self.every_seconds))
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
    /// How far, and how often, it is to be proven itself.
    pub prove: Option<Prove>,
    /// When it is recovered from, to see whether that works.
    pub drill: Option<Drill>,
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

    /// The most that is proven of it by reading.
    pub const fn proven_by_reading(&self) -> ProofLevel {
        match self {
            Self::Aux { .. } => ProofLevel::HashVerified,
            Self::SecondarySnap => ProofLevel::Readable,
        }
    }
}

/// A protected thing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Workload {
    pub name: WorkloadName,
    /// Of a cluster: that of its first member.
    pub agent: NodeName,
    pub policy: PolicyName,
    pub source: Source,
    /// Of a cluster whose member is chosen at each run.
    pub members: Option<Members>,
    /// How a drill asks whether it works: key and value in the order of its table
    /// (`read_drill.rs`); lists repeat their key.
    pub drill: Vec<(String, String)>,
}

impl Workload {
    /// What it is pointed at, in a word or two.
    pub fn place(&self) -> String {
        match &self.members {
            None => self.source.place(),
            Some(members) => {
                let names: Vec<&str> = members.of.iter().map(|of| of.name.as_str()).collect();
                format!("members {}", names.join(", "))
            }
        }
    }

    /// The agents that may be ordered to protect it.
    pub fn agents(&self) -> Vec<&NodeName> {
        match &self.members {
            None => vec![&self.agent],
            Some(members) => {
                let mut agents: Vec<&NodeName> = members.of.iter().map(|of| &of.agent).collect();
                agents.sort();
                agents.dedup();
                agents
            }
        }
    }
}

/// The members of a cluster, in the order in which they are wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Members {
    pub prefer: Prefer,
    /// How far a standby may be behind.
    pub lag_seconds_max: Option<u64>,
    pub of: Vec<Member>,
}

/// A member of a cluster, and the agent beside it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    pub name: NodeName,
    pub agent: NodeName,
    /// As [`AppSource::settings`], with those of the whole cluster among them.
    pub settings: Vec<(String, String)>,
}

/// Which member of a cluster is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Prefer {
    Any,
    PreferStandby,
    Primary,
    StandbyOnly,
}

impl Prefer {
    /// The word in the policy file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::PreferStandby => "prefer-standby",
            Self::Primary => "primary",
            Self::StandbyOnly => "standby-only",
        }
    }
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

impl AppSource {
    /// What the policy file says at a key; the first of a list.
    pub fn says(&self, key: &str) -> Option<&str> {
        let found = self.settings.iter().find(|(name, _)| name == key)?;
        Some(found.1.as_str())
    }
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
