//! The bulk streams: protect, restore, replicate. Questions are batched and answered out
//! of step, so a link is filled whatever its round trip. Bulk bytes lie beside the header.

use serde::{Deserialize, Serialize};

use crate::blob::{ParcelHead, Reference};
use crate::control::Naming;
use crate::frame::message;
use crate::id::{ChunkId, PackId, PointId, WorkloadId};
use crate::lead::Reseeded;
use crate::opening::Refusal;

/// Most ids in one question, [`FromAgent::Ask`] or [`FromReader::Want`].
pub const ASK_IDS_MAX: usize = 4096;
/// Length of a piece of a pack on the wire, in bytes.
pub const PIECE_BYTES: usize = 1 << 20;

/// Agent to coordinator, after `Opening::Ingest`. The order is the wire: append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromAgent {
    /// Which of these do you not have? Answered by [`ToAgent::Missing`] with the same number.
    Ask { number: u64, ids: Vec<ChunkId> },
    /// One blob; the bulk is its payload. Children come before the pages that name them.
    Blob(ParcelHead),
    /// Nothing more; the bulk is the draft of the manifest's body (`store::manifest`).
    End { root: Reference },
}
message!(FromAgent, "agent's message", 3);

/// Coordinator to agent, on the same stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToAgent {
    /// Bit i (byte i/8, bit i%8) is set when id i of question `number` is wanted.
    Missing { number: u64, wanted: Vec<u8> },
    /// The point is durable.
    Committed { point: PointId },
    /// It is not, and why. `Missing`: these blobs were relied on and are not here; the agent
    /// forgets its cache and reads again.
    Refused { refusal: Refusal, lacking: Vec<Reference> },
}
message!(ToAgent, "answer to agent", 3);

/// Reader (agent, operator, proxy) to whoever holds the point, after `Opening::Fetch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromReader {
    /// Send these blobs, in whatever order suits the disk.
    Want { number: u64, ids: Vec<ChunkId> },
}
message!(FromReader, "reader's message", 1);

/// To the reader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToReader {
    /// First of all: how blobs are named here, so that the reader can check each one itself;
    /// the bulk is the manifest's body, opened (`store::manifest`).
    Manifest(Naming),
    /// One wanted blob; the bulk is its payload.
    Blob(ParcelHead),
    /// A wanted blob that cannot be given.
    Lost { id: ChunkId, refusal: Refusal },
    /// Every id of question `number` was answered.
    Done { number: u64 },
}
message!(ToReader, "answer to reader", 4);

/// Proxy to coordinator, after `Opening::Packs`; several such streams may be open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromProxy {
    /// Which packs does this point need, and its manifest.
    Need { point: PointId },
    /// The bytes of a pack from `offset` on.
    Pack { id: PackId, offset: u64 },
    /// Which points are there.
    Points,
    /// That was all: what was found and what is lacking.
    Reseeded(Reseeded),
}
message!(FromProxy, "proxy's message", 4);

/// Coordinator to proxy, on the same stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToProxy {
    /// Part of the answer to `Need`.
    Packs(Vec<(PackId, u64)>),
    /// End of the answer to `Need`: the bulk is the manifest file, sealed.
    Manifest { workload: WorkloadId, point: PointId },
    /// [`PIECE_BYTES`] or fewer of a pack, in order.
    Piece { id: PackId, offset: u64 },
    /// That was the last piece; `len` is the whole pack's.
    PackEnd { id: PackId, len: u64 },
    /// It cannot be had, and why.
    Refused { refusal: Refusal },
    /// Part of the answer to `Points`; an empty one ends it.
    Points(Vec<(WorkloadId, PointId)>),
}
message!(ToProxy, "answer to proxy", 6);
