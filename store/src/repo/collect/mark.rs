//! Marking: every page and list that a point needs is read once, and everything it names gets a
//! bit at its rank in the index. The index itself is the dictionary, so that a mark costs one bit
//! a record and a batch of ids at a time, however many points there are. Anything that cannot be
//! read ends it: what is in doubt is kept.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use strongroom_protocol::blob::{BlobKind, Reference};
use strongroom_protocol::id::{ChunkId, PackId, PointId, WorkloadId};

use super::Watch;
use super::report::{Collect, CollectError};
use super::tally::Marks;
use crate::disk::EntryKind;
use crate::index::{Found, Place, Row, Snapshot, Source, Stand, View};
use crate::repo::{Inner, RepoError};

/// Pages and lists looked up and read at a time.
const METADATA_BATCH: usize = 8192;
/// Fewest ids of data looked up at a time.
const DATA_BATCH_MIN: usize = 65_536;
/// One id in so many records of the index is gathered before they are looked up.
const RECORDS_PER_GATHERED: u64 = 8;
/// Memory a gathered id takes while it is looked up: some 5 bytes a record.
const GATHERED_BYTES: usize = size_of::<ChunkId>() + size_of::<usize>() + size_of::<bool>();

/// What is marked.
pub(super) struct Marker<'a> {
    pub(super) inner: &'a Inner,
    pub(super) snapshot: Snapshot,
    pub(super) marks: Vec<Marks>,
    /// Metadata younger than the snapshot that was visited.
    younger: HashSet<ChunkId>,
    pub(super) walked: HashSet<(WorkloadId, PointId)>,
    metadata: Vec<Reference>,
    data: Vec<ChunkId>,
    data_batch: usize,
    pub(super) pages: u64,
    /// Packs in which something was marked since the tally.
    touched: Option<HashSet<PackId>>,
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
        let hurt = inner.hurt_packs();
        let sources = snapshot.sources.iter();
        let marks = sources.map(|source| Marks::of(source, &snapshot, &hurt)).collect();
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
        let marks: usize = self.marks.iter().map(Marks::memory_bytes).sum();
        let rows: usize = self.snapshot.sources.iter().map(Source::memory_bytes).sum();
        marks + rows + self.data.capacity() * GATHERED_BYTES
    }

    /// From here on, packs that turn out to be needed are remembered.
    pub(super) fn watch_for_more(&mut self) {
        self.touched = Some(HashSet::new());
    }

    /// Whether something in the pack was marked since [`Self::watch_for_more`].
    pub(super) fn was_touched(&self, pack: &PackId) -> bool {
        self.touched.as_ref().is_some_and(|touched| touched.contains(pack))
    }

    /// These were removed: whatever is needed of them from now on lies elsewhere.
    pub(super) fn removed(&mut self, packs: &[PackId]) {
        let packs: HashSet<PackId> = packs.iter().copied().collect();
        for (marks, source) in self.marks.iter_mut().zip(&self.snapshot.sources) {
            marks.gone(source, &packs);
        }
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
            self.data.push(reference.id);
        }
    }

    /// Visits metadata until none is left unvisited.
    fn walk(&mut self, watch: Watch<'_>) -> Result<(), CollectError> {
        while !self.metadata.is_empty() {
            if watch(Collect::Marking { pages: self.pages }) == ControlFlow::Break(()) {
                return Err(CollectError::Stopped);
            }
            let first = self.metadata.len().saturating_sub(METADATA_BATCH);
            let mut batch = self.metadata.split_off(first);
            batch.sort_unstable_by_key(|reference| reference.id);
            batch.dedup();
            let ids: Vec<ChunkId> = batch.iter().map(|reference| reference.id).collect();
            let of = |at: usize| batch.get(at).map_or(BlobKind::Page, |reference| reference.kind);
            let mut fresh = self.resolve(&ids, of)?;
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
        let mut batch = std::mem::take(&mut self.data);
        // Ids are hashes: their first bytes tell almost all of them apart.
        let head = |id: &ChunkId| id.0.first_chunk::<8>().map(|head| u64::from_be_bytes(*head));
        batch.sort_unstable_by(|one, two| head(one).cmp(&head(two)).then_with(|| one.cmp(two)));
        batch.dedup();
        self.resolve(&batch, |_| BlobKind::Data)?;
        batch.clear();
        self.data = batch;
        Ok(())
    }

    /// Marks these, which are sorted; gives the metadata among them that was not marked before.
    fn resolve(
        &mut self,
        ids: &[ChunkId],
        kind: impl Fn(usize) -> BlobKind,
    ) -> Result<Vec<Live>, CollectError> {
        let mut wanted: Vec<usize> = (0..ids.len()).collect();
        let mut done = vec![false; ids.len()];
        let mut spares: HashMap<usize, (usize, u64, Row)> = HashMap::new();
        let mut fresh = Vec::new();
        let mut other_kind = None;
        for number in 0..self.snapshot.sources.len() {
            let Some(source) = self.snapshot.sources.get(number) else { break };
            let Some(marks) = self.marks.get_mut(number) else { break };
            let touched = &mut self.touched;
            source
                .visit_sorted(ids, &wanted, |at, rank, row| match marks.stand(row) {
                    Stand::InPlace => {
                        if let Some(done) = done.get_mut(at).filter(|done| !**done) {
                            *done = true;
                            if row.kind != kind(at) {
                                other_kind = Some(row.id);
                            }
                            fresh.extend(marks.mark(source, rank, row, touched));
                        }
                    }
                    Stand::Condemned(_) => {
                        spares.entry(at).or_insert((number, rank, *row));
                    }
                    Stand::Gone => {}
                })
                .map_err(RepoError::from)?;
            wanted.retain(|&at| done.get(at) == Some(&false));
            if wanted.is_empty() {
                break;
            }
        }
        let mut unknown = Vec::new();
        for at in wanted {
            let Some(id) = ids.get(at) else { continue };
            let spare = spares.get(&at).and_then(|(number, rank, row)| {
                let source = self.snapshot.sources.get(*number)?;
                Some((self.marks.get_mut(*number)?, source, *rank, row))
            });
            match spare {
                Some((marks, source, rank, row)) if row.kind == kind(at) => {
                    fresh.extend(marks.mark(source, rank, row, &mut self.touched));
                }
                Some(_) => other_kind = Some(*id),
                None => unknown.push(Reference { kind: kind(at), id: *id }),
            }
        }
        if let Some(id) = other_kind {
            return Err(missing(id));
        }
        fresh.extend(self.visit_younger(&unknown)?);
        Ok(fresh)
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
                _ => return Err(missing(reference.id)),
            }
        }
        Ok(fresh)
    }
}

fn missing(id: ChunkId) -> CollectError {
    let reason = "a point needs it and it is not here".to_owned();
    CollectError::Doubtful { subject: format!("blob {id}"), reason }
}

fn doubtful(subject: String, error: &RepoError) -> CollectError {
    CollectError::Doubtful { subject, reason: strongroom_protocol::Chain(error).to_string() }
}
