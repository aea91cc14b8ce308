//! The point of a machine put together, whoever read its disks: plain images, what belongs to
//! the machine beside them, and a description that is enough to make it a machine again.

use std::path::{Path, PathBuf};

use serde::Serialize;
use strongroom_store::content::{Entry, Meta};

use super::guest::Frozen;
use super::machine::{Disk, LeftOut};
use super::remember::{Mark, Remembering, Unkept};
use super::writing::{DiskRead, Told};
use super::{DESCRIPTION, DISKS, ITEM};
use crate::quiesce::{Consistency, Evidence};
use crate::workload::compose::Composer;
use crate::workload::compose::blocks::BLOCK_BYTES;
use crate::workload::files::{Gap, GapReason, ProtectError, Protected};
use crate::workload::moment::Reading;

/// Where what belongs to the machine lies.
const CONFIG: &str = "config";
/// The words the machine's process was started with.
pub(in crate::workload) const COMMAND: &str = "command-line.json";
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

/// A disk of the moment, read.
pub(in crate::workload) struct ReadDisk {
    pub(in crate::workload) disk: Disk,
    pub(in crate::workload) read: DiskRead,
    pub(in crate::workload) how: How,
}

/// How much of a disk was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::workload) enum How {
    Changed,
    /// And why, where that is news.
    Whole(Option<String>),
}

impl ReadDisk {
    /// What is to be told of how it was read.
    pub(in crate::workload) fn news(&self) -> Option<String> {
        let How::Whole(Some(why)) = &self.how else { return None };
        Some(format!("disk {} was read whole: {why}", self.disk.name))
    }
}

/// What is told of a machine beside its disks.
pub(in crate::workload) struct Telling<'told, About: Serialize> {
    pub(in crate::workload) about: &'told About,
    pub(in crate::workload) frozen: &'told Frozen,
    pub(in crate::workload) left_out: &'told [LeftOut],
}

/// What belongs to a machine beside its disks.
#[derive(Debug, Default)]
pub(in crate::workload) struct Config {
    /// Texts, by the names they get.
    pub(in crate::workload) texts: Vec<(&'static str, Vec<u8>)>,
    /// Files and directories, and the names they get if not their own.
    pub(in crate::workload) keep: Vec<(PathBuf, Option<&'static str>)>,
}

/// What a point of a machine says of itself.
#[derive(Serialize)]
struct Description<'told, About: Serialize> {
    kind: &'static str,
    format: u32,
    machine: &'told About,
    taken_unix_ms: u64,
    quiet: Quiet<'told>,
    disks: Vec<DiskTold>,
    left_out: &'told [LeftOut],
}

#[derive(Serialize)]
struct Quiet<'told> {
    reached: Consistency,
    frozen_ms: u64,
    file_systems: u64,
    guest: Option<&'told str>,
    less_because: &'told [String],
}

#[derive(Serialize)]
struct DiskTold {
    #[serde(flatten)]
    disk: Disk,
    block_bytes: u32,
    path: String,
    read: &'static str,
    whole_because: Option<String>,
    #[serde(flatten)]
    told: Told,
}

/// Puts the point together; with it what is to be remembered once it is committed.
pub(in crate::workload) fn compose<About: Serialize>(
    reading: &Reading<'_>,
    evidence: &Evidence,
    telling: &Telling<'_, About>,
    disks: Vec<ReadDisk>,
    config: &Config,
) -> Result<(Protected, Vec<Unkept>), ProtectError> {
    let mut composer = Composer::new(reading)?;
    let described = describe(reading, evidence, telling, &disks);
    let (file, directory) = (meta(reading, FILE_MODE), meta(reading, DIRECTORY_MODE));
    let (mut images, mut unkept) = (Vec::new(), Vec::new());
    for ReadDisk { disk, read, .. } in disks {
        let DiskRead { size, content, memory, .. } = read;
        images.push(composer.file(&image_name(&disk), file.clone(), size, content));
        unkept.extend(memory);
    }
    let config = entries(&mut composer, reading, config)?;
    let entries = vec![
        composer.directory(DISKS, directory.clone(), images)?,
        composer.directory(CONFIG, directory.clone(), config)?,
        composer.bytes(DESCRIPTION, file, &described)?,
    ];
    let item = composer.directory(ITEM, directory, entries)?;
    Ok((composer.finish(item)?, unkept))
}

fn describe<About: Serialize>(
    reading: &Reading<'_>,
    evidence: &Evidence,
    telling: &Telling<'_, About>,
    disks: &[ReadDisk],
) -> Vec<u8> {
    let told = |ReadDisk { disk, read, how }: &ReadDisk| DiskTold {
        disk: disk.clone(),
        block_bytes: BLOCK_BYTES,
        path: format!("{DISKS}/{}", image_name(disk)),
        read: if *how == How::Changed { "changed" } else { "whole" },
        whole_because: match how {
            How::Changed => None,
            How::Whole(why) => why.clone(),
        },
        told: read.told.clone(),
    };
    let description = Description {
        kind: "vm",
        format: 1,
        machine: telling.about,
        taken_unix_ms: reading.clock.now().unix_ms(),
        quiet: Quiet {
            reached: evidence.consistency,
            frozen_ms: evidence.frozen_ms,
            file_systems: telling.frozen.count,
            guest: telling.frozen.system.as_deref(),
            less_because: &evidence.broken,
        },
        disks: disks.iter().map(told).collect(),
        left_out: telling.left_out,
    };
    serde_json::to_vec_pretty(&description).unwrap_or_default()
}

fn entries(
    composer: &mut Composer<'_>,
    reading: &Reading<'_>,
    config: &Config,
) -> Result<Vec<Entry>, ProtectError> {
    let mut entries: Vec<Entry> = Vec::new();
    for (name, text) in &config.texts {
        entries.push(composer.bytes(name, meta(reading, FILE_MODE), text)?);
    }
    for (number, (path, name)) in config.keep.iter().enumerate() {
        let own = || path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = name.map_or_else(own, str::to_owned);
        let taken = entries.iter().any(|entry| entry.name == name.as_bytes());
        let name = if taken { format!("{number}.{name}") } else { name };
        let kept = match path.is_dir() {
            true => {
                let options = reading.options(path, &format!("keep-{number}"));
                composer.tree(&name, CONFIG, &options)
            }
            false => kept_file(composer, reading, path, &name),
        };
        match kept {
            Ok(entry) => entries.push(entry),
            Err(ProtectError::Root { source, .. }) => {
                let path = format!("{CONFIG}/{name}");
                composer.gap(Gap::new(path.as_bytes(), GapReason::from(&source)));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(entries)
}

fn kept_file(
    composer: &Composer<'_>,
    reading: &Reading<'_>,
    path: &Path,
    name: &str,
) -> Result<Entry, ProtectError> {
    let opened = std::fs::File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
    let root = |source| ProtectError::Root { root: path.to_owned(), source };
    let (length, mut file) = opened.map_err(root)?;
    composer.stream(name, meta(reading, FILE_MODE), &mut file, length)
}

/// What is to be remembered of a disk; none where that cannot be written.
pub(in crate::workload) fn remembering(path: &Path, mark: &Mark) -> Option<Remembering> {
    let created = Remembering::create(path, mark);
    created.inspect_err(|error| tracing::warn!(%error, "nothing can be remembered")).ok()
}

fn meta(reading: &Reading<'_>, mode: u32) -> Meta {
    Meta { mode, mtime_ns: reading.clock.now().0, ..Meta::default() }
}

/// What the image of a disk is called in a point.
fn image_name(disk: &Disk) -> String {
    format!("{}.raw", disk.name)
}
