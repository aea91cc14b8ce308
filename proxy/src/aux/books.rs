//! What is noted of a media set around its sessions: before one, the cartridges on which nothing is
//! kept any more; after it, which points lie on the set and which media each of them needs. What is
//! not noted keeps its cartridges.

use std::collections::BTreeSet;

use strongroom_protocol::opening::Refusal;
use strongroom_protocol::{Chain, MediaSetName, MediumId, PointId};
use strongroom_store::manifest::Manifest;
use strongroom_store::media::{Held, MediaSetWriter, Place, Surveyed};
use strongroom_store::repo::Repo;

use crate::cartridges::{Known, What};
use crate::orders::Media;

/// Has the cartridges written anew on which nothing of the set is kept any more; each is in the
/// book before.
pub(super) fn let_lapse(
    media: &Media,
    known: &Known,
    set: &MediaSetName,
    surveyed: &mut Surveyed,
) -> Result<(), Refusal> {
    let points = media.keeper.released(set);
    if points.is_empty() || media.settings.write_once.contains(set) {
        return Ok(());
    }
    let mut free = BTreeSet::new();
    for order in surveyed.orders() {
        let lapsed = known.lapsed_on(&order.set, &points);
        for (medium, barcode) in surveyed.lapsed(order, &lapsed) {
            let now = media.clock.now();
            media.cartridges.note(now, "expiry", &barcode, What::Lapsed { medium })?;
            free.insert(medium);
        }
    }
    surveyed.release(&free);
    Ok(())
}

/// What is written again lies elsewhere than what needs it knows.
pub(super) fn doubt(
    media: &Media,
    known: &Known,
    writers: &[MediaSetWriter],
) -> Result<(), Refusal> {
    for writer in writers.iter().filter(|writer| known.needs.contains_key(writer.set())) {
        if let Some(barcode) = writer.current() {
            let what = What::Mended { set: writer.set().clone() };
            media.cartridges.note(media.clock.now(), "session", barcode, what)?;
        }
    }
    Ok(())
}

/// Notes what lies on the set of a lane after a session, and what is needed of which media.
pub(super) fn settle(
    repo: &Repo,
    media: &Media,
    set: &MediaSetName,
    writer: &MediaSetWriter,
    ordered: &[PointId],
) -> Result<(), Refusal> {
    let held = writer.held();
    let there = held.points.iter().filter(|(_, on)| on.repo == repo.id());
    media.keeper.arrived(set, there.map(|(point, on)| (*point, on.workload, on.moment)))?;
    let known = media.cartridges.known();
    let told = known.needs.get(writer.set());
    let is_told = |point: &PointId| told.is_some_and(|told| told.contains_key(point));
    let open = held.points.keys().filter(|point| ordered.contains(point) || !is_told(point));
    let needs: Vec<(PointId, BTreeSet<MediumId>)> =
        open.filter_map(|point| Some((*point, needs_of(repo, held, *point)?))).collect();
    let is_news = |(point, media): &(PointId, BTreeSet<MediumId>)| {
        told.and_then(|told| told.get(point)) != Some(media)
    };
    let needs: Vec<_> = needs.into_iter().filter(is_news).collect();
    let Some(barcode) = writer.current().filter(|_| !needs.is_empty()) else { return Ok(()) };
    let what = What::Written { set: writer.set().clone(), needs };
    media.cartridges.note(media.clock.now(), "session", barcode, what)
}

/// The media on which a point and all that it needs lie; none where the repository here cannot
/// tell, or not all of it is on media.
fn needs_of(repo: &Repo, held: &Held, point: PointId) -> Option<BTreeSet<MediumId>> {
    let (_, manifest) = repo.manifest_of(point).ok()?;
    let head = Manifest::decode_head(&manifest).ok()?;
    let closure = repo
        .closure(&head.roots)
        .inspect_err(|error| tracing::debug!(%point, error = %Chain(error), "not to be walked"))
        .ok()?;
    let of = |places: &[Place]| places.iter().map(|place| place.medium).collect::<Vec<_>>();
    let mut media: BTreeSet<MediumId> = of(&held.points.get(&point)?.places).into_iter().collect();
    for pack in &closure.packs {
        media.extend(of(&held.packs.get(pack)?.places));
    }
    Some(media)
}

#[cfg(test)]
mod tests;
