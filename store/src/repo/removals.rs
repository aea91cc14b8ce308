//! The record of what was removed (format.md section 2): packs that segments of the index may
//! still name, and metadata to doubt whatever the segments say. It is on disk before a pack's
//! name goes, so that a removal is never taken for a loss, nor an old proof for a good one.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use strongroom_protocol::id::{ChunkId, PackId, RepoId};

use super::Inner;
use crate::disk::{Disk, DiskError, read_all, write_durably};
use crate::index::Removals;

/// Where it lies.
const PATH: &str = "removed";
const VIA: &str = "tmp/removed";
const MAGIC: &[u8; 8] = b"SRGONE01";
const HASH_BYTES: usize = 32;
/// Longest record read: some 30 million packs and pages.
const RECORD_BYTES_MAX: u64 = 1 << 30;

#[derive(Serialize, Deserialize)]
struct RemovedV1 {
    repo: [u8; 16],
    packs: Vec<[u8; 32]>,
    all_doubted: bool,
    doubted: Vec<[u8; 32]>,
}

fn encode(repo: RepoId, packs: &[PackId], doubted: Option<&[ChunkId]>) -> Vec<u8> {
    let record = RemovedV1 {
        repo: *repo.as_bytes(),
        packs: packs.iter().map(|pack| pack.0).collect(),
        all_doubted: doubted.is_none(),
        doubted: doubted.unwrap_or_default().iter().map(|id| id.0).collect(),
    };
    let mut bytes = MAGIC.to_vec();
    bytes.extend(postcard::to_stdvec(&record).unwrap_or_default());
    let hash = blake3::hash(&bytes);
    bytes.extend_from_slice(hash.as_bytes());
    bytes
}

fn decode(bytes: &[u8], repo: RepoId) -> Option<Removals> {
    let (body, hash) = bytes.split_at_checked(bytes.len().checked_sub(HASH_BYTES)?)?;
    if blake3::hash(body).as_bytes().as_slice() != hash {
        return None;
    }
    let (record, rest) = postcard::take_from_bytes::<RemovedV1>(body.strip_prefix(MAGIC)?).ok()?;
    if !rest.is_empty() || record.repo != *repo.as_bytes() {
        return None;
    }
    let doubted = record.doubted.into_iter().map(ChunkId).collect();
    Some(Removals {
        packs: record.packs.into_iter().map(PackId).collect(),
        doubted: (!record.all_doubted).then_some(doubted),
    })
}

/// What the record says. One that does not hold costs proofs, and packs it named count as lost.
pub(super) fn read(disk: &dyn Disk, repo: RepoId) -> Result<Removals, DiskError> {
    let bytes = match read_all(disk, PATH, RECORD_BYTES_MAX) {
        Err(error) if error.is_missing() => return Ok(Removals::default()),
        bytes => bytes?,
    };
    Ok(decode(&bytes, repo).unwrap_or_else(|| {
        tracing::warn!("the record of removals is damaged: nothing is taken for proven");
        Removals { packs: HashSet::new(), doubted: None }
    }))
}

impl Inner {
    /// Writes what an opening has to know; durable when this returns.
    pub(super) fn write_removals(&self) -> Result<(), DiskError> {
        let (packs, doubted) = self.index.removals();
        let nothing = packs.is_empty() && doubted.as_ref().is_some_and(Vec::is_empty);
        if nothing && !self.disk.exists(PATH)? {
            return Ok(());
        }
        let bytes = encode(self.config.repo, &packs, doubted.as_deref());
        write_durably(&*self.disk, VIA, PATH, &bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPO: RepoId = RepoId::from_bytes([9; 16]);

    #[test]
    fn a_record_reads_back_and_a_damaged_one_does_not() {
        let (packs, doubted) = ([PackId([1; 32])], [ChunkId([2; 32]), ChunkId([3; 32])]);
        let bytes = encode(REPO, &packs, Some(&doubted));
        let read = decode(&bytes, REPO).unwrap();
        assert_eq!(read.packs, HashSet::from(packs));
        assert_eq!(read.doubted.as_deref(), Some(doubted.as_slice()));
        assert!(decode(&encode(REPO, &packs, None), REPO).unwrap().doubted.is_none());
        assert!(decode(&bytes, RepoId::from_bytes([8; 16])).is_none());
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(decode(&damaged, REPO).is_none(), "byte {at}");
            assert!(decode(&bytes[..at], REPO).is_none(), "cut at {at}");
        }
    }
}
