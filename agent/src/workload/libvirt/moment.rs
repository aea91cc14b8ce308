//! The moment of a machine of libvirt as a point. Takes away what it made in libvirt whatever
//! happens; the chain of checkpoints moves on only once the point is committed.

use std::path::PathBuf;

use super::backup::{Backup, Job, Wish};
use super::still::{Still, socket};
use super::watch::Watch;
use super::{About, LibvirtWorkload, Ready};
use crate::quiesce::{Consistency, Evidence};
use crate::workload::files::{ProtectError, Protected};
use crate::workload::moment::{Moment, Reading};
use crate::workload::vm::Quiesce;
use crate::workload::vm::ground::{DiskGround, memory_of};
use crate::workload::vm::guest::Frozen;
use crate::workload::vm::machine::LeftOut;
use crate::workload::vm::point::{COMMAND, Config, ReadDisk, Telling, compose};
use crate::workload::vm::remember::Unkept;

/// The machine's definition, with what is secret in it.
const DEFINITION: &str = "domain.xml";

/// What shows the moment.
#[derive(Debug)]
pub(super) enum View {
    /// A backup job of these disks.
    Job(Vec<Wish>),
    /// Images that nobody writes to.
    Still(Still),
}

/// The moment of a machine.
#[derive(Debug)]
pub struct LibvirtMoment {
    machine: String,
    memories: Vec<PathBuf>,
    free_bytes_min: u64,
    quiesce: Quiesce,
    /// The checkpoint of the last point, which goes once this one is committed.
    before: Option<String>,
    backup: Backup,
    view: Option<View>,
    about: About,
    disks: Vec<DiskGround>,
    left_out: Vec<LeftOut>,
    frozen: Frozen,
    config: Config,
    unkept: Vec<Unkept>,
    stage: Stage,
    checkpoint: Checkpoint,
}

/// What is still to be taken away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Everything of this run.
    Open,
    /// The checkpoint of this run.
    Read,
    Committed,
}

/// Whether this run made one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Checkpoint {
    Made,
    None,
}

impl LibvirtMoment {
    pub(super) fn new(workload: &LibvirtWorkload, ready: Ready, view: View) -> Self {
        let Ready { backup, about, disks, left_out, frozen, definition, .. } = ready;
        let words = |command| serde_json::to_vec_pretty(command).unwrap_or_default();
        let command = ready.command.iter().map(|command| (COMMAND, words(command)));
        let texts = std::iter::once((DEFINITION, definition.into_bytes())).chain(command);
        let checkpoint = match &view {
            View::Job(wishes) if wishes.iter().any(|wish| wish.checkpoint) => Checkpoint::Made,
            _ => Checkpoint::None,
        };
        Self {
            machine: workload.machine.clone(),
            memories: disks
                .iter()
                .map(|ground| memory_of(&workload.memory, &ground.disk))
                .collect(),
            free_bytes_min: workload.scratch_free_bytes_min,
            quiesce: workload.quiesce,
            before: workload.memory.previous.map(|point| backup.names.bitmap(point)),
            backup,
            view: Some(view),
            about,
            disks,
            left_out,
            frozen,
            config: Config { texts: texts.collect(), keep: ready.belongings },
            unkept: Vec::new(),
            stage: Stage::Open,
            checkpoint,
        }
    }

    /// Reads every disk, then ends the view of them, and says whether it stood all the time.
    fn read_disks(
        &mut self,
        reading: &Reading<'_>,
        evidence: &mut Evidence,
    ) -> Result<Vec<ReadDisk>, ProtectError> {
        let view = self.view.take().ok_or(ProtectError::Stopped)?;
        let grounds = std::mem::take(&mut self.disks);
        let watch = Watch::start(self.backup.clone(), self.free_bytes_min);
        let read: Result<Vec<ReadDisk>, ProtectError> = grounds
            .into_iter()
            .zip(&self.memories)
            .map(|(ground, memory)| {
                let changed = Backup::bitmap(&ground.disk.name);
                let socket = match &view {
                    View::Job(_) => self.backup.socket(),
                    View::Still(_) => socket(&self.backup.socket(), &ground.disk.name),
                };
                ground.read(reading, (&socket, &changed), memory, &|| watch.is_broken())
            })
            .collect();
        if !watch.end() {
            let dir = self.backup.scratch.clone();
            return Err(failed(MomentError::Scratch { dir }));
        }
        let read = read?;
        let stands = match &view {
            View::Job(_) => self.backup.job().map_err(failed)? == Job::Ours,
            View::Still(still) => still.holds(),
        };
        drop(view);
        self.backup.end().map_err(failed)?;
        self.stage = Stage::Read;
        if !stands {
            return Err(failed(MomentError::Lost));
        }
        evidence.broken.extend(read.iter().filter_map(ReadDisk::news));
        Ok(read)
    }

    fn take_away(&mut self) {
        self.view = None;
        if self.stage == Stage::Open
            && let Err(error) = self.backup.end()
        {
            tracing::warn!(%error, "what was made in libvirt is left to the next run");
            return;
        }
        if self.checkpoint == Checkpoint::Made {
            self.backup.forget(&self.backup.names.own_bitmap());
        }
    }
}

impl Moment for LibvirtMoment {
    fn source(&self) -> String {
        format!("machine {} ({}) of {}", self.machine, self.about.uuid, self.backup.virsh.uri())
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
        let (protected, unkept) = compose(reading, evidence, &telling, disks, &self.config)?;
        self.unkept = unkept;
        Ok(protected)
    }

    fn committed(&mut self) {
        self.stage = Stage::Committed;
        Unkept::keep_all(&mut self.unkept);
        if let (true, Some(before)) = (self.about.is_active(), &self.before) {
            self.backup.forget(before);
        }
    }
}

impl Drop for LibvirtMoment {
    fn drop(&mut self) {
        if self.stage != Stage::Committed {
            self.take_away();
        }
    }
}

/// Why a moment was not read.
#[derive(Debug, thiserror::Error)]
enum MomentError {
    #[error("the view of the moment ended while it was read: the machine was stopped or started")]
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
