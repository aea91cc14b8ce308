//! What a collection decides from what was marked: pure, so that it can be printed before it is
//! done. Nothing is decided about packs that a session still open may have written, nor about
//! packs that do not read back.

use std::collections::HashSet;
use std::fmt;

use strongroom_protocol::id::PackId;

use super::tally::Tally;
use crate::pack::{PackClass, pack_bytes};

/// When packs are copied, and how much at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CollectLimits {
    /// Data packs of which less than this many percent are needed are repacked.
    pub data_live_percent_min: u8,
    /// The same of metadata packs, which are read more often and are cheaper to copy.
    pub metadata_live_percent_min: u8,
    /// Most bytes copied in one run.
    pub copied_bytes_max: u64,
    /// Bytes copied in a second, where others are to be left room.
    pub copied_bytes_per_second_max: Option<u64>,
}

impl Default for CollectLimits {
    fn default() -> Self {
        Self {
            data_live_percent_min: 70,
            metadata_live_percent_min: 85,
            copied_bytes_max: 16 << 30,
            copied_bytes_per_second_max: None,
        }
    }
}

/// What one pack holds, and how much of it is needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PackTally {
    pub pack: PackId,
    pub class: PackClass,
    pub records: u64,
    pub live_records: u64,
    pub record_bytes: u64,
    pub live_bytes: u64,
    /// Where it is on its way.
    pub(super) stage: Stage,
}

/// Where a pack is on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// Condemned by an earlier run; no session counts on it.
    Ripe,
    /// In place, and older than every open session.
    Settled,
    /// Not to be touched now: young, unreadable, or condemned while a session was open.
    Untouchable,
    /// Condemned, and some session may count on it.
    Waiting,
}

impl PackTally {
    /// Length of the pack's file.
    pub const fn bytes(&self) -> u64 {
        pack_bytes(self.record_bytes, self.records)
    }
}

/// What is to be done.
#[derive(Default)]
pub(super) struct Decision {
    pub(super) remove: Vec<PackId>,
    pub(super) rescue: Vec<PackId>,
    pub(super) condemn: Vec<PackId>,
    pub(super) repack: Vec<PackId>,
}

/// Decides. A repack needs its room before it gives any back, so it is bounded by what is free.
pub(super) fn decide(tally: &Tally, limits: &CollectLimits, free_bytes: Option<u64>) -> Decision {
    let mut decision = Decision::default();
    let mut sparse: Vec<&PackTally> = Vec::new();
    let mut freed = 0;
    for pack in &tally.packs {
        match (pack.stage, pack.live_records) {
            (Stage::Ripe, 0) => {
                freed += pack.bytes();
                decision.remove.push(pack.pack);
            }
            (Stage::Settled, 0) => {
                freed += pack.bytes();
                decision.condemn.push(pack.pack);
            }
            (Stage::Ripe | Stage::Waiting, 1..) => decision.rescue.push(pack.pack),
            (Stage::Settled, _) if is_sparse(pack, limits) => sparse.push(pack),
            _ => {}
        }
    }
    // What gives back most for each byte copied goes first.
    sparse.sort_by_key(|pack| (pack.live_bytes * 1000 / pack.record_bytes.max(1), pack.pack));
    let room = free_bytes.map_or(u64::MAX, |free| (free + freed) / 2);
    let mut left = limits.copied_bytes_max.min(room);
    for pack in sparse {
        if let Some(rest) = left.checked_sub(pack.live_bytes) {
            left = rest;
            decision.repack.push(pack.pack);
        }
    }
    decision
}

fn is_sparse(pack: &PackTally, limits: &CollectLimits) -> bool {
    let percent = match pack.class {
        PackClass::Data => limits.data_live_percent_min,
        PackClass::Metadata => limits.metadata_live_percent_min,
    };
    let live = u128::from(pack.live_bytes) * 100;
    live < u128::from(pack.record_bytes) * u128::from(percent.min(100))
}

/// What a collection would do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CollectionPlan {
    /// Packs nobody needs: those condemned before, and those that would be now.
    pub remove: Vec<PackTally>,
    /// Packs mostly unneeded: the rest of them is copied first.
    pub repack: Vec<PackTally>,
    /// Condemned packs that a point needs after all.
    pub rescue: Vec<PackId>,
    pub points: u64,
    pub packs: u64,
    pub bytes: u64,
    pub live_bytes: u64,
    /// Sessions open: what they may count on goes when they have ended.
    pub open_sessions: usize,
    /// Why nothing would be done.
    pub refusal: Option<String>,
}

impl CollectionPlan {
    pub(super) fn refused(reason: String) -> Self {
        Self { refusal: Some(reason), ..Self::default() }
    }

    /// Bytes that come back once no session counts on them.
    pub fn returned_bytes(&self) -> u64 {
        let removed: u64 = self.remove.iter().map(PackTally::bytes).sum();
        let copied = self.repack.iter().map(|pack| pack.bytes().saturating_sub(pack.live_bytes));
        removed + copied.sum::<u64>()
    }
}

impl Decision {
    pub(super) fn into_plan(self, tally: &Tally, open_sessions: usize) -> CollectionPlan {
        let of = |wanted: &[PackId]| -> Vec<PackTally> {
            let wanted: HashSet<&PackId> = wanted.iter().collect();
            tally.packs.iter().filter(|pack| wanted.contains(&pack.pack)).copied().collect()
        };
        let dead: Vec<PackId> = self.remove.iter().chain(&self.condemn).copied().collect();
        CollectionPlan {
            remove: of(&dead),
            repack: of(&self.repack),
            rescue: self.rescue,
            points: tally.points,
            packs: tally.packs.len() as u64,
            bytes: tally.packs.iter().map(PackTally::bytes).sum(),
            live_bytes: tally.packs.iter().map(|pack| pack.live_bytes).sum(),
            open_sessions,
            refusal: None,
        }
    }
}

impl fmt::Display for CollectionPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(reason) = &self.refusal {
            return writeln!(f, "nothing would be removed: {reason}");
        }
        let Self { points, packs, bytes, live_bytes, .. } = self;
        writeln!(f, "{points} points need {live_bytes} of {bytes} bytes in {packs} packs")?;
        for pack in &self.remove {
            writeln!(f, "remove {} ({} bytes)", pack.pack, pack.bytes())?;
        }
        for pack in &self.repack {
            let (live, bytes) = (pack.live_bytes, pack.bytes());
            writeln!(f, "repack {} ({live} of {bytes} bytes are needed)", pack.pack)?;
        }
        for pack in &self.rescue {
            writeln!(f, "keep {pack}, which is needed again")?;
        }
        writeln!(f, "{} bytes come back", self.returned_bytes())?;
        if self.open_sessions > 0 {
            writeln!(f, "{} open sessions may delay that", self.open_sessions)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(number: u8, live: u64, stage: Stage) -> PackTally {
        PackTally {
            pack: PackId([number; 32]),
            class: PackClass::Data,
            records: 10,
            live_records: live / 100,
            record_bytes: 1000,
            live_bytes: live,
            stage,
        }
    }

    fn tally(packs: Vec<PackTally>) -> Tally {
        Tally { packs, ..Tally::default() }
    }

    #[test]
    fn only_settled_packs_are_touched_and_the_emptiest_first() {
        let packs = vec![
            pack(1, 0, Stage::Settled),
            pack(2, 0, Stage::Untouchable),
            pack(3, 0, Stage::Waiting),
            pack(4, 0, Stage::Ripe),
            pack(5, 100, Stage::Ripe),
            pack(6, 100, Stage::Waiting),
            pack(7, 500, Stage::Settled),
            pack(8, 200, Stage::Settled),
            pack(9, 700, Stage::Settled),
            pack(10, 200, Stage::Untouchable),
        ];
        let numbers = |ids: &[PackId]| ids.iter().map(|id| id.0[0]).collect::<Vec<_>>();
        let limits = CollectLimits::default();
        let decision = decide(&tally(packs.clone()), &limits, None);
        assert_eq!(numbers(&decision.condemn), [1]);
        assert_eq!(numbers(&decision.remove), [4]);
        assert_eq!(numbers(&decision.rescue), [5, 6]);
        assert_eq!(numbers(&decision.repack), [8, 7], "70 percent is enough to stay");
        let little = CollectLimits { copied_bytes_max: 300, ..limits };
        assert_eq!(numbers(&decide(&tally(packs.clone()), &little, None).repack), [8]);
        let full = decide(&tally(packs[4..].to_vec()), &limits, Some(0));
        assert!(full.repack.is_empty(), "no room to copy");
    }

    #[test]
    fn a_plan_prints_what_comes_back() {
        let packs = vec![pack(1, 0, Stage::Settled), pack(7, 500, Stage::Settled)];
        let tally = tally(packs);
        let plan = decide(&tally, &CollectLimits::default(), None).into_plan(&tally, 1);
        let whole = pack_bytes(1000, 10);
        assert_eq!(plan.returned_bytes(), whole + whole - 500);
        let text = plan.to_string();
        assert!(text.contains("remove 0101") && text.contains("repack 0707"), "{text}");
        assert!(text.contains("1 open sessions"), "{text}");
        let refused = CollectionPlan::refused("point x: damaged".to_owned()).to_string();
        assert!(refused.contains("nothing would be removed: point x"), "{refused}");
    }
}
