//! A virtual machine of QEMU, spoken to by its own monitor: made quiet by its guest agent, all
//! disks seen at one instant, read after the thaw over a network block device. Promises that
//! nothing of the agent's outlives a run in the machine but one bitmap a disk; that a chain in
//! doubt is read whole, and says why. Refuses to call a machine quiet that was not seen so.

pub mod guest;
pub mod machine;
pub mod nbd;
pub mod qmp;

mod fleece;
pub(in crate::workload) mod ground;
pub(in crate::workload) mod guard;
mod lines;
mod moment;
pub(in crate::workload) mod names;
mod plan;
pub(in crate::workload) mod point;
mod prepare;
pub(in crate::workload) mod quiet;
pub(in crate::workload) mod read;
pub(in crate::workload) mod remember;
pub(in crate::workload) mod writing;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use strongroom_protocol::Chain;
use strongroom_protocol::opening::RefusalKind;

use crate::holder::{Holder, HolderError, Order};
use crate::quiesce::{Consistency, Evidence, Quiesced, Unheld};
use crate::workload::apps::{Place, SettingError, Settings};
use crate::workload::moment::Memory;
use crate::workload::{Item, Workload};
use fleece::{Breaks, Changes, Fleece};
use ground::DiskGround;
use guest::{Frozen, GUEST_AGENT, GuestFreeze};
use machine::{Disk, LeftOut, Whole};
use qmp::{Qmp, QmpError};
use quiet::HeldGuest;

pub use moment::{DESCRIPTION, DISKS, ITEM, VmMoment};
pub use writing::Told;

/// How long a guest is held at most, unless the policy says otherwise.
pub(in crate::workload) const FREEZE_DEADLINE: Duration = Duration::from_secs(10);
/// Oldest QEMU that exports a bitmap of another node.
const VERSION_MIN: (u64, u64) = (7, 1);

/// Whether the guest is to be quiet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Quiesce {
    /// It is not asked.
    Never,
    /// Without, no point is made.
    Required,
    /// Without, the point claims less.
    #[default]
    Wanted,
}

impl Quiesce {
    /// As the policy file says.
    pub(in crate::workload) fn of(settings: &Settings) -> Self {
        match settings.get("quiesce") {
            Some("required") => Self::Required,
            Some("never") => Self::Never,
            _ => Self::Wanted,
        }
    }
}

/// A machine on this host.
#[derive(Debug)]
pub struct VmWorkload {
    /// As the policy file calls it.
    pub machine: String,
    /// The socket of a monitor that nobody else uses.
    pub qmp: PathBuf,
    /// The socket of the guest agent, if there is one.
    pub guest_agent: Option<PathBuf>,
    pub quiesce: Quiesce,
    pub freeze_deadline: Duration,
    /// Disks to leave out.
    pub exclude: Vec<String>,
    /// Files and directories that belong to the machine: firmware variables, TPM state.
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
    qmp: Qmp,
    fleece: Fleece,
    about: About,
    disks: Vec<DiskGround>,
    left_out: Vec<LeftOut>,
    breaks: Breaks,
    frozen: Frozen,
}

/// What the machine says of itself.
#[derive(Clone, Debug, serde::Serialize)]
struct About {
    name: String,
    uuid: String,
    qemu: String,
    state: String,
    architecture: String,
    memory_bytes: u64,
    processors: u64,
    /// The words its process was started with, where they can be had.
    #[serde(skip)]
    command: Option<Vec<String>>,
}

/// Why a machine cannot be protected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VmError {
    /// The guest was not made quiet, and the policy wants nothing less.
    #[error(
        "machine {machine}: the guest was not made quiet ({why}); `quiesce = \"wanted\"` takes \
             a point all the same, which claims less"
    )]
    Guest { machine: String, why: String },
    /// There is nothing to protect.
    #[error("machine {machine} has no disk to protect")]
    NoDisks { machine: String },
    /// The monitor.
    #[error("machine {machine} cannot be protected")]
    Qmp { machine: String, source: QmpError },
    /// The scratch directory.
    #[error(
        "{} cannot hold what machine {machine} overwrites meanwhile: {why}", .scratch.display()
    )]
    Scratch { machine: String, scratch: PathBuf, why: String },
    /// What the policy says.
    #[error("the policy of this machine cannot be followed")]
    Setting(#[from] SettingError),
    /// A QEMU that lacks what is needed.
    #[error("machine {machine} runs QEMU {found}; 7.1 is the oldest that can be protected")]
    Version { machine: String, found: String },
}

impl VmWorkload {
    /// From what the policy file says, for a run at `place`.
    ///
    /// # Errors
    /// Something is missing or cannot be followed.
    pub(crate) fn of(settings: &Settings, place: &Place<'_>) -> Result<Self, VmError> {
        let seconds: Option<u64> = settings.parsed("freeze_deadline")?;
        let mut this = Self::new(place.memory.clone());
        settings.wanted("machine")?.clone_into(&mut this.machine);
        this.qmp = PathBuf::from(settings.wanted("qmp")?);
        this.guest_agent = settings.get("guest_agent").map(PathBuf::from);
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
            qmp: PathBuf::new(),
            guest_agent: None,
            quiesce: Quiesce::default(),
            freeze_deadline: FREEZE_DEADLINE,
            exclude: Vec::new(),
            keep: Vec::new(),
            scratch: memory.dir.join("scratch"),
            scratch_free_bytes_min: guard::FREE_BYTES_MIN,
            run_dir: memory.dir.clone(),
            memory,
            holder: None,
            ready: RefCell::new(None),
        }
    }

    fn qmp_error(&self, source: QmpError) -> VmError {
        VmError::Qmp { machine: self.machine.clone(), source }
    }

    /// One freeze of one guest, whoever asks.
    fn note(&self, socket: &Path) -> PathBuf {
        let mark = blake3::hash(socket.as_os_str().as_encoded_bytes()).to_hex();
        self.run_dir.join(format!("guest-{}", mark.get(..16).unwrap_or_default()))
    }

    /// Not quiet, and why.
    fn unquiet(&self, since: Instant, why: String) -> Result<Quiesced, VmError> {
        if self.quiesce == Quiesce::Required {
            self.let_go();
            return Err(VmError::Guest { machine: self.machine.clone(), why });
        }
        let mut evidence = Evidence { consistency: Consistency::Crash, ..Evidence::default() };
        if self.quiesce == Quiesce::Wanted {
            evidence.broken.push(format!("the guest was not made quiet: {why}"));
        }
        Ok(Quiesced::new(Box::new(Unheld), since, evidence))
    }

    /// Takes away what was prepared for a point that is not made.
    fn let_go(&self) {
        let Some(mut ready) = self.ready.borrow_mut().take() else { return };
        if let Err(error) = ready.fleece.end(&mut ready.qmp) {
            tracing::warn!(%error, "what was prepared in a machine is left to the next run");
        }
    }

    fn hold(&self, socket: &Path) -> Result<(Holder, Frozen), HolderError> {
        let limit_ms = u64::try_from(self.freeze_deadline.as_millis()).unwrap_or(u64::MAX);
        let about = GuestFreeze { socket: socket.to_owned(), limit_ms };
        let order = Order {
            what: GUEST_AGENT.to_owned(),
            about: serde_json::to_value(about).unwrap_or_default(),
            deadline_ms: limit_ms,
            note: Some(self.note(socket)),
        };
        let holder = match &self.holder {
            Some(program) => Holder::hold_by(program, &order)?,
            None => Holder::hold(&order)?,
        };
        let frozen = serde_json::from_value(holder.seen.clone()).unwrap_or_default();
        Ok((holder, frozen))
    }
}

impl Workload for VmWorkload {
    type View = VmMoment;
    type Error = VmError;

    fn discover(&self) -> Result<Vec<Item>, VmError> {
        let ready = self.prepare()?;
        let quiet = self.quiesce != Quiesce::Never && self.guest_agent.is_some();
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

    fn quiesce(&self) -> Result<Quiesced, VmError> {
        let since = Instant::now();
        let running = self.ready.borrow().as_ref().map(|ready| ready.about.state == "running");
        let socket = match &self.guest_agent {
            _ if self.quiesce == Quiesce::Never => return self.unquiet(since, String::new()),
            None => return self.unquiet(since, "the policy names no `guest_agent`".to_owned()),
            _ if running != Some(true) => {
                return self.unquiet(since, "the machine does not run".to_owned());
            }
            Some(socket) => socket.clone(),
        };
        let (holder, frozen) = match self.hold(&socket) {
            Ok(held) => held,
            Err(error) => return self.unquiet(since, Chain(&error).to_string()),
        };
        // Windows tells its applications; elsewhere only hooks in the guest could.
        let consistency = match frozen.system.as_deref() {
            Some("mswindows") => Consistency::Application,
            _ => Consistency::Filesystem,
        };
        if frozen.count == 0 {
            drop(holder);
            return self.unquiet(since, "the guest agent froze no file system".to_owned());
        }
        let evidence = Evidence { consistency, ..Evidence::default() };
        if let Some(ready) = self.ready.borrow_mut().as_mut() {
            ready.frozen = frozen.clone();
        }
        let note = self.note(&socket);
        let held = HeldGuest { holder: Some(holder), frozen: frozen.count, note };
        Ok(Quiesced::new(Box::new(held), since, evidence))
    }

    fn view(&self) -> Result<VmMoment, VmError> {
        let gone = || {
            self.qmp_error(QmpError::Refused {
                command: "the moment".to_owned(),
                why: "nothing was prepared for it".to_owned(),
            })
        };
        let Ready { mut qmp, fleece, about, disks, left_out, breaks, frozen } =
            self.ready.take().ok_or_else(gone)?;
        let mut disks = disks;
        let mut begun = begin(&mut qmp, &fleece, &disks, breaks);
        if let (Err(error), true) = (&begun, disks.iter().any(|ground| ground.last.is_ok())) {
            // It may be the bitmaps that it does not like; whole disks are better than none.
            let why = format!("the machine would not tell what changed ({})", Chain(error));
            for ground in &mut disks {
                ground.last = Err(Whole::Doubt(why.clone()));
            }
            begun = begin(&mut qmp, &fleece, &disks, breaks);
        }
        let held = match begun {
            Ok(held) => held,
            Err(error) => {
                // Taken away later: whoever is frozen waits.
                let ready = Ready { qmp, fleece, about, disks, left_out, breaks, frozen };
                self.ready.replace(Some(ready));
                return Err(self.qmp_error(error));
            }
        };
        Ok(VmMoment::new(self, moment::Taken { qmp, fleece, about, disks, held, left_out, frozen }))
    }

    fn refusal(error: &VmError) -> RefusalKind {
        match error {
            VmError::Setting(_) | VmError::NoDisks { .. } | VmError::Version { .. } => {
                RefusalKind::Invalid
            }
            VmError::Guest { .. } | VmError::Qmp { .. } | VmError::Scratch { .. } => {
                RefusalKind::Unavailable
            }
        }
    }
}

/// The moment, of all disks at once.
fn begin(
    qmp: &mut Qmp,
    fleece: &Fleece,
    disks: &[DiskGround],
    breaks: Breaks,
) -> Result<Vec<(Disk, Changes)>, QmpError> {
    let changes = |ground: &DiskGround| match &ground.last {
        Ok((bitmap, _)) => Changes::Since(bitmap.clone()),
        Err(_) => Changes::Unknown,
    };
    let held = disks.iter().map(|ground| (ground.disk.clone(), changes(ground)));
    let held: Vec<(Disk, Changes)> = held.collect();
    fleece.begin(qmp, &held, breaks)?;
    Ok(held)
}

impl Drop for VmWorkload {
    fn drop(&mut self) {
        self.let_go();
    }
}
