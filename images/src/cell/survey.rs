//! What lies on a disk: its partitions, and what each holds.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::probe::{Found, probe};
use crate::system::{FileSystem, NodeId};
use crate::table;
use crate::volume::{Part, Volume, VolumeError};

/// What lies on a disk.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Survey {
    /// `gpt`, `mbr` or `none`.
    pub scheme: String,
    pub partitions: Vec<Partition>,
    /// What a person should know of the table.
    pub notes: Vec<String>,
}

/// A partition, or all of a disk that has none.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Partition {
    pub number: u32,
    pub first: u64,
    pub bytes: u64,
    /// The name that the table gives it.
    pub name: Option<String>,
    pub purpose: String,
    pub state: State,
}

/// What a partition holds.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum State {
    /// A file system that does not hold together, or a place that leads out.
    Damaged { what: String, why: String },
    /// Nothing that is known.
    Nothing,
    /// A file system that is read.
    Read { system: String, label: Option<String>, root: NodeId, warnings: Vec<String> },
    /// Something known that is not read.
    Unread { what: String },
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged { what, why } => write!(f, "damaged {what}: {why}"),
            Self::Nothing => f.write_str("nothing that is known"),
            Self::Read { system, .. } => f.write_str(system),
            Self::Unread { what } => write!(f, "{what}, which is not read"),
        }
    }
}

/// A file system that can be asked, where a partition has one.
pub(super) type System = Option<Box<dyn FileSystem>>;

/// Looks at everything; the file systems are in the order of the partitions.
pub(super) fn look(disk: &Arc<dyn Volume>) -> Result<(Survey, Vec<System>), VolumeError> {
    let is_bare = || matches!(probe(disk), Ok(Found::System(_) | Found::Unread { .. }));
    let table = table::read(&**disk, &is_bare)?;
    let (mut partitions, mut systems) = (Vec::new(), Vec::new());
    for slot in table.slots {
        let (state, system) = match slot.fault {
            Some(why) => (State::Damaged { what: "partition".to_owned(), why }, None),
            None => {
                let part = Part::new(Arc::clone(disk), slot.first, slot.bytes)?;
                let part: Arc<dyn Volume> = Arc::new(part);
                state(probe(&part))
            }
        };
        let (number, first, bytes) = (slot.number, slot.first, slot.bytes);
        let (name, purpose) = (slot.name, slot.purpose);
        partitions.push(Partition { number, first, bytes, name, purpose, state });
        systems.push(system);
    }
    let scheme = table.scheme.name().to_owned();
    Ok((Survey { scheme, partitions, notes: table.notes }, systems))
}

fn state(found: Result<Found, VolumeError>) -> (State, System) {
    match found {
        Ok(Found::System(system)) => {
            let state = State::Read {
                system: system.name().to_owned(),
                label: system.label(),
                root: system.root(),
                warnings: system.warnings(),
            };
            (state, Some(system))
        }
        Ok(Found::Damaged { what, problem }) => {
            (State::Damaged { what: what.to_owned(), why: problem.to_string() }, None)
        }
        Ok(Found::Unread { what }) => (State::Unread { what: what.to_owned() }, None),
        Ok(Found::Nothing) => (State::Nothing, None),
        Err(error) => {
            (State::Damaged { what: "partition".to_owned(), why: error.to_string() }, None)
        }
    }
}
