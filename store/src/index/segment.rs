//! A segment on disk (format.md section 5): sorted entries in checked blocks of 1 KiB, read one
//! by one, found by a fence in memory. A block whose check does not hold is reported as damage,
//! never read around.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use strongroom_protocol::blob::BlobKind;
use strongroom_protocol::id::{ChunkId, PackId, RepoId};

use super::fence::{Fence, KEY_BYTES, PRINT_BYTES};
use super::lookup::Hits;
use super::standing::Standing;
use super::{Doubt, Place, Row};
use crate::disk::{Disk, DiskError, ReadFile};

pub(super) const MAGIC: &[u8; 8] = b"SRSEGM03";
/// Bytes before the pack ids.
pub(super) const HEAD_BYTES: usize = 40;
pub(super) const HASH_BYTES: usize = 32;
pub(super) const ENTRY_BYTES: usize = 48;
/// Bytes of a block: every lookup that finds something copies and checks one.
pub(super) const BLOCK_BYTES: usize = 1024;
/// Entries of a full block; what remains of it is its check.
pub(super) const BLOCK_ENTRIES: usize = 21;
pub(super) const CHECK_BYTES: usize = BLOCK_BYTES - BLOCK_ENTRIES * ENTRY_BYTES;
/// Bit of the last number of an entry that says its closure was not proven.
const DOUBT_BIT: u32 = 1 << 31;
const KIND_SHIFT: u32 = 28;
const LENGTH_MASK: u32 = (1 << KIND_SHIFT) - 1;
/// Blocks read at once by who reads all of them.
const BLOCKS_IN_PASSING: usize = 128;
/// Most packs of one segment: bounds what a damaged head can ask for.
const PACKS_MAX: u32 = 1 << 24;

/// Why a segment did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum SegmentError {
    #[error("index segment {path} is damaged")]
    Damaged { path: String },
    #[error("an index segment cannot be read")]
    Disk(#[from] DiskError),
}

impl SegmentError {
    pub(super) fn into_disk(self) -> DiskError {
        match self {
            Self::Disk(error) => error,
            Self::Damaged { path } => DiskError {
                action: "read back",
                path,
                source: std::io::Error::from(ErrorKind::InvalidData),
            },
        }
    }
}

/// An open segment.
pub(super) struct Segment {
    file: Arc<dyn ReadFile>,
    path: String,
    packs: Vec<PackId>,
    entries: u64,
    doubted: u32,
    fence: Fence,
    blocks_at: u64,
    damaged: AtomicBool,
}

impl Segment {
    /// Opens a segment: head and fence are read and checked, the blocks when they are needed.
    pub(super) fn open(disk: &dyn Disk, path: &str, repo: RepoId) -> Result<Self, SegmentError> {
        let damaged = || SegmentError::Damaged { path: path.to_owned() };
        let file = disk.open(path)?;
        let len = file.len()?;
        let mut head = [0; HEAD_BYTES];
        if len < HEAD_BYTES as u64 {
            return Err(damaged());
        }
        file.read_exact_at(&mut head, 0)?;
        let (pack_count, doubted) = (number(&head, 24), number(&head, 28));
        let entries = u64::from(number(&head, 32)) | u64::from(number(&head, 36)) << 32;
        let named = head.starts_with(MAGIC) && head.get(8..24) == Some(repo.as_bytes().as_slice());
        if !named || pack_count > PACKS_MAX || entries > len / ENTRY_BYTES as u64 {
            return Err(damaged());
        }
        let blocks = entries.div_ceil(BLOCK_ENTRIES as u64);
        let blocks_at = (HEAD_BYTES + pack_count as usize * 32 + HASH_BYTES) as u64;
        let fence_at = blocks_at + blocks * BLOCK_BYTES as u64;
        let fence_bytes = blocks * KEY_BYTES as u64 + entries * PRINT_BYTES as u64;
        if fence_at + fence_bytes + HASH_BYTES as u64 != len {
            return Err(damaged());
        }
        let table = read_hashed(&*file, 0, blocks_at)?.ok_or_else(damaged)?;
        let packs = table.get(HEAD_BYTES..).unwrap_or_default().chunks_exact(32);
        let packs = packs.filter_map(|id| id.first_chunk()).map(|id| PackId(*id)).collect();
        let fence = read_hashed(&*file, fence_at, len - fence_at)?.ok_or_else(damaged)?;
        let fence = Fence::parse(&fence, usize::try_from(blocks).unwrap_or_default());
        let (path, damaged) = (path.to_owned(), AtomicBool::new(false));
        Ok(Self { file, path, packs, entries, doubted, fence, blocks_at, damaged })
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Whether something in it did not hold or could not be read.
    pub(super) fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    fn damage(&self) -> SegmentError {
        self.damaged.store(true, Ordering::Relaxed);
        SegmentError::Damaged { path: self.path.clone() }
    }

    /// Reads blocks. A medium that has lost them is damage: their packs know it all.
    pub(super) fn read(&self, bytes: &mut [u8], block: usize) -> Result<(), SegmentError> {
        self.file.read_exact_at(bytes, self.at(block)).map_err(|error| {
            if is_of_the_medium(&error.source) { self.damage() } else { error.into() }
        })
    }

    pub(super) fn packs(&self) -> &[PackId] {
        &self.packs
    }

    pub(super) const fn entries(&self) -> u64 {
        self.entries
    }

    pub(super) const fn doubted_count(&self) -> u32 {
        self.doubted
    }

    pub(super) const fn blocks(&self) -> usize {
        self.fence.blocks()
    }

    pub(super) const fn memory_bytes(&self) -> usize {
        self.fence.memory_bytes() + self.packs.len() * 32
    }

    /// The entries of some blocks from one on, and the block after them; none at the end.
    pub(super) fn rows_from(
        &self,
        first: usize,
    ) -> Result<Option<(Vec<Row>, usize)>, SegmentError> {
        let next = (first + BLOCKS_IN_PASSING).min(self.blocks());
        if first >= next {
            return Ok(None);
        }
        let mut bytes = vec![0; (next - first) * BLOCK_BYTES];
        self.read(&mut bytes, first)?;
        let mut rows = Vec::with_capacity((next - first) * BLOCK_ENTRIES);
        for (block, bytes) in (first..next).zip(bytes.chunks_exact(BLOCK_BYTES)) {
            rows.extend(parse_rows(self.checked(block, bytes)?));
        }
        Ok(Some((rows, next)))
    }

    const fn at(&self, block: usize) -> u64 {
        self.blocks_at + (block * BLOCK_BYTES) as u64
    }

    /// The entries of a block that was read, if its check holds.
    pub(super) fn checked<'a>(
        &self,
        block: usize,
        bytes: &'a [u8],
    ) -> Result<&'a [u8], SegmentError> {
        let damaged = || self.damage();
        let parts = bytes.split_at_checked(BLOCK_BYTES - CHECK_BYTES);
        let (entries, found) = parts.ok_or_else(damaged)?;
        if check(block, entries).is_none_or(|check| check.as_slice() != found) {
            return Err(damaged());
        }
        let before = block as u64 * BLOCK_ENTRIES as u64;
        let held = self.entries.saturating_sub(before).min(BLOCK_ENTRIES as u64);
        let len = usize::try_from(held).unwrap_or_default() * ENTRY_BYTES;
        entries.get(..len).ok_or_else(damaged)
    }

    /// The blocks in which an id may lie.
    pub(super) fn candidates(&self, id: &ChunkId) -> impl Iterator<Item = usize> {
        self.fence.candidates(id)
    }

    /// Looks up `ids[at]` for each `at` of `wanted`, which is sorted by id, and notes what is
    /// found. What lies in a pack that is gone is not found.
    pub(super) fn lookup_sorted(
        &self,
        ids: &[ChunkId],
        wanted: &[usize],
        standing: &Standing,
        hits: &mut Hits,
    ) -> Result<(), SegmentError> {
        let mut damaged = false;
        self.visit_sorted(ids, wanted, |at, _, row| {
            let Some(place) = self.place(row) else {
                damaged = true;
                return;
            };
            hits.note(at, place, standing);
        })?;
        if damaged { Err(self.damage()) } else { Ok(()) }
    }

    pub(super) fn place(&self, row: &Row) -> Option<Place> {
        let Row { pack, offset, record_len, plain_len, kind, .. } = *row;
        let pack = *self.packs.get(pack as usize)?;
        Some(Place { pack, offset, record_len, plain_len, kind })
    }

    /// The ids whose closure was not proven when the segment was written.
    pub(super) fn doubted(&self) -> Result<Vec<ChunkId>, SegmentError> {
        let mut ids = Vec::new();
        if self.doubted > 0 {
            let mut first = 0;
            while let Some((rows, next)) = self.rows_from(first)? {
                first = next;
                let doubted = rows.into_iter().filter(|row| row.doubt == Doubt::Doubted);
                ids.extend(doubted.map(|row| row.id));
            }
        }
        Ok(ids)
    }
}

/// Whether a failed read says that the bytes are lost, not that they cannot be had just now.
fn is_of_the_medium(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::UnexpectedEof
        || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

/// Not a secret: the check is against disks, not against people.
const CHECK_KEY: &[u8; 16] = b"strongroom index";

static CHECKER: LazyLock<Option<LessSafeKey>> =
    LazyLock::new(|| UnboundKey::new(&AES_128_GCM, CHECK_KEY).ok().map(LessSafeKey::new));

/// The check of a block: the tag of its number and its entries. Processors do it five times as
/// fast as a hash of so few bytes, and every lookup waits for it.
pub(super) fn check(block: usize, entries: &[u8]) -> Option<[u8; CHECK_BYTES]> {
    let mut nonce = [0; 12];
    for (place, byte) in nonce.iter_mut().zip((block as u64).to_le_bytes()) {
        *place = byte;
    }
    let nonce = Nonce::assume_unique_for_key(nonce);
    let key = CHECKER.as_ref()?;
    let tag = key.seal_in_place_separate_tag(nonce, Aad::from(entries), &mut []).ok()?;
    tag.as_ref().first_chunk().copied()
}

pub(super) fn encode_row(row: &Row, into: &mut Vec<u8>) {
    let doubt = if row.doubt == Doubt::Doubted { DOUBT_BIT } else { 0 };
    let kind = u32::from(row.kind.code()) << KIND_SHIFT;
    into.extend_from_slice(&row.id.0);
    for number in [row.pack, row.offset, row.record_len, row.plain_len | kind | doubt] {
        into.extend_from_slice(&number.to_le_bytes());
    }
}

fn parse_row(bytes: &[u8]) -> Option<Row> {
    let last = number(bytes, 44);
    let kind = u8::try_from((last & !DOUBT_BIT) >> KIND_SHIFT).ok()?;
    Some(Row {
        id: ChunkId(*bytes.first_chunk()?),
        pack: number(bytes, 32),
        offset: number(bytes, 36),
        record_len: number(bytes, 40),
        plain_len: last & LENGTH_MASK,
        kind: BlobKind::from_code(kind)?,
        doubt: if last & DOUBT_BIT == 0 { Doubt::Proven } else { Doubt::Doubted },
    })
}

fn parse_rows(block: &[u8]) -> impl Iterator<Item = Row> {
    block.chunks_exact(ENTRY_BYTES).filter_map(parse_row)
}

/// Visits the entries of one id in a block, with their numbers.
pub(super) fn each_match(block: &[u8], id: &ChunkId, mut visit: impl FnMut(usize, &Row)) {
    let entry = |number: usize| block.get(number * ENTRY_BYTES..(number + 1) * ENTRY_BYTES);
    let (mut low, mut high) = (0, block.len() / ENTRY_BYTES);
    while low < high {
        let middle = low.midpoint(high);
        match entry(middle).and_then(|entry| entry.get(..32)) {
            Some(found) if found < id.0.as_slice() => low = middle + 1,
            _ => high = middle,
        }
    }
    while let Some(row) = entry(low).and_then(parse_row).filter(|row| row.id == *id) {
        visit(low, &row);
        low += 1;
    }
}

/// Reads `len` bytes of which the last 32 are the hash of those before; nothing if it is not.
fn read_hashed(file: &dyn ReadFile, at: u64, len: u64) -> Result<Option<Vec<u8>>, DiskError> {
    let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
    file.read_exact_at(&mut bytes, at)?;
    let body = bytes.len().saturating_sub(HASH_BYTES);
    let holds = bytes.get(..body).is_some_and(|content| {
        bytes.get(body..) == Some(blake3::hash(content).as_bytes().as_slice())
    });
    bytes.truncate(body);
    Ok(holds.then_some(bytes))
}

fn number(bytes: &[u8], at: usize) -> u32 {
    let number = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
    number.map_or(0, |number| u32::from_le_bytes(*number))
}
