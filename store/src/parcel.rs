//! Parcels: compressing plaintext for the way, and opening what arrived. Opening is bounded by
//! the length the head claims and refuses plaintext that does not have the name it came under.

use bytes::Bytes;
use strongroom_protocol::blob::{
    Algorithm, BlobKind, PLAIN_BYTES_MAX, Parcel, ParcelHead, REFERENCES_MAX, Reference,
};
use strongroom_protocol::id::ChunkId;

use crate::keys::AgentKeys;

/// Compression must save one part in this many, or the bytes are stored as they are (4 %).
const SAVING_PARTS: usize = 25;
/// Plaintexts shorter than this are compressed without probing: the probe would cost as much.
const PROBE_BYTES_MIN: usize = 64 << 10;
/// Bytes of each of the probe's samples.
const SAMPLE_BYTES: usize = 4 << 10;
/// Samples the probe takes: head, middle and tail.
const SAMPLES: usize = 3;
/// The probe's level: the cheapest that still sees repetition.
const PROBE_LEVEL: i32 = 1;

/// Why a parcel was not made or not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParcelError {
    /// The compressor itself failed.
    #[error("cannot compress {plain_len} bytes")]
    Compress { plain_len: usize, source: std::io::Error },
    /// The payload is not what its head says.
    #[error("blob {id} does not decompress to its {plain_len} bytes")]
    Malformed { id: ChunkId, plain_len: u32 },
    /// The plaintext has another name.
    #[error("blob {id} holds other bytes than its name says")]
    Mismatch { id: ChunkId },
    /// Longer than a blob may be.
    #[error("{plain_len} bytes are more than a blob holds")]
    TooLong { plain_len: usize },
    /// More references than a blob may carry, or any on a kind that carries none.
    #[error("a blob of kind {kind:?} cannot carry {count} references")]
    References { kind: BlobKind, count: usize },
}

/// A reusable compressor: one for each thread.
pub struct Compressor {
    zstd: zstd::bulk::Compressor<'static>,
    level: i32,
    buffer: Vec<u8>,
}

impl Compressor {
    /// A compressor with its context allocated.
    pub fn new() -> Result<Self, ParcelError> {
        let zstd = zstd::bulk::Compressor::new(PROBE_LEVEL)
            .map_err(|source| ParcelError::Compress { plain_len: 0, source })?;
        Ok(Self { zstd, level: PROBE_LEVEL, buffer: Vec::new() })
    }

    /// Names and compresses one blob.
    pub fn pack(
        &mut self,
        keys: &AgentKeys,
        kind: BlobKind,
        references: Vec<Reference>,
        plain: &[u8],
        level: i32,
    ) -> Result<Parcel, ParcelError> {
        let id = keys.id(kind, &references, plain);
        self.pack_named(id, kind, references, plain, level)
    }

    /// As [`Self::pack`], for a caller that knows the name already.
    pub fn pack_named(
        &mut self,
        id: ChunkId,
        kind: BlobKind,
        references: Vec<Reference>,
        plain: &[u8],
        level: i32,
    ) -> Result<Parcel, ParcelError> {
        check_references(kind, references.len())?;
        let plain_len = u32::try_from(plain.len())
            .ok()
            .filter(|_| plain.len() <= PLAIN_BYTES_MAX)
            .ok_or(ParcelError::TooLong { plain_len: plain.len() })?;
        let (algorithm, payload) = match self.compress(plain, level)? {
            Some(smaller) => (Algorithm::Zstd, smaller),
            None => (Algorithm::Stored, Bytes::copy_from_slice(plain)),
        };
        Ok(Parcel { head: ParcelHead { id, kind, algorithm, plain_len, references }, payload })
    }

    /// The compressed bytes, or nothing when they are not worth it.
    fn compress(&mut self, plain: &[u8], level: i32) -> Result<Option<Bytes>, ParcelError> {
        if plain.is_empty() || (plain.len() >= PROBE_BYTES_MIN && !self.probe(plain)?) {
            return Ok(None);
        }
        self.run(plain, level)?;
        if !is_saving(plain.len(), self.buffer.len()) {
            return Ok(None);
        }
        Ok(Some(Bytes::copy_from_slice(&self.buffer)))
    }

    /// Whether samples of the bytes shrink.
    fn probe(&mut self, plain: &[u8]) -> Result<bool, ParcelError> {
        let stride = (plain.len() - SAMPLE_BYTES) / (SAMPLES - 1);
        let mut sample = Vec::with_capacity(SAMPLE_BYTES * SAMPLES);
        for start in (0..SAMPLES).map(|n| n * stride) {
            sample.extend_from_slice(plain.get(start..start + SAMPLE_BYTES).unwrap_or_default());
        }
        self.run(&sample, PROBE_LEVEL)?;
        Ok(is_saving(sample.len(), self.buffer.len()))
    }

    /// Compresses into the buffer.
    fn run(&mut self, plain: &[u8], level: i32) -> Result<(), ParcelError> {
        let failed = |source| ParcelError::Compress { plain_len: plain.len(), source };
        if level != self.level {
            self.zstd.set_compression_level(level).map_err(failed)?;
            self.level = level;
        }
        self.buffer.clear();
        self.buffer.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        self.zstd.compress_to_buffer(plain, &mut self.buffer).map_err(failed)?;
        Ok(())
    }
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressor").field("level", &self.level).finish_non_exhaustive()
    }
}

/// The plaintext of a parcel, proven to have the name in its head.
pub fn open(parcel: &Parcel, keys: &AgentKeys) -> Result<Bytes, ParcelError> {
    let head = &parcel.head;
    check_references(head.kind, head.references.len())?;
    let plain = unpack(parcel)?;
    if keys.id(head.kind, &head.references, &plain) != head.id {
        return Err(ParcelError::Mismatch { id: head.id });
    }
    Ok(plain)
}

/// Decompresses without believing the head's length.
fn unpack(parcel: &Parcel) -> Result<Bytes, ParcelError> {
    let ParcelHead { id, algorithm, plain_len, .. } = parcel.head;
    let expected = plain_len as usize;
    if expected > PLAIN_BYTES_MAX {
        return Err(ParcelError::TooLong { plain_len: expected });
    }
    let malformed = ParcelError::Malformed { id, plain_len };
    let plain = match algorithm {
        Algorithm::Stored => parcel.payload.clone(),
        Algorithm::Zstd => match zstd::bulk::decompress(&parcel.payload, expected) {
            Ok(plain) => Bytes::from(plain),
            Err(_) => return Err(malformed),
        },
    };
    if plain.len() == expected { Ok(plain) } else { Err(malformed) }
}

const fn is_saving(plain: usize, compressed: usize) -> bool {
    compressed + plain / SAVING_PARTS <= plain
}

pub(crate) fn check_references(kind: BlobKind, count: usize) -> Result<(), ParcelError> {
    let most = match kind {
        BlobKind::Data | BlobKind::Gaps => 0,
        BlobKind::List | BlobKind::Page => REFERENCES_MAX,
    };
    if count > most { Err(ParcelError::References { kind, count }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::VaultKey;

    fn keys() -> AgentKeys {
        VaultKey::from_bytes([3; 32]).agent_keys()
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn round_trips_at_every_size() {
        let mut compressor = Compressor::new().unwrap();
        for len in [0, 1, 100, 70_000, PLAIN_BYTES_MAX] {
            for plain in [vec![b'x'; len], noise(len)] {
                let parcel = compressor.pack(&keys(), BlobKind::Data, vec![], &plain, 3).unwrap();
                assert_eq!(open(&parcel, &keys()).unwrap(), plain);
                assert!(parcel.payload.len() <= plain.len());
            }
        }
    }

    #[test]
    fn noise_is_stored_and_text_is_not() {
        let mut compressor = Compressor::new().unwrap();
        let stored = compressor.pack(&keys(), BlobKind::Data, vec![], &noise(1 << 20), 3).unwrap();
        assert_eq!(stored.head.algorithm, Algorithm::Stored);
        let text = compressor.pack(&keys(), BlobKind::Data, vec![], &[b'a'; 1 << 20], 3).unwrap();
        assert_eq!(text.head.algorithm, Algorithm::Zstd);
    }

    #[test]
    fn refuses_other_bytes_and_bombs() {
        let mut compressor = Compressor::new().unwrap();
        let good = compressor.pack(&keys(), BlobKind::Data, vec![], &[0; 1 << 20], 3).unwrap();
        let mut bomb = good.clone();
        bomb.head.plain_len = 1000;
        assert!(matches!(open(&bomb, &keys()), Err(ParcelError::Malformed { .. })));
        let mut huge = good.clone();
        huge.head.plain_len = u32::MAX;
        assert!(matches!(open(&huge, &keys()), Err(ParcelError::TooLong { .. })));
        let mut other = good;
        other.head.kind = BlobKind::Gaps;
        assert!(matches!(open(&other, &keys()), Err(ParcelError::Mismatch { .. })));
    }

    #[test]
    fn data_carries_no_references() {
        let mut compressor = Compressor::new().unwrap();
        let one = Reference { kind: BlobKind::Data, id: ChunkId([0; 32]) };
        let refused = compressor.pack(&keys(), BlobKind::Data, vec![one], b"x", 3);
        assert!(matches!(refused, Err(ParcelError::References { .. })));
        assert!(
            compressor.pack(&keys(), BlobKind::Data, vec![], &[0; PLAIN_BYTES_MAX + 1], 3).is_err()
        );
    }
}
