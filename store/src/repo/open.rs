//! Making and opening repositories. A new one exists once its `config` does, which is written
//! last. Opening for writing takes the lock, salvages what a crash left and starts the writer;
//! damage of packs or of the index never prevents opening.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock};

use super::config::{RepoConfig, RepoSetup, read_config};
use super::epochs::{Epochs, check_key};
use super::error::RepoError;
use super::reserve::RESERVE_BYTES;
use super::wraps::{RepoKeys, read_keys, write_keys};
use super::{Health, Inner, Repo};
use crate::disk::{Disk, write_durably};
use crate::index::{Index, Losses};
use crate::keys::VaultKey;
use crate::writer::{Writer, WriterLimits};

/// What a repository is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Reading; others may write meanwhile.
    Read,
    /// Reading and writing; nobody else may write.
    Write,
}

/// How to open: the mode and, for tests, the sizes of packs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    pub mode: Mode,
    pub limits: WriterLimits,
}

impl From<Mode> for Options {
    fn from(mode: Mode) -> Self {
        Self { mode, limits: WriterLimits::default() }
    }
}

/// Directories every repository has.
const DIRECTORIES: [&str; 5] = ["index", "packs/d", "packs/m", "points", "tmp"];

impl Repo {
    /// Makes a repository. It is there when this returns, or not at all.
    pub fn create(disk: &dyn Disk, setup: &RepoSetup, key: &VaultKey) -> Result<(), RepoError> {
        let mut changed = Vec::new();
        for directory in DIRECTORIES {
            changed.extend(disk.create_dirs(directory)?);
        }
        let lock = disk.lock("lock")?;
        let path = disk.describe("");
        if lock.is_none() {
            return Err(RepoError::InUse { path });
        }
        if disk.exists("config")? {
            return Err(RepoError::AlreadyThere { path });
        }
        // Where an earlier attempt made the directories, nothing changed just now; they are
        // synced all the same.
        changed.extend([String::new(), "packs".to_owned()]);
        changed.sort();
        changed.dedup();
        for directory in &changed {
            // Above the repository's own directory nothing can be named.
            disk.sync_dir(directory)?;
        }
        write_keys(disk, &RepoKeys::of(setup.repo, key, setup.wraps.clone()))?;
        let config = RepoConfig::new(setup, key);
        write_durably(disk, "tmp/config", "config", &config.encode())?;
        Ok(())
    }

    /// Opens a repository with its key.
    pub fn open(
        disk: Arc<dyn Disk>,
        key: &VaultKey,
        options: impl Into<Options>,
    ) -> Result<Self, RepoError> {
        Self::open_with(disk, Some(key), options.into())
    }

    /// Opens a repository for reading without its key: to scrub, list and copy.
    pub fn open_keyless(disk: Arc<dyn Disk>) -> Result<Self, RepoError> {
        Self::open_with(disk, None, Mode::Read.into())
    }

    /// Opens a repository for receiving whole packs and points without its key.
    pub fn open_keyless_for(
        disk: Arc<dyn Disk>,
        options: impl Into<Options>,
    ) -> Result<Self, RepoError> {
        Self::open_with(disk, None, options.into())
    }

    fn open_with(
        disk: Arc<dyn Disk>,
        key: Option<&VaultKey>,
        options: Options,
    ) -> Result<Self, RepoError> {
        let config = read_config(&*disk)?;
        let wraps = read_keys(&*disk, config.repo)?;
        if let Some(key) = key {
            if !config.is_key(key) {
                return Err(RepoError::WrongKey { path: disk.describe("") });
            }
            check_key(&*disk, &wraps, key, options.mode)?;
        }
        let lock = match options.mode {
            Mode::Read => None,
            Mode::Write => {
                let in_use = || RepoError::InUse { path: disk.describe("") };
                Some(disk.lock("lock")?.ok_or_else(in_use)?)
            }
        };
        if options.mode == Mode::Write {
            super::heal::finish_replacements(&*disk, config.repo);
        }
        let removals = super::removals::read(&*disk, config.repo)?;
        let (index, losses) = Index::load(Arc::clone(&disk), config.repo, &removals)?;
        let index = Arc::new(index);
        let writer = match options.mode {
            Mode::Read => None,
            Mode::Write => {
                for directory in DIRECTORIES {
                    disk.create_dirs(directory)?;
                }
                let first_file = super::salvage::next_file_number(&*disk)?;
                let (disk, index) = (Arc::clone(&disk), Arc::clone(&index));
                let writer = Writer::start(disk, index, config.repo, options.limits, first_file);
                Some(writer.map_err(RepoError::Start)?)
            }
        };
        let inner = Inner {
            disk,
            config,
            wraps,
            keys: key.map(|key| (key.clone(), key.agent_keys())),
            index,
            writer,
            readers: Mutex::new(VecDeque::new()),
            epochs: Epochs::default(),
            incoming: Arc::default(),
            health: Mutex::new(health(losses)),
            book: OnceLock::new(),
            flushing: AtomicBool::new(false),
            collecting: AtomicBool::new(false),
            reserve_bytes: AtomicU64::new(RESERVE_BYTES),
            committing: super::points::Committing::default(),
            _lock: lock,
        };
        let repo = Self { inner: Arc::new(inner), lease: None };
        if options.mode == Mode::Write {
            repo.salvage_unfinished()?;
            repo.inner.make_reserve();
        }
        Ok(repo)
    }
}

fn health(losses: Losses) -> Health {
    Health {
        unreadable_packs: losses.unreadable,
        missing_packs: losses.gone,
        segments_dropped: losses.segments_dropped,
        ..Health::default()
    }
}
