//! What may be said between nodes: ids, messages, frames, limits. Pure except `link`, the
//! only file of the product that knows QUIC. Knows no disk, no certificate authority, no
//! policy.

pub mod blob;
pub mod id;
pub mod time;

pub use blob::{Algorithm, BlobKind, Parcel, ParcelHead, Reference};
pub use id::{
    ChunkId, CopyName, Generation, Identity, JobId, MediaSetName, MediumId, NodeName, OrgName,
    PackId, PointId, PolicyName, RepoId, Role, SiteName, WorkloadId, WorkloadName,
};
pub use time::{Clock, FixedClock, SystemClock, Timestamp};
