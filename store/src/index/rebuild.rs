//! Damage of the index while it is in use: a segment that does not hold is left out, and what it
//! said is read from the footers of its packs again. Nothing it knew is forgotten on the way, and
//! memory is bounded however large it was.

use std::sync::Arc;

use strongroom_protocol::Chain;
use strongroom_protocol::blob::BlobKind;
use strongroom_protocol::id::PackId;

use super::segment::{Segment, SegmentError};
use super::{Doubt, Flushable, Index, RECENT_ENTRIES_MAX, Row, merge};
use crate::pack::{PackClass, PackEntry, pack_path, read_footer, scan_forward};

/// What the footers of some packs say.
type Footers = Vec<(PackId, Vec<PackEntry>)>;

impl Index {
    /// Reads the footers of all packs of segments that were found damaged; gives how many
    /// segments that was.
    pub(crate) fn replace_all_damaged(&self) -> usize {
        let segments = self.state().segments.clone();
        let damaged = segments.iter().filter(|segment| segment.is_damaged());
        damaged.inspect(|segment| self.replace_damaged(segment)).count()
    }

    /// Drops a damaged segment and reads its packs' footers instead.
    pub(super) fn replace_damaged(&self, segment: &Arc<Segment>) {
        let path = segment.path();
        tracing::warn!(path, "index segment is damaged: rebuilding it from its packs");
        let packs: Vec<(PackId, PackClass)> = {
            let state = self.state();
            let class = |pack: &PackId| state.class(pack).map(|class| (*pack, class));
            segment.packs().iter().filter_map(class).collect()
        };
        let (mut footers, mut count) = (Footers::new(), 0);
        for (pack, class) in packs {
            match self.entries_of(pack, class) {
                Ok(entries) => {
                    count += entries.len();
                    footers.push((pack, entries));
                }
                Err((problem, entries)) => {
                    tracing::warn!(%pack, problem, "pack cannot be indexed");
                    self.note_hurt(pack);
                    footers.push((pack, entries));
                }
            }
            if count >= RECENT_ENTRIES_MAX {
                self.keep(std::mem::take(&mut footers));
                count = 0;
            }
        }
        let mut state = self.state_mut();
        footers.iter().for_each(|(pack, entries)| state.enter(*pack, entries, Doubt::Doubted));
        state.drop_segments(std::slice::from_ref(segment));
        drop(state);
        drop(self.disk.remove(path));
    }

    /// What a pack's footer says; of a pack that is not whole, why, and what its records read
    /// forward say.
    pub(super) fn entries_of(
        &self,
        pack: PackId,
        class: PackClass,
    ) -> Result<Vec<PackEntry>, (String, Vec<PackEntry>)> {
        let file = self.disk.open(&pack_path(class, pack));
        let file = file.map_err(|error| (Chain(&error).to_string(), Vec::new()))?;
        read_footer(&*file, self.repo).map(|(_, entries)| entries).map_err(|problem| {
            let left = scan_forward(&*file, self.repo).map(|(_, entries)| entries);
            (problem.to_string(), left.unwrap_or_default())
        })
    }

    /// Makes a segment of footers; entries in memory where that fails.
    fn keep(&self, footers: Footers) {
        if let Err(error) = self.write_footers(&footers) {
            tracing::warn!(%error, "a rebuilt part of the index stays in memory");
            let mut state = self.state_mut();
            footers.iter().for_each(|(pack, entries)| state.enter(*pack, entries, Doubt::Doubted));
        }
    }

    /// These packs were named by a segment, so their names are durable; and nothing is called
    /// proven. So no barrier comes before it.
    fn write_footers(&self, footers: &[(PackId, Vec<PackEntry>)]) -> Result<(), SegmentError> {
        let mut flushable = Flushable { packs: Vec::new(), rows: Vec::new() };
        for (number, (pack, entries)) in (0..).zip(footers) {
            flushable.packs.push(*pack);
            flushable.rows.extend(entries.iter().map(|entry| row(number, entry)));
        }
        let flushable = flushable.sorted();
        let doubted = flushable.rows.iter().filter(|row| row.doubt == Doubt::Doubted);
        let doubted: Vec<_> = doubted.map(|row| row.id).collect();
        let path = self.fresh_path();
        let (packs, count) = (&flushable.packs, flushable.rows.len() as u64);
        let plan = merge::SegmentPlan { path: &path, packs, count, doubted: doubted.len() };
        let mut rows = flushable.rows.iter().copied().map(Ok);
        merge::write(&*self.disk, self.repo, &plan, &mut rows)?;
        let segment = Segment::open(&*self.disk, &path, self.repo)?;
        self.state_mut().add_segment(Arc::new(segment), doubted);
        Ok(())
    }
}

fn row(pack: u32, entry: &PackEntry) -> Row {
    let PackEntry { id, kind, offset, record_len, plain_len } = *entry;
    let doubt = if kind == BlobKind::Data { Doubt::Proven } else { Doubt::Doubted };
    Row { id, pack, offset, record_len, plain_len, kind, doubt }
}
