//! The part of the index that lies in memory: pending ids, recent places, the packs in place,
//! the segments and the doubts. Pure bookkeeping: nothing here touches the disk.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use strongroom_protocol::blob::BlobKind;
use strongroom_protocol::id::{ChunkId, PackId};

use super::segment::Segment;
use super::standing::{Leases, Stand, Standing, Tick};
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

    fn place(&self, slot: &Slot) -> Option<Place> {
        let Slot { pack, offset, record_len, plain_len, kind } = *slot;
        let pack = *self.packs.get(pack as usize)?;
        Some(Place { pack, offset, record_len, plain_len, kind })
    }
}

pub(super) struct State {
    pub(super) pending: HashMap<ChunkId, BlobKind>,
    pub(super) recent: Recent,
    pub(super) packs: BTreeMap<PackId, PackClass>,
    pub(super) segments: Vec<Arc<Segment>>,
    pub(super) standing: Arc<Standing>,
    pub(super) leases: Leases,
    /// When packs were named, of those named since the repository was opened.
    pub(super) born: HashMap<PackId, Tick>,
    /// Packs about to get their names, and packs about to lose them.
    pub(super) naming: HashSet<PackId>,
    pub(super) leaving: HashSet<PackId>,
    /// Packs in place again that the record of removals may name still.
    pub(super) returned: HashSet<PackId>,
    /// Blobs on their way into a second pack: known already, and doubted as much as before.
    pub(super) copying: HashSet<ChunkId>,
    /// Metadata that came in since a collection began to look.
    pub(super) arrivals: Option<HashSet<ChunkId>>,
    doubts: Doubts,
    /// Metadata whose doubt was lifted in memory only: a loss doubts it again.
    lifted: HashSet<ChunkId>,
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
            standing: Arc::default(),
            leases: Leases::default(),
            born: HashMap::new(),
            naming: HashSet::new(),
            leaving: HashSet::new(),
            returned: HashSet::new(),
            copying: HashSet::new(),
            arrivals: None,
            doubts: Doubts::Only(HashSet::new()),
            lifted: HashSet::new(),
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

    pub(super) fn may_be_condemned(&self, pack: &PackId) -> bool {
        self.has_pack(pack) && !self.naming.contains(pack)
    }

    pub(super) fn class(&self, pack: &PackId) -> Option<PackClass> {
        self.packs.get(pack).copied()
    }

    /// What memory knows of an id, and a place in a condemned or hurt pack where it is.
    pub(super) fn find(&self, id: &ChunkId) -> (Found, Option<Place>) {
        let place = self.recent.slots.get(id).and_then(|slot| self.recent.place(slot));
        let stand = place.map(|place| (place, self.standing.of(&place.pack)));
        let spare = match stand {
            Some((place, Stand::InPlace)) if !self.standing.is_hurt(&place.pack) => {
                return (Found::At(place), None);
            }
            Some((place, Stand::Condemned(_) | Stand::InPlace)) => Some(place),
            Some((_, Stand::Gone)) | None => None,
        };
        let pending = self.pending.get(id).map_or(Found::Absent, |kind| Found::Pending(*kind));
        (pending, spare)
    }

    pub(super) fn publish(
        &mut self,
        pack: PackId,
        class: PackClass,
        entries: &[PackEntry],
        doubt: Doubt,
    ) {
        self.packs.insert(pack, class);
        self.born.insert(pack, self.leases.now());
        self.naming.remove(&pack);
        self.restore(&pack);
        self.enter(pack, entries, doubt);
    }

    /// What lies in a pack in place. One that is gone by now stays so.
    pub(super) fn enter(&mut self, pack: PackId, entries: &[PackEntry], doubt: Doubt) {
        if !self.has_pack(&pack) {
            return;
        }
        let number = u32::try_from(self.recent.packs.len()).unwrap_or(u32::MAX);
        self.recent.packs.push(pack);
        let is_hurt = self.standing.is_hurt(&pack);
        for entry in entries {
            let PackEntry { id, kind, offset, record_len, plain_len } = *entry;
            let slot = Slot { pack: number, offset, record_len, plain_len, kind };
            let known = match self.recent.slots.get(&id) {
                // One place is remembered: not one in a hurt pack instead of a whole one.
                Some(known) if is_hurt && self.is_whole(known) => true,
                _ => self.recent.slots.insert(id, slot).is_some(),
            };
            let was_pending = self.pending.remove(&id).is_some();
            if self.copying.remove(&id) {
                continue;
            }
            if kind.is_metadata() {
                self.note_arrival(id);
            }
            if doubt == Doubt::Doubted && kind.is_metadata() && !known && !was_pending {
                self.doubt(id);
            }
        }
    }

    /// The pack is in place again, or still.
    pub(super) fn restore(&mut self, pack: &PackId) {
        match self.standing.of(pack) {
            Stand::InPlace => return,
            Stand::Condemned(_) => {}
            Stand::Gone => {
                self.returned.insert(*pack);
            }
        }
        Arc::make_mut(&mut self.standing).restore(pack);
    }

    /// Those of the removed packs that are in place came back before this opening.
    pub(super) fn note_returned(&mut self, removed: &HashSet<PackId>) {
        let back = removed.iter().filter(|pack| self.packs.contains_key(pack)).copied();
        self.returned.extend(back);
    }

    fn is_whole(&self, slot: &Slot) -> bool {
        self.recent.packs.get(slot.pack as usize).is_some_and(|pack| {
            self.standing.of(pack) == Stand::InPlace && !self.standing.is_hurt(pack)
        })
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

    /// Remembers metadata that came in while a collection looks elsewhere.
    pub(super) fn note_arrival(&mut self, id: ChunkId) {
        if let Some(arrivals) = &mut self.arrivals {
            arrivals.insert(id);
        }
    }

    pub(super) fn doubt(&mut self, id: ChunkId) {
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
                    if doubted.remove(id) {
                        self.lifted.insert(*id);
                    }
                }
            }
        }
    }

    /// What was proven in memory may rest on what was lost.
    pub(super) fn doubt_lifted(&mut self) {
        match &mut self.doubts {
            Doubts::AllBut(proven) => proven.clear(),
            Doubts::Only(doubted) => doubted.extend(self.lifted.drain()),
        }
    }

    /// Everything but these is known to be complete: a whole walk has just shown it.
    pub(super) fn doubt_only(&mut self, doubted: HashSet<ChunkId>) {
        self.doubts = Doubts::Only(doubted);
        self.lifted.clear();
    }

    /// What a later opening has to doubt, whatever the segments say; nothing for everything.
    pub(super) fn doubts_to_keep(&self) -> Option<Vec<ChunkId>> {
        match &self.doubts {
            Doubts::AllBut(_) => None,
            Doubts::Only(doubted) => Some(doubted.union(&self.lifted).copied().collect()),
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
        self.lifted.clear();
    }

    /// Lets go of recent places in packs that are gone.
    pub(super) fn drop_recent_of_gone(&mut self) {
        let gone: HashSet<usize> = {
            let packs = self.recent.packs.iter().enumerate();
            let gone = packs.filter(|(_, pack)| self.standing.of(pack) == Stand::Gone);
            gone.map(|(number, _)| number).collect()
        };
        if !gone.is_empty() {
            self.recent.slots.retain(|_, slot| !gone.contains(&(slot.pack as usize)));
        }
    }

    /// Packs that a segment or a recent place names.
    pub(super) fn named_packs(&self) -> HashSet<PackId> {
        let segments = self.segments.iter().flat_map(|segment| segment.packs());
        segments.chain(&self.recent.packs).copied().collect()
    }

    pub(super) fn add_segment(&mut self, segment: Arc<Segment>, doubted: Vec<ChunkId>) {
        self.segments.push(segment);
        for id in doubted {
            self.doubt(id);
        }
    }

    /// A copy of the recent entries, in no order: sorting them is not for under the lock.
    pub(super) fn recent_rows(&self) -> Flushable {
        let slots = self.recent.slots.iter();
        let rows = slots
            .map(|(id, slot)| {
                let Slot { pack, offset, record_len, plain_len, kind } = *slot;
                let doubted = kind.is_metadata() && self.is_doubted(id);
                let doubt = if doubted { Doubt::Doubted } else { Doubt::Proven };
                Row { id: *id, pack, offset, record_len, plain_len, kind, doubt }
            })
            .collect();
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

    /// Another segment, or none when nothing was left, takes the place of these.
    pub(super) fn replace_segments(
        &mut self,
        inputs: &[Arc<Segment>],
        merged: Option<Arc<Segment>>,
    ) {
        self.drop_segments(inputs);
        if let Some(merged) = merged {
            self.segments.insert(0, merged);
        }
    }
}
