//! What the parts of a running coordinator share: the repository, the catalog, the audit log,
//! who is connected, the policy in force. Holds state; decides nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use strongroom_certs::TokenBook;
use strongroom_node::collector::Collector;
use strongroom_node::guard::Guard;
use strongroom_node::home::Home;
use strongroom_node::lead::LeadBook;
use strongroom_node::persons::Persons;
use strongroom_node::reserve::Reserve;
use strongroom_node::scrubber::Scrubber;
use strongroom_protocol::control::Progress;
use strongroom_protocol::{Chain, JobId, SiteName, Timestamp};
use strongroom_store::repo::Repo;

use crate::catalog::Catalog;
use crate::copies::CopyTask;
use crate::policy::Declared;
use crate::scrub::Expected;
use crate::sessions::Sessions;
use strongroom_node::audit::{AuditError, AuditLog, Entry};

/// Ended copies remembered for the tables.
const TASKS_KEPT: usize = 500;
/// Jobs whose last progress is remembered.
const PROGRESS_KEPT_MAX: usize = 2000;

/// The policy in force.
#[derive(Debug, Default)]
pub(crate) struct InForce {
    /// 0 before the first was applied.
    pub(crate) version: u64,
    pub(crate) declared: Declared,
}

/// A running coordinator's state.
pub(crate) struct Site {
    pub(crate) home: Home,
    pub(crate) guard: Arc<Guard>,
    pub(crate) repo: Repo,
    pub(crate) catalog: Catalog,
    pub(crate) audit: AuditLog,
    pub(crate) book: Arc<TokenBook>,
    pub(crate) sessions: Sessions,
    pub(crate) collector: Arc<Collector>,
    pub(crate) reserve: Reserve,
    pub(crate) scrubber: Scrubber,
    /// Streams by which proxies are to bring back what is hurt here.
    pub(crate) expected: Expected,
    pub(crate) lead: Arc<LeadBook>,
    pub(crate) persons: Persons,
    /// The site in whose place this one leads, where it does not lead by itself.
    pub(crate) in_place_of: Option<SiteName>,
    reseeding: Mutex<Option<String>>,
    in_force: RwLock<Arc<InForce>>,
    progress: Mutex<BTreeMap<JobId, Progress>>,
    copy_tasks: Mutex<Vec<CopyTask>>,
    alarms: Mutex<BTreeMap<String, String>>,
    keeping: Mutex<()>,
}

/// Everything opened, before it is shared.
pub(crate) struct Parts {
    pub(crate) home: Home,
    pub(crate) guard: Arc<Guard>,
    pub(crate) repo: Repo,
    pub(crate) catalog: Catalog,
    pub(crate) audit: AuditLog,
    pub(crate) book: Arc<TokenBook>,
    pub(crate) in_force: InForce,
    pub(crate) lead: Arc<LeadBook>,
    pub(crate) in_place_of: Option<SiteName>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Site {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { home, guard, repo, catalog, audit, book, in_force, lead, in_place_of } = parts;
        let reserve = Reserve::of(home.dir());
        reserve.make();
        let collector = Arc::new(Collector::new(repo.clone(), Reserve::of(home.dir())));
        let settings = home.settings().scrub;
        let scrubber = Scrubber::new(repo.clone(), Arc::clone(guard.clock()), settings);
        Self {
            home,
            guard,
            repo,
            collector,
            reserve,
            catalog,
            audit,
            book,
            sessions: Sessions::default(),
            scrubber,
            expected: Expected::default(),
            lead,
            persons: Persons::default(),
            in_place_of,
            reseeding: Mutex::default(),
            in_force: RwLock::new(Arc::new(in_force)),
            progress: Mutex::default(),
            copy_tasks: Mutex::default(),
            alarms: Mutex::default(),
            keeping: Mutex::default(),
        }
    }

    /// This moment, by the coordinator's clock.
    pub(crate) fn now(&self) -> Timestamp {
        self.guard.clock().now()
    }

    /// The policy in force.
    pub(crate) fn in_force(&self) -> Arc<InForce> {
        Arc::clone(&self.in_force.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts a policy in force.
    pub(crate) fn enforce(&self, next: InForce) {
        *self.in_force.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
    }

    /// Records who did what; the log's head is anchored in the catalog.
    pub(crate) fn record(&self, actor: &str, action: &str, subject: &str, detail: &str) {
        // Said and shown as an alarm already.
        drop(self.try_record(actor, action, subject, detail));
    }

    /// The same for what must not be done unrecorded.
    pub(crate) fn try_record(
        &self,
        actor: &str,
        action: &str,
        subject: &str,
        detail: &str,
    ) -> Result<(), AuditError> {
        let entry = Entry {
            actor: actor.to_owned(),
            action: action.to_owned(),
            subject: subject.to_owned(),
            detail: detail.to_owned(),
        };
        if let Err(error) = self.audit.append(entry, self.now()) {
            tracing::error!(error = %Chain(&error), "the audit log cannot be written");
            self.alarm("audit", format!("the audit log cannot be written: {}", Chain(&error)));
            return Err(error);
        }
        if let Err(error) = self.catalog.anchor_audit(&self.audit.head()) {
            tracing::error!(error = %Chain(&error), "the audit log's head is not anchored");
        }
        Ok(())
    }

    /// How far a job is.
    pub(crate) fn progress_of(&self, job: JobId) -> Progress {
        locked(&self.progress).get(&job).copied().unwrap_or_default()
    }

    /// Notes how far a job is.
    pub(crate) fn note_progress(&self, job: JobId, progress: Progress) {
        locked(&self.progress).insert(job, progress);
    }

    /// A job is over: of those the newest are still asked about, the others are forgotten.
    pub(crate) fn trim_progress(&self) {
        let mut progress = locked(&self.progress);
        while progress.len() > PROGRESS_KEPT_MAX {
            progress.pop_first();
        }
    }

    /// A copy task begins; the oldest of those that ended are forgotten.
    pub(crate) fn note_task(&self, task: CopyTask) {
        let mut tasks = self.copy_tasks();
        tasks.push(task);
        let ended = tasks.iter().position(|task| task.ended.is_some());
        if let Some(ended) = ended.filter(|_| tasks.len() > TASKS_KEPT) {
            tasks.remove(ended);
        }
    }

    /// A copy task is over.
    pub(crate) fn end_task(&self, job: JobId, outcome: Result<String, String>, at: Timestamp) {
        let mut tasks = self.copy_tasks();
        if let Some(task) = tasks.iter_mut().find(|task| task.job == job) {
            (task.ended, task.outcome) = (Some(at), Some(outcome));
        }
    }

    /// Copies under way and the latest that ended, for the tables.
    pub(crate) fn copy_tasks(&self) -> MutexGuard<'_, Vec<CopyTask>> {
        locked(&self.copy_tasks)
    }

    /// How far a site that does not lead is brought up.
    pub(crate) fn note_reseeding(&self, text: String) {
        *locked(&self.reseeding) = Some(text);
    }

    /// The same, for people.
    pub(crate) fn reseeding(&self) -> Option<String> {
        locked(&self.reseeding).clone()
    }

    /// Something a person must look at; one sentence a subject, until it is cleared.
    pub(crate) fn alarm(&self, subject: &str, text: String) {
        locked(&self.alarms).insert(subject.to_owned(), text);
    }

    /// The subject is in order again.
    pub(crate) fn all_clear(&self, subject: &str) {
        locked(&self.alarms).remove(subject);
    }

    /// Held while what keeps points is changed, or points are removed by it: a hold is never
    /// answered as placed on a point that goes at the same moment.
    pub(crate) fn keeping(&self) -> MutexGuard<'_, ()> {
        locked(&self.keeping)
    }

    /// What a person must look at.
    pub(crate) fn alarms(&self) -> Vec<String> {
        locked(&self.alarms).values().cloned().collect()
    }
}
