//! When each pack and manifest was last read back (format.md section 9). A cache: a book that
//! is lost or does not hold is an empty one, and everything is due.

use std::collections::BTreeMap;

use strongroom_protocol::id::{PackId, PointId, RepoId, WorkloadId};
use strongroom_protocol::time::Timestamp;

use crate::disk::{Disk, DiskError, read_all, write_durably};

const MAGIC: &[u8; 8] = b"SRSCRB01";
const PATH: &str = "scrub";
const VIA: &str = "tmp/scrub";
const HEAD_BYTES: usize = 32;
const ENTRY_BYTES: usize = 49;
const HASH_BYTES: usize = 32;
/// Longest book: more files than any repository has.
const BOOK_BYTES_MAX: u64 = 1 << 30;

/// What is read back by itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Subject {
    /// A pack.
    Pack(PackId),
    /// The manifest of a point.
    Point(WorkloadId, PointId),
}

impl Subject {
    fn encode(self, into: &mut Vec<u8>) {
        match self {
            Self::Pack(pack) => {
                into.push(0);
                into.extend_from_slice(&pack.0);
            }
            Self::Point(workload, point) => {
                into.push(1);
                into.extend_from_slice(workload.as_bytes());
                into.extend_from_slice(point.as_bytes());
            }
        }
    }

    fn decode(entry: &[u8]) -> Option<Self> {
        let (kind, id) = (*entry.first()?, entry.get(1..33)?);
        match kind {
            0 => Some(Self::Pack(PackId(*id.first_chunk()?))),
            1 => {
                let (workload, point) = (*id.first_chunk()?, *id.get(16..)?.first_chunk()?);
                Some(Self::Point(WorkloadId::from_bytes(workload), PointId::from_bytes(point)))
            }
            _ => None,
        }
    }
}

/// What is known of one file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mark {
    /// When it was first seen here.
    pub(crate) seen: Timestamp,
    /// When it was last found whole; zero for never.
    pub(crate) verified: Timestamp,
}

/// The marks of one repository.
#[derive(Default)]
pub(crate) struct Book {
    pub(crate) marks: BTreeMap<Subject, Mark>,
    pub(crate) is_changed: bool,
    /// Whether there was one on disk: without, nobody knows how old what is here is.
    pub(crate) is_kept: bool,
}

impl Book {
    pub(crate) fn load(disk: &dyn Disk, repo: RepoId) -> Self {
        let kept = match read_all(disk, PATH, BOOK_BYTES_MAX) {
            Ok(bytes) => decode(&bytes, repo),
            Err(error) if error.is_missing() => return Self::default(),
            Err(error) => {
                tracing::warn!(%error, "the book of scrubs cannot be read: everything is due");
                None
            }
        };
        let Some(marks) = kept else {
            tracing::warn!("the book of scrubs does not hold: everything is due");
            return Self::default();
        };
        Self { marks, is_changed: false, is_kept: true }
    }

    pub(crate) fn encode(&self, repo: RepoId) -> Vec<u8> {
        let bytes = HEAD_BYTES + self.marks.len() * ENTRY_BYTES + HASH_BYTES;
        let mut out = Vec::with_capacity(bytes);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(repo.as_bytes());
        out.extend_from_slice(&(self.marks.len() as u64).to_le_bytes());
        for (subject, mark) in &self.marks {
            subject.encode(&mut out);
            out.extend_from_slice(&mark.seen.0.to_le_bytes());
            out.extend_from_slice(&mark.verified.0.to_le_bytes());
        }
        let hash = blake3::hash(&out);
        out.extend_from_slice(hash.as_bytes());
        out
    }
}

pub(crate) fn save(disk: &dyn Disk, book: &[u8]) -> Result<(), DiskError> {
    write_durably(disk, VIA, PATH, book)
}

fn decode(bytes: &[u8], repo: RepoId) -> Option<BTreeMap<Subject, Mark>> {
    let (body, hash) = bytes.split_at_checked(bytes.len().checked_sub(HASH_BYTES)?)?;
    if blake3::hash(body).as_bytes().as_slice() != hash {
        return None;
    }
    let (head, entries) = body.split_at_checked(HEAD_BYTES)?;
    let named = head.starts_with(MAGIC) && head.get(8..24)? == repo.as_bytes().as_slice();
    let count = u64::from_le_bytes(*head.get(24..)?.first_chunk()?);
    if !named || count.checked_mul(ENTRY_BYTES as u64) != Some(entries.len() as u64) {
        return None;
    }
    let moment = |entry: &[u8], at: usize| {
        Some(Timestamp(i64::from_le_bytes(*entry.get(at..)?.first_chunk()?)))
    };
    entries
        .chunks_exact(ENTRY_BYTES)
        .map(|entry| {
            let mark = Mark { seen: moment(entry, 33)?, verified: moment(entry, 41)? };
            Some((Subject::decode(entry)?, mark))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::SimDisk;

    const REPO: RepoId = RepoId::from_bytes([4; 16]);

    fn sample() -> Book {
        let pack = Subject::Pack(PackId([7; 32]));
        let point = Subject::Point(WorkloadId::from_bytes([1; 16]), PointId::from_bytes([2; 16]));
        let mark = |seen, verified| Mark { seen: Timestamp(seen), verified: Timestamp(verified) };
        let marks = BTreeMap::from([(pack, mark(5, 0)), (point, mark(6, 9))]);
        Book { marks, is_changed: true, is_kept: false }
    }

    #[test]
    fn a_book_reads_back_and_no_flipped_bit_is_believed() {
        let bytes = sample().encode(REPO);
        assert_eq!(bytes.len(), HEAD_BYTES + 2 * ENTRY_BYTES + HASH_BYTES);
        assert_eq!(decode(&bytes, REPO).unwrap(), sample().marks);
        assert!(decode(&bytes, RepoId::from_bytes([5; 16])).is_none());
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            assert!(decode(&damaged, REPO).is_none(), "byte {at}");
            assert!(decode(&bytes[..at], REPO).is_none(), "cut at {at}");
        }
    }

    #[test]
    fn a_lost_or_damaged_book_is_an_empty_one() {
        let disk = SimDisk::new();
        disk.create_dirs("tmp").unwrap();
        assert!(!Book::load(&disk, REPO).is_kept);
        save(&disk, &sample().encode(REPO)).unwrap();
        assert_eq!(Book::load(&disk, REPO).marks, sample().marks);
        disk.damage(PATH, |bytes| bytes.truncate(40));
        let book = Book::load(&disk, REPO);
        assert!(!book.is_kept && book.marks.is_empty());
    }
}
