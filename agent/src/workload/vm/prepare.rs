//! Everything that can be done before a guest is held: what the machine is, which disks it has,
//! what earlier runs left, scratch images, and whether the last point can be built on.

use serde_json::Value;

use super::fleece::{Breaks, Fleece};
use super::ground::{DiskGround, mark, memory_of};
use super::guest::Frozen;
use super::machine::{Disk, Whole, disks};
use super::names::Names;
use super::qmp::Qmp;
use super::remember::{Mark, Remembered};
use super::{About, Ready, VERSION_MIN, VmError, VmWorkload, guard};
use crate::holder::reap_note;
use crate::workload::apps;

impl VmWorkload {
    pub(super) fn prepare(&self) -> Result<Ready, VmError> {
        if let Some(socket) = &self.guest_agent {
            // A holder that was killed may have left the guest frozen.
            reap_note(&self.note(socket), apps::held);
        }
        let failed = |source| self.qmp_error(source);
        let mut qmp = Qmp::connect(&self.qmp).map_err(failed)?;
        let about = self.about(&mut qmp)?;
        self.check_scratch()?;
        let names = Names::new(self.memory.workload, self.memory.point);
        let (scratch, run_dir) = (self.scratch.clone(), self.run_dir.clone());
        let fleece = Fleece { names, scratch, run_dir };
        let last = self.memory.previous.map(|point| fleece.names.bitmap(point));
        fleece.reap(&mut qmp, last.as_deref()).map_err(failed)?;
        let exclude: Vec<&str> = self.exclude.iter().map(String::as_str).collect();
        let listed = qmp.command("query-block", &Value::Null).map_err(failed)?;
        let (found, left_out) = disks(&listed, &exclude);
        if found.is_empty() {
            return Err(VmError::NoDisks { machine: self.machine.clone() });
        }
        let breaks = Breaks::of(&mut qmp).map_err(failed)?;
        let mut grounds = Vec::new();
        for (number, disk) in found.into_iter().enumerate() {
            fleece.prepare(&mut qmp, number, &disk).map_err(failed)?;
            let mark = mark(&self.memory, &about.uuid, &disk);
            let last = self.ground(&disk, &mark, last.as_deref());
            grounds.push(DiskGround { disk, mark, last });
        }
        let frozen = Frozen::default();
        Ok(Ready { qmp, fleece, about, disks: grounds, left_out, breaks, frozen })
    }

    fn about(&self, qmp: &mut Qmp) -> Result<About, VmError> {
        let mut ask = |command| qmp.command(command, &Value::Null);
        let told = (|| Ok((ask("query-version")?, ask("query-name")?, ask("query-uuid")?)))();
        let (version, name, uuid) = told.map_err(|source| self.qmp_error(source))?;
        let number = |key: &str| version["qemu"][key].as_u64().unwrap_or_default();
        let qemu = format!("{}.{}.{}", number("major"), number("minor"), number("micro"));
        if (number("major"), number("minor")) < VERSION_MIN {
            return Err(VmError::Version { machine: self.machine.clone(), found: qemu });
        }
        // What is only told: a machine that does not say it is protected all the same.
        let mut told = |command, key: &str| ask(command).unwrap_or_default()[key].take();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let state = text(&told("query-status", "status"));
        let architecture = text(&told("query-target", "arch"));
        let memory = told("query-memory-size-summary", "base-memory").as_u64();
        let processors = ask("query-cpus-fast").ok().and_then(|all| all.as_array().map(Vec::len));
        Ok(About {
            name: text(&name["name"]),
            uuid: text(&uuid["UUID"]),
            qemu,
            state,
            architecture,
            memory_bytes: memory.unwrap_or_default(),
            processors: processors.unwrap_or_default() as u64,
            command: qmp.process().and_then(command_of),
        })
    }

    fn check_scratch(&self) -> Result<(), VmError> {
        let refused = |why: String| VmError::Scratch {
            machine: self.machine.clone(),
            scratch: self.scratch.clone(),
            why,
        };
        std::fs::create_dir_all(&self.scratch).map_err(|error| refused(error.to_string()))?;
        match guard::short_of_room(&self.scratch, self.scratch_free_bytes_min) {
            Some(why) => Err(refused(why)),
            None => Ok(()),
        }
    }

    /// What the last point knows of the disk, or why nothing.
    fn ground(
        &self,
        disk: &Disk,
        mark: &Mark,
        bitmap: Option<&str>,
    ) -> Result<(String, Remembered), Whole> {
        let (Some(bitmap), Some(point)) = (bitmap, self.memory.previous) else {
            return Err(Whole::First);
        };
        let mark = Mark { point, ..mark.clone() };
        let known =
            Remembered::open(&memory_of(&self.memory, disk), &mark).map_err(Whole::Doubt)?;
        disk.follows(bitmap)?;
        Ok((bitmap.to_owned(), known))
    }
}

/// The words a process was started with, where this one may read them.
fn command_of(process: u32) -> Option<Vec<String>> {
    let words = std::fs::read(format!("/proc/{process}/cmdline")).ok()?;
    let words = words.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    Some(words.map(|word| String::from_utf8_lossy(word).into_owned()).collect())
}
