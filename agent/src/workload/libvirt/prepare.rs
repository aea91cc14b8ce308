//! Everything that can be done before a guest is held: what the machine is, which disks it has,
//! what earlier runs left, and whether the last point can be built on.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::backup::{Backup, Job};
use super::domain::{Domain, DomainDisk, follows};
use super::virsh::{ANSWER, Virsh, VirshError};
use super::{About, LibvirtError, LibvirtWorkload, Ready, is_new_enough};
use crate::holder::reap_note;
use crate::workload::apps;
use crate::workload::vm::ground::{DiskGround, mark, memory_of};
use crate::workload::vm::guard;
use crate::workload::vm::guest::Frozen;
use crate::workload::vm::machine::{Disk, LeftOut, Whole};
use crate::workload::vm::names::Names;
use crate::workload::vm::remember::{Mark, Remembered};

const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";
/// The version of its format that can keep bitmaps.
const QCOW2_WITH_BITMAPS: u32 = 3;

impl LibvirtWorkload {
    pub(super) fn prepare(&self) -> Result<Ready, LibvirtError> {
        let failed = |source| self.failed(source);
        let virsh = Virsh::of(&self.uri).map_err(failed)?;
        let uuid = virsh.uuid(&self.machine).map_err(failed)?;
        // A holder that was killed may have left the guest frozen.
        reap_note(&self.note(&uuid), apps::held);
        let exclude: Vec<&str> = self.exclude.iter().map(String::as_str).collect();
        let read = |xml: &str| {
            let wrong = |source| LibvirtError::Definition { machine: self.machine.clone(), source };
            Domain::read(xml, &exclude).map_err(wrong)
        };
        let (live, definition) = definitions(&virsh, &uuid).map_err(failed)?;
        let domain = read(&live)?;
        let about = self.about(&virsh, &domain)?;
        let names = Names::new(self.memory.workload, self.memory.point);
        let (scratch, machine) = (self.scratch.clone(), uuid);
        let backup = Backup { virsh, names, machine, scratch };
        let last = self.memory.previous.map(|point| backup.names.bitmap(point));
        self.clean(&backup, &about, last.as_deref())?;
        let Domain { disks, left_out, .. } = &domain;
        if disks.is_empty() {
            let why = left_out.iter().map(|LeftOut { name, why }| format!("{name}: {why}"));
            let why = why.collect::<Vec<_>>().join("; ");
            return Err(LibvirtError::NoDisks { machine: self.machine.clone(), why });
        }
        let mut grounds = Vec::new();
        for disk in disks {
            let disk = sized(&backup, disk).map_err(failed)?;
            let mark = mark(&self.memory, &about.uuid, &disk);
            let last = self.ground(&backup, &about, (&disk, &mark), last.as_deref());
            grounds.push(DiskGround { disk, mark, last });
        }
        self.make_scratch(&backup, domain.owner)?;
        let command = about.is_active().then(|| command_of(&about.uuid)).flatten();
        Ok(Ready {
            backup,
            guest_agent: domain.guest_agent,
            disks: grounds,
            frozen: Frozen::default(),
            definition,
            belongings: belongings(&domain, &self.keep),
            command,
            left_out: domain.left_out,
            about,
        })
    }

    fn about(&self, virsh: &Virsh, domain: &Domain) -> Result<About, LibvirtError> {
        let failed = |source| self.failed(source);
        let said = virsh.ask(&["version", "--daemon"], ANSWER).map_err(failed)?;
        let version = |key: &str| {
            let line = said.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|line| line.split_whitespace().last()).unwrap_or_default().to_owned()
        };
        let libvirt = version("Running against daemon:");
        if !is_new_enough(&libvirt) {
            let machine = self.machine.clone();
            return Err(LibvirtError::Version { machine, found: libvirt });
        }
        let state = virsh.ask(&["domstate", "--domain", &domain.uuid], ANSWER).map_err(failed)?;
        Ok(About {
            name: domain.name.clone(),
            uuid: domain.uuid.clone(),
            libvirt,
            qemu: version("Running hypervisor:"),
            state: state.trim().to_owned(),
            architecture: domain.architecture.clone(),
            memory_bytes: domain.memory_bytes,
            processors: domain.processors,
        })
    }

    /// Takes away what earlier runs left, and sees that nobody else is at work.
    fn clean(
        &self,
        backup: &Backup,
        about: &About,
        last: Option<&str>,
    ) -> Result<(), LibvirtError> {
        let failed = |source| self.failed(source);
        backup.end().map_err(failed)?;
        if let Job::Others(job) = backup.job().map_err(failed)? {
            return Err(LibvirtError::Busy { machine: self.machine.clone(), job });
        }
        // An older libvirt removes no checkpoint of a machine that is off.
        match about.is_active() {
            true => backup.reap(last).map_err(failed),
            false => Ok(()),
        }
    }

    fn make_scratch(&self, backup: &Backup, owner: Option<(u32, u32)>) -> Result<(), LibvirtError> {
        let refused = |why: String| LibvirtError::Scratch {
            machine: self.machine.clone(),
            scratch: self.scratch.clone(),
            why,
        };
        backup.make_dir(owner).map_err(|error| refused(error.to_string()))?;
        match guard::short_of_room(&self.scratch, self.scratch_free_bytes_min) {
            Some(why) => Err(refused(why)),
            None => Ok(()),
        }
    }

    /// What the last point knows of the disk, or why nothing.
    fn ground(
        &self,
        backup: &Backup,
        about: &About,
        (disk, mark): (&Disk, &Mark),
        last: Option<&str>,
    ) -> Result<(String, Remembered), Whole> {
        let (Some(last), Some(point)) = (last, self.memory.previous) else {
            return Err(Whole::First);
        };
        let doubt = |why: &str| Whole::Doubt(format!("its checkpoint {last} {why}"));
        if !about.is_active() {
            let why = "the machine is shut off, and what changed is told only while it runs";
            return Err(Whole::Doubt(why.to_owned()));
        }
        if !disk.persistent {
            let why = "its image keeps no checkpoint: that takes qcow2 in its version 3 \
                       (`qemu-img convert`, or `qemu-img amend -o compat=1.1`)";
            return Err(Whole::Doubt(why.to_owned()));
        }
        let mark = Mark { point, ..mark.clone() };
        let known =
            Remembered::open(&memory_of(&self.memory, disk), &mark).map_err(Whole::Doubt)?;
        let told = backup.checkpoint(last).map_err(|error| match error {
            VirshError::Refused { why, .. } if why.contains("no domain checkpoint") => doubt(
                "is missing: somebody removed it, or the last point was of a machine that \
                       was shut off",
            ),
            error => doubt(&format!("cannot be read ({error})")),
        })?;
        follows(&told, &disk.name).map_err(doubt)?;
        Ok((last.to_owned(), known))
    }
}

/// The machine's definition as it is now, and as it will start again.
fn definitions(virsh: &Virsh, uuid: &str) -> Result<(String, String), VirshError> {
    let dump = |more: &[&str]| virsh.ask(&[&["dumpxml", "--domain", uuid], more].concat(), ANSWER);
    Ok((dump(&[])?, dump(&["--inactive", "--security-info"])?))
}

/// A disk as the guest sees it.
fn sized(backup: &Backup, disk: &DomainDisk) -> Result<Disk, VirshError> {
    let DomainDisk { name, file, format } = disk;
    let asked = ["domblkinfo", "--domain", &backup.machine, "--device", name];
    let said = backup.virsh.ask(&asked, ANSWER)?;
    let capacity = said.lines().find_map(|line| line.strip_prefix("Capacity:"));
    let bytes = capacity.and_then(|bytes| bytes.trim().parse().ok()).filter(|bytes| *bytes > 0);
    let bytes = bytes.ok_or_else(|| VirshError::Refused {
        command: "domblkinfo".to_owned(),
        why: format!("the size of disk {name} is not known"),
    })?;
    Ok(Disk {
        name: name.clone(),
        node: name.clone(),
        file: file.to_string_lossy().into_owned(),
        persistent: format == "qcow2" && !is_old(file),
        format: format.clone(),
        bytes,
        bitmaps: Vec::new(),
    })
}

/// Whether it is a qcow2 that cannot keep bitmaps, as far as it can be read.
fn is_old(file: &Path) -> bool {
    let mut head = [0; 8];
    let read = File::open(file).and_then(|mut file| file.read_exact(&mut head));
    let [a, b, c, d, version @ ..] = head;
    read.is_ok() && [a, b, c, d] == QCOW2_MAGIC && u32::from_be_bytes(version) < QCOW2_WITH_BITMAPS
}

/// What belongs to the machine beside its disks, and the names it gets.
fn belongings(domain: &Domain, keep: &[PathBuf]) -> Vec<(PathBuf, Option<&'static str>)> {
    let variables = domain.variables.iter().map(|path| (path.clone(), None));
    let tpm = domain.tpm.iter().map(|path| (path.clone(), Some("tpm")));
    variables.chain(tpm).chain(keep.iter().map(|path| (path.clone(), None))).collect()
}

/// The words the process of the machine with this UUID was started with, where they can be read.
fn command_of(uuid: &str) -> Option<Vec<String>> {
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    processes.into_iter().find_map(|process| {
        let words = std::fs::read(process.path().join("cmdline")).ok()?;
        let words = words.split(|byte| *byte == 0).filter(|word| !word.is_empty());
        let words: Vec<String> =
            words.map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let qemu = words.first().is_some_and(|program| program.contains("qemu"));
        let named =
            words.windows(2).any(|pair| matches!(pair, [a, b] if a == "-uuid" && b == uuid));
        (qemu && named).then_some(words)
    })
}
