//! A machine that a real libvirt runs, by the verbs of a person: listed, protected, lost with its
//! disk and definition, restored and defined again, as another machine and as the same.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../../agent/tests/libvirt_parts/daemon.rs"]
mod daemon;
mod lab;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use daemon::Daemon;
use lab::Sites;
use serde_json::{Value, json};
use strongroom_agent::vmlab::{Kernel, MEMORY_MIB, convert, ext4};

/// A guest without acceleration takes a few seconds; on a busy host many.
const BOOT: Duration = Duration::from_secs(180);
const LOOK: Duration = Duration::from_millis(100);
const FILL: &str = "cd /mnt/vda && dd if=/dev/urandom of=data bs=1M count=4 2>/dev/null && \
    sha256sum data > sums && sync";
const CHECK: &str = "cd /mnt/vda && sha256sum -c -s sums";

/// Makes what the machine is started with, for a QEMU that is another user's; its definition.
fn grow(dir: &Path) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let target = own.ancestors().find(|dir| dir.ends_with("target")).unwrap();
    let kernel = Kernel::get(&target.join("vm-kernel")).unwrap();
    fs::copy(&kernel.image, dir.join("vmlinuz")).unwrap();
    kernel.initramfs(&dir.join("initrd"), &[]).unwrap();
    for name in ["vmlinuz", "initrd"] {
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o644)).unwrap();
    }
    ext4(&dir.join("raw"), 64 << 20).unwrap();
    convert((&dir.join("raw"), "raw"), (&dir.join("vda.qcow2"), "qcow2")).unwrap();
    let at = dir.display();
    let text = format!(
        "<domain type='qemu'><name>web</name><memory unit='MiB'>{MEMORY_MIB}</memory>\
         <vcpu>1</vcpu><os><type arch='x86_64' machine='pc'>hvm</type>\
         <kernel>{at}/vmlinuz</kernel><initrd>{at}/initrd</initrd>\
         <cmdline>console=ttyS0 quiet panic=-1 no_timer_check</cmdline></os>\
         <features><acpi/></features><cpu mode='maximum'/><devices>\
         <disk type='file' device='disk'><driver name='qemu' type='qcow2'/>\
         <source file='{at}/vda.qcow2'/><target dev='vda' bus='virtio'/></disk>\
         <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
         <controller type='usb' model='none'/><memballoon model='none'/></devices></domain>"
    );
    let definition = dir.join("web.xml");
    fs::write(&definition, text).unwrap();
    definition
}

/// Starts a machine and waits for its guest agent.
fn boot(libvirt: &Daemon, machine: &str) {
    libvirt.virsh(&["start", machine]);
    let until = Instant::now() + BOOT;
    while let Err(error) = libvirt.try_virsh(&["guestinfo", machine, "--os"]) {
        assert!(Instant::now() < until, "{error}");
        std::thread::sleep(LOOK);
    }
}

/// Runs something in a guest; its exit code.
fn shell(libvirt: &Daemon, machine: &str, text: &str) -> i64 {
    let ask = |order: Value| -> Value {
        let said = libvirt.virsh(&["qemu-agent-command", machine, &order.to_string()]);
        serde_json::from_str(&said).unwrap()
    };
    let arguments = json!({ "path": "/bin/sh", "arg": ["-c", text] });
    let begun = ask(json!({ "execute": "guest-exec", "arguments": arguments }));
    let arguments = json!({ "pid": begun["return"]["pid"] });
    let until = Instant::now() + BOOT;
    loop {
        let status = ask(json!({ "execute": "guest-exec-status", "arguments": arguments }));
        if status["return"]["exited"] == true {
            return status["return"]["exitcode"].as_i64().unwrap();
        }
        assert!(Instant::now() < until, "{text}");
        std::thread::sleep(LOOK);
    }
}

fn policy(uri: &str, scratch: &Path) -> String {
    format!(
        "[policy.p]\ntimezone = \"UTC\"\nrequire = \"filesystem\"\n\
         primary.keep = {{ newest = 5 }}\n\
         [workload.\"web\"]\nagent = \"host1\"\nkind = \"vm\"\npolicy = \"p\"\n\
         machine = \"web\"\nlibvirt = \"{uri}\"\nscratch = \"{}\"\n",
        scratch.display()
    )
}

#[test]
fn a_machine_of_libvirt_comes_back_as_another_and_as_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let cache = std::env::current_exe().unwrap();
    let cache = cache.ancestors().find(|dir| dir.ends_with("target")).unwrap();
    let libvirt = Daemon::start(dir.path(), &cache.join("libvirt-cache"));
    let definition = grow(dir.path());
    libvirt.virsh(&["define", &definition.to_string_lossy()]);
    boot(&libvirt, "web");
    assert_eq!(shell(&libvirt, "web", FILL), 0);
    let sites = Sites::raise(&dir.path().join("sites"));
    sites.apply(&policy(libvirt.uri(), &dir.path().join("scratch")));
    let shown = sites.text(&["vm", "list", "--libvirt", libvirt.uri()]);
    assert!(shown.contains("web") && shown.contains("vda"), "{shown}");
    sites.protect("web");
    let point = sites.points("web").remove(0);
    assert_eq!(point["consistency"], "filesystem", "{point}");

    let uuid = libvirt.virsh(&["domuuid", "web"]);
    libvirt.virsh(&["destroy", "web"]);
    libvirt.virsh(&["undefine", "web", "--checkpoints-metadata"]);
    fs::remove_file(dir.path().join("vda.qcow2")).unwrap();
    let restore = |to: &str, name: &str| {
        let to = dir.path().join(to).display().to_string();
        let words = ["vm", "restore", "latest:web", "--to", &to, "--format", "qcow2"];
        sites.run(&[&words[..], &["--define", name, "--libvirt", libvirt.uri()]].concat())
    };
    for (to, name) in [("another", "web2"), ("same", "web")] {
        let output = restore(to, name);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        boot(&libvirt, name);
        assert_eq!(shell(&libvirt, name, CHECK), 0, "{name}");
        assert_eq!(libvirt.virsh(&["domuuid", name]) == uuid, name == "web");
        libvirt.virsh(&["destroy", name]);
    }
    let output = restore("once-more", "web2");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("web2"), "{said}");
    // Defined again, it is protected as before.
    boot(&libvirt, "web");
    sites.protect("web");
    assert_eq!(sites.points("web").len(), 2);
}
