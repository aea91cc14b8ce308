//! Why a machine of libvirt cannot be protected, with the way out.

use std::path::PathBuf;

use super::virsh::VirshError;
use crate::workload::apps::SettingError;
use crate::workload::xml::XmlError;

/// Why a machine cannot be protected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LibvirtError {
    /// Somebody else is at work on it.
    #[error(
        "machine {machine} has a job of somebody else's ({job}); one at a time is all libvirt \
         allows: wait for it, or end it with `virsh domjobabort`"
    )]
    Busy { machine: String, job: String },
    /// A definition that cannot be read.
    #[error("machine {machine} has a definition that cannot be read")]
    Definition { machine: String, source: XmlError },
    /// The guest was not made quiet, and the policy wants nothing less.
    #[error(
        "machine {machine}: the guest was not made quiet ({why}); `quiesce = \"wanted\"` takes \
         a point all the same, which claims less"
    )]
    Guest { machine: String, why: String },
    /// libvirt.
    #[error("machine {machine} cannot be protected")]
    Libvirt { machine: String, source: VirshError },
    /// There is nothing to protect.
    #[error("machine {machine} has no disk to protect: {why}")]
    NoDisks { machine: String, why: String },
    /// It does not run and cannot be read so.
    #[error("machine {machine} is shut off, and {why}; start it, and it is protected running")]
    Off { machine: String, why: String },
    /// The scratch directory.
    #[error(
        "{} cannot hold what machine {machine} overwrites meanwhile: {why}", .scratch.display()
    )]
    Scratch { machine: String, scratch: PathBuf, why: String },
    /// What the policy says.
    #[error("the policy of this machine cannot be followed")]
    Setting(#[from] SettingError),
    /// A libvirt that lacks what is needed.
    #[error("machine {machine} is run by libvirt {found}; 7.6 is the oldest that can be used")]
    Version { machine: String, found: String },
}
