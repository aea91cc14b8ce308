//! Orders that make, stop or use jobs. An order that cannot be is refused with what would help.

use strongroom_protocol::control::ToNode;
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Chain, JobId, NodeName, PointId, Timestamp, WorkloadName};

use super::Jobs;
use crate::catalog::CatalogError;
use crate::foreman::RecoverOrder;
use crate::job::{Cause, Event, FailClass, Job, Next, RetryAdvice, RetryPolicy, Step, Task};

/// Tries of a job before a person must look: a host that reboots, a link that flaps, a night
/// without the far site are sat out.
const RETRY: RetryPolicy =
    RetryPolicy { attempts_max: 60, pause_seconds_first: 2, pause_seconds_max: 300 };

fn unavailable(error: &CatalogError) -> Refusal {
    Refusal::new(RefusalKind::Unavailable, Chain(error).to_string())
}

impl Jobs {
    /// The job that protects a workload now.
    pub(crate) fn protecting(&self, workload: &WorkloadName) -> Option<JobId> {
        let protects =
            |job: &Job| matches!(job.task(), Task::Protect { workload: of, .. } if of == workload);
        self.live.values().find(|live| protects(&live.job)).map(|live| live.job.id())
    }

    /// Creates a protect job.
    pub(crate) fn protect(
        &mut self,
        workload: &WorkloadName,
        slot: Option<Timestamp>,
        by: &str,
    ) -> Result<JobId, Refusal> {
        let in_force = self.site.in_force();
        let declared = in_force.declared.workloads.get(workload).ok_or_else(|| {
            let known = in_force.declared.workloads.keys().map(WorkloadName::as_str);
            let hint = closest(workload.as_str(), known);
            Refusal::new(RefusalKind::Unknown, format!("no workload {workload} is declared{hint}"))
        })?;
        if let Some(job) = self.protecting(workload) {
            let text = format!("job {} is protecting {workload} already", job.short());
            return Err(Refusal::new(RefusalKind::Unavailable, text));
        }
        let now = self.site.now();
        let task = Task::Protect {
            workload: workload.clone(),
            point: PointId::fresh(now.unix_ms()),
            policy: declared.policy.clone(),
            policy_version: in_force.version,
            agent: declared.agent.clone(),
            slot,
        };
        if slot.is_none() {
            self.site.record(by, "protect", workload.as_str(), "");
        }
        self.create(task, None)
    }

    /// Creates a recover job.
    pub(crate) fn recover(&mut self, order: RecoverOrder) -> Result<JobId, Refusal> {
        let target = String::from_utf8_lossy(&order.target).into_owned();
        let task = Task::Recover {
            workload: order.workload.clone(),
            point: order.point,
            copy: crate::policy::primary(),
            node: order.node.clone(),
            target: target.clone(),
            select: order.select.clone(),
            by: order.by.clone(),
        };
        let subject = format!("point {} to {}:{target}", order.point, order.node);
        self.site.record(&order.by, "recover", &subject, &order.select.join(" "));
        self.create(task, Some(order))
    }

    fn create(&mut self, task: Task, recover: Option<RecoverOrder>) -> Result<JobId, Refusal> {
        let now = self.site.now();
        let id = JobId::fresh(now.unix_ms());
        let event = Event::Created { job: id, task, retry: RETRY };
        let job = self.site.catalog.append_event(id, &event, now).map_err(|e| unavailable(&e))?;
        self.keep(job, recover);
        self.advance(id);
        Ok(id)
    }

    /// Asks a job to stop.
    pub(crate) fn cancel(&mut self, job: JobId, by: &str) -> Result<(), Refusal> {
        if !self.live.contains_key(&job) {
            let text = format!("job {} is not live", job.short());
            return Err(Refusal::new(RefusalKind::Unknown, text));
        }
        self.site.record(by, "cancel", &job.to_string(), "");
        self.event(job, Event::CancelAsked { by: by.to_owned() });
        let Some(node) = self.live.get(&job).map(|live| live.job.task().node().clone()) else {
            return Ok(());
        };
        if !self.site.sessions.say_agent(&node, ToNode::Cancel { job }) {
            self.give_up_undoing(job, &node);
        }
        self.advance(job);
        Ok(())
    }

    /// The node is away: what it left is put in order by itself when it is back, and
    /// the job does not wait for that.
    pub(super) fn give_up_undoing(&mut self, job: JobId, node: &NodeName) {
        let cause = Cause {
            class: FailClass::NodeLost,
            text: format!("{node} was away; it puts itself in order when it is back"),
            retry: RetryAdvice::Pointless,
        };
        for _ in 0..Step::ALL.len() {
            match self.live.get(&job).map(|live| live.job.next_once_ready()) {
                Some(Next::Undo(step)) if self.event(job, Event::Stuck(step, cause.clone())) => {}
                _ => return,
            }
        }
    }

    /// Whether an agent may read a point, for a restore an operator ordered.
    pub(crate) fn granted(
        &self,
        job: JobId,
        node: &NodeName,
        point: PointId,
    ) -> Result<(), Refusal> {
        let fits = |job: &Job| {
            matches!(job.task(), Task::Recover { point: of, node: at, .. }
                if *of == point && at == node)
        };
        match self.live.get(&job) {
            Some(live) if fits(&live.job) => Ok(()),
            _ => Err(strongroom_node::reader::not_granted(point)),
        }
    }
}

/// A hint at the name that was probably meant.
pub(crate) fn closest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> String {
    known
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .filter(|(distance, _)| *distance <= 3)
        .min()
        .map(|(_, known)| format!(" (did you mean {known}?)"))
        .unwrap_or_default()
}
