//! Orders of the coordinator to remove points from the secondary snap, obeyed as far as this
//! site's own floor allows. Nothing else removes a point here. Every order, obeyed or not, is in
//! this site's journal, and a removal is there before it happens.

mod compact;
mod floor;
mod journal;
mod media;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use strongroom_node::home::Floor;
use strongroom_protocol::control::{ExpireAnswer, ExpireOrder, ExpireOutcome};
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Chain, Clock, JobId, PointId, WorkloadId};
use strongroom_store::manifest::Manifest;
use strongroom_store::repo::Repo;
use tokio_util::sync::CancellationToken;

use self::floor::Ruling;
use self::journal::{Journal, What};

pub use self::journal::JournalError;
pub(crate) use self::media::{FOLDER as MEDIA_FOLDER, MediaKeeper, Release};

/// The journal's file in the proxy's directory.
pub const JOURNAL_FILE: &str = "expiry.log";
/// The clock is looked at this often: well within the most that a look counts.
const LOOK: Duration = Duration::from_secs(600);

/// Guards what is here.
pub(crate) struct Keeper {
    floor: Floor,
    clock: Arc<dyn Clock>,
    repo: Repo,
    journal: Mutex<Journal>,
    /// Orders that asked for more than the floor allows since this node runs.
    excess: Mutex<Option<String>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unavailable(error: &dyn std::error::Error) -> Refusal {
    Refusal::new(RefusalKind::Unavailable, Chain(error).to_string())
}

impl Keeper {
    /// Opens the journal. Points it does not know of are here since now.
    ///
    /// # Errors
    /// The journal or the repository cannot be read.
    pub(crate) fn open(
        path: &Path,
        floor: Floor,
        repo: Repo,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, JournalError> {
        let journal = Journal::open(path, &floor, clock.now())?;
        let (journal, excess) = (Mutex::new(journal), Mutex::default());
        let keeper = Self { floor, clock, repo, journal, excess };
        let failed = |error: strongroom_store::repo::RepoError| JournalError {
            path: path.to_owned(),
            source: std::io::Error::other(Chain(&error).to_string()),
        };
        let here = keeper.here().map_err(failed)?;
        let mut journal = locked(&keeper.journal);
        journal.look(keeper.clock.now());
        for (point, workload) in &here {
            keeper.arrive(&mut journal, *point, *workload)?;
        }
        journal.holding.points.retain(|point, _| here.contains_key(point));
        journal.compact(&here.into_keys().collect(), &keeper.floor);
        drop(journal);
        Ok(keeper)
    }

    fn here(&self) -> Result<BTreeMap<PointId, WorkloadId>, strongroom_store::repo::RepoError> {
        let points = self.repo.points()?;
        Ok(points.into_iter().map(|(workload, point)| (point, workload)).collect())
    }

    /// Notes a point that is here, if it is not known. One whose manifest cannot be read is not
    /// noted, and stays.
    fn arrive(
        &self,
        journal: &mut Journal,
        point: PointId,
        workload: WorkloadId,
    ) -> Result<(), JournalError> {
        if journal.holding.points.contains_key(&point) {
            return Ok(());
        }
        let head = self.repo.manifest_bytes(workload, point).ok();
        let Some(head) = head.and_then(|bytes| Manifest::decode_head(&bytes).ok()) else {
            tracing::warn!(%point, "its manifest cannot be read: no order removes it");
            return Ok(());
        };
        journal.append(What::Arrived { point, workload, moment: head.moment }, &self.floor)
    }

    /// A point came. Blocking.
    pub(crate) fn arrived(&self, point: PointId) {
        let mut journal = locked(&self.journal);
        journal.look(self.clock.now());
        let noted = match self.here() {
            Ok(here) => match here.get(&point) {
                Some(workload) => self.arrive(&mut journal, point, *workload),
                None => Ok(()),
            },
            // It is noted at the next order, and is younger then.
            Err(_) => Ok(()),
        };
        if let Err(error) = noted {
            tracing::error!(%point, error = %Chain(&error), "its arrival was not noted");
        }
    }

    /// A point was read whole. Blocking.
    pub(crate) fn proven(&self, point: PointId) {
        let mut journal = locked(&self.journal);
        journal.look(self.clock.now());
        let known = journal.holding.points.get(&point).is_some_and(|held| held.proven);
        if !known && let Err(error) = journal.append(What::Proven { point }, &self.floor) {
            tracing::error!(%point, error = %Chain(&error), "its proof was not noted");
        }
    }

    /// Carries an order out as far as the floor allows. Blocking.
    ///
    /// # Errors
    /// The order cannot be put on disk; nothing more was removed.
    pub(crate) fn obey(
        &self,
        job: JobId,
        points: &[PointId],
        order: ExpireOrder,
    ) -> Result<Vec<ExpireAnswer>, Refusal> {
        let mut journal = locked(&self.journal);
        journal.look(self.clock.now());
        let counted = journal.counted;
        journal.holding.trim(counted);
        let here = self.here().map_err(|error| unavailable(&error))?;
        let mut answers = Vec::with_capacity(points.len());
        for point in points {
            let outcome = match here.get(point) {
                None => ExpireOutcome::Gone,
                Some(_) if points.len() > self.floor.points_an_order_max as usize => {
                    let most = self.floor.points_an_order_max;
                    let why = format!("an order may not name more than {most} points");
                    self.exceeded(*point, &why);
                    ExpireOutcome::Stays { why, until: None }
                }
                Some(workload) => {
                    let noted = self.arrive(&mut journal, *point, *workload);
                    noted.map_err(|error| unavailable(&error))?;
                    self.decide(&mut journal, *point, *workload, order)?
                }
            };
            answers.push(ExpireAnswer { point: *point, outcome });
        }
        let told = answers.iter().map(|answer| (answer.point, told(&answer.outcome))).collect();
        let line = What::Order { job, order, answers: told };
        journal.append(line, &self.floor).map_err(|error| unavailable(&error))?;
        Ok(answers)
    }

    fn decide(
        &self,
        journal: &mut Journal,
        point: PointId,
        workload: WorkloadId,
        order: ExpireOrder,
    ) -> Result<ExpireOutcome, Refusal> {
        match (journal.holding.rule(point, &self.floor, journal.counted), order) {
            (Ruling::Stays { why, until }, _) => Ok(ExpireOutcome::Stays { why, until }),
            (Ruling::Excess { why, until }, _) => {
                self.exceeded(point, &why);
                Ok(ExpireOutcome::Stays { why, until })
            }
            (Ruling::May, ExpireOrder::Announce) => Ok(ExpireOutcome::Ready),
            (Ruling::May, ExpireOrder::Remove) => {
                let line = What::Removing { point };
                journal.append(line, &self.floor).map_err(|error| unavailable(&error))?;
                match self.repo.remove_point(workload, point) {
                    Ok(()) => {
                        journal.holding.points.remove(&point);
                        tracing::info!(%point, "removed by order of the coordinator");
                        Ok(ExpireOutcome::Gone)
                    }
                    Err(error) => {
                        let why = Chain(&error).to_string();
                        Ok(ExpireOutcome::Stays { why, until: None })
                    }
                }
            }
        }
    }

    /// An order that goes beyond the bounds is for people to look at.
    fn exceeded(&self, point: PointId, why: &str) {
        tracing::warn!(%point, %why, "an order to remove more than this site allows was refused");
        let text = format!(
            "the coordinator ordered more points away than this site allows; the last was {point} \
             at {}: {why}",
            self.clock.now()
        );
        *locked(&self.excess) = Some(text);
    }

    /// What a person at this site must look at.
    pub(crate) fn alarm(&self) -> Option<String> {
        locked(&self.excess).clone()
    }

    /// Counts this node's time until `stop`.
    pub(crate) async fn count(self: Arc<Self>, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
            let keeper = Arc::clone(&self);
            let looked = tokio::task::spawn_blocking(move || keeper.look()).await;
            if let Ok(Err(error)) = looked {
                tracing::error!(error = %Chain(&error), "this node's time is not kept");
            }
        }
    }

    fn look(&self) -> Result<(), JournalError> {
        let mut journal = locked(&self.journal);
        journal.look(self.clock.now());
        journal.append(What::Looked, &self.floor)?;
        journal.make_reserve();
        Ok(())
    }
}

fn told(outcome: &ExpireOutcome) -> String {
    match outcome {
        ExpireOutcome::Gone => "gone".to_owned(),
        ExpireOutcome::Ready => "would go".to_owned(),
        ExpireOutcome::Stays { why, until: None } => format!("stays: {why}"),
        ExpireOutcome::Stays { why, until: Some(until) } => format!("stays until {until}: {why}"),
    }
}

#[cfg(test)]
mod tests;
