//! Makes the copies the policy owes: wanted minus present, looked at again and again. Nothing
//! is unwound: a copy that did not come is still owed. Each copy that arrived is proven; the
//! newest of each workload as far as can be.

mod again;
mod aging;
mod book;

use std::collections::BTreeMap;
use std::sync::Arc;

use strongroom_protocol::control::{Ending, Progress, Work};
use strongroom_protocol::{
    Chain, CopyName, Generation, JobId, NodeName, PointId, Timestamp, WorkloadName,
};

use self::again::{Again, RETRY_SECONDS_MAX};
use crate::catalog::{CopyEvent, Debt};
use crate::expire::{self, POINTS_A_PASS_MAX};
use crate::policy::{Copy, CopyKind, Declared};
use crate::retention::CopyState;
use crate::schedule::{open_at, rate_at};
use crate::site::Site;

/// Points put on media in one session.
const POINTS_A_SESSION: usize = 64;
/// Verdicts are renewed at least this often, because some reasons end by themselves.
const SETTLE_SECONDS: i64 = 60;

/// With nothing new, debts are looked at this often: windows open and pauses end.
const LOOK_SECONDS: i64 = 2;

/// What a copy task does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doing {
    Aux,
    Drill,
    Expire,
    Look,
    Prove,
    Replicate,
}

impl Doing {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Aux => "aux-copy",
            Self::Drill => "drill",
            Self::Expire => "expire",
            Self::Look => "look",
            Self::Prove => "prove",
            Self::Replicate => "replicate",
        }
    }
}

/// One copy under way, or lately ended.
#[derive(Debug, Clone)]
pub(crate) struct CopyTask {
    pub(crate) job: JobId,
    pub(crate) doing: Doing,
    pub(crate) copy: CopyName,
    pub(crate) workload: WorkloadName,
    pub(crate) node: NodeName,
    pub(crate) points: Vec<PointId>,
    pub(crate) began: Timestamp,
    pub(crate) ended: Option<Timestamp>,
    /// How it ended: a sentence, and whether it is done.
    pub(crate) outcome: Option<Result<String, String>>,
}

/// The reconciler.
pub(crate) struct Copies {
    site: Arc<Site>,
    /// One task a node and copy: they would only be in each other's way.
    busy: BTreeMap<(NodeName, CopyName), JobId>,
    settle_at: Option<Timestamp>,
    /// What is owed is looked at again then.
    look_at: Option<Timestamp>,
    /// Proofs that failed, not tried again before then.
    doubtful: BTreeMap<(PointId, CopyName), Timestamp>,
    /// Points that a task under way found lost, and why.
    lost: BTreeMap<JobId, Vec<(PointId, String)>>,
    /// When each copy was last looked at, by this run.
    looked: BTreeMap<(PointId, CopyName), Timestamp>,
    /// Where a look failed: not again before then.
    unlooked: BTreeMap<(NodeName, CopyName), Timestamp>,
}

impl Copies {
    pub(crate) const fn new(site: Arc<Site>) -> Self {
        Self {
            site,
            busy: BTreeMap::new(),
            settle_at: None,
            look_at: None,
            doubtful: BTreeMap::new(),
            lost: BTreeMap::new(),
            looked: BTreeMap::new(),
            unlooked: BTreeMap::new(),
        }
    }

    /// Work that an earlier run ordered is owed again.
    pub(crate) fn take_up(&self) {
        if let Err(error) = self.site.catalog.reset_working(self.site.now()) {
            tracing::error!(error = %Chain(&error), "copies cannot be taken up");
        }
    }

    /// Something changed: judge anew at the next tick.
    pub(crate) const fn reconsider(&mut self) {
        self.settle_at = None;
        self.look_at = None;
    }

    /// A node is here: what it does not work on any more is owed again.
    pub(crate) fn came(&mut self, node: &NodeName, live: &[(JobId, Generation)]) {
        let lost: Vec<JobId> = self
            .busy
            .iter()
            .filter(|((at, _), job)| at == node && !live.iter().any(|(of, _)| of == *job))
            .map(|(_, job)| *job)
            .collect();
        self.look_again(node);
        for job in lost {
            let lost = Err("the node came back without it".to_owned());
            self.end(job, &lost, Progress::default(), Again::AtOnce);
        }
    }

    /// A copy task ended at its node.
    pub(crate) fn ended(&mut self, node: &NodeName, job: JobId, ending: &Ending) {
        if !self.is_live(node, job) {
            return;
        }
        let (outcome, progress) = match ending {
            Ending::Done { progress, text } => (Ok(text.clone()), *progress),
            Ending::Failed { refusal, .. } => {
                self.note_unlooked(job);
                self.note_lost(job, refusal);
                (Err(refusal.to_string()), Progress::default())
            }
            Ending::Cancelled => (Err("cancelled".to_owned()), Progress::default()),
        };
        self.site.note_progress(job, progress);
        self.end(job, &outcome, progress, Again::Later);
    }

    /// How far a copy task is.
    pub(crate) fn progress(&self, node: &NodeName, job: JobId, progress: Progress) {
        if self.is_live(node, job) {
            self.site.note_progress(job, progress);
        }
    }

    fn is_live(&self, node: &NodeName, job: JobId) -> bool {
        self.busy.iter().any(|((at, _), busy)| at == node && *busy == job)
    }

    /// Judges when due, then orders what can be done now.
    pub(crate) fn tick(&mut self, now: Timestamp) {
        if self.look_at.is_some_and(|at| at > now && at <= now.plus_seconds(LOOK_SECONDS)) {
            return;
        }
        self.look_at = Some(now.plus_seconds(LOOK_SECONDS));
        if let Err(error) = self.reconcile(now) {
            tracing::error!(error = %Chain(&error), "the ledger cannot be settled");
        }
    }

    fn reconcile(&mut self, now: Timestamp) -> Result<(), crate::catalog::CatalogError> {
        let in_force = self.site.in_force();
        let settle = self.settle_at.is_none_or(|at| at <= now || at > now.plus_seconds(3600));
        if settle {
            let pass = expire::pass(&self.site, "coordinator", now, POINTS_A_PASS_MAX)?;
            let rest = if pass.more { 0 } else { SETTLE_SECONDS };
            self.settle_at = Some(now.plus_seconds(rest));
        }
        let mut debts = self.site.catalog.debts(None)?;
        // A pause longer than the longest means that the clock went back since: it is over.
        let longest = now.plus_seconds(RETRY_SECONDS_MAX);
        debts.retain(|debt| debt.row.next_attempt.is_none_or(|at| at <= now || at > longest));
        let mut sessions: BTreeMap<(NodeName, CopyName), Vec<&Debt>> = BTreeMap::new();
        for debt in &debts {
            let Some(copy) = copy_of(&in_force.declared, debt) else { continue };
            let place = (copy.node.clone(), copy.name.clone());
            if !self.busy.contains_key(&place)
                && self.may_begin(&in_force.declared, debt, copy, now)?
            {
                sessions.entry(place).or_default().push(debt);
            }
        }
        for debts in sessions.values() {
            if let Some(copy) = debts.first().and_then(|debt| copy_of(&in_force.declared, debt)) {
                self.order(&in_force.declared, debts, copy, now)?;
            }
        }
        self.prove(&in_force.declared, now)?;
        self.look(&in_force.declared, now)
    }

    /// Whether the copy's source is there and proven enough, its window open, its node here.
    fn may_begin(
        &self,
        declared: &Declared,
        debt: &Debt,
        copy: &Copy,
        now: Timestamp,
    ) -> Result<bool, crate::catalog::CatalogError> {
        let zone = declared.policy_of(&debt.workload).map(|policy| &policy.timezone);
        let open =
            copy.window.is_empty() || zone.is_some_and(|zone| open_at(&copy.window, zone, now));
        if !open || self.site.sessions.proxy(&copy.node).is_none() {
            return Ok(false);
        }
        let rows = self.site.catalog.ledger_of(debt.row.point)?;
        let source = rows.iter().find(|row| row.copy == copy.from);
        Ok(source.is_some_and(|source| {
            source.state == CopyState::Present
                && source.proven().is_some_and(|proof| proof.level >= copy.min_proof)
        }))
    }

    fn order(
        &mut self,
        declared: &Declared,
        debts: &[&Debt],
        copy: &Copy,
        now: Timestamp,
    ) -> Result<(), crate::catalog::CatalogError> {
        let Some(first) = debts.first() else { return Ok(()) };
        let (doing, points, work) = match &copy.kind {
            CopyKind::SecondarySnap => {
                let point = first.row.point;
                let zone = declared.policy_of(&first.workload).map(|policy| &policy.timezone);
                let rate = zone.and_then(|zone| rate_at(&copy.throttle, zone, now));
                let work = Work::Replicate { point, bits_per_second_max: rate };
                (Doing::Replicate, vec![point], work)
            }
            CopyKind::Aux { media_set } => {
                // What failed before is tried alone, so that it holds up nothing else.
                let fresh = debts.iter().filter(|debt| debt.row.attempts == 0);
                let mut points: Vec<PointId> =
                    fresh.take(POINTS_A_SESSION).map(|debt| debt.row.point).collect();
                if points.is_empty() {
                    points.push(first.row.point);
                }
                let (name, set) = (copy.name.clone(), media_set.clone());
                let work = Work::Aux { copy: name, set, points: points.clone() };
                (Doing::Aux, points, work)
            }
        };
        let task = self.task(doing, copy, &first.workload, points, now);
        self.say(task, work, now)
    }

    fn task(
        &self,
        doing: Doing,
        copy: &Copy,
        workload: &WorkloadName,
        points: Vec<PointId>,
        now: Timestamp,
    ) -> CopyTask {
        CopyTask {
            job: JobId::fresh(now.unix_ms()),
            doing,
            copy: copy.name.clone(),
            workload: workload.clone(),
            node: copy.node.clone(),
            points,
            began: now,
            ended: None,
            outcome: None,
        }
    }

    fn say(
        &mut self,
        task: CopyTask,
        work: Work,
        now: Timestamp,
    ) -> Result<(), crate::catalog::CatalogError> {
        let job = task.job;
        if matches!(task.doing, Doing::Aux | Doing::Replicate) {
            for point in &task.points {
                self.site.catalog.record_copy(*point, &task.copy, &CopyEvent::Began, now)?;
            }
        }
        self.busy.insert((task.node.clone(), task.copy.clone()), job);
        let ordered = self.site.sessions.order_proxy(&task.node, job, work);
        self.site.note_task(task);
        if let Err(why) = ordered {
            self.end(job, &Err(why), Progress::default(), Again::Later);
        }
        Ok(())
    }
}

fn copy_of<'d>(declared: &'d Declared, debt: &Debt) -> Option<&'d Copy> {
    declared.policy_of(&debt.workload)?.copies.get(&debt.row.copy)
}
