//! A machine of a simulated vSphere server, its disk one that a guest wrote: protected, restored as
//! images that QEMU's programs take, and booted from the primary and from the secondary copy.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod lab;
#[path = "../../agent/tests/vsphere_parts/simulator.rs"]
mod simulator;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lab::Sites;
use simulator::Simulator;
use strongroom_agent::vmlab::{
    Accel, Boot, Kernel, LabDisk, MEMORY_MIB, Machine, Setup, Writes, ext4,
};

/// A machine that every vcsim has.
const MACHINE: &str = "DC0_H0_VM0";
/// A guest without acceleration takes a few seconds; on a busy host many.
const BOOT: Duration = Duration::from_secs(180);
const BYTES: usize = 128 << 20;
/// What the guest holds, with its sums.
const FILL: &str = "cd /mnt/vda && for n in 1 2 3 4 5 6; do dd if=/dev/urandom of=$n bs=1M count=2 \
    2>/dev/null; done && sha256sum ? > sums && cd / && umount /mnt/vda";
const CHECK: &str = "cd /mnt/vda && sha256sum -c -s sums";

fn must(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The kernel that guests boot, unpacked once for all tests.
fn kernel() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.ancestors().find(|dir| dir.ends_with("target")).unwrap().join("vm-kernel")
}

/// A disk on which a guest wrote, put down in order.
fn written(dir: &Path) -> PathBuf {
    let (raw, initrd) = (dir.join("truth.raw"), dir.join("initrd"));
    ext4(&raw, BYTES as u64).unwrap();
    let kernel = Kernel::get(&kernel()).unwrap();
    kernel.initramfs(&initrd, &[]).unwrap();
    let disk = LabDisk { path: raw.clone(), format: "raw".to_owned(), name: "vda".to_owned() };
    let boot = Boot::Kernel { image: kernel.image, initrd, words: String::new() };
    let (writes, accel, more) = (Writes::Kept, Accel::Tcg, Vec::new());
    let setup = Setup { disks: vec![disk], boot, writes, memory_mib: MEMORY_MIB, accel, more };
    let mut machine = Machine::start(&dir.join("m"), &setup).unwrap();
    machine.await_agent(BOOT).unwrap();
    assert_eq!(machine.shell(FILL).unwrap(), (0, String::new()));
    machine.kill();
    raw
}

#[test]
fn a_machine_of_vsphere_is_restored_and_booted_from_its_point() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let text = |name: &str| dir.path().join(name).display().to_string();
    let raw = written(dir.path());
    fs::create_dir_all(path("lab").join(MACHINE)).unwrap();
    let image = path("lab").join(MACHINE).join("2000.vmdk");
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized"]);
    must(convert.arg(&raw).arg(&image));
    let server = Simulator::start(&path("lab"), &[BYTES], "0");
    fs::write(path("password"), "pass").unwrap();
    fs::set_permissions(path("password"), fs::Permissions::from_mode(0o600)).unwrap();
    let sites = Sites::raise(&path("sites"));
    sites.apply(&format!(
        "[policy.p]\ntimezone = \"UTC\"\nrequire = \"crash\"\n\
         [policy.p.primary]\nkeep = {{ newest = 5 }}\n\
         [policy.p.copy.secondary]\nkind = \"secondary-snap\"\nfrom = \"primary\"\n\
         node = \"proxy\"\nkeep = {{ newest = 5 }}\n\
         [workload.\"web\"]\nagent = \"host1\"\nkind = \"vsphere\"\npolicy = \"p\"\n\
         machine = \"{MACHINE}\"\nurl = \"{}\"\nuser = \"user\"\npassword_file = \"{}\"\n\
         thumbprint = \"{}\"\n",
        server.said("url"),
        text("password"),
        server.said("thumbprint"),
    ));
    sites.protect("web");
    sites.await_copy("web", "secondary", "readable");
    // The server is gone with what it had.
    drop(server);
    fs::remove_file(&image).unwrap();

    for (format, to) in [("raw", "as-raw"), ("qcow2", "as-qcow2")] {
        sites.text(&["vm", "restore", "latest:web", "--to", &text(to), "--format", format]);
        let back = path(to).join(format!("disks/scsi0-0.{format}"));
        must(
            Command::new("qemu-img")
                .args(["compare", "-F", format, "-f", "raw"])
                .arg(&raw)
                .arg(&back),
        );
        if format == "qcow2" {
            must(Command::new("qemu-img").arg("check").arg(&back));
        }
    }
    let wrong = ["vm", "restore", "latest:web", "--to", &text("none"), "--disk", "scsi0-7"];
    let refused = sites.refused(&wrong);
    assert!(refused.contains("scsi0-7") && refused.contains("scsi0-0"), "{refused}");

    let kernel = kernel().display().to_string();
    for copy in ["primary", "secondary"] {
        let words = ["vm", "prove", "latest:web", "--lab-kernel", &kernel, "--check", CHECK];
        let proved = sites.json(&[&words[..], &["--from", copy]].concat());
        assert_eq!((&proved["proved"], &proved["machine"]), (&true.into(), &MACHINE.into()));
    }
    let copies = sites.points("web").remove(0)["copies"].clone();
    assert!(copies.as_array().unwrap().iter().any(|copy| copy["proof"] == "started"), "{copies}");
    // A guest that holds something else is no proof.
    let other =
        ["vm", "prove", "latest:web", "--lab-kernel", &kernel, "--check", "test -e /mnt/vda/9"];
    let failed = sites.refused(&other);
    assert!(failed.contains("what its guest was asked failed"), "{failed}");
}
