//! Letting go of points on media by order of the coordinator: what lies there is known before, from
//! the journals or by a look at the cartridges.

use std::collections::BTreeSet;
use std::sync::Arc;

use strongroom_protocol::control::{ExpireAnswer, ExpireOrder};
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Chain, JobId, MediaSetName, MediumId, PointId};
use strongroom_store::media::MediaReader;
use strongroom_store::repo::Repo;

use crate::aux::first_lane;
use crate::expire::Release;
use crate::orders::Media;

/// Notes every point that the cartridges of a set, here or told of by those, hold. Blocking; the
/// caller has the drives.
///
/// # Errors
/// The cartridges cannot be looked at, or it cannot be noted.
pub(crate) fn look(repo: &Repo, media: &Media, set: &MediaSetName) -> Result<(), Refusal> {
    let opened = MediaReader::open(Arc::clone(&media.library));
    let reader = opened
        .map_err(|error| Refusal::new(RefusalKind::Unavailable, Chain(&error).to_string()))?;
    let of_set = reader.media().into_iter().filter(|medium| first_lane(&medium.set) == *set);
    let of_set: BTreeSet<MediumId> = of_set.map(|medium| medium.medium).collect();
    let there = reader.held().points.iter().filter(|(_, on)| {
        on.repo == repo.id() && on.places.iter().any(|place| of_set.contains(&place.medium))
    });
    media.keeper.arrived(set, there.map(|(point, on)| (*point, on.workload, on.moment)))
}

/// Carries the order out as far as the floor allows. Blocking.
///
/// # Errors
/// It cannot be noted; nothing more was let go.
pub(crate) fn obey(
    media: &Media,
    job: JobId,
    set: &MediaSetName,
    points: &[PointId],
    order: ExpireOrder,
) -> Result<Vec<ExpireAnswer>, Refusal> {
    let known = media.cartridges.known();
    let left = known.left.values().filter(|left| left.can_be_fetched());
    let contents = left.filter_map(|left| left.contents.as_ref());
    let away = contents.filter(|on| first_lane(&on.set) == *set);
    let away: BTreeSet<PointId> = away.flat_map(|on| on.points.iter().copied()).collect();
    media.keeper.obey(&Release { job, set, points, order, away: &away })
}
