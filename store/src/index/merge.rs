//! Writing segments: from memory, or from several smaller ones. A segment is written beside its
//! place, synced and renamed; inputs are removed only after that.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use strongroom_protocol::id::{PackId, RepoId};

use super::fence::{KEY_BYTES, key_of, print_of};
use super::segment::{
    BLOCK_BYTES, BLOCK_ENTRIES, CHECK_BYTES, MAGIC, Segment, SegmentError, check, encode_row,
};
use super::standing::{Stand, Standing};
use super::{Doubt, Row};
use crate::disk::{AppendFile, Disk, DiskError};

/// Bytes gathered before they are written.
const BUFFER_BYTES: usize = 1 << 20;
/// Each size class holds segments up to this many times larger than the one before.
const TIER_FACTOR: u64 = 8;

/// What a new segment will hold.
pub(super) struct SegmentPlan<'a> {
    pub(super) path: &'a str,
    pub(super) packs: &'a [PackId],
    pub(super) count: u64,
    pub(super) doubted: usize,
}

/// The segments to merge now: those of the smallest class that is full.
pub(super) fn due(segments: &[Arc<Segment>], tier_segments: usize) -> Option<Vec<Arc<Segment>>> {
    let mut tiers: HashMap<u32, Vec<Arc<Segment>>> = HashMap::new();
    for segment in segments {
        let tier = segment.entries().max(1).ilog(TIER_FACTOR);
        tiers.entry(tier).or_default().push(Arc::clone(segment));
    }
    let full = tiers.into_iter().filter(|(_, members)| members.len() >= tier_segments);
    full.min_by_key(|(tier, _)| *tier).map(|(_, members)| members)
}

/// Writes sorted rows as a segment.
pub(super) fn write(
    disk: &dyn Disk,
    repo: RepoId,
    plan: &SegmentPlan<'_>,
    rows: &mut dyn Iterator<Item = Result<Row, SegmentError>>,
) -> Result<(), SegmentError> {
    let name = plan.path.rsplit('/').next().unwrap_or(plan.path);
    let via = format!("tmp/{name}");
    let written = fill(disk, repo, plan, rows, &via);
    if written.is_err() {
        // A half-written segment is of no use and takes room.
        drop(disk.remove(&via));
        return written;
    }
    disk.rename(&via, plan.path)?;
    disk.sync_dir("index")?;
    Ok(())
}

fn fill(
    disk: &dyn Disk,
    repo: RepoId,
    plan: &SegmentPlan<'_>,
    rows: &mut dyn Iterator<Item = Result<Row, SegmentError>>,
    via: &str,
) -> Result<(), SegmentError> {
    let mut out = Out { file: disk.create(via)?, buffer: Vec::with_capacity(BUFFER_BYTES) };
    let packs = u32::try_from(plan.packs.len()).unwrap_or(u32::MAX);
    let doubted = u32::try_from(plan.doubted).unwrap_or(u32::MAX);
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(repo.as_bytes());
    head.extend_from_slice(&packs.to_le_bytes());
    head.extend_from_slice(&doubted.to_le_bytes());
    head.extend_from_slice(&plan.count.to_le_bytes());
    plan.packs.iter().for_each(|pack| head.extend_from_slice(&pack.0));
    out.put_hashed(&[&head])?;
    let (mut fence, mut prints) = (Vec::new(), Vec::new());
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    for (number, row) in rows.enumerate() {
        let row = row?;
        if number % BLOCK_ENTRIES == 0 {
            out.put_block(number / BLOCK_ENTRIES, &mut block)?;
            fence.extend_from_slice(&key_of(&row.id).to_le_bytes());
        }
        prints.extend_from_slice(&print_of(&row.id));
        encode_row(&row, &mut block);
    }
    out.put_block(fence.len() / KEY_BYTES, &mut block)?;
    out.put_hashed(&[&fence, &prints])?;
    out.flush()?;
    out.file.sync()?;
    Ok(())
}

struct Out {
    file: Box<dyn AppendFile>,
    buffer: Vec<u8>,
}

impl Out {
    fn put(&mut self, bytes: &[u8]) -> Result<(), DiskError> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    fn put_hashed(&mut self, parts: &[&[u8]]) -> Result<(), DiskError> {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(part);
            self.put(part)?;
        }
        self.put(hasher.finalize().as_bytes())
    }

    /// Closes the block before number `next`, if there is one.
    fn put_block(&mut self, next: usize, block: &mut Vec<u8>) -> Result<(), DiskError> {
        if block.is_empty() {
            return Ok(());
        }
        block.resize(BLOCK_BYTES - CHECK_BYTES, 0);
        // Without a check the block is damaged from the start, and never believed.
        let check = check(next.saturating_sub(1), block).unwrap_or_default();
        self.put(block)?;
        block.clear();
        self.put(&check)
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        self.file.append(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

/// One segment made of several, without what lies in packs that are gone; none when nothing
/// else was in them.
pub(super) fn merge(
    disk: &dyn Disk,
    repo: RepoId,
    path: &str,
    inputs: &[Arc<Segment>],
    standing: &Standing,
) -> Result<Option<Segment>, SegmentError> {
    let mut numbers: HashMap<PackId, u32> = HashMap::new();
    let mut packs = Vec::new();
    let mut sources = Vec::with_capacity(inputs.len());
    let is_gone = |pack: &PackId| standing.of(pack) == Stand::Gone;
    for input in inputs {
        let renumber = input.packs().iter().map(|pack| {
            (!is_gone(pack)).then(|| {
                *numbers.entry(*pack).or_insert_with(|| {
                    packs.push(*pack);
                    u32::try_from(packs.len() - 1).unwrap_or(u32::MAX)
                })
            })
        });
        let renumber = renumber.collect();
        sources.push(Source { segment: input, renumber, block: 0, rows: Vec::new().into_iter() });
    }
    let mut count = inputs.iter().map(|input| input.entries()).sum();
    let mut doubted = inputs.iter().map(|input| input.doubted_count() as usize).sum();
    if sources.iter().any(|source| source.renumber.contains(&None)) {
        (count, doubted) = count_kept(&sources)?;
    }
    if count == 0 {
        return Ok(None);
    }
    let plan = SegmentPlan { path, packs: &packs, count, doubted };
    let mut rows = Merged::begin(sources)?;
    write(disk, repo, &plan, &mut rows)?;
    Segment::open(disk, path, repo).map(Some)
}

/// How many rows will be kept, and how many of them are doubted: the head says so before them.
fn count_kept(sources: &[Source<'_>]) -> Result<(u64, usize), SegmentError> {
    let (mut count, mut doubted) = (0, 0);
    for source in sources {
        let mut first = 0;
        while let Some((rows, next)) = source.segment.rows_from(first)? {
            first = next;
            for row in rows {
                if source.renumbered(&row)?.is_some() {
                    count += 1;
                    doubted += usize::from(row.doubt == Doubt::Doubted);
                }
            }
        }
    }
    Ok((count, doubted))
}

/// The rows of one input, renumbered; a pack that is gone has no number.
struct Source<'a> {
    segment: &'a Segment,
    renumber: Vec<Option<u32>>,
    block: usize,
    rows: std::vec::IntoIter<Row>,
}

impl Source<'_> {
    fn renumbered(&self, row: &Row) -> Result<Option<u32>, SegmentError> {
        let damaged = || SegmentError::Damaged { path: self.segment.path().to_owned() };
        self.renumber.get(row.pack as usize).copied().ok_or_else(damaged)
    }

    fn next(&mut self) -> Result<Option<Row>, SegmentError> {
        loop {
            if let Some(row) = self.rows.next() {
                match self.renumbered(&row)? {
                    Some(pack) => return Ok(Some(Row { pack, ..row })),
                    None => continue,
                }
            }
            let Some((rows, next)) = self.segment.rows_from(self.block)? else { return Ok(None) };
            (self.rows, self.block) = (rows.into_iter(), next);
        }
    }
}

/// The rows of all inputs, in order.
struct Merged<'a> {
    sources: Vec<Source<'a>>,
    heads: BinaryHeap<Reverse<([u8; 32], usize)>>,
    rows: Vec<Option<Row>>,
}

impl<'a> Merged<'a> {
    fn begin(sources: Vec<Source<'a>>) -> Result<Self, SegmentError> {
        let rows = vec![None; sources.len()];
        let mut merged = Self { sources, heads: BinaryHeap::new(), rows };
        for at in 0..merged.sources.len() {
            merged.refill(at)?;
        }
        Ok(merged)
    }

    fn refill(&mut self, at: usize) -> Result<(), SegmentError> {
        let next = self.sources.get_mut(at).map(Source::next).transpose()?.flatten();
        if let Some(row) = next {
            self.heads.push(Reverse((row.id.0, at)));
        }
        if let Some(place) = self.rows.get_mut(at) {
            *place = next;
        }
        Ok(())
    }
}

impl Iterator for Merged<'_> {
    type Item = Result<Row, SegmentError>;

    fn next(&mut self) -> Option<Self::Item> {
        let Reverse((_, at)) = self.heads.pop()?;
        let row = self.rows.get_mut(at).and_then(Option::take)?;
        Some(self.refill(at).map(|()| row))
    }
}

#[cfg(test)]
mod tests {
    use strongroom_protocol::blob::BlobKind;
    use strongroom_protocol::id::ChunkId;

    use super::super::{Found, Index, Removals};
    use super::*;
    use crate::disk::sim::SimDisk;
    use crate::pack::{PackClass, PackEntry};

    fn id(number: u32) -> ChunkId {
        ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    #[test]
    fn many_flushes_become_few_segments_and_every_entry_stays() {
        let disk = SimDisk::new();
        for directory in ["tmp", "index", "packs/d"] {
            disk.create_dirs(directory).unwrap();
        }
        let repo = RepoId::from_bytes([1; 16]);
        let (index, _) = Index::load(Arc::new(disk.clone()), repo, &Removals::default()).unwrap();
        for round in 0..20u32 {
            let entry = |n: u32| PackEntry {
                id: id(round * 200 + n),
                kind: BlobKind::Data,
                offset: 64 + n,
                record_len: 100 + round,
                plain_len: n,
            };
            let entries: Vec<PackEntry> = (0..200).map(entry).collect();
            let pack = PackId([u8::try_from(round).unwrap(); 32]);
            index.publish(pack, PackClass::Data, &entries, Doubt::Doubted);
            index.write_segment(&index.flushable()).unwrap();
        }
        assert_eq!(index.recent_len(), 0);
        let segments = disk.list("index").unwrap().len();
        assert!((2..=9).contains(&segments), "{segments} segments");
        let ids: Vec<ChunkId> = (0..4100).map(id).collect();
        let found = index.lookup_many(&ids).unwrap();
        for (number, found) in (0u32..).zip(found) {
            match found {
                Found::At(place) => {
                    assert_eq!(u32::from(place.pack.0[0]), number / 200);
                    assert_eq!((place.offset, place.plain_len), (64 + number % 200, number % 200));
                }
                other => assert!(other == Found::Absent && number >= 4000, "{number}: {other:?}"),
            }
        }
        // Four bytes an entry, and these are segments of few entries.
        assert!(index.segment_bytes() < 4 * 4000);
    }
}
