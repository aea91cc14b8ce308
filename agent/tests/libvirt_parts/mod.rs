//! A lab machine that a real libvirt runs, protected into memory, and the truth to compare with.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests and what they share")]

#[path = "../vm_parts/blobs.rs"]
mod blobs;
mod daemon;
#[path = "../vm_parts/made.rs"]
mod made;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use strongroom_agent::holder::{HOLDER_WORD, Order};
use strongroom_agent::quiesce::{Consistency, Evidence};
use strongroom_agent::vmlab::{Kernel, LabDisk, MEMORY_MIB, convert, ext4};
use strongroom_agent::workload::Workload as _;
use strongroom_agent::workload::files::{Committed, Progress};
use strongroom_agent::workload::libvirt::{LibvirtMoment, LibvirtWorkload};
use strongroom_agent::workload::moment::{Memory, Moment as _, Reading};
use strongroom_protocol::{Chain, PointId, RepoId, SystemClock, WorkloadId};
use strongroom_store::cut::CutParams;
use tempfile::TempDir;

use blobs::{Blobs, Slow, keys};
pub(crate) use daemon::Daemon;
pub(crate) use made::Made;
use made::{compare, truth};

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
    pub(crate) libvirt: Daemon,
    disks: Vec<LabDisk>,
    blobs: Blobs,
    pub(crate) memory: Memory,
    dir: TempDir,
}

fn target() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.ancestors().find(|dir| dir.ends_with("target")).unwrap().to_owned()
}

fn definition(dir: &Path, disks: &[LabDisk]) -> String {
    let at = dir.display();
    let disk = |LabDisk { path, format, name }: &LabDisk| {
        format!(
            "<disk type='file' device='disk'><driver name='qemu' type='{format}'/>\
             <source file='{}'/><target dev='{name}' bus='virtio'/></disk>",
            path.display()
        )
    };
    format!(
        "<domain type='qemu'><name>lab</name><memory unit='MiB'>{MEMORY_MIB}</memory>\
         <vcpu>1</vcpu><os><type arch='x86_64' machine='pc'>hvm</type>\
         <kernel>{at}/vmlinuz</kernel><initrd>{at}/initrd</initrd>\
         <cmdline>console=ttyS0 quiet loglevel=0 panic=-1 no_timer_check nowatchdog \
         rcupdate.rcu_cpu_stall_suppress=1</cmdline></os><features><acpi/></features>\
         <cpu mode='maximum'/><devices>{}\
         <disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>\
         <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
         <serial type='file'><source path='{at}/console' append='on'/></serial>\
         <controller type='usb' model='none'/><memballoon model='none'/></devices></domain>",
        disks.iter().map(disk).collect::<String>()
    )
}

impl Lab {
    /// A machine with an ext4 in a qcow2 image and one in a raw one, up and answering.
    pub(crate) fn start() -> Self {
        // One test at a time makes the guest of this checkout.
        static MAKING: Mutex<()> = Mutex::new(());
        let dir = tempfile::tempdir().unwrap();
        let libvirt = Daemon::start(dir.path(), &target().join("libvirt-cache"));
        let kernel = {
            let _one = MAKING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            Kernel::get(&target().join("vm-kernel")).unwrap()
        };
        let initrd = dir.path().join("initrd");
        kernel.initramfs(&initrd, &[]).unwrap();
        // QEMU is another user's.
        fs::copy(&kernel.image, dir.path().join("vmlinuz")).unwrap();
        fs::write(dir.path().join("console"), "").unwrap();
        for (name, mode) in [("vmlinuz", 0o644), ("initrd", 0o644), ("console", 0o666)] {
            let mode = fs::Permissions::from_mode(mode);
            fs::set_permissions(dir.path().join(name), mode).unwrap();
        }
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
        let memory = Memory {
            dir: dir.path().join("memory"),
            repo: RepoId::fresh(1),
            workload: WorkloadId::fresh(2),
            previous: None,
            point: PointId::fresh(3),
        };
        fs::create_dir(&memory.dir).unwrap();
        let xml = dir.path().join("lab.xml");
        fs::write(&xml, definition(dir.path(), &disks)).unwrap();
        libvirt.virsh(&["define", &xml.to_string_lossy()]);
        let lab = Self { libvirt, disks, blobs: Blobs::default(), memory, dir };
        lab.boot();
        lab
    }

    /// Starts the machine and waits for its guest agent.
    pub(crate) fn boot(&self) {
        self.libvirt.virsh(&["start", "lab"]);
        let until = Instant::now() + BOOT;
        while let Err(error) = self.libvirt.try_virsh(&["guestinfo", "lab", "--os"]) {
            assert!(Instant::now() < until, "{error}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The machine's process is killed and started again.
    pub(crate) fn power_cut(&self) {
        let words = "guest=lab";
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let ours = self.uuid();
        let mut killed = 0;
        for process in processes {
            let Ok(said) = fs::read(process.path().join("cmdline")) else { continue };
            let said = String::from_utf8_lossy(&said).into_owned();
            if said.contains(words) && said.contains(&ours) {
                let process = process.file_name().to_string_lossy().into_owned();
                assert!(Command::new("kill").args(["-9", &process]).status().unwrap().success());
                killed += 1;
            }
        }
        assert_eq!(killed, 1);
        let until = Instant::now() + BOOT;
        while self.libvirt.virsh(&["domstate", "lab"]).trim() != "shut off" {
            assert!(Instant::now() < until);
            std::thread::sleep(Duration::from_millis(50));
        }
        self.boot();
        self.load();
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn scratch(&self) -> PathBuf {
        self.dir.path().join("scratch")
    }

    /// Runs something in the guest and leaves it running.
    pub(crate) fn leave(&self, text: &str) {
        let order = serde_json::json!({
            "execute": "guest-exec", "arguments": { "path": "/bin/sh", "arg": ["-c", text] },
        });
        self.libvirt.virsh(&["qemu-agent-command", "lab", &order.to_string()]);
    }

    /// Begins to write to both disks.
    pub(crate) fn load(&self) {
        self.leave(LOAD);
        self.ticks_after(self.ticks());
    }

    fn said(&self) -> String {
        let said = fs::read(self.dir.path().join("console")).unwrap();
        String::from_utf8_lossy(&said).into_owned()
    }

    /// Waits until the guest has said this.
    pub(crate) fn await_said(&self, what: &str) {
        let until = Instant::now() + BOOT;
        while !self.said().contains(what) {
            assert!(Instant::now() < until, "the guest does not say {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// How often the guest said that it wrote.
    pub(crate) fn ticks(&self) -> usize {
        self.said().matches("TICK").count()
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

    pub(crate) fn uuid(&self) -> String {
        self.libvirt.virsh(&["domuuid", "lab"]).trim().to_owned()
    }

    /// The checkpoint of the last point.
    pub(crate) fn checkpoint(&self) -> String {
        let previous = self.memory.previous.unwrap();
        format!("sr.{}.{}", self.memory.workload.short(), previous.short())
    }

    pub(crate) fn checkpoints(&self) -> Vec<String> {
        let all = self.libvirt.virsh(&["checkpoint-list", "lab", "--name"]);
        all.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    pub(crate) fn forget_memory(&self, disk: &str) {
        fs::remove_file(self.memory.path(&format!("vm-{disk}"))).unwrap();
    }

    /// What the checkpoint of the last point says was written.
    fn written(&self) -> Option<u64> {
        let xml = self.libvirt.try_virsh(&[
            "checkpoint-dumpxml",
            "lab",
            &self.checkpoint(),
            "--size",
            "--no-domain",
        ]);
        let (_, size) = xml.ok()?.split_once("size='").map(|(a, b)| (a.len(), b.to_owned()))?;
        size.split_once('\'')?.0.parse().ok()
    }

    /// Nothing of a run is left in libvirt but the checkpoint of the last point.
    pub(crate) fn is_clean(&self) {
        let job = self.libvirt.try_virsh(&["backup-dumpxml", "lab"]);
        assert!(job.is_err(), "{job:?}");
        let (last, all) = (self.checkpoint(), self.checkpoints());
        assert!(all.iter().all(|name| *name == last), "{all:?} beside {last}");
        let scratch: Vec<_> = fs::read_dir(self.scratch()).unwrap().collect();
        assert!(scratch.is_empty(), "{scratch:?}");
    }

    /// The machine as a workload, for a run that makes a new point.
    pub(crate) fn workload(&mut self) -> LibvirtWorkload {
        self.memory.point = PointId::fresh(4);
        let mut workload = LibvirtWorkload::new(self.memory.clone());
        workload.machine = "lab".to_owned();
        self.libvirt.uri().clone_into(&mut workload.uri);
        workload.scratch = self.scratch();
        workload.scratch_free_bytes_min = MIB;
        workload.holder = Some(HOLDER.into());
        workload
    }

    /// Makes a point, commits it, and compares what it restores to with what was frozen.
    pub(crate) fn point(&mut self) -> Made {
        self.point_with(|_| ())
    }

    pub(crate) fn point_with(&mut self, change: impl Fn(&mut LibvirtWorkload)) -> Made {
        let mut workload = self.workload();
        change(&mut workload);
        workload.discover().unwrap();
        let mut written = BTreeMap::new();
        let runs = self.libvirt.virsh(&["domstate", "lab"]).trim() == "running";
        let viewed = workload.quiesce().unwrap().view(|| {
            // All the world stands still while the truth is copied.
            if runs {
                self.libvirt.virsh(&["suspend", "lab"]);
            }
            if self.memory.previous.is_some() {
                written.extend(self.written().map(|bytes| ("vda".to_owned(), bytes)));
            }
            let view = workload.view();
            truth(self.dir.path(), &self.disks);
            if runs {
                self.libvirt.virsh(&["resume", "lab"]);
            }
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
        if runs {
            self.is_clean();
        }
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

    /// A view of a moment whose run goes no further.
    pub(crate) fn view(&mut self) -> LibvirtMoment {
        let workload = self.workload();
        workload.discover().unwrap();
        workload.view().unwrap()
    }

    /// A run that reads everything and is not committed.
    pub(crate) fn uncommitted(&mut self) {
        let mut view = self.view();
        let progress = Progress::default();
        view.read(&self.reading(&progress), &mut Evidence::default()).unwrap();
        drop(view);
        self.is_clean();
    }

    /// A run into a slow target that must fail while it reads; why it did.
    pub(crate) fn fails(
        &mut self,
        change: impl Fn(&mut LibvirtWorkload),
        meanwhile: impl FnOnce(&Self),
    ) -> String {
        let mut workload = self.workload();
        workload.discover().unwrap();
        change(&mut workload);
        let mut view = workload.view().unwrap();
        meanwhile(self);
        // The watch looks before a fast disk is read.
        let progress = Progress::default();
        let slow = Slow(&self.blobs);
        let reading = Reading { sink: &slow, ..self.reading(&progress) };
        let error = view.read(&reading, &mut Evidence::default()).unwrap_err();
        Chain(&error).to_string()
    }

    /// A run that does not come to a view; why.
    pub(crate) fn refused(&mut self, change: impl Fn(&mut LibvirtWorkload)) -> String {
        let mut workload = self.workload();
        change(&mut workload);
        let refused = workload.discover().map(|_| workload.view().map(drop));
        let error = match refused {
            Ok(viewed) => viewed.unwrap_err(),
            Err(error) => error,
        };
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
