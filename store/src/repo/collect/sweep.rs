//! The end of a pack: no session can count on it, no point was found to need it, and the record
//! that it was removed is durable. Then its name goes. Whatever fails leaves it condemned, for
//! the next collection.

use std::collections::{BTreeSet, HashSet};
use std::ops::ControlFlow;

use strongroom_protocol::id::PackId;

use super::Watch;
use super::mark::Marker;
use super::report::{Collect, CollectError, CollectReport, Removal, RemovedPack};
use crate::disk::{DiskResult, EntryKind, parent};
use crate::pack::{PackClass, pack_path};
use crate::repo::incoming::Claim;
use crate::repo::{Inner, RepoError};

/// Packs removed under one record: bounds what a crash in between leaves to be looked at again.
const BATCH: usize = 4096;

impl Inner {
    /// Removes those of the condemned packs that nobody can count on any more.
    pub(super) fn sweep(
        &self,
        marker: &mut Marker<'_>,
        packs: &[PackId],
        removal: Removal,
        watch: Watch<'_>,
        report: &mut CollectReport,
    ) -> Result<(), CollectError> {
        // Whoever could commit a point on them must have ended before the points are listed.
        let packs = self.index.ripe_of(packs);
        if packs.is_empty() || report.stopped {
            return Ok(());
        }
        marker.mark_points(watch)?;
        // The marks may rest on packs whose names are not durable yet; a second barrier is asked
        // for because the first reports what was lost before.
        let writer = self.writer()?;
        writer.barrier().or_else(|_| writer.barrier()).map_err(RepoError::from)?;
        self.sync_points().map_err(RepoError::from)?;
        let (needed, unneeded): (Vec<PackId>, Vec<PackId>) =
            packs.into_iter().partition(|pack| marker.was_touched(pack));
        for pack in needed {
            self.index.rescue(&pack);
            report.rescued.push(pack);
        }
        for batch in unneeded.chunks(BATCH) {
            let removed = report.removed.len() as u64;
            if watch(Collect::Removing { packs: removed }) == ControlFlow::Break(()) {
                report.stopped = true;
                return Ok(());
            }
            self.remove(batch, removal, report)?;
            marker.removed(batch);
        }
        Ok(())
    }

    /// A point whose removal was not made durable would be back after a crash, without its
    /// packs.
    fn sync_points(&self) -> DiskResult<()> {
        for workload in self.disk.list("points")? {
            if workload.kind == EntryKind::Directory {
                self.disk.sync_dir(&format!("points/{}", workload.name))?;
            }
        }
        Ok(())
    }

    fn remove(
        &self,
        packs: &[PackId],
        removal: Removal,
        report: &mut CollectReport,
    ) -> Result<(), CollectError> {
        // A pack that is being received bears its name again in a moment.
        let claims: Vec<(PackId, Claim)> = packs
            .iter()
            .filter_map(|pack| Claim::of(&self.incoming, *pack).map(|claim| (*pack, claim)))
            .collect();
        let claimed: Vec<PackId> = claims.iter().map(|(pack, _)| *pack).collect();
        let going = self.index.let_go(&claimed);
        let recorded = self.with_reserve(|| self.write_removals()).map_err(RepoError::from);
        if let Err(error) = recorded {
            self.index.take_back(&going);
            self.index.end_leaving(&going);
            return Err(error.into());
        }
        let failed = self.unlink(&going, removal, report);
        self.index.take_back(&failed);
        self.index.end_leaving(&going);
        Ok(())
    }

    /// Takes the names away; gives those that stayed.
    fn unlink(
        &self,
        going: &[(PackId, PackClass)],
        removal: Removal,
        report: &mut CollectReport,
    ) -> Vec<(PackId, PackClass)> {
        self.close_readers(&going.iter().map(|(pack, _)| *pack).collect::<HashSet<_>>());
        let mut failed = Vec::new();
        let mut dirs = BTreeSet::new();
        for (pack, class) in going {
            let path = pack_path(*class, *pack);
            let bytes = self.disk.open(&path).and_then(|file| file.len()).unwrap_or(0);
            match self.disk.remove(&path) {
                Err(error) if !error.is_missing() => {
                    tracing::warn!(%pack, %error, "a pack could not be removed");
                    failed.push((*pack, *class));
                }
                _ => {
                    dirs.insert(parent(&path).to_owned());
                    report.removed_bytes += bytes;
                    let (pack, class) = (*pack, *class);
                    report.removed.push(RemovedPack { pack, class, bytes, removal });
                }
            }
        }
        for dir in dirs {
            if let Err(error) = self.disk.sync_dir(&dir) {
                tracing::warn!(dir, %error, "a removal may not outlive a crash");
            }
        }
        failed
    }
}
