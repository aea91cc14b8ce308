//! A member of a cluster, as its coordinator sees it before it orders one of them to make a
//! point: what is asked of the agent beside each, and what each says. Looking changes nothing.

use serde::{Deserialize, Serialize};

use crate::control::AppKind;
use crate::opening::Refusal;

/// What an agent is asked of a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberQuestion {
    /// Comes back with the answer.
    pub number: u64,
    pub kind: AppKind,
    /// By the keys of the policy file, as in [`crate::control::AppWork`]; never a secret.
    pub settings: Vec<(String, String)>,
}

/// What an agent says of a member. The order is the wire: append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberAnswer {
    Is(MemberState),
    /// It cannot be looked at, and why.
    Refused(Refusal),
}

/// A member as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberState {
    /// What all members of the cluster have in common, and no other cluster has.
    pub cluster: String,
    pub role: MemberRole,
    /// Counted up by every promotion.
    pub timeline: u64,
    /// How far it is behind, in milliseconds; none: it cannot tell.
    pub lag_ms: Option<u64>,
    pub version: String,
}

/// What a member is in its cluster. The order is the wire: append only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberRole {
    Primary,
    Standby,
}

impl MemberRole {
    /// The word in tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Standby => "standby",
        }
    }
}
