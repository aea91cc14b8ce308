//! The vault key and what is derived from it. The vault key never leaves its holder and is
//! wiped when dropped; agents get [`AgentKeys`], with which they name and cut but cannot open.

use strongroom_protocol::blob::{BlobKind, Reference};
use strongroom_protocol::id::{ChunkId, PointId};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

const KEY_CHECK: &str = "strongroom v1 key check";
const ID_KEY: &str = "strongroom v1 id key";
const CUT_KEY: &str = "strongroom v1 cut key";
const SEAL_KEY: &str = "strongroom v1 seal key";
const POINT_KEY: &str = "strongroom v1 point key";

/// The system gave no randomness.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gave no random bytes")]
pub struct NoRandomness;

/// Most key epochs of a vault: one a month for five years, and what is wrapped stays small.
pub const EPOCHS_MAX: usize = 64;
/// Bytes of one epoch's key.
pub const KEY_BYTES: usize = 32;

/// Why there is no further epoch.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RotateError {
    /// A vault has only so many.
    #[error("the vault has had {EPOCHS_MAX} key epochs, which is all there can be")]
    Epochs,
    /// No key without it.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

/// What everything sealed in a vault hangs on: 32 bytes for each key epoch. New blobs and points
/// are sealed under the last; what names and cuts comes from the first, for ever.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct VaultKey {
    first: [u8; KEY_BYTES],
    later: Vec<[u8; KEY_BYTES]>,
}

impl VaultKey {
    /// A new key of one epoch from the system's randomness.
    pub fn fresh() -> Result<Self, NoRandomness> {
        let mut key = Self::from_bytes([0; KEY_BYTES]);
        fill_random(&mut key.first)?;
        Ok(key)
    }

    /// The key of a vault that was never rotated.
    pub const fn from_bytes(first: [u8; KEY_BYTES]) -> Self {
        Self { first, later: Vec::new() }
    }

    /// From bytes that were unwrapped: the key of each epoch, the first first. Nothing if they
    /// are no such thing.
    pub fn from_secret(bytes: &[u8]) -> Option<Self> {
        let (keys, rest) = bytes.as_chunks::<KEY_BYTES>();
        let (first, later) = keys.split_first()?;
        (rest.is_empty() && keys.len() <= EPOCHS_MAX)
            .then(|| Self { first: *first, later: later.to_vec() })
    }

    /// The bytes, for wrapping and for `vault.key`.
    pub fn to_secret(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity((self.later.len() + 1) * KEY_BYTES));
        for key in self.keys() {
            bytes.extend_from_slice(key);
        }
        bytes
    }

    /// The same vault with one epoch more.
    pub fn rotated(&self) -> Result<Self, RotateError> {
        if self.later.len() + 1 >= EPOCHS_MAX {
            return Err(RotateError::Epochs);
        }
        // Made with room for all: a vector that grows leaves a copy behind.
        let mut later = Vec::with_capacity(self.later.len() + 1);
        later.extend_from_slice(&self.later);
        later.push([0; KEY_BYTES]);
        let mut rotated = Self { first: self.first, later };
        if let Some(fresh) = rotated.later.last_mut() {
            fill_random(fresh)?;
        }
        Ok(rotated)
    }

    /// The epoch new blobs and points are sealed under; they count from 1.
    pub fn epoch(&self) -> u32 {
        u32::try_from(self.later.len()).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// What `config` keeps to tell a wrong key from damage: of the first epoch.
    pub fn key_check(&self) -> [u8; 32] {
        blake3::derive_key(KEY_CHECK, &self.first)
    }

    /// The same of every epoch, the first first.
    pub fn checks(&self) -> Vec<[u8; 32]> {
        self.keys().map(|key| blake3::derive_key(KEY_CHECK, key)).collect()
    }

    /// What agents are given: of the first epoch, so that names and cuts outlive a rotation.
    pub fn agent_keys(&self) -> AgentKeys {
        let id_key = blake3::derive_key(ID_KEY, &self.first);
        let cut = Zeroizing::new(blake3::derive_key(CUT_KEY, &self.first));
        let [a, b, c, d, e, f, g, h, ..] = *cut;
        let cut_key = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]) | 1);
        AgentKeys { id_key, cut_key }
    }

    /// The key that seals one blob in an epoch; nothing for an epoch that is not held.
    pub fn seal_key(
        &self,
        epoch: u32,
        kind: BlobKind,
        id: &ChunkId,
    ) -> Option<Zeroizing<[u8; 32]>> {
        let mut material = Zeroizing::new([0; 65]);
        let (key, meaning) = material.split_at_mut(KEY_BYTES);
        key.copy_from_slice(self.of_epoch(epoch)?);
        if let Some((first, rest)) = meaning.split_first_mut() {
            *first = kind.code();
            rest.copy_from_slice(&id.0);
        }
        Some(Zeroizing::new(blake3::derive_key(SEAL_KEY, &*material)))
    }

    /// The key that seals the body of one point's manifest in an epoch.
    pub fn point_key(&self, epoch: u32, point: PointId) -> Option<Zeroizing<[u8; 32]>> {
        let mut material = Zeroizing::new([0; 48]);
        let (key, id) = material.split_at_mut(KEY_BYTES);
        key.copy_from_slice(self.of_epoch(epoch)?);
        id.copy_from_slice(point.as_bytes());
        Some(Zeroizing::new(blake3::derive_key(POINT_KEY, &*material)))
    }

    fn of_epoch(&self, epoch: u32) -> Option<&[u8; KEY_BYTES]> {
        self.keys().nth(usize::try_from(epoch).ok()?.checked_sub(1)?)
    }

    fn keys(&self) -> impl Iterator<Item = &[u8; KEY_BYTES]> {
        std::iter::once(&self.first).chain(&self.later)
    }
}

impl std::fmt::Debug for VaultKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("VaultKey")
    }
}

/// What names and cuts: enough to make the same chunks as everybody else of the vault.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
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
    fn a_rotation_changes_what_seals_and_never_what_names() {
        let (id, point) = (ChunkId([1; 32]), PointId::from_bytes([2; 16]));
        let one = VaultKey::from_bytes([9; 32]);
        let two = one.rotated().unwrap();
        assert_eq!((one.epoch(), two.epoch()), (1, 2));
        assert!(one.agent_keys() == two.agent_keys() && one.key_check() == two.key_check());
        let seal = |key: &VaultKey, epoch| key.seal_key(epoch, BlobKind::Data, &id);
        assert_eq!(seal(&one, 1), seal(&two, 1));
        assert_ne!(seal(&two, 1), seal(&two, 2));
        assert_eq!(one.point_key(1, point), two.point_key(1, point));
        assert_ne!(two.point_key(1, point), two.point_key(2, point));
        assert!(seal(&two, 0).is_none() && seal(&one, 2).is_none());
        assert_ne!(two.checks()[1], one.rotated().unwrap().checks()[1], "fresh each time");
        let again = VaultKey::from_secret(&two.to_secret()).unwrap();
        assert_eq!(again.checks(), two.checks());
    }

    #[test]
    fn only_whole_keys_are_keys_and_epochs_end() {
        for bytes in [0, 31, 33, 65, KEY_BYTES * (EPOCHS_MAX + 1)] {
            assert!(VaultKey::from_secret(&vec![1; bytes]).is_none(), "{bytes}");
        }
        let mut key = VaultKey::from_secret(&vec![1; KEY_BYTES * (EPOCHS_MAX - 1)]).unwrap();
        key = key.rotated().unwrap();
        assert!(matches!(key.rotated(), Err(RotateError::Epochs)));
    }

    #[test]
    fn debug_shows_no_secret() {
        let key = VaultKey::from_bytes([9; 32]);
        assert_eq!(format!("{key:?} {:?}", key.agent_keys()), "VaultKey AgentKeys");
    }

    #[test]
    fn what_opens_or_names_is_wiped() {
        const fn wiped<T: ZeroizeOnDrop>() {}
        wiped::<VaultKey>();
        wiped::<AgentKeys>();
        wiped::<Zeroizing<[u8; 32]>>();
    }
}
