//! The images that the fuzz targets of file systems begin with: small, real, with every form of
//! their structures. Here they are read whole, so that a mutation starts from something that is
//! understood. `STRONGROOM_FUZZ_IMAGES=write` makes them anew, as root.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::Path;
use std::process::Command;

use strongroom_tests::fuzzing::{
    Walked, ntfs_image, ntfs_walked, pack_image, xfs_image, xfs_walked,
};
use strongroom_tests::seeded::Seeded;
use strongroom_tests::source;

/// What may be committed for one image, in bytes.
const PACKED_BYTES_MAX: usize = 100 << 10;

fn is_to_be_written() -> bool {
    std::env::var("STRONGROOM_FUZZ_IMAGES").as_deref() == Ok("write")
}

fn run(line: &str, folder: &Path) {
    let mut command = Command::new("sh");
    let output = command.args(["-ec", line]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

fn written(name: &str, folder: &Path, lighten: fn(&mut [u8])) {
    let mut image = fs::read(folder.join("image")).unwrap();
    lighten(&mut image);
    let packed = pack_image(&image).unwrap();
    assert!(packed.len() < PACKED_BYTES_MAX, "{name}: {} bytes", packed.len());
    let place = source::root().join("tests/fuzz/images").join(format!("{name}.zst"));
    fs::write(place, packed).unwrap();
}

/// Without what is not read of the log: all but its first record.
fn lighten_xfs(image: &mut [u8]) {
    let number = |at: usize| u32::from_be_bytes(image[at..at + 4].try_into().unwrap()) as usize;
    let (block, group) = (number(52), number(84));
    let (group_log, length) = (image[124], number(96));
    let plain = (block >> group_log) * group + (block & ((1 << group_log) - 1));
    image[plain * 1024 + 4096..(plain + length) * 1024].fill(0);
}

/// Without the table of capital letters, and without what was never written of the log.
fn lighten_ntfs(image: &mut [u8]) {
    let letters: Vec<u8> = (0..256_u16).flat_map(u16::to_le_bytes).collect();
    // Small letters map to capital ones: the table is itself only up to there.
    let place = image.chunks(512).position(|sector| sector[..190] == letters[..190]).unwrap();
    image[place * 512..place * 512 + (128 << 10)].fill(0);
    let empty = image.chunks_mut(512).filter(|sector| sector.iter().all(|byte| *byte == 0xff));
    empty.skip(1).for_each(|sector| sector.fill(0));
}

fn names(root: &Path) {
    let one = root.join("one");
    fs::write(&one, b"1").unwrap();
    for (folder, count) in [("short", 3), ("block", 12), ("leaf", 60), ("node", 500)] {
        let folder = root.join(folder);
        fs::create_dir(&folder).unwrap();
        for index in 0..count {
            fs::hard_link(&one, folder.join(format!("a name of some length {index:03}"))).unwrap();
        }
        for index in (0..count).step_by(5) {
            fs::remove_file(folder.join(format!("a name of some length {index:03}"))).unwrap();
        }
    }
    symlink("one", root.join("link")).unwrap();
    symlink("far/".repeat(200), root.join("long link")).unwrap();
}

/// Every `step` bytes a few, so that there are many extents.
fn fragments(path: &Path, count: u64, step: u64) {
    let file = File::create(path).unwrap();
    for index in 0..count {
        file.write_all_at(b"fragment", index * step).unwrap();
    }
}

fn attribute(path: &Path, name: &str, bytes: usize) {
    let value = vec![b'v'; bytes];
    rustix::fs::lsetxattr(path, name, &value, rustix::fs::XattrFlags::empty()).unwrap();
}

fn make_xfs() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run("truncate -s 300M image; mkfs.xfs -q -b size=1024 -i size=512 image", folder);
    run("mkdir mnt; mount -o loop image mnt", folder);
    let root = folder.join("mnt");
    names(&root);
    fragments(&root.join("fragments"), 300, 4096);
    for (name, count, bytes) in [("few", 2, 8), ("leaf of", 9, 60), ("many", 60, 60)] {
        let path = root.join(name);
        fs::write(&path, b"").unwrap();
        (0..count).for_each(|index| attribute(&path, &format!("user.of {index}"), bytes));
    }
    attribute(&root.join("few"), "user.far", 3000);
    run("mkfifo mnt/fifo; mknod mnt/device c 1 3; setfacl -m u:7:r mnt/one", folder);
    run("umount mnt; xfs_repair -L image", folder);
    written("xfs", folder, lighten_xfs);
}

fn make_ntfs() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run("truncate -s 32M image; mkntfs -F -Q -q -z 1 image", folder);
    // Small runs need small zones, or all lies in one piece.
    run("mkdir mnt; ntfs-3g -o compression,streams_interface=xattr image mnt", folder);
    let root = folder.join("mnt");
    names(&root);
    fragments(&root.join("fragments"), 300, 131_072);
    let compressed = root.join("compressed");
    fs::create_dir(&compressed).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::lsetxattr(&compressed, "system.ntfs_attrib", &[0, 8, 0, 0], flags).unwrap();
    let mut chance = Seeded::new(3);
    let mut text = "compressed, but not all of it ".repeat(2000).into_bytes();
    text.iter_mut().step_by(97).for_each(|byte| *byte = chance.word() as u8);
    fs::write(compressed.join("text"), text).unwrap();
    attribute(&root.join("one"), "user.stream", 20);
    attribute(&root.join("one"), "user.longer stream", 3000);
    run("sync; umount mnt; sleep 1", folder);
    written("ntfs", folder, lighten_ntfs);
}

fn whole(walked: Option<Walked>, names: usize) {
    let walked = walked.unwrap();
    assert_eq!(walked.problems, Vec::<String>::new());
    assert!(walked.nodes >= 10 && walked.names >= names && walked.bytes > 1000, "{walked:?}");
}

#[test]
fn the_xfs_to_begin_with_is_read_whole() {
    if is_to_be_written() {
        make_xfs();
        return;
    }
    assert!(xfs_image().len() < PACKED_BYTES_MAX);
    whole(xfs_walked(xfs_image()), 460);
}

#[test]
fn the_ntfs_to_begin_with_is_read_whole() {
    if is_to_be_written() {
        make_ntfs();
        return;
    }
    assert!(ntfs_image().len() < PACKED_BYTES_MAX);
    whole(ntfs_walked(ntfs_image()), 460);
}
