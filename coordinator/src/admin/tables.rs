//! What operators may ask: rows made from the catalog, the repository and what is live.

use strongroom_node::inspect;
use strongroom_node::scrubber::sentence;
use strongroom_node::uplink::SOFTWARE;
use strongroom_protocol::admin::{
    CopyRow, EventRow, HoldRow, JobRow, Live, MediumRow, NodeRow, PointRef, PointRow, Response,
    StatusReport, WorkloadRow,
};
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{JobId, PointId, Timestamp, WorkloadName};

use super::going::detail;
use super::owed::{debts, required, suspects};
use super::unavailable;
use crate::catalog::{JobFilter, LedgerRow, PointFilter, PointRecord};
use crate::copies::CopyTask;
use crate::job::{Job, Next, State, Task};
use crate::policy::{CopyKind, PRIMARY};
use crate::retention::{self, CopyState};
use crate::schedule;
use crate::site::Site;

type Answer<T> = Result<T, Refusal>;

/// Points known, as a person may name them.
pub(super) fn known_points(site: &Site) -> Answer<Vec<(PointId, WorkloadName, Timestamp)>> {
    let points = site.catalog.points(&PointFilter::default()).map_err(|e| unavailable(&e))?;
    Ok(points.into_iter().map(|point| (point.point, point.workload, point.moment)).collect())
}

/// The point a person means.
pub(super) fn resolve(site: &Site, point: &PointRef) -> Answer<PointId> {
    inspect::resolve(&known_points(site)?, point)
}

pub(super) fn status(site: &Site) -> Answer<StatusReport> {
    let totals = site.catalog.totals().map_err(|error| unavailable(&error))?;
    let packs = site.repo.packs();
    Ok(StatusReport {
        node: site.guard.me().identity,
        software: SOFTWARE.to_owned(),
        now: site.now(),
        points: totals.points,
        packs: packs.len() as u64,
        stored_bytes: packs.iter().filter_map(|pack| site.repo.pack_len(*pack).ok()).sum(),
        disk_free_bytes: site.repo.free_bytes().unwrap_or_default(),
        live_jobs: totals.live_jobs,
        connected: site.sessions.all().into_iter().map(|session| session.identity).collect(),
        debts: debts(site)?,
        alarms: alarms(site)?,
    })
}

/// Hurt packs and manifests named in a status.
const HURT_NAMED_MAX: usize = 20;
/// A run this late was not made.
const OVERDUE_SECONDS: i64 = 900;

/// What a person must look at: what was noted, and what did not happen.
fn alarms(site: &Site) -> Answer<Vec<String>> {
    let mut alarms = site.alarms();
    alarms.extend(suspects(site)?);
    alarms.extend(site.repo.hurt().iter().take(HURT_NAMED_MAX).map(sentence));
    let (in_force, now) = (site.in_force(), site.now());
    let histories = site.catalog.histories(now).map_err(|error| unavailable(&error))?;
    for (name, workload) in &in_force.declared.workloads {
        for agent in workload.agents().into_iter().filter(|of| site.sessions.agent(of).is_none()) {
            alarms.push(format!("agent {agent} of workload {name} is not connected"));
        }
        let next = schedule::next_run(&in_force.declared, name, histories.get(name), now);
        if next.is_some_and(|next| now.seconds_since(next) > OVERDUE_SECONDS) {
            alarms.push(format!("workload {name} is overdue since {}", next.unwrap_or(now)));
        }
        let saga = Some(crate::job::Saga::Protect);
        let filter = JobFilter { workload: Some(name.clone()), saga, most: Some(1) };
        let last = site.catalog.jobs(&filter).map_err(|error| unavailable(&error))?;
        if let Some(job) = last.first().filter(|job| job.state() == State::Failed) {
            let why = job.last_cause().map(ToString::to_string).unwrap_or_default();
            alarms.push(format!("the last protect job of {name} failed: {why}"));
        }
    }
    Ok(alarms)
}

pub(super) fn nodes(site: &Site) -> Answer<Vec<NodeRow>> {
    let connected = site.sessions.all();
    let known = site.catalog.nodes().map_err(|error| unavailable(&error))?;
    let row = |record: crate::catalog::NodeRecord| NodeRow {
        connected: connected.iter().any(|session| session.identity == record.note.identity),
        // A connection that stands was begun with an older one.
        certificate_until: record
            .note
            .certificate_until
            .max(site.guard.renewed_until(&record.note.identity)),
        identity: record.note.identity,
        software: record.note.software,
        host: record.note.host,
        last_seen: Some(record.last_seen),
    };
    Ok(known.into_iter().map(row).collect())
}

pub(super) fn workloads(site: &Site) -> Answer<Vec<WorkloadRow>> {
    let in_force = site.in_force();
    let now = site.now();
    let histories = site.catalog.histories(now).map_err(|error| unavailable(&error))?;
    let mut rows = Vec::new();
    for record in site.catalog.workloads().map_err(|error| unavailable(&error))? {
        let filter = PointFilter { workload: Some(record.name.clone()), ..PointFilter::default() };
        let points = site.catalog.points(&filter).map_err(|error| unavailable(&error))?;
        let declared = in_force.declared.workloads.get(&record.name);
        let newest = points.first();
        // Of a cluster: whoever made the newest point.
        let made = newest.map(|point| point.agent.clone());
        let agent = match declared {
            Some(of) if of.members.is_none() => Some(of.agent.clone()),
            of => made.or_else(|| of.map(|of| of.agent.clone())),
        };
        let Some(agent) = agent else { continue };
        let source = declared.map(|of| of.place());
        rows.push(WorkloadRow {
            id: record.id,
            kind: declared.map_or("no longer declared", |of| of.source.kind()).to_owned(),
            source: source.unwrap_or_default(),
            agent,
            policy: declared.map(|of| of.policy.clone()),
            points: points.len() as u64,
            last: newest.map(|point| point.moment),
            next: schedule::next_run(
                &in_force.declared,
                &record.name,
                histories.get(&record.name),
                now,
            ),
            name: record.name,
        });
    }
    Ok(rows)
}

fn job_row(site: &Site, job: &Job) -> JobRow {
    let state = job.state();
    let mut detail = match (job.outcome(), job.next(), job.last_cause()) {
        (Some(outcome), _, Some(cause)) if !state.is_live() => format!("{outcome}; last: {cause}"),
        (Some(outcome), ..) => outcome.to_string(),
        (None, Next::Wait(reason), _) => reason.to_string(),
        (None, ..) => match site.sessions.agent(job.task().node()) {
            Some(_) => String::new(),
            None => format!("node {} is not connected", job.task().node()),
        },
    };
    let subject = match job.task() {
        Task::Protect { workload, .. } => workload.to_string(),
        Task::Recover { point, target, .. } => format!("point {} to {target}", point.short()),
    };
    if let Some(owes) = owes(site, job).filter(|_| !state.is_live()) {
        detail.push_str(&owes);
    }
    JobRow {
        id: job.id(),
        kind: job.task().saga().as_str().to_owned(),
        subject,
        node: Some(job.task().node().clone()),
        state: state.as_str().to_owned(),
        detail,
        step: job.running().map(|step| step.to_string()),
        created: job.created(),
        ended: job.ended(),
        progress: site.progress_of(job.id()),
        point: Some(job.task().point()),
    }
}

/// A job may have ended, and its point hold less than is required.
fn owes(site: &Site, job: &Job) -> Option<String> {
    let Task::Protect { workload, point, .. } = job.task() else { return None };
    let holds = site.catalog.point(*point).ok()??.consistency;
    let required = required(site, workload, holds)?;
    Some(format!("; its point holds {holds}, and {required} is required"))
}

fn task_row(site: &Site, task: &CopyTask) -> JobRow {
    let (state, detail) = match &task.outcome {
        None => ("running", String::new()),
        Some(Ok(text)) => ("succeeded", text.clone()),
        Some(Err(why)) => ("failed", why.clone()),
    };
    JobRow {
        id: task.job,
        kind: task.doing.as_str().to_owned(),
        subject: format!("{} of {}", task.copy, task.workload),
        node: Some(task.node.clone()),
        state: state.to_owned(),
        detail,
        step: None,
        created: task.began,
        ended: task.ended,
        progress: site.progress_of(task.job),
        point: task.points.first().copied(),
    }
}

pub(super) fn jobs(site: &Site, live: Live, most: u32) -> Answer<Vec<JobRow>> {
    let filter = JobFilter { most: Some(u64::from(most)), ..JobFilter::default() };
    let jobs = site.catalog.jobs(&filter).map_err(|error| unavailable(&error))?;
    let mut rows: Vec<JobRow> = jobs.iter().map(|job| job_row(site, job)).collect();
    let tasks = site.copy_tasks().clone();
    rows.extend(tasks.iter().map(|task| task_row(site, task)));
    rows.retain(|row| live == Live::All || row.ended.is_none());
    rows.sort_by_key(|row| (std::cmp::Reverse(row.created), row.id));
    rows.truncate(most as usize);
    Ok(rows)
}

/// One job, saga or copy.
pub(super) fn job(site: &Site, job: JobId) -> Answer<JobRow> {
    let tasks = site.copy_tasks().clone();
    if let Some(task) = tasks.iter().find(|task| task.job == job) {
        return Ok(task_row(site, task));
    }
    let found = site
        .catalog
        .replay(job)
        .map_err(|_| Refusal::new(RefusalKind::Unknown, format!("no job {job} is known")))?;
    Ok(job_row(site, &found))
}

pub(super) fn journal(site: &Site, id: JobId) -> Answer<Response> {
    let row = job(site, id)?;
    let events = site.catalog.journal(id).map_err(|error| unavailable(&error))?;
    let events = events.into_iter().map(|line| EventRow {
        seq: line.seq,
        at: line.at,
        text: line.event.to_string(),
    });
    Ok(Response::Journal { job: row, events: events.collect() })
}

fn copy_row(site: &Site, workload: &WorkloadName, row: &LedgerRow) -> Answer<CopyRow> {
    let in_force = site.in_force();
    let declared = in_force.declared.policy_of(workload);
    let kind = declared.and_then(|policy| policy.copies.get(&row.copy)).map(|copy| &copy.kind);
    let kind = match (row.copy.as_str(), kind) {
        (PRIMARY, _) => "primary-snap".to_owned(),
        (_, Some(kind @ CopyKind::Aux { media_set })) => format!("{} {media_set}", kind.as_str()),
        (_, Some(kind)) => kind.as_str().to_owned(),
        (_, None) => "no longer declared".to_owned(),
    };
    Ok(CopyRow {
        copy: row.copy.clone(),
        kind,
        state: match (row.state, row.doomed, row.suspect()) {
            (CopyState::Present, Some(_), _) => "going".to_owned(),
            (CopyState::Present, None, Some(_)) => "suspect".to_owned(),
            (state, ..) => state.as_str().to_owned(),
        },
        proof: row.proven().map_or("none", |proof| proof.level.as_str()).to_owned(),
        proven: row.proven().map(|proof| proof.at),
        bytes: row.bytes_stored,
        seconds: row.seconds,
        detail: detail(site, row, workload)?,
    })
}

pub(super) fn point_row(site: &Site, point: &PointRecord) -> Answer<PointRow> {
    let ledger = site.catalog.ledger_of(point.point).map_err(|error| unavailable(&error))?;
    let holds = point.consistency;
    let consistency = match required(site, &point.workload, holds) {
        Some(required) => format!("{holds} ({required} required)"),
        None => holds.as_str().to_owned(),
    };
    Ok(PointRow {
        id: point.point,
        workload: point.workload.clone(),
        moment: point.moment,
        consistency,
        files: point.stats.files,
        bytes: point.stats.bytes,
        stored_bytes: point.stats.stored_bytes,
        gaps: point.gaps,
        copies: ledger
            .iter()
            .map(|row| copy_row(site, &point.workload, row))
            .collect::<Answer<_>>()?,
    })
}

pub(super) fn points(site: &Site, workload: Option<&WorkloadName>) -> Answer<Vec<PointRow>> {
    let filter = PointFilter { workload: workload.cloned(), ..PointFilter::default() };
    let points = site.catalog.points(&filter).map_err(|error| unavailable(&error))?;
    points.iter().map(|point| point_row(site, point)).collect()
}

pub(super) fn media(site: &Site) -> Answer<Vec<MediumRow>> {
    let media = site.catalog.media().map_err(|error| unavailable(&error))?;
    let row = |medium: crate::catalog::Medium| MediumRow {
        medium: Some(medium.medium),
        barcode: medium.barcode,
        set: medium.set,
        sequence: u32::try_from(medium.sequence).unwrap_or(u32::MAX),
        sessions: u32::try_from(medium.sessions).unwrap_or(u32::MAX),
        points: 0,
        used_bytes: medium.used_bytes,
        capacity_bytes: medium.capacity_bytes,
        detail: medium.detail,
    };
    Ok(media.into_iter().map(row).collect())
}

pub(super) fn holds(site: &Site) -> Answer<Vec<HoldRow>> {
    let holds = site.catalog.holds().map_err(|error| unavailable(&error))?;
    let row = |hold: retention::Hold| HoldRow {
        name: hold.name.to_string(),
        why: hold.why,
        by: hold.by,
        placed: hold.placed,
        points: hold.points.into_iter().collect(),
    };
    Ok(holds.into_iter().map(row).collect())
}

pub(super) fn policy(site: &Site) -> Answer<Response> {
    let current = site.catalog.current_policy().map_err(|error| unavailable(&error))?;
    let none = || Refusal::new(RefusalKind::Unknown, "no policy was applied yet");
    let current = current.ok_or_else(none)?;
    Ok(Response::Policy {
        version: current.version,
        file: current.file,
        toml: current.toml,
        applied: current.applied,
        by: current.by,
    })
}
