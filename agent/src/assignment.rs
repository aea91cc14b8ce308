//! What an agent was told to protect, of whatever kind, apart from how it came by the wire.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use strongroom_node::desk::Task;
use strongroom_protocol::control::{self, AppKind, AppWork, FilesSource, ProtectWork};
use strongroom_protocol::{PointId, WorkloadId, WorkloadName};
use strongroom_store::cut::Blocks;

use crate::hooks::{Hook, HookPair};
use crate::orders::Hands;
use crate::workload::apps::Settings;
use crate::workload::files::FilesWorkload;
use crate::workload::files::rules::{Mounts, RuleSet};

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

fn hooks_of(task: &Task, source: &FilesSource) -> Option<HookPair> {
    let deadline_seconds = source.hook_seconds_max;
    let hook = |command: &Vec<String>| {
        (!command.is_empty()).then(|| Hook { command: command.clone(), deadline_seconds })
    };
    let (pre, post) = (hook(&source.pre_hook), hook(&source.post_hook));
    let any = pre.is_some() || post.is_some();
    any.then(|| HookPair { name: task.job.to_string(), pre, post })
}

/// The tree of files that an assignment is about.
pub(crate) fn files_workload(hands: &Hands, task: &Task, source: &FilesSource) -> FilesWorkload {
    FilesWorkload {
        root: PathBuf::from(OsStr::from_bytes(&source.path)),
        rules: RuleSet {
            exclude: source.exclude.clone(),
            exclude_if_present: source.exclude_if_present.clone(),
            exclude_larger_bytes: source.exclude_larger_bytes,
            mounts: match source.mounts {
                control::Mounts::Cross => Mounts::Cross,
                control::Mounts::Stay => Mounts::Stop,
            },
        },
        job: task.job,
        freeze: hooks_of(task, source),
        journal: hands.journal.clone(),
        clock: Arc::clone(&hands.clock),
    }
}
