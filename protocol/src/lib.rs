//! What may be said between nodes: ids, messages, frames, limits. Pure except `link`, the
//! only file of the product that knows QUIC. Knows no disk, no certificate authority, no
//! policy.

pub mod admin;
pub mod blob;
pub mod chain;
pub mod control;
pub mod data;
pub mod drill;
pub mod enrol;
pub mod frame;
pub mod id;
pub mod lead;
pub mod link;
pub mod member;
pub mod opening;
pub mod proof;
pub mod time;

mod kinds;

pub use blob::{Algorithm, BlobKind, Parcel, ParcelHead, Reference};
pub use chain::Chain;
pub use id::{
    ChunkId, CopyName, Generation, Identity, JobId, MediaSetName, MediumId, NodeName, OrgName,
    PackId, PointId, PolicyName, RepoId, Role, SiteName, WorkloadId, WorkloadName,
};
pub use lead::{Lead, LeadOrder, Term};
pub use time::{Clock, FixedClock, SystemClock, Timestamp};

/// The protocol and its major version, as TLS's ALPN: everything between certified nodes.
pub const ALPN_NODE: &[u8] = b"strongroom/1";
/// First certificates only: the client has none yet.
pub const ALPN_ENROL: &[u8] = b"strongroom-enrol/1";

/// The wire's history: one variant a version, newest last, each saying why it exists.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[non_exhaustive]
pub enum WireVersion {
    /// The first: control, ingest, fetch, packs, admin, enrol.
    V1,
}
