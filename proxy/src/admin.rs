//! What operators of the proxy's site may ask: everything that looks, nothing that changes. The
//! answers come from the repository and the media here, so they hold with the first site gone.

use std::sync::Arc;

use strongroom_node::inspect;
use strongroom_node::scrubber::sentence;
use strongroom_node::uplink::SOFTWARE;
use strongroom_protocol::admin::{
    MediumRow, PointRef, PointRow, Request, Response, StatusReport, WhyReport,
};
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Chain, PointId, Timestamp, WorkloadName};
use strongroom_store::manifest::Manifest;
use strongroom_store::media::MediaReader;

use crate::visitors::Site;

type Answer<T> = Result<T, Refusal>;

fn unavailable(error: &dyn std::error::Error) -> Refusal {
    Refusal::new(RefusalKind::Unavailable, Chain(error).to_string())
}

/// Answers one request.
pub(crate) async fn answer(site: &Arc<Site>, request: Request) -> Response {
    let busy = match request {
        Request::Media => Some(site.hands.drives.lock().await),
        _ => None,
    };
    let asked = Arc::clone(site);
    let answered = tokio::task::spawn_blocking(move || look_up(&asked, request)).await;
    drop(busy);
    answered
        .unwrap_or_else(|_| Err(Refusal::new(RefusalKind::Internal, "a worker died")))
        .unwrap_or_else(Response::Refused)
}

fn look_up(site: &Site, request: Request) -> Answer<Response> {
    match request {
        Request::Status => status(site).map(Response::Status),
        Request::Points { workload } => points(site, workload.as_ref()).map(Response::Points),
        Request::Why { point } => why(site, &point).map(Response::Why),
        Request::Media => media(site).map(Response::Media),
        Request::Verify { depth } => {
            inspect::verify(&site.repo.session(), depth).map(Response::Verified)
        }
        Request::Space { order } => {
            let now = site.guard.clock().now();
            site.hands.collector.space(order, now).map(Response::Space)
        }
        Request::Scrub => Ok(Response::Scrub(site.scrubber.report())),
        _ => {
            let text = "a proxy answers status, points, why, media, verify, space and scrub; \
                        ask the coordinator for the rest";
            Err(Refusal::new(RefusalKind::Forbidden, text))
        }
    }
}

fn manifests(site: &Site) -> Answer<(Vec<Manifest>, Vec<String>)> {
    let mut manifests = Vec::new();
    let mut broken = Vec::new();
    for (_, point) in site.repo.points().map_err(|error| unavailable(&error))? {
        match site.repo.point(point) {
            Ok(manifest) => manifests.push(manifest),
            Err(error) => broken.push(Chain(&error).to_string()),
        }
    }
    manifests.sort_by_key(|manifest| std::cmp::Reverse(manifest.head.moment));
    Ok((manifests, broken))
}

fn status(site: &Site) -> Answer<StatusReport> {
    let (manifests, mut alarms) = manifests(site)?;
    let packs = site.repo.packs();
    alarms.extend(site.repo.hurt().iter().map(sentence));
    alarms.extend(site.hands.keeper.alarm());
    alarms.extend(site.hands.collector.alarm());
    Ok(StatusReport {
        node: site.guard.me().identity,
        software: SOFTWARE.to_owned(),
        now: site.guard.clock().now(),
        points: manifests.len() as u64,
        packs: packs.len() as u64,
        stored_bytes: packs.iter().filter_map(|pack| site.repo.pack_len(*pack).ok()).sum(),
        disk_free_bytes: site.repo.free_bytes().unwrap_or_default(),
        live_jobs: 0,
        connected: Vec::new(),
        debts: Vec::new(),
        alarms,
    })
}

fn points(site: &Site, workload: Option<&WorkloadName>) -> Answer<Vec<PointRow>> {
    let (manifests, _) = manifests(site)?;
    let wanted = |manifest: &&Manifest| {
        workload.is_none_or(|workload| manifest.body.workload_name == *workload)
    };
    Ok(manifests.iter().filter(wanted).map(inspect::point_row).collect())
}

fn why(site: &Site, point: &PointRef) -> Answer<WhyReport> {
    let (manifests, _) = manifests(site)?;
    let known: Vec<(PointId, WorkloadName, Timestamp)> = manifests
        .iter()
        .map(|of| (of.head.point, of.body.workload_name.clone(), of.head.moment))
        .collect();
    let point = inspect::resolve(&known, point)?;
    let found = manifests.iter().find(|manifest| manifest.head.point == point);
    let manifest = found
        .ok_or_else(|| Refusal::new(RefusalKind::Unknown, format!("no point {point} here")))?;
    Ok(WhyReport {
        point: inspect::point_row(manifest),
        verdicts: Vec::new(),
        gaps: inspect::gaps(&site.repo, manifest)?,
        facts: inspect::facts(manifest),
    })
}

fn media(site: &Site) -> Answer<Vec<MediumRow>> {
    let Some(library) = &site.hands.library else { return Ok(Vec::new()) };
    let reader = MediaReader::open(Arc::clone(library)).map_err(|error| unavailable(&error))?;
    let slots = library.inventory().map_err(|error| unavailable(&error))?;
    let mut rows: Vec<MediumRow> = reader
        .media()
        .into_iter()
        .map(|medium| MediumRow {
            medium: Some(medium.medium),
            barcode: medium.barcode.to_string(),
            set: Some(medium.set),
            sequence: medium.sequence,
            sessions: u32::try_from(medium.sessions.len()).unwrap_or(u32::MAX),
            points: u32::try_from(medium.points).unwrap_or(u32::MAX),
            used_bytes: medium.bytes,
            capacity_bytes: 0,
            detail: format!("{:?}", medium.health).to_lowercase(),
        })
        .collect();
    for barcode in slots.into_iter().filter_map(|slot| slot.barcode) {
        if rows.iter().any(|row| row.barcode == barcode.as_str()) {
            continue;
        }
        rows.push(MediumRow {
            medium: None,
            barcode: barcode.to_string(),
            set: None,
            sequence: 0,
            sessions: 0,
            points: 0,
            used_bytes: 0,
            capacity_bytes: 0,
            detail: "blank".to_owned(),
        });
    }
    Ok(rows)
}
