//! What can go wrong with a repository, told apart by what a caller would do about it.

use strongroom_protocol::blob::Reference;
use strongroom_protocol::id::{ChunkId, PackId, PointId, RepoId};

use super::closure::Incomplete;
use crate::disk::DiskError;
use crate::parcel::ParcelError;
use crate::seal::SealError;
use crate::writer::WriteError;

/// Why a repository did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepoError {
    /// A repository exists where one was to be made.
    #[error("there is a repository at {path} already")]
    AlreadyThere { path: String },
    /// Another transfer of the same pack is under way.
    #[error("pack {pack} is being received already")]
    Busy { pack: PackId },
    /// A blob's record does not hold.
    #[error("blob {id} in pack {pack} is damaged")]
    DamagedBlob { id: ChunkId, pack: PackId, source: Box<SealError> },
    /// A file that cannot be rebuilt does not hold.
    #[error("{path} is damaged: {reason}")]
    DamagedFile { path: String, reason: &'static str },
    /// The disk failed.
    #[error("the disk failed")]
    Disk(#[source] DiskError),
    /// No room.
    #[error("the disk is full at {path}")]
    DiskFull { path: String, source: DiskError },
    /// Something a point needs is not here.
    #[error("the point is not complete")]
    Incomplete(#[from] Incomplete),
    /// Another process writes it.
    #[error("the repository at {path} is in use by another process")]
    InUse { path: String },
    /// Another change of the wrapped keys is under way.
    #[error("{path} is being changed by another process")]
    KeysBusy { path: String },
    /// A manifest that does not belong under this name, or does not hold.
    #[error("the manifest of point {point} is refused: {reason}")]
    Manifest { point: PointId, reason: &'static str },
    /// Sealed under a key epoch that the key at hand does not hold.
    #[error(
        "pack {pack} is sealed under key epoch {epoch}, and the vault key here ends at {known}"
    )]
    NewerEpoch { pack: PackId, epoch: u32, known: u32 },
    /// Written by a newer version.
    #[error("{path} has format version {found}, which is newer than this program reads")]
    NewerVersion { path: String, found: String },
    /// Keys nobody could open.
    #[error("{path} would have no recipient left")]
    NoRecipient { path: String },
    /// Opened without the vault key.
    #[error("the repository was opened without its key")]
    NoKey,
    /// The blob is not here.
    #[error("blob {id} is not in the repository")]
    NoSuchBlob { id: ChunkId },
    /// The pack is not here.
    #[error("pack {pack} is not in the repository")]
    NoSuchPack { pack: PackId },
    /// The point is not here.
    #[error("point {point} is not in the repository")]
    NoSuchPoint { point: PointId },
    /// Nothing of ours.
    #[error("{path} is not a repository")]
    NotARepository { path: String },
    /// The bytes received are not the pack they were sent as.
    #[error("the bytes received are not pack {pack}: {reason}")]
    NotThePack { pack: PackId, reason: &'static str },
    /// A file that belongs to another repository.
    #[error("{path} is of repository {found}, and this is repository {wanted}")]
    OtherRepository { path: String, found: RepoId, wanted: RepoId },
    /// A parcel did not open.
    #[error("blob {id} does not open")]
    Parcel { id: ChunkId, source: ParcelError },
    /// The point exists with other bytes.
    #[error("point {point} exists with another manifest")]
    PointExists { point: PointId },
    /// Opened for reading.
    #[error("the repository was opened for reading only")]
    ReadOnly,
    /// No thread for the writer.
    #[error("cannot start the repository's writer")]
    Start(#[source] std::io::Error),
    /// The vault key has epochs that no recipient could open.
    #[error("{path} wraps {wrapped} key epochs, and the vault key has {held}")]
    Unwrapped { path: String, wrapped: u32, held: u32 },
    /// The key is not this repository's.
    #[error("the key does not belong to the repository at {path}")]
    WrongKey { path: String },
    /// The writer could not make something durable.
    #[error("what was sent could not be kept")]
    Write(#[source] WriteError),
    /// A blob of another kind bears the name.
    #[error("blob {id} is not of the kind asked for")]
    WrongKind { id: ChunkId },
}

impl RepoError {
    /// Whether there was no room.
    pub const fn is_full(&self) -> bool {
        matches!(self, Self::DiskFull { .. } | Self::Write(WriteError::Full { .. }))
    }
}

impl From<DiskError> for RepoError {
    fn from(source: DiskError) -> Self {
        if source.is_full() {
            Self::DiskFull { path: source.path.clone(), source }
        } else {
            Self::Disk(source)
        }
    }
}

impl From<WriteError> for RepoError {
    fn from(error: WriteError) -> Self {
        Self::Write(error)
    }
}

/// Why a blob was not taken in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InsertError {
    /// It needs blobs that are not here, or whose own closure is not.
    #[error("blob {id} needs {} blobs that are not here", missing.len())]
    MissingReferences { id: ChunkId, missing: Vec<Reference> },
    /// The record's head does not hold, or says other references.
    #[error("the record of blob {id} contradicts what was said of it")]
    Record { id: ChunkId },
    /// The repository failed.
    #[error("the repository cannot take blobs")]
    Repo(#[from] RepoError),
}
