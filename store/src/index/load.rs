//! What is on disk when an index is loaded: its segments and the packs in place. A segment that
//! does not hold, or names a pack that is gone, is counted and left out.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use strongroom_protocol::id::PackId;

use super::segment::Segment;
use super::{Index, Losses};
use crate::disk::{Disk, DiskError, parent};
use crate::pack::{PackClass, pack_path};
use crate::sync::Ordering;

impl Index {
    /// Loads the segments whose packs are all in place, or were removed on purpose.
    pub(super) fn load_segments(
        &self,
        removed: &HashSet<PackId>,
        losses: &mut Losses,
    ) -> Result<(), DiskError> {
        for entry in self.disk.list("index")? {
            let Some(number) = segment_number(&entry.name) else { continue };
            self.next_segment.fetch_max(number + 1, Ordering::Relaxed);
            let path = format!("index/{}", entry.name);
            let Ok(segment) = Segment::open(&*self.disk, &path, self.repo) else {
                losses.segments_dropped += 1;
                continue;
            };
            let (known, gone): (Vec<PackId>, Vec<PackId>) = {
                let state = self.state();
                let absent = segment.packs().iter().filter(|pack| !state.has_pack(pack));
                absent.partition(|pack| removed.contains(pack))
            };
            if gone.is_empty() {
                let Ok(doubted) = segment.doubted() else {
                    losses.segments_dropped += 1;
                    continue;
                };
                let mut state = self.state_mut();
                state.add_segment(Arc::new(segment), doubted);
                let standing = Arc::make_mut(&mut state.standing);
                known.into_iter().for_each(|pack| standing.let_go(pack));
            } else {
                losses.segments_dropped += 1;
                losses.gone.extend(gone);
            }
        }
        losses.gone.sort_unstable();
        losses.gone.dedup();
        Ok(())
    }
}

fn segment_number(name: &str) -> Option<u64> {
    name.strip_suffix(".seg")?.parse().ok()
}

/// Every pack in place, by its name.
pub(crate) fn list_packs(disk: &dyn Disk) -> Result<BTreeMap<PackId, PackClass>, DiskError> {
    let mut packs = BTreeMap::new();
    for class in [PackClass::Data, PackClass::Metadata] {
        let top = format!("packs/{}", class.directory());
        for fan in disk.list(&top)? {
            for file in disk.list(&format!("{top}/{}", fan.name))? {
                let named = file.name.parse().ok();
                let whole = |pack: &PackId| {
                    let path = pack_path(class, *pack);
                    path.ends_with(&file.name) && parent(&path).ends_with(&fan.name)
                };
                if let Some(pack) = named.filter(whole) {
                    packs.insert(pack, class);
                }
            }
        }
    }
    Ok(packs)
}
