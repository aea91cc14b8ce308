//! Where a pack stands on its way out, and who may still count on it. Pure bookkeeping under the
//! lock of the index: a pack is in place, then condemned, then gone; a session is open or it is
//! not. Time is a tick that grows with every opening and every condemnation, so that "older" never
//! asks a clock.

use std::collections::{BTreeMap, HashMap, HashSet};

use strongroom_protocol::id::PackId;

/// A moment of this process: of a session's opening, a pack's naming, a condemnation.
pub(crate) type Tick = u64;

/// Before everything that happened since the repository was opened.
pub(crate) const BEFORE_ALL: Tick = 0;

/// Packs on their way out, and those known to be hurt. A snapshot of it goes with every lookup,
/// so it is replaced, not changed.
#[derive(Clone, Default, Debug)]
pub(crate) struct Standing {
    condemned: HashMap<PackId, Tick>,
    gone: HashSet<PackId>,
    hurt: HashSet<PackId>,
}

/// How far a pack may be counted on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stand {
    Condemned(Tick),
    Gone,
    InPlace,
}

impl Standing {
    /// Where the pack stands.
    pub(crate) fn of(&self, pack: &PackId) -> Stand {
        if self.condemned.is_empty() && self.gone.is_empty() {
            return Stand::InPlace;
        }
        if self.gone.contains(pack) {
            return Stand::Gone;
        }
        self.condemned.get(pack).map_or(Stand::InPlace, |tick| Stand::Condemned(*tick))
    }

    /// Whether what lies in the pack cannot be counted on, wherever the pack stands.
    pub(crate) fn is_hurt(&self, pack: &PackId) -> bool {
        !self.hurt.is_empty() && self.hurt.contains(pack)
    }

    pub(super) fn set_hurt(&mut self, pack: PackId) {
        self.hurt.insert(pack);
    }

    pub(super) fn set_whole(&mut self, pack: &PackId) {
        self.hurt.remove(pack);
    }

    pub(crate) const fn condemned(&self) -> &HashMap<PackId, Tick> {
        &self.condemned
    }

    pub(crate) const fn gone(&self) -> &HashSet<PackId> {
        &self.gone
    }

    pub(super) fn condemn(&mut self, pack: PackId, tick: Tick) {
        if !self.gone.contains(&pack) {
            self.condemned.entry(pack).or_insert(tick);
        }
    }

    /// Nobody counts on it any more; its name may go.
    pub(super) fn let_go(&mut self, pack: PackId) {
        self.condemned.remove(&pack);
        self.gone.insert(pack);
    }

    /// It is in place again, or still.
    pub(super) fn restore(&mut self, pack: &PackId) {
        self.condemned.remove(pack);
        self.gone.remove(pack);
    }

    /// Forgets packs whose names nothing on disk remembers.
    pub(super) fn forget_gone(&mut self, named: &HashSet<PackId>) {
        self.gone.retain(|pack| named.contains(pack));
    }
}

/// Open sessions by the tick they began at.
#[derive(Default, Debug)]
pub(super) struct Leases {
    now: Tick,
    open: BTreeMap<Tick, usize>,
}

impl Leases {
    /// The tick of the last thing that happened.
    pub(super) const fn now(&self) -> Tick {
        self.now
    }

    /// Something happens that has to be told from everything before.
    pub(super) const fn advance(&mut self) -> Tick {
        self.now += 1;
        self.now
    }

    pub(super) fn begin(&mut self) -> Tick {
        let tick = self.advance();
        *self.open.entry(tick).or_default() += 1;
        tick
    }

    pub(super) fn end(&mut self, tick: Tick) {
        if let Some(count) = self.open.get_mut(&tick) {
            *count -= 1;
            if *count == 0 {
                self.open.remove(&tick);
            }
        }
    }

    /// The tick of the oldest open session; with none open, one that nothing is older than.
    pub(super) fn oldest(&self) -> Tick {
        self.open.keys().next().copied().unwrap_or(Tick::MAX)
    }

    pub(super) fn count(&self) -> usize {
        self.open.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_session_is_the_one_that_counts() {
        let mut leases = Leases::default();
        assert_eq!(leases.oldest(), Tick::MAX);
        let first = leases.begin();
        let second = leases.begin();
        assert!(BEFORE_ALL < first && first < second);
        leases.end(second);
        assert_eq!((leases.oldest(), leases.count()), (first, 1));
        leases.end(first);
        assert_eq!((leases.oldest(), leases.count()), (Tick::MAX, 0));
        assert!(leases.begin() > second, "ticks are never given twice");
    }

    #[test]
    fn what_is_gone_is_not_condemned_again_until_it_is_back() {
        let (pack, mut standing) = (PackId([1; 32]), Standing::default());
        standing.condemn(pack, 5);
        standing.condemn(pack, 9);
        assert_eq!(standing.of(&pack), Stand::Condemned(5));
        standing.let_go(pack);
        standing.condemn(pack, 11);
        assert_eq!(standing.of(&pack), Stand::Gone);
        standing.restore(&pack);
        assert_eq!(standing.of(&pack), Stand::InPlace);
    }
}
