//! Blob records (format.md section 3): a parcel sealed with AES-256-GCM under a key of its own,
//! its meaning as associated data. Heads are readable without a key and are bounds-checked
//! before anything is allocated; a record whose head or seal does not hold is refused.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use bytes::Bytes;
use strongroom_protocol::blob::{
    Algorithm, BlobKind, PLAIN_BYTES_MAX, Parcel, ParcelHead, Reference,
};
use strongroom_protocol::id::{ChunkId, RepoId};

use crate::keys::{VaultKey, fill_random};
use crate::parcel::check_references;

/// "SLB1" as a little-endian number.
const MAGIC: u32 = 0x3142_4C53;
/// Bytes of a record before its references.
pub const HEAD_BYTES: usize = 68;
/// Bytes of one reference.
pub const REFERENCE_BYTES: usize = 33;
/// Bytes of the authentication tag.
pub const TAG_BYTES: usize = 16;
const NONCE_BYTES: usize = 12;
/// Where the check over the head lies.
const CHECK: std::ops::Range<usize> = 20..24;

/// Why a record was not made or not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The bytes end before the record does.
    #[error("a blob record is cut short at {have} of {need} bytes")]
    CutShort { have: usize, need: usize },
    /// The key of its epoch is not among those held.
    #[error("blob {id} is sealed under key epoch {epoch}, which the keys given do not hold")]
    Epoch { id: ChunkId, epoch: u32 },
    /// The head does not hold together.
    #[error("a blob record has a damaged head: {reason}")]
    Head { reason: &'static str },
    /// The seal does not hold: damage, another key or another repository.
    #[error("the seal of blob {id} does not hold")]
    Seal { id: ChunkId },
    /// A parcel no record can hold.
    #[error("blob {id} cannot be sealed: {reason}")]
    Unfit { id: ChunkId, reason: &'static str },
}

/// A record ready to be appended to a pack.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sealed {
    pub id: ChunkId,
    pub kind: BlobKind,
    pub plain_len: u32,
    /// The key epoch it is sealed under: a pack holds records of one epoch only.
    pub epoch: u32,
    pub bytes: Bytes,
}

/// What a record says without a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordHead {
    pub id: ChunkId,
    pub kind: BlobKind,
    pub algorithm: Algorithm,
    pub plain_len: u32,
    pub sealed_len: u32,
    pub references: Vec<Reference>,
    nonce: [u8; NONCE_BYTES],
}

/// The numbers of a head that say how long the record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordShape {
    pub kind: BlobKind,
    pub algorithm: Algorithm,
    pub plain_len: u32,
    pub sealed_len: u32,
    pub reference_count: u32,
}

impl RecordShape {
    /// Reads and bounds the fixed part; the check over the head is not looked at yet.
    pub fn parse(bytes: &[u8]) -> Result<Self, SealError> {
        let short = SealError::CutShort { have: bytes.len(), need: HEAD_BYTES };
        let Some(head) = bytes.first_chunk::<HEAD_BYTES>() else { return Err(short) };
        let damaged = |reason| SealError::Head { reason };
        let number = |at: usize| word(head, at);
        if number(0) != MAGIC {
            return Err(damaged("no magic"));
        }
        let [_, _, _, _, kind, algorithm, zero, zero_too, ..] = *head;
        let kind = BlobKind::from_code(kind).ok_or_else(|| damaged("unknown kind"))?;
        let algorithm =
            Algorithm::from_code(algorithm).ok_or_else(|| damaged("unknown algorithm"))?;
        let shape = Self {
            kind,
            algorithm,
            plain_len: number(8),
            sealed_len: number(12),
            reference_count: number(16),
        };
        if (zero, zero_too) != (0, 0) {
            return Err(damaged("reserved bytes are set"));
        }
        if shape.plain_len as usize > PLAIN_BYTES_MAX {
            return Err(damaged("plaintext too long"));
        }
        let payload = (shape.sealed_len as usize).checked_sub(TAG_BYTES);
        let fits = payload.is_some_and(|len| match algorithm {
            Algorithm::Stored => len == shape.plain_len as usize,
            Algorithm::Zstd => len < shape.plain_len as usize,
        });
        if !fits {
            return Err(damaged("sealed length out of bounds"));
        }
        check_references(kind, shape.reference_count as usize)
            .map_err(|_| damaged("too many references"))?;
        Ok(shape)
    }

    /// Bytes before the sealed part.
    pub const fn head_len(&self) -> usize {
        HEAD_BYTES + self.reference_count as usize * REFERENCE_BYTES
    }

    /// Bytes of the whole record.
    pub const fn record_len(&self) -> usize {
        self.head_len() + self.sealed_len as usize
    }
}

impl RecordHead {
    /// Reads a head and its references; the sealed part need not be there.
    pub fn parse(bytes: &[u8]) -> Result<Self, SealError> {
        let shape = RecordShape::parse(bytes)?;
        let need = shape.head_len();
        let head = bytes.get(..need);
        let head = head.ok_or(SealError::CutShort { have: bytes.len(), need })?;
        if head.get(CHECK) != Some(check(head).as_slice()) {
            return Err(SealError::Head { reason: "its check does not hold" });
        }
        let (fixed, references) = head.split_at(HEAD_BYTES);
        let id = fixed.get(24..56).and_then(|id| id.first_chunk()).copied().unwrap_or_default();
        let nonce = fixed.get(56..).and_then(|n| n.first_chunk()).copied().unwrap_or_default();
        let references: Option<Vec<Reference>> =
            references.chunks_exact(REFERENCE_BYTES).map(parse_reference).collect();
        let references = references.ok_or(SealError::Head { reason: "unknown reference" })?;
        let RecordShape { kind, algorithm, plain_len, sealed_len, .. } = shape;
        Ok(Self { id: ChunkId(id), kind, algorithm, plain_len, sealed_len, references, nonce })
    }

    /// Bytes of the whole record.
    pub const fn record_len(&self) -> usize {
        HEAD_BYTES + self.references.len() * REFERENCE_BYTES + self.sealed_len as usize
    }

    fn aad(&self, repo: RepoId) -> Vec<u8> {
        let mut references = blake3::Hasher::new();
        for reference in &self.references {
            references.update(&[reference.kind.code()]).update(&reference.id.0);
        }
        let count = u32::try_from(self.references.len()).unwrap_or(u32::MAX);
        [
            repo.as_bytes().as_slice(),
            &self.id.0,
            &[self.kind.code(), self.algorithm.code()],
            &self.plain_len.to_le_bytes(),
            &count.to_le_bytes(),
            references.finalize().as_bytes(),
        ]
        .concat()
    }

    fn encode(&self) -> Vec<u8> {
        let count = u32::try_from(self.references.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(self.record_len());
        bytes.extend_from_slice(&MAGIC.to_le_bytes());
        bytes.extend_from_slice(&[self.kind.code(), self.algorithm.code(), 0, 0]);
        for number in [self.plain_len, self.sealed_len, count, 0] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&self.id.0);
        bytes.extend_from_slice(&self.nonce);
        for reference in &self.references {
            bytes.push(reference.kind.code());
            bytes.extend_from_slice(&reference.id.0);
        }
        let check = check(&bytes);
        if let Some(place) = bytes.get_mut(CHECK) {
            place.copy_from_slice(&check);
        }
        bytes
    }
}

/// Seals a parcel under the newest epoch. Its id is believed: who takes parcels from others opens
/// them first.
pub fn seal(key: &VaultKey, repo: RepoId, parcel: &Parcel) -> Result<Sealed, SealError> {
    let ParcelHead { id, kind, algorithm, plain_len, .. } = parcel.head;
    let unfit = |reason| SealError::Unfit { id, reason };
    check_references(kind, parcel.head.references.len())
        .map_err(|_| unfit("too many references"))?;
    let sealed_len = u32::try_from(parcel.payload.len() + TAG_BYTES)
        .map_err(|_| unfit("the payload is too long"))?;
    let mut nonce = [0; NONCE_BYTES];
    fill_random(&mut nonce).map_err(|_| unfit("no random bytes for its nonce"))?;
    let references = parcel.head.references.clone();
    let head = RecordHead { id, kind, algorithm, plain_len, sealed_len, references, nonce };
    let mut bytes = head.encode();
    RecordShape::parse(&bytes).map_err(|_| unfit("its lengths contradict one another"))?;
    let start = bytes.len();
    bytes.extend_from_slice(&parcel.payload);
    let epoch = key.epoch();
    let sealing = sealing_key(key, epoch, &head)?;
    let payload = bytes.get_mut(start..).unwrap_or_default();
    let tag = sealing
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(head.aad(repo)),
            payload,
        )
        .map_err(|_| unfit("the cipher failed"))?;
    bytes.extend_from_slice(tag.as_ref());
    Ok(Sealed { id, kind, plain_len, epoch, bytes: Bytes::from(bytes) })
}

/// Opens a record of a pack of `epoch`. The seal proves that it was made by a holder of the vault
/// key for this name, kind and repository; the id itself is checked by [`crate::parcel::open`].
pub fn open_record(
    key: &VaultKey,
    repo: RepoId,
    epoch: u32,
    record: &[u8],
) -> Result<Parcel, SealError> {
    let head = RecordHead::parse(record)?;
    let need = head.record_len();
    let sealed = record.get(need - head.sealed_len as usize..need);
    let sealed = sealed.ok_or(SealError::CutShort { have: record.len(), need })?;
    let mut payload = sealed.to_vec();
    let opened = sealing_key(key, epoch, &head)?
        .open_in_place(
            Nonce::assume_unique_for_key(head.nonce),
            Aad::from(head.aad(repo)),
            &mut payload,
        )
        .map_err(|_| SealError::Seal { id: head.id })?
        .len();
    payload.truncate(opened);
    let RecordHead { id, kind, algorithm, plain_len, references, .. } = head;
    let head = ParcelHead { id, kind, algorithm, plain_len, references };
    Ok(Parcel { head, payload: Bytes::from(payload) })
}

fn sealing_key(key: &VaultKey, epoch: u32, head: &RecordHead) -> Result<LessSafeKey, SealError> {
    let id = head.id;
    let bytes = key.seal_key(epoch, head.kind, &id).ok_or(SealError::Epoch { id, epoch })?;
    let unbound = UnboundKey::new(&AES_256_GCM, &*bytes)
        .map_err(|_| SealError::Unfit { id, reason: "the cipher refused its key" })?;
    Ok(LessSafeKey::new(unbound))
}

/// First four bytes of BLAKE3 over the head without the check itself.
fn check(head: &[u8]) -> [u8; 4] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(head.get(..CHECK.start).unwrap_or_default());
    hasher.update(head.get(CHECK.end..).unwrap_or_default());
    let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
    [a, b, c, d]
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
    word.map_or(0, |word| u32::from_le_bytes(*word))
}

fn parse_reference(bytes: &[u8]) -> Option<Reference> {
    let (kind, id) = bytes.split_first()?;
    Some(Reference { kind: BlobKind::from_code(*kind)?, id: ChunkId(*id.first_chunk()?) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::parcel::{Compressor, open};

    fn repo() -> RepoId {
        RepoId::from_bytes([5; 16])
    }

    fn sample(key: &VaultKey) -> (Parcel, Sealed) {
        let one = Reference { kind: BlobKind::Data, id: ChunkId([9; 32]) };
        let parcel = Compressor::new()
            .unwrap()
            .pack(&key.agent_keys(), BlobKind::Page, vec![one; 3], &[b'p'; 500], 3)
            .unwrap();
        let sealed = seal(key, repo(), &parcel).unwrap();
        (parcel, sealed)
    }

    #[test]
    fn round_trip_and_keyless_head() {
        let key = VaultKey::fresh().unwrap();
        let (parcel, sealed) = sample(&key);
        assert_eq!(open_record(&key, repo(), 1, &sealed.bytes).unwrap(), parcel);
        let head = RecordHead::parse(&sealed.bytes).unwrap();
        assert_eq!((head.id, &head.references), (parcel.head.id, &parcel.head.references));
        assert_eq!(head.record_len(), sealed.bytes.len());
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let key = VaultKey::from_bytes([1; 32]);
        let (_, sealed) = sample(&key);
        for bit in 0..sealed.bytes.len() * 8 {
            let mut bytes = sealed.bytes.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(open_record(&key, repo(), 1, &bytes).is_err(), "bit {bit}");
        }
        for len in 0..sealed.bytes.len() {
            assert!(open_record(&key, repo(), 1, &sealed.bytes[..len]).is_err());
        }
    }

    #[test]
    fn another_key_or_repository_opens_nothing() {
        let key = VaultKey::from_bytes([1; 32]);
        let (parcel, sealed) = sample(&key);
        let other = VaultKey::from_bytes([2; 32]);
        assert!(open_record(&other, repo(), 1, &sealed.bytes).is_err());
        assert!(open_record(&key, RepoId::from_bytes([6; 16]), 1, &sealed.bytes).is_err());
        assert!(open(&parcel, &other.agent_keys()).is_err());
    }

    #[test]
    fn a_record_opens_in_its_own_epoch_only() {
        let one = VaultKey::from_bytes([1; 32]);
        let two = one.rotated().unwrap();
        let (parcel, old) = sample(&one);
        let (again, new) = sample(&two);
        assert_eq!((old.epoch, new.epoch, again.head.id), (1, 2, parcel.head.id));
        assert_eq!(open_record(&two, repo(), 1, &old.bytes).unwrap(), parcel);
        assert_eq!(open_record(&two, repo(), 2, &new.bytes).unwrap(), parcel);
        let refused = open_record(&two, repo(), 1, &new.bytes);
        assert!(matches!(refused, Err(SealError::Seal { .. })));
        let refused = open_record(&one, repo(), 2, &new.bytes);
        assert!(matches!(refused, Err(SealError::Epoch { epoch: 2, .. })));
    }

    #[test]
    fn the_same_blob_never_seals_to_the_same_bytes() {
        let key = VaultKey::from_bytes([1; 32]);
        assert_ne!(sample(&key).1.bytes, sample(&key).1.bytes);
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_without_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..300)
        ) {
            prop_assert!(RecordHead::parse(&bytes).is_err());
            let mut with_magic = MAGIC.to_le_bytes().to_vec();
            with_magic.extend_from_slice(&bytes);
            prop_assert!(RecordHead::parse(&with_magic).is_err());
        }
    }
}
