//! From cartridge to cartridge: every pack is checked against its name on the way, and what was
//! written is read back whole before it is reported. With two drives both move at once; with one,
//! what is read waits in a bounded folder. Promises that nothing is taken from what is copied.
//! Refuses to copy a manifest while a pack of the copied media could be had nowhere.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use strongroom_protocol::{MediumId, PackId, PointId, WorkloadId};

use crate::media::MediaError;
use crate::media::catalog::{EntryV1, WhatV1};
use crate::media::label::{MANIFEST_BYTES_MAX, ManifestHead};
use crate::media::read::MediaReader;
use crate::media::reel::Reel;
use crate::media::scan::Verdict;
use crate::media::set::MediaSetWriter;
use crate::media::survey::Health;
use crate::tape::{Barcode, TapeError, TapeLibrary};

/// Packs read ahead of the writing drive, besides the one each side has in hand.
const AHEAD: usize = 1;

/// Room for what was read and is not written yet.
#[derive(Clone, Copy, Debug)]
pub struct Spare<'a> {
    /// Begun empty, and empty at the end.
    pub folder: &'a Path,
    /// As much lies there at most, and one pack more.
    pub bytes: u64,
}

/// What copying came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Copied {
    pub packs: u64,
    pub points: u64,
    pub bytes: u64,
    /// What was written on, each read back.
    pub onto: BTreeSet<Barcode>,
    /// Packs that could be read nowhere. Points were then not copied.
    pub unreadable: BTreeSet<PackId>,
}

impl Copied {
    /// Whether all that was to be copied is on its new media.
    pub fn is_whole(&self) -> bool {
        self.unreadable.is_empty()
    }
}

/// A file to be copied.
struct Job {
    barcode: Barcode,
    entry: EntryV1,
}

enum Item {
    Pack(PackId, Vec<u8>),
    Manifest(WorkloadId, PointId, Vec<u8>),
    /// It is not what its catalog says.
    Flawed(WhatV1),
}

/// What was put aside until all packs are written.
#[derive(Default)]
struct Aside {
    manifests: Vec<(WorkloadId, PointId, Vec<u8>)>,
    flawed: HashSet<PackId>,
    flawed_points: BTreeSet<PointId>,
}

/// What is copied: the files of these media that no later session than this one wrote.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    pub reader: &'a MediaReader,
    pub media: &'a [MediumId],
    pub session_max: u32,
}

/// Copies what the set of `writer` does not hold. Blocking.
pub fn copy_media(
    library: &Arc<dyn TapeLibrary>,
    source: Source<'_>,
    writer: &mut MediaSetWriter,
    spare: Spare<'_>,
) -> Result<Copied, MediaError> {
    empty(spare.folder)?;
    let Source { reader, media: from, .. } = source;
    let jobs = plan(source, writer)?;
    let mut copied = Copied::default();
    let mut aside = Aside::default();
    match library.drives() {
        0 | 1 => by_turns(library.as_ref(), &jobs, writer, spare, (&mut copied, &mut aside))?,
        _ => at_once(library.as_ref(), &jobs, writer, (&mut copied, &mut aside))?,
    }
    rescue(reader, writer, spare, (&mut copied, &mut aside))?;
    let mut points = BTreeSet::new();
    if copied.is_whole() && !aside.manifests.is_empty() {
        writer.begin(0)?;
        for (workload, point, manifest) in &aside.manifests {
            writer.put_manifest(*workload, *point, manifest)?;
            points.insert(*point);
        }
        close(writer, &mut copied)?;
    }
    let packs = jobs.iter().filter_map(|job| pack_of(&job.entry.what));
    let packs = packs.filter(|pack| !copied.unreadable.contains(pack)).collect();
    prove(library, from, &copied, (&packs, &points))?;
    empty(spare.folder)?;
    Ok(copied)
}

const fn pack_of(what: &WhatV1) -> Option<PackId> {
    match what {
        WhatV1::Pack { id, .. } => Some(*id),
        WhatV1::Config | WhatV1::Keys | WhatV1::Point { .. } => None,
    }
}

/// What is to be read, medium by medium and in the order in which it lies.
fn plan(source: Source<'_>, writer: &MediaSetWriter) -> Result<Vec<Job>, MediaError> {
    let mut media = Vec::new();
    for id in source.media {
        media.push(source.reader.medium(*id).ok_or(MediaError::UnknownMedium { medium: *id })?);
    }
    media.sort_by_key(|medium| medium.label.sequence);
    let mut seen: HashSet<WhatV1> = HashSet::new();
    let mut jobs = Vec::new();
    for medium in media {
        let mut entries: Vec<&EntryV1> = medium.entries.iter().collect();
        entries.sort_by_key(|entry| entry.file);
        for entry in entries {
            let lacks = match &entry.what {
                WhatV1::Config | WhatV1::Keys => false,
                WhatV1::Pack { id, .. } => !writer.held().has_pack(id),
                WhatV1::Point { point, .. } => !writer.held().has_point(point),
            };
            let is_early = entry.session <= source.session_max;
            if lacks && is_early && seen.insert(entry.what) {
                jobs.push(Job { barcode: medium.barcode.clone(), entry: *entry });
            }
        }
    }
    Ok(jobs)
}

/// Reads files from `jobs` on until `sink` has enough; how many were read.
fn read_files(
    library: &dyn TapeLibrary,
    jobs: &[Job],
    sink: &mut dyn FnMut(Item) -> io::Result<bool>,
) -> Result<usize, MediaError> {
    let mut done = 0;
    while let Some(first) = jobs.get(done) {
        let mut reel = Reel::mount(library, &first.barcode)?;
        let here = jobs[done..].iter().take_while(|job| job.barcode == first.barcode);
        for job in here {
            let item = read_one(&mut reel, &job.entry)?;
            done += 1;
            let wants_more =
                sink(item).map_err(|source| MediaError::Source { bytes: 0, source })?;
            if !wants_more {
                reel.unmount(library)?;
                return Ok(done);
            }
        }
        reel.unmount(library)?;
    }
    Ok(done)
}

fn read_one(reel: &mut Reel, entry: &EntryV1) -> Result<Item, MediaError> {
    let limit = match entry.what {
        WhatV1::Point { .. } => MANIFEST_BYTES_MAX,
        WhatV1::Config | WhatV1::Keys | WhatV1::Pack { .. } => entry.bytes,
    };
    let bytes = match reel.read_file(entry.file, limit) {
        Ok((bytes, _)) => bytes,
        Err(
            MediaError::FlawedFile { .. }
            | MediaError::FileTooLong { .. }
            | MediaError::Tape(TapeError::Damaged { .. } | TapeError::PastEndOfData { .. }),
        ) => return Ok(Item::Flawed(entry.what)),
        Err(error) => return Err(error),
    };
    Ok(match entry.what {
        WhatV1::Pack { id, .. } if *blake3::hash(&bytes).as_bytes() == id.0 => {
            Item::Pack(id, bytes)
        }
        WhatV1::Point { workload, point, .. }
            if ManifestHead::of(&bytes).is_some_and(|head| head.point == point) =>
        {
            Item::Manifest(workload, point, bytes)
        }
        what => Item::Flawed(what),
    })
}

impl Aside {
    /// Keeps what is no pack; what is one comes back.
    fn keep(&mut self, item: Item) -> Option<(PackId, Vec<u8>)> {
        match item {
            Item::Pack(pack, bytes) => return Some((pack, bytes)),
            Item::Manifest(workload, point, bytes) => self.manifests.push((workload, point, bytes)),
            Item::Flawed(WhatV1::Pack { id, .. }) => drop(self.flawed.insert(id)),
            Item::Flawed(WhatV1::Point { point, .. }) => drop(self.flawed_points.insert(point)),
            Item::Flawed(WhatV1::Config | WhatV1::Keys) => {}
        }
        None
    }
}

/// Two drives: one reads ahead while the other writes.
fn at_once(
    library: &dyn TapeLibrary,
    jobs: &[Job],
    writer: &mut MediaSetWriter,
    (copied, aside): (&mut Copied, &mut Aside),
) -> Result<(), MediaError> {
    if jobs.is_empty() {
        return Ok(());
    }
    writer.begin(jobs.iter().map(|job| job.entry.bytes).sum())?;
    std::thread::scope(|scope| {
        let (give, take) = sync_channel(AHEAD);
        let reading =
            scope.spawn(move || read_files(library, jobs, &mut |item| Ok(give.send(item).is_ok())));
        let mut written = Ok(());
        for item in take {
            let Some((pack, bytes)) = aside.keep(item) else { continue };
            written = put(writer, pack, &bytes, copied);
            if written.is_err() {
                break;
            }
        }
        let read = reading.join().unwrap_or_else(|_| {
            let source = io::Error::other("the reading side died");
            Err(MediaError::Source { bytes: 0, source })
        });
        written?;
        read.map(drop)
    })?;
    close(writer, copied)
}

/// One drive: as much as the folder takes is read, then it is written.
fn by_turns(
    library: &dyn TapeLibrary,
    jobs: &[Job],
    writer: &mut MediaSetWriter,
    spare: Spare<'_>,
    (copied, aside): (&mut Copied, &mut Aside),
) -> Result<(), MediaError> {
    let mut done = 0;
    while done < jobs.len() {
        let mut lying: Vec<PackId> = Vec::new();
        let mut bytes_lying = 0;
        done += read_files(library, &jobs[done..], &mut |item| {
            if let Some((pack, bytes)) = aside.keep(item) {
                fs::write(file_of(spare.folder, pack), &bytes)?;
                bytes_lying += bytes.len() as u64;
                lying.push(pack);
            }
            Ok(bytes_lying < spare.bytes)
        })?;
        if lying.is_empty() {
            continue;
        }
        put_lying(writer, spare.folder, &lying, copied)?;
    }
    Ok(())
}

fn put_lying(
    writer: &mut MediaSetWriter,
    folder: &Path,
    lying: &[PackId],
    copied: &mut Copied,
) -> Result<(), MediaError> {
    writer.begin(0)?;
    for pack in lying {
        let path = file_of(folder, *pack);
        let bytes = fs::read(&path).map_err(io_at(&path))?;
        put(writer, *pack, &bytes, copied)?;
        fs::remove_file(&path).map_err(io_at(&path))?;
    }
    close(writer, copied)
}

fn put(
    writer: &mut MediaSetWriter,
    pack: PackId,
    bytes: &[u8],
    copied: &mut Copied,
) -> Result<(), MediaError> {
    let length = bytes.len() as u64;
    writer.put_pack(pack, length, &mut Cursor::new(bytes))?;
    copied.packs += 1;
    copied.bytes += length;
    Ok(())
}

/// Ends a session. What came onto which cartridge is in the report.
fn close(writer: &mut MediaSetWriter, copied: &mut Copied) -> Result<(), MediaError> {
    let report = writer.finish()?;
    copied.points += report.points;
    copied.onto.extend(report.media);
    Ok(())
}

/// What was not whole where it lies is looked for on every other cartridge that is here.
fn rescue(
    reader: &MediaReader,
    writer: &mut MediaSetWriter,
    spare: Spare<'_>,
    (copied, aside): (&mut Copied, &mut Aside),
) -> Result<(), MediaError> {
    for point in &aside.flawed_points {
        let bytes = reader.manifest(*point)?;
        let workload = reader.held().points.get(point).map(|held| held.workload);
        aside.manifests.extend(workload.map(|workload| (workload, *point, bytes)));
    }
    if aside.flawed.is_empty() {
        return Ok(());
    }
    let mut lying = BTreeMap::new();
    let report = reader.fetch_packs(&aside.flawed, &mut |pack, source: &mut dyn Read| {
        let mut file = File::create(file_of(spare.folder, pack))?;
        lying.insert(pack, io::copy(source, &mut file)?);
        Ok(())
    })?;
    copied.unreadable = report.missing;
    let whole: Vec<PackId> =
        lying.into_keys().filter(|pack| !copied.unreadable.contains(pack)).collect();
    if whole.is_empty() {
        return Ok(());
    }
    put_lying(writer, spare.folder, &whole, copied)
}

/// Reads back what was written on, and looks whether all of it is there.
fn prove(
    library: &Arc<dyn TapeLibrary>,
    from: &[MediumId],
    copied: &Copied,
    (packs, points): (&HashSet<PackId>, &BTreeSet<PointId>),
) -> Result<(), MediaError> {
    let Some(last) = copied.onto.last() else { return Ok(()) };
    let reader = MediaReader::open(Arc::clone(library))?;
    let mut onto = HashSet::new();
    for medium in reader.media() {
        let is_absent = medium.health == Health::Absent;
        let is_new = copied.onto.contains(&medium.barcode) && !from.contains(&medium.medium);
        if is_absent || !is_new {
            continue;
        }
        onto.insert(medium.medium);
        for file in reader.verify(medium.medium)? {
            if matches!(file.verdict, Verdict::Damaged { .. } | Verdict::Wrong) {
                let barcode = medium.barcode;
                return Err(MediaError::FlawedFile { barcode, file: file.file });
            }
        }
    }
    let held = reader.held();
    let lies =
        |places: &Vec<crate::media::Place>| places.iter().any(|place| onto.contains(&place.medium));
    let has_pack = |pack: &&PackId| held.packs.get(*pack).is_some_and(|held| lies(&held.places));
    let has_point =
        |point: &&PointId| held.points.get(*point).is_some_and(|held| lies(&held.places));
    let lacking = packs.iter().filter(|pack| !has_pack(pack)).count()
        + points.iter().filter(|point| !has_point(point)).count();
    match lacking {
        0 => Ok(()),
        _ => Err(MediaError::NotCopied { barcode: last.clone(), lacking }),
    }
}

fn file_of(folder: &Path, pack: PackId) -> PathBuf {
    folder.join(pack.to_string())
}

fn io_at(path: &Path) -> impl Fn(io::Error) -> MediaError + use<> {
    let path = path.to_owned();
    move |source| MediaError::Io { path: path.clone(), source }
}

/// What an earlier run left goes, and nothing else lies in it.
fn empty(folder: &Path) -> Result<(), MediaError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_at(folder)(error)),
        _ => {}
    }
    fs::create_dir_all(folder).map_err(io_at(folder))
}
