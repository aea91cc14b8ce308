//! Putting what is whole in the place of what is hurt. The hurt file is moved to `quarantine/`,
//! never removed, and only once its replacement is whole and durable beside it; a crash between
//! the two moves is finished at the next opening. Bytes that are not the name's are refused.

use strongroom_protocol::id::{ChunkId, PackId, PointId, RepoId, WorkloadId};

use super::error::RepoError;
use super::salvage::PART;
use super::scrub::Subject;
use super::{Inner, Repo};
use crate::disk::{Disk, DiskError, parent, read_all};
use crate::pack::{PackClass, hash_file, pack_path, read_footer};

/// Where hurt files are kept.
const QUARANTINE: &str = "quarantine";
/// Replacements of one file in quarantine told apart by number.
const SAME_NAME_MAX: u32 = 10_000;

impl Repo {
    /// Takes a manifest from another copy: as a commit, and in the place of one that is hurt.
    pub fn restore_point(
        &self,
        workload: WorkloadId,
        point: PointId,
        manifest: &[u8],
    ) -> Result<(), RepoError> {
        let inner = &self.inner;
        inner.writer()?;
        self.inner.checked_roots(workload, point, manifest)?;
        let path = super::points::path_of(workload, point);
        let there = match read_all(&*inner.disk, &path, super::points::MANIFEST_BYTES_MAX) {
            Err(error) if error.is_missing() => None,
            there => Some(there),
        };
        // What cannot be read, or does not hold, is no point: nothing is lost by moving it away.
        let is_hurt = there.is_some_and(|there| {
            there.map_or(true, |bytes| self.inner.checked_roots(workload, point, &bytes).is_err())
        });
        if is_hurt {
            // Refused before anything moves while something it needs is missing.
            self.closure(&self.inner.checked_roots(workload, point, manifest)?)?;
            inner.quarantine(&path)?;
        }
        self.commit_point(workload, point, manifest)?;
        inner.replaced(Subject::Point(workload, point));
        Ok(())
    }

    /// Whether the pack is here, known to the index, and nothing is known against it. A condemned
    /// one is kept by asking.
    pub fn has_pack(&self, pack: PackId) -> bool {
        self.keep_pack(pack)
            && self.pack_len(pack).is_ok()
            && !self.inner.is_hurt(Subject::Pack(pack))
    }

    /// Moves a hurt pack away when nothing is to be had from it any more: the index finds each of
    /// its blobs elsewhere; or does not know it, and no point misses anything.
    pub fn retire_hurt(&self, pack: PackId) -> Result<(), RepoError> {
        let inner = &self.inner;
        inner.writer()?;
        let is_known = inner.index.class(&pack).is_some();
        let is_spent = match is_known {
            true => self.is_superseded(pack)?,
            false => self.misses_nothing()?,
        };
        if !inner.is_hurt(Subject::Pack(pack)) || !is_spent {
            return Ok(());
        }
        if let Some(class) = inner.pack_place(pack)? {
            let path = pack_path(class, pack);
            if inner.disk.exists(&path)? {
                inner.quarantine(&path)?;
            }
        }
        // A pack that the index knows stays hurt in its eyes until it is opened again.
        if !is_known {
            inner.replaced(Subject::Pack(pack));
        }
        Ok(())
    }

    /// Whether each blob of a pack, as its footer tells, is found in another.
    fn is_superseded(&self, pack: PackId) -> Result<bool, RepoError> {
        let Ok(file) = self.inner.reopened(pack) else { return Ok(false) };
        let Ok((_, entries)) = read_footer(&*file, self.id()) else { return Ok(false) };
        let ids: Vec<ChunkId> = entries.iter().map(|entry| entry.id).collect();
        let places = self.place(&ids)?;
        Ok(places.iter().all(|place| place.is_some_and(|place| place.pack != pack)))
    }

    fn misses_nothing(&self) -> Result<bool, RepoError> {
        for (workload, point) in self.points()? {
            let walked = self.point_roots(workload, point).and_then(|roots| self.closure(&roots));
            if walked.is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Inner {
    /// Moves a hurt file out of the way, durably.
    pub(super) fn quarantine(&self, path: &str) -> Result<(), RepoError> {
        let disk = &*self.disk;
        for changed in disk.create_dirs(QUARANTINE)? {
            disk.sync_dir(&changed)?;
        }
        let name = path.rsplit('/').next().unwrap_or(path);
        let away = free_name(disk, name)?;
        disk.rename(path, &away)?;
        disk.sync_dir(QUARANTINE)?;
        disk.sync_dir(parent(path))?;
        tracing::warn!(path, %away, "moved to quarantine");
        Ok(())
    }

    /// A subject has been replaced: it is whole, and to be read back as something new is.
    pub(super) fn replaced(&self, subject: Subject) {
        self.set_whole(subject);
        self.forget_age(subject);
        if let Subject::Pack(pack) = subject {
            self.forget_reader(pack);
        }
    }
}

fn free_name(disk: &dyn Disk, name: &str) -> Result<String, DiskError> {
    let mut away = format!("{QUARANTINE}/{name}");
    for number in 1..SAME_NAME_MAX {
        if !disk.exists(&away)? {
            break;
        }
        away = format!("{QUARANTINE}/{name}.{number}");
    }
    Ok(away)
}

/// Ends what a crash cut between the two moves of a replacement: the hurt pack is in
/// quarantine, and its whole replacement still bears the name of a transfer.
pub(super) fn finish_replacements(disk: &dyn Disk, repo: RepoId) {
    let listed = match disk.list(QUARANTINE) {
        Ok(listed) => listed,
        Err(error) => {
            tracing::warn!(%error, "the quarantine cannot be listed");
            return;
        }
    };
    for entry in listed {
        let name = entry.name.split('.').next().unwrap_or_default();
        let Ok(pack) = name.parse::<PackId>() else { continue };
        if let Err(error) = finish_one(disk, repo, pack) {
            tracing::warn!(%pack, %error, "a replacement was not finished; it is fetched again");
        }
    }
}

fn finish_one(disk: &dyn Disk, repo: RepoId, pack: PackId) -> Result<(), DiskError> {
    let part = format!("tmp/{pack}{PART}");
    if !disk.exists(&part)? {
        return Ok(());
    }
    for class in [PackClass::Data, PackClass::Metadata] {
        if disk.exists(&pack_path(class, pack))? {
            return Ok(());
        }
    }
    let file = disk.open(&part)?;
    if hash_file(&*file)? != pack {
        return Ok(());
    }
    let Ok((class, _)) = read_footer(&*file, repo) else { return Ok(()) };
    let path = pack_path(class, pack);
    let directory = parent(&path);
    for changed in disk.create_dirs(directory)? {
        disk.sync_dir(&changed)?;
    }
    // It may be the whole of a transfer that was never synced.
    disk.append_to(&part)?.sync()?;
    disk.rename(&part, &path)?;
    disk.sync_dir(directory)
}
