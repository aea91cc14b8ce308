//! At least one value of every variant of every message, the same on every machine: what the
//! golden frames pin and what fuzzing starts from. More than one where enums lie inside.

mod admin;
mod bulk;
mod talk;

use std::fmt::Debug;

use strongroom_protocol::frame::Message;
use strongroom_protocol::id::{Id, Kind};
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{ChunkId, Identity, NodeName, PackId, Reference, Role, Timestamp};

/// A message with its samples, in the order of its variants.
pub trait Sampled: Message + Clone + Debug + PartialEq {
    fn samples() -> Vec<Self>;
}

/// Something to do with every message type.
pub trait Visitor {
    fn visit<M: Sampled>(&mut self);
}

/// Shows every message type to `visitor`: the only list of them outside `protocol`.
pub fn visit_all(visitor: &mut impl Visitor) {
    use strongroom_protocol::admin::{Request, Response};
    use strongroom_protocol::control::{FromNode, ToNode};
    use strongroom_protocol::data::{FromAgent, FromProxy, FromReader, ToAgent, ToProxy, ToReader};
    use strongroom_protocol::enrol::{EnrolRequest, EnrolResponse};
    use strongroom_protocol::opening::{Opened, Opening};

    visitor.visit::<Opening>();
    visitor.visit::<Opened>();
    visitor.visit::<FromNode>();
    visitor.visit::<ToNode>();
    visitor.visit::<FromAgent>();
    visitor.visit::<ToAgent>();
    visitor.visit::<FromReader>();
    visitor.visit::<ToReader>();
    visitor.visit::<FromProxy>();
    visitor.visit::<ToProxy>();
    visitor.visit::<EnrolRequest>();
    visitor.visit::<EnrolResponse>();
    visitor.visit::<Request>();
    visitor.visit::<Response>();
}

/// The variant's name, taken from how the value prints.
pub fn variant_of(value: &impl Debug) -> String {
    format!("{value:?}").chars().take_while(|c| c.is_alphanumeric()).collect()
}

fn id<K: Kind>(fill: u8) -> Id<K> {
    Id::from_bytes([fill; 16])
}

const fn chunk(fill: u8) -> ChunkId {
    ChunkId([fill; 32])
}

const fn pack(fill: u8) -> PackId {
    PackId([fill; 32])
}

const fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(1_700_000_000 + seconds)
}

fn name<N: std::str::FromStr>(text: &str) -> N {
    text.parse().unwrap_or_else(|_| panic!("{text} is not a usable name"))
}

fn identity(role: Role) -> Identity {
    let node: NodeName = name("node-1");
    Identity { org: name("acme"), site: name("north"), role, name: node }
}

fn refusal(kind: RefusalKind) -> Refusal {
    Refusal::new(kind, "why")
}

const fn reference(kind: strongroom_protocol::BlobKind, fill: u8) -> Reference {
    Reference { kind, id: chunk(fill) }
}
