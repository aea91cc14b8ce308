//! The first frame of every stream: what the stream is for. Who may open which kind is
//! decided by the role in the peer's certificate, before anything else is read.

use serde::{Deserialize, Serialize};

use crate::frame::message;
use crate::id::{Generation, JobId, PointId};

/// What a stream is for. The order is the wire: append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Opening {
    /// Agent or proxy to its coordinator: one long conversation ([`crate::control`]).
    Control,
    /// Agent to coordinator: the blobs of a point ([`crate::data::FromAgent`]).
    Ingest { job: JobId, generation: Generation },
    /// Reader to coordinator or proxy: blobs of a point ([`crate::data::FromReader`]). An agent
    /// needs the job by which an operator granted the restore; an operator does not.
    Fetch { point: PointId, grant: Option<JobId> },
    /// Proxy to coordinator: sealed packs as they are ([`crate::data::FromProxy`]).
    Packs,
    /// Operator to coordinator or proxy: one question ([`crate::admin`]).
    Admin,
    /// Proxy to coordinator, as [`crate::control::Work::Heal`] ordered: the coordinator asks
    /// ([`crate::data::FromProxy`]), the proxy answers ([`crate::data::ToProxy`]).
    Heal { job: JobId },
}
message!(Opening, "opening", 6);

/// The answer to an opening, before anything else on the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Opened {
    /// Go on.
    Granted,
    /// No, and why.
    Refused(Refusal),
}
message!(Opened, "opened", 2);

/// Why a peer is refused; the text tells a person what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}: {text}", kind.as_str())]
pub struct Refusal {
    pub kind: RefusalKind,
    pub text: String,
}

impl Refusal {
    /// A refusal of `kind` with its explanation.
    pub fn new(kind: RefusalKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}

/// The classes of refusal. The order is the wire: append only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusalKind {
    /// The certificate's role may not do this.
    Forbidden,
    /// The job, point or workload is not known here.
    Unknown,
    /// Another holder has a newer generation, or the name is already connected.
    Stale,
    /// What was asked makes no sense as asked.
    Invalid,
    /// The repository, disk or medium cannot do it now.
    Unavailable,
    /// What was found is damaged.
    Damaged,
    /// A blob that should be here is not.
    Missing,
    /// Stopped by an operator.
    Cancelled,
    /// Something failed that is not the peer's fault.
    Internal,
    /// It is on cartridges that are out of the library and must be fetched; then it goes on.
    Away,
}

impl RefusalKind {
    /// The word in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forbidden => "forbidden",
            Self::Unknown => "unknown",
            Self::Stale => "stale",
            Self::Invalid => "invalid",
            Self::Unavailable => "unavailable",
            Self::Damaged => "damaged",
            Self::Missing => "missing",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
            Self::Away => "away",
        }
    }
}
