//! `SG_IO` proven where it is meant for: this test carries itself into a guest whose Linux has
//! its own sg, st and ch drivers on the drives and the arm of tgt, and runs there what the
//! driver is for. Blocks go both ways between it and the kernel's tape driver.
#![allow(clippy::print_stdout, reason = "a guest speaks")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may stop")]

mod media_kit;
mod scsi_kit;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use media_kit::{Load, order};
use scsi_kit::{Tgt, tape};
use strongroom_protocol::{FixedClock, Timestamp};
use strongroom_store::media::{MediaReader, MediaSetWriter};
use strongroom_store::tape::scsi::{LibraryAddress, ScsiLibrary};
use strongroom_store::tape::{Readout, Room, TapeLibrary as _};

/// Says to this program that it is in the guest.
const INSIDE: &str = "STRONGROOM_IN_A_GUEST";
const GUEST_PATIENCE: Duration = Duration::from_secs(240);
/// What `SCSI` calls a drive and an arm.
const TAPE: &str = "1";
const CHANGER: &str = "8";
const MODULES: &str = "virtio_scsi sg st ch";
/// The script that makes the guests of this house.
const INITRAMFS: &str = include_str!("../../agent/src/vmlab/initramfs.sh");

#[test]
fn a_library_by_the_generic_devices_of_linux() {
    if std::env::var_os(INSIDE).is_some() {
        blocks_go_both_ways();
        a_set_is_written_and_read();
        println!("INSIDE-DONE");
        return;
    }
    let tgt = Tgt::start(4, 16);
    // The emulator asks each drive for its size, and an empty one has none.
    let library = tgt.library();
    let loaded = [library.load(&tape(1)).unwrap(), library.load(&tape(2)).unwrap()];
    drop(loaded);
    drop(library);
    let dir = tempfile::tempdir().unwrap();
    let mut guest = Guest::start(dir.path(), &tgt.text());
    guest.await_line("INSIDE-DONE");
    guest.await_line("GUEST-RESULT 0");
    // What the guest wrote is there without its kernel.
    the_load().assert_readable(&MediaReader::open(tgt.library()).unwrap());
}

fn the_load() -> Load {
    Load::new(1, 9, 900_000)
}

/// Units of a kind, as the kernel numbers them.
fn units(kind: &str) -> Vec<PathBuf> {
    let listing = fs::read_dir("/sys/class/scsi_generic").unwrap().flatten();
    let mut found: Vec<String> = listing
        .filter(|unit| fs::read_to_string(unit.path().join("device/type")).unwrap().trim() == kind)
        .map(|unit| unit.file_name().into_string().unwrap())
        .collect();
    found.sort();
    found.into_iter().map(|name| Path::new("/dev").join(name)).collect()
}

fn by_kernel() -> Arc<ScsiLibrary> {
    let (drives, arms) = (units(TAPE), units(CHANGER));
    assert_eq!((drives.len(), arms.len()), (2, 1), "{drives:?} {arms:?}");
    for class in ["scsi_tape/nst0", "scsi_tape/nst1", "scsi_changer/sch0"] {
        assert!(Path::new("/sys/class").join(class).exists(), "{class} is bound");
    }
    let drives: Vec<String> = drives.iter().map(|path| path.display().to_string()).collect();
    let text = format!("scsi:{}?drives={}", arms[0].display(), drives.join(","));
    let address: LibraryAddress = text.parse().unwrap();
    Arc::new(ScsiLibrary::open(&address).unwrap())
}

/// The tape driver of the drive behind a unit. The kernel counts units as it finds them, which is
/// backwards here: a drive that was only taken for the first of the arm's would be another.
fn tape_driver(lun: u32) -> String {
    let found = fs::read_dir("/sys/class/scsi_tape").unwrap().flatten().filter(|unit| {
        let device = fs::canonicalize(unit.path().join("device")).unwrap();
        device.to_string_lossy().ends_with(&format!(":{lun}"))
    });
    let plain = |name: &String| name.starts_with("nst") && name.ends_with(char::is_numeric);
    let mut names = found.map(|unit| unit.file_name().into_string().unwrap());
    format!("/dev/{}", names.find(plain).unwrap())
}

fn shell(script: &str) {
    let done = Command::new("sh").args(["-ec", script]).status().unwrap();
    assert!(done.success(), "{script}");
}

/// Written here and read by `st`, written by `st` and read here.
fn blocks_go_both_ways() {
    let library = by_kernel();
    let elements = library.elements().unwrap();
    assert!(elements.iter().any(|element| element.full), "{elements:?}");
    let mut drive = library.load(&tape(3)).unwrap();
    println!("INSIDE: loaded");
    let ours = |seed: u8, bytes: usize| vec![seed; bytes];
    for (seed, bytes) in [(1, 1), (2, 4096), (3, 256 << 10)] {
        assert_eq!(drive.write_block(&ours(seed, bytes)).unwrap(), Room::Plenty);
    }
    drive.write_filemark().unwrap();
    drive.flush().unwrap();
    let slots = library.inventory().unwrap().into_iter();
    let loaded = slots.filter(|slot| slot.barcode.as_ref() == Some(&tape(3)));
    let bay = loaded.filter_map(|slot| slot.loaded_in).next().unwrap();
    drive.rewind().unwrap();
    drop(drive);
    // One and the same drive, by the tape driver of Linux.
    let st = tape_driver(bay + 1);
    shell(&format!(
        "mt -f {st} setblk 0
         mt -f {st} rewind
         for n in 1 2 3; do dd if={st} of=/tmp/$n bs=1M count=1; done
         mt -f {st} rewind
         dd if=/dev/zero bs=5000 count=1 | tr '\\0' x | dd of={st} bs=5000
         mt -f {st} rewind"
    ));
    for (seed, bytes) in [(1, 1), (2, 4096), (3, 256 << 10)] {
        assert!(fs::read(format!("/tmp/{seed}")).unwrap() == ours(seed, bytes), "block {seed}");
    }
    println!("INSIDE: st read what was written here");
    let mut drive = library.load(&tape(3)).unwrap();
    let mut buffer = vec![0; 1 << 20];
    drive.rewind().unwrap();
    assert_eq!(drive.read_block(&mut buffer).unwrap(), Readout::Block(5000));
    assert!(buffer[..5000].iter().all(|byte| *byte == b'x'), "what st wrote");
    assert_eq!(drive.read_block(&mut buffer).unwrap(), Readout::Filemark, "st closes its file");
    let mut short = [0; 16];
    drive.rewind().unwrap();
    drive.read_block(&mut short).unwrap_err();
    library.unload(drive).unwrap();
    println!("INSIDE: what st wrote was read here");
}

/// A whole set over several cartridges, with its labels and catalogs.
fn a_set_is_written_and_read() {
    let library = by_kernel();
    let clock = Arc::new(FixedClock::at(Timestamp::from_unix_seconds(1_800_000_000)));
    let mut writer = MediaSetWriter::open(library.clone(), order("weekly"), clock).unwrap();
    let report = the_load().session(&mut writer).unwrap();
    println!("INSIDE: {} media written", report.media.len());
    drop(writer);
    the_load().assert_readable(&MediaReader::open(library).unwrap());
}

/// A guest with nothing but a kernel, its modules, a busybox and this program.
struct Guest {
    machine: Child,
    lines: mpsc::Receiver<String>,
    said: Vec<String>,
}

impl Guest {
    fn start(dir: &Path, target: &str) -> Self {
        let (kernel, initrd) = pack(dir);
        let words = format!("console=ttyS0 quiet panic=-1 lab.run={}", orders());
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-accel", "tcg", "-m", "512", "-display", "none", "-nodefaults"]);
        command.args(["-no-reboot", "-serial", "stdio", "-kernel"]).arg(kernel);
        command.arg("-initrd").arg(initrd);
        command.args(["-append", &words, "-iscsi"]);
        command.args(["initiator-name=iqn.2026-01.test:guest", "-device"]);
        command.arg("virtio-scsi-pci,id=bus");
        for lun in 1..=3 {
            let drive = format!("file={target}/{lun},if=none,id=u{lun},format=raw,cache=none");
            let device = format!("scsi-generic,drive=u{lun},bus=bus.0,lun={lun}");
            command.args(["-drive", &drive, "-device", &device]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut machine = command.spawn().expect("qemu-system-x86_64");
        let (tell, lines) = mpsc::channel();
        let console = BufReader::new(machine.stdout.take().unwrap());
        std::thread::spawn(move || {
            let text = console.split(b'\n').map_while(Result::ok);
            text.map(|line| String::from_utf8_lossy(&line).trim_end().to_owned())
                .take_while(|line| tell.send(line.clone()).is_ok())
                .for_each(drop);
        });
        Self { machine, lines, said: Vec::new() }
    }

    fn await_line(&mut self, wanted: &str) {
        let until = Instant::now() + GUEST_PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("the guest did not say {wanted:?} but:\n{}", self.said.join("\n"));
            };
            self.said.push(line.clone());
            if line.ends_with(wanted) {
                return;
            }
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        drop(self.machine.kill());
        drop(self.machine.wait());
    }
}

/// What the guest does: it runs this program, says how that ended, and ends.
fn orders() -> String {
    let own = std::env::current_exe().unwrap();
    let program = own.file_name().unwrap().to_str().unwrap();
    let lines = format!(
        "for wait in 1 2 3 4 5 6 7 8 9 10; do [ -e /dev/sg2 ] && break; sleep 1; done
         {INSIDE}=1 {program} --nocapture --test-threads 1 > /dev/ttyS0 2>&1
         echo \"GUEST-RESULT $?\" > /dev/ttyS0
         sleep 1
         poweroff -f"
    );
    data_encoding::BASE64.encode(lines.as_bytes())
}

/// The kernel, and the file system it begins with.
fn pack(dir: &Path) -> (PathBuf, PathBuf) {
    let own = std::env::current_exe().unwrap();
    let target = own.ancestors().find(|dir| dir.ends_with("target")).unwrap();
    let root = target.join("vm-kernel");
    let boot = fs::read_dir(root.join("boot")).expect("cargo xtask test unpacks a kernel");
    let kernel = boot.flatten().map(|entry| entry.path());
    let named = |path: &PathBuf| path.display().to_string().contains("/vmlinuz-");
    let kernel = kernel.into_iter().find(named).unwrap();
    let version = kernel.file_name().unwrap().to_str().unwrap().replace("vmlinuz-", "");
    let script = dir.join("pack.sh");
    fs::write(&script, INITRAMFS).unwrap();
    let initrd = dir.join("initrd");
    let mut command = Command::new("sh");
    command.arg(script).arg(&initrd).arg(&root).arg(version).arg(&own).env("LAB_MODULES", MODULES);
    assert!(command.status().unwrap().success());
    (kernel, initrd)
}
