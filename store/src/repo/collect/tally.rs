//! What was marked, summed up: of each pack how much is needed, and which metadata is not. One
//! pass over the index in its own order.

use std::collections::{HashMap, HashSet};

use strongroom_protocol::id::{ChunkId, PackId};

use super::mark::{Live, Marker};
use super::plan::{PackTally, Stage};
use super::report::CollectError;
use crate::index::{BEFORE_ALL, Row, Snapshot, Source, Stand};
use crate::pack::PackClass;
use crate::repo::RepoError;

/// The marks of one source, by rank, and where each of its packs stands.
pub(super) struct Marks {
    bits: Vec<u64>,
    stands: Vec<Stand>,
}

impl Marks {
    /// No marks yet. What lies in a hurt pack too is marked elsewhere, where it is whole: such
    /// a pack comes last, as a condemned one does.
    pub(super) fn of(source: &Source, snapshot: &Snapshot, hurt: &HashSet<PackId>) -> Self {
        let words = usize::try_from(source.len().div_ceil(64)).unwrap_or_default();
        let stand = |pack: &PackId| match snapshot.standing.of(pack) {
            Stand::InPlace if hurt.contains(pack) => Stand::Condemned(BEFORE_ALL),
            stand => stand,
        };
        let stands = source.packs().iter().map(stand).collect();
        Self { bits: vec![0; words], stands }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(self.bits.as_slice()) + size_of_val(self.stands.as_slice())
    }

    pub(super) fn stand(&self, row: &Row) -> Stand {
        self.stands.get(row.pack as usize).copied().unwrap_or(Stand::Gone)
    }

    /// Packs that this collection has removed: what lies in them is marked elsewhere from now on.
    pub(super) fn gone(&mut self, source: &Source, packs: &HashSet<PackId>) {
        for (stand, pack) in self.stands.iter_mut().zip(source.packs()) {
            if packs.contains(pack) {
                *stand = Stand::Gone;
            }
        }
    }

    pub(super) fn is_set(&self, rank: u64) -> bool {
        let word = self.bits.get(usize::try_from(rank / 64).unwrap_or(usize::MAX));
        word.is_some_and(|word| word & (1 << (rank % 64)) != 0)
    }

    /// Marks a row and the pack it touches; the blob, if it is metadata not marked before.
    pub(super) fn mark(
        &mut self,
        source: &Source,
        rank: u64,
        row: &Row,
        touched: &mut Option<HashSet<PackId>>,
    ) -> Option<Live> {
        let pack = *source.packs().get(row.pack as usize)?;
        if !self.set(rank) {
            return None;
        }
        if let Some(touched) = touched {
            touched.insert(pack);
        }
        row.kind.is_metadata().then(|| Live { place: row.place(pack), id: row.id })
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

impl Marker<'_> {
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
        // A pack of which the index knows no record: all of them lie elsewhere too.
        for pack in self.snapshot.settled.union(&self.snapshot.ripe) {
            if let Some(class) = self.inner.index.class(pack) {
                packs.entry(*pack).or_insert_with(|| self.begin_tally(*pack, class));
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
