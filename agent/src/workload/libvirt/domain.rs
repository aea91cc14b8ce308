//! A machine as libvirt defines it, from its XML: what it is, which of its disks can be
//! protected, and what belongs to it beside them. Pure.

use std::path::PathBuf;

use crate::workload::vm::machine::LeftOut;
use crate::workload::xml::{Element, XmlError};

/// The guest agent's channel.
const AGENT_CHANNEL: &str = "org.qemu.guest_agent.0";
/// Where libvirt keeps the state of a TPM that its definition does not place.
const TPM_STATES: &str = "/var/lib/libvirt/swtpm";

/// What a definition says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Domain {
    pub name: String,
    pub uuid: String,
    pub architecture: String,
    pub memory_bytes: u64,
    pub processors: u64,
    pub disks: Vec<DomainDisk>,
    pub left_out: Vec<LeftOut>,
    /// Firmware variables.
    pub variables: Option<PathBuf>,
    /// The directory with the state of its TPM.
    pub tpm: Option<PathBuf>,
    pub guest_agent: Channel,
    /// User and group of its process, where that is not the agent's to know otherwise.
    pub owner: Option<(u32, u32)>,
}

/// A disk that can be protected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DomainDisk {
    /// What libvirt and the guest call it: `vda`.
    pub name: String,
    /// The image or the block device.
    pub file: PathBuf,
    pub format: String,
}

/// How far the guest agent can be reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Channel {
    #[default]
    Absent,
    Connected,
    /// Nobody listens in the guest.
    Silent,
}

impl Domain {
    /// Reads a definition; `exclude` names disks that are left out.
    ///
    /// # Errors
    /// It is no definition.
    pub fn read(xml: &str, exclude: &[&str]) -> Result<Self, XmlError> {
        let top = Element::parse(xml.as_bytes())?;
        if top.name != "domain" {
            return Err(XmlError::Lacks("a domain"));
        }
        let text = |path: &str| top.text_at(path).trim().to_owned();
        let mut domain = Self {
            name: text("name"),
            uuid: text("uuid"),
            architecture: attribute(&top, "os.type", "arch"),
            memory_bytes: memory(&top),
            processors: top.number_at("vcpu").unwrap_or_default(),
            variables: Some(text("os.nvram")).filter(|path| !path.is_empty()).map(PathBuf::from),
            owner: owner(&top),
            ..Self::default()
        };
        let devices = top.child("devices").into_iter().flat_map(|devices| &devices.children);
        for device in devices {
            match device.name.as_str() {
                "channel" if attribute(device, "target", "name") == AGENT_CHANNEL => {
                    let disconnected = attribute(device, "target", "state") == "disconnected";
                    domain.guest_agent =
                        if disconnected { Channel::Silent } else { Channel::Connected };
                }
                "disk" => domain.add(device, exclude),
                "tpm" if attribute(device, "backend", "type") == "emulator" => {
                    let placed = attribute(device, "backend.source", "path");
                    domain.tpm = Some(match placed.is_empty() {
                        true => PathBuf::from(TPM_STATES).join(&domain.uuid),
                        false => PathBuf::from(placed),
                    });
                }
                _ => {}
            }
        }
        Ok(domain)
    }

    fn add(&mut self, device: &Element, exclude: &[&str]) {
        let name = attribute(device, "target", "dev");
        let disk = match disk(device, &name) {
            Ok(_) if exclude.contains(&name.as_str()) => Err("the policy leaves it out".to_owned()),
            disk => disk,
        };
        match disk {
            Ok(disk) => self.disks.push(disk),
            Err(why) => self.left_out.push(LeftOut { name, why }),
        }
    }
}

fn disk(device: &Element, name: &str) -> Result<DomainDisk, String> {
    let refused = |why: &str| Err(why.to_owned());
    match device.attribute("device").unwrap_or("disk") {
        "disk" => {}
        "lun" => return refused("it is a SCSI device that is passed through"),
        what => return Err(format!("it is a removable medium ({what})")),
    }
    if device.child("readonly").is_some() {
        return refused("it is read-only, and nothing of the machine is kept there");
    }
    if device.child("shareable").is_some() {
        return refused("other machines write to it too: no moment of it is this machine's alone");
    }
    if device.child("transient").is_some() {
        return refused("what is written to it is thrown away with the machine's end");
    }
    let key = match device.attribute("type").unwrap_or_default() {
        "file" => "file",
        "block" => "dev",
        kind => return Err(format!("its place is of type {kind:?}, and only file and block are")),
    };
    let file = attribute(device, "source", key);
    if file.is_empty() {
        return refused("no medium is in it");
    }
    // A file name in a point and an argument of virsh.
    let usable = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || !name.chars().all(usable) || name.starts_with('-') {
        return refused("its name cannot be a file's");
    }
    let format = attribute(device, "driver", "type");
    let format = if format.is_empty() { "raw".to_owned() } else { format };
    Ok(DomainDisk { name: name.to_owned(), file: PathBuf::from(file), format })
}

fn attribute(element: &Element, path: &str, name: &str) -> String {
    let found = element.at(path).and_then(|found| found.attribute(name));
    found.unwrap_or_default().to_owned()
}

fn memory(top: &Element) -> u64 {
    let number: u64 = top.number_at("memory").unwrap_or_default();
    let unit = match attribute(top, "memory", "unit").as_str() {
        "b" | "bytes" => 1,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        _ => 1 << 10,
    };
    number.saturating_mul(unit)
}

/// `+64055:+64055`, as the label of a running machine says.
fn owner(top: &Element) -> Option<(u32, u32)> {
    let mut labels = top.all("seclabel");
    let label = labels.find(|label| label.attribute("model") == Some("dac"))?;
    let (user, group) = label.text_at("label").trim().split_once(':')?;
    let number = |text: &str| text.trim_start_matches('+').parse().ok();
    Some((number(user)?, number(group)?))
}

/// What a checkpoint knows of the disk `name`, from `checkpoint-dumpxml --size`.
///
/// # Errors
/// Why the disk is to be read whole.
pub(super) fn follows(xml: &str, name: &str) -> Result<(), &'static str> {
    let broken = "is not one that can be read";
    let top = Element::parse(xml.as_bytes()).map_err(|_| broken)?;
    let mut disks = top.at("disks").into_iter().flat_map(|disks| disks.all("disk"));
    let disk = disks.find(|disk| disk.attribute("name") == Some(name));
    let disk = disk.ok_or("does not know the disk")?;
    if disk.attribute("checkpoint") != Some("bitmap") {
        return Err("does not record the disk: its image kept no bitmap");
    }
    // libvirt tells no size of a bitmap that is missing, inconsistent or does not record.
    match disk.attribute("size") {
        Some(_) => Ok(()),
        None => Err(
            "has lost its bitmap: the machine's process did not end in order, or the image was \
             replaced",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: &str = "<domain type='kvm'><name>web &amp; 1</name><uuid>u-1</uuid>
      <memory unit='MiB'>256</memory><vcpu>2</vcpu><os><type arch='x86_64'>hvm</type>
      <nvram template='/t'>/v/VARS.fd</nvram></os><devices>
      <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/a.qcow2'/>
        <target dev='vda'/></disk>
      <disk type='block' device='disk'><source dev='/dev/vg/b'/><target dev='vdb'/></disk>
      <disk type='file' device='cdrom'><source file='/c.iso'/><target dev='sda'/></disk>
      <disk type='file'><source file='/d'/><target dev='vdd'/><readonly/></disk>
      <disk type='file'><source file='/e'/><target dev='vde'/><shareable/></disk>
      <disk type='block' device='lun'><source dev='/dev/sg1'/><target dev='sdf'/></disk>
      <disk type='network'><source protocol='rbd' name='p/i'/><target dev='vdg'/></disk>
      <disk type='file'><source file='/h'/><target dev='../h'/></disk>
      <disk type='file'><source file='/i'/><target dev='vdi'/><transient/></disk>
      <disk type='file'><source file='/j'/><target dev='vdj'/></disk>
      <channel type='unix'><target name='org.qemu.guest_agent.0' state='disconnected'/></channel>
      <tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm></devices>
      <seclabel model='apparmor'><label>x</label></seclabel>
      <seclabel model='dac'><label>+64055:+106</label></seclabel></domain>";

    #[test]
    fn a_definition_says_what_can_be_protected_and_what_cannot() {
        let domain = Domain::read(DOMAIN, &["vdj"]).unwrap();
        let told = (domain.name.as_str(), domain.memory_bytes, domain.processors);
        assert_eq!(told, ("web & 1", 256 << 20, 2));
        let disks: Vec<_> = domain.disks.iter().map(|d| (&*d.name, &*d.format)).collect();
        assert_eq!(disks, [("vda", "qcow2"), ("vdb", "raw")]);
        assert_eq!(domain.disks[1].file, PathBuf::from("/dev/vg/b"));
        let left: Vec<&str> = domain.left_out.iter().map(|left| left.name.as_str()).collect();
        assert_eq!(left, ["sda", "vdd", "vde", "sdf", "vdg", "../h", "vdi", "vdj"]);
        assert_eq!(domain.guest_agent, Channel::Silent);
        assert_eq!(domain.owner, Some((64055, 106)));
        assert_eq!(domain.tpm, Some(PathBuf::from("/var/lib/libvirt/swtpm/u-1")));
        assert_eq!(domain.variables, Some(PathBuf::from("/v/VARS.fd")));
        assert!(Domain::read("<network/>", &[]).is_err());
    }

    #[test]
    fn a_chain_is_followed_only_by_a_bitmap_that_counts() {
        let xml = "<domaincheckpoint><disks>
            <disk name='vda' checkpoint='bitmap' bitmap='b' size='65536'/>
            <disk name='vdb' checkpoint='bitmap' bitmap='b'/>
            <disk name='vdc' checkpoint='no'/></disks></domaincheckpoint>";
        assert_eq!(follows(xml, "vda"), Ok(()));
        for (name, why) in [("vdb", "lost"), ("vdc", "no bitmap"), ("vdd", "does not know")] {
            assert!(follows(xml, name).unwrap_err().contains(why), "{name}");
        }
        assert!(follows("<", "vda").is_err());
    }
}
