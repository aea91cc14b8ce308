//! Orders of the coordinator to let go of points on media, obeyed as far as this site's own floor
//! allows: for each set of media a journal of its own, with the same rules as the secondary snap.
//! A point that is let go stays on its cartridge until that is written anew, which is decided by
//! what cartridges say of themselves. Refuses to let a point go of which it is not known since
//! when it is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use strongroom_node::home::Floor;
use strongroom_protocol::control::{ExpireAnswer, ExpireOrder, ExpireOutcome};
use strongroom_protocol::opening::Refusal;
use strongroom_protocol::{Chain, Clock, JobId, MediaSetName, PointId, Timestamp, WorkloadId};

use super::floor::Ruling;
use super::journal::{Journal, JournalError, What};
use super::{locked, told, unavailable};

/// The folder of the journals in the proxy's directory.
pub(crate) const FOLDER: &str = "media-expiry";

/// What is to be let go on one set.
pub(crate) struct Release<'o> {
    pub(crate) job: JobId,
    pub(crate) set: &'o MediaSetName,
    pub(crate) points: &'o [PointId],
    pub(crate) order: ExpireOrder,
    /// Points on cartridges that are not here.
    pub(crate) away: &'o BTreeSet<PointId>,
}

/// Guards what is on media.
pub(crate) struct MediaKeeper {
    folder: PathBuf,
    floor: Floor,
    clock: Arc<dyn Clock>,
    sets: Mutex<BTreeMap<MediaSetName, Journal>>,
    /// The last order that asked for more than the floor allows, since this node runs.
    excess: Mutex<Option<String>>,
}

impl MediaKeeper {
    /// Opens the journals of all sets.
    ///
    /// # Errors
    /// One of them, or their folder, cannot be read.
    pub(crate) fn open(
        folder: &Path,
        floor: Floor,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, JournalError> {
        let failed = |source: io::Error| JournalError { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(failed)?;
        let mut sets = BTreeMap::new();
        for entry in fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let set = name.and_then(|name| name.strip_suffix(".log"));
            if let Some(set) = set.and_then(|set| set.parse::<MediaSetName>().ok()) {
                let mut journal = Journal::open(&path, &floor, clock.now())?;
                journal.look(clock.now());
                let here = journal.holding.points.keys().copied().collect();
                journal.compact(&here, &floor);
                sets.insert(set, journal);
            }
        }
        let (folder, sets) = (folder.to_owned(), Mutex::new(sets));
        Ok(Self { folder, floor, clock, sets, excess: Mutex::default() })
    }

    fn with<T>(
        &self,
        set: &MediaSetName,
        act: impl FnOnce(&mut Journal) -> Result<T, JournalError>,
    ) -> Result<T, Refusal> {
        let mut sets = locked(&self.sets);
        let now = self.clock.now();
        if !sets.contains_key(set) {
            let path = self.folder.join(format!("{set}.log"));
            let journal = Journal::open(&path, &self.floor, now);
            sets.insert(set.clone(), journal.map_err(|error| unavailable(&error))?);
        }
        let Some(journal) = sets.get_mut(set) else {
            return Err(unavailable(&io::Error::other("a journal is gone")));
        };
        journal.look(now);
        act(journal).map_err(|error| unavailable(&error))
    }

    /// Notes points that are on a set, if they are not known. Blocking.
    ///
    /// # Errors
    /// It cannot be put on disk.
    pub(crate) fn arrived(
        &self,
        set: &MediaSetName,
        points: impl Iterator<Item = (PointId, WorkloadId, Timestamp)>,
    ) -> Result<(), Refusal> {
        self.with(set, |journal| {
            for (point, workload, moment) in points {
                let known = journal.holding.points.contains_key(&point);
                if !known && !journal.released.contains(&point) {
                    journal.append(What::Arrived { point, workload, moment }, &self.floor)?;
                }
            }
            Ok(())
        })
    }

    /// A point was read whole from a set. Blocking.
    pub(crate) fn proven(&self, set: &MediaSetName, point: PointId) {
        let noted = self.with(set, |journal| {
            match journal.holding.points.get(&point).is_some_and(|held| !held.proven) {
                true => journal.append(What::Proven { point }, &self.floor),
                false => Ok(()),
            }
        });
        if let Err(refusal) = noted {
            tracing::error!(%point, %set, %refusal, "its proof was not noted");
        }
    }

    /// Points are to be on a set, also where they were let go before. Blocking.
    ///
    /// # Errors
    /// It cannot be put on disk.
    pub(crate) fn wanted(&self, set: &MediaSetName, points: &[PointId]) -> Result<(), Refusal> {
        self.with(set, |journal| {
            for point in points {
                if journal.released.contains(point) {
                    journal.append(What::Wanted { point: *point }, &self.floor)?;
                }
            }
            Ok(())
        })
    }

    /// The points of a set that nothing keeps there.
    pub(crate) fn released(&self, set: &MediaSetName) -> BTreeSet<PointId> {
        let sets = locked(&self.sets);
        sets.get(set).map(|journal| journal.released.clone()).unwrap_or_default()
    }

    /// Whether a look at the media is needed before these can be let go.
    pub(crate) fn is_unknown(&self, set: &MediaSetName, points: &[PointId]) -> bool {
        let sets = locked(&self.sets);
        let journal = sets.get(set);
        points.iter().any(|point| {
            journal.is_none_or(|journal| {
                !journal.released.contains(point) && !journal.holding.points.contains_key(point)
            })
        })
    }

    /// Carries an order out as far as the floor allows. Blocking.
    ///
    /// # Errors
    /// The order cannot be put on disk; nothing more was let go.
    pub(crate) fn obey(&self, release: &Release<'_>) -> Result<Vec<ExpireAnswer>, Refusal> {
        let Release { job, set, points, order, .. } = *release;
        self.with(set, |journal| {
            let counted = journal.counted;
            journal.holding.trim(counted);
            let mut answers = Vec::with_capacity(points.len());
            for point in points {
                let outcome = self.decide(journal, release, *point)?;
                answers.push(ExpireAnswer { point: *point, outcome });
            }
            let told = answers.iter().map(|answer| (answer.point, told(&answer.outcome)));
            let line = What::Order { job, order, answers: told.collect() };
            journal.append(line, &self.floor)?;
            Ok(answers)
        })
    }

    fn decide(
        &self,
        journal: &mut Journal,
        release: &Release<'_>,
        point: PointId,
    ) -> Result<ExpireOutcome, JournalError> {
        let stays = |why: &str| Ok(ExpireOutcome::Stays { why: why.to_owned(), until: None });
        if journal.released.contains(&point) {
            return Ok(ExpireOutcome::Gone);
        }
        if !journal.holding.points.contains_key(&point) {
            return match release.away.contains(&point) {
                true => stays("the cartridge that holds it is not in the library"),
                // Nothing that is known here holds it.
                false => Ok(ExpireOutcome::Gone),
            };
        }
        if release.points.len() > self.floor.points_an_order_max as usize {
            let most = self.floor.points_an_order_max;
            let why = format!("an order may not name more than {most} points");
            self.exceeded(release.set, point, &why);
            return stays(&why);
        }
        match (journal.holding.rule(point, &self.floor, journal.counted), release.order) {
            (Ruling::Stays { why, until }, _) => Ok(ExpireOutcome::Stays { why, until }),
            (Ruling::Excess { why, until }, _) => {
                self.exceeded(release.set, point, &why);
                Ok(ExpireOutcome::Stays { why, until })
            }
            (Ruling::May, ExpireOrder::Announce) => Ok(ExpireOutcome::Ready),
            (Ruling::May, ExpireOrder::Remove) => {
                journal.append(What::Released { point }, &self.floor)?;
                tracing::info!(%point, set = %release.set, "let go on media by order");
                Ok(ExpireOutcome::Gone)
            }
        }
    }

    fn exceeded(&self, set: &MediaSetName, point: PointId, why: &str) {
        tracing::warn!(%point, %set, %why, "an order to let go of more than allowed was refused");
        let text = format!(
            "the coordinator ordered more points of media set {set} away than this site allows; \
             the last was {point} at {}: {why}",
            self.clock.now()
        );
        *locked(&self.excess) = Some(text);
    }

    /// What a person at this site must look at.
    pub(crate) fn alarm(&self) -> Option<String> {
        locked(&self.excess).clone()
    }

    /// Counts this node's time.
    pub(super) fn look(&self) {
        for (set, journal) in &mut *locked(&self.sets) {
            journal.look(self.clock.now());
            if let Err(error) = journal.append(What::Looked, &self.floor) {
                tracing::error!(%set, error = %Chain(&error), "this node's time is not kept");
            }
            journal.make_reserve();
        }
    }

    /// Counts this node's time until `stop`.
    pub(crate) async fn count(self: Arc<Self>, stop: tokio_util::sync::CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(super::LOOK)).await.is_some() {
            let keeper = Arc::clone(&self);
            if tokio::task::spawn_blocking(move || keeper.look()).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
