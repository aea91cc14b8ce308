//! Marking: every page and list that a point needs is read once, and everything it names gets a
//! bit at its rank in the index. The index itself is the dictionary, so that a mark costs one bit
//! a record and a batch of ids at a time, however many points there are. Anything that cannot be
//! read ends it: what is in doubt is kept.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use strongroom_protocol::blob::Reference;
use strongroom_protocol::id::{ChunkId, PackId, PointId, WorkloadId};

use super::Watch;
use super::plan::{PackTally, Stage};
use super::report::{Collect, CollectError};
use crate::disk::EntryKind;
use crate::index::{Found, Place, Row, Snapshot, Source, Stand, View};
use crate::pack::PackClass;
use crate::repo::{Inner, RepoError};

/// Pages and lists looked up and read at a time.
const METADATA_BATCH: usize = 8192;
/// Fewest ids of data looked up at a time.
const DATA_BATCH_MIN: usize = 65_536;
/// One id in so many records of the index is gathered before they are looked up: 32 bytes of
/// each eighth are 4 bytes a record.
const RECORDS_PER_GATHERED: u64 = 8;

/// What is marked.
pub(super) struct Marker<'a> {
    inner: &'a Inner,
    snapshot: Snapshot,
    marks: Vec<Marks>,
    /// Metadata younger than the snapshot that was visited.
    younger: HashSet<ChunkId>,
    walked: HashSet<(WorkloadId, PointId)>,
    metadata: Vec<Reference>,
    data: Vec<Reference>,
    data_batch: usize,
    pages: u64,
    /// Packs in which something was marked since the tally.
    touched: Option<HashSet<PackId>>,
}

/// The marks of one source, by rank, and where each of its packs stands.
struct Marks {
    bits: Vec<u64>,
    stands: Vec<Stand>,
}

impl Marks {
    fn of(source: &Source, snapshot: &Snapshot) -> Self {
        let words = usize::try_from(source.len().div_ceil(64)).unwrap_or_default();
        let stands = source.packs().iter().map(|pack| snapshot.standing.of(pack)).collect();
        Self { bits: vec![0; words], stands }
    }

    fn stand(&self, row: &Row) -> Stand {
        self.stands.get(row.pack as usize).copied().unwrap_or(Stand::Gone)
    }

    fn is_set(&self, rank: u64) -> bool {
        let word = self.bits.get(usize::try_from(rank / 64).unwrap_or(usize::MAX));
        word.is_some_and(|word| word & (1 << (rank % 64)) != 0)
    }

    /// Sets a mark; whether it was not set before.
    fn set(&mut self, rank: u64) -> bool {
        let Some(word) = self.bits.get_mut(usize::try_from(rank / 64).unwrap_or(usize::MAX)) else {
            return false;
        };
        let bit = 1 << (rank % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }
}

/// What the marks say, pack by pack.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) packs: Vec<PackTally>,
    /// Metadata in place that no point needs.
    pub(super) unneeded: HashSet<ChunkId>,
    pub(super) points: u64,
    pub(super) pages: u64,
}

/// A record that is needed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Live {
    pub(super) place: Place,
    pub(super) id: ChunkId,
}

impl<'a> Marker<'a> {
    pub(super) fn begin(inner: &'a Inner) -> Self {
        let snapshot = inner.index.begin_snapshot();
        let marks: Vec<Marks> =
            snapshot.sources.iter().map(|source| Marks::of(source, &snapshot)).collect();
        let records: u64 = snapshot.sources.iter().map(Source::len).sum();
        let gathered = usize::try_from(records / RECORDS_PER_GATHERED).unwrap_or(usize::MAX);
        Self {
            inner,
            snapshot,
            marks,
            younger: HashSet::new(),
            walked: HashSet::new(),
            metadata: Vec::new(),
            data: Vec::new(),
            data_batch: gathered.max(DATA_BATCH_MIN),
            pages: 0,
            touched: None,
        }
    }

    /// Losses and condemnations when the snapshot was taken.
    pub(super) const fn seen(&self) -> (u64, u64) {
        (self.snapshot.losses, self.snapshot.condemnations)
    }

    /// Bytes the marks and the gathered ids take.
    pub(super) fn memory_bytes(&self) -> usize {
        let marks: usize = self.marks.iter().map(|m| m.bits.len() * 8 + m.stands.len() * 16).sum();
        let rows: usize = self.snapshot.sources.iter().map(Source::memory_bytes).sum();
        marks + rows + self.data.capacity() * size_of::<Reference>()
    }

    /// From here on, packs that turn out to be needed are remembered.
    pub(super) fn watch_for_more(&mut self) {
        self.touched = Some(HashSet::new());
    }

    /// Whether something in the pack was marked since [`Self::watch_for_more`].
    pub(super) fn was_touched(&self, pack: &PackId) -> bool {
        self.touched.as_ref().is_some_and(|touched| touched.contains(pack))
    }

    /// Marks what the points need that were not walked yet.
    pub(super) fn mark_points(&mut self, watch: Watch<'_>) -> Result<(), CollectError> {
        for (workload, point) in self.points()? {
            if self.walked.contains(&(workload, point)) {
                continue;
            }
            match self.inner.roots_of(workload, point) {
                // Removed since it was listed: nobody needs it.
                Err(RepoError::NoSuchPoint { .. }) => continue,
                Err(error) => return Err(doubtful(format!("point {point}"), &error)),
                Ok(roots) => roots.iter().for_each(|root| self.push(*root)),
            }
            self.walked.insert((workload, point));
            if self.metadata.len() >= METADATA_BATCH {
                self.walk(watch)?;
            }
        }
        self.walk(watch)?;
        self.resolve_data()
    }

    /// All points. A file among them that is no point could be one whose name was damaged.
    fn points(&self) -> Result<Vec<(WorkloadId, PointId)>, CollectError> {
        let disk = &*self.inner.disk;
        let mut points = Vec::new();
        for directory in disk.list("points").map_err(RepoError::from)? {
            let path = format!("points/{}", directory.name);
            let workload: Option<WorkloadId> = directory.name.parse().ok();
            for file in disk.list(&path).map_err(RepoError::from)? {
                match (workload, file.name.parse()) {
                    (Some(workload), Ok(point)) => points.push((workload, point)),
                    _ if file.kind == EntryKind::Directory => {}
                    _ => {
                        let subject = format!("{path}/{}", file.name);
                        let reason = "it is no point's name".to_owned();
                        return Err(CollectError::Doubtful { subject, reason });
                    }
                }
            }
        }
        Ok(points)
    }

    fn push(&mut self, reference: Reference) {
        if reference.kind.is_metadata() {
            self.metadata.push(reference);
        } else {
            self.data.push(reference);
        }
    }

    /// Visits metadata until none is left unvisited.
    fn walk(&mut self, watch: Watch<'_>) -> Result<(), CollectError> {
        while !self.metadata.is_empty() {
            if watch(Collect::Marking { pages: self.pages }) == ControlFlow::Break(()) {
                return Err(CollectError::Stopped);
            }
            let first = self.metadata.len().saturating_sub(METADATA_BATCH);
            let batch = self.metadata.split_off(first);
            let mut fresh = self.resolve(batch)?;
            fresh.sort_unstable();
            for Live { place, id } in fresh {
                self.pages += 1;
                let head = self.inner.head_at(&place);
                let head = head.map_err(|error| doubtful(format!("blob {id}"), &error))?;
                if head.id != id {
                    let reason = "another blob lies there".to_owned();
                    return Err(CollectError::Doubtful { subject: format!("blob {id}"), reason });
                }
                head.references.iter().for_each(|reference| self.push(*reference));
                if self.data.len() >= self.data_batch {
                    self.resolve_data()?;
                }
            }
        }
        Ok(())
    }

    fn resolve_data(&mut self) -> Result<(), CollectError> {
        let batch = std::mem::take(&mut self.data);
        let capacity = batch.capacity();
        self.resolve(batch)?;
        self.data.reserve(capacity);
        Ok(())
    }

    /// Marks these; gives the metadata among them that was not marked before.
    fn resolve(&mut self, mut batch: Vec<Reference>) -> Result<Vec<Live>, CollectError> {
        batch.sort_unstable_by_key(|reference| reference.id);
        batch.dedup();
        let ids: Vec<ChunkId> = batch.iter().map(|reference| reference.id).collect();
        let mut wanted: Vec<usize> = (0..ids.len()).collect();
        let mut hits: Vec<Option<(usize, u64, Row)>> = vec![None; ids.len()];
        let mut spares: HashMap<usize, (usize, u64, Row)> = HashMap::new();
        for (number, source) in self.snapshot.sources.iter().enumerate() {
            let Some(marks) = self.marks.get(number) else { continue };
            source
                .visit_sorted(&ids, &wanted, |at, rank, row| match marks.stand(row) {
                    Stand::InPlace => {
                        if let Some(hit) = hits.get_mut(at) {
                            hit.get_or_insert((number, rank, *row));
                        }
                    }
                    Stand::Condemned(_) => {
                        spares.entry(at).or_insert((number, rank, *row));
                    }
                    Stand::Gone => {}
                })
                .map_err(RepoError::from)?;
            wanted.retain(|&at| hits.get(at).is_some_and(Option::is_none));
            if wanted.is_empty() {
                break;
            }
        }
        let mut fresh = Vec::new();
        let mut unknown = Vec::new();
        for (at, (reference, hit)) in batch.iter().zip(hits).enumerate() {
            match hit.or_else(|| spares.get(&at).copied()) {
                Some(hit) => fresh.extend(self.mark(*reference, hit)?),
                None => unknown.push(*reference),
            }
        }
        fresh.extend(self.visit_younger(&unknown)?);
        Ok(fresh)
    }

    fn mark(
        &mut self,
        reference: Reference,
        (number, rank, row): (usize, u64, Row),
    ) -> Result<Option<Live>, CollectError> {
        let pack = self
            .snapshot
            .sources
            .get(number)
            .and_then(|source| source.packs().get(row.pack as usize).copied());
        let Some(pack) = pack.filter(|_| row.kind == reference.kind) else {
            return Err(missing(reference));
        };
        let is_new = self.marks.get_mut(number).is_some_and(|marks| marks.set(rank));
        if !is_new {
            return Ok(None);
        }
        if let Some(touched) = &mut self.touched {
            touched.insert(pack);
        }
        let live = Live { place: row.place(pack), id: row.id };
        Ok(reference.kind.is_metadata().then_some(live))
    }

    /// What the snapshot does not have came in since, in packs that this collection does not
    /// touch.
    fn visit_younger(&mut self, unknown: &[Reference]) -> Result<Vec<Live>, CollectError> {
        if unknown.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<ChunkId> = unknown.iter().map(|reference| reference.id).collect();
        let index = &self.inner.index;
        let mut found = index.lookup(&ids, View::Reader).map_err(RepoError::from)?;
        if found.iter().any(|found| matches!(found, Found::Pending(_))) {
            self.inner.writer()?.barrier().map_err(RepoError::from)?;
            found = index.lookup(&ids, View::Reader).map_err(RepoError::from)?;
        }
        let mut fresh = Vec::new();
        for (reference, found) in unknown.iter().zip(found) {
            match found {
                Found::At(place) if place.kind == reference.kind => {
                    if reference.kind.is_metadata() && self.younger.insert(reference.id) {
                        fresh.push(Live { place, id: reference.id });
                    }
                }
                _ => return Err(missing(*reference)),
            }
        }
        Ok(fresh)
    }

    /// Sums up what was marked.
    pub(super) fn tally(&self) -> Result<Tally, CollectError> {
        let mut packs: HashMap<PackId, PackTally> = HashMap::new();
        let mut unneeded = HashSet::new();
        for (source, marks) in self.snapshot.sources.iter().zip(&self.marks) {
            let mut sums = vec![(0_u64, 0_u64, 0_u64, 0_u64); source.packs().len()];
            source
                .visit_all(|rank, row| {
                    let live = u64::from(marks.is_set(rank));
                    if let Some(sum) = sums.get_mut(row.pack as usize) {
                        let bytes = u64::from(row.record_len);
                        *sum = (sum.0 + 1, sum.1 + live, sum.2 + bytes, sum.3 + bytes * live);
                    }
                    if row.kind.is_metadata() && live == 0 && marks.stand(row) != Stand::Gone {
                        unneeded.insert(row.id);
                    }
                })
                .map_err(RepoError::from)?;
            for (pack, sum) in source.packs().iter().zip(sums) {
                let Some(class) = self.inner.index.class(pack).filter(|_| sum.0 > 0) else {
                    continue;
                };
                let tally = packs.entry(*pack).or_insert_with(|| self.begin_tally(*pack, class));
                tally.records += sum.0;
                tally.live_records += sum.1;
                tally.record_bytes += sum.2;
                tally.live_bytes += sum.3;
            }
        }
        self.keep_unneeded(&mut unneeded)?;
        let mut packs: Vec<PackTally> = packs.into_values().collect();
        packs.sort_unstable_by_key(|tally| tally.pack);
        Ok(Tally { packs, unneeded, points: self.walked.len() as u64, pages: self.pages })
    }

    fn begin_tally(&self, pack: PackId, class: PackClass) -> PackTally {
        let unreadable =
            self.inner.health().unreadable_packs.iter().any(|(damaged, _)| *damaged == pack);
        let stage = match self.snapshot.standing.of(&pack) {
            _ if unreadable => Stage::Untouchable,
            Stand::Condemned(_) if self.snapshot.ripe.contains(&pack) => Stage::Ripe,
            Stand::Condemned(_) => Stage::Waiting,
            Stand::InPlace if self.snapshot.settled.contains(&pack) => Stage::Settled,
            Stand::InPlace | Stand::Gone => Stage::Untouchable,
        };
        let (records, live_records, record_bytes, live_bytes) = (0, 0, 0, 0);
        PackTally { pack, class, records, live_records, record_bytes, live_bytes, stage }
    }

    /// Drops from the unneeded what is marked in another place.
    fn keep_unneeded(&self, unneeded: &mut HashSet<ChunkId>) -> Result<(), CollectError> {
        let mut ids: Vec<ChunkId> = unneeded.iter().copied().collect();
        ids.sort_unstable();
        let wanted: Vec<usize> = (0..ids.len()).collect();
        for (source, marks) in self.snapshot.sources.iter().zip(&self.marks) {
            source
                .visit_sorted(&ids, &wanted, |_, rank, row| {
                    if marks.is_set(rank) {
                        unneeded.remove(&row.id);
                    }
                })
                .map_err(RepoError::from)?;
        }
        Ok(())
    }

    /// The records of these packs that are needed, in the order they lie.
    pub(super) fn live_in(&self, wanted: &[PackId]) -> Result<Vec<Live>, CollectError> {
        let wanted: HashSet<&PackId> = wanted.iter().collect();
        let mut live = Vec::new();
        for (source, marks) in self.snapshot.sources.iter().zip(&self.marks) {
            let packs = source.packs();
            source
                .visit_all(|rank, row| {
                    let pack = packs.get(row.pack as usize).filter(|pack| wanted.contains(pack));
                    if let Some(pack) = pack.filter(|_| marks.is_set(rank)) {
                        live.push(Live { place: row.place(*pack), id: row.id });
                    }
                })
                .map_err(RepoError::from)?;
        }
        live.sort_unstable();
        Ok(live)
    }
}

fn missing(reference: Reference) -> CollectError {
    let reason = "a point needs it and it is not here".to_owned();
    CollectError::Doubtful { subject: format!("blob {}", reference.id), reason }
}

fn doubtful(subject: String, error: &RepoError) -> CollectError {
    CollectError::Doubtful { subject, reason: strongroom_protocol::Chain(error).to_string() }
}
