//! What a node is told for a job, made from the policy in force and the catalog. Pure but for
//! looking things up.

use strongroom_protocol::control::{
    AppWork, FilesSource, Mounts, Overwrite, ProtectWork, RecoverWork, Work,
};
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Chain, PointId, Timestamp, WorkloadId, WorkloadName};
use strongroom_store::cut::Blocks;

use crate::catalog::PointFilter;
use crate::foreman::RecoverOrder;
use crate::job::{Chosen, Job, Task};
use crate::jobs::IngestPlan;
use crate::policy::{self, AppSource, Members, Source};
use crate::site::Site;

fn unavailable(error: &dyn std::error::Error) -> Refusal {
    Refusal::new(RefusalKind::Unavailable, Chain(error).to_string())
}

/// The work of a job, with the workload's id where it protects one.
pub(crate) fn work(
    site: &Site,
    job: &Job,
    order: Option<&RecoverOrder>,
) -> Result<(Work, Option<WorkloadId>), Refusal> {
    match job.task() {
        Task::Protect { workload, point, .. } => protect(site, workload, *point, job.chosen()),
        Task::Recover { point, target, select, .. } => {
            let work = RecoverWork {
                point: *point,
                target: order.map_or_else(|| target.clone().into_bytes(), |o| o.target.clone()),
                select: select.clone(),
                // The journal does not hold it: after a restart nothing is written over.
                overwrite: order.map_or(Overwrite::Never, |order| order.overwrite),
            };
            Ok((Work::Recover(Box::new(work)), None))
        }
    }
}

fn protect(
    site: &Site,
    name: &WorkloadName,
    point: PointId,
    chosen: Option<&Chosen>,
) -> Result<(Work, Option<WorkloadId>), Refusal> {
    let in_force = site.in_force();
    let declared = in_force.declared.workloads.get(name).ok_or_else(|| {
        Refusal::new(RefusalKind::Unknown, format!("workload {name} is declared no more"))
    })?;
    let now = site.now();
    let fresh = WorkloadId::fresh(now.unix_ms());
    let record =
        site.catalog.ensure_workload(name, fresh, now).map_err(|error| unavailable(&error))?;
    let sizes = match site.repo.config().cut.blocks {
        Blocks::AsFiles => None,
        Blocks::Sized { min, max } => Some((min, max)),
    };
    let (workload, name, previous) = (record.id, name.clone(), newest(site, name)?);
    let (policy, policy_version) = (declared.policy.to_string(), in_force.version);
    let work = match &declared.source {
        Source::App(AppSource { kind, settings }) => Work::ProtectApp(Box::new(AppWork {
            workload,
            name,
            point,
            previous,
            kind: *kind,
            settings: match &declared.members {
                Some(members) => of_member(members, chosen)?,
                None => settings.clone(),
            },
            blocks: sizes,
            policy,
            policy_version,
        })),
        Source::Files(files) => {
            let source = files_source(files);
            let work = Box::new(ProtectWork {
                workload,
                name,
                point,
                previous,
                source,
                policy,
                policy_version,
            });
            match sizes {
                None => Work::Protect(work),
                Some((blocks_min, blocks_max)) => {
                    Work::ProtectBlocks { work, blocks_min, blocks_max }
                }
            }
        }
    };
    Ok((work, Some(workload)))
}

/// What the member that was chosen is told: to make the point only in the role in which it was
/// chosen, and only of the cluster that the points are of.
fn of_member(members: &Members, chosen: Option<&Chosen>) -> Result<Vec<(String, String)>, Refusal> {
    let member = |chosen: &Chosen| members.of.iter().find(|of| of.name == chosen.member);
    let Some((chosen, member)) = chosen.and_then(|chosen| Some((chosen, member(chosen)?))) else {
        let text = "the member that was chosen is declared no more";
        return Err(Refusal::new(RefusalKind::Unknown, text));
    };
    let mut settings = member.settings.clone();
    settings.retain(|(key, _)| key != "prefer");
    settings.push(("prefer".to_owned(), chosen.role.to_owned()));
    settings.push(("cluster".to_owned(), chosen.cluster.clone()));
    Ok(settings)
}

fn files_source(files: &policy::FilesSource) -> FilesSource {
    FilesSource {
        path: files.path.clone().into_bytes(),
        exclude: files.exclude.clone(),
        exclude_if_present: files.exclude_if_present.clone(),
        exclude_larger_bytes: files.exclude_larger_bytes,
        mounts: if files.one_file_system { Mounts::Stay } else { Mounts::Cross },
        pre_hook: files.pre_hook.clone(),
        post_hook: files.post_hook.clone(),
        hook_seconds_max: files.hook_seconds_max,
    }
}

/// The newest committed point that is still here: a cache made with it may be believed.
fn newest(site: &Site, name: &WorkloadName) -> Result<Option<PointId>, Refusal> {
    let filter =
        PointFilter { workload: Some(name.clone()), most: Some(1), ..PointFilter::default() };
    let points = site.catalog.points(&filter).map_err(|error| unavailable(&error))?;
    let newest = points.first().map(|record| record.point);
    Ok(newest.filter(|point| site.repo.has_point(*point)))
}

/// What the blobs of a protect job's stream are for.
pub(crate) fn ingest_plan(
    site: &Site,
    job: &Job,
    workload: Option<WorkloadId>,
    now: Timestamp,
) -> Result<IngestPlan, Refusal> {
    let Task::Protect { workload: name, point, policy, policy_version, agent, .. } = job.task()
    else {
        let text = format!("job {} protects nothing", job.id().short());
        return Err(Refusal::new(RefusalKind::Invalid, text));
    };
    let workload = match workload {
        Some(workload) => workload,
        None => {
            let fresh = WorkloadId::fresh(now.unix_ms());
            let record = site.catalog.ensure_workload(name, fresh, now);
            record.map_err(|error| unavailable(&error))?.id
        }
    };
    Ok(IngestPlan {
        job: job.id(),
        point: *point,
        workload,
        name: name.clone(),
        agent: agent.clone(),
        member: job.chosen().map(|of| format!("made from member {}: {}", of.member, of.why)),
        policy: policy.clone(),
        policy_version: *policy_version,
        previous: newest(site, name)?,
        moment: now,
        opened: now,
    })
}
