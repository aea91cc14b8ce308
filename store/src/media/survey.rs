//! What the cartridges of a library are, from their labels and last catalogs. Promises that
//! only a cartridge without a single block counts as blank, and that an interrupted session
//! is told from damage. Refuses to call a medium appendable when it cannot tell.

use std::collections::{BTreeMap, BTreeSet};

use strongroom_protocol::{MediumId, PointId, RepoId};

use crate::media::MediaError;
use crate::media::catalog::{CatalogV1, EarlierV1, EntryV1, Held, MediumState, WhatV1};
use crate::media::label::{
    CATALOG_BYTES_MAX, CATALOG_MAGIC, FileKind, LABEL_BYTES_MAX, LABEL_MAGIC, LabelV1, unsealed,
};
use crate::media::reel::{FileEnd, Peek, Reel};
use crate::media::scan::{SESSION_UNKNOWN, Scanned, scan};
use crate::tape::{Barcode, Protection, TapeError, TapeLibrary};

/// In which state a medium of a set was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Health {
    /// Label and last catalog are right.
    Sound,
    /// A session broke off; what was finished before it is there.
    Interrupted,
    /// The label could not be read; a catalog or a scan told what is there.
    LabelDamaged,
    /// The last catalog could not be read; the medium was scanned and is written no more.
    CatalogDamaged,
    /// Not in the library; known from the catalogs of others.
    Absent,
}

/// File 0.
#[derive(Debug)]
pub(crate) enum LabelFound {
    Blank,
    Label(LabelV1),
    Damaged,
    /// Readable, and not ours.
    Foreign,
}

/// Where sessions may go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tail {
    /// Behind this file, the last whole catalog (or the label: no session yet).
    After { file: u32 },
    /// As `After`, with the remains of a session behind it.
    Remains { file: u32 },
    /// Damage that may hide a finished session.
    Doubtful,
}

/// A medium of a set.
#[derive(Clone, Debug)]
pub(crate) struct Medium {
    pub(crate) label: LabelV1,
    pub(crate) barcode: Barcode,
    pub(crate) state: MediumState,
    pub(crate) entries: Vec<EntryV1>,
    pub(crate) health: Health,
    /// The file behind which the next session goes.
    pub(crate) resume: Option<u32>,
    pub(crate) session_last: u32,
}

impl Medium {
    /// The points whose manifests are on it.
    pub(crate) fn points(&self) -> BTreeSet<PointId> {
        let point = |entry: &EntryV1| match entry.what {
            WhatV1::Point { point, .. } => Some(point),
            WhatV1::Config | WhatV1::Keys | WhatV1::Pack { .. } => None,
        };
        self.entries.iter().filter_map(point).collect()
    }
}

/// What a library holds.
#[derive(Default)]
pub(crate) struct Survey {
    pub(crate) media: BTreeMap<MediumId, Medium>,
    pub(crate) blanks: Vec<(Barcode, Protection)>,
}

impl Survey {
    /// The last session of any medium; 0 before the first.
    pub(crate) fn session_last(&self) -> u32 {
        self.media.values().map(|medium| medium.session_last).max().unwrap_or(0)
    }

    pub(crate) fn held(&self) -> Held {
        let mut held = Held::default();
        for (id, medium) in &self.media {
            for entry in &medium.entries {
                held.add(*id, medium.label.repo, entry);
            }
        }
        held
    }
}

/// How far to look into media without a readable label or catalog.
pub(crate) enum Depth<'a> {
    /// Only media for which this holds, by label or catalog.
    Set(&'a dyn Fn(&LabelV1) -> bool),
    /// Every cartridge; the unlabelled are scanned.
    All,
}

/// Loads every cartridge once and reads label and last catalog.
pub(crate) fn survey(library: &dyn TapeLibrary, depth: &Depth<'_>) -> Result<Survey, MediaError> {
    let mut survey = Survey::default();
    let mut history: Vec<EarlierV1> = Vec::new();
    let slots = library.inventory()?;
    for barcode in slots.into_iter().filter_map(|slot| slot.barcode) {
        let mut reel = match Reel::mount(library, &barcode) {
            Err(MediaError::Tape(TapeError::NoSuchCartridge { .. })) => continue,
            other => other?,
        };
        match look(&mut reel, depth)? {
            Look::Blank => survey.blanks.push((barcode, reel.protection())),
            Look::Other => {}
            Look::Medium(medium, earlier) => {
                history.extend(earlier);
                survey.media.insert(medium.label.medium, *medium);
            }
        }
        reel.unmount(library)?;
    }
    for earlier in history {
        remember(&mut survey, earlier);
    }
    Ok(survey)
}

/// Adds what a later catalog says of a medium to what the medium itself said.
fn remember(survey: &mut Survey, earlier: EarlierV1) {
    let nameless =
        |medium: &Medium| medium.barcode == earlier.label.barcode && medium.label.sequence == 0;
    let by_barcode = survey.media.iter().find(|(_, medium)| nameless(medium));
    if let Some(id) = by_barcode.map(|(id, _)| *id)
        && let Some(medium) = survey.media.remove(&id)
    {
        let medium = Medium { label: earlier.label.clone(), ..medium };
        survey.media.insert(earlier.label.medium, medium);
    }
    let EarlierV1 { label, state, entries } = earlier;
    // What was found without a catalog has no session that could be counted on from.
    let sessions = entries.iter().map(|entry| entry.session);
    let session_last = sessions.filter(|session| *session != SESSION_UNKNOWN).max().unwrap_or(0);
    let medium = survey.media.entry(label.medium).or_insert_with(|| Medium {
        barcode: label.barcode.clone(),
        label,
        state,
        entries: Vec::new(),
        health: Health::Absent,
        resume: None,
        session_last,
    });
    medium.session_last = medium.session_last.max(session_last);
    match medium.health {
        // Its own last catalog knows better, also what was overwritten.
        Health::Sound | Health::Interrupted => {}
        _ => merge(&mut medium.entries, entries),
    }
}

/// Adds entries of files not known yet; those of a catalog name their session.
fn merge(into: &mut Vec<EntryV1>, entries: Vec<EntryV1>) {
    let mut by_file: BTreeMap<u32, EntryV1> = into.iter().map(|e| (e.file, *e)).collect();
    by_file.extend(entries.into_iter().map(|entry| (entry.file, entry)));
    *into = by_file.into_values().collect();
}

pub(crate) enum Look {
    Blank,
    Other,
    Medium(Box<Medium>, Vec<EarlierV1>),
}

pub(crate) fn look(reel: &mut Reel, depth: &Depth<'_>) -> Result<Look, MediaError> {
    let found = label(reel)?;
    let label = match found {
        LabelFound::Blank => return Ok(Look::Blank),
        LabelFound::Foreign => return Ok(Look::Other),
        LabelFound::Label(label) => Some(label),
        LabelFound::Damaged => None,
    };
    let ours = |label: &LabelV1| match depth {
        Depth::Set(ours) => ours(label),
        Depth::All => true,
    };
    if label.as_ref().is_some_and(|label| !ours(label)) {
        return Ok(Look::Other);
    }
    let (catalog, tail) = tail(reel, label.as_ref())?;
    let named = label.clone().or_else(|| catalog.as_ref().map(|c| c.label.clone()));
    let unnamed = named.is_none();
    if named.as_ref().is_some_and(|label| !ours(label))
        || (unnamed && matches!(depth, Depth::Set(_)))
    {
        return Ok(Look::Other);
    }
    let barcode = reel.barcode().clone();
    let (mut entries, earlier, state, session_last) = match catalog {
        Some(c) => (c.entries, c.earlier, c.state, c.session),
        None => (Vec::new(), Vec::new(), MediumState::Open, 0),
    };
    let mut scanned = Scanned::default();
    if tail == Tail::Doubtful {
        scanned = scan(reel, &entries)?;
        let known = std::mem::replace(&mut entries, std::mem::take(&mut scanned.entries));
        merge(&mut entries, known);
    }
    let Some(named) = named.or_else(|| name(&mut scanned, &barcode)) else {
        return Ok(Look::Other);
    };
    let (health, resume) = match tail {
        _ if label.is_none() => (Health::LabelDamaged, None),
        Tail::After { file } => (Health::Sound, Some(file)),
        Tail::Remains { file } => (Health::Interrupted, Some(file)),
        Tail::Doubtful => (Health::CatalogDamaged, None),
    };
    let state = if resume.is_none() { MediumState::Sealed } else { state };
    let medium = Medium { label: named, barcode, state, entries, health, resume, session_last };
    Ok(Look::Medium(Box::new(medium), earlier))
}

/// A label for a medium that has neither label nor catalog, from its files; sequence 0.
fn name(scanned: &mut Scanned, barcode: &Barcode) -> Option<LabelV1> {
    if let Some(label) = scanned.label.take() {
        return Some(label);
    }
    let repo: RepoId = scanned.repo?;
    let hash = blake3::hash(barcode.as_str().as_bytes());
    let id = hash.as_bytes().first_chunk::<16>()?;
    Some(LabelV1 {
        medium: MediumId::from_bytes(*id),
        barcode: barcode.clone(),
        set: "unknown".parse().ok()?,
        sequence: 0,
        org: scanned.org.take().or_else(|| "unknown".parse().ok())?,
        repo,
        written_ns: 0,
        block: 0,
    })
}

/// Reads file 0.
pub(crate) fn label(reel: &mut Reel) -> Result<LabelFound, MediaError> {
    let head = match reel.peek(0)? {
        Peek::Block(head) => head,
        Peek::Damaged => return Ok(LabelFound::Damaged),
        // A medium that begins with a filemark was written by somebody.
        Peek::Empty if reel.filemarks()? > 0 => return Ok(LabelFound::Foreign),
        Peek::Empty => return Ok(LabelFound::Blank),
    };
    if FileKind::of(&head) != FileKind::Label {
        return Ok(LabelFound::Foreign);
    }
    match reel.read_file(0, LABEL_BYTES_MAX) {
        Ok((bytes, _)) => {
            Ok(unsealed(LABEL_MAGIC, &bytes).map_or(LabelFound::Damaged, LabelFound::Label))
        }
        Err(MediaError::FlawedFile { .. } | MediaError::FileTooLong { .. }) => {
            Ok(LabelFound::Damaged)
        }
        Err(error) => Err(error),
    }
}

/// The last whole catalog, looked for from the end.
fn tail(reel: &mut Reel, label: Option<&LabelV1>) -> Result<(Option<CatalogV1>, Tail), MediaError> {
    let filemarks = reel.filemarks()?;
    let (mut doubtful, mut remains) = (false, false);
    let place = |file, doubtful, remains| match (doubtful, remains) {
        (true, _) => Tail::Doubtful,
        (false, true) => Tail::Remains { file },
        (false, false) => Tail::After { file },
    };
    for file in (1..=filemarks).rev() {
        let kind = match reel.peek(file)? {
            Peek::Empty if file == filemarks => continue,
            Peek::Empty | Peek::Damaged => FileKind::Unknown,
            Peek::Block(head) => FileKind::of(&head),
        };
        match kind {
            FileKind::Catalog => match catalog(reel, file)? {
                CatalogFound::Whole(found) => {
                    if label.is_none_or(|label| label.medium == found.label.medium) {
                        return Ok((Some(*found), place(file, doubtful, remains)));
                    }
                    doubtful = true;
                }
                CatalogFound::Torn => remains = true,
                CatalogFound::Damaged => doubtful = true,
            },
            // Only what a session writes before its catalog can be left by an interruption.
            FileKind::Config | FileKind::Keys | FileKind::Pack | FileKind::Manifest => {
                remains = true;
            }
            FileKind::Label | FileKind::Unknown => doubtful = true,
        }
    }
    Ok((None, place(0, doubtful || label.is_none(), remains)))
}

enum CatalogFound {
    Whole(Box<CatalogV1>),
    /// It never got its filemark: its session was not finished.
    Torn,
    Damaged,
}

fn catalog(reel: &mut Reel, file: u32) -> Result<CatalogFound, MediaError> {
    match reel.read_file(file, CATALOG_BYTES_MAX) {
        Ok((bytes, end)) => match (unsealed::<CatalogV1>(CATALOG_MAGIC, &bytes), end) {
            (Some(catalog), _) => Ok(CatalogFound::Whole(Box::new(catalog))),
            (None, FileEnd::EndOfData) => Ok(CatalogFound::Torn),
            (None, FileEnd::Filemark) => Ok(CatalogFound::Damaged),
        },
        Err(MediaError::FlawedFile { .. } | MediaError::FileTooLong { .. }) => {
            Ok(CatalogFound::Damaged)
        }
        Err(error) => Err(error),
    }
}

/// The newest entry of a kind on a medium.
pub(crate) fn latest(medium: &Medium, what: WhatV1) -> Option<&EntryV1> {
    medium.entries.iter().filter(|entry| entry.what == what).max_by_key(|entry| entry.file)
}
