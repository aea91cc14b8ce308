//! Every question and order an operator may give: the only door for people, used by the
//! command line and later by the console alike. One request a stream, one answer. The same
//! types are what `--json` prints.

mod cartridges;
mod reports;

use serde::{Deserialize, Serialize};

pub use self::cartridges::{CartridgeOrder, CartridgeRow, Whereabouts};
pub use self::reports::{ScrubReport, SpaceReport, SpaceRun};
use crate::control::{Overwrite, Progress, Showing};
pub use crate::drill::DrillRow;
use crate::frame::message;
use crate::id::{
    CopyName, Identity, JobId, MediaSetName, MediumId, NodeName, PackId, PointId, PolicyName, Role,
    WorkloadId, WorkloadName,
};
use crate::lead::{LeadOrder, LeadReport, Proposal};
use crate::opening::Refusal;
use crate::time::Timestamp;

/// What an operator asks or orders. The order is the wire: append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// What needs attention: debts, failed jobs, absent nodes, damage.
    Status,
    /// Known nodes and whether they are connected.
    Nodes,
    /// A one-time enrolment token, printed once.
    TokenCreate {
        role: Role,
        name: NodeName,
        seconds_valid: u32,
    },
    /// Everything issued to this identity until now is worth nothing; open connections close.
    Revoke {
        identity: Identity,
    },
    /// The policy file in force.
    Policy,
    /// What applying this file would change, point by point.
    PolicyPlan {
        file: String,
        toml: String,
    },
    /// Apply it.
    PolicyApply {
        file: String,
        toml: String,
    },
    Workloads,
    /// Make a point now.
    Protect {
        workload: WorkloadName,
    },
    Jobs {
        live: Live,
        most: u32,
    },
    /// One job with its journal.
    Job {
        job: JobId,
    },
    Cancel {
        job: JobId,
    },
    Points {
        workload: Option<WorkloadName>,
    },
    /// Where a point is, copy by copy, and why it is kept.
    Why {
        point: PointRef,
    },
    /// What another policy file would keep and expire.
    WhatIf {
        file: String,
        toml: String,
    },
    HoldPlace {
        name: String,
        why: String,
        points: Vec<PointRef>,
    },
    HoldRelease {
        name: String,
    },
    Holds,
    Pin {
        point: PointRef,
        pinned: Pinned,
    },
    /// An event for event-based retention began or ended.
    Event {
        name: String,
        ended: Option<Timestamp>,
    },
    /// Write (part of) a point back on an agent's host.
    Recover {
        point: PointRef,
        agent: NodeName,
        target: Vec<u8>,
        select: Vec<String>,
        overwrite: Overwrite,
    },
    /// Read back and check what is stored here.
    Verify {
        depth: VerifyDepth,
    },
    Media,
    /// The newest records, oldest first; the chain is checked on the way.
    Audit {
        most: u32,
    },
    /// Remove points that no reason keeps any more and whose grace is over.
    Prune {
        order: PruneOrder,
    },
    /// What is stored and not needed here; or give it back now.
    Space {
        order: SpaceOrder,
    },
    /// How old what is known of the files here is, and what scrubbing met.
    Scrub,
    /// The application was started from a copy of a point: what came of it. Without a copy it
    /// is the snap of the node that is asked.
    Proven {
        point: PointId,
        copy: Option<CopyName>,
        showing: Showing,
    },
    /// Where cartridges are, and to move, copy or renew them: only the node with the library.
    Cartridges {
        order: CartridgeOrder,
    },
    /// Who leads, and what is proposed.
    Lead,
    /// The first of two persons orders that another site leads.
    LeadPropose {
        order: LeadOrder,
        why: String,
    },
    /// The second person does.
    LeadConfirm {
        proposal: String,
    },
    /// Recover the newest point of a workload at its proxy, now; without a copy: the first of its
    /// policy that is a secondary snap.
    Drill {
        workload: WorkloadName,
        copy: Option<CopyName>,
    },
    /// Drills on record, newest first.
    Drills {
        workload: Option<WorkloadName>,
        most: u32,
    },
}
message!(Request, "request", 34);

/// Which jobs to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Live {
    All,
    Only,
}

/// Whether a point is pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pinned {
    No,
    Yes,
}

/// Whether pruning is shown or done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PruneOrder {
    Apply,
    Show,
    /// The clock that went far forward is right: retention goes on by it.
    BelieveClock,
}

/// Whether a collection is shown or done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SpaceOrder {
    Collect,
    Show,
}

/// How much is read to verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum VerifyDepth {
    /// Every pack against its name: no key needed.
    Hashes,
    /// Every blob opened, decompressed and named again.
    Plain,
}

/// A point as a person names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PointRef {
    /// By id, whole or its last digits.
    Id(String),
    /// The newest of a workload.
    Latest(WorkloadName),
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    Done(String),
    Refused(Refusal),
    Status(StatusReport),
    Nodes(Vec<NodeRow>),
    Token { text: String, expires: Timestamp },
    Policy { version: u64, file: String, toml: String, applied: Timestamp, by: String },
    Plan { changes: Vec<String>, warnings: Vec<String> },
    Workloads(Vec<WorkloadRow>),
    Job(JobRow),
    Jobs(Vec<JobRow>),
    Journal { job: JobRow, events: Vec<EventRow> },
    Points(Vec<PointRow>),
    Why(WhyReport),
    Verdicts(Vec<VerdictRow>),
    Holds(Vec<HoldRow>),
    Verified(VerifiedReport),
    Media(Vec<MediumRow>),
    Audit { checked: u64, broken_at: Option<u64>, records: Vec<AuditRow> },
    Space(SpaceReport),
    Scrub(ScrubReport),
    Cartridges(Vec<CartridgeRow>),
    Lead(LeadReport),
    Proposed(Proposal),
    Drills(Vec<DrillRow>),
}
message!(Response, "response", 24);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    pub node: Identity,
    pub software: String,
    pub now: Timestamp,
    pub points: u64,
    pub packs: u64,
    pub stored_bytes: u64,
    pub disk_free_bytes: u64,
    pub live_jobs: u64,
    pub connected: Vec<Identity>,
    /// Point x copy owed and not there yet, and what policies demand and nothing shows, each in a
    /// sentence.
    pub debts: Vec<String>,
    /// What a person must look at, each in a sentence.
    pub alarms: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRow {
    pub identity: Identity,
    pub connected: bool,
    pub software: String,
    pub host: String,
    pub last_seen: Option<Timestamp>,
    pub certificate_until: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadRow {
    pub id: WorkloadId,
    pub name: WorkloadName,
    pub kind: String,
    pub source: String,
    pub agent: NodeName,
    pub policy: Option<PolicyName>,
    pub points: u64,
    pub last: Option<Timestamp>,
    pub next: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRow {
    pub id: JobId,
    pub kind: String,
    pub subject: String,
    pub node: Option<NodeName>,
    /// One word: `queued`, `waiting`, `running`, `succeeded`, ...
    pub state: String,
    pub detail: String,
    pub step: Option<String>,
    pub created: Timestamp,
    pub ended: Option<Timestamp>,
    pub progress: Progress,
    pub point: Option<PointId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRow {
    pub seq: u64,
    pub at: Timestamp,
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointRow {
    pub id: PointId,
    pub workload: WorkloadName,
    pub moment: Timestamp,
    pub consistency: String,
    pub files: u64,
    pub bytes: u64,
    pub stored_bytes: u64,
    pub gaps: u64,
    pub copies: Vec<CopyRow>,
}

/// One cell of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyRow {
    pub copy: CopyName,
    pub kind: String,
    /// `owed`, `working`, `present`, `going` (there, and no reason keeps it), `suspect` (there, and
    /// the application did not start from it), `failed`, `removing`, `expired`.
    pub state: String,
    pub proof: String,
    pub proven: Option<Timestamp>,
    pub bytes: u64,
    pub seconds: u64,
    pub detail: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyReport {
    pub point: PointRow,
    pub verdicts: Vec<VerdictRow>,
    pub gaps: Vec<String>,
    /// Facts of the manifest: source, policy version, hooks, software, previous point.
    pub facts: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictRow {
    pub point: PointId,
    pub workload: WorkloadName,
    pub moment: Timestamp,
    pub copy: CopyName,
    pub kept: bool,
    pub reasons: Vec<String>,
    pub expires: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldRow {
    pub name: String,
    pub why: String,
    pub by: String,
    pub placed: Timestamp,
    pub points: Vec<PointId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedReport {
    pub packs: u64,
    pub bytes: u64,
    pub seconds_ms: u64,
    pub damaged_packs: Vec<PackId>,
    /// What the damage hurts: points and files, each in a sentence.
    pub hurt: Vec<String>,
    pub points_whole: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediumRow {
    pub medium: Option<MediumId>,
    pub barcode: String,
    pub set: Option<MediaSetName>,
    pub sequence: u32,
    pub sessions: u32,
    pub points: u32,
    pub used_bytes: u64,
    pub capacity_bytes: u64,
    pub detail: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRow {
    pub seq: u64,
    pub at: Timestamp,
    pub actor: String,
    pub action: String,
    pub subject: String,
    pub detail: String,
}
