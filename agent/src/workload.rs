//! What can be protected, and the seams between it and the wire: a workload says what it
//! has, becomes quiet, gives a view of one moment; bytes leave through a [`ChunkSink`].
//! Knows no network and no policy.

pub mod apps;
pub mod btrfs;
pub mod compose;
pub mod directory;
pub mod files;
pub mod libvirt;
pub mod mariadb;
pub mod moment;
pub mod postgres;
pub mod vm;
pub mod vsphere;
pub mod xml;

use strongroom_protocol::opening::RefusalKind;
use strongroom_protocol::{BlobKind, ChunkId, Reference};
use strongroom_store::tree::{BlobSink, SinkError};

use crate::quiesce::{Consistency, Quiesced};
use crate::workload::moment::Moment;

/// Names beginning so are the agent's own (snapshots, unfinished restores): never protected.
pub const OWN_PREFIX: &str = ".strongroom-";

/// A part of a workload that can be protected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    /// As a person would point at it.
    pub name: String,
    /// The best a view of it can claim on this host.
    pub consistency_max: Consistency,
    /// What kind of place it lies in, such as `btrfs` or `ext4`.
    pub place: String,
}

/// A protected thing on this host.
pub trait Workload {
    /// What a quiet moment yields, to be read after the thaw.
    type View: Moment + 'static;
    /// Why it did not work.
    type Error: std::error::Error + Send + Sync + 'static;

    /// What is there.
    ///
    /// # Errors
    /// The workload cannot be reached.
    fn discover(&self) -> Result<Vec<Item>, Self::Error>;

    /// Makes it quiet. What comes back ends the quiet on every path.
    ///
    /// # Errors
    /// It did not become quiet; whatever was begun has been undone.
    fn quiesce(&self) -> Result<Quiesced, Self::Error>;

    /// Takes the view inside the quiet moment.
    ///
    /// # Errors
    /// No view could be taken.
    fn view(&self) -> Result<Self::View, Self::Error>;

    /// How a person is told of the error, and by that whether trying again may help.
    fn refusal(error: &Self::Error) -> RefusalKind;
}

/// Takes blobs as they are made. `put` may block while too much is under way, and returns
/// once the blob is named and queued; it is called by several threads, but a blob only after
/// the calls for all it refers to have returned.
pub trait ChunkSink: Send + Sync {
    /// Queues a blob and names it.
    ///
    /// # Errors
    /// The sink takes nothing more; the run ends.
    fn put(
        &self,
        kind: BlobKind,
        references: Vec<Reference>,
        plain: Vec<u8>,
    ) -> Result<ChunkId, SinkError>;
}

/// A [`ChunkSink`] where the store's builders want a `BlobSink`.
pub struct Through<'sink>(pub &'sink dyn ChunkSink);

impl BlobSink for Through<'_> {
    fn put(
        &mut self,
        kind: BlobKind,
        references: Vec<Reference>,
        plain: Vec<u8>,
    ) -> Result<ChunkId, SinkError> {
        self.0.put(kind, references, plain)
    }
}
