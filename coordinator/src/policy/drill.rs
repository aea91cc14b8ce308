//! The drills of a copy: when it is recovered from, and what is wanted of that.

use strongroom_protocol::control::AppKind;
use strongroom_protocol::drill::DrillKind;

use crate::policy::{Prove, Source};
use crate::retention::ProofLevel;
use crate::schedule::Cadence;

/// A rule for drills.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Drill {
    /// Never empty.
    pub schedule: Vec<Cadence>,
    /// What a recovery may take, in seconds; none: it is measured only.
    pub recovery_seconds_max: Option<u64>,
    /// The newest proof may be so old.
    pub age_seconds_max: u64,
    /// A drill that takes longer is broken off.
    pub seconds_max: u32,
}

impl Drill {
    /// The proof that it demands of a workload that reads `source`.
    pub fn proof(&self, source: &Source) -> Prove {
        Prove { level: level_of(kind_of(source)), every_seconds: self.age_seconds_max }
    }
}

/// What a drill does with points of a workload that reads `source`.
pub fn kind_of(source: &Source) -> DrillKind {
    let Source::App(app) = source else { return DrillKind::Files };
    match app.kind {
        // A stretch of log is nothing to start from.
        AppKind::Postgres if app.says("mode") != Some("wal") => DrillKind::Postgres,
        AppKind::Vm => DrillKind::Vm,
        AppKind::Directory | AppKind::Mariadb | AppKind::Postgres | AppKind::Vsphere => {
            DrillKind::Files
        }
    }
}

/// The proof level that a drill shows.
pub const fn level_of(kind: DrillKind) -> ProofLevel {
    match kind {
        DrillKind::Files => ProofLevel::MountedChecked,
        DrillKind::Postgres | DrillKind::Vm => ProofLevel::Started,
    }
}
