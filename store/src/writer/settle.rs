//! From closed to durable: a pack is synced, then renamed to its name, then known to the index,
//! and its directory is synced. After a failed sync nothing is believed of the file: it is read
//! back, compared with its name and written anew, or given up.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use strongroom_protocol::id::{ChunkId, RepoId};

use super::open_pack::ClosedPack;
use crate::disk::{Disk, DiskError, parent, read_all};
use crate::index::{Doubt, Index};
use crate::pack::{PACK_BYTES_MAX, PackClass, pack_path};

/// Closed packs that may wait for a barrier: bounds what the barrier has to sync.
const CLOSED_PACKS_MAX: usize = 8;

pub(super) struct Settling {
    disk: Arc<dyn Disk>,
    index: Arc<Index>,
    repo: RepoId,
    closed: VecDeque<ClosedPack>,
    durable: Vec<ClosedPack>,
    dirs: BTreeSet<String>,
}

impl Settling {
    pub(super) fn new(disk: Arc<dyn Disk>, index: Arc<Index>, repo: RepoId) -> Self {
        let (closed, durable) = (VecDeque::new(), Vec::new());
        Self { disk, index, repo, closed, durable, dirs: BTreeSet::new() }
    }

    pub(super) fn push(&mut self, pack: ClosedPack) {
        self.closed.push_back(pack);
    }

    pub(super) fn dirty(&mut self, dirs: Vec<String>) {
        self.dirs.extend(dirs);
    }

    /// Whether a pack that waits here holds the blob.
    pub(super) fn holds(&self, id: &ChunkId) -> bool {
        self.closed.iter().chain(&self.durable).any(|pack| pack.holds(id))
    }

    /// Settles the oldest packs when too many wait; their writing back is long under way.
    pub(super) fn settle_excess(&mut self) -> Result<(), DiskError> {
        while self.closed.len() > CLOSED_PACKS_MAX {
            self.sync_oldest()?;
            self.name_durable()?;
        }
        Ok(())
    }

    /// Makes everything that waits durable under its name. Goes on after an error, so that as
    /// much as possible is kept, and reports the first.
    pub(super) fn settle_all(&mut self) -> Result<(), DiskError> {
        self.closed.make_contiguous().sort_by_key(|pack| pack.class != PackClass::Data);
        let mut outcome = Ok(());
        while !self.closed.is_empty() {
            let synced = self.sync_oldest();
            outcome = outcome.and(synced);
        }
        let named = self.name_durable();
        outcome = outcome.and(named);
        for dir in std::mem::take(&mut self.dirs) {
            if let Err(error) = self.disk.sync_dir(&dir) {
                self.dirs.insert(dir);
                outcome = outcome.and(Err(error));
            }
        }
        outcome
    }

    fn sync_oldest(&mut self) -> Result<(), DiskError> {
        let Some(mut pack) = self.closed.pop_front() else { return Ok(()) };
        let Err(error) = pack.file.sync() else {
            self.durable.push(pack);
            return Ok(());
        };
        match self.write_anew(&pack) {
            Ok(Some(again)) => {
                self.durable.push(again);
                return Ok(());
            }
            Ok(None) => {
                tracing::error!(pack = %pack.id, "a pack read back wrong after a failed sync");
            }
            Err(second) => {
                tracing::error!(pack = %pack.id, error = %second.source, "cannot rewrite a pack");
            }
        }
        self.index.forget_pending(pack.entries.iter().map(|entry| entry.id));
        drop(self.disk.remove(&pack.path));
        Err(error)
    }

    /// A durable copy of a pack whose file cannot be believed; nothing if its bytes are gone.
    fn write_anew(&self, pack: &ClosedPack) -> Result<Option<ClosedPack>, DiskError> {
        let bytes = read_all(&*self.disk, &pack.path, PACK_BYTES_MAX)?;
        if blake3::hash(&bytes).as_bytes() != &pack.id.0 {
            return Ok(None);
        }
        let path = format!("{}.again.open", pack.path.trim_end_matches(".open"));
        let written = (|| {
            let mut file = self.disk.create(&path)?;
            file.append(&bytes)?;
            file.sync()?;
            Ok(file)
        })();
        match written {
            Ok(file) => {
                drop(self.disk.remove(&pack.path));
                let (class, id, entries) = (pack.class, pack.id, pack.entries.clone());
                Ok(Some(ClosedPack { file, path, class, id, entries }))
            }
            Err(error) => {
                drop(self.disk.remove(&path));
                Err(error)
            }
        }
    }

    /// Gives durable packs their names. One that cannot be renamed yet stays for the next time.
    fn name_durable(&mut self) -> Result<(), DiskError> {
        let mut outcome = Ok(());
        for pack in std::mem::take(&mut self.durable) {
            match self.name(&pack) {
                Ok(()) => {
                    self.index.publish(pack.id, pack.class, &pack.entries, Doubt::Doubted);
                }
                Err(error) => {
                    self.durable.push(pack);
                    outcome = outcome.and(Err(error));
                }
            }
        }
        outcome
    }

    fn name(&mut self, pack: &ClosedPack) -> Result<(), DiskError> {
        let path = pack_path(pack.class, pack.id);
        let dir = parent(&path);
        // Synced even when nothing was made now: an earlier attempt may have made it.
        self.dirs.insert(parent(dir).to_owned());
        let changed = self.disk.create_dirs(dir)?;
        self.dirs.extend(changed);
        // The same records copied again make a pack of the same name: its end comes first.
        while !self.index.begin_naming(pack.id) {
            std::thread::yield_now();
        }
        self.disk.rename(&pack.path, &path)?;
        self.dirs.insert(dir.to_owned());
        tracing::debug!(pack = %pack.id, repo = %self.repo, "pack in place");
        Ok(())
    }
}
