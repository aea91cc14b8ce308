//! A machine that is gone, drilled at the other site: it boots straight from the point there,
//! without a network, and its guest answers; or it does not, which is told of the copy.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod lab;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::Sites;
use serde_json::Value;
use strongroom_agent::vmlab::{
    Accel, Boot, Kernel, LabDisk, MEMORY_MIB, Machine, Setup, Writes, ext4,
};

/// A guest without acceleration takes a few seconds; on a busy host many.
const BOOT: Duration = Duration::from_secs(180);
const FILL: &str = "cd /mnt/vda && dd if=/dev/urandom of=data bs=1M count=4 2>/dev/null && \
    sha256sum data > sums && sync";
const CHECK: &str = "cd /mnt/vda && sha256sum -c -s sums && [ \\\"$(ls /sys/class/net)\\\" = lo ]";

fn kernel() -> Kernel {
    let own = std::env::current_exe().unwrap();
    let target = own.ancestors().find(|dir| dir.ends_with("target")).unwrap();
    Kernel::get(&target.join("vm-kernel")).unwrap()
}

/// The policy of the machine, with what its drill is to ask.
fn policy(machine: &Machine, initrd: &Path, asked: &str) -> String {
    let (image, initrd) = (kernel().image, initrd.display());
    format!(
        "[policy.p]\ntimezone = \"UTC\"\nrequire = \"crash\"\nprimary.keep = {{ newest = 5 }}\n\
         [policy.p.copy.secondary]\nkind = \"secondary-snap\"\nfrom = \"primary\"\n\
         node = \"proxy\"\nkeep = {{ newest = 5 }}\n\
         drill = {{ schedule = \"every 300d\", age = \"300d\", recovery = \"1s\" }}\n\
         [workload.\"web\"]\nagent = \"host1\"\nkind = \"vm\"\npolicy = \"p\"\n\
         machine = \"web\"\nqmp = \"{}\"\nguest_agent = \"{}\"\n\
         [workload.\"web\".drill]\nboot_kernel = \"{}\"\nboot_initrd = \"{initrd}\"\n{asked}\n",
        machine.qmp().display(),
        machine.guest_agent().display(),
        image.display(),
    )
}

fn drilled(sites: &Sites) -> Value {
    let output = sites.run(&["--json", "--site", "a", "drill", "run", "web"]);
    let said = String::from_utf8_lossy(&output.stderr);
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"));
    rows[0].clone()
}

fn made(dir: &Path, initrd: &Path) -> (Machine, PathBuf) {
    let path = dir.join("vda");
    ext4(&path, 64 << 20).unwrap();
    let disk = LabDisk { path: path.clone(), format: "raw".to_owned(), name: "vda".to_owned() };
    let boot =
        Boot::Kernel { image: kernel().image, initrd: initrd.to_owned(), words: String::new() };
    let (writes, accel, more) = (Writes::Kept, Accel::Tcg, Vec::new());
    let setup = Setup { disks: vec![disk], boot, writes, memory_mib: MEMORY_MIB, accel, more };
    let mut machine = Machine::start(&dir.join("m"), &setup).unwrap();
    machine.await_agent(BOOT).unwrap();
    assert_eq!(machine.shell(FILL).unwrap(), (0, String::new()));
    (machine, path)
}

#[test]
fn a_machine_boots_at_the_proxy_from_its_point_and_answers_or_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let initrd = dir.path().join("initrd");
    kernel().initramfs(&initrd, &[]).unwrap();
    let (machine, disk) = made(dir.path(), &initrd);
    let sites = Sites::raise(&dir.path().join("sites"));
    let check = format!("check = \"{CHECK}\"\npatience = \"180s\"");
    sites.apply(&policy(&machine, &initrd, &check));
    sites.protect("web");
    sites.await_copy("web", "secondary", "readable");
    let others = [
        ("check = \"[ -e /mnt/vda/nothing ]\"\npatience = \"180s\"", "/mnt/vda/nothing"),
        ("patience = \"5s\"\nboot_append = \"rdinit=/nowhere\"", ""),
    ];
    let others = others.map(|(asked, said)| (policy(&machine, &initrd, asked), said));
    machine.kill();
    fs::remove_file(disk).unwrap();

    let row = drilled(&sites);
    assert_eq!(row["verdict"], "held", "{row}");
    assert_eq!(row["level"], "started", "{row}");
    assert!(row["recovery_ms"].as_u64().unwrap() > 1000, "{row}");
    let status = sites.run(&["--json", "--site", "a", "status"]);
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.contains("web owes a recovery within 1s"), "{status}");
    for (policy, said) in others {
        sites.apply(&policy);
        let row = drilled(&sites);
        assert_eq!(row["verdict"], "failed", "{row}");
        assert!(row["detail"].as_str().unwrap().contains(said), "{row}");
        let point = sites.points("web").remove(0);
        let copies = point["copies"].as_array().unwrap().clone();
        let row = copies.iter().find(|row| row["copy"] == "secondary").unwrap();
        assert_eq!(row["state"], "suspect", "{row}");
    }
    let left = fs::read_dir(dir.path().join("sites/b/proxy/drills")).unwrap().count();
    assert_eq!(left, 0, "a drill left something");
}
