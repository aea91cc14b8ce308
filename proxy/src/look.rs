//! Says which points a copy does not hold whole, as far as manifests, references, catalogs and
//! what scrubbing knows tell it. No data is read: that a copy is there is looked at often, that
//! it is good is proven by reading.

use std::sync::Arc;

use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Chain, PointId};
use strongroom_store::manifest::Manifest;
use strongroom_store::media::{MediaError, MediaReader};
use strongroom_store::repo::Repo;

use crate::cartridges::Known;
use crate::orders::Media;

/// Points that are not whole, and why.
pub(crate) type Lost = Vec<(PointId, String)>;

fn unavailable(error: &dyn std::error::Error) -> Refusal {
    Refusal::new(RefusalKind::Unavailable, Chain(error).to_string())
}

/// Looks into the repository here; blocking.
pub(crate) fn repository(repo: &Repo, points: &[PointId]) -> Result<Lost, Refusal> {
    let mut lost = Lost::new();
    for point in points {
        match repo.point_trouble(*point) {
            Ok(None) => {}
            Ok(Some(why)) => lost.push((*point, why)),
            Err(error) => return Err(unavailable(&error)),
        }
    }
    Ok(lost)
}

/// Looks at the cartridges that are in the library, and counts those that can be fetched;
/// blocking.
pub(crate) fn media(repo: &Repo, media: &Media, points: &[PointId]) -> Result<Lost, Refusal> {
    let known = media.known()?;
    let reader =
        MediaReader::open(Arc::clone(&media.library)).map_err(|error| unavailable(&error))?;
    let trouble = points.iter().filter_map(|point| {
        let why = on_media(repo, &reader, &known, *point)?;
        Some((*point, why))
    });
    Ok(trouble.collect())
}

fn on_media(repo: &Repo, reader: &MediaReader, known: &Known, point: PointId) -> Option<String> {
    let manifest = match reader.manifest(point) {
        Ok(manifest) => manifest,
        Err(MediaError::NotHere { .. }) if known.holds_away(reader, point) => return None,
        Err(error) => return Some(Chain(&error).to_string()),
    };
    let head = match Manifest::decode_head(&manifest) {
        Ok(head) => head,
        Err(error) => return Some(Chain(&error).to_string()),
    };
    // Which packs it needs is known from the repository here, where it has them.
    let closure = repo.closure(&head.roots).ok()?;
    let absent = known.wanting(reader, &closure.packs, &[]).nowhere.len();
    (absent > 0).then(|| format!("{absent} packs are on no cartridge in the library or a vault"))
}
