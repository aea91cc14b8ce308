//! Which disks a machine has, from its configuration, and which of them a snapshot leaves out.
//! Pure.

use serde::Serialize;

use crate::workload::vm::machine::LeftOut;
use crate::workload::xml::Element;

/// A disk that can be protected.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Disk {
    /// Where it is plugged in, usable as a file name: `scsi0-1`.
    pub name: String,
    /// As people know it.
    pub label: String,
    /// The server's number for it, while it has this place.
    pub key: i32,
    /// The image's file.
    pub file: String,
    /// What does not change when the image is moved.
    pub uuid: String,
    /// As the guest sees it.
    pub bytes: u64,
    /// What an export calls it.
    #[serde(skip)]
    pub export: String,
    /// What changes after this snapshot are counted from.
    #[serde(skip)]
    pub change: Option<String>,
}

/// The disks in a configuration, and what is no disk to protect.
pub fn disks(config: &Element, exclude: &[String]) -> (Vec<Disk>, Vec<LeftOut>) {
    let devices = config.at("hardware").cloned().unwrap_or_default();
    let (mut disks, mut left_out) = (Vec::new(), Vec::new());
    for device in devices.all("device").filter(|device| device.kind() == "VirtualDisk") {
        let (name, export) = place(device, &devices);
        match disk(device, &name, export) {
            Ok(_) if exclude.contains(&name) => {
                left_out.push(LeftOut { name, why: "the policy leaves it out".to_owned() });
            }
            Ok(disk) => disks.push(disk),
            Err(why) => left_out.push(LeftOut { name, why }),
        }
    }
    (disks, left_out)
}

/// What a disk is called, by where it is plugged in; and what an export calls it.
fn place(device: &Element, devices: &Element) -> (String, String) {
    let above = device.text_at("controllerKey");
    let controller = devices.all("device").find(|other| other.text_at("key") == above);
    let kind = controller.map_or("", Element::kind);
    let short = match kind {
        "VirtualIDEController" => "ide",
        "VirtualAHCIController" => "sata",
        "VirtualNVMEController" => "nvme",
        _ => "scsi",
    };
    let bus: u32 = controller.and_then(|found| found.number_at("busNumber")).unwrap_or(0);
    let unit: u32 = device.number_at("unitNumber").unwrap_or(0);
    (format!("{short}{bus}-{unit}"), format!("{kind}{bus}:{unit}"))
}

fn disk(device: &Element, name: &str, export: String) -> Result<Disk, String> {
    let Some(backing) = device.child("backing") else {
        return Err("nothing is said of its image".to_owned());
    };
    let mode = backing.text_at("diskMode");
    if mode.starts_with("independent") {
        return Err(format!("it is {mode}: no snapshot has it"));
    }
    if backing.kind().contains("RawDiskMapping")
        && backing.text_at("compatibilityMode") == "physicalMode"
    {
        return Err("it is a raw device in physical mode: no snapshot has it".to_owned());
    }
    let kilobytes = || device.number_at::<u64>("capacityInKB").and_then(|n| n.checked_mul(1024));
    let bytes = device.number_at("capacityInBytes").filter(|bytes| *bytes > 0).or_else(kilobytes);
    let bytes = bytes.filter(|bytes| *bytes > 0).ok_or("its size is not known")?;
    let change = backing.text_at("changeId");
    Ok(Disk {
        name: name.to_owned(),
        label: device.text_at("deviceInfo.label").to_owned(),
        key: device.number_at("key").ok_or("it has no key")?,
        file: backing.text_at("fileName").to_owned(),
        uuid: backing.text_at("uuid").to_owned(),
        bytes,
        export,
        change: (!change.is_empty()).then(|| change.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_named_by_their_place_and_what_no_snapshot_has_is_said() {
        let disk = |key: u32, unit: u32, backing: &str| {
            format!(
                "<device xsi:type=\"VirtualDisk\"><key>{key}</key><backing xsi:type=\"F\">{backing}\
                 </backing><controllerKey>1000</controllerKey><unitNumber>{unit}</unitNumber>\
                 <capacityInKB>64</capacityInKB></device>"
            )
        };
        let text = format!(
            "<val><hardware><device xsi:type=\"ParaVirtualSCSIController\"><key>1000</key>\
             <busNumber>2</busNumber></device>{}{}{}</hardware></val>",
            disk(2000, 0, "<fileName>[d] a.vmdk</fileName><changeId>u/4</changeId>"),
            disk(2001, 1, "<diskMode>independent_persistent</diskMode>"),
            disk(2002, 3, ""),
        );
        let config = Element::parse(text.as_bytes()).unwrap();
        let (found, left_out) = disks(&config, &["scsi2-3".to_owned()]);
        let [disk] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((disk.name.as_str(), disk.bytes, disk.key), ("scsi2-0", 65536, 2000));
        assert_eq!(disk.export, "ParaVirtualSCSIController2:0");
        assert_eq!(disk.change.as_deref(), Some("u/4"));
        let why: Vec<&str> = left_out.iter().map(|left| left.why.as_str()).collect();
        assert_eq!(
            why,
            ["it is independent_persistent: no snapshot has it", "the policy leaves it out"]
        );
    }
}
