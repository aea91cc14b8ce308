//! What machines a libvirt has, which of their disks can be protected, and what stands in the
//! way: for whoever writes a policy.

use serde::Serialize;

use super::domain::{Channel, Domain};
use super::virsh::{ANSWER, Virsh, VirshError};
use crate::workload::vm::machine::LeftOut;

/// A machine, as a policy would name it.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    pub name: String,
    pub uuid: String,
    pub state: String,
    pub disks: Vec<ListedDisk>,
    pub left_out: Vec<LeftOut>,
    /// What makes its points less than they could be, or impossible.
    pub remarks: Vec<String>,
}

/// A disk that can be protected.
#[derive(Clone, Debug, Serialize)]
pub struct ListedDisk {
    pub name: String,
    pub format: String,
    pub file: String,
}

/// The machines of a connection, in libvirt's order.
///
/// # Errors
/// libvirt cannot be reached, or refuses.
pub fn machines(uri: &str) -> Result<Vec<Listed>, VirshError> {
    let virsh = Virsh::of(uri)?;
    let names = virsh.names()?;
    // One may go between the question and the next.
    let listed = names.iter().map(|name| machine(&virsh, name)).filter(|listed| {
        !matches!(listed, Err(VirshError::NoDomain { .. } | VirshError::Refused { .. }))
    });
    listed.collect()
}

fn machine(virsh: &Virsh, name: &str) -> Result<Listed, VirshError> {
    let uuid = virsh.uuid(name)?;
    let state = virsh.ask(&["domstate", "--domain", &uuid], ANSWER)?.trim().to_owned();
    let xml = virsh.ask(&["dumpxml", "--domain", &uuid], ANSWER)?;
    let domain = Domain::read(&xml, &[]).map_err(|error| VirshError::Refused {
        command: "dumpxml".to_owned(),
        why: error.to_string(),
    })?;
    let info = virsh.ask(&["dominfo", "--domain", &uuid], ANSWER)?;
    let transient = info
        .lines()
        .any(|line| line.strip_prefix("Persistent:").is_some_and(|value| value.trim() == "no"));
    let mut remarks = remarks(&domain, &state);
    if transient {
        remarks.push(
            "it is transient: when it ends, libvirt forgets its checkpoints, and the next point \
             is read whole"
                .to_owned(),
        );
    }
    let disk = |disk: super::domain::DomainDisk| ListedDisk {
        name: disk.name,
        format: disk.format,
        file: disk.file.to_string_lossy().into_owned(),
    };
    Ok(Listed {
        name: domain.name,
        uuid,
        state,
        disks: domain.disks.into_iter().map(disk).collect(),
        left_out: domain.left_out,
        remarks,
    })
}

fn remarks(domain: &Domain, state: &str) -> Vec<String> {
    let mut remarks = Vec::new();
    if matches!(state, "shut off" | "crashed") {
        remarks.push("it is off: its images are read, whole each time".to_owned());
    } else if domain.guest_agent != Channel::Connected {
        remarks.push(
            match domain.guest_agent {
                Channel::Absent => {
                    "no channel for a guest agent: its points are as after a power cut"
                }
                _ => "no guest agent answers: its points are as after a power cut",
            }
            .to_owned(),
        );
    }
    let whole = domain.disks.iter().filter(|disk| disk.format != "qcow2");
    remarks.extend(whole.map(|disk| {
        format!("{} is {}, not qcow2: it is read whole each time", disk.name, disk.format)
    }));
    if domain.disks.is_empty() {
        remarks.push("it has no disk to protect".to_owned());
    }
    remarks
}
