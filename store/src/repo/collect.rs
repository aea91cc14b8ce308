//! Collecting what no point needs, while writers write (`docs/decisions/005-collection.md`). Marks
//! what the points need; condemns packs that hold nothing of it, so that nobody new counts on them;
//! copies the rest out of packs that are mostly unneeded; removes a condemned pack once no session
//! can count on it any more and no point was found to need it. Refuses when anything is unreadable.

mod mark;
mod plan;
mod repack;
mod report;
mod sweep;
mod tally;

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use strongroom_protocol::id::{ChunkId, PackId};

use super::{Inner, Repo};
use crate::index::Sentence;
use crate::pack::read_footer;
use mark::Marker;
use plan::Decision;
use tally::Tally;

pub use plan::{CollectLimits, CollectionPlan, PackTally};
pub use report::{Collect, CollectError, CollectReport, Removal, RemovedPack};

/// Told how far a collection is; breaking stops it at the next safe moment.
pub(super) type Watch<'a> = &'a mut dyn FnMut(Collect) -> ControlFlow<()>;

/// One collection at a time, and the snapshot it looks at.
pub(super) struct Turn<'a> {
    inner: &'a Inner,
}

impl<'a> Turn<'a> {
    pub(super) fn take(inner: &'a Inner) -> Result<Self, CollectError> {
        let taken = inner.collecting.swap(true, Ordering::SeqCst);
        if taken { Err(CollectError::Busy) } else { Ok(Self { inner }) }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.inner.index.end_snapshot();
        release(&self.inner.collecting);
    }
}

fn release(flag: &AtomicBool) {
    flag.store(false, Ordering::SeqCst);
}

impl Repo {
    /// What a collection would do now. Nothing is changed by asking.
    pub fn collection_plan(&self, limits: &CollectLimits) -> Result<CollectionPlan, CollectError> {
        let inner = &self.inner;
        let _turn = Turn::take(inner)?;
        let planned = self.plan(limits);
        match planned {
            Err(_) if inner.index.replace_all_damaged() > 0 => self.plan(limits),
            planned => planned,
        }
    }

    fn plan(&self, limits: &CollectLimits) -> Result<CollectionPlan, CollectError> {
        let inner = &self.inner;
        let mut marker = Marker::begin(inner);
        let mut watch = |_| ControlFlow::Continue(());
        match marker.mark_points(&mut watch) {
            Ok(()) => {}
            Err(CollectError::Doubtful { subject, reason }) => {
                return Ok(CollectionPlan::refused(format!("{subject}: {reason}")));
            }
            Err(error) => return Err(error),
        }
        let tally = marker.tally()?;
        let mut decision = plan::decide(&tally, limits, self.free_bytes());
        inner.keep_whole_copies(&marker, &mut decision)?;
        Ok(decision.into_plan(&tally, self.open_sessions()))
    }

    /// Collects: `watch` is told how far it is. What was removed and why is in the report; an
    /// error before anything was removed leaves everything as it was, and what a crash or an
    /// error cut short is done by the next collection.
    pub fn collect(
        &self,
        limits: &CollectLimits,
        watch: &mut dyn FnMut(Collect) -> ControlFlow<()>,
    ) -> Result<CollectReport, CollectError> {
        let inner = &self.inner;
        inner.writer()?;
        let _turn = Turn::take(inner)?;
        let mut report = CollectReport::default();
        let mut outcome = inner.run(&mut Marker::begin(inner), limits, watch, &mut report);
        // What a damaged part of the index said is read from the packs, and all is looked at anew.
        if outcome.is_err() && inner.index.replace_all_damaged() > 0 && report.removed.is_empty() {
            report = CollectReport::default();
            outcome = inner.run(&mut Marker::begin(inner), limits, watch, &mut report);
        }
        // Also after an error: what went already is to be forgotten, and the reserve refilled.
        let settled = inner.settle_collection();
        match outcome {
            Err(CollectError::Stopped) => report.stopped = true,
            other => other?,
        }
        settled?;
        Ok(report)
    }
}

impl Inner {
    fn run(
        &self,
        marker: &mut Marker<'_>,
        limits: &CollectLimits,
        watch: Watch<'_>,
        report: &mut CollectReport,
    ) -> Result<(), CollectError> {
        marker.mark_points(watch)?;
        let tally = marker.tally()?;
        let mut decision = plan::decide(&tally, limits, self.disk.free_bytes());
        self.keep_whole_copies(marker, &mut decision)?;
        report.begin(&tally, marker.memory_bytes());
        for pack in &decision.rescue {
            self.index.rescue(pack);
            report.rescued.push(*pack);
        }
        marker.watch_for_more();
        self.condemn(marker, &tally, &decision.condemn);
        let dead: Vec<PackId> = decision.remove.iter().chain(&decision.condemn).copied().collect();
        self.sweep(marker, &dead, Removal::Unneeded, watch, report)?;
        let Decision { repack, .. } = decision;
        let copied = self.repack(marker, &repack, limits, watch, report)?;
        let packs: Vec<PackId> = copied.iter().map(|(pack, _)| *pack).collect();
        self.condemn(marker, &tally, &packs);
        let copied = self.only_copied(&copied)?;
        self.sweep(marker, &copied, Removal::Repacked, watch, report)?;
        report.waiting = self.index.condemned_len();
        Ok(())
    }

    /// Nothing is done to a pack that holds what is needed and lies in a hurt pack as far as the
    /// index knows: it remembers one place of a blob, and this may be the whole one.
    fn keep_whole_copies(
        &self,
        marker: &Marker<'_>,
        decision: &mut Decision,
    ) -> Result<(), CollectError> {
        let hurt: Vec<PackId> = self.hurt_packs().into_iter().collect();
        if hurt.is_empty() {
            return Ok(());
        }
        let needed: HashSet<ChunkId> = marker.live_in(&hurt)?.iter().map(|live| live.id).collect();
        let is_no_copy = |pack: &PackId| {
            let footer = self.reader(*pack).map(|file| read_footer(&*file, self.config.repo));
            needed.is_empty()
                || hurt.contains(pack)
                || matches!(footer, Ok(Ok((_, entries)))
                    if !entries.iter().any(|entry| needed.contains(&entry.id)))
        };
        for packs in [&mut decision.remove, &mut decision.condemn, &mut decision.repack] {
            packs.retain(is_no_copy);
        }
        Ok(())
    }

    fn condemn(&self, marker: &Marker<'_>, tally: &Tally, packs: &[PackId]) {
        if !packs.is_empty() {
            let seen = marker.seen();
            self.index.condemn(&Sentence { packs, unneeded: &tally.unneeded, seen });
        }
    }

    /// Lets the index forget what is gone, and the disk remember no more of it than it must.
    fn settle_collection(&self) -> Result<(), CollectError> {
        if !self.flushing.swap(true, Ordering::SeqCst) {
            let forgotten = self.with_reserve(|| self.index.forget_gone());
            release(&self.flushing);
            forgotten.map_err(super::RepoError::from)?;
            self.with_reserve(|| self.write_removals()).map_err(super::RepoError::from)?;
        }
        self.make_reserve();
        Ok(())
    }
}
