//! A repository as a source of trees, and its points by id alone. A blob that cannot be had is
//! told apart: missing, damaged, or out of reach.

use strongroom_protocol::{BlobKind, ChunkId, PointId, Timestamp, WorkloadId};

use crate::manifest::{Head, Manifest, ManifestError};
use crate::parcel;
use crate::repo::{Repo, RepoError};
use crate::tree::{Blob, BlobSource, Gather, InOrder, SourceError};

/// Why a point cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PointError {
    /// Its manifest does not say what it must.
    #[error("the manifest of point {point} is not usable")]
    Manifest { point: PointId, source: ManifestError },
    /// The repository does not give it.
    #[error("point {point} cannot be read")]
    Repo { point: PointId, source: RepoError },
}

impl PointError {
    /// True when the point may be whole, and only the key of its epoch is not at hand.
    pub const fn lacks_key(&self) -> bool {
        matches!(self, Self::Manifest { source: ManifestError::Epoch { .. }, .. })
    }

    /// True when there is no such point, and nothing else is wrong.
    pub const fn is_absent(&self) -> bool {
        matches!(self, Self::Repo { source: RepoError::NoSuchPoint { .. }, .. })
    }
}

impl Repo {
    /// The workload of a point and its manifest file, by the point's id alone.
    pub fn manifest_of(&self, point: PointId) -> Result<(WorkloadId, Vec<u8>), PointError> {
        let failed = |source| PointError::Repo { point, source };
        for workload in self.workloads().map_err(failed)? {
            if self.has_point_of(workload, point).map_err(failed)? {
                return Ok((workload, self.manifest_bytes(workload, point).map_err(failed)?));
            }
        }
        Err(failed(RepoError::NoSuchPoint { point }))
    }

    /// A point's manifest, opened.
    pub fn point(&self, point: PointId) -> Result<Manifest, PointError> {
        let (_, file) = self.manifest_of(point)?;
        let key = self.vault_key().map_err(|source| PointError::Repo { point, source })?;
        Manifest::decode(&file, key).map_err(|source| PointError::Manifest { point, source })
    }

    /// What is readable of a point without a key.
    pub fn point_head(&self, point: PointId) -> Result<Head, PointError> {
        let (_, file) = self.manifest_of(point)?;
        Manifest::decode_head(&file).map_err(|source| PointError::Manifest { point, source })
    }

    /// The moments of all points whose heads can be read, by workload and point.
    pub fn moments(&self) -> Result<Vec<(WorkloadId, PointId, Timestamp)>, RepoError> {
        let points = self.points()?;
        let moment = |(workload, point): (WorkloadId, PointId)| {
            let file = self.manifest_bytes(workload, point).ok()?;
            let head = Manifest::decode_head(&file).ok()?;
            Some((workload, point, head.moment))
        };
        Ok(points.into_iter().filter_map(moment).collect())
    }

    /// Whether the point is here.
    pub fn has_point(&self, point: PointId) -> bool {
        self.points().is_ok_and(|points| points.iter().any(|(_, id)| *id == point))
    }
}

impl BlobSource for Repo {
    fn blob(&self, kind: BlobKind, id: ChunkId) -> Result<Blob, SourceError> {
        let found = self.get(id).map_err(|error| told(kind, id, error))?;
        if found.head.kind != kind {
            return Err(SourceError::Damaged { kind, id, source: None });
        }
        let keys = self.agent_keys().map_err(|error| told(kind, id, error))?;
        let plain = parcel::open(&found, keys).map_err(|source| SourceError::Damaged {
            kind,
            id,
            source: Some(Box::new(source)),
        })?;
        Ok(Blob { references: found.head.references, plain })
    }

    /// In the order of the packs. Where places cannot be looked up the chunks say so themselves.
    fn gather<'s>(&'s self, mut ids: Vec<ChunkId>) -> Box<dyn Gather + 's> {
        if let Ok(places) = self.place(&ids) {
            let mut placed: Vec<_> = places.into_iter().zip(ids).collect();
            placed.sort_by_key(|(place, _)| place.as_ref().map(|place| (place.pack, place.offset)));
            ids = placed.into_iter().map(|(_, id)| id).collect();
        }
        Box::new(InOrder::new(self, ids))
    }
}

fn told(kind: BlobKind, id: ChunkId, error: RepoError) -> SourceError {
    match error {
        RepoError::NoSuchBlob { .. } | RepoError::NoSuchPack { .. } => {
            SourceError::Missing { kind, id }
        }
        // What the disk does not give is damage too: it costs one blob, not the whole read.
        RepoError::DamagedBlob { .. }
        | RepoError::DamagedFile { .. }
        | RepoError::Disk(_)
        | RepoError::NewerEpoch { .. }
        | RepoError::Parcel { .. }
        | RepoError::WrongKind { .. } => {
            SourceError::Damaged { kind, id, source: Some(Box::new(error)) }
        }
        other => SourceError::Unreachable { kind, id, source: Box::new(other) },
    }
}
