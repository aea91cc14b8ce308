//! The moment of a machine of vSphere as a point: the same tree as any machine's, so that it is
//! restored and booted as one. Takes its snapshot away whatever happens; the chain moves on only
//! once the point is committed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use strongroom_protocol::Chain;
use strongroom_store::content::{Entry, Meta};

use super::changes::changed;
use super::disks::Disk;
use super::lease::{Lease, LeaseError};
use super::read::{Ground, disk};
use super::session::{Reference, Session};
use super::since::Since;
use super::snapshot::{Snapshot, remove};
use super::{About, Ready, VsphereWorkload};
use crate::quiesce::{Consistency, Evidence};
use crate::workload::compose::Composer;
use crate::workload::compose::blocks::BLOCK_BYTES;
use crate::workload::files::{ProtectError, Protected};
use crate::workload::moment::{Memory, Moment, Reading};
use crate::workload::vm::machine::{LeftOut, Whole};
use crate::workload::vm::remember::{Mark, Remembered, Remembering, Unkept};
use crate::workload::vm::writing::{DiskRead, Told};
use crate::workload::vm::{DESCRIPTION, DISKS, ITEM};
use crate::workload::xml::Element;

const CONFIG: &str = "config";
/// The machine as its server describes it.
const MACHINE: &str = "machine.xml";
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

/// A machine whose snapshot was made.
pub(super) struct Taken {
    pub(super) snapshot: Snapshot,
    pub(super) reached: Consistency,
    /// Why less is claimed than was wanted.
    pub(super) less: Option<String>,
    /// Of the snapshot.
    pub(super) config: Element,
    pub(super) disks: Vec<Disk>,
    pub(super) left_out: Vec<LeftOut>,
}

/// The moment of a machine.
#[derive(Debug)]
pub struct VsphereMoment {
    session: Arc<Session>,
    machine: Reference,
    about: About,
    memory: Memory,
    pulse: Duration,
    /// None once it is gone.
    snapshot: Option<Reference>,
    reached: Consistency,
    less: Option<String>,
    config: Element,
    disks: Vec<Disk>,
    left_out: Vec<LeftOut>,
    unkept: Vec<Unkept>,
    since: Option<Since>,
}

/// What a point of a machine says of itself.
#[derive(Serialize)]
struct Description<'told> {
    kind: &'static str,
    format: u32,
    by: &'static str,
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
    guest: &'told str,
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

/// A disk that was read, and how.
struct Done {
    read: DiskRead,
    whole: Option<Whole>,
}

impl VsphereMoment {
    pub(super) fn new(workload: &VsphereWorkload, ready: Ready, taken: Taken) -> Self {
        let Ready { session, machine, about, .. } = ready;
        let Taken { snapshot, reached, less, config, disks, left_out } = taken;
        Self {
            session,
            machine,
            about,
            memory: workload.memory.clone(),
            pulse: workload.pulse,
            snapshot: Some(snapshot.reference),
            reached,
            less,
            config,
            disks,
            left_out,
            unkept: Vec::new(),
            since: None,
        }
    }

    fn mark(&self, disk: &Disk) -> Mark {
        let image = if disk.uuid.is_empty() { &disk.file } else { &disk.uuid };
        Mark {
            repo: self.memory.repo,
            workload: self.memory.workload,
            point: self.memory.point,
            identity: format!("{} {} {image}", self.about.uuid, disk.name),
            bytes: disk.bytes,
            block_bytes: BLOCK_BYTES,
        }
    }

    fn memory_of(&self, disk: &Disk) -> PathBuf {
        self.memory.path(&format!("vm-{}", disk.name))
    }

    /// What the last point knows of a disk and what changed since, or why it is read whole.
    fn ground(&self, disk: &Disk, snapshot: &Reference) -> (Ground, Option<Whole>) {
        let mark = self.mark(disk);
        let memory = Remembering::create(&self.memory_of(disk), &mark);
        let memory =
            memory.inspect_err(|error| tracing::warn!(%error, "nothing can be remembered")).ok();
        let last = (|| {
            let point = self.memory.previous.ok_or(Whole::First)?;
            let mark = Mark { point, ..mark };
            let known = Remembered::open(&self.memory_of(disk), &mark).map_err(Whole::Doubt)?;
            if disk.change.is_none() {
                return Err(Whole::Doubt(
                    "its changes are not tracked; `change_tracking = \"enabled\"` switches that on"
                        .to_owned(),
                ));
            }
            let since = Since::last(&self.memory);
            let since = since.as_ref().and_then(|since| since.changes.get(&disk.name));
            let lost = || {
                Whole::Doubt("nothing is remembered of the tracking at its last point".to_owned())
            };
            let since = since.ok_or_else(lost)?;
            let areas = changed(&self.session, &self.machine, snapshot, disk, since);
            Ok((areas.map_err(Whole::Doubt)?, known))
        })();
        match last {
            Ok(last) => (Ground { last: Some(last), memory }, None),
            Err(whole) => (Ground { last: None, memory }, Some(whole)),
        }
    }

    /// Reads every disk from one export of the snapshot.
    fn read_disks(
        &self,
        reading: &Reading<'_>,
        snapshot: &Reference,
    ) -> Result<Vec<Done>, ProtectError> {
        let lease = Lease::open(&self.session, snapshot, self.pulse).map_err(failed)?;
        let all: u64 = self.disks.iter().map(|disk| disk.bytes).sum();
        let (mut read, mut before) = (Vec::new(), 0);
        for known in &self.disks {
            let (ground, whole) = self.ground(known, snapshot);
            let source = lease.disk(known).map_err(failed)?;
            let stands = |at: u64| -> Result<(), ProtectError> {
                lease.progress(before + at, all);
                lease.stands().map_err(failed)
            };
            let done = disk(reading, source, known, ground, &stands);
            // What was lost says more than what came of it.
            lease.stands().map_err(failed)?;
            read.push(Done { read: done?, whole });
            before += known.bytes;
        }
        lease.complete().map_err(failed)?;
        Ok(read)
    }

    fn describe(&self, reading: &Reading<'_>, evidence: &Evidence, done: &[Done]) -> Vec<u8> {
        let told = |(disk, done): (&Disk, &Done)| DiskTold {
            disk: disk.clone(),
            block_bytes: BLOCK_BYTES,
            path: format!("{DISKS}/{}", image_name(disk)),
            read: if done.whole.is_none() { "changed" } else { "whole" },
            whole_because: match &done.whole {
                Some(Whole::Doubt(why)) => Some(why.clone()),
                Some(Whole::First) | None => None,
            },
            told: done.read.told.clone(),
        };
        let description = Description {
            kind: "vm",
            format: 1,
            by: "vsphere",
            machine: &self.about,
            taken_unix_ms: reading.clock.now().unix_ms(),
            quiet: Quiet {
                reached: evidence.consistency,
                frozen_ms: evidence.frozen_ms,
                guest: &self.about.guest,
                less_because: &evidence.broken,
            },
            disks: self.disks.iter().zip(done).map(told).collect(),
            left_out: &self.left_out,
        };
        serde_json::to_vec_pretty(&description).unwrap_or_default()
    }

    /// The snapshot is not needed any longer.
    fn let_go(&mut self) -> Option<String> {
        let snapshot = self.snapshot.take()?;
        let removed = remove(&self.session, &snapshot);
        removed.err().map(|error| Chain(&error).to_string())
    }
}

/// What the image of a disk is called in a point.
fn image_name(disk: &Disk) -> String {
    format!("{}.raw", disk.name)
}

impl Moment for VsphereMoment {
    fn source(&self) -> String {
        format!("machine {} ({}) of {}", self.about.name, self.about.uuid, self.about.host)
    }

    fn consistency(&self) -> Consistency {
        self.reached
    }

    fn read(
        &mut self,
        reading: &Reading<'_>,
        evidence: &mut Evidence,
    ) -> Result<Protected, ProtectError> {
        evidence.broken.extend(self.less.take());
        let snapshot = self.snapshot.clone().ok_or(ProtectError::Stopped)?;
        let done = self.read_disks(reading, &snapshot)?;
        if let Some(why) = self.let_go() {
            evidence.broken.push(format!("its snapshot is left to the next run: {why}"));
        }
        for (disk, done) in self.disks.iter().zip(&done) {
            if let Some(Whole::Doubt(why)) = &done.whole {
                evidence.broken.push(format!("disk {} was read whole: {why}", disk.name));
            }
        }
        let composer = Composer::new(reading)?;
        let meta = |mode| Meta { mode, mtime_ns: reading.clock.now().0, ..Meta::default() };
        let (file, directory) = (meta(FILE_MODE), meta(DIRECTORY_MODE));
        let described = self.describe(reading, evidence, &done);
        let (mut images, mut changes): (Vec<Entry>, _) = (Vec::new(), BTreeMap::new());
        for (disk, Done { read, .. }) in self.disks.iter().zip(done) {
            let DiskRead { size, content, memory, .. } = read;
            images.push(composer.file(&image_name(disk), file.clone(), size, content));
            self.unkept.extend(memory);
            changes.extend(disk.change.clone().map(|change| (disk.name.clone(), change)));
        }
        self.since = Some(Since::new(self.memory.point, changes));
        let machine = composer.bytes(MACHINE, file.clone(), self.config.write().as_bytes())?;
        let entries = vec![
            composer.directory(DISKS, directory.clone(), images)?,
            composer.directory(CONFIG, directory.clone(), vec![machine])?,
            composer.bytes(DESCRIPTION, file, &described)?,
        ];
        let item = composer.directory(ITEM, directory, entries)?;
        composer.finish(item)
    }

    fn committed(&mut self) {
        let forgotten = |error: std::io::Error| {
            tracing::warn!(%error, "what was read is not remembered: the next is whole");
        };
        Unkept::keep_all(&mut self.unkept);
        if let Some(since) = self.since.take() {
            since.keep(&self.memory).unwrap_or_else(forgotten);
        }
    }
}

impl Drop for VsphereMoment {
    fn drop(&mut self) {
        if let Some(why) = self.let_go() {
            tracing::warn!(why, "a snapshot is left to the next run");
        }
    }
}

fn failed(error: LeaseError) -> ProtectError {
    ProtectError::Application(Box::new(error))
}
