//! A lab machine with two disks, protected into memory, and the truth to compare with.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests and what they share")]

mod blobs;
mod made;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use strongroom_agent::holder::{HOLDER_WORD, Order};
use strongroom_agent::quiesce::{Consistency, Evidence};
use strongroom_agent::vmlab::{
    Accel, Boot, Kernel, LabDisk, MEMORY_MIB, Machine, Setup, Writes, convert, ext4,
};
use strongroom_agent::workload::Workload as _;
use strongroom_agent::workload::files::{Committed, Progress};
use strongroom_agent::workload::moment::{Memory, Moment as _, Reading};
use strongroom_agent::workload::vm::qmp::Qmp;
use strongroom_agent::workload::vm::{Quiesce, VmWorkload};
use strongroom_protocol::{Chain, PointId, RepoId, SystemClock, WorkloadId};
use strongroom_store::cut::CutParams;
use tempfile::TempDir;

use blobs::{Blobs, Slow, keys};
use made::{Made, compare, truth};

/// A program that holds freezes.
pub(crate) const HOLDER: &str = env!("CARGO_BIN_EXE_strongroom-agent");
/// Time enough for a guest to boot on a machine that has much else to do.
const BOOT: Duration = Duration::from_secs(120);
const MIB: u64 = 1 << 20;
/// Writes to both disks for ever, syncs, and says so on the console.
const LOAD: &str = "setsid sh -c 'n=0; while :; do n=$((n+1)); for d in vda vdb; do \
    dd if=/dev/urandom of=/mnt/$d/f$((n%9)) bs=16k count=$((n%12+1)) 2>/dev/null; \
    [ $((n%5)) = 0 ] && rm -f /mnt/$d/f$((n*7%9)); sync; done; echo TICK > /dev/ttyS0; done' \
    >/dev/null 2>&1 &";

/// The lab.
pub(crate) struct Lab {
    machine: Option<Machine>,
    disks: Vec<LabDisk>,
    boot: Boot,
    blobs: Blobs,
    memory: Memory,
    dir: TempDir,
}

fn target() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.ancestors().find(|dir| dir.ends_with("target")).unwrap().to_owned()
}

impl Lab {
    /// A machine with an ext4 in a qcow2 image and one in a raw one, up and answering.
    pub(crate) fn start() -> Self {
        // One test at a time makes the guest of this checkout.
        static MAKING: Mutex<()> = Mutex::new(());
        let dir = tempfile::tempdir().unwrap();
        let initrd = dir.path().join("initrd");
        let kernel = {
            let _one = MAKING.lock().unwrap();
            Kernel::get(&target().join("vm-kernel")).unwrap()
        };
        kernel.initramfs(&initrd, &[]).unwrap();
        let disk = |name: &str, format: &str, bytes: u64| {
            let raw = dir.path().join(format!("{name}.raw"));
            ext4(&raw, bytes).unwrap();
            let path = dir.path().join(format!("{name}.{format}"));
            if format != "raw" {
                convert((&raw, "raw"), (&path, format)).unwrap();
            }
            LabDisk { path, format: format.to_owned(), name: name.to_owned() }
        };
        let disks = vec![disk("vda", "qcow2", 256 * MIB), disk("vdb", "raw", 64 * MIB)];
        let boot = Boot::Kernel { image: kernel.image, initrd, words: String::new() };
        let memory = Memory {
            dir: dir.path().join("memory"),
            repo: RepoId::fresh(1),
            workload: WorkloadId::fresh(2),
            previous: None,
            point: PointId::fresh(3),
        };
        fs::create_dir(&memory.dir).unwrap();
        let machine = None;
        let mut lab = Self { machine, disks, boot, blobs: Blobs::default(), memory, dir };
        lab.boot();
        lab
    }

    fn boot(&mut self) {
        let place = self.dir.path().join("machine");
        let (disks, boot) = (self.disks.clone(), self.boot.clone());
        let (writes, accel) = (Writes::Kept, Accel::Tcg);
        let more = Vec::new();
        let setup = Setup { disks, boot, writes, memory_mib: MEMORY_MIB, accel, more };
        let mut machine = Machine::start(&place, &setup).unwrap();
        machine.await_agent(BOOT).unwrap();
        self.machine = Some(machine);
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn machine(&mut self) -> &mut Machine {
        self.machine.as_mut().unwrap()
    }

    /// Begins to write to both disks.
    pub(crate) fn load(&mut self) {
        self.machine().leave(LOAD).unwrap();
        let before = self.ticks();
        self.ticks_after(before);
    }

    /// The machine's process ends in order and is started again.
    pub(crate) fn shut_down(&mut self) {
        self.monitor("quit", Value::Null);
        self.machine.take().unwrap().wait().unwrap();
        self.boot();
        self.load();
    }

    /// The machine's process is killed and started again.
    pub(crate) fn power_cut(&mut self) {
        self.machine.take().unwrap().kill();
        self.boot();
        self.load();
    }

    /// How often the guest said that it wrote.
    pub(crate) fn ticks(&self) -> usize {
        let said = fs::read(self.machine.as_ref().unwrap().console()).unwrap();
        String::from_utf8_lossy(&said).matches("TICK").count()
    }

    /// Waits until the guest writes on; within ten seconds it must.
    pub(crate) fn ticks_after(&self, before: usize) {
        let until = Instant::now() + Duration::from_secs(10);
        while self.ticks() < before + 2 {
            assert!(Instant::now() < until, "the guest does not write");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sees that the guest writes nothing.
    pub(crate) fn still(&self) -> usize {
        std::thread::sleep(Duration::from_millis(500));
        let before = self.ticks();
        std::thread::sleep(Duration::from_millis(1000));
        assert_eq!(self.ticks(), before, "the guest writes while it is frozen");
        before
    }

    fn beside(&self) -> Qmp {
        Qmp::connect(&self.machine.as_ref().unwrap().qmp_beside()).unwrap()
    }

    pub(crate) fn monitor(&self, command: &str, arguments: Value) -> Value {
        self.beside().command(command, &arguments).unwrap()
    }

    /// Holds the monitor that the agent is to use.
    pub(crate) fn hold_monitor(&self) -> Qmp {
        Qmp::connect(&self.machine.as_ref().unwrap().qmp()).unwrap()
    }

    /// The node of a disk.
    pub(crate) fn node(&self, disk: &str) -> String {
        let all = self.monitor("query-block", Value::Null);
        let all = all.as_array().unwrap();
        let found = all.iter().find(|device| device["device"] == disk).unwrap();
        found["inserted"]["node-name"].as_str().unwrap().to_owned()
    }

    fn bitmaps(&self) -> Vec<(String, String, u64)> {
        let all = self.monitor("query-block", Value::Null);
        let of = |device: &Value| -> Vec<_> {
            let maps = device["inserted"]["dirty-bitmaps"].as_array().cloned().unwrap_or_default();
            let name = device["device"].as_str().unwrap().to_owned();
            let told = |map: Value| {
                (
                    name.clone(),
                    map["name"].as_str().unwrap().to_owned(),
                    map["count"].as_u64().unwrap(),
                )
            };
            maps.into_iter().map(told).collect()
        };
        all.as_array().unwrap().iter().flat_map(of).collect()
    }

    /// The bitmap of the last point.
    pub(crate) fn bitmap(&self) -> String {
        let previous = self.memory.previous.unwrap();
        format!("sr.{}.{}", self.memory.workload.short(), previous.short())
    }

    pub(crate) fn forget_memory(&self, disk: &str) {
        fs::remove_file(self.memory.path(&format!("vm-{disk}"))).unwrap();
    }

    /// Nothing of a run is left in the machine but one bitmap a disk, that of the last point.
    pub(crate) fn is_clean(&self) {
        for command in ["query-block-exports", "query-jobs"] {
            assert_eq!(self.monitor(command, Value::Null), json!([]), "{command}");
        }
        let nodes = self.monitor("query-named-block-nodes", json!({ "flat": true }));
        let nodes: Vec<_> =
            nodes.as_array().unwrap().iter().map(|n| n["node-name"].clone()).collect();
        assert!(nodes.iter().all(|node| !node.as_str().unwrap().starts_with("sr.")), "{nodes:?}");
        let last = self.bitmap();
        assert!(self.bitmaps().iter().all(|(_, name, _)| *name == last), "{:?}", self.bitmaps());
        let scratch: Vec<_> = fs::read_dir(self.memory.dir.join("scratch")).unwrap().collect();
        assert!(scratch.is_empty(), "{scratch:?}");
    }

    /// The machine as a workload, for a run that makes a new point.
    pub(crate) fn workload(&mut self) -> VmWorkload {
        let machine = self.machine.as_ref().unwrap();
        self.memory.point = PointId::fresh(4);
        let mut workload = VmWorkload::new(self.memory.clone());
        workload.machine = "lab".to_owned();
        workload.qmp = machine.qmp();
        workload.guest_agent = Some(machine.guest_agent());
        workload.scratch_free_bytes_min = MIB;
        workload.holder = Some(HOLDER.into());
        workload
    }

    /// Makes a point, commits it, and compares what it restores to with what was frozen.
    pub(crate) fn point(&mut self) -> Made {
        self.point_with(|_| ())
    }

    pub(crate) fn point_with(&mut self, change: impl Fn(&mut VmWorkload)) -> Made {
        let mut workload = self.workload();
        change(&mut workload);
        workload.discover().unwrap();
        let mut written = BTreeMap::new();
        let previous = self.memory.previous.map(|_| self.bitmap());
        let viewed = workload.quiesce().unwrap().view(|| {
            // All the world stands still while the truth is copied.
            self.monitor("stop", Value::Null);
            let bitmaps =
                self.bitmaps().into_iter().filter(|(_, name, _)| Some(name) == previous.as_ref());
            written.extend(bitmaps.map(|(disk, _, count)| (disk, count)));
            let view = workload.view();
            truth(self.dir.path(), &self.disks);
            self.monitor("cont", Value::Null);
            view.map(|view| (view, Consistency::Application))
        });
        let mut viewed = viewed.unwrap();
        let progress = Progress::default();
        let protected = viewed.view.read(&self.reading(&progress), &mut viewed.evidence).unwrap();
        viewed.view.committed();
        self.memory.previous = Some(self.memory.point);
        let description = compare(&self.blobs, &protected, self.dir.path(), &self.disks);
        protected.finish(Committed::Yes).unwrap();
        drop((viewed.view, workload));
        self.is_clean();
        Made { evidence: viewed.evidence, description, written }
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

    /// A run that reads everything and is not committed.
    pub(crate) fn uncommitted(&mut self) {
        let workload = self.workload();
        workload.discover().unwrap();
        let mut view = workload.view().unwrap();
        let progress = Progress::default();
        view.read(&self.reading(&progress), &mut Evidence::default()).unwrap();
        drop((view, workload));
        self.is_clean();
    }

    /// A freeze whose deadline comes before the view is claimed as broken, and where the policy
    /// wants nothing less there is no point.
    pub(crate) fn expired(&mut self) {
        let mut workload = self.workload();
        workload.freeze_deadline = Duration::from_secs(3);
        workload.quiesce = Quiesce::Required;
        workload.discover().unwrap();
        let viewed = workload.quiesce().unwrap().view(|| {
            std::thread::sleep(Duration::from_secs(5));
            workload.view().map(|view| (view, Consistency::Application))
        });
        let mut viewed = viewed.unwrap();
        assert_eq!(viewed.evidence.consistency, Consistency::Crash, "{:?}", viewed.evidence);
        assert!(viewed.evidence.broken[0].contains("deadline"), "{:?}", viewed.evidence);
        let progress = Progress::default();
        let error = viewed.view.read(&self.reading(&progress), &mut viewed.evidence).unwrap_err();
        assert!(Chain(&error).to_string().contains("did not stay quiet"), "{error:?}");
        drop((viewed, workload));
        self.is_clean();
    }

    /// A run into a target that is slow; how often the guest wrote while it was read.
    pub(crate) fn slow(&mut self) -> usize {
        let workload = self.workload();
        workload.discover().unwrap();
        let mut view = workload.view().unwrap();
        let (progress, before) = (Progress::default(), self.ticks());
        let slow = Slow(&self.blobs);
        let reading = Reading { sink: &slow, ..self.reading(&progress) };
        let began = Instant::now();
        view.read(&reading, &mut Evidence::default()).unwrap();
        assert!(began.elapsed() > Duration::from_secs(2), "it was not slow");
        self.ticks() - before
    }

    /// A run that must fail while it reads; why it did.
    pub(crate) fn fails(&mut self, change: impl Fn(&mut VmWorkload)) -> String {
        let mut workload = self.workload();
        workload.discover().unwrap();
        change(&mut workload);
        let mut view = workload.view().unwrap();
        // The guard looks before a fast disk is read.
        let progress = Progress::default();
        let slow = Slow(&self.blobs);
        let reading = Reading { sink: &slow, ..self.reading(&progress) };
        let error = view.read(&reading, &mut Evidence::default()).unwrap_err();
        Chain(&error).to_string()
    }
}

/// A holder that holds, started as an agent would, to be killed in some way.
pub(crate) fn ending(order: &Order) -> Child {
    let mut command = Command::new(HOLDER);
    command.arg(HOLDER_WORD).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let line = serde_json::to_string(order).unwrap();
    writeln!(child.stdin.as_mut().unwrap(), "{line}").unwrap();
    let mut said = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert!(said.contains("held"), "{said}");
    child
}
