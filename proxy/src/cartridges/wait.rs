//! What is to be fetched before a copy on media can be read: every cartridge at once, with the
//! place where each lies, before anything is loaded. What is only away is not lost.

use std::collections::{BTreeMap, BTreeSet};

use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{MediumId, PackId, PointId};
use strongroom_store::media::{MediaReader, MediumInfo, Wanting, wanting};
use strongroom_store::tape::Barcode;

use super::{Known, Left, Place};

impl Known {
    fn can_be_fetched(&self, medium: &MediumInfo) -> bool {
        let left = self.left(medium.medium, &medium.barcode);
        left.is_some_and(Left::can_be_fetched)
    }

    /// What these packs and manifests want, counting what can be fetched.
    pub(crate) fn wanting<'a>(
        &self,
        reader: &MediaReader,
        packs: impl IntoIterator<Item = &'a PackId>,
        points: &[PointId],
    ) -> Wanting {
        wanting(reader, packs, points, &|medium| self.can_be_fetched(medium))
    }

    /// The cartridges that hold a point of which nothing in the library tells: those that left
    /// with it, and what left of their sets before. Empty when none does.
    pub(crate) fn away_with(&self, point: PointId) -> BTreeSet<Barcode> {
        let fetchable = || {
            let left = self.left.iter().filter(|(_, left)| left.can_be_fetched());
            left.filter_map(|(barcode, left)| Some((barcode, left.contents.as_ref()?)))
        };
        let holds = fetchable().find(|(_, contents)| contents.points.contains(&point));
        let Some((_, with)) = holds else { return BTreeSet::new() };
        fetchable()
            .filter(|(_, contents)| contents.set == with.set && contents.sequence <= with.sequence)
            .map(|(barcode, _)| barcode.clone())
            .collect()
    }

    /// Whether a point that no cartridge in the library holds is on one that can be fetched.
    pub(crate) fn holds_away(&self, reader: &MediaReader, point: PointId) -> bool {
        let told = self.wanting(reader, &[], &[point]);
        told.nowhere_points.is_empty() || !self.away_with(point).is_empty()
    }

    /// Refuses to go on where a point's manifest, or a pack it needs, is on cartridges that can be
    /// fetched and nothing is missing besides.
    pub(crate) fn wait_for(
        &self,
        reader: &MediaReader,
        packs: &BTreeSet<PackId>,
        point: PointId,
    ) -> Result<(), Refusal> {
        let told = self.wanting(reader, packs, &[point]);
        if told.nowhere_points.is_empty() && told.nowhere.is_empty() {
            return self.fetch(&told.fetch);
        }
        if told.nowhere_points.is_empty() {
            // Reading tells what of it there is.
            return Ok(());
        }
        self.fetch_named(&self.away_with(point))
    }

    /// The refusal that names the cartridges to fetch, none if there are none to fetch.
    pub(crate) fn fetch(&self, media: &BTreeMap<MediumId, Barcode>) -> Result<(), Refusal> {
        let barcodes: BTreeSet<Barcode> = media
            .iter()
            .map(|(medium, barcode)| {
                // What is on its outside now.
                let of = |left: &Left| left.contents.as_ref().map(|on| on.medium);
                let outside = self.left.iter().find(|(_, left)| of(left) == Some(*medium));
                outside.map_or(barcode, |(outside, _)| outside).clone()
            })
            .collect();
        self.fetch_named(&barcodes)
    }

    /// The same by what is on the outside.
    pub(crate) fn fetch_named(&self, barcodes: &BTreeSet<Barcode>) -> Result<(), Refusal> {
        if barcodes.is_empty() {
            return Ok(());
        }
        let mut places: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for barcode in barcodes {
            let place = match self.left.get(barcode).map(|left| &left.place) {
                Some(Place::Vault(place)) => format!("from {place}"),
                Some(Place::Mail) => "that left by a mail slot".to_owned(),
                Some(Place::Lost) | None => "that nobody said the place of".to_owned(),
            };
            places.entry(place).or_default().push(barcode.as_str());
        }
        let each: Vec<String> = places
            .into_iter()
            .map(|(place, names)| format!("{} {place}", names.join(", ")))
            .collect();
        let text = format!("fetch cartridges {}", each.join("; and "));
        Err(Refusal::new(RefusalKind::Away, text))
    }
}
