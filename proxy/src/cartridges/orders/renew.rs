//! Copies from cartridge to cartridge: to another set, or to younger cartridges of the same set,
//! after which the old one is retired. Promises that until all of it was read back from where it
//! was written nothing is noted, so that at no moment fewer copies count than before.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{MediaSetName, MediumId, PackId};
use strongroom_store::media::{
    Copied, Health, MediaError, MediaIdentity, MediaReader, MediaSetWriter, MediumInfo, SetOrder,
    Source, Spare, copy_media,
};
use strongroom_store::tape::Barcode;

use super::{Answer, Keeping, Look, invalid};
use crate::aux::order_of;
use crate::cartridges::{What, unavailable};

/// What may wait on the disk between one drive's reading and its writing.
const SPARE_BYTES: u64 = 1 << 30;

impl Keeping {
    /// A cartridge, and what its points need of its set, to another set.
    pub(super) fn copy(&self, barcode: &str, set: &MediaSetName) -> Answer<String> {
        let barcode = one(barcode)?;
        let look = self.look()?;
        let reader = self.reader()?;
        let medium = present(&look, &reader, &barcode)?;
        if medium.set == *set {
            let text = format!(
                "cartridge {barcode} is of set {set} itself: name another set, or renew it with \
                 `media refresh`"
            );
            return Err(invalid(text));
        }
        let session_max = medium.sessions.last().copied().unwrap_or(0);
        let mut writer = self.writer(&look, &reader, &medium, set)?;
        let (packs, media) = needs(&reader, &medium, session_max);
        let lacking: Vec<PackId> =
            packs.into_iter().filter(|pack| !writer.held().has_pack(pack)).collect();
        let wanting = look.known.wanting(&reader, &lacking, &[]);
        if !wanting.nowhere.is_empty() {
            let text = format!(
                "{} packs that points on {barcode} may need are on no cartridge here or in a \
                 vault; `media ls` shows which cartridges are away",
                wanting.nowhere.len()
            );
            return Err(Refusal::new(RefusalKind::Missing, text));
        }
        look.known.fetch(&wanting.fetch)?;
        let source = Source { reader: &reader, media: &media, session_max };
        let copied = self.run(source, &mut writer)?;
        whole(&copied, &barcode)?;
        let onto: Vec<Barcode> = copied.onto.iter().cloned().collect();
        self.note(&barcode, What::Copied { set: set.clone(), onto })?;
        Ok(match copied.onto.is_empty() {
            true => format!("set {set} holds all of {barcode} already"),
            false => format!("{}, set {set}, each read back whole", told(&copied)),
        })
    }

    /// Cartridges to younger ones of their sets; the old ones are retired, each once its copy is
    /// proven.
    pub(super) fn refresh(&self, barcodes: &[String]) -> Answer<String> {
        let named: BTreeSet<Barcode> =
            barcodes.iter().map(|text| one(text)).collect::<Answer<_>>()?;
        let look = self.look()?;
        let reader = self.reader()?;
        let mut media = Vec::new();
        for barcode in &named {
            let medium = present(&look, &reader, barcode)?;
            if let Some(onto) = look.known.retired.get(&medium.medium) {
                let onto: Vec<&str> = onto.iter().map(Barcode::as_str).collect();
                let text = format!("cartridge {barcode} is retired: it is on {}", onto.join(" "));
                return Err(invalid(text));
            }
            media.push(medium);
        }
        if named.is_empty() {
            let due = |medium: &MediumInfo| {
                self.due(&look.known, medium).is_some()
                    && !look.known.retired.contains_key(&medium.medium)
            };
            media = reader.media().into_iter().filter(due).collect();
        }
        if media.is_empty() {
            return Ok("no cartridge here is due for refresh".to_owned());
        }
        let old: Vec<MediumId> = media.iter().map(|medium| medium.medium).collect();
        let mut done = Vec::new();
        for medium in &media {
            let one = self.refresh_one(&look, medium, &old);
            done.push(one.map_err(|refusal| super::after(&done, refusal))?);
        }
        Ok(done.join("; "))
    }

    fn refresh_one(&self, look: &Look, medium: &MediumInfo, old: &[MediumId]) -> Answer<String> {
        // The one before may have changed what lies where.
        let reader = self.reader()?;
        let mut writer = self.writer(look, &reader, medium, &medium.set)?;
        old.iter().for_each(|old| writer.seal_medium(*old));
        writer.forget_all_on(medium.medium);
        let media = [medium.medium];
        let source = Source { reader: &reader, media: &media, session_max: u32::MAX };
        let copied = self.run(source, &mut writer)?;
        whole(&copied, &medium.barcode)?;
        let media = writer.media_of(&copied.onto);
        let onto = copied.onto.iter().cloned().collect();
        self.note(&medium.barcode, What::Retired { medium: medium.medium, onto, media })?;
        Ok(format!("{} is retired: {}, read back whole", medium.barcode, told(&copied)))
    }

    fn run(&self, source: Source<'_>, writer: &mut MediaSetWriter) -> Answer<Copied> {
        let spare = Spare { folder: &self.spare, bytes: SPARE_BYTES };
        copy_media(&self.library, source, writer, spare).map_err(|error| unavailable(&error))
    }

    /// For the set that a copy goes to: with the keys as they are now, or, of a foreign vault,
    /// with those on its media.
    fn writer(
        &self,
        look: &Look,
        reader: &MediaReader,
        medium: &MediumInfo,
        set: &MediaSetName,
    ) -> Answer<MediaSetWriter> {
        let released = look.known.released_for(set, &self.settings, &look.slots);
        let order = match medium.repo == self.repo.id() {
            true => {
                let own = order_of(&self.repo, set.clone()).map_err(|error| unavailable(&error))?;
                SetOrder { released, ..own.0 }
            }
            false => {
                let of_media = |error: MediaError| unavailable(&error);
                let identity = MediaIdentity { org: medium.org.clone(), repo: medium.repo };
                let config = reader.config(medium.repo).map_err(of_media)?;
                let keys = reader.keys(medium.repo).map_err(of_media)?;
                SetOrder { set: set.clone(), identity, config, keys, released }
            }
        };
        let writer =
            MediaSetWriter::open(Arc::clone(&self.library), order, Arc::clone(&self.clock));
        writer.map_err(|error| unavailable(&error))
    }
}

fn one(barcode: &str) -> Answer<Barcode> {
    barcode.parse().map_err(|error| invalid(format!("{error}")))
}

/// The medium in the library that has this barcode.
fn present(look: &Look, reader: &MediaReader, barcode: &Barcode) -> Answer<MediumInfo> {
    let is_it = |medium: &MediumInfo| medium.health != Health::Absent && medium.barcode == *barcode;
    match reader.media().into_iter().find(is_it) {
        Some(medium) => Ok(medium),
        None if look.known.left.contains_key(barcode) => {
            look.known.fetch_named(&BTreeSet::from([barcode.clone()]))?;
            Err(look.unknown(barcode))
        }
        None if look.slot(barcode).is_some() => Err(invalid(format!(
            "cartridge {barcode} is blank or not ours: nothing to copy is on it"
        ))),
        None => Err(look.unknown(barcode)),
    }
}

/// The packs that points on a medium may need, by the sessions of its set, and the media that are
/// here with any of them.
fn needs(
    reader: &MediaReader,
    medium: &MediumInfo,
    session_max: u32,
) -> (HashSet<PackId>, Vec<MediumId>) {
    let of_set = |other: &MediumInfo| {
        (&other.org, other.repo, &other.set) == (&medium.org, medium.repo, &medium.set)
    };
    let set: Vec<MediumInfo> = reader.media().into_iter().filter(of_set).collect();
    let of_these = |place: &strongroom_store::media::Place| {
        place.session <= session_max && set.iter().any(|medium| medium.medium == place.medium)
    };
    let packs = reader.held().packs.iter();
    let packs = packs.filter(|(_, held)| held.places.iter().any(of_these));
    let early = |other: &&MediumInfo| {
        let first = other.sessions.first().copied().unwrap_or(0);
        other.health != Health::Absent && first <= session_max
    };
    let media = set.iter().filter(early).map(|medium| medium.medium).collect();
    (packs.map(|(pack, _)| *pack).collect(), media)
}

fn whole(copied: &Copied, barcode: &Barcode) -> Answer<()> {
    if copied.is_whole() {
        return Ok(());
    }
    let text = format!(
        "{} packs on {barcode} can be read neither there nor on another cartridge here; what could \
         be read was written, no point of it counts as copied, and the old one stays what it is",
        copied.unreadable.len()
    );
    Err(Refusal::new(RefusalKind::Damaged, text))
}

fn told(copied: &Copied) -> String {
    let onto: Vec<&str> = copied.onto.iter().map(Barcode::as_str).collect();
    let Copied { packs, points, .. } = copied;
    format!("{packs} packs and {points} points are on {}", onto.join(" "))
}
