//! What became of a copy goes into the ledger: there with its proof, or owed still with the
//! time of the next attempt.

use strongroom_protocol::control::Progress;
use strongroom_protocol::{Chain, JobId, PointId};

use super::again::{Again, RETRY_SECONDS_MAX, attempts, pause_seconds};
use super::{Copies, CopyTask, Doing};
use crate::catalog::{CatalogError, CopyEvent};
use crate::policy::CopyKind;
use crate::retention::{Proof, ProofLevel};

impl Copies {
    pub(super) fn end(
        &mut self,
        job: JobId,
        outcome: &Result<String, String>,
        progress: Progress,
        again: Again,
    ) {
        let now = self.site.now();
        let mut tasks = self.site.copy_tasks();
        let Some(task) = tasks.iter_mut().find(|task| task.job == job && task.ended.is_none())
        else {
            return;
        };
        task.ended = Some(now);
        task.outcome = Some(outcome.clone());
        let task = task.clone();
        drop(tasks);
        self.busy.retain(|_, busy| *busy != job);
        for point in &task.points {
            if let Err(error) = self.book(&task, *point, outcome, progress, again) {
                tracing::error!(%point, error = %Chain(&error), "a copy was not booked");
            }
        }
        self.reconsider();
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
