//! What an agent was told to protect, of whatever kind, apart from how it came by the wire.

use strongroom_protocol::control::{AppKind, AppWork, FilesSource, ProtectWork};
use strongroom_protocol::{PointId, WorkloadId, WorkloadName};
use strongroom_store::cut::Blocks;

use crate::workload::apps::Settings;

/// What is to be protected, of whatever kind.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    App { kind: AppKind, settings: Settings },
    Files(FilesSource),
}

/// What every protect assignment says.
#[derive(Clone, Debug)]
pub(crate) struct Assignment {
    pub(crate) workload: WorkloadId,
    pub(crate) name: WorkloadName,
    pub(crate) point: PointId,
    pub(crate) previous: Option<PointId>,
    pub(crate) policy: String,
    pub(crate) policy_version: u64,
    pub(crate) blocks: Blocks,
}

impl Assignment {
    /// Of a tree of files.
    pub(crate) fn files(work: ProtectWork, blocks: Blocks) -> (Self, Source) {
        let ProtectWork { workload, name, point, previous, source, policy, policy_version } = work;
        let this = Self { workload, name, point, previous, policy, policy_version, blocks };
        (this, Source::Files(source))
    }

    /// Of an application.
    pub(crate) fn app(work: AppWork) -> (Self, Source) {
        let AppWork { workload, name, point, previous, kind, settings, .. } = work;
        let AppWork { blocks, policy, policy_version, .. } = work;
        let blocks = blocks.map_or(Blocks::AsFiles, |(min, max)| Blocks::Sized { min, max });
        let this = Self { workload, name, point, previous, policy, policy_version, blocks };
        (this, Source::App { kind, settings: Settings::new(settings) })
    }
}
