//! First certificates: the only conversation a node without one may hold, on an ALPN of its
//! own. The node knows the root's fingerprint from its token, so it knows whom it talks to.

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::frame::message;
use crate::id::Identity;
use crate::opening::Refusal;

/// The secret of a token on its way: never printed, wiped when dropped. On the wire it is its
/// bytes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct TokenProof(pub Vec<u8>);

impl std::fmt::Debug for TokenProof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenProof(..)")
    }
}

/// Node to the holder of the site's authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnrolRequest {
    /// The token's secret, who the node wants to be, and its signing request (DER).
    First { secret: TokenProof, identity: Identity, csr: Vec<u8> },
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Naming;

    #[test]
    fn secrets_on_the_way_are_wiped_and_never_printed() {
        const fn wiped<T: ZeroizeOnDrop>() {}
        wiped::<TokenProof>();
        wiped::<Naming>();
        let naming = Naming { id_key: [77; 32], cut_key: (77, 77), cut_min: 1, cut_max: 2 };
        let text = format!("{:?} {naming:?}", TokenProof(vec![77; 32]));
        assert_eq!(text, "TokenProof(..) Naming { .. }");
    }

    #[test]
    fn a_proof_is_its_bytes_on_the_wire() {
        let bytes = postcard::to_stdvec(&vec![7_u8; 16]).ok();
        assert_eq!(postcard::to_stdvec(&TokenProof(vec![7; 16])).ok(), bytes);
    }
}
