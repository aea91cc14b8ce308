//! Drills: the newest point of a copy is recovered at its proxy, to see whether that works and how
//! long it takes. One at a proxy at a time, on the schedule of the policy or by an operator's
//! order. Each is on record before it is ordered; what it showed comes as a proof, which the proxy
//! keeps until it is on record here. Nothing a drill does changes a copy.

mod due;

use std::collections::BTreeMap;
use std::sync::Arc;

use strongroom_protocol::control::{Ending, ProofNews, Shown, ToNode, Work};
use strongroom_protocol::drill::{DrillRow, DrillWork};
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Chain, CopyName, Generation, JobId, NodeName, Timestamp, WorkloadName};

use self::due::{Due, Past, Place, drill_of, due, pasts};
use crate::catalog::{CatalogError, DrillRecord, PointRecord, Start, Verdict};
use crate::copies::{CopyTask, Doing};
use crate::policy::{Copy, CopyKind, Declared, Seconds, kind_of, level_of};
use crate::site::Site;

/// With nothing new, schedules are looked at this often.
const LOOK_SECONDS: i64 = 5;
/// The proof of a drill that the proxy is done with comes within this.
const PROOF_SECONDS_MAX: i64 = 600;
/// A drill that somebody orders by hand, where no policy says, may take so long.
const WITHIN_SECONDS: u32 = 4 * 3600;
/// Drills on record that decide about the next: years of them.
const DRILLS_LOOKED_AT: u32 = 10_000;

/// Who orders drills.
pub(crate) struct Drills {
    site: Arc<Site>,
    /// Under way, by the proxy.
    busy: BTreeMap<NodeName, JobId>,
    look_at: Option<Timestamp>,
}

impl Drills {
    pub(crate) const fn new(site: Arc<Site>) -> Self {
        Self { site, busy: BTreeMap::new(), look_at: None }
    }

    /// What an earlier run ordered may still be under way: its proxy says so when it comes.
    pub(crate) fn take_up(&mut self) {
        let open = match self.site.catalog.open_drills() {
            Ok(open) => open,
            Err(error) => return tracing::error!(error = %Chain(&error), "drills are not known"),
        };
        for drill in open.into_iter().filter(|drill| drill.ended.is_none()) {
            self.site.note_task(task_of(&drill));
            self.busy.insert(drill.node, drill.job);
        }
    }

    /// A proxy is here: what it does not work on any more has ended.
    pub(crate) fn came(&mut self, node: &NodeName, live: &[(JobId, Generation)]) {
        let lost = self.busy.get(node).copied().filter(|job| !live.iter().any(|(of, _)| of == job));
        if let Some(job) = lost {
            self.break_off(node, job, "the proxy came back without it");
        }
    }

    /// A drill ended at its proxy; what it showed is told beside that.
    pub(crate) fn ended(&mut self, node: &NodeName, job: JobId, ending: &Ending) {
        if self.busy.get(node) != Some(&job) {
            return;
        }
        match ending {
            Ending::Done { text, .. } => {
                self.busy.remove(node);
                let now = self.site.now();
                self.site.end_task(job, Ok(text.clone()), now);
                if let Err(error) = self.site.catalog.close_drill(job, now) {
                    tracing::error!(%job, error = %Chain(&error), "a drill was not booked");
                }
            }
            Ending::Failed { refusal, .. } => self.break_off(node, job, &refusal.to_string()),
            Ending::Cancelled => self.break_off(node, job, "stopped by an operator"),
        }
        self.look_at = None;
    }

    /// Tells the proxy to stop a drill; whether it is one that is under way.
    pub(crate) fn cancel(&self, job: JobId, by: &str) -> bool {
        let Some((node, _)) = self.busy.iter().find(|(_, busy)| **busy == job) else {
            return false;
        };
        self.site.record(by, "drill.cancel", &job.to_string(), "");
        let session = self.site.sessions.proxy(node);
        session.is_some_and(|session| session.say(ToNode::Cancel { job }))
    }

    /// Orders what is due.
    pub(crate) fn tick(&mut self, now: Timestamp) {
        if self.look_at.is_some_and(|at| at > now && at <= now.plus_seconds(LOOK_SECONDS)) {
            return;
        }
        self.look_at = Some(now.plus_seconds(LOOK_SECONDS));
        let in_force = self.site.in_force();
        let mut copies = in_force.declared.policies.values().flat_map(|of| of.copies.values());
        if !copies.any(|copy| copy.drill.is_some()) && self.busy.is_empty() {
            return;
        }
        if let Err(error) = self.order_due(&in_force.declared, now) {
            tracing::error!(error = %Chain(&error), "drills cannot be looked at");
        }
    }

    fn order_due(&mut self, declared: &Declared, now: Timestamp) -> Result<(), CatalogError> {
        self.give_up_waiting(now)?;
        let catalog = &self.site.catalog;
        let pasts = pasts(&catalog.drills(None, DRILLS_LOOKED_AT)?, now);
        let histories = catalog.histories(now)?;
        for due in due(declared, &catalog.point_facts(None)?, &histories, &pasts, now) {
            let is_here = self.site.sessions.proxy(&due.node).is_some();
            if is_here && !self.busy.contains_key(&due.node) {
                self.order(due, "schedule", now)?;
            }
        }
        Ok(())
    }

    /// A proof that does not come was lost with the proxy's files.
    fn give_up_waiting(&self, now: Timestamp) -> Result<(), CatalogError> {
        for drill in self.site.catalog.open_drills()? {
            let waited = drill.ended.map_or(0, |ended| now.seconds_since(ended));
            if waited > PROOF_SECONDS_MAX {
                self.site.catalog.break_drill(drill.job, "its proof did not come", now)?;
            }
        }
        Ok(())
    }

    /// A drill that an operator wants now; without a copy, of that which the policy drills, else
    /// of its first secondary snap.
    pub(crate) fn wanted(
        &mut self,
        workload: &WorkloadName,
        copy: Option<&CopyName>,
        by: &str,
    ) -> Result<JobId, Refusal> {
        let refused = |kind, text: String| Err(Refusal::new(kind, text));
        let unavailable =
            |error: CatalogError| Refusal::new(RefusalKind::Unavailable, Chain(&error).to_string());
        let in_force = self.site.in_force();
        let declared = &in_force.declared;
        let Some(policy) = declared.policy_of(workload) else {
            return refused(RefusalKind::Unknown, format!("no workload {workload} is declared"));
        };
        let snaps = policy.copies.values().filter(|of| matches!(of.kind, CopyKind::SecondarySnap));
        let mut snaps: Vec<&Copy> = snaps.collect();
        snaps.sort_by_key(|of| of.drill.is_none());
        let Some(chosen) = snaps.iter().find(|of| copy.is_none_or(|copy| of.name == *copy)) else {
            let named = copy.map_or_else(String::new, |copy| format!(" {copy}"));
            let text = format!(
                "{workload} has no secondary snap{named} by its policy {}: a drill is of one",
                policy.name
            );
            return refused(RefusalKind::Invalid, text);
        };
        let facts = self.site.catalog.point_facts(Some(workload)).map_err(unavailable)?;
        let now = self.site.now();
        let seconds = chosen.drill.as_ref().map_or(WITHIN_SECONDS, |rule| rule.seconds_max);
        let Some(due) = drill_of(declared, &facts, (workload, chosen), (now, seconds)) else {
            let text = format!("no point of {workload} is present in copy {}", chosen.name);
            return refused(RefusalKind::Unknown, text);
        };
        if let Some(job) = self.busy.get(&due.node) {
            let text = format!("drill {} is under way at {}: one at a time", job.short(), due.node);
            return refused(RefusalKind::Unavailable, text);
        }
        if self.site.sessions.proxy(&due.node).is_none() {
            let text = format!("proxy {} is not connected", due.node);
            return refused(RefusalKind::Unavailable, text);
        }
        let subject = format!("{} of {workload}", due.copy);
        self.site.record(by, "drill.order", &subject, &format!("point {}", due.point));
        self.order(due, by, now).map_err(unavailable)
    }

    fn order(&mut self, due: Due, by: &str, now: Timestamp) -> Result<JobId, CatalogError> {
        let job = JobId::fresh(now.unix_ms());
        let drill = DrillRecord {
            job,
            workload: due.workload.clone(),
            point: due.point,
            moment: due.moment,
            copy: due.copy.clone(),
            node: due.node.clone(),
            kind: due.kind,
            by: by.to_owned(),
            began: now,
            ended: None,
            verdict: None,
            level: level_of(due.kind),
            took_ms: None,
            detail: String::new(),
        };
        self.site.catalog.begin_drill(&drill)?;
        self.busy.insert(due.node.clone(), job);
        let work = DrillWork {
            copy: due.copy,
            point: due.point,
            workload: due.workload,
            kind: due.kind,
            settings: due.settings,
            seconds_max: due.seconds_max,
        };
        let ordered = self.site.sessions.order_proxy(&due.node, job, Work::Drill(Box::new(work)));
        self.site.note_task(task_of(&drill));
        if let Err(why) = ordered {
            self.break_off(&due.node, job, &why);
        }
        Ok(job)
    }

    fn break_off(&mut self, node: &NodeName, job: JobId, why: &str) {
        self.busy.remove(node);
        let now = self.site.now();
        self.site.end_task(job, Err(why.to_owned()), now);
        let tasks = self.site.copy_tasks().clone();
        if let Some(task) = tasks.iter().find(|task| task.job == job) {
            let subject = subject_of(&task.workload, &task.copy);
            self.site.record("coordinator", "drill.broken-off", &subject, why);
            self.site.alarm(&subject, format!("{subject} broke off: {why}"));
        }
        if let Err(error) = self.site.catalog.break_drill(job, why, now) {
            tracing::error!(%job, error = %Chain(&error), "a drill was not booked");
        }
    }
}

fn subject_of(workload: &WorkloadName, copy: &CopyName) -> String {
    format!("the drill of {workload} from copy {copy}")
}

fn task_of(drill: &DrillRecord) -> CopyTask {
    CopyTask {
        job: drill.job,
        doing: Doing::Drill,
        copy: drill.copy.clone(),
        workload: drill.workload.clone(),
        node: drill.node.clone(),
        points: vec![drill.point],
        began: drill.began,
        ended: None,
        outcome: None,
    }
}

/// Takes what a drill showed into the history; one that nobody here remembers is entered anew.
pub(crate) fn shown(
    site: &Site,
    node: &NodeName,
    copy: &CopyName,
    news: &ProofNews,
    start: &Start,
) -> Result<(), CatalogError> {
    let Some(point) = site.catalog.point(news.point)? else { return Ok(()) };
    let verdict = match news.showing.outcome {
        Shown::Held => Verdict::Held,
        Shown::Failed => Verdict::Failed,
    };
    let place = (node, copy, news.point);
    let drills = site.catalog.drills(Some(&point.workload), DRILLS_LOOKED_AT)?;
    let is_known =
        drills.iter().any(|of| of.node == *node && of.copy == *copy && of.point == news.point);
    if !is_known {
        site.catalog.begin_drill(&forgotten(site, node, copy, &point, start))?;
    }
    if let Some(drill) = site.catalog.show_drill(place, verdict, start)? {
        let subject = subject_of(&drill.workload, copy);
        site.all_clear(&subject);
        tracing::info!(job = %drill.job, verdict = verdict.as_str(), detail = %start.detail,
            "{subject}");
    }
    Ok(())
}

/// A drill of which only its proof is left: the catalog was lost meanwhile.
fn forgotten(
    site: &Site,
    node: &NodeName,
    copy: &CopyName,
    point: &PointRecord,
    start: &Start,
) -> DrillRecord {
    let in_force = site.in_force();
    let source = in_force.declared.workloads.get(&point.workload).map(|of| &of.source);
    let took = i64::try_from(start.took_ms / 1000).unwrap_or_default();
    DrillRecord {
        job: JobId::fresh(site.now().unix_ms()),
        workload: point.workload.clone(),
        point: point.point,
        moment: point.moment,
        copy: copy.clone(),
        node: node.clone(),
        kind: source.map_or(strongroom_protocol::drill::DrillKind::Files, kind_of),
        by: "not known any more".to_owned(),
        began: start.at.plus_seconds(-took),
        ended: None,
        verdict: None,
        level: start.level,
        took_ms: None,
        detail: String::new(),
    }
}

/// Drills on record for people, newest first.
pub(crate) fn rows(
    site: &Site,
    workload: Option<&WorkloadName>,
    most: u32,
) -> Result<Vec<DrillRow>, CatalogError> {
    let in_force = site.in_force();
    let row = |drill: DrillRecord| {
        let policy = in_force.declared.policy_of(&drill.workload);
        let rule =
            policy.and_then(|of| of.copies.get(&drill.copy)).and_then(|of| of.drill.as_ref());
        let age = drill.began.seconds_since(drill.moment).max(0).unsigned_abs();
        DrillRow {
            job: drill.job,
            workload: drill.workload,
            point: drill.point,
            moment: drill.moment,
            copy: drill.copy,
            node: drill.node,
            kind: drill.kind.as_str().to_owned(),
            by: drill.by,
            began: drill.began,
            ended: drill.ended,
            verdict: drill.verdict.map_or("running", Verdict::as_str).to_owned(),
            level: drill.level.as_str().to_owned(),
            recovery_ms: drill.took_ms,
            recovery_seconds_max: rule.and_then(|rule| rule.recovery_seconds_max),
            point_age_seconds: age,
            detail: drill.detail,
        }
    };
    Ok(site.catalog.drills(workload, most)?.into_iter().map(row).collect())
}

/// Recoveries that took longer in their last drill than their policy wants, each in a sentence.
pub(crate) fn slow(site: &Site) -> Result<Vec<String>, CatalogError> {
    let in_force = site.in_force();
    let rules = in_force.declared.policies.values().flat_map(|policy| policy.copies.values());
    if !rules.into_iter().any(|copy| copy.drill.is_some()) {
        return Ok(Vec::new());
    }
    let drills = site.catalog.drills(None, DRILLS_LOOKED_AT)?;
    Ok(slow_of(&in_force.declared, &pasts(&drills, site.now())))
}

fn slow_of(declared: &Declared, pasts: &BTreeMap<Place, Past>) -> Vec<String> {
    let told = pasts.iter().filter_map(|((workload, copy), past)| {
        let rule = declared.policy_of(workload)?.copies.get(copy)?.drill.as_ref()?;
        let (most, held) = (rule.recovery_seconds_max?, past.held.as_ref()?);
        let took = held.took_ms?.div_ceil(1000);
        (took > most).then(|| {
            let (point, most) = (held.point.short(), Seconds(most));
            format!(
                "{workload} owes a recovery within {most}: from copy {copy} it took {} in the \
                 drill of point {point} at {}",
                Seconds(took),
                held.began
            )
        })
    });
    told.collect()
}
