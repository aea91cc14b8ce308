//! What a listening socket keeps over the death of its process. A peer of the earlier process
//! that goes on talking is told at once that its connection is gone (a stateless reset, RFC
//! 9000 section 10.3) instead of finding out by long silence. Nothing else is kept.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use quinn::crypto::{CryptoError, HmacKey};

/// As long as the identifiers quinn makes.
const CONNECTION_ID_BYTES: usize = 8;

/// Who holds it can end connections of the node and nothing else.
#[derive(Clone)]
pub struct LastingKey([u8; 32]);

impl LastingKey {
    /// From bytes that nobody else knows.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// An endpoint that answers for connections of an earlier process with the same key.
    pub(super) fn endpoint(self) -> quinn::EndpointConfig {
        let mut config = quinn::EndpointConfig::new(Arc::new(self));
        // quinn's own identifiers are checked by a key of the process: those of the earlier
        // one would be dropped unanswered.
        config.cid_generator(|| Box::new(Identifiers(RandomState::new(), 0)));
        config
    }
}

impl HmacKey for LastingKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        blake3::Hasher::new_keyed(&self.0).update(data).finalize_xof().fill(signature_out);
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let found = <[u8; blake3::OUT_LEN]>::try_from(signature).map_err(|_| CryptoError)?;
        let wanted = blake3::keyed_hash(&self.0, data);
        // Compared in constant time.
        if wanted == found { Ok(()) } else { Err(CryptoError) }
    }
}

/// Any spread will do: an identifier finds a connection, it opens nothing.
struct Identifiers(RandomState, u64);

impl quinn::ConnectionIdGenerator for Identifiers {
    fn generate_cid(&mut self) -> quinn::ConnectionId {
        self.1 += 1;
        quinn::ConnectionId::new(&self.0.hash_one(self.1).to_le_bytes())
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}
