//! Parcels: compressing plaintext for the way, and opening what arrived. Opening is bounded by
//! the length the head claims and refuses plaintext that does not have the name it came under.
//! How hard it is tried depends on what the bytes look like (docs/performance.md).

mod texture;

use std::cell::RefCell;

use bytes::Bytes;
use strongroom_protocol::blob::{
    Algorithm, BlobKind, PLAIN_BYTES_MAX, Parcel, ParcelHead, REFERENCES_MAX, Reference,
};
use strongroom_protocol::id::ChunkId;

use zstd::zstd_safe::{CParameter, Strategy};

use crate::keys::AgentKeys;
use texture::{Sample, Texture};

/// Compression must save one part in this many, or the bytes are stored as they are (4 %).
const SAVING_PARTS: usize = 25;
/// zstd's window: the longest chunk and bundle the agent makes.
const WINDOW_LOG: u32 = 20;

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

/// How hard it is tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Effort {
    /// By what the bytes are.
    Fitted(Texture),
    /// One of zstd's own levels.
    Level(i32),
}

/// A reusable compressor: one for each thread.
pub struct Compressor {
    zstd: zstd::bulk::Compressor<'static>,
    effort: Effort,
    buffer: Vec<u8>,
}

impl Compressor {
    /// A compressor with its context allocated.
    pub fn new() -> Result<Self, ParcelError> {
        let effort = Effort::Level(1);
        Ok(Self { zstd: context(1)?, effort, buffer: Vec::new() })
    }

    /// Names and compresses one blob at a level.
    pub fn pack(
        &mut self,
        keys: &AgentKeys,
        kind: BlobKind,
        references: Vec<Reference>,
        plain: &[u8],
        level: i32,
    ) -> Result<Parcel, ParcelError> {
        let id = keys.id(kind, &references, plain);
        let head = head(id, kind, references, plain.len())?;
        let worth =
            plain.len() < texture::SAMPLED_BYTES_MIN || self.is_worth(&Sample::of(plain))?;
        let smaller = if worth { self.run(plain, Effort::Level(level))? } else { None };
        Ok(parcel(head, smaller, || Bytes::copy_from_slice(plain)))
    }

    /// Compresses a blob that has its name, as hard as its content is worth.
    pub fn pack_named(
        &mut self,
        id: ChunkId,
        kind: BlobKind,
        references: Vec<Reference>,
        plain: &Bytes,
    ) -> Result<Parcel, ParcelError> {
        let head = head(id, kind, references, plain.len())?;
        let sample = Sample::of(plain);
        let worth = plain.len() < texture::SAMPLED_BYTES_MIN || self.is_worth(&sample)?;
        let effort = Effort::Fitted(sample.texture());
        let smaller = if worth { self.run(plain, effort)? } else { None };
        Ok(parcel(head, smaller, || plain.clone()))
    }

    /// Whether bytes like the sample shrink: tried only where counting them does not say so.
    fn is_worth(&mut self, sample: &Sample) -> Result<bool, ParcelError> {
        if sample.is_skewed() {
            return Ok(true);
        }
        let tried = self.run(sample.bytes(), Effort::Fitted(Texture::Binary))?;
        Ok(tried.is_some())
    }

    /// The compressed bytes, or nothing when they are not worth it.
    fn run(&mut self, plain: &[u8], effort: Effort) -> Result<Option<Bytes>, ParcelError> {
        if plain.is_empty() {
            return Ok(None);
        }
        let failed = |source| ParcelError::Compress { plain_len: plain.len(), source };
        self.set(effort)?;
        self.buffer.clear();
        self.buffer.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        self.zstd.compress_to_buffer(plain, &mut self.buffer).map_err(failed)?;
        let saving = is_saving(plain.len(), self.buffer.len());
        Ok(saving.then(|| Bytes::copy_from_slice(&self.buffer)))
    }

    fn set(&mut self, effort: Effort) -> Result<(), ParcelError> {
        if self.effort == effort {
            return Ok(());
        }
        let failed = |source| ParcelError::Compress { plain_len: 0, source };
        match (effort, self.effort) {
            (Effort::Level(level), Effort::Level(_)) => {
                self.zstd.set_compression_level(level).map_err(failed)?;
            }
            // What was set by hand outlasts a level: begin anew.
            (Effort::Level(level), Effort::Fitted(_)) => self.zstd = context(level)?,
            (Effort::Fitted(texture), _) => {
                let (chain, hash, shortest) = texture.tables();
                for parameter in [
                    CParameter::CompressionLevel(1),
                    CParameter::WindowLog(WINDOW_LOG),
                    CParameter::Strategy(Strategy::ZSTD_dfast),
                    CParameter::ChainLog(chain),
                    CParameter::HashLog(hash),
                    CParameter::MinMatch(shortest),
                ] {
                    self.zstd.set_parameter(parameter).map_err(failed)?;
                }
            }
        }
        self.effort = effort;
        Ok(())
    }
}

fn context(level: i32) -> Result<zstd::bulk::Compressor<'static>, ParcelError> {
    let made = zstd::bulk::Compressor::new(level);
    made.map_err(|source| ParcelError::Compress { plain_len: 0, source })
}

/// A head whose algorithm is not decided yet.
fn head(
    id: ChunkId,
    kind: BlobKind,
    references: Vec<Reference>,
    plain_len: usize,
) -> Result<ParcelHead, ParcelError> {
    check_references(kind, references.len())?;
    let length = u32::try_from(plain_len).ok().filter(|_| plain_len <= PLAIN_BYTES_MAX);
    let length = length.ok_or(ParcelError::TooLong { plain_len })?;
    Ok(ParcelHead { id, kind, algorithm: Algorithm::Stored, plain_len: length, references })
}

fn parcel(head: ParcelHead, smaller: Option<Bytes>, plain: impl FnOnce() -> Bytes) -> Parcel {
    match smaller {
        Some(payload) => {
            Parcel { head: ParcelHead { algorithm: Algorithm::Zstd, ..head }, payload }
        }
        None => Parcel { head, payload: plain() },
    }
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressor").field("effort", &self.effort).finish_non_exhaustive()
    }
}

/// One thread's way back: its context and what a check decompresses into.
#[derive(Default)]
struct Opener {
    zstd: Option<zstd::bulk::Decompressor<'static>>,
    buffer: Vec<u8>,
}

thread_local! {
    static OPENER: RefCell<Opener> = RefCell::default();
}

impl Opener {
    /// Decompresses into `plain`, which has room for what is expected; says whether it did.
    fn unpack(&mut self, payload: &[u8], plain: &mut Vec<u8>) -> bool {
        if self.zstd.is_none() {
            self.zstd = zstd::bulk::Decompressor::new().ok();
        }
        let Some(zstd) = &mut self.zstd else { return false };
        plain.clear();
        zstd.decompress_to_buffer(payload, plain).is_ok()
    }
}

/// The plaintext of a parcel, proven to have the name in its head.
pub fn open(parcel: &Parcel, keys: &AgentKeys) -> Result<Bytes, ParcelError> {
    let expected = expected(parcel)?;
    let plain = match parcel.head.algorithm {
        Algorithm::Stored => parcel.payload.clone(),
        Algorithm::Zstd => {
            let mut plain = Vec::with_capacity(expected);
            if !OPENER.with_borrow_mut(|opener| opener.unpack(&parcel.payload, &mut plain)) {
                plain.clear();
            }
            Bytes::from(plain)
        }
    };
    prove(&parcel.head, &plain, keys)?;
    Ok(plain)
}

/// As [`open`], for who only looks at the plaintext: it is gone afterwards, and nothing is
/// allocated for it.
pub fn look<T>(
    parcel: &Parcel,
    keys: &AgentKeys,
    look: impl FnOnce(&[u8]) -> T,
) -> Result<T, ParcelError> {
    let expected = expected(parcel)?;
    if parcel.head.algorithm == Algorithm::Stored {
        prove(&parcel.head, &parcel.payload, keys)?;
        return Ok(look(&parcel.payload));
    }
    let mut plain = OPENER.with_borrow_mut(|opener| std::mem::take(&mut opener.buffer));
    plain.clear();
    plain.reserve(expected);
    if !OPENER.with_borrow_mut(|opener| opener.unpack(&parcel.payload, &mut plain)) {
        plain.clear();
    }
    let seen = prove(&parcel.head, &plain, keys).map(|()| look(&plain));
    OPENER.with_borrow_mut(|opener| opener.buffer = plain);
    seen
}

/// The length of the plaintext, bounded; nothing is believed of it yet.
fn expected(parcel: &Parcel) -> Result<usize, ParcelError> {
    let head = &parcel.head;
    check_references(head.kind, head.references.len())?;
    let plain_len = head.plain_len as usize;
    if plain_len > PLAIN_BYTES_MAX {
        Err(ParcelError::TooLong { plain_len })
    } else {
        Ok(plain_len)
    }
}

/// Whether the bytes are those the head names.
fn prove(head: &ParcelHead, plain: &[u8], keys: &AgentKeys) -> Result<(), ParcelError> {
    let ParcelHead { id, plain_len, .. } = *head;
    if plain.len() != plain_len as usize {
        return Err(ParcelError::Malformed { id, plain_len });
    }
    if keys.id(head.kind, &head.references, plain) != id {
        return Err(ParcelError::Mismatch { id });
    }
    Ok(())
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
    fn what_is_fitted_to_its_content_opens_and_is_seen_alike() {
        let mut compressor = Compressor::new().unwrap();
        let text = b"the same words again and again, ".repeat(30_000);
        let mixed: Vec<u8> = text.iter().zip(noise(text.len())).map(|(a, b)| a ^ (b & 3)).collect();
        for plain in [Vec::new(), text[..500].to_vec(), text, mixed, noise(300_000)] {
            let plain = Bytes::from(plain);
            let id = keys().id(BlobKind::Data, &[], &plain);
            let parcel = compressor.pack_named(id, BlobKind::Data, vec![], &plain).unwrap();
            assert_eq!(open(&parcel, &keys()).unwrap(), plain);
            assert!(look(&parcel, &keys(), |seen| seen == plain).unwrap());
            let level = compressor.pack(&keys(), BlobKind::Data, vec![], &plain, 19).unwrap();
            assert!(level.payload.len() <= parcel.payload.len());
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
        assert!(matches!(look(&bomb, &keys(), |_| ()), Err(ParcelError::Malformed { .. })));
        let mut huge = good.clone();
        huge.head.plain_len = u32::MAX;
        assert!(matches!(open(&huge, &keys()), Err(ParcelError::TooLong { .. })));
        let mut other = good;
        other.head.kind = BlobKind::Gaps;
        assert!(matches!(open(&other, &keys()), Err(ParcelError::Mismatch { .. })));
        assert!(matches!(look(&other, &keys(), |_| ()), Err(ParcelError::Mismatch { .. })));
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
