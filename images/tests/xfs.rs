//! XFS made by mkfs.xfs and filled through the kernel, read by us and compared with what the
//! kernel says; `xfs_db` says that every form a structure may have is there.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod judge;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use judge::{Image, Mounted, content, find, mounted, must, noise, ours, same};
use strongroom_images::{FileSystem as _, Problem, Xfs};

/// The kernel shows rights twice; we show them as rights.
const SHOWN_TWICE: &[&str] = &["trusted.SGI_ACL_FILE", "trusted.SGI_ACL_DEFAULT"];

fn made(folder: &Path, options: &[&str]) -> PathBuf {
    let image = folder.join("image");
    File::create(&image).unwrap().set_len(400 << 20).unwrap();
    must(
        "mkfs.xfs",
        &[options, &["-q", "-f", "-L", "twelve chars", image.to_str().unwrap()]].concat(),
    );
    image
}

fn mount(image: &Path, folder: &Path, how: &str) -> Mounted {
    let arguments = ["-t", "xfs", "-o", how, image.to_str().unwrap()];
    Mounted::new("mount", &arguments, &folder.join("mnt"))
}

fn directories(root: &Path) {
    for (name, count) in [("tiny", 3), ("short", 5), ("block", 30), ("leaf", 400), ("node", 10_000)]
    {
        let folder = root.join(name);
        fs::create_dir(&folder).unwrap();
        for index in 0..count {
            fs::write(folder.join(format!("a name of some length {index}")), name).unwrap();
        }
        // Free places between names.
        for index in (0..count).step_by(3) {
            fs::remove_file(folder.join(format!("a name of some length {index}"))).unwrap();
        }
    }
    fs::write(root.join("short").join("n".repeat(255)), b"long").unwrap();
}

fn files(root: &Path) {
    fs::write(root.join("empty"), b"").unwrap();
    fs::write(root.join("one"), b"1").unwrap();
    fs::write(root.join("long"), noise(1, 3 << 20)).unwrap();
    fs::hard_link(root.join("one"), root.join("another name of one")).unwrap();
    // Every second block: a tree of extents.
    let sparse = File::create(root.join("many extents")).unwrap();
    for index in 0..4000_u64 {
        sparse.write_all_at(&noise(index, 700), index * 8192 + 100).unwrap();
    }
    sparse.set_len(40 << 20).unwrap();
    let unwritten = File::create(root.join("unwritten")).unwrap();
    let flags = rustix::fs::FallocateFlags::empty();
    rustix::fs::fallocate(&unwritten, flags, 0, 1 << 20).unwrap();
    unwritten.write_all_at(b"written", 300_000).unwrap();
    fs::write(root.join("old"), b"").unwrap();
    must("touch", &["-d", "1955-11-05 01:02:03.25 UTC", root.join("old").to_str().unwrap()]);
}

fn nodes(root: &Path) {
    symlink("one", root.join("link")).unwrap();
    symlink("t/".repeat(510), root.join("long link")).unwrap();
    let path = |name: &str| root.join(name).to_str().unwrap().to_owned();
    must("mknod", &[&path("block device"), "b", "259", "70000"]);
    must("mknod", &[&path("character device"), "c", "1", "3"]);
    must("mkfifo", &["-m", "0711", &path("fifo")]);
    drop(UnixListener::bind(root.join("socket")).unwrap());
    must("chown", &["70000:80000", &path("one")]);
    must("chmod", &["6640", &path("one")]);
}

fn attributes(root: &Path) {
    let set = |name: &str, count: usize, bytes: usize| {
        let path = root.join(name);
        fs::write(&path, b"").unwrap();
        for index in 0..count {
            let key = format!("user.attribute {index}");
            let value = noise(index as u64, bytes);
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::lsetxattr(&path, key, &value, flags).unwrap();
        }
        path
    };
    set("attributes short", 2, 8);
    set("attributes leaf", 12, 90);
    set("attributes node", 300, 90);
    // What is written between them keeps their extents apart.
    let far = set("attributes far", 0, 0);
    for index in 0..250 {
        let (key, value) = (format!("user.{index}"), noise(index, 5_000 + index as usize * 8));
        rustix::fs::lsetxattr(&far, key, &value, rustix::fs::XattrFlags::empty()).unwrap();
        let between = File::create(root.join(format!("between {index}"))).unwrap();
        between.write_all_at(b"between", 0).unwrap();
        between.sync_all().unwrap();
    }
    let rights = set("rights", 1, 5);
    must("setfacl", &["-m", "u:1234:rw,g:99:r", rights.to_str().unwrap()]);
    must("setfacl", &["-d", "-m", "u:1234:rx", root.join("short").to_str().unwrap()]);
    must("setfattr", &["-n", "trusted.ours", "-v", "yes", rights.to_str().unwrap()]);
    must("setfattr", &["-n", "security.ours", "-v", "no", rights.to_str().unwrap()]);
}

/// Fills an XFS, reads it, and compares. Gives the image and the inodes by name.
fn compare(options: &[&str]) -> (tempfile::TempDir, PathBuf, impl Fn(&str) -> u64) {
    let folder = tempfile::tempdir().unwrap();
    let image = made(folder.path(), options);
    let place = mount(&image, folder.path(), "loop");
    directories(&place.0);
    files(&place.0);
    nodes(&place.0);
    attributes(&place.0);
    place.end();
    let system = Xfs::open(Image::open(&image)).unwrap();
    assert_eq!(system.warnings(), Vec::<String>::new());
    assert_eq!(system.label().as_deref(), Some("twelve chars"));
    let written = system.data(find(&system, "unwritten"), 0).unwrap().unwrap();
    assert!(written.contains(&300_000) && written.end - written.start <= 65536, "{written:?}");
    let ours = ours(&system);
    let place = mount(&image, folder.path(), "loop,ro");
    let theirs = mounted(&place.0, SHOWN_TWICE);
    let inodes: std::collections::BTreeMap<_, _> = fs::read_dir(&place.0)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().ino()))
        .collect();
    place.end();
    assert!(theirs.len() > 6900, "{} nodes", theirs.len());
    same(&ours, &theirs);
    (folder, image, move |name| inodes[name])
}

/// What `xfs_db` prints of an inode.
fn field(image: &Path, inode: u64, print: &str) -> String {
    let (seek, print) = (format!("inode {inode}"), format!("print {print}"));
    let said = must("xfs_db", &["-r", "-c", &seek, "-c", &print, image.to_str().unwrap()]);
    said.trim().rsplit(" = ").next().unwrap_or_default().to_owned()
}

#[test]
fn version_5_is_read_as_the_kernel_reads_it() {
    let (_folder, image, inode) = compare(&[]);
    assert_eq!(field(&image, inode("tiny"), "core.format"), "1 (local)");
    assert_eq!(field(&image, inode("leaf"), "core.format"), "2 (extents)");
    assert_eq!(field(&image, inode("many extents"), "core.format"), "3 (btree)");
    assert_eq!(field(&image, inode("link"), "core.format"), "1 (local)");
    assert_eq!(field(&image, inode("long link"), "core.format"), "2 (extents)");
    assert_eq!(field(&image, inode("attributes short"), "core.aformat"), "1 (local)");
    assert_eq!(field(&image, inode("attributes leaf"), "core.aformat"), "2 (extents)");
    assert_ne!(field(&image, inode("attributes node"), "core.aformat"), "1 (local)");
    must("xfs_repair", &["-n", image.to_str().unwrap()]);
}

#[test]
fn wide_counters_and_large_blocks_of_directories_are_read() {
    let (_folder, image, inode) = compare(&["-i", "nrext64=1,size=1024", "-n", "size=16384"]);
    assert_eq!(field(&image, inode("many extents"), "v3.nrext64"), "1");
}

#[test]
fn the_smallest_blocks_are_read() {
    let (_folder, image, inode) = compare(&["-b", "size=1024", "-i", "size=512"]);
    assert_eq!(field(&image, inode("many extents"), "core.format"), "3 (btree)");
    // A tree of extents as a rule: where the kernel puts them is its own affair.
    assert_ne!(field(&image, inode("attributes far"), "core.aformat"), "1 (local)");
}

/// Version 4 is not mounted by the kernels of today: mkfs.xfs itself fills it from a list, and
/// `xfs_db` gives attributes.
#[test]
fn version_4_is_read_as_it_was_made() {
    version_4(&["-m", "crc=0,finobt=0", "-n", "ftype=0"], "3 (btree)");
    let small = ["-m", "crc=0", "-b", "size=512", "-n", "size=4096,ftype=1", "-i", "size=256"];
    version_4(&small, "3 (btree)");
    version_4(&["-m", "crc=0", "-i", "size=2048", "-n", "size=8192"], "2 (extents)");
}

fn version_4(options: &[&str], form: &str) {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("long"), noise(1, 3 << 20)).unwrap();
    fs::write(source.join("empty"), b"").unwrap();
    symlink("long", source.join("link")).unwrap();
    symlink("t/".repeat(510), source.join("long-link")).unwrap();
    let fifo = source.join("fifo");
    must("mkfifo", &["-m", "0711", fifo.to_str().unwrap()]);
    let mut list = "/\n1 1\nd--755 0 0\n".to_owned();
    for (name, count) in [("short", 3), ("block", 15), ("leaf", 400), ("node", 10_000)] {
        fs::create_dir(source.join(name)).unwrap();
        for index in 0..count {
            fs::write(source.join(name).join(format!("name-{index:020}")), name).unwrap();
        }
    }
    listed(&source, &mut list);
    let prototype = folder.path().join("prototype");
    fs::write(&prototype, list).unwrap();
    let image = made(folder.path(), &[&["-p", prototype.to_str().unwrap()], options].concat());
    let system = Xfs::open(Image::open(&image)).unwrap();
    let node = find(&system, "node").0;
    assert_eq!(field(&image, node, "core.version"), "2");
    assert_eq!(field(&image, node, "core.format"), form);
    for (count, bytes) in [(2, 8), (12, 90), (300, 90), (3, 20_000)] {
        given(&image, find(&system, "empty").0, count, bytes);
        let system = Xfs::open(Image::open(&image)).unwrap();
        let pairs = system.extended(find(&system, "empty")).unwrap();
        let ours = pairs.iter().filter(|(name, value)| {
            name.starts_with(format!("user.of-{bytes}-").as_bytes())
                && value.len() == bytes
                && value.iter().all(|byte| *byte == b'v')
        });
        assert_eq!(ours.count(), count, "attributes of {bytes} bytes");
    }
    let system = Xfs::open(Image::open(&image)).unwrap();
    let (mut ours, mut theirs) = (ours(&system), mounted(&source, &[]));
    for said in ours.values_mut().chain(theirs.values_mut()) {
        // The list says neither, and attributes were compared above.
        said.modified = None;
        said.extended.clear();
    }
    theirs.get_mut(&b""[..]).unwrap().mode = Some(0o755);
    same(&ours, &theirs);
}

/// A folder as mkfs.xfs takes it.
fn listed(folder: &Path, list: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
        let mode = fs::symlink_metadata(&path).unwrap().mode() & 0o777;
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            list.push_str(&format!("{name} d--{mode:o} 0 0\n"));
            listed(&path, list);
        } else if kind.is_symlink() {
            let target = fs::read_link(&path).unwrap();
            list.push_str(&format!("{name} l--{mode:o} 0 0 {}\n", target.to_str().unwrap()));
        } else if kind.is_file() {
            list.push_str(&format!("{name} ---{mode:o} 0 0 {}\n", path.to_str().unwrap()));
        } else {
            list.push_str(&format!("{name} p--{mode:o} 0 0\n"));
        }
    }
    list.push_str("$\n");
}

/// Gives an inode attributes without a kernel.
fn given(image: &Path, inode: u64, count: usize, bytes: usize) {
    let seek = format!("inode {inode}");
    let mut arguments = vec!["-x".to_owned(), "-c".to_owned(), seek];
    for index in 0..count {
        arguments.push("-c".to_owned());
        arguments.push(format!("attr_set -u -v {bytes} of-{bytes}-{index}"));
    }
    arguments.push(image.to_str().unwrap().to_owned());
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    must("xfs_db", &arguments);
}

#[test]
fn shared_extents_are_read_as_any() {
    let folder = tempfile::tempdir().unwrap();
    let image = made(folder.path(), &["-m", "reflink=1"]);
    let place = mount(&image, folder.path(), "loop");
    let (first, second) = (place.0.join("first"), place.0.join("second"));
    fs::write(&first, noise(5, 1 << 20)).unwrap();
    must("cp", &["--reflink=always", first.to_str().unwrap(), second.to_str().unwrap()]);
    let file = OpenOptions::new().write(true).open(&second).unwrap();
    file.write_all_at(b"changed since", 500_000).unwrap();
    drop(file);
    place.end();
    let system = Xfs::open(Image::open(&image)).unwrap();
    let first = content(&system, find(&system, "first"), 1 << 20).unwrap();
    let second = content(&system, find(&system, "second"), 1 << 20).unwrap();
    assert_eq!(first, noise(5, 1 << 20));
    assert_eq!((&second[..500_000], &second[500_013..]), (&first[..500_000], &first[500_013..]));
    assert_eq!(&second[500_000..500_013], b"changed since");
}

#[test]
fn a_log_that_a_mount_would_replay_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let image = made(folder.path(), &[]);
    let place = mount(&image, folder.path(), "loop");
    // Several rounds through the log.
    for index in 0..20_000 {
        fs::write(place.0.join(format!("{index}")), b"").unwrap();
    }
    must("sync", &[]);
    fs::write(place.0.join("last"), b"words").unwrap();
    File::open(place.0.join("last")).unwrap().sync_all().unwrap();
    let copy = folder.path().join("copy");
    must("cp", &["--sparse=always", image.to_str().unwrap(), copy.to_str().unwrap()]);
    let torn = Xfs::open(Image::open(&copy)).unwrap();
    assert!(torn.warnings().concat().contains("would replay"), "{:?}", torn.warnings());
    place.end();
    let whole = Xfs::open(Image::open(&image)).unwrap();
    assert_eq!(whole.warnings(), Vec::<String>::new());
    mount(&copy, folder.path(), "loop,nouuid").end();
    let replayed = Xfs::open(Image::open(&copy)).unwrap();
    assert_eq!(replayed.warnings(), Vec::<String>::new());
}

#[test]
fn damage_is_named_and_hides_only_its_own_names() {
    let folder = tempfile::tempdir().unwrap();
    let image = made(folder.path(), &[]);
    let place = mount(&image, folder.path(), "loop");
    directories(&place.0);
    place.end();
    let system = Xfs::open(Image::open(&image)).unwrap();
    let node = find(&system, "node");
    let mut whole = 0;
    system
        .list(node, &mut |_| {
            whole += 1;
            true
        })
        .unwrap();
    let (seek, file) = (format!("inode {}", node.0), image.to_str().unwrap());
    let commands = ["-c", seek.as_str(), "-c", "dblock 5", "-c", "daddr"];
    let said = must("xfs_db", &[&["-r"][..], &commands, &[file]].concat());
    let sector = said.trim().rsplit(' ').next().unwrap().parse::<u64>().unwrap();
    let hurt = |at: u64| {
        let file = OpenOptions::new().read(true).write(true).open(&image).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    };
    hurt(sector * 512 + 1000);
    let mut left = 0;
    let problem = system
        .list(node, &mut |_| {
            left += 1;
            true
        })
        .unwrap_err();
    let wanted = format!("a block of a directory at byte {} is damaged", sector * 512 + 4);
    assert!(problem.to_string().starts_with(&wanted), "{problem}");
    assert!(left < whole && left > whole - 200, "{left} of {whole}");
    hurt(200);
    let problem = Xfs::open(Image::open(&image)).err().unwrap();
    assert!(matches!(problem, Problem::Damaged { at: 224, .. }), "{problem}");
}

#[test]
fn what_is_not_read_is_said_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let image = made(folder.path(), &["-m", "crc=0", "-n", "ftype=0"]);
    let file = OpenOptions::new().write(true).open(&image).unwrap();
    file.write_all_at(&[0xb4, 0xa3], 100).unwrap();
    let problem = Xfs::open(Image::open(&image)).err().unwrap();
    assert_eq!(problem.to_string(), "XFS of version 3 is not read");
    file.write_all_at(b"XFSC", 0).unwrap();
    let problem = Xfs::open(Image::open(&image)).err().unwrap();
    assert!(problem.to_string().contains("does not begin with XFSB"), "{problem}");
}
