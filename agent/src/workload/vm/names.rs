//! What this program calls what it makes in a machine, so that the owner and the run are told
//! by the name. Names of others are never touched.

use strongroom_protocol::{PointId, WorkloadId};

/// The names of one run. QEMU allows 31 characters and begins them with a letter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::workload) struct Names {
    owner: String,
    point: PointId,
}

impl Names {
    pub(in crate::workload) fn new(workload: WorkloadId, point: PointId) -> Self {
        Self { owner: format!("sr.{}.", workload.short()), point }
    }

    /// Whether a run of this workload made it, this or an earlier one.
    pub(in crate::workload) fn owns(&self, name: &str) -> bool {
        name.starts_with(&self.owner)
    }

    /// The bitmap that records what changes after a point.
    pub(in crate::workload) fn bitmap(&self, point: PointId) -> String {
        format!("{}{}", self.owner, point.short())
    }

    /// The bitmap of what changed up to this run, which nothing writes to.
    pub(super) fn changed(&self) -> String {
        format!("{}.t", self.bitmap(self.point))
    }

    /// Of the disk with this number: a job, node or export. `what` is a letter for its use.
    pub(super) fn part(&self, what: char, disk: usize) -> String {
        format!("{}.{what}{disk}", self.bitmap(self.point))
    }

    /// The bitmap of this run.
    pub(in crate::workload) fn own_bitmap(&self) -> String {
        self.bitmap(self.point)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_tell_their_owner() {
        let (workload, point) = (WorkloadId::fresh(1), PointId::fresh(2));
        let names = Names::new(workload, point);
        assert!(names.part('q', 9999).len() <= 31, "{}", names.part('q', 9999));
        assert!(names.owns(&names.changed()) && names.owns(&names.own_bitmap()));
        assert!(names.owns(&Names::new(workload, PointId::fresh(3)).changed()));
        assert!(!Names::new(WorkloadId::fresh(4), point).owns(&names.changed()));
    }
}
