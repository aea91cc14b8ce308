//! Answers operators: the one door for people. Questions are answered from the catalog and the
//! repository, orders go to the foreman or into the catalog, and every order is recorded.

mod going;
mod orders;
mod owed;
mod tables;

use std::sync::Arc;

use strongroom_node::inspect;
use strongroom_protocol::admin::{Request, Response};
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Chain, Identity, JobId};

use crate::drills;
use crate::foreman::{ForemanDesk, News};
use crate::lead;
use crate::proofs;
use crate::site::Site;

pub(crate) use orders::{is_known_proxy, make_known, policy_apply, policy_for_proxies};

/// Answers one request of `by`.
pub(crate) async fn answer(
    site: &Arc<Site>,
    foreman: &ForemanDesk,
    request: Request,
    person: Identity,
) -> Response {
    let by = person.to_string();
    let answered = match request {
        Request::LeadPropose { order, why } => {
            let asked = Arc::clone(site);
            blocking(move || lead::propose(&asked, order, &why, &person)).await
        }
        Request::LeadConfirm { proposal } => {
            let asked = Arc::clone(site);
            let confirmed = blocking(move || lead::confirm(&asked, &proposal, &person)).await;
            foreman.tell(News::Reconsider).await;
            confirmed
        }
        Request::Protect { workload } => {
            let ask = |reply| News::Protect { workload, by, reply };
            answered_by_job(site, foreman.ask(ask).await).await
        }
        Request::Drill { workload, copy } => {
            let ask = |reply| News::Drill { workload, copy, by, reply };
            answered_by_job(site, foreman.ask(ask).await).await
        }
        Request::Cancel { job } => {
            let asked = foreman.ask(|reply| News::Cancel { job, by, reply }).await;
            asked.map(|()| Response::Done(format!("job {} was asked to stop", job.short())))
        }
        Request::Recover { point, agent, target, select, overwrite } => {
            let (asked, who) = (Arc::clone(site), by.clone());
            let order = blocking(move || {
                orders::recover_order(&asked, &point, agent, target, select, overwrite, who)
            });
            match order.await {
                Ok(order) => {
                    let started = foreman.ask(|reply| News::Recover { order, reply }).await;
                    answered_by_job(site, started).await
                }
                Err(refusal) => Err(refusal),
            }
        }
        Request::PolicyApply { file, toml } => {
            let asked = Arc::clone(site);
            let applied = blocking(move || policy_apply(&asked, &file, &toml, &by)).await;
            foreman.tell(News::Reconsider).await;
            applied
        }
        other => {
            let asked = Arc::clone(site);
            let changes = is_order(&other);
            let answered = blocking(move || look_up(&asked, other, &by)).await;
            if changes {
                foreman.tell(News::Reconsider).await;
            }
            answered
        }
    };
    answered.unwrap_or_else(Response::Refused)
}

/// The job that an order began.
async fn answered_by_job(
    site: &Arc<Site>,
    began: Result<JobId, Refusal>,
) -> Result<Response, Refusal> {
    let (site, job) = (Arc::clone(site), began?);
    blocking(move || tables::job(&site, job).map(Response::Job)).await
}

/// Whether a request may change what is wanted.
const fn is_order(request: &Request) -> bool {
    matches!(
        request,
        Request::Event { .. }
            | Request::HoldPlace { .. }
            | Request::HoldRelease { .. }
            | Request::Pin { .. }
            | Request::Proven { .. }
            | Request::Prune { .. }
            | Request::Revoke { .. }
    )
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(Refusal::new(RefusalKind::Internal, "a worker died")))
}

/// Everything that needs only the catalog and the repository. Blocking.
fn look_up(site: &Site, request: Request, by: &str) -> Result<Response, Refusal> {
    match request {
        Request::Status => tables::status(site).map(Response::Status),
        Request::Nodes => tables::nodes(site).map(Response::Nodes),
        Request::Workloads => tables::workloads(site).map(Response::Workloads),
        Request::Jobs { live, most } => tables::jobs(site, live, most).map(Response::Jobs),
        Request::Job { job } => tables::journal(site, job),
        Request::Points { workload } => {
            tables::points(site, workload.as_ref()).map(Response::Points)
        }
        Request::Why { point } => going::why(site, &point).map(Response::Why),
        Request::Drills { workload, most } => {
            let rows = drills::rows(site, workload.as_ref(), most);
            rows.map(Response::Drills).map_err(|error| unavailable(&error))
        }
        Request::Media => tables::media(site).map(Response::Media),
        Request::Holds => tables::holds(site).map(Response::Holds),
        Request::Audit { most } => inspect::audit(site.audit.path(), most),
        Request::Policy => tables::policy(site),
        Request::Scrub => Ok(Response::Scrub(site.scrubber.report())),
        Request::Verify { depth } => {
            let report = inspect::verify(&site.repo.session(), depth)?;
            let detail = format!("{} damaged packs", report.damaged_packs.len());
            site.record(by, "verify", "repository", &detail);
            match report.damaged_packs.is_empty() && report.hurt.is_empty() {
                true => site.all_clear("verify"),
                false => site.alarm("verify", format!("verify found {detail}")),
            }
            Ok(Response::Verified(report))
        }
        Request::PolicyPlan { file, toml } => orders::policy_plan(site, &file, &toml),
        Request::WhatIf { file, toml } => going::what_if(site, &file, &toml),
        Request::TokenCreate { role, name, seconds_valid } => {
            orders::token(site, role, name, seconds_valid, by)
        }
        Request::Revoke { identity } => orders::revoke(site, &identity, by),
        Request::HoldPlace { name, why, points } => {
            orders::hold_place(site, &name, why, &points, by)
        }
        Request::HoldRelease { name } => orders::hold_release(site, &name, by),
        Request::Pin { point, pinned } => orders::pin(site, &point, pinned, by),
        Request::Event { name, ended } => orders::event(site, &name, ended, by),
        Request::Proven { point, copy, showing } => {
            proofs::told(site, point, copy, &showing, by).map(Response::Done)
        }
        Request::Prune { order } => going::prune(site, order, by),
        Request::Space { order } => {
            let report = site.collector.space(order, site.now())?;
            if let Some(done) = &report.done {
                site.record(by, "collect", "repository", done);
            }
            Ok(Response::Space(report))
        }
        Request::Cartridges { .. } => {
            let text = "a coordinator has no tape library: ask the proxy, with --site";
            Err(Refusal::new(RefusalKind::Forbidden, text))
        }
        Request::Lead => Ok(Response::Lead(lead::report(site))),
        Request::Cancel { .. }
        | Request::Drill { .. }
        | Request::LeadConfirm { .. }
        | Request::LeadPropose { .. }
        | Request::PolicyApply { .. }
        | Request::Protect { .. }
        | Request::Recover { .. } => {
            Err(Refusal::new(RefusalKind::Internal, "an order went to the wrong desk"))
        }
    }
}

pub(crate) fn unavailable(error: &dyn std::error::Error) -> Refusal {
    Refusal::new(RefusalKind::Unavailable, Chain(error).to_string())
}

/// The name under which a proxy of another site is remembered.
fn proxy_setting(identity: &Identity) -> String {
    format!("proxy {identity}")
}
