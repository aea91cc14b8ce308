//! Images of XFS and NTFS through the verbs of a person, and one whose point lost a chunk: the file
//! that needs it fails by name, whatever else is in the image still comes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod lab;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use lab::Sites;
use lab::files::{TREE, policy};
use lab::oddities::{noise, sh};

const HOSTS: &str = "127.0.0.1 localhost\n";
/// What the point loses a part of.
const LARGE_BYTES: usize = 24_000_000;

/// What is in both images at first.
fn grow(tree: &Path) {
    fs::create_dir_all(tree.join("deep/er")).unwrap();
    fs::write(tree.join("hosts.conf"), HOSTS).unwrap();
    fs::write(tree.join("deep/er/some bytes"), noise(700_000, 4)).unwrap();
    fs::write(tree.join("deep/empty"), "").unwrap();
    (0..300).for_each(|n| fs::write(tree.join(format!("deep/file {n}")), [7; 99]).unwrap());
}

/// Makes the file systems and copies the tree into them.
fn make_images(dir: &Path, source: &Path) {
    let (xfs, ntfs) = (source.join("xfs.img"), source.join("ntfs.img"));
    let (xfs, ntfs) = (xfs.display(), ntfs.display());
    sh(&format!("truncate -s 320M {xfs} && mkfs.xfs -q -L data {xfs}"), dir);
    sh(&format!("truncate -s 40M {ntfs} && mkntfs -F -Q -q -L Data {ntfs}"), dir);
    into_xfs(dir, source, "cp -r tree/. mnt/");
    // It ends when all is written.
    let served = format!(
        "mkdir -p nt && {{ ntfs-3g -o no_detach {ntfs} nt & served=$!; \
         until mountpoint -q nt; do sleep 0.1; done; \
         cp -r tree/. nt/; umount nt; wait $served; }}"
    );
    sh(&served, dir);
}

fn into_xfs(dir: &Path, source: &Path, order: &str) {
    let image = source.join("xfs.img");
    let image = image.display();
    sh(&format!("mkdir -p mnt && mount -o loop {image} mnt && {order} && umount mnt"), dir);
}

fn same(left: &Path, right: &Path) {
    sh(&format!("diff -r {} {}", left.display(), right.display()), left);
}

fn at(path: &str) -> String {
    format!("latest:{TREE}:{path}")
}

fn packs(folder: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => packs(&path, found),
            false => drop(found.insert(path)),
        }
    }
}

fn packs_of(sites: &Sites) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    packs(&sites.dir.join("a/coordinator/repo/packs"), &mut found);
    found
}

#[test]
fn xfs_and_ntfs_are_read_by_every_verb_and_a_lost_chunk_costs_its_file_alone() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    let tree = dir.path().join("tree");
    grow(&tree);
    make_images(dir.path(), &source);
    let sites = Sites::raise(&dir.path().join("sites"));
    sites.apply(&policy(&source, ""));
    sites.protect(TREE);
    let found = sites.text(&["find", "some bytes", "--images"]);
    for (kind, image) in [("xfs", "xfs.img"), ("ntfs", "ntfs.img")] {
        let shown = sites.text(&["ls", &at(&format!("{image}//"))]);
        assert!(shown.contains(kind), "{shown}");
        let names = sites.text(&["ls", "-R", &at(&format!("{image}//p1/deep"))]);
        assert_eq!(names.lines().count(), 303, "{names}");
        assert!(found.contains(&format!("{image}//p1/deep/er/some bytes")), "{found}");
        let bytes = sites.run(&["dump", &at(&format!("{image}//p1/deep/er/some bytes"))]);
        assert!(bytes.stdout == noise(700_000, 4), "{}", String::from_utf8_lossy(&bytes.stderr));
        let to = dir.path().join(format!("of-{kind}"));
        let output = sites.run(&[
            "restore",
            &at(&format!("{image}//p1/deep")),
            "--to",
            to.to_str().unwrap(),
        ]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        same(&tree.join("deep"), &to);
    }
    a_chunk_is_lost(&sites, dir.path(), &source);
}

/// A second point, whose only large pack is that of a new file in the image, loses bytes there.
fn a_chunk_is_lost(sites: &Sites, dir: &Path, source: &Path) {
    let before = packs_of(sites);
    fs::write(dir.join("large"), noise(LARGE_BYTES, 11)).unwrap();
    into_xfs(dir, source, "cp large mnt/large");
    sites.protect(TREE);
    let fresh = packs_of(sites).difference(&before).cloned().collect::<Vec<_>>();
    let size = |path: &PathBuf| fs::metadata(path).unwrap().len();
    let hurt = fresh.iter().max_by_key(|path| size(path)).unwrap();
    assert!(size(hurt) > 4 << 20, "{fresh:?}");
    let whole = sites.run(&["dump", &at("xfs.img//p1/large")]);
    assert!(whole.stdout == noise(LARGE_BYTES, 11), "it is whole before");

    let file = fs::OpenOptions::new().read(true).write(true).open(hurt).unwrap();
    let (mut byte, middle) = ([0], size(hurt) / 2);
    file.read_exact_at(&mut byte, middle).unwrap();
    file.write_all_at(&[!byte[0]], middle).unwrap();

    let output = sites.run(&["dump", &at("xfs.img//p1/large")]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("xfs.img//p1") && said.contains("is damaged"), "{said}");
    let hosts = sites.run(&["dump", &at("xfs.img//p1/hosts.conf")]);
    assert_eq!(String::from_utf8_lossy(&hosts.stdout), HOSTS);
    let to = dir.join("of-hurt");
    let output = sites.run(&["restore", &at("xfs.img//p1"), "--to", to.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("not restored: /large"), "{said}");
    same(&dir.join("tree/deep"), &to.join("deep"));
    assert_eq!(fs::read_to_string(to.join("hosts.conf")).unwrap(), HOSTS);
    assert!(!to.join("large").exists(), "a part of it is not given for the whole");
}
