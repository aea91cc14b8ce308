//! A virtual machine of vSphere, by the interface of its vCenter or ESXi: a snapshot made quiet
//! by the guest's tools, read by an export of its disks. Promises that a snapshot of ours goes,
//! whoever made it; that a chain in doubt is read whole, and says why. Refuses to believe a server
//! it cannot tell.

pub mod changes;
pub mod disks;
pub mod http;
pub mod inventory;
pub mod session;
pub mod snapshot;
pub mod tls;
pub mod vmdk;

mod lease;
mod moment;
mod read;
mod since;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use strongroom_protocol::Chain;
use strongroom_protocol::opening::RefusalKind;

use crate::quiesce::{Consistency, Evidence, Quiesced, Unheld};
use crate::workload::apps::{Place, SettingError, Settings};
use crate::workload::directory::{self, DirectoryError};
use crate::workload::moment::Memory;
use crate::workload::vm::Quiesce;
use crate::workload::xml::Element;
use crate::workload::{Item, Workload};
use disks::disks;
use http::WebError;
use inventory::{MachineError, machine, machines, properties};
use session::{Reference, Server, Session, SoapError};
use snapshot::{Names, Quiet, Snapshot, TaskError, create, done, reap, remove};
use tls::{Thumbprint, Trust};

pub use moment::VsphereMoment;

/// How often a server hears of an export, at the least.
const PULSE: Duration = Duration::from_secs(20);

/// A machine of a vSphere server.
#[derive(Debug)]
pub struct VsphereWorkload {
    /// By its name, or its id at the server.
    pub machine: String,
    pub server: Server,
    pub quiesce: Quiesce,
    pub tracking: Tracking,
    /// Disks to leave out.
    pub exclude: Vec<String>,
    /// How often the server hears of an export.
    pub pulse: Duration,
    pub memory: Memory,
    ready: RefCell<Option<Ready>>,
}

/// What is done about the tracking of changed blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Tracking {
    /// It is switched on where it is not.
    Enabled,
    /// It is used where it is on.
    #[default]
    Used,
}

/// A machine before its moment.
#[derive(Debug)]
struct Ready {
    session: Arc<Session>,
    machine: Reference,
    about: About,
    names: Names,
}

/// What the server says of a machine.
#[derive(Clone, Debug, serde::Serialize)]
struct About {
    name: String,
    uuid: String,
    id: String,
    host: String,
    server: String,
    state: String,
    guest: String,
    memory_bytes: u64,
    processors: u64,
}

/// Why a machine cannot be protected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VsphereError {
    /// The guest was not made quiet, and the policy wants nothing less.
    #[error(
        "machine {machine}: the guest was not made quiet ({why}); `quiesce = \"wanted\"` takes \
         a point all the same, which claims less"
    )]
    Guest { machine: String, why: String },
    /// Which machine is meant.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// There is nothing to protect.
    #[error("machine {machine} has no disk to protect")]
    NoDisks { machine: String },
    /// The password.
    #[error(transparent)]
    Password(#[from] DirectoryError),
    /// What the policy says.
    #[error("the policy of this machine cannot be followed")]
    Setting(#[from] SettingError),
    /// The server.
    #[error(transparent)]
    Soap(#[from] SoapError),
    /// A task of the server.
    #[error("machine {machine} cannot be protected")]
    Task { machine: String, source: Box<TaskError> },
    /// Two ways to believe.
    #[error("the policy of this machine names both thumbprint and ca_file: one of them decides")]
    TwoTrusts,
    /// Where the server is.
    #[error(transparent)]
    Web(#[from] WebError),
}

impl VsphereWorkload {
    /// From what the policy file says, for a run at `place`.
    ///
    /// # Errors
    /// Something is missing or cannot be followed.
    pub(crate) fn of(settings: &Settings, place: &Place<'_>) -> Result<Self, VsphereError> {
        let trust = match (settings.get("thumbprint"), settings.get("ca_file")) {
            (Some(_), Some(_)) => return Err(VsphereError::TwoTrusts),
            (Some(text), None) => {
                let value = || SettingError::Unusable { key: "thumbprint", value: text.to_owned() };
                Trust::Thumbprint(Thumbprint::parse(text).ok_or_else(value)?)
            }
            (None, Some(path)) => Trust::CaFile(PathBuf::from(path)),
            (None, None) => Trust::System,
        };
        let server = Server {
            place: http::Place::parse(settings.wanted("url")?)?,
            user: settings.wanted("user")?.to_owned(),
            password: directory::password(Path::new(settings.wanted("password_file")?))?,
            trust,
        };
        let mut this = Self::new(server, place.memory.clone());
        settings.wanted("machine")?.clone_into(&mut this.machine);
        this.quiesce = match settings.get("quiesce") {
            Some("required") => Quiesce::Required,
            Some("never") => Quiesce::Never,
            _ => Quiesce::Wanted,
        };
        if settings.get("change_tracking") == Some("enabled") {
            this.tracking = Tracking::Enabled;
        }
        this.exclude = settings.all("exclude").map(str::to_owned).collect();
        Ok(this)
    }

    /// A machine of no name, with what holds unless it is said otherwise.
    pub const fn new(server: Server, memory: Memory) -> Self {
        Self {
            machine: String::new(),
            server,
            quiesce: Quiesce::Wanted,
            tracking: Tracking::Used,
            exclude: Vec::new(),
            pulse: PULSE,
            memory,
            ready: RefCell::new(None),
        }
    }

    fn task_error(&self, source: TaskError) -> VsphereError {
        VsphereError::Task { machine: self.machine.clone(), source: Box::new(source) }
    }

    /// Finds the machine, and takes away what earlier runs left there.
    fn prepare(&self) -> Result<(Ready, Element), VsphereError> {
        let session = Arc::new(Session::open(&self.server)?);
        let all = machines(&session, &["name"])?;
        let machine = machine(&all, session.host(), &self.machine)?;
        let known = properties(&session, &machine, &["name", "config", "runtime.powerState"])?;
        let config = known.value("config").cloned().unwrap_or_default();
        let names = Names::new(self.memory.workload, self.memory.point);
        let reaped = reap(&session, &machine, &names).map_err(|error| self.task_error(error))?;
        if reaped > 0 {
            tracing::info!(reaped, machine = %self.machine, "what earlier runs left is gone");
        }
        let number = |name: &str| config.number_at::<u64>(name).unwrap_or(0);
        let uuid = [config.text_at("instanceUuid"), config.text_at("uuid")];
        let about = About {
            name: known.text("name").to_owned(),
            uuid: uuid.into_iter().find(|uuid| !uuid.is_empty()).unwrap_or_default().to_owned(),
            id: machine.value.clone(),
            host: session.host().to_owned(),
            server: session.content.about(),
            state: known.text("runtime.powerState").to_owned(),
            guest: config.text_at("guestId").to_owned(),
            memory_bytes: number("hardware.memoryMB") << 20,
            processors: number("hardware.numCPU"),
        };
        if self.tracking == Tracking::Enabled && config.text_at("changeTrackingEnabled") != "true" {
            let words = "<spec><changeTrackingEnabled>true</changeTrackingEnabled></spec>";
            let set = done(&session, "ReconfigVM_Task", &machine, words);
            set.map_err(|error| self.task_error(error))?;
        }
        Ok((Ready { session, machine, about, names }, config))
    }

    /// A snapshot, as quiet as it can be had; and why it is less than was wanted.
    fn snapshot(
        &self,
        ready: &Ready,
    ) -> Result<(Snapshot, Consistency, Option<String>), VsphereError> {
        let make = |quiet| create(&ready.session, &ready.machine, &ready.names, quiet);
        let why = if self.quiesce == Quiesce::Never {
            None
        } else if ready.about.state != "poweredOn" {
            Some("the machine does not run".to_owned())
        } else {
            match make(Quiet::Asked) {
                Ok(made) if made.quiesced => {
                    // There the guest's tools tell the applications by VSS.
                    let windows = ready.about.guest.starts_with("win");
                    let most =
                        if windows { Consistency::Application } else { Consistency::Filesystem };
                    return Ok((made, most, None));
                }
                Ok(made) => {
                    self.take_away(ready, &made);
                    Some("the server made a snapshot that is not quiet".to_owned())
                }
                Err(TaskError::Failed { text, kind, .. }) => Some(format!("{text} ({kind})")),
                Err(other) => return Err(self.task_error(other)),
            }
        };
        match (&why, self.quiesce) {
            (Some(why), Quiesce::Required) => {
                let (machine, why) = (self.machine.clone(), why.clone());
                Err(VsphereError::Guest { machine, why })
            }
            _ => {
                let made = make(Quiet::Not).map_err(|error| self.task_error(error))?;
                let why = why.map(|why| format!("the guest was not made quiet: {why}"));
                Ok((made, Consistency::Crash, why))
            }
        }
    }

    fn take_away(&self, ready: &Ready, snapshot: &Snapshot) {
        if let Err(error) = remove(&ready.session, &snapshot.reference) {
            tracing::warn!(error = %Chain(&error), "a snapshot is left to the next run");
        }
    }
}

impl Workload for VsphereWorkload {
    type View = VsphereMoment;
    type Error = VsphereError;

    fn discover(&self) -> Result<Vec<Item>, VsphereError> {
        let (ready, config) = self.prepare()?;
        let (found, _) = disks(&config, &self.exclude);
        if found.is_empty() {
            return Err(VsphereError::NoDisks { machine: self.machine.clone() });
        }
        let quiet = self.quiesce != Quiesce::Never;
        let most = if quiet { Consistency::Application } else { Consistency::Crash };
        let place = ready.about.host.clone();
        let item = |disk: disks::Disk| Item {
            name: disk.name,
            consistency_max: most,
            place: place.clone(),
        };
        self.ready.replace(Some(ready));
        Ok(found.into_iter().map(item).collect())
    }

    /// Nothing is held from here: the server lets the guest go before its task ends.
    fn quiesce(&self) -> Result<Quiesced, VsphereError> {
        let evidence = Evidence { consistency: Consistency::Application, ..Evidence::default() };
        Ok(Quiesced::new(Box::new(Unheld), Instant::now(), evidence))
    }

    fn view(&self) -> Result<VsphereMoment, VsphereError> {
        let taken = self.ready.take();
        let ready = match taken {
            Some(ready) => ready,
            None => self.prepare()?.0,
        };
        let (snapshot, reached, less) = self.snapshot(&ready)?;
        let config = properties(&ready.session, &snapshot.reference, &["config"]);
        let config = config.map(|known| known.value("config").cloned().unwrap_or_default());
        let config = match config {
            Ok(config) => config,
            Err(error) => {
                self.take_away(&ready, &snapshot);
                return Err(error.into());
            }
        };
        let (found, left_out) = disks(&config, &self.exclude);
        if found.is_empty() {
            self.take_away(&ready, &snapshot);
            return Err(VsphereError::NoDisks { machine: self.machine.clone() });
        }
        let taken = moment::Taken { snapshot, reached, less, config, disks: found, left_out };
        Ok(VsphereMoment::new(self, ready, taken))
    }

    fn refusal(error: &VsphereError) -> RefusalKind {
        match error {
            VsphereError::Soap(
                SoapError::Web(WebError::Unreachable { .. } | WebError::Odd { .. })
                | SoapError::Fault { .. },
            )
            | VsphereError::Task { .. }
            | VsphereError::Guest { .. } => RefusalKind::Unavailable,
            _ => RefusalKind::Invalid,
        }
    }
}
