//! A virtual machine that libvirt runs: made quiet by its guest agent, all disks seen at one
//! instant by a backup job with a checkpoint, read after the thaw as any other machine's.
//! Promises that nothing of the agent's outlives a run in libvirt but one checkpoint; that a
//! chain in doubt is read whole, and says why. Refuses a machine that others are at work on.

pub mod define;
pub mod domain;
pub mod guest;
pub mod list;
pub mod virsh;

mod backup;
mod error;
mod moment;
mod prepare;
mod still;
mod watch;

use std::cell::RefCell;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use strongroom_protocol::Chain;
use strongroom_protocol::opening::RefusalKind;

use crate::holder::{Holder, HolderError, Order};
use crate::quiesce::{Consistency, Evidence, Quiesced, Unheld};
use crate::workload::apps::{Place, Settings};
use crate::workload::moment::Memory;
use crate::workload::vm::ground::DiskGround;
use crate::workload::vm::guest::Frozen;
use crate::workload::vm::machine::{LeftOut, Whole};
use crate::workload::vm::quiet::HeldGuest;
use crate::workload::vm::{FREEZE_DEADLINE, Quiesce, guard};
use crate::workload::{Item, Workload};
use backup::{Backup, Changes, Wish};
use domain::Channel;
use guest::{LIBVIRT_GUEST, LibvirtFreeze};
use moment::View;
use still::Still;
use virsh::VirshError;

pub use error::LibvirtError;
pub use moment::LibvirtMoment;

/// Oldest libvirt that makes incremental backups without being told to by its configuration.
const VERSION_MIN: (u64, u64) = (7, 6);
/// Where what a guest overwrites is put aside: QEMU's user must get there.
const SCRATCH: &str = "/var/tmp/strongroom-libvirt";

/// A machine of the libvirt on this host.
#[derive(Debug)]
pub struct LibvirtWorkload {
    /// As libvirt calls it.
    pub machine: String,
    /// The connection, such as `qemu:///system`.
    pub uri: String,
    pub quiesce: Quiesce,
    pub freeze_deadline: Duration,
    /// Disks to leave out.
    pub exclude: Vec<String>,
    /// Files and directories that belong to the machine beside what its definition names.
    pub keep: Vec<PathBuf>,
    /// Where the machine's process puts aside what its guest overwrites meanwhile.
    pub scratch: PathBuf,
    /// What must stay free there, in bytes.
    pub scratch_free_bytes_min: u64,
    /// On tmpfs: where a freeze is noted.
    pub run_dir: PathBuf,
    pub memory: Memory,
    /// The program that holds the freeze, if not this one.
    pub holder: Option<PathBuf>,
    ready: RefCell<Option<Ready>>,
}

/// A machine before its moment.
#[derive(Debug)]
struct Ready {
    backup: Backup,
    about: About,
    guest_agent: Channel,
    disks: Vec<DiskGround>,
    left_out: Vec<LeftOut>,
    frozen: Frozen,
    /// Its definitions, as they will be kept.
    definition: String,
    belongings: Vec<(PathBuf, Option<&'static str>)>,
    command: Option<Vec<String>>,
}

/// What is told of the machine.
#[derive(Clone, Debug, serde::Serialize)]
struct About {
    name: String,
    uuid: String,
    libvirt: String,
    qemu: String,
    state: String,
    architecture: String,
    memory_bytes: u64,
    processors: u64,
}

impl About {
    /// Whether its process lives, quiet or not.
    fn is_active(&self) -> bool {
        !matches!(self.state.as_str(), "shut off" | "crashed")
    }
}

impl LibvirtWorkload {
    /// From what the policy file says, for a run at `place`.
    ///
    /// # Errors
    /// Something is missing or cannot be followed.
    pub(crate) fn of(settings: &Settings, place: &Place<'_>) -> Result<Self, LibvirtError> {
        let seconds: Option<u64> = settings.parsed("freeze_deadline")?;
        let mut this = Self::new(place.memory.clone());
        settings.wanted("machine")?.clone_into(&mut this.machine);
        settings.wanted("libvirt")?.clone_into(&mut this.uri);
        this.quiesce = Quiesce::of(settings);
        this.freeze_deadline = seconds.map_or(FREEZE_DEADLINE, Duration::from_secs);
        this.exclude = settings.all("exclude").map(str::to_owned).collect();
        this.keep = settings.all("keep").map(PathBuf::from).collect();
        if let Some(scratch) = settings.get("scratch") {
            this.scratch = PathBuf::from(scratch);
        }
        this.run_dir.clone_from(&place.hands.journal);
        Ok(this)
    }

    /// A machine of no name, with what holds unless it is said otherwise.
    pub fn new(memory: Memory) -> Self {
        Self {
            machine: String::new(),
            uri: String::new(),
            quiesce: Quiesce::default(),
            freeze_deadline: FREEZE_DEADLINE,
            exclude: Vec::new(),
            keep: Vec::new(),
            scratch: PathBuf::from(SCRATCH),
            scratch_free_bytes_min: guard::FREE_BYTES_MIN,
            run_dir: memory.dir.clone(),
            memory,
            holder: None,
            ready: RefCell::new(None),
        }
    }

    fn failed(&self, source: VirshError) -> LibvirtError {
        LibvirtError::Libvirt { machine: self.machine.clone(), source }
    }

    /// One freeze of one guest, whoever asks.
    fn note(&self, uuid: &str) -> PathBuf {
        let mark = blake3::hash(format!("{} {uuid}", self.uri).as_bytes()).to_hex();
        self.run_dir.join(format!("libvirt-{}", mark.get(..16).unwrap_or_default()))
    }

    /// Not quiet, and why.
    fn unquiet(&self, since: Instant, why: String) -> Result<Quiesced, LibvirtError> {
        if self.quiesce == Quiesce::Required {
            self.let_go();
            return Err(LibvirtError::Guest { machine: self.machine.clone(), why });
        }
        let mut evidence = Evidence { consistency: Consistency::Crash, ..Evidence::default() };
        if self.quiesce == Quiesce::Wanted {
            evidence.broken.push(format!("the guest was not made quiet: {why}"));
        }
        Ok(Quiesced::new(Box::new(Unheld), since, evidence))
    }

    /// Takes away what was prepared for a point that is not made.
    fn let_go(&self) {
        let Some(ready) = self.ready.borrow_mut().take() else { return };
        if let Err(error) = ready.backup.end() {
            tracing::warn!(%error, "what was prepared in libvirt is left to the next run");
        }
    }

    /// Why there is no point in asking the guest; none if there is.
    fn unasked(&self) -> Option<&'static str> {
        let ready = self.ready.borrow();
        let Some(ready) = ready.as_ref() else { return Some("it was not looked for") };
        match (ready.about.state.as_str(), ready.guest_agent) {
            ("running", Channel::Connected) => None,
            ("running", Channel::Silent) => Some(
                "no guest agent answers in it: install and start qemu-guest-agent in the guest",
            ),
            ("running", Channel::Absent) => Some(
                "its definition has no channel for a guest agent: add one named \
                 org.qemu.guest_agent.0 with `virsh edit`, and install qemu-guest-agent in it",
            ),
            _ => Some("the machine does not run"),
        }
    }

    fn hold(&self, uuid: &str) -> Result<(Holder, Frozen), HolderError> {
        let limit_ms = u64::try_from(self.freeze_deadline.as_millis()).unwrap_or(u64::MAX);
        let (uri, machine) = (self.uri.clone(), uuid.to_owned());
        let about = LibvirtFreeze { uri, machine, limit_ms };
        let order = Order {
            what: LIBVIRT_GUEST.to_owned(),
            about: serde_json::to_value(about).unwrap_or_default(),
            deadline_ms: limit_ms,
            note: Some(self.note(uuid)),
        };
        let holder = match &self.holder {
            Some(program) => Holder::hold_by(program, &order)?,
            None => Holder::hold(&order)?,
        };
        let frozen = serde_json::from_value(holder.seen.clone()).unwrap_or_default();
        Ok((holder, frozen))
    }
}

impl Workload for LibvirtWorkload {
    type View = LibvirtMoment;
    type Error = LibvirtError;

    fn discover(&self) -> Result<Vec<Item>, LibvirtError> {
        let ready = self.prepare()?;
        let quiet = self.quiesce != Quiesce::Never && ready.guest_agent != Channel::Absent;
        let most = if quiet { Consistency::Application } else { Consistency::Crash };
        let item = |ground: &DiskGround| Item {
            name: ground.disk.name.clone(),
            consistency_max: most,
            place: ground.disk.format.clone(),
        };
        let items = ready.disks.iter().map(item).collect();
        self.ready.replace(Some(ready));
        Ok(items)
    }

    fn quiesce(&self) -> Result<Quiesced, LibvirtError> {
        let since = Instant::now();
        if self.quiesce == Quiesce::Never {
            return self.unquiet(since, String::new());
        }
        if let Some(why) = self.unasked() {
            return self.unquiet(since, why.to_owned());
        }
        let machine = self.ready.borrow().as_ref().map(|ready| ready.about.uuid.clone());
        let machine = machine.unwrap_or_default();
        let (holder, frozen) = match self.hold(&machine) {
            Ok(held) => held,
            Err(error) => return self.unquiet(since, Chain(&error).to_string()),
        };
        if frozen.count == 0 {
            drop(holder);
            return self.unquiet(since, "the guest agent froze no file system".to_owned());
        }
        // Windows tells its applications; elsewhere only hooks in the guest could.
        let consistency = match frozen.system.as_deref() {
            Some("mswindows") => Consistency::Application,
            _ => Consistency::Filesystem,
        };
        let evidence = Evidence { consistency, ..Evidence::default() };
        let (count, note) = (frozen.count, self.note(&machine));
        if let Some(ready) = self.ready.borrow_mut().as_mut() {
            ready.frozen = frozen;
        }
        let held = HeldGuest { holder: Some(holder), frozen: count, note };
        Ok(Quiesced::new(Box::new(held), since, evidence))
    }

    fn view(&self) -> Result<LibvirtMoment, LibvirtError> {
        let prepared = self.ready.take();
        let gone = || VirshError::Refused {
            command: "the moment".to_owned(),
            why: "nothing was prepared for it".to_owned(),
        };
        let mut ready = prepared.ok_or_else(|| self.failed(gone()))?;
        let begun = match ready.about.is_active() {
            true => begin(&ready.backup, &mut ready.disks)
                .map_err(|error| self.failed(error))
                .map(View::Job),
            false => Still::begin(&ready.backup.socket(), &ready.disks).map(View::Still).map_err(
                |error: io::Error| LibvirtError::Off {
                    machine: self.machine.clone(),
                    why: format!("its images cannot be read: {error}"),
                },
            ),
        };
        match begun {
            Ok(view) => Ok(LibvirtMoment::new(self, ready, view)),
            Err(error) => {
                // Taken away later: whoever is frozen waits.
                self.ready.replace(Some(ready));
                Err(error)
            }
        }
    }

    fn refusal(error: &LibvirtError) -> RefusalKind {
        match error {
            LibvirtError::Setting(_)
            | LibvirtError::Definition { .. }
            | LibvirtError::NoDisks { .. }
            | LibvirtError::Version { .. }
            | LibvirtError::Libvirt {
                source: VirshError::Elsewhere { .. } | VirshError::NoDomain { .. },
                ..
            } => RefusalKind::Invalid,
            _ => RefusalKind::Unavailable,
        }
    }
}

/// The moment, of all disks at once; which of them have a checkpoint of it.
fn begin(backup: &Backup, disks: &mut [DiskGround]) -> Result<Vec<Wish>, VirshError> {
    let begun = attempt(backup, disks, Checkpoints::Kept);
    let Err(error @ VirshError::Refused { .. }) = begun else { return begun };
    // It may be the checkpoints that it does not like; whole disks are better than none.
    let why = format!("libvirt would not tell what changed ({})", Chain(&error));
    for ground in disks.iter_mut().filter(|ground| ground.last.is_ok()) {
        ground.last = Err(Whole::Doubt(why.clone()));
    }
    let begun = attempt(backup, disks, Checkpoints::Kept);
    let Err(error @ VirshError::Refused { .. }) = begun else { return begun };
    tracing::warn!(%error, "a machine's images take no checkpoint: it is read whole each time");
    attempt(backup, disks, Checkpoints::None)
}

/// Whether images are to keep what changes from now on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Checkpoints {
    Kept,
    None,
}

fn attempt(
    backup: &Backup,
    disks: &[DiskGround],
    checkpoints: Checkpoints,
) -> Result<Vec<Wish>, VirshError> {
    let wish = |DiskGround { disk, last, .. }: &DiskGround| Wish {
        name: disk.name.clone(),
        changes: match last {
            Ok((checkpoint, _)) => Changes::Since(checkpoint.clone()),
            Err(_) => Changes::Unknown,
        },
        checkpoint: checkpoints == Checkpoints::Kept && disk.persistent,
    };
    let wishes: Vec<Wish> = disks.iter().map(wish).collect();
    backup.begin(&wishes)?;
    Ok(wishes)
}

impl Drop for LibvirtWorkload {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// Whether what libvirt says of itself is new enough.
fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.split('.').map_while(|number| number.parse::<u64>().ok());
    (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default()) >= VERSION_MIN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        for (version, enough) in [("7.6.0", true), ("10.0.0", true), ("7.5.9", false), ("", false)]
        {
            assert_eq!(is_new_enough(version), enough, "{version}");
        }
    }
}
