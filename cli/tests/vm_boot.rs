//! A machine straight from its point: it answers with the data it had, is thrown away without a
//! trace, or is kept and needs nobody any more once all of it was copied while it ran.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod lab;
mod served;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lab::Sites;
use serde_json::Value;
use served::Served;
use strongroom_agent::vmlab::{
    Accel, Boot, Kernel, LabDisk, MEMORY_MIB, Machine, Setup, Writes, convert, ext4, shell,
};
use strongroom_agent::workload::vm::guest::Guest;

/// A guest without acceleration takes a few seconds; on a busy host many.
const BOOT: Duration = Duration::from_secs(180);
const MIB: u64 = 1 << 20;
/// What the guest holds, with its sums, on both of its disks.
const FILL: &str = "for d in vda vdb; do cd /mnt/$d && for n in 1 2 3 4 5 6; do dd if=/dev/urandom \
    of=$n bs=1M count=2 2>/dev/null; done && sha256sum ? > sums && sync || exit 1; done";
const CHECK: &str = "for d in vda vdb; do cd /mnt/$d && sha256sum -c -s sums || exit 1; done";

/// A machine that was protected and is gone, and the sites that have it.
struct Scene {
    sites: Sites,
    dir: tempfile::TempDir,
}

/// The kernel that guests boot, unpacked once for all tests.
fn kernel() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.ancestors().find(|dir| dir.ends_with("target")).unwrap().join("vm-kernel")
}

fn start(place: &Path, disks: Vec<LabDisk>, initrd: &Path) -> Machine {
    let image = Kernel::get(&kernel()).unwrap().image;
    let boot = Boot::Kernel { image, initrd: initrd.to_owned(), words: String::new() };
    let (writes, accel, more) = (Writes::Kept, Accel::Tcg, Vec::new());
    let setup = Setup { disks, boot, writes, memory_mib: MEMORY_MIB, accel, more };
    let mut machine = Machine::start(place, &setup).unwrap();
    machine.await_agent(BOOT).unwrap();
    machine
}

impl Scene {
    fn set() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let initrd = dir.path().join("initrd");
        Kernel::get(&kernel()).unwrap().initramfs(&initrd, &[]).unwrap();
        let disk = |name: &str, format: &str| {
            let (raw, path) = (dir.path().join("raw"), dir.path().join(name));
            ext4(&raw, 128 * MIB).unwrap();
            convert((&raw, "raw"), (&path, format)).unwrap();
            LabDisk { path, format: format.to_owned(), name: name.to_owned() }
        };
        let disks = vec![disk("vda", "qcow2"), disk("vdb", "raw")];
        let mut machine = start(&dir.path().join("m"), disks, &initrd);
        assert_eq!(machine.shell(FILL).unwrap(), (0, String::new()));
        let firmware = dir.path().join("vars.fd");
        fs::write(&firmware, b"variables").unwrap();
        let sites = Sites::raise(&dir.path().join("sites"));
        sites.apply(&format!(
            "[policy.p]\ntimezone = \"UTC\"\nrequire = \"crash\"\n\
             [policy.p.primary]\nkeep = {{ newest = 5 }}\n\
             [policy.p.copy.secondary]\nkind = \"secondary-snap\"\nfrom = \"primary\"\n\
             node = \"proxy\"\nkeep = {{ newest = 5 }}\n\
             [workload.\"web\"]\nagent = \"host1\"\nkind = \"vm\"\npolicy = \"p\"\n\
             machine = \"web\"\nqmp = \"{}\"\nguest_agent = \"{}\"\nkeep = [\"{}\"]\n",
            machine.qmp().display(),
            machine.guest_agent().display(),
            firmware.display(),
        ));
        sites.protect("web");
        sites.await_copy("web", "secondary", "readable");
        machine.kill();
        for name in ["vda", "vdb"] {
            fs::remove_file(dir.path().join(name)).unwrap();
        }
        Self { sites, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn boot(&self, dir: &str, more: &[&str]) -> Served {
        let dir = self.path(dir).display().to_string();
        let words = ["vm", "boot", "latest:web", "--dir", &dir, "--check", CHECK];
        Served::begin(&self.sites, &[&words, more].concat())
    }
}

fn in_guest(told: &Value, text: &str) -> (i64, String) {
    let socket = told["guest_agent"].as_str().unwrap();
    shell(Guest::connect(Path::new(socket)).unwrap(), text).unwrap()
}

#[test]
fn a_machine_boots_from_its_point_is_thrown_away_or_kept() {
    let mut scene = Scene::set();
    thrown_away(&scene);
    kept(&mut scene);
}

fn thrown_away(scene: &Scene) {
    let booted = scene.boot("thrown", &[]);
    let told = booted.begun.clone();
    assert_eq!(told["proved"], true, "{told}");
    let (seconds, read) = (told["booted_seconds"].as_f64(), told["read_bytes"].as_u64());
    eprintln!("answered after {seconds:?} s, {read:?} bytes read of 256 MiB");
    assert!(read.unwrap() < 64 * MIB, "as much as a restore was read: {read:?}");
    // It is the machine it was, but for the network, and what it writes stays with it.
    assert_eq!(in_guest(&told, "ls /sys/class/net"), (0, "lo\n".to_owned()));
    assert_eq!(in_guest(&told, "echo new > /mnt/vda/new && sync").0, 0);
    let again = scene.sites.refused(&[
        "vm",
        "boot",
        "latest:web",
        "--dir",
        &scene.path("thrown").display().to_string(),
    ]);
    assert!(again.contains("is not empty"), "{again}");
    assert_eq!(machines(&scene.path("thrown")), 1);
    assert_eq!(booted.ended_silently(), Some(0));
    assert!(!scene.path("thrown").exists(), "something is left");
    assert_eq!(machines(&scene.path("thrown")), 0, "the machine runs on");
    let fresh = scene.boot("fresh", &["--check", "[ ! -e /mnt/vda/new ]"]);
    assert_eq!(fresh.begun["proved"], true, "{}", fresh.begun);
    fresh.ended_silently();
}

/// Processes of machines whose sockets are below `dir`.
fn machines(dir: &Path) -> usize {
    let dir = dir.display().to_string();
    let of = |entry: fs::DirEntry| {
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).into_owned();
        words.starts_with("qemu-system") && words.contains(&dir)
    };
    fs::read_dir("/proc").unwrap().flatten().map(of).filter(|found| *found).count()
}

fn kept(scene: &mut Scene) {
    let keep = scene.path("kept");
    let to = keep.display().to_string();
    let booted = scene.boot("live", &["--from", "secondary", "--keep", &to]);
    let told = booted.begun.clone();
    assert_eq!(told["proved"], true, "{told}");
    assert_eq!(in_guest(&told, "echo before > /mnt/vda/before && sync").0, 0);
    let copied = booted.next(Duration::from_secs(120));
    assert_eq!(copied["kept"], to.as_str(), "{copied}");
    eprintln!("copied in {} s while it ran", copied["seconds"]);
    // Nobody has the point any more, and the machine goes on.
    for role in ["proxy", "coordinator", "agent"] {
        scene.sites.kill(role);
    }
    assert_eq!(in_guest(&told, CHECK), (0, String::new()));
    assert_eq!(in_guest(&told, "echo after > /mnt/vdb/after && sync").0, 0);
    assert_eq!(booted.ended_silently(), Some(0));
    assert!(!scene.path("live").exists());
    assert_eq!(fs::read(keep.join("config/vars.fd")).unwrap(), b"variables");
    let disk = |name: &str| keep.join("disks").join(format!("{name}.qcow2"));
    let disks = ["vda", "vdb"].map(|name| {
        let path = disk(name).display().to_string();
        let info =
            Command::new("qemu-img").args(["info", "--output=json", &path]).output().unwrap();
        let info: Value = serde_json::from_slice(&info.stdout).unwrap();
        assert!(info["backing-filename"].is_null(), "{info}");
        LabDisk { path: disk(name), format: "qcow2".to_owned(), name: name.to_owned() }
    });
    let mut machine = start(&scene.path("again"), disks.into(), &scene.path("initrd"));
    assert_eq!(machine.shell(CHECK).unwrap(), (0, String::new()));
    let written = machine.shell("cat /mnt/vda/before /mnt/vdb/after").unwrap();
    assert_eq!(written, (0, "before\nafter\n".to_owned()));
}
