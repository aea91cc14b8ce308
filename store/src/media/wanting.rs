//! Which cartridges must be fetched before something can be read: all of them, before the first is
//! loaded. Refuses nothing; whether one can be fetched is for its caller to know.

use std::collections::{BTreeMap, HashMap, HashSet};

use strongroom_protocol::{MediumId, PackId, PointId};

use crate::media::catalog::Place;
use crate::media::known::{MediumInfo, info};
use crate::media::read::MediaReader;
use crate::media::reel::Reel;
use crate::media::survey::{Depth, Health, Look, look};
use crate::media::{MediaError, WhatIsOn};
use crate::tape::{Barcode, TapeLibrary};

/// What is on no cartridge in the library.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wanting {
    /// Cartridges to fetch: with them all of it is here but what is nowhere.
    pub fetch: BTreeMap<MediumId, Barcode>,
    /// Packs that no cartridge holds which could be fetched.
    pub nowhere: HashSet<PackId>,
    /// Points whose manifests no cartridge holds which could be fetched.
    pub nowhere_points: HashSet<PointId>,
}

impl Wanting {
    /// Chooses a cartridge to fetch; false when there is none for it.
    fn choose(
        &mut self,
        places: Option<&Vec<Place>>,
        media: &HashMap<MediumId, MediumInfo>,
        can_be_fetched: &dyn Fn(&MediumInfo) -> bool,
    ) -> bool {
        let places: &[Place] = places.map_or(&[], Vec::as_slice);
        let lie: Vec<&MediumInfo> =
            places.iter().filter_map(|place| media.get(&place.medium)).collect();
        let is_settled = |medium: &&MediumInfo| {
            medium.health != Health::Absent || self.fetch.contains_key(&medium.medium)
        };
        if lie.iter().any(is_settled) {
            return true;
        }
        let chosen = lie.into_iter().find(|medium| can_be_fetched(medium));
        self.fetch.extend(chosen.map(|medium| (medium.medium, medium.barcode.clone())));
        chosen.is_some()
    }
}

/// What is wanting for these packs and manifests; only cartridges that `can_be_fetched` count.
pub fn wanting<'a>(
    reader: &MediaReader,
    packs: impl IntoIterator<Item = &'a PackId>,
    points: &[PointId],
    can_be_fetched: &dyn Fn(&MediumInfo) -> bool,
) -> Wanting {
    let media: HashMap<MediumId, MediumInfo> =
        reader.media().into_iter().map(|medium| (medium.medium, medium)).collect();
    let held = reader.held();
    let mut wanting = Wanting::default();
    for pack in packs {
        let places = held.packs.get(pack).map(|held| &held.places);
        if !wanting.choose(places, &media, can_be_fetched) {
            wanting.nowhere.insert(*pack);
        }
    }
    for point in points {
        let places = held.points.get(point).map(|held| &held.places);
        if !wanting.choose(places, &media, can_be_fetched) {
            wanting.nowhere_points.insert(*point);
        }
    }
    wanting
}

/// Loads one cartridge and tells what is on it; none for a blank or foreign one.
pub fn what_is_on(
    library: &dyn TapeLibrary,
    barcode: &Barcode,
) -> Result<Option<WhatIsOn>, MediaError> {
    let mut reel = Reel::mount(library, barcode)?;
    let found = look(&mut reel, &Depth::All)?;
    reel.unmount(library)?;
    Ok(match found {
        Look::Medium(medium, _) => Some(WhatIsOn { points: medium.points(), info: info(&medium) }),
        Look::Blank | Look::Other => None,
    })
}
