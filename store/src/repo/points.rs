//! Points: committing, listing, reading and removing manifests. A commit proves that all the
//! roots need is here and durable before the manifest gets its name; the same manifest twice is
//! one point, another under the same name is refused.

use std::collections::HashSet;
use std::sync::{Condvar, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use strongroom_protocol::blob::{BlobKind, Reference};
use strongroom_protocol::id::{ChunkId, PointId, WorkloadId};

use super::closure::Incomplete;
use super::error::RepoError;
use super::{Inner, Repo};
use crate::disk::{EntryKind, read_all, write_whole};

const MAGIC: &[u8; 8] = b"SRPOIN01";
const HASH_BYTES: usize = 32;
/// Longest manifest.
pub(super) const MANIFEST_BYTES_MAX: u64 = 16 << 20;
/// How often a commit starts over because something was lost meanwhile.
const COMMIT_ATTEMPTS: usize = 3;

/// The head of a manifest as far as the store reads it (format.md section 7).
#[derive(Serialize, Deserialize)]
struct HeadV1 {
    repo: [u8; 16],
    workload: [u8; 16],
    point: [u8; 16],
    moment_ns: i64,
    kind: u8,
    roots: Vec<(u8, [u8; 32])>,
}

/// Points being committed: two commits of one point go one after the other.
#[derive(Default)]
pub(super) struct Committing {
    points: Mutex<HashSet<PointId>>,
    freed: Condvar,
}

struct Turn<'a> {
    committing: &'a Committing,
    point: PointId,
}

impl Committing {
    fn wait_for(&self, point: PointId) -> Turn<'_> {
        let points = self.points.lock().unwrap_or_else(PoisonError::into_inner);
        let mut points = self
            .freed
            .wait_while(points, |points| points.contains(&point))
            .unwrap_or_else(PoisonError::into_inner);
        points.insert(point);
        Turn { committing: self, point }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let points = &self.committing.points;
        points.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.point);
        self.committing.freed.notify_all();
    }
}

impl Repo {
    /// Makes a point durable: it can be restored once this returns. Refused while anything its
    /// roots need is missing.
    pub fn commit_point(
        &self,
        workload: WorkloadId,
        point: PointId,
        manifest: &[u8],
    ) -> Result<(), RepoError> {
        let inner = &self.inner;
        inner.writer()?;
        let roots = inner.checked_roots(workload, point, manifest)?;
        let path = path_of(workload, point);
        let _turn = inner.committing.wait_for(point);
        // Without a session of its own, a commit is one: nothing it relies on may go meanwhile.
        let _session = self.lease.is_none().then(|| self.session());
        let exists = inner.disk.exists(&path)?;
        if exists && read_all(&*inner.disk, &path, MANIFEST_BYTES_MAX)? != manifest {
            return Err(RepoError::PointExists { point });
        }
        self.make_durable(&roots)?;
        let directory = directory_of(workload);
        let disk = &*inner.disk;
        disk.create_dirs(&directory)?;
        if !exists {
            write_whole(disk, &format!("tmp/point-{point}"), &path, manifest)?;
        }
        disk.sync_dir("points")?;
        Ok(disk.sync_dir(&directory)?)
    }

    /// Returns once all that the roots need is here and durable. The proof comes before the
    /// barrier, and counts only if nothing was lost until after it.
    fn make_durable(&self, roots: &[Reference]) -> Result<(), RepoError> {
        let inner = &self.inner;
        let view = self.view();
        let mut attempts = 0;
        while attempts < COMMIT_ATTEMPTS {
            let (losses, condemned) = (inner.index.losses(), inner.index.condemnations());
            let missing = inner.missing_of(roots, view)?;
            if !missing.is_empty() {
                // The walk names what is missing below.
                inner.prove(&missing, view)?;
                return Err(Incomplete { missing }.into());
            }
            inner.barrier()?;
            if inner.index.losses() == losses {
                return Ok(());
            }
            // A condemnation only means to look again; a collection has few of them.
            attempts += usize::from(inner.index.condemnations() == condemned);
        }
        Err(Incomplete { missing: roots.to_vec() }.into())
    }

    /// All points, by workload.
    pub fn points(&self) -> Result<Vec<(WorkloadId, PointId)>, RepoError> {
        let disk = &*self.inner.disk;
        let mut points = Vec::new();
        for id in self.workloads()? {
            for point in disk.list(&directory_of(id))? {
                if point.kind == EntryKind::File
                    && let Ok(point) = point.name.parse()
                {
                    points.push((id, point));
                }
            }
        }
        Ok(points)
    }

    /// The workloads that have, or had, points here.
    pub fn workloads(&self) -> Result<Vec<WorkloadId>, RepoError> {
        let listed = self.inner.disk.list("points")?;
        Ok(listed.into_iter().filter_map(|entry| entry.name.parse().ok()).collect())
    }

    /// Whether the point is here, in one look; that it cannot be told is an error.
    pub fn has_point_of(&self, workload: WorkloadId, point: PointId) -> Result<bool, RepoError> {
        Ok(self.inner.disk.exists(&path_of(workload, point))?)
    }

    /// A point's manifest, its hash checked.
    pub fn manifest_bytes(
        &self,
        workload: WorkloadId,
        point: PointId,
    ) -> Result<Vec<u8>, RepoError> {
        Ok(self.inner.manifest_of(workload, point)?.0)
    }

    /// What a point's manifest names, without a key.
    pub fn point_roots(
        &self,
        workload: WorkloadId,
        point: PointId,
    ) -> Result<Vec<Reference>, RepoError> {
        self.inner.roots_of(workload, point)
    }

    /// Removes a point; its blobs stay until they are collected. Whether it may go is the
    /// caller's to know.
    pub fn remove_point(&self, workload: WorkloadId, point: PointId) -> Result<(), RepoError> {
        self.inner.writer()?;
        let disk = &*self.inner.disk;
        match disk.remove(&path_of(workload, point)) {
            Err(error) if error.is_missing() => Err(RepoError::NoSuchPoint { point }),
            removed => {
                removed?;
                Ok(disk.sync_dir(&directory_of(workload))?)
            }
        }
    }
}

impl Inner {
    /// A point's manifest and its roots.
    fn manifest_of(
        &self,
        workload: WorkloadId,
        point: PointId,
    ) -> Result<(Vec<u8>, Vec<Reference>), RepoError> {
        let path = path_of(workload, point);
        let bytes = match read_all(&*self.disk, &path, MANIFEST_BYTES_MAX) {
            Err(error) if error.is_missing() => return Err(RepoError::NoSuchPoint { point }),
            bytes => bytes?,
        };
        let roots = self.checked_roots(workload, point, &bytes)?;
        Ok((bytes, roots))
    }

    /// What a point needs to be reached.
    pub(super) fn roots_of(
        &self,
        workload: WorkloadId,
        point: PointId,
    ) -> Result<Vec<Reference>, RepoError> {
        Ok(self.manifest_of(workload, point)?.1)
    }

    /// The roots of a manifest that holds and belongs under this name.
    pub(super) fn checked_roots(
        &self,
        workload: WorkloadId,
        point: PointId,
        manifest: &[u8],
    ) -> Result<Vec<Reference>, RepoError> {
        let refused = |reason| RepoError::Manifest { point, reason };
        if manifest.len() as u64 > MANIFEST_BYTES_MAX {
            return Err(refused("it is too long"));
        }
        let head = parse(manifest).map_err(refused)?;
        let named = head.repo == *self.config.repo.as_bytes()
            && head.workload == *workload.as_bytes()
            && head.point == *point.as_bytes();
        if !named {
            return Err(refused("it names another point"));
        }
        head_roots(&head).ok_or_else(|| refused("a root is of no known kind"))
    }
}

pub(super) fn directory_of(workload: WorkloadId) -> String {
    format!("points/{workload}")
}

pub(super) fn path_of(workload: WorkloadId, point: PointId) -> String {
    format!("points/{workload}/{point}")
}

fn parse(manifest: &[u8]) -> Result<HeadV1, &'static str> {
    let body = manifest.len().checked_sub(HASH_BYTES).ok_or("it is too short")?;
    let (body, hash) = manifest.split_at(body);
    if blake3::hash(body).as_bytes().as_slice() != hash {
        return Err("its hash does not hold");
    }
    let rest = body.strip_prefix(MAGIC).ok_or("it is no manifest of version 01")?;
    let (len, rest) = rest.split_first_chunk::<4>().ok_or("it is too short")?;
    let head = rest.get(..u32::from_le_bytes(*len) as usize).ok_or("its head is cut short")?;
    // What follows in the head is for readers of its version.
    postcard::take_from_bytes(head).map(|(head, _)| head).map_err(|_| "its head is malformed")
}

fn head_roots(head: &HeadV1) -> Option<Vec<Reference>> {
    let root = |(kind, id): &(u8, [u8; 32])| {
        BlobKind::from_code(*kind).map(|kind| Reference { kind, id: ChunkId(*id) })
    };
    head.roots.iter().map(root).collect()
}
