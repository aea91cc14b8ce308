//! Where every blob lies: recent places in memory, the rest in sorted segments on disk. It is a
//! cache: damage or a vanished pack costs a rebuild from footers, never a wrong answer. It also
//! keeps doubt: metadata whose closure was not proven complete is not a reason to skip sending.
//! No lock is held over I/O.

mod fence;
mod load;
mod lookup;
mod merge;
mod rebuild;
mod segment;
mod sentence;
mod standing;
mod state;
mod visit;

use std::collections::HashSet;
use std::sync::Arc;

use strongroom_protocol::blob::BlobKind;
use strongroom_protocol::id::{ChunkId, PackId, RepoId};

use crate::disk::{Disk, DiskError};
use crate::pack::{PackClass, PackEntry};
use crate::sync::{AtomicU64, Ordering, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
pub(crate) use load::list_packs;
use segment::{Segment, SegmentError};
use state::State;

pub(crate) use lookup::{Rescue, View};
pub(crate) use sentence::{Sentence, Snapshot, Source};
pub(crate) use standing::{BEFORE_ALL, Stand, Tick};

/// Entries kept in memory before they become a segment: some 25 MiB.
pub const RECENT_ENTRIES_MAX: usize = 262_144;
/// Segments of one size class before they are merged into one of the next.
const TIER_SEGMENTS: usize = 8;

/// Where a blob's record lies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    pub pack: PackId,
    pub offset: u32,
    pub record_len: u32,
    pub plain_len: u32,
    pub kind: BlobKind,
}

/// What the index knows of an id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// Not here.
    Absent,
    /// Accepted by the writer, not in a named pack yet.
    Pending(BlobKind),
    /// In a pack.
    At(Place),
}

impl Found {
    /// The kind of what was found.
    pub const fn kind(&self) -> Option<BlobKind> {
        match self {
            Self::Absent => None,
            Self::Pending(kind) => Some(*kind),
            Self::At(place) => Some(place.kind),
        }
    }
}

/// Whether an id was taken in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Accept {
    /// It is pending now and was handed on.
    Taken,
    /// It was here already.
    Present,
    /// Something was lost since the caller looked: look again.
    Stale,
}

/// The index of one repository.
pub struct Index {
    disk: Arc<dyn Disk>,
    repo: RepoId,
    state: RwLock<State>,
    losses: AtomicU64,
    condemnations: AtomicU64,
    next_segment: AtomicU64,
}

/// What is written to a segment: sorted, with the packs it numbers.
pub(crate) struct Flushable {
    pub(crate) packs: Vec<PackId>,
    pub(crate) rows: Vec<Row>,
}

impl Flushable {
    fn sorted(mut self) -> Self {
        self.rows.sort_unstable_by_key(|row| row.id);
        self
    }
}

/// An entry as a segment holds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Row {
    pub(crate) id: ChunkId,
    pub(crate) pack: u32,
    pub(crate) offset: u32,
    pub(crate) record_len: u32,
    pub(crate) plain_len: u32,
    pub(crate) kind: BlobKind,
    pub(crate) doubt: Doubt,
}

impl Row {
    /// The place it names, in the pack it numbers.
    pub(crate) const fn place(&self, pack: PackId) -> Place {
        let Self { offset, record_len, plain_len, kind, .. } = *self;
        Place { pack, offset, record_len, plain_len, kind }
    }
}

/// Whether the closure of a metadata blob is known to be here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Doubt {
    Doubted,
    Proven,
}

/// What earlier collections left to be known besides the segments.
pub(crate) struct Removals {
    /// Packs removed on purpose: a segment may name them still.
    pub(crate) packs: HashSet<PackId>,
    /// Metadata doubted whatever the segments say; nothing for all of it.
    pub(crate) doubted: Option<Vec<ChunkId>>,
}

impl Default for Removals {
    /// Nothing was ever removed.
    fn default() -> Self {
        Self { packs: HashSet::new(), doubted: Some(Vec::new()) }
    }
}

/// What could not be read when the index was loaded.
#[derive(Default)]
pub(crate) struct Losses {
    pub(crate) unreadable: Vec<(PackId, String)>,
    pub(crate) gone: Vec<PackId>,
    pub(crate) segments_dropped: usize,
}

impl Index {
    /// Loads the segments and reads the footers of packs that none of them names.
    pub(crate) fn load(
        disk: Arc<dyn Disk>,
        repo: RepoId,
        removals: &Removals,
    ) -> Result<(Self, Losses), DiskError> {
        let mut losses = Losses::default();
        let in_place = list_packs(&*disk)?;
        let index = Self {
            disk,
            repo,
            state: RwLock::new(State::new(in_place)),
            losses: AtomicU64::new(0),
            condemnations: AtomicU64::new(0),
            next_segment: AtomicU64::new(1),
        };
        index.load_segments(&removals.packs, &mut losses)?;
        index.state_mut().note_returned(&removals.packs);
        let unindexed = index.state().unindexed();
        for (pack, class) in unindexed {
            if let Err(problem) = index.index_pack(pack, class) {
                losses.unreadable.push((pack, problem));
            }
            if index.recent_len() >= RECENT_ENTRIES_MAX {
                // A read-only disk leaves them in memory.
                drop(index.write_segment(&index.flushable()));
            }
        }
        if !losses.gone.is_empty() || !losses.unreadable.is_empty() {
            index.state_mut().doubt_all();
        }
        match &removals.doubted {
            None => index.state_mut().doubt_all(),
            Some(doubted) => doubted.iter().for_each(|id| index.state_mut().doubt(*id)),
        }
        Ok((index, losses))
    }

    /// Reads a pack's footer, or its records forward when the footer is damaged; the second
    /// says that the pack is not whole.
    fn index_pack(&self, pack: PackId, class: PackClass) -> Result<(), String> {
        let read = self.entries_of(pack, class);
        let mut state = self.state_mut();
        match read {
            Ok(entries) => {
                state.enter(pack, &entries, Doubt::Doubted);
                Ok(())
            }
            Err((problem, entries)) => {
                Arc::make_mut(&mut state.standing).set_hurt(pack);
                state.enter(pack, &entries, Doubt::Doubted);
                Err(problem)
            }
        }
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often something accepted was lost, or packs were condemned: a proof older than
    /// that is none.
    pub(crate) fn losses(&self) -> u64 {
        self.losses.load(Ordering::SeqCst)
    }

    /// How often packs were condemned: those of the losses that cost nobody anything.
    pub(crate) fn condemnations(&self) -> u64 {
        self.condemnations.load(Ordering::SeqCst)
    }

    /// Takes an id in and hands it on in one step, so that whoever sees it in the index can
    /// be sure that a barrier asked for later waits for it.
    pub(crate) fn accept(
        &self,
        id: ChunkId,
        kind: BlobKind,
        seen_losses: u64,
        hand_on: impl FnOnce(),
    ) -> Accept {
        let mut state = self.state_mut();
        if self.losses() != seen_losses {
            return Accept::Stale;
        }
        if state.find(&id).0 != Found::Absent {
            return Accept::Present;
        }
        state.pending.insert(id, kind);
        // Nothing is ever asked about the proof of data: remembering it would only cost memory.
        if kind.is_metadata() {
            state.prove(&[id]);
            state.note_arrival(id);
        }
        hand_on();
        Accept::Taken
    }

    /// A pack is in place under its name.
    pub(crate) fn publish(
        &self,
        pack: PackId,
        class: PackClass,
        entries: &[PackEntry],
        doubt: Doubt,
    ) {
        self.state_mut().publish(pack, class, entries, doubt);
    }

    /// Accepted blobs did not reach the disk. What was proven by them is doubted again.
    pub(crate) fn forget_pending(&self, ids: impl Iterator<Item = ChunkId>) {
        let mut state = self.state_mut();
        self.losses.fetch_add(1, Ordering::SeqCst);
        for id in ids {
            state.pending.remove(&id);
            state.copying.remove(&id);
        }
        state.doubt_recent();
        state.doubt_lifted();
    }

    /// A pack that was in place is not to be counted on: what lies in no other is absent for
    /// sessions.
    pub(crate) fn note_hurt(&self, pack: PackId) {
        let mut state = self.state_mut();
        self.losses.fetch_add(1, Ordering::SeqCst);
        Arc::make_mut(&mut state.standing).set_hurt(pack);
        state.doubt_all();
    }

    /// A hurt pack is whole, was replaced, or is gone.
    pub(crate) fn note_whole(&self, pack: &PackId) {
        let mut state = self.state_mut();
        if state.standing.is_hurt(pack) {
            Arc::make_mut(&mut state.standing).set_whole(pack);
        }
    }

    /// Whether the closure of a metadata blob still has to be proven.
    pub(crate) fn doubted(&self, ids: &[ChunkId]) -> Vec<ChunkId> {
        let state = self.state();
        ids.iter().filter(|id| state.is_doubted(id)).copied().collect()
    }

    /// The closure of these, metadata all of them, is complete, unless something was lost
    /// since `seen_losses`.
    pub(crate) fn prove(&self, ids: &[ChunkId], seen_losses: u64) {
        let mut state = self.state_mut();
        if self.losses() == seen_losses {
            state.prove(ids);
        }
    }

    /// Packs in place.
    pub fn packs(&self) -> Vec<PackId> {
        self.state().packs.keys().copied().collect()
    }

    /// The class of a pack, when it is in place.
    pub fn class(&self, pack: &PackId) -> Option<PackClass> {
        self.state().class(pack)
    }

    /// Entries that are in no segment yet.
    pub fn recent_len(&self) -> usize {
        self.state().recent.len()
    }

    /// Metadata ids remembered as proven since something was lost.
    pub fn proven_len(&self) -> usize {
        self.state().proven_len()
    }

    /// Bytes of memory spent on segments.
    pub fn segment_bytes(&self) -> usize {
        self.state().segments.iter().map(|segment| segment.memory_bytes()).sum()
    }

    /// What would go into a segment now. It may be written only after a barrier that was
    /// asked for later, because its proofs may rest on what is pending.
    pub(crate) fn flushable(&self) -> Flushable {
        let rows = self.state().recent_rows();
        rows.sorted()
    }

    /// Writes a segment and lets go of the entries in memory; then merges where due.
    pub(crate) fn write_segment(&self, flushable: &Flushable) -> Result<(), DiskError> {
        if flushable.rows.is_empty() {
            return Ok(());
        }
        self.make_index_dir()?;
        let path = self.fresh_path();
        let mut rows = flushable.rows.iter().copied().map(Ok);
        let count = flushable.rows.len() as u64;
        let doubted = flushable.rows.iter().filter(|row| row.doubt == Doubt::Doubted).count();
        let plan = merge::SegmentPlan { path: &path, packs: &flushable.packs, count, doubted };
        merge::write(&*self.disk, self.repo, &plan, &mut rows).map_err(SegmentError::into_disk)?;
        let segment =
            Segment::open(&*self.disk, &path, self.repo).map_err(SegmentError::into_disk)?;
        self.state_mut().replace_recent(Arc::new(segment), flushable);
        self.merge_where_due()
    }

    fn merge_where_due(&self) -> Result<(), DiskError> {
        loop {
            let segments = self.state().segments.clone();
            let Some(inputs) = merge::due(&segments, TIER_SEGMENTS) else { return Ok(()) };
            let path = self.fresh_path();
            let standing = Arc::clone(&self.state().standing);
            match merge::merge(&*self.disk, self.repo, &path, &inputs, &standing) {
                Ok(merged) => self.state_mut().replace_segments(&inputs, merged.map(Arc::new)),
                Err(SegmentError::Damaged { path }) => {
                    let damaged = inputs.iter().find(|input| input.path() == path);
                    damaged.into_iter().for_each(|segment| self.replace_damaged(segment));
                    continue;
                }
                Err(SegmentError::Disk(error)) => return Err(error),
            }
            for input in &inputs {
                self.disk.remove(input.path())?;
            }
        }
    }

    fn make_index_dir(&self) -> Result<(), DiskError> {
        for changed in self.disk.create_dirs("index")? {
            self.disk.sync_dir(&changed)?;
        }
        Ok(())
    }

    fn fresh_path(&self) -> String {
        format!("index/{:08}.seg", self.next_segment.fetch_add(1, Ordering::Relaxed))
    }
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").field("repo", &self.repo).finish_non_exhaustive()
    }
}
