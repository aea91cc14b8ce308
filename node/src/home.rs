//! A node's directory: `node.toml` says who it is and where it listens, everything else has
//! its fixed place beside it. Settings are valid once they exist; a typo is named with its
//! line.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use strongroom_protocol::{Identity, MediaSetName, NodeName, OrgName, Role, SiteName};

use crate::log::LogStyle;
use crate::scrubber::ScrubSettings;

/// The file that says who the node is.
pub const SETTINGS_FILE: &str = "node.toml";
/// How long a lock that is held is waited for, and how long between two looks.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// What `node.toml` says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub org: OrgName,
    pub site: SiteName,
    pub role: Role,
    pub name: NodeName,
    /// Where peers and operators reach this node; agents need none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// What tokens tell new nodes to dial, where it differs from `listen`: `host:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
    /// The coordinator to dial, `host:port`; agents and proxies need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coordinator: Option<String>,
    /// The site the coordinator must be of, where it is not our own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coordinator_site: Option<SiteName>,
    /// The other site, whose proxy may be introduced to this coordinator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dr_site: Option<SiteName>,
    /// Life of certificates this node issues, in seconds.
    #[serde(default = "certificate_seconds")]
    pub certificate_seconds: u32,
    /// The tape library of a proxy: a directory, `iscsi://HOST/TARGET`, or
    /// `scsi:CHANGER?drives=DRIVE,DRIVE` (`docs/tape.md`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub library: Option<PathBuf>,
    /// What a proxy keeps whatever its coordinator orders.
    #[serde(default, skip_serializing_if = "Floor::is_default")]
    pub floor: Floor,
    /// How a proxy writes and keeps media.
    #[serde(default, skip_serializing_if = "is_default")]
    pub media: MediaSettings,
    /// Where and how far a proxy drills.
    #[serde(default, skip_serializing_if = "is_default")]
    pub drills: DrillSettings,
    #[serde(default, skip_serializing)]
    pub log: LogStyle,
    /// How often, how early and how fast what is stored is read back.
    #[serde(default, skip_serializing_if = "is_default")]
    pub scrub: ScrubSettings,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// How a proxy writes and keeps media: the `[media]` of its `node.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MediaSettings {
    /// So many drives are used at once by one aux copy.
    pub drives: NonZeroU32,
    /// Sets whose cartridges are never written a second time, retired ones neither.
    pub write_once: BTreeSet<MediaSetName>,
    /// A cartridge is due to be copied to a younger one when it is this old; none: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_days: Option<NonZeroU32>,
}

impl Default for MediaSettings {
    fn default() -> Self {
        Self { drives: NonZeroU32::MIN, write_once: BTreeSet::new(), refresh_days: None }
    }
}

/// Where and how far a proxy drills: the `[drills]` of its `node.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DrillSettings {
    /// The `strongroom` program that carries them out; none: this program where it is that, else
    /// the one beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<PathBuf>,
    /// Where what is recovered lies meanwhile; none: `drills` in the proxy's directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scratch: Option<PathBuf>,
    /// A drill that takes more of it is broken off, in GiB; none: as long as the disk has some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scratch_gib_max: Option<NonZeroU32>,
}

/// What a proxy keeps whatever its coordinator orders: the `[floor]` of its `node.toml`. All
/// time is counted by the proxy itself while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Floor {
    /// No point goes before it has been here this long.
    pub min_age_seconds: u32,
    /// So many points of a workload stay that are newer than any that goes, and old enough.
    pub newest: u32,
    /// Between the first order and the removal.
    pub grace_seconds: u32,
    /// An order that names more is refused whole.
    pub points_an_order_max: u32,
    /// More than these do not go in a day; 0: nothing is ever removed by order.
    pub points_a_day_max: u32,
}

impl Default for Floor {
    fn default() -> Self {
        Self {
            min_age_seconds: 7 * 86_400,
            newest: 3,
            grace_seconds: 86_400,
            points_an_order_max: 64,
            points_a_day_max: 100,
        }
    }
}

impl Floor {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

const fn certificate_seconds() -> u32 {
    24 * 60 * 60
}

impl Settings {
    /// Who the node is.
    pub fn identity(&self) -> Identity {
        Identity {
            org: self.org.clone(),
            site: self.site.clone(),
            role: self.role,
            name: self.name.clone(),
        }
    }
}

/// Why a node's directory is not usable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HomeError {
    /// `node.toml` cannot be read or written.
    #[error("{}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// `node.toml` does not say what it must.
    #[error("{}: {reason}", path.display())]
    Settings { path: PathBuf, reason: String },
    /// The directory belongs to a node of another role.
    #[error("{} is the home of a {found}, not of a {expected}", path.display())]
    Role { path: PathBuf, found: Role, expected: Role },
    /// A file of the node's identity or trust.
    #[error("{what} in {} is not usable", path.display())]
    Part { what: &'static str, path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    /// Another process runs this node.
    #[error("another process runs the node in {}", path.display())]
    Running { path: PathBuf },
}

/// A node's directory with its settings.
#[derive(Debug, Clone)]
pub struct Home {
    dir: PathBuf,
    settings: Settings,
}

impl Home {
    /// Writes the settings into a new or empty home.
    pub fn create(dir: &Path, settings: Settings) -> Result<Self, HomeError> {
        let path = dir.join(SETTINGS_FILE);
        let wrong = |reason: String| HomeError::Settings { path: path.clone(), reason };
        std::fs::create_dir_all(dir)
            .map_err(|source| HomeError::Io { path: dir.to_owned(), source })?;
        let text = toml::to_string(&settings).map_err(|error| wrong(error.to_string()))?;
        std::fs::write(&path, text)
            .map_err(|source| HomeError::Io { path: path.clone(), source })?;
        Ok(Self { dir: dir.to_owned(), settings })
    }

    /// Reads `node.toml`.
    pub fn open(dir: &Path) -> Result<Self, HomeError> {
        let path = dir.join(SETTINGS_FILE);
        let text = std::fs::read_to_string(&path)
            .map_err(|source| HomeError::Io { path: path.clone(), source })?;
        let settings = toml::from_str(&text).map_err(|error: toml::de::Error| {
            HomeError::Settings { path: path.clone(), reason: error.to_string() }
        })?;
        Ok(Self { dir: dir.to_owned(), settings })
    }

    /// Reads `node.toml` of a node that must have `role`.
    pub fn open_as(dir: &Path, role: Role) -> Result<Self, HomeError> {
        let home = Self::open(dir)?;
        let found = home.settings.role;
        if found == role {
            Ok(home)
        } else {
            Err(HomeError::Role { path: dir.to_owned(), found, expected: role })
        }
    }

    /// Makes sure no other process runs this node; held until dropped. Waits a moment for one
    /// that is ending, or for a program that another thread is about to start: until it is
    /// started it holds whatever this process held.
    pub fn lock(&self) -> Result<std::fs::File, HomeError> {
        let path = self.path("node.lock");
        let failed = |source| HomeError::Io { path: path.clone(), source };
        let file = std::fs::File::create(&path).map_err(failed)?;
        let until = Instant::now() + LOCK_PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(std::fs::TryLockError::WouldBlock) if Instant::now() < until => {
                    std::thread::sleep(LOCK_PAUSE);
                }
                Err(std::fs::TryLockError::WouldBlock) => {
                    return Err(HomeError::Running { path: self.dir.clone() });
                }
                Err(std::fs::TryLockError::Error(source)) => return Err(failed(source)),
            }
        }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What `node.toml` says.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A file of the home.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The repository.
    pub fn repo(&self) -> PathBuf {
        self.path("repo")
    }

    /// The vault key, 0600: present where the node seals or opens by itself.
    pub fn vault_key(&self) -> PathBuf {
        self.path("vault.key")
    }

    /// The site's authority, where this node holds it.
    pub fn authority(&self) -> PathBuf {
        self.path("authority")
    }

    /// What may be lost at any time.
    pub fn cache(&self) -> PathBuf {
        self.path("cache")
    }
}
