//! Copying what is needed out of packs that are mostly unneeded: records as they lie, without a
//! key. A pack is given up only when everything needed of it is durable elsewhere; one that does
//! not read back as its name says is left alone, so that damage is never copied under a new name.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::time::Duration;

use strongroom_protocol::id::{ChunkId, PackId};

use super::mark::{Live, Marker};
use super::report::{Collect, CollectError, CollectReport};
use super::{CollectLimits, Watch};
use crate::index::{Found, View};
use crate::pack::hash_file;
use crate::repo::{Inner, RepoError};
use crate::seal::{RecordHead, Sealed};

/// A pack and what of it was copied.
pub(super) type Copied = (PackId, Vec<ChunkId>);

impl Inner {
    /// Copies; gives the packs of which everything needed was copied. It stops early when told
    /// to, or when there is no room: what was copied by then counts.
    pub(super) fn repack(
        &self,
        marker: &Marker<'_>,
        packs: &[PackId],
        limits: &CollectLimits,
        watch: Watch<'_>,
        report: &mut CollectReport,
    ) -> Result<Vec<Copied>, CollectError> {
        if packs.is_empty() {
            return Ok(Vec::new());
        }
        let live = marker.live_in(packs)?;
        let mut copied: Vec<Copied> = Vec::new();
        // A pack is of one key epoch: those of one follow one another, so that few are closed
        // early.
        let of_one_pack = live.chunk_by(|one, next| one.place.pack == next.place.pack);
        let mut by_epoch: Vec<(u32, &[Live])> = Vec::new();
        for records in of_one_pack {
            let Some(pack) = records.first().map(|live| live.place.pack) else { continue };
            match self.pack_epoch(pack) {
                Ok(epoch) => by_epoch.push((epoch, records)),
                Err(error) => {
                    tracing::warn!(%pack, %error, "a pack of no known key epoch is not repacked");
                    report.damaged.push(pack);
                }
            }
        }
        by_epoch.sort_by_key(|(epoch, _)| *epoch);
        for (epoch, records) in by_epoch {
            if watch(Collect::Repacking { bytes: report.copied_bytes }) == ControlFlow::Break(()) {
                report.stopped = true;
                break;
            }
            match self.copy_pack(epoch, records, limits, report) {
                Ok(true) => {
                    let ids = records.iter().map(|live| live.id).collect();
                    copied.extend(records.first().map(|live| (live.place.pack, ids)));
                }
                Ok(false) => report.damaged.extend(records.first().map(|live| live.place.pack)),
                Err(error) if error.is_full() => break,
                Err(error) => return Err(error.into()),
            }
        }
        // What the first barrier could not keep is lost, and found missing by who looks for it;
        // but nothing may rest on names that are not known to be durable.
        let writer = self.writer()?;
        match writer.barrier().or_else(|_| writer.barrier()).map_err(RepoError::from) {
            Ok(()) => Ok(copied),
            Err(error) if error.is_full() => {
                tracing::warn!(%error, "no room to repack");
                Ok(Vec::new())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Copies the needed records of one pack; false when the pack is not whole.
    fn copy_pack(
        &self,
        epoch: u32,
        records: &[Live],
        limits: &CollectLimits,
        report: &mut CollectReport,
    ) -> Result<bool, RepoError> {
        let Some(pack) = records.first().map(|live| live.place.pack) else { return Ok(true) };
        if hash_file(&*self.reopened(pack)?)? != pack {
            tracing::warn!(%pack, "a damaged pack is not repacked");
            return Ok(false);
        }
        for Live { place, id } in records {
            let bytes = self.record_at(place)?;
            let head = RecordHead::parse(&bytes);
            if !head.is_ok_and(|head| head.id == *id && head.record_len() == bytes.len()) {
                return Ok(false);
            }
            let len = bytes.len() as u64;
            let (kind, plain_len) = (place.kind, place.plain_len);
            self.writer()?.copy(Sealed { id: *id, kind, plain_len, epoch, bytes })?;
            report.copied_bytes += len;
            if let Some(rate) = limits.copied_bytes_per_second_max {
                std::thread::sleep(Duration::from_secs_f64(len as f64 / rate.max(1) as f64));
            }
        }
        Ok(true)
    }

    /// Those of the packs, condemned now, of which everything needed lies in another pack;
    /// the rest stays after all.
    pub(super) fn only_copied(&self, copied: &[Copied]) -> Result<Vec<PackId>, CollectError> {
        let leaving: HashSet<PackId> = copied.iter().map(|(pack, _)| *pack).collect();
        let mut emptied = Vec::new();
        for (pack, ids) in copied {
            let found = self.index.lookup(ids, View::Reader).map_err(RepoError::from)?;
            let stays = |found: &Found| match found {
                Found::At(place) => !leaving.contains(&place.pack),
                Found::Absent | Found::Pending(_) => false,
            };
            if found.iter().all(stays) {
                emptied.push(*pack);
            } else {
                tracing::warn!(%pack, "not everything was copied out of a pack");
                self.index.rescue(pack);
            }
        }
        Ok(emptied)
    }
}
