//! What a collection asks of the index: sessions as leases, a snapshot to mark on, condemning,
//! rescuing and forgetting packs. Every step is one turn under the lock, so that writers see it
//! whole or not at all. A condemnation counts as a loss: no proof older than it is believed.

use std::collections::HashSet;
use std::sync::Arc;

use strongroom_protocol::id::{ChunkId, PackId};

use super::segment::{Segment, SegmentError};
use super::standing::{Stand, Standing, Tick};
use super::{Flushable, Index, Row, merge};
use crate::disk::DiskError;
use crate::pack::PackClass;
use crate::sync::Ordering;

/// A segment is written anew when this many of a hundred packs it names are gone.
const GONE_PERCENT_MAX: usize = 25;

/// What is in place at one moment. Its rows do not change, whatever comes in or is merged.
pub(crate) struct Snapshot {
    /// The order lookups go by: the newest first.
    pub(crate) sources: Vec<Source>,
    pub(crate) standing: Arc<Standing>,
    /// Packs in place that were named before the oldest open session began.
    pub(crate) settled: HashSet<PackId>,
    /// Packs condemned before the oldest open session began: nobody counts on them.
    pub(crate) ripe: HashSet<PackId>,
    pub(crate) losses: u64,
    pub(crate) condemnations: u64,
}

/// Rows of a snapshot.
pub(crate) struct Source(Rows);

enum Rows {
    Memory(Flushable),
    Segment(Arc<Segment>),
}

impl Source {
    /// The packs its rows number.
    pub(crate) fn packs(&self) -> &[PackId] {
        match &self.0 {
            Rows::Memory(rows) => &rows.packs,
            Rows::Segment(segment) => segment.packs(),
        }
    }

    /// Bytes of memory the rows take.
    pub(crate) fn memory_bytes(&self) -> usize {
        match &self.0 {
            Rows::Memory(held) => held.rows.len() * size_of::<Row>(),
            Rows::Segment(_) => 0,
        }
    }

    /// How many rows there are.
    pub(crate) fn len(&self) -> u64 {
        match &self.0 {
            Rows::Memory(rows) => rows.rows.len() as u64,
            Rows::Segment(segment) => segment.entries(),
        }
    }

    /// Visits the rows of each of these ids, which are sorted, with the ranks of the rows.
    pub(crate) fn visit_sorted(
        &self,
        ids: &[ChunkId],
        wanted: &[usize],
        mut visit: impl FnMut(usize, u64, &Row),
    ) -> Result<(), DiskError> {
        match &self.0 {
            Rows::Memory(held) => {
                for &at in wanted {
                    let Some(id) = ids.get(at) else { continue };
                    let first = held.rows.partition_point(|row| row.id < *id);
                    let rows = held.rows.iter().enumerate().skip(first);
                    for (rank, row) in rows.take_while(|(_, row)| row.id == *id) {
                        visit(at, rank as u64, row);
                    }
                }
                Ok(())
            }
            Rows::Segment(segment) => {
                segment.visit_sorted(ids, wanted, visit).map_err(SegmentError::into_disk)
            }
        }
    }

    /// Visits all rows in the order of their ranks.
    pub(crate) fn visit_all(&self, mut visit: impl FnMut(u64, &Row)) -> Result<(), DiskError> {
        match &self.0 {
            Rows::Memory(held) => {
                held.rows.iter().enumerate().for_each(|(rank, row)| visit(rank as u64, row));
            }
            Rows::Segment(segment) => {
                let (mut rank, mut first) = (0, 0);
                let rows_from = |first| segment.rows_from(first).map_err(SegmentError::into_disk);
                while let Some((rows, next)) = rows_from(first)? {
                    first = next;
                    for row in rows {
                        visit(rank, &row);
                        rank += 1;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Packs to condemn, and what was found unneeded with them.
pub(crate) struct Sentence<'a> {
    pub(crate) packs: &'a [PackId],
    /// All metadata of the snapshot that no point needs.
    pub(crate) unneeded: &'a HashSet<ChunkId>,
    /// Losses and condemnations at the snapshot.
    pub(crate) seen: (u64, u64),
}

impl Index {
    /// Opens a session: what it is told is here stays until it ends.
    pub(crate) fn begin_session(&self) -> Tick {
        self.state_mut().leases.begin()
    }

    pub(crate) fn end_session(&self, tick: Tick) {
        self.state_mut().leases.end(tick);
    }

    /// Sessions open now.
    pub(crate) fn open_sessions(&self) -> usize {
        self.state().leases.count()
    }

    /// What is here now. From here on arrivals are noted, until [`Self::end_snapshot`].
    pub(crate) fn begin_snapshot(&self) -> Snapshot {
        let mut state = self.state_mut();
        let pending = state.pending.iter().filter(|(_, kind)| kind.is_metadata());
        state.arrivals = Some(pending.map(|(id, _)| *id).collect());
        let oldest = state.leases.oldest();
        let named = |pack: &PackId| state.born.get(pack).copied().unwrap_or_default();
        let settled = state.packs.keys().filter(|pack| named(pack) < oldest).copied().collect();
        let (recent, segments) = (state.recent_rows(), state.segments.clone());
        let standing = Arc::clone(&state.standing);
        let condemned = standing.condemned().iter();
        let ripe: HashSet<PackId> =
            condemned.filter(|(_, tick)| **tick <= oldest).map(|(pack, _)| *pack).collect();
        let (losses, condemnations) = (self.losses(), self.condemnations());
        drop(state);
        let mut sources = vec![Source(Rows::Memory(recent.sorted()))];
        sources.extend(segments.into_iter().rev().map(|segment| Source(Rows::Segment(segment))));
        Snapshot { sources, standing, settled, ripe, losses, condemnations }
    }

    /// Arrivals need not be noted any more.
    pub(crate) fn end_snapshot(&self) {
        self.state_mut().arrivals = None;
    }

    /// Condemns packs: from here on only older sessions find what lies in nothing else, and
    /// only until they end. Metadata that no point was seen to need is doubted, for its proof
    /// may rest on these packs; all other is proven, if nothing was lost since the snapshot.
    pub(crate) fn condemn(&self, sentence: &Sentence<'_>) {
        let mut doubted: HashSet<ChunkId> = sentence.unneeded.clone();
        let mut state = self.state_mut();
        self.losses.fetch_add(1, Ordering::SeqCst);
        let before = self.condemnations.fetch_add(1, Ordering::SeqCst);
        let tick = state.leases.advance();
        let in_place: Vec<PackId> =
            sentence.packs.iter().filter(|pack| state.may_be_condemned(pack)).copied().collect();
        let standing = Arc::make_mut(&mut state.standing);
        in_place.into_iter().for_each(|pack| standing.condemn(pack, tick));
        doubted.extend(state.arrivals.iter().flatten());
        let faults = |losses: u64, condemnations: u64| losses - condemnations;
        let (losses, condemnations) = sentence.seen;
        if faults(self.losses() - 1, before) == faults(losses, condemnations) {
            state.doubt_only(doubted);
        } else {
            doubted.into_iter().for_each(|id| state.doubt(id));
        }
    }

    /// Those of the packs that are condemned still, and counted on by no open session, are
    /// gone from here on: nobody finds anything in them.
    pub(crate) fn let_go(&self, packs: &[PackId]) -> Vec<(PackId, PackClass)> {
        let mut state = self.state_mut();
        let oldest = state.leases.oldest();
        let mut gone = Vec::new();
        for pack in packs {
            let Stand::Condemned(tick) = state.standing.of(pack) else { continue };
            if tick <= oldest
                && let Some(class) = state.packs.remove(pack)
            {
                Arc::make_mut(&mut state.standing).let_go(*pack);
                state.born.remove(pack);
                state.leaving.insert(*pack);
                gone.push((*pack, class));
            }
        }
        gone
    }

    /// A hurt pack that nobody needs is gone from here on; its class if it was in place.
    pub(crate) fn let_go_hurt(&self, pack: PackId) -> Option<PackClass> {
        let mut state = self.state_mut();
        let class = state.packs.remove(&pack)?;
        Arc::make_mut(&mut state.standing).let_go(pack);
        state.born.remove(&pack);
        state.leaving.insert(pack);
        Some(class)
    }

    /// A hurt pack that was to go is in place still.
    pub(crate) fn bring_back(&self, pack: PackId, class: PackClass) {
        let mut state = self.state_mut();
        state.packs.insert(pack, class);
        Arc::make_mut(&mut state.standing).restore(&pack);
    }

    /// A pack that was to go is in place still: condemned, as before.
    pub(crate) fn take_back(&self, packs: &[(PackId, PackClass)]) {
        let mut state = self.state_mut();
        let tick = state.leases.advance();
        for (pack, class) in packs {
            state.packs.insert(*pack, *class);
            let standing = Arc::make_mut(&mut state.standing);
            standing.restore(pack);
            standing.condemn(*pack, tick);
        }
    }

    /// The names of these packs were taken away, or never will be: others may bear them.
    pub(crate) fn end_leaving(&self, packs: &[(PackId, PackClass)]) {
        let mut state = self.state_mut();
        for (pack, _) in packs {
            state.leaving.remove(pack);
        }
    }

    /// A pack is about to get its name and is not condemned until it has it; false while that
    /// name is being taken from an earlier one.
    pub(crate) fn begin_naming(&self, pack: PackId) -> bool {
        let mut state = self.state_mut();
        let free = !state.leaving.contains(&pack);
        if free {
            state.naming.insert(pack);
            state.restore(&pack);
        }
        free
    }

    /// Those of the packs that are condemned, and that no open session can count on.
    pub(crate) fn ripe_of(&self, packs: &[PackId]) -> Vec<PackId> {
        let state = self.state();
        let oldest = state.leases.oldest();
        let ripe = |pack: &&PackId| match state.standing.of(pack) {
            Stand::Condemned(tick) => tick <= oldest,
            Stand::Gone | Stand::InPlace => false,
        };
        packs.iter().filter(ripe).copied().collect()
    }

    /// Packs condemned now.
    pub(crate) fn condemned_len(&self) -> usize {
        self.state().standing.condemned().len()
    }

    /// A blob is about to be copied into another pack.
    pub(crate) fn note_copying(&self, id: ChunkId) {
        self.state_mut().copying.insert(id);
    }

    /// What an opening has to know besides the segments: packs that were removed and that
    /// segments name, and what is doubted, or nothing when all is.
    pub(crate) fn removals(&self) -> (Vec<PackId>, Option<Vec<ChunkId>>) {
        let state = self.state();
        let packs = state.standing.gone().union(&state.returned).copied().collect();
        (packs, state.doubts_to_keep())
    }

    /// Packs that were removed and are in place again: to be settled once that is durable.
    pub(crate) fn returned(&self) -> HashSet<PackId> {
        self.state().returned.clone()
    }

    /// The return of these is durable: without them from here on is a loss.
    pub(crate) fn settle_returned(&self, packs: &HashSet<PackId>) {
        self.state_mut().returned.retain(|pack| !packs.contains(pack));
    }

    /// It could not be written down that these are settled.
    pub(crate) fn unsettle_returned(&self, packs: HashSet<PackId>) {
        self.state_mut().returned.extend(packs);
    }

    /// Forgets what lay in packs that are gone: in memory at once, on disk where segments are
    /// full of it.
    pub(crate) fn forget_gone(&self) -> Result<(), DiskError> {
        let (segments, standing) = {
            let mut state = self.state_mut();
            state.drop_recent_of_gone();
            (state.segments.clone(), Arc::clone(&state.standing))
        };
        for segment in segments {
            let gone = segment.packs().iter().filter(|pack| standing.gone().contains(pack));
            if gone.count() * 100 <= segment.packs().len() * GONE_PERCENT_MAX {
                continue;
            }
            let (path, inputs) = (self.fresh_path(), [segment]);
            match merge::merge(&*self.disk, self.repo, &path, &inputs, &standing) {
                Ok(merged) => self.state_mut().replace_segments(&inputs, merged.map(Arc::new)),
                Err(SegmentError::Damaged { .. }) => {
                    inputs.iter().for_each(|segment| self.replace_damaged(segment));
                    continue;
                }
                Err(SegmentError::Disk(error)) => return Err(error),
            }
            for input in &inputs {
                self.disk.remove(input.path())?;
            }
        }
        self.prune_gone()
    }

    /// Forgets the packs that no segment names, on disk or in memory.
    fn prune_gone(&self) -> Result<(), DiskError> {
        let (known, named) = {
            let state = self.state();
            let named = state.named_packs();
            if state.standing.gone().is_subset(&named) {
                return Ok(());
            }
            let paths = state.segments.iter().map(|segment| segment.path().to_owned());
            (paths.collect::<HashSet<String>>(), named)
        };
        // A segment left behind by an earlier merge would name them at the next opening.
        for entry in self.disk.list("index")? {
            let path = format!("index/{}", entry.name);
            if entry.name.ends_with(".seg") && !known.contains(&path) {
                self.disk.remove(&path)?;
            }
        }
        self.disk.sync_dir("index")?;
        Arc::make_mut(&mut self.state_mut().standing).forget_gone(&named);
        Ok(())
    }
}
