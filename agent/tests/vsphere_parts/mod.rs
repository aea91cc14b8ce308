//! A server of vcsim with disks of the test's own, machines of it protected into memory, and the
//! truth to compare with.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests and what they share")]
#![allow(dead_code, reason = "not every test needs all of it")]

pub(crate) mod image;

#[path = "../vm_parts/blobs.rs"]
mod blobs;
mod simulator;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::Value;
use strongroom_agent::quiesce::Evidence;
use strongroom_agent::restore::{RestoreOptions, Restorer};
use strongroom_agent::workload::files::{Committed, Progress, Protected};
use strongroom_agent::workload::moment::{Memory, Moment as _, Reading};
use strongroom_agent::workload::vm::{DESCRIPTION, DISKS};
use strongroom_agent::workload::vsphere::http::Place;
use strongroom_agent::workload::vsphere::inventory::{machine, machines};
use strongroom_agent::workload::vsphere::session::{Reference as Named, Server, Session};
use strongroom_agent::workload::vsphere::snapshot::{done, snapshots};
use strongroom_agent::workload::vsphere::tls::{Thumbprint, Trust};
use strongroom_agent::workload::vsphere::{VsphereMoment, VsphereWorkload};
use strongroom_agent::workload::{ChunkSink, Workload as _};
use strongroom_protocol::{
    BlobKind, Chain, ChunkId, PointId, Reference, RepoId, SystemClock, WorkloadId,
};
use strongroom_store::cut::CutParams;
use strongroom_store::tree::{SinkError, Tree};
use tempfile::TempDir;

use blobs::{Blobs, keys};
use image::{picture, qemu};
use simulator::Simulator;

/// A machine that every vcsim has.
pub(crate) const MACHINE: &str = "DC0_H0_VM0";
/// Of its disks, in bytes; the second is off every grid.
pub(crate) const SIZES: [usize; 2] = [24 << 20, (5 << 20) + 512];
const BLOCK: usize = 64 << 10;

/// The lab.
pub(crate) struct Lab {
    simulator: Simulator,
    disks: Vec<Vec<u8>>,
    change: u32,
    epoch: u32,
    blobs: Blobs,
    pub(crate) memory: Memory,
    dir: TempDir,
}

/// A point that was made.
pub(crate) struct Made {
    pub(crate) evidence: Evidence,
    pub(crate) description: Value,
}

impl Made {
    /// The disks that were read whole.
    pub(crate) fn whole(&self) -> Vec<&str> {
        let disks = self.description["disks"].as_array().unwrap().iter();
        disks
            .filter(|disk| disk["read"] == "whole")
            .map(|disk| disk["name"].as_str().unwrap())
            .collect()
    }

    pub(crate) fn told(&self, disk: usize, key: &str) -> u64 {
        self.description["disks"][disk][key].as_u64().unwrap()
    }
}

impl Lab {
    /// A server whose sessions end when nothing is asked for `idle` (as Go says it; 0: never).
    pub(crate) fn start(idle: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join(MACHINE)).unwrap();
        let simulator = Simulator::start(dir.path(), &SIZES, idle);
        let memory = Memory {
            dir: dir.path().join("memory"),
            repo: RepoId::fresh(1),
            workload: WorkloadId::fresh(2),
            previous: None,
            point: PointId::fresh(3),
        };
        fs::create_dir(&memory.dir).unwrap();
        let disks = SIZES.iter().zip(1..).map(|(size, seed)| picture(*size, seed)).collect();
        let (change, epoch, blobs) = (1, 1, Blobs::default());
        let lab = Self { simulator, disks, change, epoch, blobs, memory, dir };
        lab.put();
        lab
    }

    fn file(&self, disk: usize, kind: &str) -> PathBuf {
        self.dir.path().join(MACHINE).join(format!("{}.{kind}", 2000 + disk))
    }

    /// What the server shall give of the disks now.
    fn put(&self) {
        for (number, disk) in self.disks.iter().enumerate() {
            let raw = self.dir.path().join(format!("{number}.truth"));
            fs::write(&raw, disk).unwrap();
            let options = ["-o", "subformat=streamOptimized"];
            qemu(&raw, &self.file(number, "vmdk"), "vmdk", &options);
            let change = format!("52de0{}ef/{}", self.epoch, self.change);
            fs::write(self.file(number, "change"), change).unwrap();
        }
    }

    /// Writes to the disks, each time elsewhere, and tells the server what that was.
    pub(crate) fn write(&mut self, stretches: &[(usize, usize, usize)]) {
        let since = format!("52de0{}ef/{}", self.epoch, self.change);
        self.change += 1;
        for number in 0..self.disks.len() {
            let mut lines = format!("{since} 0 0\n");
            for (disk, from, length) in stretches.iter().filter(|(disk, ..)| *disk == number) {
                let bytes = image::noise(*length, u64::from(self.change));
                self.disks[*disk][*from..*from + *length].copy_from_slice(&bytes);
                lines.push_str(&format!("{since} {from} {length}\n"));
            }
            fs::write(self.file(number, "areas"), lines).unwrap();
        }
        self.put();
    }

    /// The server begins to count changes anew.
    pub(crate) fn count_anew(&mut self) {
        self.epoch += 1;
        self.put();
    }

    /// The server does not tell what changed on a disk.
    pub(crate) fn forget_areas(&self, disk: usize) {
        fs::remove_file(self.file(disk, "areas")).unwrap();
    }

    /// The guest refuses to be quiet, once.
    pub(crate) fn refuse_once(&self) {
        fs::write(self.dir.path().join(MACHINE).join("refuse"), "").unwrap();
    }

    /// A disk grows.
    pub(crate) fn grow(&mut self, disk: usize, bytes: usize) {
        self.disks[disk].resize(bytes, 0);
        fs::write(self.file(disk, "size"), bytes.to_string()).unwrap();
    }

    pub(crate) fn server(&self) -> Server {
        let text = |key: &str| self.simulator.said(key);
        Server {
            place: Place::parse(&text("url")).unwrap(),
            user: "user".to_owned(),
            password: "pass".to_owned(),
            trust: Trust::Thumbprint(Thumbprint::parse(&text("thumbprint")).unwrap()),
        }
    }

    pub(crate) fn ca_file(&self) -> PathBuf {
        PathBuf::from(self.simulator.said("ca"))
    }

    /// The machine as a workload, for a run that makes a new point.
    pub(crate) fn workload(&mut self) -> VsphereWorkload {
        self.memory.point = PointId::fresh(4);
        let mut workload = VsphereWorkload::new(self.server(), self.memory.clone());
        workload.machine = MACHINE.to_owned();
        workload
    }

    /// Somebody else at the server.
    pub(crate) fn beside(&self) -> (Session, Named) {
        let session = Session::open(&self.server()).unwrap();
        let all = machines(&session, &["name"]).unwrap();
        let found = machine(&all, "lab", MACHINE).unwrap();
        (session, found)
    }

    /// Does something to the machine.
    pub(crate) fn order(&self, task: &str, words: &str) {
        let (session, machine) = self.beside();
        done(&session, task, &machine, words).unwrap();
    }

    /// The names of the machine's snapshots.
    pub(crate) fn snapshots(&self) -> Vec<String> {
        let (session, machine) = self.beside();
        snapshots(&session, &machine).unwrap().into_iter().map(|known| known.name).collect()
    }

    /// Makes a point, commits it, and compares what it restores to with the disks.
    pub(crate) fn point(&mut self) -> Made {
        self.point_with(|_| ())
    }

    pub(crate) fn point_with(&mut self, change: impl Fn(&mut VsphereWorkload)) -> Made {
        let mut workload = self.workload();
        change(&mut workload);
        let (mut view, mut evidence) = self.view(&workload);
        let progress = Progress::default();
        let protected = view.read(&self.reading(&progress), &mut evidence).unwrap();
        view.committed();
        drop(view);
        self.memory.previous = Some(self.memory.point);
        let description = self.compare(&protected);
        protected.finish(Committed::Yes).unwrap();
        Made { evidence, description }
    }

    /// The moment, and what it claims.
    pub(crate) fn view(&self, workload: &VsphereWorkload) -> (VsphereMoment, Evidence) {
        workload.discover().unwrap();
        let viewed = workload.quiesce().unwrap().view(|| {
            let view = workload.view()?;
            let reached = view.consistency();
            Ok::<_, strongroom_agent::workload::vsphere::VsphereError>((view, reached))
        });
        let viewed = viewed.map_err(|error| format!("{error:?}")).unwrap();
        (viewed.view, viewed.evidence)
    }

    /// Reads and does not commit.
    pub(crate) fn uncommitted(&mut self) {
        let workload = self.workload();
        let (mut view, mut evidence) = self.view(&workload);
        let progress = Progress::default();
        view.read(&self.reading(&progress), &mut evidence).unwrap();
    }

    /// Reads, which must fail; why.
    pub(crate) fn fails(&self, mut view: VsphereMoment) -> String {
        let progress = Progress::default();
        let error = view.read(&self.reading(&progress), &mut Evidence::default()).unwrap_err();
        Chain(&error).to_string()
    }

    /// Reads into a target that is slow, which must fail; why.
    pub(crate) fn fails_slowly(&self, mut view: VsphereMoment) -> String {
        let progress = Progress::default();
        let slow = Slow(&self.blobs);
        let reading = Reading { sink: &slow, ..self.reading(&progress) };
        let error = view.read(&reading, &mut Evidence::default()).unwrap_err();
        Chain(&error).to_string()
    }

    /// Reads, which must work.
    pub(crate) fn reads(&self, mut view: VsphereMoment) {
        let progress = Progress::default();
        view.read(&self.reading(&progress), &mut Evidence::default()).unwrap();
    }

    /// Reads into a target that is slow, which must work.
    pub(crate) fn reads_slowly(&self, mut view: VsphereMoment) {
        let progress = Progress::default();
        let slow = Slow(&self.blobs);
        let reading = Reading { sink: &slow, ..self.reading(&progress) };
        view.read(&reading, &mut Evidence::default()).unwrap();
    }

    /// The server has a disk no longer.
    pub(crate) fn lose_disk(&self, disk: usize) {
        fs::remove_file(self.file(disk, "vmdk")).unwrap();
    }

    /// The server has only the beginning of a disk.
    pub(crate) fn cut_disk(&self, disk: usize) {
        let path = self.file(disk, "vmdk");
        let whole = fs::read(&path).unwrap();
        fs::write(path, &whole[..whole.len() / 2]).unwrap();
    }

    fn reading<'run>(&'run self, progress: &'run Progress) -> Reading<'run> {
        static STOP: AtomicBool = AtomicBool::new(false);
        Reading {
            sink: &self.blobs,
            progress,
            stop: &STOP,
            clock: &SystemClock,
            cut: CutParams::FILES,
            cut_key: keys().cut_key,
            memory: self.memory.clone(),
        }
    }

    fn compare(&self, protected: &Protected) -> Value {
        let to = tempfile::tempdir_in(self.dir.path()).unwrap();
        let tree = Tree::new(&self.blobs, protected.root);
        let page = protected.item.directory_page().unwrap();
        let restorer =
            Restorer::new(RestoreOptions::new(to.path()), Arc::new(AtomicBool::new(false)));
        let report = restorer.run(&tree, page, Some(protected.item.meta.clone())).unwrap();
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        for (number, disk) in self.disks.iter().enumerate() {
            let image = to.path().join(DISKS).join(format!("scsi0-{number}.raw"));
            assert!(fs::read(image).unwrap() == *disk, "disk {number} is another");
        }
        let machine = fs::read_to_string(to.path().join("config/machine.xml")).unwrap();
        assert!(machine.contains(&format!("<name>{MACHINE}</name>")), "{machine}");
        let description = fs::read(to.path().join(DESCRIPTION)).unwrap();
        serde_json::from_slice(&description).unwrap()
    }

    /// Bytes of the blocks that these stretches touch.
    pub(crate) fn blocks(disk: usize, stretches: &[(usize, usize, usize)]) -> u64 {
        let mut blocks: Vec<usize> = Vec::new();
        for (_, from, length) in stretches.iter().filter(|(known, ..)| *known == disk) {
            blocks.extend(from / BLOCK..(from + length).div_ceil(BLOCK));
        }
        blocks.sort_unstable();
        blocks.dedup();
        let bytes = |block: &usize| BLOCK.min(SIZES[disk] - block * BLOCK) as u64;
        blocks.iter().map(bytes).sum()
    }
}

/// A target that is slow: a disk takes some seconds.
struct Slow<'b>(&'b Blobs);

impl ChunkSink for Slow<'_> {
    fn put(
        &self,
        kind: BlobKind,
        references: Vec<Reference>,
        plain: Vec<u8>,
    ) -> Result<ChunkId, SinkError> {
        std::thread::sleep(Duration::from_millis(20));
        self.0.put(kind, references, plain)
    }
}
