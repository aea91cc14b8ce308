//! The part of the index that lies in memory: pending ids, recent places, the packs in place,
//! the segments and the doubts. Pure bookkeeping: nothing here touches the disk.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use strongroom_protocol::blob::BlobKind;
use strongroom_protocol::id::{ChunkId, PackId};

use super::segment::Segment;
use super::{Doubt, Flushable, Found, Place, Row};
use crate::pack::{PackClass, PackEntry};

/// A recent place; its pack by number.
#[derive(Clone, Copy)]
struct Slot {
    pack: u32,
    offset: u32,
    record_len: u32,
    plain_len: u32,
    kind: BlobKind,
}

/// Recent entries by id.
#[derive(Default)]
pub(super) struct Recent {
    slots: HashMap<ChunkId, Slot>,
    packs: Vec<PackId>,
}

impl Recent {
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }
}

pub(super) struct State {
    pub(super) pending: HashMap<ChunkId, BlobKind>,
    pub(super) recent: Recent,
    pub(super) packs: BTreeMap<PackId, PackClass>,
    pub(super) segments: Vec<Arc<Segment>>,
    doubts: Doubts,
}

/// Which metadata is doubted.
enum Doubts {
    /// All but these: something was lost.
    AllBut(HashSet<ChunkId>),
    /// These.
    Only(HashSet<ChunkId>),
}

impl State {
    pub(super) fn new(packs: BTreeMap<PackId, PackClass>) -> Self {
        Self {
            pending: HashMap::new(),
            recent: Recent::default(),
            packs,
            segments: Vec::new(),
            doubts: Doubts::Only(HashSet::new()),
        }
    }

    /// Packs that neither a segment nor the recent entries name.
    pub(super) fn unindexed(&self) -> Vec<(PackId, PackClass)> {
        let named: HashSet<PackId> =
            self.segments.iter().flat_map(|segment| segment.packs().iter().copied()).collect();
        let unnamed = self.packs.iter().filter(|(pack, _)| !named.contains(pack));
        unnamed.map(|(pack, class)| (*pack, *class)).collect()
    }

    pub(super) fn has_pack(&self, pack: &PackId) -> bool {
        self.packs.contains_key(pack)
    }

    pub(super) fn class(&self, pack: &PackId) -> Option<PackClass> {
        self.packs.get(pack).copied()
    }

    /// What memory knows of an id.
    pub(super) fn find(&self, id: &ChunkId) -> Found {
        let Some(slot) = self.recent.slots.get(id) else {
            return self.pending.get(id).map_or(Found::Absent, |kind| Found::Pending(*kind));
        };
        let Slot { pack, offset, record_len, plain_len, kind } = *slot;
        let pack = self.recent.packs.get(pack as usize);
        pack.map_or(Found::Absent, |pack| {
            Found::At(Place { pack: *pack, offset, record_len, plain_len, kind })
        })
    }

    pub(super) fn publish(
        &mut self,
        pack: PackId,
        class: PackClass,
        entries: &[PackEntry],
        doubt: Doubt,
    ) {
        self.packs.insert(pack, class);
        let number = u32::try_from(self.recent.packs.len()).unwrap_or(u32::MAX);
        self.recent.packs.push(pack);
        for entry in entries {
            let PackEntry { id, kind, offset, record_len, plain_len } = *entry;
            let slot = Slot { pack: number, offset, record_len, plain_len, kind };
            let known = self.recent.slots.insert(id, slot).is_some();
            let was_pending = self.pending.remove(&id).is_some();
            if doubt == Doubt::Doubted && kind.is_metadata() && !known && !was_pending {
                self.doubt(id);
            }
        }
    }

    pub(super) fn is_doubted(&self, id: &ChunkId) -> bool {
        match &self.doubts {
            Doubts::AllBut(proven) => !proven.contains(id),
            Doubts::Only(doubted) => doubted.contains(id),
        }
    }

    pub(super) fn proven_len(&self) -> usize {
        match &self.doubts {
            Doubts::AllBut(proven) => proven.len(),
            Doubts::Only(_) => 0,
        }
    }

    fn doubt(&mut self, id: ChunkId) {
        match &mut self.doubts {
            Doubts::AllBut(proven) => {
                proven.remove(&id);
            }
            Doubts::Only(doubted) => {
                doubted.insert(id);
            }
        }
    }

    pub(super) fn prove(&mut self, ids: &[ChunkId]) {
        for id in ids {
            match &mut self.doubts {
                Doubts::AllBut(proven) => {
                    proven.insert(*id);
                }
                Doubts::Only(doubted) => {
                    doubted.remove(id);
                }
            }
        }
    }

    /// Doubts all metadata that no segment holds: what a segment says was proven by things
    /// durable before it was written.
    pub(super) fn doubt_recent(&mut self) {
        let recent = self.recent.slots.iter().map(|(id, slot)| (*id, slot.kind));
        let pending = self.pending.iter().map(|(id, kind)| (*id, *kind));
        let metadata: Vec<ChunkId> = recent
            .chain(pending)
            .filter(|(_, kind)| kind.is_metadata())
            .map(|(id, _)| id)
            .collect();
        for id in metadata {
            self.doubt(id);
        }
    }

    pub(super) fn doubt_all(&mut self) {
        self.doubts = Doubts::AllBut(HashSet::new());
    }

    pub(super) fn add_segment(&mut self, segment: Arc<Segment>, doubted: Vec<ChunkId>) {
        self.segments.push(segment);
        for id in doubted {
            self.doubt(id);
        }
    }

    /// A copy of the recent entries, sorted.
    pub(super) fn flushable(&self) -> Flushable {
        let slots = self.recent.slots.iter();
        let mut rows: Vec<Row> = slots
            .map(|(id, slot)| {
                let Slot { pack, offset, record_len, plain_len, kind } = *slot;
                let doubted = kind.is_metadata() && self.is_doubted(id);
                let doubt = if doubted { Doubt::Doubted } else { Doubt::Proven };
                Row { id: *id, pack, offset, record_len, plain_len, kind, doubt }
            })
            .collect();
        rows.sort_unstable_by_key(|row| row.id);
        Flushable { packs: self.recent.packs.clone(), rows }
    }

    /// A segment took over what was flushed; what came since stays.
    pub(super) fn replace_recent(&mut self, segment: Arc<Segment>, flushed: &Flushable) {
        self.segments.push(segment);
        for row in &flushed.rows {
            let same = |slot: &Slot| slot.pack == row.pack && slot.offset == row.offset;
            if self.recent.slots.get(&row.id).is_some_and(same) {
                self.recent.slots.remove(&row.id);
            }
        }
        if self.recent.slots.is_empty() {
            self.recent = Recent::default();
        }
    }

    pub(super) fn drop_segments(&mut self, gone: &[Arc<Segment>]) {
        self.segments.retain(|kept| !gone.iter().any(|segment| Arc::ptr_eq(kept, segment)));
    }

    pub(super) fn replace_segments(&mut self, inputs: &[Arc<Segment>], merged: Arc<Segment>) {
        self.drop_segments(inputs);
        self.segments.insert(0, merged);
    }
}
