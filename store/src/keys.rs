//! The vault key and what is derived from it. The vault key never leaves its holder and is
//! wiped when dropped; agents get [`AgentKeys`], with which they name and cut but cannot open.

use serde::{Deserialize, Serialize};
use strongroom_protocol::blob::{BlobKind, Reference};
use strongroom_protocol::id::{ChunkId, PointId};
use zeroize::{Zeroize, ZeroizeOnDrop};

const KEY_CHECK: &str = "strongroom v1 key check";
const ID_KEY: &str = "strongroom v1 id key";
const CUT_KEY: &str = "strongroom v1 cut key";
const SEAL_KEY: &str = "strongroom v1 seal key";
const POINT_KEY: &str = "strongroom v1 point key";

/// The system gave no randomness.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gave no random bytes")]
pub struct NoRandomness;

/// The 32 bytes everything sealed in a vault hangs on.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct VaultKey([u8; 32]);

impl VaultKey {
    /// A new key from the system's randomness.
    pub fn fresh() -> Result<Self, NoRandomness> {
        let mut bytes = [0; 32];
        fill_random(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// From bytes that were unwrapped.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for wrapping.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What `config` keeps to tell a wrong key from damage.
    pub fn key_check(&self) -> [u8; 32] {
        blake3::derive_key(KEY_CHECK, &self.0)
    }

    /// What agents are given.
    pub fn agent_keys(&self) -> AgentKeys {
        let id_key = blake3::derive_key(ID_KEY, &self.0);
        let cut = blake3::derive_key(CUT_KEY, &self.0);
        let [a, b, c, d, e, f, g, h, ..] = cut;
        let cut_key = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]) | 1);
        AgentKeys { id_key, cut_key }
    }

    /// The key that seals one blob.
    pub fn seal_key(&self, kind: BlobKind, id: &ChunkId) -> [u8; 32] {
        let mut material = [0; 65];
        let (key, meaning) = material.split_at_mut(32);
        key.copy_from_slice(&self.0);
        if let Some((first, rest)) = meaning.split_first_mut() {
            *first = kind.code();
            rest.copy_from_slice(&id.0);
        }
        let derived = blake3::derive_key(SEAL_KEY, &material);
        material.zeroize();
        derived
    }

    /// The key that seals the body of one point's manifest.
    pub fn point_key(&self, point: PointId) -> [u8; 32] {
        let mut material = [0; 48];
        let (key, id) = material.split_at_mut(32);
        key.copy_from_slice(&self.0);
        id.copy_from_slice(point.as_bytes());
        let derived = blake3::derive_key(POINT_KEY, &material);
        material.zeroize();
        derived
    }
}

impl std::fmt::Debug for VaultKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("VaultKey")
    }
}

/// What names and cuts: enough to make the same chunks as everybody else of the vault.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentKeys {
    pub id_key: [u8; 32],
    pub cut_key: (u32, u32),
}

impl AgentKeys {
    /// The name of a blob. References are part of it, because a page's plaintext names them by
    /// position only: two pages that differ in a reference alone must not share a name.
    pub fn id(&self, kind: BlobKind, references: &[Reference], plain: &[u8]) -> ChunkId {
        let mut hasher = blake3::Hasher::new_keyed(&self.id_key);
        let count = u32::try_from(references.len()).unwrap_or(u32::MAX);
        let [a, b, c, d] = count.to_le_bytes();
        hasher.update(&[kind.code(), a, b, c, d]);
        for reference in references {
            hasher.update(&[reference.kind.code()]);
            hasher.update(&reference.id.0);
        }
        hasher.update(plain);
        ChunkId(*hasher.finalize().as_bytes())
    }
}

impl std::fmt::Debug for AgentKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AgentKeys")
    }
}

pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<(), NoRandomness> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| NoRandomness)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_keys_are_frozen() {
        let key = VaultKey::from_bytes([7; 32]);
        let agent = key.agent_keys();
        let id = agent.id(BlobKind::Data, &[], b"hello");
        let line = format!("{id} {:08x} {:08x}", agent.cut_key.0, agent.cut_key.1);
        assert_eq!(line, GOLDEN);
        assert_eq!(agent.cut_key.1 & 1, 1);
    }

    const GOLDEN: &str = "a3b1986c464bf39f4313f20cbe5372c205f4cdea5bf96470ce526907ccb054ee \
                          c37ee8ab 1e4d15ed";

    #[test]
    fn kind_and_references_are_part_of_the_name() {
        let keys = VaultKey::from_bytes([1; 32]).agent_keys();
        let one = Reference { kind: BlobKind::Data, id: ChunkId([1; 32]) };
        let two = Reference { kind: BlobKind::Data, id: ChunkId([2; 32]) };
        let page = keys.id(BlobKind::Page, &[one], b"body");
        assert_ne!(page, keys.id(BlobKind::Page, &[two], b"body"));
        assert_ne!(page, keys.id(BlobKind::List, &[one], b"body"));
        assert_eq!(page, keys.id(BlobKind::Page, &[one], b"body"));
    }

    #[test]
    fn debug_shows_no_secret() {
        assert_eq!(format!("{:?}", VaultKey::from_bytes([9; 32])), "VaultKey");
    }
}
