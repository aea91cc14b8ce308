//! What became of a copy goes into the ledger: there with its proof, or owed still with the
//! time of the next attempt.

use strongroom_protocol::control::Progress;
use strongroom_protocol::{Chain, JobId, PointId};

use super::again::{Again, RETRY_SECONDS_MAX, attempts, pause_seconds};
use super::aging::look_proof;
use super::{Copies, CopyTask, Doing};
use crate::catalog::{CatalogError, CopyEvent};
use crate::policy::CopyKind;
use crate::retention::{CopyState, Proof, ProofLevel};
use crate::scrub;

impl Copies {
    pub(super) fn end(
        &mut self,
        job: JobId,
        outcome: &Result<String, String>,
        progress: Progress,
        again: Again,
    ) {
        let now = self.site.now();
        self.busy.retain(|_, busy| *busy != job);
        let mut tasks = self.site.copy_tasks();
        let Some(task) = tasks.iter_mut().find(|task| task.job == job && task.ended.is_none())
        else {
            return;
        };
        task.ended = Some(now);
        task.outcome = Some(outcome.clone());
        let task = task.clone();
        drop(tasks);
        let lost = self.lost.remove(&job).unwrap_or_default();
        for point in &task.points {
            let why = lost.iter().find(|(of, _)| of == point).map(|(_, why)| why.as_str());
            let booked = match (why, task.doing) {
                (None, Doing::Look) => self.book_look(&task, *point, outcome),
                (Some(why), Doing::Look) => scrub::lose(&self.site, *point, &task.copy, why),
                (why, _) => {
                    let booked = self.book(&task, *point, outcome, progress, again);
                    let lose = |why| scrub::lose(&self.site, *point, &task.copy, why);
                    booked.and_then(|()| why.map_or(Ok(()), lose))
                }
            };
            if let Err(error) = booked {
                tracing::error!(%point, error = %Chain(&error), "a copy was not booked");
            }
        }
        self.reconsider();
    }

    /// A copy that was looked at and is there: what that is worth renews a proof that is worth
    /// no more. A look that failed is made again.
    fn book_look(
        &mut self,
        task: &CopyTask,
        point: PointId,
        outcome: &Result<String, String>,
    ) -> Result<(), CatalogError> {
        if outcome.is_err() {
            self.looked.remove(&(point, task.copy.clone()));
            return Ok(());
        }
        let Some(level) = self.kind_of(task).as_ref().map(look_proof) else { return Ok(()) };
        let (catalog, now) = (&self.site.catalog, self.site.now());
        let rows = catalog.ledger_of(point)?;
        let row = rows.iter().find(|row| row.copy == task.copy);
        let is_renewed = row.is_some_and(|row| {
            row.state == CopyState::Present && row.proof.is_none_or(|proof| proof.level <= level)
        });
        if is_renewed {
            let proven = CopyEvent::Proven(Proof { level, at: now });
            catalog.record_copy(point, &task.copy, &proven, now)?;
        }
        Ok(())
    }

    /// Writes what became of one point's copy into the ledger.
    fn book(
        &mut self,
        task: &CopyTask,
        point: PointId,
        outcome: &Result<String, String>,
        progress: Progress,
        again: Again,
    ) -> Result<(), CatalogError> {
        let now = self.site.now();
        let subject = format!("{} of point {point}", task.copy);
        let catalog = &self.site.catalog;
        let proven = |level| CopyEvent::Proven(Proof { level, at: now });
        match (outcome, task.doing) {
            (Ok(_), Doing::Prove) => {
                let level = match self.kind_of(task) {
                    Some(CopyKind::Aux { .. }) => ProofLevel::HashVerified,
                    _ => ProofLevel::Readable,
                };
                self.site.all_clear(&subject);
                catalog.record_copy(point, &task.copy, &proven(level), now)?;
            }
            (Ok(_), doing) => {
                let arrived = CopyEvent::Arrived {
                    bytes_sent: progress.bytes_sent,
                    bytes_stored: progress.bytes_sent,
                    seconds: u64::try_from(now.seconds_since(task.began)).unwrap_or_default(),
                };
                catalog.record_copy(point, &task.copy, &arrived, now)?;
                // What was doubted of it was doubted of what it replaced.
                self.doubtful.remove(&(point, task.copy.clone()));
                let level = match doing {
                    Doing::Replicate => ProofLevel::HashVerified,
                    _ => ProofLevel::Written,
                };
                catalog.record_copy(point, &task.copy, &proven(level), now)?;
                self.site.all_clear(&subject);
            }
            (Err(why), Doing::Prove) => {
                let until = now.plus_seconds(RETRY_SECONDS_MAX);
                self.doubtful.insert((point, task.copy.clone()), until);
                let text = format!("copy {subject} could not be proven: {why}");
                self.site.record("coordinator", "prove.failed", &subject, why);
                self.site.alarm(&subject, text);
            }
            (Err(why), _) => {
                let attempts = attempts(&catalog.ledger_of(point)?, &task.copy);
                let next_attempt = now.plus_seconds(pause_seconds(attempts, again));
                let failed = CopyEvent::Failed { error: why.clone(), next_attempt };
                catalog.record_copy(point, &task.copy, &failed, now)?;
            }
        }
        Ok(())
    }

    fn kind_of(&self, task: &CopyTask) -> Option<CopyKind> {
        let in_force = self.site.in_force();
        let policy = in_force.declared.policy_of(&task.workload)?;
        policy.copies.get(&task.copy).map(|copy| copy.kind.clone())
    }
}
