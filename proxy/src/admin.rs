//! What operators of the proxy's site may ask: everything that looks, and nothing that changes what
//! is stored; and what they may tell: what they proved of it. The answers come from the repository
//! and the media here, so they hold with the first site gone.

use std::sync::Arc;

use strongroom_node::inspect;
use strongroom_node::scrubber::sentence;
use strongroom_node::uplink::SOFTWARE;
use strongroom_protocol::admin::{
    CartridgeOrder, MediumRow, PointRef, PointRow, Request, Response, StatusReport, WhyReport,
};
use strongroom_protocol::control::{ProofNews, STARTED, Shown};
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Chain, Identity, PointId, Timestamp, WorkloadName};
use strongroom_store::manifest::Manifest;
use strongroom_store::media::MediaReader;

use crate::cartridges::{Keeping, carry_out};
use crate::lead;
use crate::visitors::Site;

type Answer<T> = Result<T, Refusal>;

fn unavailable(error: &dyn std::error::Error) -> Refusal {
    Refusal::new(RefusalKind::Unavailable, Chain(error).to_string())
}

/// Answers one request.
pub(crate) async fn answer(site: &Arc<Site>, request: Request, by: Identity) -> Response {
    let busy = match request {
        Request::Cartridges { order: CartridgeOrder::List } | Request::Media => {
            Some(site.hands.drives.lock().await)
        }
        Request::Cartridges { .. } => match site.hands.drives.try_lock() {
            Ok(busy) => Some(busy),
            Err(_) => {
                let text = "the drives are in use: a session writes, proves or lists media; \
                            `strongroom jobs` shows it, try again when it is done";
                return Response::Refused(Refusal::new(RefusalKind::Unavailable, text));
            }
        },
        _ => None,
    };
    let asked = Arc::clone(site);
    let answered = tokio::task::spawn_blocking(move || look_up(&asked, request, by)).await;
    drop(busy);
    answered
        .unwrap_or_else(|_| Err(Refusal::new(RefusalKind::Internal, "a worker died")))
        .unwrap_or_else(Response::Refused)
}

fn look_up(site: &Site, request: Request, by: Identity) -> Answer<Response> {
    match request {
        Request::Status => status(site).map(Response::Status),
        Request::Points { workload } => points(site, workload.as_ref()).map(Response::Points),
        Request::Why { point } => why(site, &point).map(Response::Why),
        Request::Media => media(site).map(Response::Media),
        Request::Cartridges { order } => {
            let hands = &site.hands;
            let keeping = Keeping {
                repo: site.repo.clone(),
                library: hands.library()?,
                book: Arc::clone(&hands.cartridges),
                keeper: Arc::clone(&hands.media_keeper),
                settings: hands.media.clone(),
                clock: Arc::clone(&hands.clock),
                spare: hands.spare.clone(),
                by: by.to_string(),
            };
            carry_out(&keeping, order)
        }
        Request::Verify { depth } => {
            inspect::verify(&site.repo.session(), depth).map(Response::Verified)
        }
        Request::Space { order } => {
            let now = site.guard.clock().now();
            site.hands.collector.space(order, now).map(Response::Space)
        }
        Request::Scrub => Ok(Response::Scrub(site.scrubber.report())),
        Request::Proven { point, copy, showing } => {
            let at = site.guard.clock().now();
            proven(site, ProofNews { point, copy, by, at, showing }).map(Response::Done)
        }
        Request::Audit { most } => inspect::audit(site.audit.path(), most),
        Request::TokenCreate { role, name, seconds_valid } => {
            lead::token(site, role, name, seconds_valid, &by)
        }
        Request::Lead => Ok(Response::Lead(lead::report(site))),
        Request::LeadPropose { order, why } => lead::propose(site, order, &why, &by),
        Request::LeadConfirm { proposal } => lead::confirm(site, &proposal, &by),
        _ => {
            let text = "a proxy answers status, points, why, media, verify, space, scrub, audit \
                        and takeover, moves and copies cartridges, makes tokens for operators, \
                        and hears of proofs; ask the coordinator for the rest";
            Err(Refusal::new(RefusalKind::Forbidden, text))
        }
    }
}

/// Keeps what an operator proved, and has the coordinator told of it.
fn proven(site: &Site, news: ProofNews) -> Answer<String> {
    let (point, outcome) = (news.point, news.showing.outcome);
    if news.showing.level != STARTED {
        let text = format!("{:?} is no level that an operator proves", news.showing.level);
        return Err(Refusal::new(RefusalKind::Invalid, format!("{text}: {STARTED} is")));
    }
    if news.copy.is_none() && !site.repo.has_point(point) {
        let text = format!("point {point} is not here: nothing is proven of it");
        return Err(Refusal::new(RefusalKind::Unknown, text));
    }
    let of_snap = news.copy.is_none();
    site.hands.proofs.keep(news)?;
    if of_snap && outcome == Shown::Held {
        site.hands.keeper.proven(point);
    }
    Ok("kept at this site; the coordinator has it as soon as it is reached".to_owned())
}

/// What was proven of a point from here, each in a line.
fn proofs(site: &Site, point: PointId) -> Vec<(String, String)> {
    let told = site.hands.proofs.of(point).into_iter().map(|(news, is_noted)| {
        let copy = news.copy.map_or_else(|| "secondary snap".to_owned(), |copy| copy.to_string());
        let ProofNews { at, by, showing, .. } = news;
        let held = match showing.outcome {
            Shown::Held => format!("{} after {} s", showing.level, showing.took_ms / 1000),
            Shown::Failed => format!("not {}", showing.level),
        };
        let known = if is_noted { "" } else { "; the coordinator does not have it yet" };
        let text = format!("{copy} {held} at {at} by {by}: {}{known}", showing.detail);
        ("proof".to_owned(), text)
    });
    told.collect()
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
    alarms.extend(site.hands.media_keeper.alarm());
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
        debts: site.hands.proofs.owed().into_iter().collect(),
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
        facts: inspect::facts(manifest).into_iter().chain(proofs(site, point)).collect(),
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
