//! The moment of a machine as a point: its disks as plain images, its configuration, and a
//! description that is enough to make it a machine again. Takes away what it made in the machine
//! whatever happens; the chain moves on only once the point is committed.

use std::path::PathBuf;

use super::fleece::{Changes, Fleece};
use super::ground::{DiskGround, memory_of};
use super::guard::Guard;
use super::guest::Frozen;
use super::machine::{Disk, LeftOut};
use super::point::{COMMAND, Config, ReadDisk, Telling, compose};
use super::qmp::{Qmp, QmpError};
use super::remember::Unkept;
use super::{About, Quiesce, VmWorkload};
use crate::quiesce::{Consistency, Evidence};
use crate::workload::files::{ProtectError, Protected};
use crate::workload::moment::{Moment, Reading};

/// What the point's one directory is called.
pub const ITEM: &str = "machine";
/// What the point says of itself, at its top.
pub const DESCRIPTION: &str = "strongroom.json";
/// Where the disks lie.
pub const DISKS: &str = "disks";

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

impl VmMoment {
    pub(super) fn new(workload: &VmWorkload, taken: Taken) -> Self {
        let Taken { qmp, fleece, about, disks, held, left_out, frozen } = taken;
        Self {
            machine: workload.machine.clone(),
            keep: workload.keep.clone(),
            memories: held.iter().map(|(disk, _)| memory_of(&workload.memory, disk)).collect(),
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
    ) -> Result<Vec<ReadDisk>, ProtectError> {
        let mut qmp = self.qmp.take().ok_or(ProtectError::Stopped)?;
        if let Err(error) = self.fleece.export(&mut qmp, &self.held) {
            self.qmp = Some(qmp);
            return Err(failed(error));
        }
        let guard = Guard::start(qmp, self.fleece.clone(), self.free_bytes_min);
        let grounds = std::mem::take(&mut self.disks);
        let socket = self.fleece.socket();
        let read: Result<Vec<ReadDisk>, ProtectError> = grounds
            .into_iter()
            .zip(&self.memories)
            .map(|(ground, memory)| {
                let changed = self.fleece.names.changed();
                ground.read(reading, (&socket, &changed), memory, &|| guard.is_broken())
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
        evidence.broken.extend(read.iter().filter_map(ReadDisk::news));
        Ok(read)
    }

    /// What belongs to the machine beside its disks.
    fn config(&self) -> Config {
        let words = |command| serde_json::to_vec_pretty(command).unwrap_or_default();
        let texts = self.about.command.iter().map(|command| (COMMAND, words(command)));
        let keep = self.keep.iter().map(|path| (path.clone(), None));
        Config { texts: texts.collect(), keep: keep.collect() }
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
        let disks = self.read_disks(reading, evidence)?;
        let telling =
            Telling { about: &self.about, frozen: &self.frozen, left_out: &self.left_out };
        let (protected, unkept) = compose(reading, evidence, &telling, disks, &self.config())?;
        self.unkept = unkept;
        Ok(protected)
    }

    fn committed(&mut self) {
        self.stage = Stage::Committed;
        Unkept::keep_all(&mut self.unkept);
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
