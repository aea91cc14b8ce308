//! What of the words a machine was started with makes it the machine it was: board, processors,
//! firmware and its variables, TPM, buses of its disks. Pure. Promises that nothing of it reaches
//! outside: networks, sockets, devices of the host and other files are left out.

use std::path::{Path, PathBuf};

/// Options whose value is taken as it is.
const AS_IT_IS: &[&str] = &["-smp", "-uuid", "-smbios", "-rtc", "-boot", "-global"];
/// Keys of such values that name a file of the host.
const FILE_KEYS: &[&str] = &["file", "path", "splash"];
/// What a board may be told beside its name.
const BOARD_KEYS: &[&str] = &["smm", "vmport", "hpet", "acpi", "usb", "q35-pcihost.mch"];
/// Devices by which a disk may hang at a machine.
const DISK_DEVICES: &[&str] =
    &["virtio-blk-pci", "virtio-blk", "scsi-hd", "ide-hd", "nvme", "sata-hd"];

/// Firmware that lies in flash memory, in the order of its banks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Flash {
    pub(crate) file: PathBuf,
    pub(crate) format: String,
    pub(crate) read_only: bool,
}

/// How a disk hangs at its machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Bus {
    Ide,
    Nvme,
    Scsi,
    #[default]
    Virtio,
}

/// A kernel that is booted beside the disks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Beside {
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: Option<PathBuf>,
    pub(crate) words: String,
}

/// What was found in the words.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Found {
    /// For the new machine, as they are.
    pub(crate) words: Vec<String>,
    pub(crate) bios: Option<PathBuf>,
    pub(crate) flash: Vec<Flash>,
    pub(crate) beside: Option<Beside>,
    /// Whether there was a TPM, and by which model.
    pub(crate) tpm: Option<String>,
    devices: Vec<String>,
}

impl Found {
    /// Reads the words of a machine's process.
    pub(crate) fn of(command: &[String]) -> Self {
        let mut found = Self::default();
        let (mut board, mut nodes, mut flash) = (Vec::new(), Vec::new(), Vec::new());
        let mut rest = command.iter().skip(1).peekable();
        while let Some(word) = rest.next() {
            let option = word.strip_prefix('-').map(|word| word.trim_start_matches('-'));
            let Some(option) = option else { continue };
            let Some(value) = rest.next_if(|value| !value.starts_with('-')) else { continue };
            let option = format!("-{option}");
            match option.as_str() {
                "-machine" | "-M" => board.push(value.clone()),
                "-blockdev" => nodes.push(value.clone()),
                "-drive" | "-pflash" => flash.extend(flash_drive(&option, value)),
                "-device" => found.device(value),
                "-tpmdev" => drop(found.tpm.get_or_insert_with(|| "tpm-tis".to_owned())),
                "-bios" => found.bios = Some(PathBuf::from(value)),
                "-kernel" => found.beside().kernel = PathBuf::from(value),
                "-initrd" => found.beside().initrd = Some(PathBuf::from(value)),
                "-append" => found.beside().words.clone_from(value),
                _ if AS_IT_IS.contains(&option.as_str()) && !names_a_file(value) => {
                    found.words.extend([option, value.clone()]);
                }
                _ => {}
            }
        }
        found.beside = found.beside.filter(|beside| !beside.kernel.as_os_str().is_empty());
        found.flash = flash;
        found.board(&board, &nodes);
        found
    }

    fn beside(&mut self) -> &mut Beside {
        self.beside.get_or_insert_default()
    }

    fn device(&mut self, value: &str) {
        self.devices.push(value.to_owned());
        let model = value.split(',').next().unwrap_or_default();
        match model {
            // A machine that is another from now on must be told so.
            "vmgenid" => self.words.extend(["-device".to_owned(), "vmgenid,guid=auto".to_owned()]),
            "tpm-tis" | "tpm-crb" => self.tpm = Some(model.to_owned()),
            _ => {}
        }
    }

    /// The board without what says how it is accelerated; its banks of flash memory by node.
    fn board(&mut self, board: &[String], nodes: &[String]) {
        let mut kept: Vec<String> = Vec::new();
        for pair in board.iter().flat_map(|value| value.split(',')) {
            match pair.split_once('=') {
                None if kept.is_empty() => kept.push(pair.to_owned()),
                Some(("type", name)) => kept.insert(0, name.to_owned()),
                Some((key, _)) if BOARD_KEYS.contains(&key) => kept.push(pair.to_owned()),
                Some(("pflash0" | "pflash1", node)) => self.flash.extend(flash_node(node, nodes)),
                _ => {}
            }
        }
        if !kept.is_empty() {
            self.words.extend(["-machine".to_owned(), kept.join(",")]);
        }
    }

    /// How the disk of this name hung at the machine; `node` is what it was called inside.
    pub(crate) fn bus_of(&self, name: &str, node: &str) -> Bus {
        let of = |device: &&String| {
            let model = device.split(',').next().unwrap_or_default();
            let means = |key: &str, value: &str| {
                device.split(',').any(|pair| pair.split_once('=') == Some((key, value)))
            };
            DISK_DEVICES.contains(&model)
                && [name, node].iter().any(|name| means("drive", name) || means("id", name))
        };
        match self.devices.iter().find(of).and_then(|device| device.split(',').next()) {
            Some("ide-hd" | "sata-hd") => Bus::Ide,
            Some("nvme") => Bus::Nvme,
            Some("scsi-hd") => Bus::Scsi,
            _ => Bus::Virtio,
        }
    }
}

/// Whether a value has a file of this host read into the guest: a table of SMBIOS, a picture at
/// the start, the ROM of a device.
fn names_a_file(value: &str) -> bool {
    let mut keys = value.split(',').filter_map(|pair| pair.split_once('='));
    keys.any(|(key, _)| FILE_KEYS.contains(&key)) || value.contains("romfile")
}

/// `if=pflash,...,file=F`, as `-drive` has it; or the file alone.
fn flash_drive(option: &str, value: &str) -> Option<Flash> {
    if option == "-pflash" {
        return Some(Flash { file: value.into(), format: "raw".to_owned(), read_only: false });
    }
    let pair = |key: &str| value.split(',').find_map(|pair| pair.strip_prefix(key));
    if pair("if=") != Some("pflash") {
        return None;
    }
    let read_only = matches!(pair("readonly="), Some("on" | "true")) || {
        value.split(',').any(|word| word == "readonly")
    };
    let format = pair("format=").unwrap_or("raw").to_owned();
    Some(Flash { file: pair("file=")?.into(), format, read_only })
}

/// The flash memory a node of `-blockdev` is, in either of its notations.
fn flash_node(node: &str, nodes: &[String]) -> Option<Flash> {
    let fields = |text: &str| -> Vec<(String, String)> {
        match serde_json::from_str::<serde_json::Value>(text) {
            Ok(value) => json_fields(&value),
            Err(_) => {
                let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
                pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
            }
        }
    };
    let all: Vec<Vec<(String, String)>> = nodes.iter().map(|text| fields(text)).collect();
    let value = |fields: &[(String, String)], key: &str| {
        fields.iter().find(|(known, _)| known == key).map(|(_, value)| value.clone())
    };
    let named =
        |name: &str| all.iter().find(|fields| value(fields, "node-name").as_deref() == Some(name));
    let top = named(node)?;
    let format = value(top, "driver").filter(|driver| driver != "file");
    let read_only = matches!(value(top, "read-only").as_deref(), Some("on" | "true"));
    let file = value(top, "filename").or_else(|| value(top, "file.filename")).or_else(|| {
        let below = value(top, "file")?;
        value(named(&below)?, "filename")
    })?;
    let format = format.unwrap_or_else(|| "raw".to_owned());
    Some(Flash { file: PathBuf::from(file), format, read_only })
}

/// Fields of an object, those of objects in it with their path.
fn json_fields(value: &serde_json::Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (key, value) in value.as_object().into_iter().flatten() {
        match value {
            serde_json::Value::Object(_) => {
                let inner = json_fields(value).into_iter();
                found.extend(inner.map(|(inner, value)| (format!("{key}.{inner}"), value)));
            }
            serde_json::Value::String(text) => found.push((key.clone(), text.clone())),
            other => found.push((key.clone(), other.to_string())),
        }
    }
    found
}

/// A file the words name: as the point keeps it, or as this host has it. A link in the point
/// could lead to anything here, and counts as nothing kept.
pub(crate) fn found_at(file: &Path, config: &Path) -> Option<PathBuf> {
    let kept = config.join(file.file_name()?);
    let is_kept = kept.symlink_metadata().is_ok_and(|found| found.is_file());
    if is_kept { Some(kept) } else { file.is_file().then(|| file.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn what_reaches_outside_is_left_out() {
        let found = Found::of(&words(
            "qemu-system-x86_64 -name web1 -machine q35,accel=kvm,smm=on -accel kvm -cpu host \
             -smp 4,sockets=1 -m 4G -netdev tap,id=n0 -device virtio-net-pci,netdev=n0 \
             -nic user -device vfio-pci,host=01:00.0 -qmp unix:/q,server=on -daemonize \
             -drive if=none,id=vda,file=/a.qcow2 -device scsi-hd,drive=vda,bus=s.0 \
             -device virtio-blk-pci,drive=vdb,id=vdb -vnc :1 --uuid 7 -device vmgenid,guid=1-2 \
             -smbios type=11,path=/x -smbios file=/x -smbios type=1,serial=7 \
             -boot splash=/x -global virtio-blk-pci.romfile=/x",
        ));
        let wanted = words(
            "-smp 4,sockets=1 -uuid 7 -device vmgenid,guid=auto -smbios type=1,serial=7 \
             -machine q35,smm=on",
        );
        assert_eq!(found.words, wanted);
        assert_eq!(
            (found.bus_of("vda", "#block1"), found.bus_of("vdb", "x")),
            (Bus::Scsi, Bus::Virtio)
        );
        assert_eq!(
            (&found.flash[..], found.bios, found.tpm, found.beside),
            (&[][..], None, None, None)
        );
    }

    #[test]
    fn firmware_is_found_however_it_was_said() {
        let flash = |file: &str, format: &str, read_only| Flash {
            file: file.into(),
            format: format.to_owned(),
            read_only,
        };
        let wanted = [flash("/code.fd", "raw", true), flash("/vars.fd", "qcow2", false)];
        let drives = words(
            "q -drive if=pflash,format=raw,readonly=on,file=/code.fd \
             -drive if=pflash,format=qcow2,file=/vars.fd -drive if=none,file=/x",
        );
        assert_eq!(Found::of(&drives).flash, wanted);
        let nodes = words(
            r#"q -machine pc,pflash0=code,pflash1=vars
             -blockdev driver=raw,node-name=code,read-only=on,file.filename=/code.fd
             -blockdev {"driver":"file","filename":"/vars.fd","node-name":"store"}
             -blockdev {"node-name":"vars","read-only":false,"driver":"qcow2","file":"store"}"#,
        );
        let found = Found::of(&nodes);
        assert_eq!(found.flash, wanted);
        assert_eq!(found.words, ["-machine", "pc"]);
    }

    #[test]
    fn a_tpm_and_a_kernel_beside_are_known() {
        let found = Found::of(&words(
            "q -chardev socket,id=c,path=/s -tpmdev emulator,id=t,chardev=c -device \
             tpm-crb,tpmdev=t -kernel /k -initrd /i -append root=/dev/vda",
        ));
        assert_eq!(found.tpm.as_deref(), Some("tpm-crb"));
        let beside = found.beside.unwrap();
        assert_eq!((beside.kernel, beside.initrd), ("/k".into(), Some("/i".into())));
        assert_eq!(beside.words, "root=/dev/vda");
        assert!(Found::of(&words("q -append x")).beside.is_none());
        assert_eq!(Found::of(&[]), Found::default());
    }
}
