//! Which change of each disk the last committed point was made at: what changes are asked since.
//! May be lost at any time: then disks are read whole.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use strongroom_protocol::PointId;

use crate::workload::moment::Memory;

/// The part of the agent's memory.
const PART: &str = "vsphere-changes";

/// The changes of a point.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Since {
    point: PointId,
    /// By disk.
    pub(super) changes: BTreeMap<String, String>,
}

impl Since {
    pub(super) const fn new(point: PointId, changes: BTreeMap<String, String>) -> Self {
        Self { point, changes }
    }

    /// Of the last committed point, if it is known.
    pub(super) fn last(memory: &Memory) -> Option<Self> {
        let bytes = std::fs::read(place(memory)).ok()?;
        let known: Self = serde_json::from_slice(&bytes).ok()?;
        (Some(known.point) == memory.previous).then_some(known)
    }

    /// The point is committed.
    pub(super) fn keep(&self, memory: &Memory) -> io::Result<()> {
        let unfinished = memory.path(&format!("{PART}.unfinished"));
        std::fs::write(&unfinished, serde_json::to_vec(self).map_err(io::Error::other)?)?;
        std::fs::rename(unfinished, place(memory))
    }
}

fn place(memory: &Memory) -> PathBuf {
    memory.path(PART)
}
