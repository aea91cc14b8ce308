//! Putting what is whole in the place of what is hurt. The hurt file is moved to `quarantine/`,
//! never removed, and only once its replacement is whole and durable beside it; a crash between
//! the two moves is finished at the next opening. Bytes that are not the name's are refused.

use std::collections::HashSet;

use strongroom_protocol::id::{ChunkId, PackId, PointId, RepoId, WorkloadId};

use super::collect::Turn;
use super::error::RepoError;
use super::incoming::Claim;
use super::salvage::PART;
use super::scrub::Subject;
use super::{Inner, Repo};
use crate::disk::{Disk, DiskError, parent, read_all};
use crate::index::{BEFORE_ALL, Found, View};
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

    /// Moves a hurt pack away when nothing is to be had from it any more: each of its blobs lies in
    /// a whole pack too; or that cannot be told, and no point misses anything without it. The index
    /// forgets it with that.
    pub fn retire_hurt(&self, pack: PackId) -> Result<(), RepoError> {
        let inner = &self.inner;
        inner.writer()?;
        if !inner.is_hurt(Subject::Pack(pack)) {
            return Ok(());
        }
        // A collection may count on what this rests on, or take it; one that is received is
        // replaced in a moment. The next round looks again.
        let Ok(_turn) = Turn::take(inner) else { return Ok(()) };
        let Some(_claim) = Claim::of(&inner.incoming, pack) else { return Ok(()) };
        if !self.is_spent(pack)? {
            return Ok(());
        }
        let place = inner.pack_place(pack)?;
        let going = inner.index.let_go_hurt(pack);
        let moved = inner.retire(place.map(|class| pack_path(class, pack)), going.is_some());
        if let (Err(_), Some(class)) = (&moved, going) {
            inner.index.bring_back(pack, class);
        }
        inner.index.end_leaving(&[(pack, place.unwrap_or(PackClass::Data))]);
        moved?;
        inner.close_readers(&HashSet::from([pack]));
        inner.replaced(Subject::Pack(pack));
        Ok(())
    }

    fn is_spent(&self, pack: PackId) -> Result<bool, RepoError> {
        // One that the index does not know cannot be opened either.
        let footer = self.inner.reopened(pack).ok();
        let footer = footer.and_then(|file| read_footer(&*file, self.id()).ok());
        let Some((_, entries)) = footer else { return self.do_without(pack) };
        let ids: Vec<ChunkId> = entries.iter().map(|entry| entry.id).collect();
        // For a session what lies in hurt packs is not here.
        let found = self.inner.index.lookup(&ids, View::Session(BEFORE_ALL))?;
        Ok(found.iter().all(|found| matches!(found, Found::At(_))))
    }

    /// Whether every point is complete without what lies in the pack.
    fn do_without(&self, pack: PackId) -> Result<bool, RepoError> {
        for (workload, point) in self.points()? {
            let walked = self.point_roots(workload, point).and_then(|roots| self.closure(&roots));
            if !walked.is_ok_and(|closure| !closure.packs.contains(&pack)) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Inner {
    /// The end of a hurt pack. That it goes on purpose is on disk before its file moves.
    fn retire(&self, path: Option<String>, is_known: bool) -> Result<(), RepoError> {
        if is_known {
            self.write_removals()?;
        }
        match path {
            Some(path) if self.disk.exists(&path)? => self.quarantine(&path),
            _ => Ok(()),
        }
    }

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
