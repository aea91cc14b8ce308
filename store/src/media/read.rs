//! Reading media without a key: what is there, and its files, each checked. Promises that
//! absent cartridges and damaged files cost only what lies on them, and that a receiver
//! never sees the regular end of a pack whose bytes are not its name's. Writes nothing.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::{self, Read};
use std::sync::Arc;

use strongroom_protocol::{MediumId, PackId, PointId, RepoId};

use crate::media::MediaError;
use crate::media::catalog::{EntryV1, Held, Place, WhatV1};
use crate::media::known::{MediumInfo, SetInfo, info};
use crate::media::label::{CONFIG_BYTES_MAX, MANIFEST_BYTES_MAX, ManifestHead, checked, repo_of};
use crate::media::reel::{FileReader, Reel};
use crate::media::scan::{FileReport, scan};
use crate::media::survey::{Depth, Health, Medium, Survey, latest, survey};
use crate::tape::{Barcode, TapeError, TapeLibrary};

/// How much of a pack is read at a time when its receiver wants no more of it.
const DRAIN_BYTES: usize = 64 * 1024;

/// A pack that was tried and is not whole where it lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FlawedPack {
    pub pack: PackId,
    pub barcode: Barcode,
    pub file: u32,
}

/// What fetching packs came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FetchReport {
    pub fetched: u64,
    pub bytes: u64,
    /// Every place that failed, also when another place served.
    pub flawed: Vec<FlawedPack>,
    /// Wanted packs that were not delivered.
    pub missing: BTreeSet<PackId>,
    /// Cartridges that are not in the library and are said to hold some of the missing.
    pub wanted: BTreeSet<Barcode>,
}

/// Lists and reads what the cartridges in a library hold.
pub struct MediaReader {
    library: Arc<dyn TapeLibrary>,
    survey: Survey,
    held: Held,
}

impl std::fmt::Debug for MediaReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MediaReader").finish_non_exhaustive()
    }
}

impl MediaReader {
    /// Loads every cartridge once; those without readable label or catalog are scanned.
    pub fn open(library: Arc<dyn TapeLibrary>) -> Result<Self, MediaError> {
        let survey = survey(library.as_ref(), &Depth::All)?;
        let held = survey.held();
        Ok(Self { library, survey, held })
    }

    pub(crate) fn medium(&self, id: MediumId) -> Option<&Medium> {
        self.survey.media.get(&id)
    }

    /// All packs and points on media here, or said to be on absent ones.
    pub const fn held(&self) -> &Held {
        &self.held
    }

    /// Whether a cartridge that is in the library is said to hold the pack.
    pub fn is_here(&self, pack: &PackId) -> bool {
        let places = self.held.packs.get(pack).map_or(&[][..], |held| &held.places);
        places.iter().any(|place| {
            let medium = self.survey.media.get(&place.medium);
            medium.is_some_and(|medium| medium.health != Health::Absent)
        })
    }

    /// Every medium known, in the order of set and sequence.
    pub fn media(&self) -> Vec<MediumInfo> {
        let mut media: Vec<MediumInfo> = self.survey.media.values().map(info).collect();
        media.sort_by(|a, b| {
            (a.repo, &a.set, a.sequence, a.medium).cmp(&(b.repo, &b.set, b.sequence, b.medium))
        });
        media
    }

    /// Every media set known.
    pub fn sets(&self) -> Vec<SetInfo> {
        let mut sets: Vec<SetInfo> = Vec::new();
        for MediumInfo { medium, org, repo, set, sessions, .. } in self.media() {
            match sets.iter_mut().find(|s| (&s.org, s.repo, &s.set) == (&org, repo, &set)) {
                Some(known) => {
                    known.media.push(medium);
                    known.sessions.extend(sessions);
                }
                None => sets.push(SetInfo { org, repo, set, media: vec![medium], sessions }),
            }
        }
        sets
    }

    /// The repository's `config`, from the newest medium that has it whole.
    pub fn config(&self, repo: RepoId) -> Result<Vec<u8>, MediaError> {
        self.header(repo, WhatV1::Config, "the config")
    }

    /// The repository's `keys` as last written.
    pub fn keys(&self, repo: RepoId) -> Result<Vec<u8>, MediaError> {
        self.header(repo, WhatV1::Keys, "the keys")
    }

    /// Every `keys` of the repository that is whole on a medium here, newest first, until one
    /// will do: who lost the newest secret may have that of an older copy.
    pub fn find_keys(
        &self,
        repo: RepoId,
        will_do: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<(), MediaError> {
        let mut media: Vec<&Medium> = self.survey.media.values().collect();
        media.retain(|medium| medium.label.repo == repo && medium.health != Health::Absent);
        media.sort_by_key(|medium| (medium.session_last, medium.label.sequence));
        let mut seen = BTreeSet::new();
        for medium in media.into_iter().rev() {
            let keys = |entry: &&EntryV1| entry.what == WhatV1::Keys;
            let mut files: Vec<u32> =
                medium.entries.iter().filter(keys).map(|entry| entry.file).collect();
            files.sort_unstable();
            for file in files.into_iter().rev() {
                let bytes = self.file(medium, file, CONFIG_BYTES_MAX)?;
                let right = |bytes: &Vec<u8>| checked(bytes).and_then(repo_of) == Some(repo);
                let bytes = bytes.filter(right);
                // The same on every cartridge is tried once.
                let new = bytes.filter(|bytes| seen.insert(*blake3::hash(bytes).as_bytes()));
                if new.is_some_and(|bytes| will_do(&bytes)) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The manifest of a point, from the first place that has it whole.
    pub fn manifest(&self, point: PointId) -> Result<Vec<u8>, MediaError> {
        let places = self.held.points.get(&point).map(|held| held.places.clone());
        let mut wanted = Vec::new();
        for place in places.unwrap_or_default() {
            let Some(medium) = self.survey.media.get(&place.medium) else { continue };
            if medium.health == Health::Absent {
                wanted.push(medium.barcode.clone());
                continue;
            }
            let bytes = self.file(medium, place.file, MANIFEST_BYTES_MAX)?;
            let right =
                |bytes: &Vec<u8>| ManifestHead::of(bytes).is_some_and(|head| head.point == point);
            if let Some(bytes) = bytes.filter(right) {
                return Ok(bytes);
            }
        }
        Err(MediaError::NotHere { what: format!("the manifest of point {point}"), wanted })
    }

    /// Reads packs, each medium once and in its order, and hands each to `sink`. A pack that
    /// turns out wrong ends for the sink with an error of kind `InvalidData` instead of its
    /// end; it is then tried at its other places. Whether it came is in the report.
    pub fn fetch_packs(
        &self,
        wanted: &HashSet<PackId>,
        sink: &mut dyn FnMut(PackId, &mut dyn Read) -> io::Result<()>,
    ) -> Result<FetchReport, MediaError> {
        let mut report = FetchReport { missing: wanted.iter().copied().collect(), ..blank() };
        let mut tried: HashSet<(PackId, MediumId, u32)> = HashSet::new();
        loop {
            let round = self.round(&report.missing, &mut tried);
            if round.is_empty() {
                break;
            }
            for ((_, id), files) in round {
                if let Some(medium) = self.survey.media.get(&id) {
                    self.fetch_from(medium, &files, &mut report, sink)?;
                }
            }
        }
        let places = |pack| self.held.packs.get(pack).map(|held| held.places.as_slice());
        let lost = report.missing.iter().flat_map(|pack| places(pack).unwrap_or_default());
        let media = lost.filter_map(|place| self.survey.media.get(&place.medium));
        let absent = media.filter(|medium| medium.health == Health::Absent);
        report.wanted = absent.map(|medium| medium.barcode.clone()).collect();
        Ok(report)
    }

    /// Reads every block of a medium and checks every file.
    pub fn verify(&self, medium: MediumId) -> Result<Vec<FileReport>, MediaError> {
        let known = self.survey.media.get(&medium);
        let known = known.ok_or(MediaError::UnknownMedium { medium })?;
        if known.health == Health::Absent {
            let barcode = known.barcode.clone();
            return Err(MediaError::MediumAbsent { medium, barcode });
        }
        let mut reel = Reel::mount(self.library.as_ref(), &known.barcode)?;
        let scanned = scan(&mut reel, &known.entries)?;
        reel.unmount(self.library.as_ref())?;
        Ok(scanned.files)
    }

    /// For each pack the next place not tried yet, by medium and file.
    fn round(
        &self,
        missing: &BTreeSet<PackId>,
        tried: &mut HashSet<(PackId, MediumId, u32)>,
    ) -> BTreeMap<(u32, MediumId), BTreeMap<u32, (PackId, Place)>> {
        let mut round: BTreeMap<(u32, MediumId), BTreeMap<u32, _>> = BTreeMap::new();
        for pack in missing {
            let places = self.held.packs.get(pack).map_or(&[][..], |held| &held.places);
            let next = places.iter().find_map(|place| {
                let medium = self.survey.media.get(&place.medium)?;
                let here = medium.health != Health::Absent;
                let fresh = here && tried.insert((*pack, place.medium, place.file));
                fresh.then_some((medium.label.sequence, *place))
            });
            if let Some((sequence, place)) = next {
                let files = round.entry((sequence, place.medium)).or_default();
                files.insert(place.file, (*pack, place));
            }
        }
        round
    }

    fn fetch_from(
        &self,
        medium: &Medium,
        files: &BTreeMap<u32, (PackId, Place)>,
        report: &mut FetchReport,
        sink: &mut dyn FnMut(PackId, &mut dyn Read) -> io::Result<()>,
    ) -> Result<(), MediaError> {
        let mut reel = Reel::mount(self.library.as_ref(), &medium.barcode)?;
        for (file, (pack, place)) in files {
            if fetch(&mut reel, *file, *pack, sink)? {
                report.fetched += 1;
                report.bytes += place.bytes;
                report.missing.remove(pack);
            } else {
                let barcode = medium.barcode.clone();
                report.flawed.push(FlawedPack { pack: *pack, barcode, file: *file });
            }
        }
        reel.unmount(self.library.as_ref())
    }

    fn header(
        &self,
        repo: RepoId,
        what: WhatV1,
        name: &'static str,
    ) -> Result<Vec<u8>, MediaError> {
        let mut media: Vec<&Medium> = self.survey.media.values().collect();
        media.retain(|medium| medium.label.repo == repo);
        media.sort_by_key(|medium| (medium.session_last, medium.label.sequence));
        let mut wanted = Vec::new();
        for medium in media.into_iter().rev() {
            let Some(entry) = latest(medium, what) else { continue };
            if medium.health == Health::Absent {
                wanted.push(medium.barcode.clone());
                continue;
            }
            let bytes = self.file(medium, entry.file, CONFIG_BYTES_MAX)?;
            let right = |bytes: &Vec<u8>| checked(bytes).and_then(repo_of) == Some(repo);
            if let Some(bytes) = bytes.filter(right) {
                return Ok(bytes);
            }
        }
        Err(MediaError::NotHere { what: format!("{name} of repository {repo}"), wanted })
    }

    /// A small file of a medium; None when it cannot be read whole.
    fn file(&self, medium: &Medium, file: u32, limit: u64) -> Result<Option<Vec<u8>>, MediaError> {
        let mut reel = Reel::mount(self.library.as_ref(), &medium.barcode)?;
        let read = reel.read_file(file, limit);
        reel.unmount(self.library.as_ref())?;
        match read {
            Ok((bytes, _)) => Ok(Some(bytes)),
            Err(
                MediaError::FlawedFile { .. }
                | MediaError::FileTooLong { .. }
                | MediaError::Tape(TapeError::Damaged { .. } | TapeError::PastEndOfData { .. }),
            ) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn blank() -> FetchReport {
    FetchReport::default()
}

/// Hands one pack to the sink; false when what lies there is not the whole pack.
fn fetch(
    reel: &mut Reel,
    file: u32,
    pack: PackId,
    sink: &mut dyn FnMut(PackId, &mut dyn Read) -> io::Result<()>,
) -> Result<bool, MediaError> {
    let reader = match reel.reader(file) {
        Err(TapeError::Damaged { .. } | TapeError::PastEndOfData { .. }) => return Ok(false),
        other => other?,
    };
    let hasher = blake3::Hasher::new();
    let mut proving = Proving { reader, hasher, pack, proof: Proof::Open };
    let taken = sink(pack, &mut proving);
    let mut drain = vec![0; DRAIN_BYTES];
    while taken.is_ok() && proving.proof == Proof::Open {
        if proving.read(&mut drain).is_err() {
            break;
        }
    }
    match (taken, proving.proof) {
        (_, Proof::Wrong) => Ok(false),
        (Ok(()), _) => Ok(proving.proof == Proof::Right),
        (Err(source), _) => Err(MediaError::Sink { pack, source }),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Proof {
    Open,
    Right,
    Wrong,
}

/// A pack on its way, hashed; its end is only given when the hash is right.
struct Proving<'a> {
    reader: FileReader<'a>,
    hasher: blake3::Hasher,
    pack: PackId,
    proof: Proof,
}

impl Read for Proving<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.proof == Proof::Wrong {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if into.is_empty() {
            return Ok(0);
        }
        let bytes = self.reader.read(into).inspect_err(|_| self.proof = Proof::Wrong)?;
        self.hasher.update(&into[..bytes]);
        if bytes == 0 && self.proof == Proof::Open {
            let right = self.hasher.finalize().as_bytes() == &self.pack.0;
            self.proof = if right { Proof::Right } else { Proof::Wrong };
            if !right {
                let wrong = MediaError::PackMismatch { pack: self.pack };
                return Err(io::Error::new(io::ErrorKind::InvalidData, wrong));
            }
        }
        Ok(bytes)
    }
}
