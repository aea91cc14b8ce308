//! First certificates: the only conversation a node without one may hold, on an ALPN of its
//! own. The node knows the root's fingerprint from its token, so it knows whom it talks to.

use serde::{Deserialize, Serialize};

use crate::frame::message;
use crate::id::Identity;
use crate::opening::Refusal;

/// Node to the holder of the site's authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnrolRequest {
    /// The token's secret, who the node wants to be, and its signing request (DER).
    First { secret: Vec<u8>, identity: Identity, csr: Vec<u8> },
}
message!(EnrolRequest, "enrolment", 1);

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnrolResponse {
    /// The chain, leaf first, root last (DER).
    Granted { chain: Vec<Vec<u8>> },
    /// No, and why: wrong, used, expired or replayed token; name taken.
    Refused(Refusal),
}
message!(EnrolResponse, "answer to enrolment", 2);
