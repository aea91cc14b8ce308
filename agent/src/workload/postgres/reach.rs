//! How far the last point of a log reached, as this agent remembers it: a slot that somebody
//! dropped, and that was made again, begins behind it, and between them nothing is kept. What is
//! remembered may be lost; then a restore finds the gap.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use strongroom_protocol::PointId;

use crate::workload::moment::Memory;
use crate::workload::postgres::lsn::Lsn;

/// What the memory of it is called.
const PART: &str = "pg-log";

/// What a point holds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Reached {
    pub(super) system_identifier: u64,
    pub(super) from: Lsn,
    pub(super) until: Lsn,
}

/// What is remembered.
#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    point: PointId,
    reached: Reached,
}

/// This point and the last one.
#[derive(Debug)]
pub(super) struct Kept {
    path: PathBuf,
    last: Option<Reached>,
    this: Remembered,
}

impl Kept {
    /// What was remembered of the point before this.
    pub(super) fn at(memory: &Memory, reached: Reached) -> Self {
        let path = memory.path(PART);
        let last = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let last = last.filter(|last: &Remembered| Some(last.point) == memory.previous);
        let this = Remembered { point: memory.point, reached };
        Self { path, last: last.map(|last| last.reached), this }
    }

    /// What a person is to know where this point does not join the last one.
    pub(super) fn gap(&self) -> Option<String> {
        let (last, this) = (self.last?, self.this.reached);
        if last.system_identifier != this.system_identifier {
            return Some(format!(
                "this is the log of system {}, and the last point that of system {}: make a point \
                 of the cluster itself",
                this.system_identifier, last.system_identifier
            ));
        }
        (this.from > last.until).then(|| {
            format!(
                "the log from {} to {} is in no point: was the replication slot dropped? make a \
                 point of the cluster itself, which is whole without it",
                last.until, this.from
            )
        })
    }

    /// Remembers this point, once it is durable.
    pub(super) fn remember(&self) {
        let written = serde_json::to_vec(&self.this)
            .map_err(std::io::Error::from)
            .and_then(|bytes| fs::write(&self.path, bytes));
        if let Err(error) = written {
            tracing::warn!(%error, "how far the log is kept is not remembered");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strongroom_protocol::{RepoId, WorkloadId};

    fn reached(from: u64, until: u64) -> Reached {
        Reached { system_identifier: 7, from: Lsn(from), until: Lsn(until) }
    }

    #[test]
    fn a_point_that_does_not_join_the_last_one_is_told_of() {
        let dir = tempfile::tempdir().unwrap();
        let points: Vec<PointId> = (1..4).map(|n| PointId::from_bytes([n; 16])).collect();
        let memory = |previous: Option<usize>, point: usize| Memory {
            dir: dir.path().to_owned(),
            repo: RepoId::from_bytes([0; 16]),
            workload: WorkloadId::from_bytes([0; 16]),
            previous: previous.map(|at| points[at]),
            point: points[point],
        };
        let first = Kept::at(&memory(None, 0), reached(100, 250));
        assert_eq!(first.gap(), None);
        first.remember();
        // Segments are kept from their beginning: stretches lie over one another.
        assert_eq!(Kept::at(&memory(Some(0), 1), reached(200, 300)).gap(), None);
        let gap = Kept::at(&memory(Some(0), 1), reached(300, 400)).gap().unwrap();
        assert!(gap.contains("0/FA to 0/12C"), "{gap}");
        let other = Reached { system_identifier: 8, ..reached(200, 300) };
        assert!(Kept::at(&memory(Some(0), 1), other).gap().unwrap().contains("system 8"));
        // What is remembered of another point says nothing.
        assert_eq!(Kept::at(&memory(Some(1), 2), reached(300, 400)).gap(), None);
    }
}
