//! The long conversation between a node and its coordinator: who is here, what is to be done, how
//! it goes. A node that reconnects says what it still does; older generations are dropped.

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::drill::DrillWork;
use crate::frame::message;
use crate::id::{
    CopyName, Generation, Identity, JobId, MediaSetName, PackId, PointId, RepoId, WorkloadId,
    WorkloadName,
};
use crate::kinds::kinds;
use crate::lead::{Lead, Mark};
use crate::member::{MemberAnswer, MemberQuestion};
use crate::opening::Refusal;
pub use crate::proof::{MOUNTED_CHECKED, ProofNews, STARTED, Showing, Shown};
use crate::time::Timestamp;

/// Node to coordinator. The order is the wire: append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromNode {
    /// First of all.
    Hello { software: String, host: String, live: Vec<(JobId, Generation)> },
    /// A step of an assignment began or ended.
    Step { job: JobId, generation: Generation, step: String, news: StepNews },
    /// How far an assignment is; a few times a second at most.
    Progress { job: JobId, generation: Generation, progress: Progress },
    /// An assignment ended.
    Ended { job: JobId, generation: Generation, ending: Ending },
    /// Sign this request for the identity of this connection.
    Renew { csr: Vec<u8> },
    /// What became of each point of an `Expire` order; before its `Ended`.
    Expired { job: JobId, generation: Generation, answers: Vec<ExpireAnswer> },
    /// Of the points of an assignment, these are not there whole, and why; before `Ended`.
    Lost { job: JobId, generation: Generation, points: Vec<(PointId, String)> },
    /// What scrubbing met at the proxy since it was last told.
    Scrubbed(ScrubNews),
    /// What starting an application from a copy there showed, or a drill of it; repeated until
    /// `ProofNoted`.
    Proven(ProofNews),
    /// The highest term this node knows, where it is not the first.
    Lead(Lead),
    /// Proxy that took over: lead again, in this term; answered by `Lead`.
    HandBack(Lead),
    /// Answer to `Member`, with its number.
    Member { number: u64, answer: MemberAnswer },
    /// Proxy: cartridges that had left are in its library again.
    Returned,
    /// Proxy that took over: what was marked at its site meanwhile; before `HandBack`.
    Marked(Mark),
}
message!(FromNode, "node's message", 14);

/// Coordinator to node. The order is the wire: append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToNode {
    /// Answer to `Hello`.
    Welcome(Welcome),
    /// Do this.
    Assign { job: JobId, generation: Generation, work: Work },
    /// Stop that: undo what must be undone and report `Ended`.
    Cancel { job: JobId },
    /// Answer to `Renew`: leaf first, root last (DER).
    Renewed { chain: Vec<Vec<u8>> },
    /// These identities' certificates issued before the moment are worth nothing any more.
    Revoked { revoked: Vec<(Identity, Timestamp)> },
    /// The request was refused.
    Refused(Refusal),
    /// The proof of this point that was made then is on record or of no use: not to be told again.
    ProofNoted { point: PointId, at: Timestamp },
    /// Who leads, as this coordinator knows it: after `Welcome`, and when that changes.
    Lead(Lead),
    /// Proxy: the policy in force, to be kept for the day it has to lead.
    Policy { version: u64, file: String, toml: String },
    /// Agent: what is this member of a cluster now? Answered by `Member`.
    Member(Box<MemberQuestion>),
}
message!(ToNode, "message to node", 10);

/// The assignment in a header of [`ToNode`] whose kind of work is not known: it can be declined.
pub fn unknown_work(header: &[u8]) -> Option<(JobId, Generation)> {
    const ASSIGN: u32 = 1;
    let read = postcard::take_from_bytes::<(u32, JobId, Generation, u32)>(header);
    let ((message, job, generation, work), _) = read.ok()?;
    (message == ASSIGN && work >= kinds::<Work>()).then_some((job, generation))
}

/// What a node needs to know of its site; agents get keys to name and cut, never the vault key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    pub repo: RepoId,
    pub now: Timestamp,
    /// Present for agents.
    pub naming: Option<Naming>,
}

/// How chunks are cut and named in this vault.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct Naming {
    pub id_key: [u8; 32],
    pub cut_key: (u32, u32),
    pub cut_min: u32,
    pub cut_max: u32,
}

impl std::fmt::Debug for Naming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Naming").finish_non_exhaustive()
    }
}

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepNews {
    Started,
    Done(String),
    Failed(String),
    Undone,
}

/// How far an assignment is; counts are since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    pub files: u64,
    pub bytes_seen: u64,
    pub bytes_read: u64,
    pub bytes_sent: u64,
    pub gaps: u64,
    /// Bytes in all, where known beforehand.
    pub bytes_total: Option<u64>,
}

/// How an assignment ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// All done; what was counted, and a sentence for people.
    Done { progress: Progress, text: String },
    /// Not done. `retry`: trying again may help.
    Failed { refusal: Refusal, retry: RetryAdvice },
    /// Stopped as ordered.
    Cancelled,
}

/// Whether trying again may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RetryAdvice {
    Pointless,
    Later,
    /// With what the node remembered thrown away: at once.
    AtOnce,
}

/// What a node may be told to do. The order is the wire: append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// Agent: make a point.
    Protect(Box<ProtectWork>),
    /// Agent: write (part of) a point back, read from the coordinator.
    Recover(Box<RecoverWork>),
    /// Proxy: fetch what the point needs and commit it here.
    Replicate { point: PointId, bits_per_second_max: Option<u64> },
    /// Proxy: put these points on media, in one session.
    Aux { copy: CopyName, set: MediaSetName, points: Vec<PointId> },
    /// Proxy: read the whole point from the copy and check it.
    Prove { copy: CopyName, set: Option<MediaSetName>, point: PointId },
    /// Proxy: no reason keeps these points of the secondary snap any more. It obeys as far as
    /// its own floor allows, and answers by `Expired`.
    Expire { copy: CopyName, points: Vec<PointId>, order: ExpireOrder },
    /// Proxy: open a `Heal` stream and give what is asked there, of these packs and what these
    /// points need.
    Heal { packs: Vec<PackId>, points: Vec<PointId> },
    /// Proxy: say by `Lost` which of these points the copy does not hold whole, as far as can
    /// be told without reading its data.
    Look { copy: CopyName, set: Option<MediaSetName>, points: Vec<PointId> },
    /// Agent: make a point, in a vault where files of blocks are cut to these sizes.
    ProtectBlocks { work: Box<ProtectWork>, blocks_min: u32, blocks_max: u32 },
    /// Agent: make a point of an application.
    ProtectApp(Box<AppWork>),
    /// Proxy: recover a point here, apart from everything, and say by `Proven` what came of it.
    Drill(Box<DrillWork>),
    /// As `Expire`, of points on this set of media: their cartridges may be written anew.
    Release { copy: CopyName, set: MediaSetName, points: Vec<PointId>, order: ExpireOrder },
}

/// Whether points are only named, or are to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExpireOrder {
    /// They will be ordered away: say from when on that would be obeyed. Removes nothing.
    Announce,
    /// Remove those that were announced and whose grace at the proxy is over.
    Remove,
}

/// What a proxy says to one point of an `Expire` order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpireAnswer {
    pub point: PointId,
    pub outcome: ExpireOutcome,
}

/// What became of one point of an `Expire` order. The order is the wire: append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExpireOutcome {
    /// It is not there: removed by this order, or before it.
    Gone,
    /// It is there, and would go at once if ordered.
    Ready,
    /// It is there and stays: why, and until when by the proxy's clock, where that is known.
    Stays { why: String, until: Option<Timestamp> },
}

/// What scrubbing met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubNews {
    /// Found hurt, each in a sentence.
    pub found: Vec<String>,
    /// Replaced by what is whole, each in a sentence.
    pub healed: Vec<String>,
    /// Points that are not whole here and could not be healed, and why.
    pub lost: Vec<(PointId, String)>,
    /// What that hurts, by point and file, each in a sentence.
    pub hurt: Vec<String>,
}

/// A protect assignment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtectWork {
    pub workload: WorkloadId,
    pub name: WorkloadName,
    pub point: PointId,
    /// The newest committed point, by which the agent's cache is believed or not.
    pub previous: Option<PointId>,
    pub source: FilesSource,
    pub policy: String,
    pub policy_version: u64,
}

/// A protect assignment for an application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppWork {
    pub workload: WorkloadId,
    pub name: WorkloadName,
    pub point: PointId,
    /// The newest committed point, by which what the agent remembers is believed or not.
    pub previous: Option<PointId>,
    pub kind: AppKind,
    /// By the keys of the policy file, in its order; a list is its key repeated. Secrets are
    /// never among them: they lie in files of the protected host.
    pub settings: Vec<(String, String)>,
    /// Sizes to which files of blocks are cut, in bytes: least and most; none: as other files.
    pub blocks: Option<(u32, u32)>,
    pub policy: String,
    pub policy_version: u64,
}

/// What kind of application it is. The order is the wire: append only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AppKind {
    /// A cluster of PostgreSQL.
    Postgres,
    /// A directory such as Active Directory.
    Directory,
    /// A virtual machine.
    Vm,
    /// A server of MariaDB.
    Mariadb,
    /// A virtual machine of vSphere, by its server.
    Vsphere,
}

impl AppKind {
    /// The word in policy files and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Directory => "directory",
            Self::Vm => "vm",
            Self::Mariadb => "mariadb",
            Self::Vsphere => "vsphere",
        }
    }
}

/// What a file-system workload consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesSource {
    /// Absolute path, bytes.
    pub path: Vec<u8>,
    /// Gitignore-style, relative to the path.
    pub exclude: Vec<String>,
    /// A directory holding a file of one of these names is left out.
    pub exclude_if_present: Vec<String>,
    /// Files larger than this are left out, in bytes.
    pub exclude_larger_bytes: Option<u64>,
    pub mounts: Mounts,
    pub pre_hook: Vec<String>,
    pub post_hook: Vec<String>,
    pub hook_seconds_max: u32,
}

/// Whether other file systems mounted below are entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mounts {
    Cross,
    Stay,
}

/// A recover assignment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoverWork {
    pub point: PointId,
    /// Absolute path of the directory to write into, bytes.
    pub target: Vec<u8>,
    /// Paths or globs relative to the point's root; empty: everything.
    pub select: Vec<String>,
    pub overwrite: Overwrite,
}

/// What happens to what is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Overwrite {
    /// Existing files stay; named as gaps.
    Never,
    /// Only what differs is written.
    IfDifferent,
    /// Everything is written again.
    Always,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever is appended to [`Work`] is known by that, and a header of it that cannot be
    /// read is a broken message, not work of a version to come.
    #[test]
    fn the_assignment_of_work_to_come_is_told_from_the_rest() {
        let (job, generation) = (JobId::from_bytes([7; 16]), Generation(300));
        let assign = |work: u32| postcard::to_stdvec(&(1_u32, job, generation, work, "m")).unwrap();
        let to_come = assign(kinds::<Work>());
        assert!(crate::frame::decode::<ToNode>(&to_come).is_err());
        assert_eq!(unknown_work(&to_come), Some((job, generation)));
        for known in 0..kinds::<Work>() {
            assert_eq!(unknown_work(&assign(known)), None, "{known}");
        }
        let work = Work::Heal { packs: Vec::new(), points: Vec::new() };
        let known = postcard::to_stdvec(&ToNode::Assign { job, generation, work }).unwrap();
        assert_eq!(unknown_work(&known), None);
        assert_eq!(unknown_work(&postcard::to_stdvec(&ToNode::Cancel { job }).unwrap()), None);
        assert_eq!(unknown_work(&[]), None);
    }
}
