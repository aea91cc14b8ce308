//! The moment of a machine as a point: its disks as plain images, its configuration, and a
//! description that is enough to make it a machine again. Takes away what it made in the machine
//! whatever happens; the chain moves on only once the point is committed.

use std::path::{Path, PathBuf};

use serde::Serialize;
use strongroom_store::content::{Entry, Meta};

use super::fleece::{Changes, Fleece};
use super::guard::Guard;
use super::guest::Frozen;
use super::machine::{Disk, LeftOut, Whole};
use super::qmp::{Qmp, QmpError};
use super::read::{Ground, disk};
use super::remember::{Mark, Remembering, Unkept};
use super::writing::{DiskRead, Told};
use super::{About, DiskGround, Quiesce, VmWorkload};
use crate::quiesce::{Consistency, Evidence};
use crate::workload::compose::Composer;
use crate::workload::compose::blocks::BLOCK_BYTES;
use crate::workload::files::{Gap, GapReason, ProtectError, Protected};
use crate::workload::moment::{Moment, Reading};

/// What the point's one directory is called.
pub const ITEM: &str = "machine";
/// What the point says of itself, at its top.
pub const DESCRIPTION: &str = "strongroom.json";
/// Where the disks lie.
pub const DISKS: &str = "disks";
/// Where what belongs to the machine lies.
const CONFIG: &str = "config";
/// The words the machine's process was started with.
const COMMAND: &str = "command-line.json";
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

/// A machine whose moment was taken.
pub(super) struct Taken {
    pub(super) qmp: Qmp,
    pub(super) fleece: Fleece,
    pub(super) about: About,
    pub(super) disks: Vec<DiskGround>,
    pub(super) held: Vec<(Disk, Changes)>,
    pub(super) left_out: Vec<LeftOut>,
    pub(super) frozen: Frozen,
}

/// The moment of a machine.
#[derive(Debug)]
pub struct VmMoment {
    machine: String,
    keep: Vec<PathBuf>,
    memories: Vec<PathBuf>,
    free_bytes_min: u64,
    quiesce: Quiesce,
    /// The bitmap of the last point, which goes once this one is committed.
    before: Option<String>,
    qmp: Option<Qmp>,
    fleece: Fleece,
    about: About,
    disks: Vec<DiskGround>,
    held: Vec<(Disk, Changes)>,
    left_out: Vec<LeftOut>,
    frozen: Frozen,
    unkept: Vec<Unkept>,
    stage: Stage,
}

/// What is still to be taken away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Everything of this run.
    Open,
    /// The bitmaps of this run.
    Read,
    Committed,
}

/// What a point of a machine says of itself.
#[derive(Serialize)]
struct Description<'told> {
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

impl VmMoment {
    pub(super) fn new(workload: &VmWorkload, taken: Taken) -> Self {
        let Taken { qmp, fleece, about, disks, held, left_out, frozen } = taken;
        Self {
            machine: workload.machine.clone(),
            keep: workload.keep.clone(),
            memories: held.iter().map(|(disk, _)| workload.memory_of(disk)).collect(),
            free_bytes_min: workload.scratch_free_bytes_min,
            quiesce: workload.quiesce,
            before: workload.memory.previous.map(|point| fleece.names.bitmap(point)),
            qmp: Some(qmp),
            fleece,
            about,
            disks,
            held,
            left_out,
            frozen,
            unkept: Vec::new(),
            stage: Stage::Open,
        }
    }

    /// Reads every disk, then ends the view of them, and says whether it stood all the time.
    fn read_disks(
        &mut self,
        reading: &Reading<'_>,
        evidence: &mut Evidence,
    ) -> Result<Vec<(DiskRead, Disk, Option<String>)>, ProtectError> {
        let mut qmp = self.qmp.take().ok_or(ProtectError::Stopped)?;
        if let Err(error) = self.fleece.export(&mut qmp, &self.held) {
            self.qmp = Some(qmp);
            return Err(failed(error));
        }
        let guard = Guard::start(qmp, self.fleece.clone(), self.free_bytes_min);
        let grounds = std::mem::take(&mut self.disks);
        let socket = self.fleece.socket();
        let read: Result<Vec<_>, ProtectError> = grounds
            .into_iter()
            .zip(&self.memories)
            .map(|(ground, memory)| {
                let DiskGround { disk: known, mark, last } = ground;
                let changed = self.fleece.names.changed();
                let (last, why) = match last {
                    Ok((_, remembered)) => (Some((changed.as_str(), remembered)), None),
                    Err(Whole::First) => (None, None),
                    Err(Whole::Doubt(why)) => (None, Some(why)),
                };
                let ground = Ground { last, memory: remembering(memory, &mark) };
                let read = disk(reading, &socket, &known, ground, &|| guard.is_broken())?;
                Ok((read, known, why))
            })
            .collect();
        let (qmp, stood) = guard.end();
        self.qmp = qmp;
        if !stood {
            return Err(failed(MomentError::Scratch { dir: self.fleece.scratch.clone() }));
        }
        let read = read?;
        let qmp = self.qmp.as_mut().ok_or(ProtectError::Stopped)?;
        let stands = self.fleece.holds(qmp, self.held.len()).map_err(failed)?;
        self.fleece.close(qmp, &self.held).map_err(failed)?;
        self.stage = Stage::Read;
        if !stands {
            return Err(failed(MomentError::Lost));
        }
        for (_, disk, why) in &read {
            let why = why.as_ref().map(|why| format!("disk {} was read whole: {why}", disk.name));
            evidence.broken.extend(why);
        }
        Ok(read)
    }

    fn describe(
        &self,
        reading: &Reading<'_>,
        evidence: &Evidence,
        disks: &[(DiskRead, Disk, Option<String>)],
    ) -> Vec<u8> {
        let told = |(read, disk, why): &'_ (DiskRead, Disk, Option<String>)| {
            let held = self.held.iter().find(|(held, _)| held.name == disk.name);
            let changed = held.is_some_and(|(_, changes)| *changes != Changes::Unknown);
            DiskTold {
                disk: disk.clone(),
                block_bytes: BLOCK_BYTES,
                path: format!("{DISKS}/{}", image_name(disk)),
                read: if changed { "changed" } else { "whole" },
                whole_because: why.clone(),
                told: read.told.clone(),
            }
        };
        let description = Description {
            kind: "vm",
            format: 1,
            machine: &self.about,
            taken_unix_ms: reading.clock.now().unix_ms(),
            quiet: Quiet {
                reached: evidence.consistency,
                frozen_ms: evidence.frozen_ms,
                file_systems: self.frozen.count,
                guest: self.frozen.system.as_deref(),
                less_because: &evidence.broken,
            },
            disks: disks.iter().map(told).collect(),
            left_out: &self.left_out,
        };
        serde_json::to_vec_pretty(&description).unwrap_or_default()
    }

    /// What belongs to the machine beside its disks.
    fn config(
        &self,
        composer: &mut Composer<'_>,
        reading: &Reading<'_>,
    ) -> Result<Vec<Entry>, ProtectError> {
        let mut entries: Vec<Entry> = Vec::new();
        if let Some(command) = &self.about.command {
            let text = serde_json::to_vec_pretty(command).unwrap_or_default();
            entries.push(composer.bytes(COMMAND, meta(reading, FILE_MODE), &text)?);
        }
        for (number, path) in self.keep.iter().enumerate() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let taken = entries.iter().any(|entry| entry.name == name.as_bytes());
            let name = if taken { format!("{number}.{name}") } else { name.into_owned() };
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

    fn take_away(&mut self) -> Result<(), QmpError> {
        let Some(qmp) = self.qmp.as_mut() else { return Ok(()) };
        if self.stage == Stage::Open {
            self.fleece.close(qmp, &self.held)?;
        }
        self.fleece.forget(qmp, &self.held, &self.fleece.names.own_bitmap());
        Ok(())
    }
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

fn remembering(path: &Path, mark: &Mark) -> Option<Remembering> {
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

impl Moment for VmMoment {
    fn source(&self) -> String {
        format!("machine {} ({})", self.machine, self.about.uuid)
    }

    fn consistency(&self) -> Consistency {
        // One instant of all disks; what the guest made of it is the evidence's to say.
        Consistency::Application
    }

    fn read(
        &mut self,
        reading: &Reading<'_>,
        evidence: &mut Evidence,
    ) -> Result<Protected, ProtectError> {
        if self.quiesce == Quiesce::Required && evidence.consistency < Consistency::Filesystem {
            let why = evidence.broken.join("; ");
            return Err(failed(MomentError::Unquiet { why }));
        }
        let mut composer = Composer::new(reading)?;
        let disks = self.read_disks(reading, evidence)?;
        let described = self.describe(reading, evidence, &disks);
        let (file, directory) = (meta(reading, FILE_MODE), meta(reading, DIRECTORY_MODE));
        let mut images = Vec::new();
        for (read, disk, _) in disks {
            let DiskRead { size, content, memory, .. } = read;
            images.push(composer.file(&image_name(&disk), file.clone(), size, content));
            self.unkept.extend(memory);
        }
        let config = self.config(&mut composer, reading)?;
        let entries = vec![
            composer.directory(DISKS, directory.clone(), images)?,
            composer.directory(CONFIG, directory.clone(), config)?,
            composer.bytes(DESCRIPTION, file, &described)?,
        ];
        let item = composer.directory(ITEM, directory, entries)?;
        composer.finish(item)
    }

    fn committed(&mut self) {
        self.stage = Stage::Committed;
        for memory in self.unkept.drain(..) {
            if let Err(error) = memory.keep() {
                tracing::warn!(%error, "what was read is not remembered: the next is whole");
            }
        }
        if let (Some(qmp), Some(before)) = (self.qmp.as_mut(), &self.before) {
            self.fleece.forget(qmp, &self.held, before);
        }
        self.qmp = None;
    }
}

impl Drop for VmMoment {
    fn drop(&mut self) {
        if self.stage == Stage::Committed {
            return;
        }
        if let Err(error) = self.take_away() {
            tracing::warn!(%error, "what was made in a machine is left to the next run");
        }
    }
}

/// Why a moment was not read.
#[derive(Debug, thiserror::Error)]
enum MomentError {
    #[error("the machine ended the view of the moment while it was read")]
    Lost,
    #[error(
        "{} is nearly full, and the backup was given up before the guest was held up; name a \
         larger place with the key `scratch`", .dir.display()
    )]
    Scratch { dir: PathBuf },
    #[error("the guest did not stay quiet, and the policy wants nothing less: {why}")]
    Unquiet { why: String },
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> ProtectError {
    ProtectError::Application(Box::new(error))
}
