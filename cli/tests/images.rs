//! Looking through disk images as a person does: the program that is shipped, real nodes, images
//! made by the system's own tools and written by the kernel, one of them taken in the middle of
//! its work. What is seen and restored is what the kernel shows; the process that reads them is
//! confined, and its end is an error.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod lab;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use lab::Sites;
use lab::files::{TAPE, TREE, policy};
use lab::oddities::{grow, noise, sh};
use strongroom_agent::restore::compare::compare;
use strongroom_images::Volume;
use strongroom_images::cell::{Cell, CellError, State};

/// Where the partitions of the disk lie, in MiB.
const FAT_MIB: u64 = 1;
const EXT_MIB: u64 = 41;
const SWAP_MIB: u64 = 300;

/// A file system of the kernel's, mounted for as long as the test runs.
struct Mounted(PathBuf);

impl Mounted {
    fn new(image: &str, at: PathBuf, dir: &Path) -> Self {
        fs::create_dir(&at).unwrap();
        sh(&format!("mount -o loop {image} {}", at.display()), dir);
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A disk with a GPT: FAT, ext4 as it was in the middle of its work, and swap.
fn make_disk(dir: &Path, disk: &Path) -> Mounted {
    sh("truncate -s 256M ext && mkfs.ext4 -q -b 4096 -L root ext", dir);
    let mounted = Mounted::new("ext", dir.join("mnt"), dir);
    let tree = mounted.0.join("tree");
    grow(&tree);
    fs::write(tree.join("hosts.conf"), "127.0.0.1 localhost\n").unwrap();
    sh("sync && cp --sparse=always ext crashed", dir);
    sh("truncate -s 39M fat && mkfs.vfat -F 32 -s 1 -n EFI fat", dir);
    fs::create_dir_all(dir.join("efi/boot")).unwrap();
    fs::write(dir.join("efi/boot/A longer name than eight.bin"), noise(100_000, 7)).unwrap();
    fs::write(dir.join("efi/boot/EMPTY.TXT"), "").unwrap();
    sh("mcopy -i fat -s -m efi ::efi", dir);
    let shown = disk.display();
    sh(&format!("truncate -s 320M {shown}"), dir);
    let table = format!(
        "label: gpt\nstart={FAT_MIB}MiB,size=39MiB,type=U,name=esp\n\
         start={EXT_MIB}MiB,size=256MiB,type=L,name=system\nstart={SWAP_MIB}MiB,size=16MiB,type=S\n"
    );
    fs::write(dir.join("table"), table).unwrap();
    sh(&format!("sfdisk -q {shown} <table"), dir);
    for (part, at) in [("fat", FAT_MIB), ("crashed", EXT_MIB)] {
        sh(
            &format!("dd if={part} of={shown} bs=1M seek={at} conv=notrunc,sparse status=none"),
            dir,
        );
    }
    sh("truncate -s 16M swap && mkswap -q swap 2>/dev/null", dir);
    sh(
        &format!("dd if=swap of={shown} bs=1M seek={SWAP_MIB} conv=notrunc,sparse status=none"),
        dir,
    );
    mounted
}

/// A file system whose directories contain one another, with a file that leads out, one of a size
/// that cannot be, and a good one.
fn make_hostile(dir: &Path, image: &Path) {
    fs::create_dir_all(dir.join("bad/one/two")).unwrap();
    for name in ["good", "leads-out", "huge"] {
        fs::write(dir.join("bad/one").join(name), noise(5000, 9)).unwrap();
    }
    let shown = image.display();
    sh(&format!("truncate -s 4M {shown} && mke2fs -q -t ext2 -d bad {shown}"), dir);
    let orders = "link / /one/up\nlink /one /one/two/again\nlink /one/two /one/same\n\
                  sif /one/leads-out block[0] 99999999\nsif /one/huge size 9000000000000000\n";
    fs::write(dir.join("orders"), orders).unwrap();
    sh(&format!("debugfs -w -f orders {shown} 2>&1"), dir);
}

fn differences(left: &Path, right: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let compared = compare(left, right, &mut |difference| {
        let path = difference.path.escape_ascii().to_string();
        found.push(format!("{path}: {:?} {}", difference.aspect, difference.detail));
    });
    assert!(compared.unwrap().entries > 0);
    found
}

struct Lab {
    sites: Sites,
    dir: tempfile::TempDir,
    source: PathBuf,
    mounted: Mounted,
}

impl Lab {
    fn raise() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        fs::create_dir_all(source.join("disks")).unwrap();
        // What makes a point one of a machine.
        fs::write(source.join("strongroom.json"), r#"{"disks":[{"name":"vda"}]}"#).unwrap();
        let mounted = make_disk(dir.path(), &source.join("disks/vda.raw"));
        fs::write(source.join("noise.img"), noise(3_000_000, 5)).unwrap();
        make_hostile(dir.path(), &source.join("hostile.img"));
        let sites = Sites::raise(&dir.path().join("sites"));
        sites.apply(&policy(&source, TAPE));
        sites.protect(TREE);
        Self { sites, dir, source, mounted }
    }

    fn tree(&self) -> PathBuf {
        self.mounted.0.join("tree")
    }

    fn at(path: &str) -> String {
        format!("latest:{TREE}:{path}")
    }
}

#[test]
fn what_lies_in_an_image_is_seen_found_and_restored_from_every_copy() {
    let mut lab = Lab::raise();
    listed(&lab);
    dumped(&lab);
    found(&lab);
    refused(&lab);
    hostile(&lab);
    let back = lab.dir.path().join("back");
    let to = back.display().to_string();
    let at = Lab::at("disks/vda//p2/tree");
    let told = lab.sites.text(&["restore", &at, "--to", &to]);
    assert!(told.contains("restored "), "{told}");
    assert_eq!(differences(&lab.tree(), &back), Vec::<String>::new());
    let fat = lab.dir.path().join("fat-back");
    let output =
        lab.sites.run(&["restore", &Lab::at("disks/vda.raw//p1"), "--to", fat.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("keeps no owners and modes"), "{said}");
    sh(&format!("diff -r efi {}/efi", fat.display()), lab.dir.path());
    let point = lab.sites.await_copy(TREE, "tape", "hash-verified");
    lab.sites.kill("agent");
    lab.sites.kill("coordinator");
    let far = lab.dir.path().join("far").display().to_string();
    let at = format!("{point}:disks/vda//p2/tree/deep");
    lab.sites.text(&["restore", &at, "--to", &far, "--from", "secondary"]);
    assert_eq!(differences(&lab.tree().join("deep"), Path::new(&far)), Vec::<String>::new());
    lab.sites.kill("proxy");
    let library = lab.sites.dir.join("b/proxy/library").display().to_string();
    let key = lab.sites.dir.join("recovery-key").display().to_string();
    let kept = lab.dir.path().join("kept").display().to_string();
    let words = ["--media", &library, "--recovery-key-file", &key];
    lab.sites.text(&[&["restore", at.as_str(), "--to", &kept][..], &words].concat());
    assert_eq!(differences(&lab.tree().join("deep"), Path::new(&kept)), Vec::<String>::new());
    assert!(!lab.dir.path().join(".strongroom-staging-kept").exists(), "what was brought goes");
}

fn listed(lab: &Lab) {
    let output = lab.sites.run(&["ls", &Lab::at("disks/vda.raw//")]);
    let (lines, said) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    for wanted in ["fat32 \"EFI\"", "(EFI system, \"esp\")", "ext4 \"root\"", "swap, which is not"]
    {
        assert!(lines.contains(wanted), "{wanted}: {lines}");
    }
    assert!(said.contains("its journal is read as if it were replayed"), "{said}");
    let lines = lab.sites.text(&["ls", "-R", &Lab::at("disks/vda.raw//p2/tree/deep")]);
    let wanted = sh("find deep -mindepth 1 | wc -l", &lab.tree());
    assert_eq!(lines.lines().count().to_string(), wanted.trim());
    let noise = lab.sites.text(&["ls", &Lab::at("noise.img//")]);
    assert!(noise.contains("nothing that is known"), "{noise}");
}

fn dumped(lab: &Lab) {
    let output = lab.sites.run(&["dump", &Lab::at("disks/vda//p2/tree/large")]);
    assert!(output.stdout == noise(9_000_000, 3), "{}", String::from_utf8_lossy(&output.stderr));
    let output = lab.sites.run(&["dump", &Lab::at("disks/vda//p2/tree/many")]);
    assert!(output.status.success());
    let tar = lab.dir.path().join("many.tar");
    fs::write(&tar, output.stdout).unwrap();
    let source = lab.tree().join("many");
    sh(&format!("tar -df {} -C {}", tar.display(), source.display()), lab.dir.path());
}

fn found(lab: &Lab) {
    let lines = lab.sites.text(&["find", "hosts.conf"]);
    assert!(lines.contains("disks/vda.raw//p2/tree/hosts.conf"), "{lines}");
    let lines = lab.sites.text(&["find", "/efi/**/*.bin"]);
    assert!(lines.contains("disks/vda.raw//p1/efi/boot/A longer name than eight.bin"), "{lines}");
}

fn refused(lab: &Lab) {
    let cases: [(&[&str], &str); 6] = [
        (&["dump", "disks/vda.raw//"], "is a disk: name a partition"),
        (&["ls", "disks/vda.raw//p9"], "has no partition 9"),
        (&["ls", "disks/vda.raw//p3"], "swap, which is not read"),
        (&["ls", "disks/vda.raw//p2/nothing/here"], "has no /nothing/here"),
        (&["ls", "disks/none//p1"], "has no /disks/none"),
        (&["ls", "noise.img//p1"], "nothing that is known"),
    ];
    for (words, wanted) in cases {
        let [verb, path] = words else { continue };
        let said = lab.sites.refused(&[verb, &Lab::at(path)]);
        assert!(said.contains(wanted), "{path}: {said}");
    }
    // Two slashes in a path of directories mean what they always did.
    lab.sites.text(&["ls", &Lab::at("disks//vda.raw")]);
    let at = Lab::at("disks/vda//p2");
    let said = lab.sites.refused(&["restore", &at, "--on", "host1:/tmp/nowhere"]);
    assert!(said.contains("restored on this host"), "{said}");
    assert!(lab.source.join("noise.img").exists());
}

/// What is hostile or damaged costs itself, and every walk ends.
fn hostile(lab: &Lab) {
    let output = lab.sites.run(&["ls", "-R", &Lab::at("hostile.img//p1/one")]);
    let (lines, said) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(lines.lines().count() < 10 && lines.contains("good"), "{lines}");
    assert!(said.contains("was met elsewhere already"), "{said}");
    let to = lab.dir.path().join("of-hostile");
    let output =
        lab.sites.run(&["restore", &Lab::at("hostile.img//p1/one"), "--to", to.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    for wanted in
        ["not restored: /leads-out: ", "there is no block 99999999", "not restored: /huge"]
    {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    assert!(fs::read(to.join("good")).unwrap() == noise(5000, 9));
    assert!(!to.join("leads-out").exists());
}

/// A volume that is a file.
struct OnDisk(fs::File, u64);

impl Volume for OnDisk {
    fn bytes(&self) -> u64 {
        self.1
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<(), strongroom_images::VolumeError> {
        let read = self.0.read_exact_at(into, at);
        read.map_err(|source| strongroom_images::VolumeError::Read { at, source })
    }
}

fn cell(image: &Path, command: impl Fn() -> Command + Send + Sync + 'static) -> Cell {
    let file = fs::File::open(image).unwrap();
    let bytes = file.metadata().unwrap().len();
    Cell::new(Arc::new(OnDisk(file, bytes)), command)
}

#[test]
fn the_process_that_reads_has_nothing_and_its_end_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("src")).unwrap();
    fs::write(dir.path().join("src/file"), "bytes").unwrap();
    sh("truncate -s 8M image && mke2fs -q -t ext4 -d src image", dir.path());
    let image = dir.path().join("image");
    let ours = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom"));
        command.arg("image-cell");
        command
    };
    let asked = cell(&image, ours);
    let survey = asked.survey().unwrap();
    let State::Read { root, .. } = survey.partitions[0].state.clone() else { panic!("{survey:?}") };
    let process = asked.process().unwrap();
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    for wanted in ["Seccomp:\t2", "NoNewPrivs:\t1", "Threads:\t1"] {
        assert!(status.contains(wanted), "{wanted}: {status}");
    }
    let open = sh(&format!("cd /proc/{process}/fd; readlink 0 1 2"), dir.path());
    let open: Vec<&str> = open.lines().collect();
    assert!(open[0].starts_with("socket:"), "{open:?}");
    assert_eq!(open[1..], ["/dev/null"; 2]);
    let environment = fs::read(format!("/proc/{process}/environ")).unwrap();
    assert!(environment.is_empty(), "{environment:?}");
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    assert!(limits.lines().any(|l| l.starts_with("Max address space") && l.contains("1073741824")));
    sh(&format!("kill -9 {process}"), dir.path());
    let ended = asked.list(0, root).unwrap_err();
    assert!(ended.to_string().contains("ended while it was asked for the names"), "{ended}");
    let listing = asked.list(0, root).unwrap();
    assert!(listing.things.iter().any(|thing| thing.name == b"file"), "a fresh one answers");
    let process = asked.process().unwrap();
    drop(asked);
    assert!(!Path::new(&format!("/proc/{process}")).exists(), "it goes with who asked");
    for (line, wanted) in [("exit 3", "ended"), ("printf '\\377\\377\\377\\377' >&0", "ended")] {
        let nonsense = cell(&image, move || {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", line]);
            command
        });
        let failed = nonsense.survey().unwrap_err();
        assert!(matches!(failed, CellError::Ended { .. }), "{line}: {failed}");
        assert!(failed.to_string().contains(wanted), "{failed}");
    }
}
