//! The applications: what the policy file says of each, and which room is asked for its view.

use std::str::FromStr;
use std::sync::Arc;

use serde_json::Value;
use strongroom_protocol::JobId;
use strongroom_protocol::control::AppKind;
use strongroom_protocol::member::MemberState;
use strongroom_protocol::opening::{Refusal, RefusalKind};

use crate::holder::Holding;
use crate::orders::Hands;
use crate::protect::{self, refusal};
use crate::quiesce::Viewed;
use crate::workload::directory::DirectoryWorkload;
use crate::workload::libvirt::{self, LibvirtWorkload};
use crate::workload::mariadb::settings::Target;
use crate::workload::mariadb::{self, MariaWorkload};
use crate::workload::moment::{Memory, Moment};
use crate::workload::postgres::log::PgLog;
use crate::workload::postgres::settings::{Cluster, Mode};
use crate::workload::postgres::wire::PgWire;
use crate::workload::postgres::{self, PgWorkload};
use crate::workload::vm::{self, VmWorkload};
use crate::workload::vsphere::VsphereWorkload;

/// What the policy file says of an application: words by key.
#[derive(Clone, Debug, Default)]
pub struct Settings(Vec<(String, String)>);

/// A setting that is missing or cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingError {
    /// The policy file does not say it, and nothing can be assumed.
    #[error("the policy says no `{key}` of this workload")]
    Missing { key: &'static str },
    /// Not a value this agent understands.
    #[error("`{key}` of this workload cannot be {value:?}")]
    Unusable { key: &'static str, value: String },
}

impl Settings {
    /// From pairs as they came; a list is its key repeated.
    pub const fn new(pairs: Vec<(String, String)>) -> Self {
        Self(pairs)
    }

    /// The word at `key`, if any.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.all(key).next()
    }

    /// The words at `key`.
    pub fn all<'s>(&'s self, key: &str) -> impl Iterator<Item = &'s str> {
        self.0.iter().filter(move |(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    /// The word at `key`.
    ///
    /// # Errors
    /// There is none.
    pub fn wanted(&self, key: &'static str) -> Result<&str, SettingError> {
        self.get(key).ok_or(SettingError::Missing { key })
    }

    /// The word at `key` as the type that parses it.
    ///
    /// # Errors
    /// It does not parse.
    pub fn parsed<T: FromStr>(&self, key: &'static str) -> Result<Option<T>, SettingError> {
        let unusable = |value: &str| SettingError::Unusable { key, value: value.to_owned() };
        self.get(key).map(|value| value.parse().map_err(|_| unusable(value))).transpose()
    }
}

/// Where a run happens.
pub(crate) struct Place<'run> {
    pub(crate) job: JobId,
    pub(crate) hands: &'run Hands,
    pub(crate) memory: &'run Memory,
}

/// The ways of holding an application still, for a holder process.
pub fn held(what: &str, about: &Value) -> Option<Result<Box<dyn Holding>, String>> {
    match what {
        libvirt::guest::LIBVIRT_GUEST => Some(libvirt::guest::holding(about)),
        vm::guest::GUEST_AGENT => Some(vm::guest::holding(about)),
        what => postgres::held(what, about).or_else(|| mariadb::held(what, about)),
    }
}

/// What a member of a cluster is now.
pub(crate) fn member(kind: AppKind, settings: &Settings) -> Result<MemberState, Refusal> {
    match kind {
        AppKind::Postgres => {
            let seen = Cluster::read(settings).and_then(|cluster| postgres::member::look(&cluster));
            seen.map_err(|error| refusal::<PgWorkload>(&error))
        }
        AppKind::Directory | AppKind::Mariadb | AppKind::Vm | AppKind::Vsphere => {
            let text = format!("a workload of kind {:?} has no members", kind.as_str());
            Err(Refusal::new(RefusalKind::Invalid, text))
        }
    }
}

/// Makes the application quiet, takes its view, lets it go.
pub(crate) fn view(
    kind: AppKind,
    settings: &Settings,
    place: &Place<'_>,
) -> Result<Viewed<Box<dyn Moment>>, Refusal> {
    match kind {
        AppKind::Postgres => postgres_view(settings, place),
        AppKind::Vm if settings.get("libvirt").is_some() => {
            let made = LibvirtWorkload::of(settings, place);
            protect::view(&made.map_err(|error| refusal::<LibvirtWorkload>(&error))?)
        }
        AppKind::Vm => {
            let made = VmWorkload::of(settings, place);
            protect::view(&made.map_err(|error| refusal::<VmWorkload>(&error))?)
        }
        AppKind::Vsphere => {
            let made = VsphereWorkload::of(settings, place);
            protect::view(&made.map_err(|error| refusal::<VsphereWorkload>(&error))?)
        }
        AppKind::Directory => {
            let made = DirectoryWorkload::of(settings);
            protect::view(&made.map_err(|error| refusal::<DirectoryWorkload>(&error))?)
        }
        AppKind::Mariadb => {
            let target =
                Target::read(settings).map_err(|error| refusal::<MariaWorkload>(&error))?;
            let clock = Arc::clone(&place.hands.clock);
            protect::view(&MariaWorkload::new(target, place.job, clock))
        }
    }
}

fn postgres_view(
    settings: &Settings,
    place: &Place<'_>,
) -> Result<Viewed<Box<dyn Moment>>, Refusal> {
    let cluster = Cluster::read(settings).map_err(|error| refusal::<PgWorkload>(&error))?;
    let clock = Arc::clone(&place.hands.clock);
    match cluster.mode {
        Mode::Direct => protect::view(&PgWorkload { cluster, job: place.job, clock }),
        Mode::Wire => protect::view(&PgWire { cluster, job: place.job, clock }),
        Mode::LogFiles | Mode::LogStream => {
            protect::view(&PgLog { cluster, workload: place.memory.workload })
        }
    }
}
