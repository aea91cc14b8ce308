//! `mount` as a person uses it: the program that is shipped, real nodes, the kernel's own FUSE, and
//! the tools of the system over it. What is seen is what was protected, whichever copy it comes
//! from; what is lost says so; whatever ends the command leaves nothing behind.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod lab;

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use lab::Sites;
use lab::files::{TAPE, TREE, policy};
use lab::mounting::{Mount, await_unmounted, is_mounted};
use lab::oddities::{grow, noise, sh};
use strongroom_agent::restore::compare::compare;

/// Readers at one time.
const READERS: usize = 200;

/// Sites that protect a directory, and where a point of it is looked at.
struct Scene {
    sites: Sites,
    source: PathBuf,
    at: PathBuf,
    dir: tempfile::TempDir,
}

impl Scene {
    fn set(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (source, at) = (dir.path().join("source"), dir.path().join("at"));
        fs::create_dir(&source).unwrap();
        let sites = Sites::raise(&dir.path().join("sites"));
        sites.apply(&policy(&source, more));
        Self { sites, source, at, dir }
    }

    fn protect(&self) -> String {
        self.sites.protect(TREE)["point"].as_str().unwrap().to_owned()
    }

    fn mount(&self, words: &[&str]) -> Mount {
        Mount::make(&self.sites, &self.at, words)
    }

    /// Every difference between what was protected and what is seen.
    fn differences(&self) -> Vec<String> {
        let mut found = Vec::new();
        let compared = compare(&self.source, &self.at, &mut |difference| {
            let path = difference.path.escape_ascii().to_string();
            found.push(format!("{path}: {:?} {}", difference.aspect, difference.detail));
        });
        assert!(compared.unwrap().entries > 0);
        found
    }
}

/// Every regular file below a directory.
fn files_below(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut waiting) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            match (kind.is_dir(), kind.is_file()) {
                (true, _) => waiting.push(entry.path()),
                (_, true) => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

#[test]
fn everything_is_there_as_it_was_and_the_tools_agree() {
    let scene = Scene::set("");
    grow(&scene.source);
    let point = scene.protect();
    let mount = scene.mount(&[&point]);
    assert_eq!(scene.differences(), Vec::<String>::new());
    let (source, at) = (scene.source.display(), scene.at.display());
    let synced = sh(&format!("rsync -naHAX --checksum --delete -i {source}/ {at}/"), &scene.at);
    assert_eq!(synced, "", "rsync would change something");
    let count = |dir: &Path| sh("find . | sort | md5sum; find . -type f -size +100k | wc -l", dir);
    assert_eq!(count(&scene.at), count(&scene.source));
    let words = |dir: &Path| sh("grep -rl --devices=skip needle . | sort", dir);
    assert_eq!(words(&scene.at), words(&scene.source));
    let tarred = "tar --exclude=./socket --sparse -cf - .";
    let told = sh(&format!("{tarred} | tar -df - -C {source}"), &scene.at);
    assert_eq!(told, "", "tar finds a difference");
    attributes(&scene);
    refusals(&scene.at);
    crowd(&scene);
    remembered(&scene.at);
    assert_eq!(mount.log(), "", "nothing was lost, and nothing else is told");
    mount.end_by("TERM");
}

/// What the judge does not look at: blocks, link counts, device numbers.
fn attributes(scene: &Scene) {
    let stat = |name: &str| fs::symlink_metadata(scene.at.join(name)).unwrap();
    let hole = stat("one-hole");
    assert_eq!((hole.len(), hole.blocks()), (50 << 20, 32));
    assert_eq!(stat("all-hole").blocks(), 0);
    let many = stat("many-holes");
    assert_eq!(many.blocks(), 500 * 8, "a list of extents was looked at");
    assert!(stat("large").blocks() * 512 >= 9_000_000);
    assert_eq!((stat("small").nlink(), stat("middle").nlink()), (2, 1));
    assert_eq!(
        stat("block").rdev(),
        fs::symlink_metadata(scene.source.join("block")).unwrap().rdev()
    );
    let acl = sh("getfacl -nc small", &scene.at);
    assert_eq!(acl, sh("getfacl -nc small", &scene.source));
    let df = sh("df --output=itotal . && stat -f -c %T .", &scene.at);
    assert!(df.contains("fuse"), "{df}");
}

/// Nothing can be written, whoever tries.
fn refusals(at: &Path) {
    let read_only = |done: std::io::Result<()>| {
        assert_eq!(done.unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    };
    read_only(fs::write(at.join("new"), b"x"));
    read_only(fs::OpenOptions::new().write(true).open(at.join("small")).map(drop));
    read_only(fs::remove_file(at.join("small")));
    read_only(fs::create_dir(at.join("new")));
    read_only(fs::rename(at.join("small"), at.join("other")));
    read_only(fs::set_permissions(at.join("small"), fs::Permissions::from_mode(0o777)));
    assert_eq!(fs::read(at.join("absent")).unwrap_err().kind(), ErrorKind::NotFound);
    let odd = sh("setfattr -n user.x -v 1 small 2>&1; (cat /dev/null > words) 2>&1; true", at);
    assert_eq!(odd.matches("Read-only file system").count(), 2, "{odd}");
}

/// Many readers at once, each all over the place.
fn crowd(scene: &Scene) {
    sh("sync; echo 3 > /proc/sys/vm/drop_caches", &scene.at);
    let files = files_below(&scene.source.join("many"));
    let large = noise(9_000_000, 3);
    std::thread::scope(|scope| {
        for reader in 0..READERS {
            let (files, expected) = (&files, &large);
            scope.spawn(move || {
                for step in 0..20 {
                    let path = &files[(reader * 7919 + step * 104_729) % files.len()];
                    let seen = scene.at.join(path.strip_prefix(&scene.source).unwrap());
                    assert!(fs::read(path).unwrap() == fs::read(&seen).unwrap(), "{path:?}");
                }
                let large = fs::File::open(scene.at.join("large")).unwrap();
                let (mut block, at) = (vec![0; 5000], (reader * 40_009) as u64);
                large.read_exact_at(&mut block, at).unwrap();
                assert!(block == expected[at as usize..at as usize + 5000], "large at {at}");
            });
        }
    });
}

/// A name has one number, also after the kernel has forgotten it.
fn remembered(at: &Path) {
    let numbers = |dir: &Path| sh("find . -printf '%i %p\\n' | sort -k 2", dir);
    let before = numbers(at);
    sh("sync; echo 2 > /proc/sys/vm/drop_caches", at);
    assert_eq!(numbers(at), before);
    let linked = |name: &str| fs::metadata(at.join(name)).unwrap().ino();
    assert_eq!(linked("small"), linked("deep/er/third-name"));
}

#[test]
fn whatever_ends_it_leaves_nothing_behind() {
    let scene = Scene::set("");
    fs::create_dir(scene.source.join("below")).unwrap();
    fs::write(scene.source.join("below/file"), b"hello").unwrap();
    let point = scene.protect();
    let latest = format!("latest:{TREE}:below");
    let seen = || fs::read(scene.at.join("file")).unwrap();

    // By umount, and by Ctrl-C while somebody looks into it.
    let mut mount = scene.mount(&[&latest]);
    assert_eq!(seen(), b"hello", "a directory of the point is the root");
    sh(&format!("umount {}", scene.at.display()), Path::new("/"));
    mount.ended();
    let mount = scene.mount(&[&latest]);
    let open = fs::File::open(scene.at.join("file")).unwrap();
    let second = scene.sites.refused(&["mount", &latest, &scene.at.display().to_string()]);
    assert!(second.contains("mounted at") && second.contains("hint: `umount"), "{second}");
    mount.end_by("INT");
    drop(open);

    // Killed: the guard clears up. Guard and all killed: the next one does.
    let mount = scene.mount(&[&latest]);
    assert_eq!(seen(), b"hello");
    mount.kill();
    await_unmounted(&scene.at);
    let mount = scene.mount(&[&latest]);
    sh(&format!("kill -9 {}", mount.guard()), Path::new("/"));
    mount.kill();
    assert!(is_mounted(&scene.at), "nobody was left to clear up");
    let stale = fs::metadata(&scene.at).unwrap_err();
    assert_eq!(stale.kind(), ErrorKind::NotConnected);
    let mount = scene.mount(&[&latest]);
    assert_eq!(seen(), b"hello");
    mount.end_by("TERM");

    // What cannot be mounted, or not there, says so.
    let place = scene.at.display().to_string();
    let file = scene.sites.refused(&["mount", &format!("{point}:below/file"), &place]);
    assert!(file.contains("is a file") && file.contains("hint:"), "{file}");
    let absent = scene.sites.refused(&["mount", &format!("{point}:nowhere"), &place]);
    assert!(absent.contains("has no /nowhere"), "{absent}");
    let nowhere = scene.dir.path().join("nowhere").display().to_string();
    let missing = scene.sites.refused(&["mount", &point, &nowhere]);
    assert!(missing.contains("cannot be used") && missing.contains("mkdir -p"), "{missing}");
    let taken = scene.source.join("below/file").display().to_string();
    let taken = scene.sites.refused(&["mount", &point, &taken]);
    assert!(taken.contains("is not a directory"), "{taken}");
}

#[test]
fn permissions_are_the_points_own_unless_asked_otherwise() {
    let scene = Scene::set("");
    fs::write(scene.source.join("secret"), b"secret").unwrap();
    fs::write(scene.source.join("open"), b"open").unwrap();
    sh("chmod 600 secret; chmod 644 open; chmod 755 .", &scene.source);
    sh("chmod 755 .", scene.dir.path());
    let point = scene.protect();
    let as_nobody = |name: &str| {
        let path = scene.at.join(name);
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "cat"]);
        command.arg(path).output().unwrap().status.success()
    };
    let mount = scene.mount(&[&point]);
    assert!(!as_nobody("open"), "only who mounted it may look into it");
    mount.end_by("TERM");
    let mount = scene.mount(&[&point, "--allow-other"]);
    assert!(as_nobody("open") && !as_nobody("secret"));
    mount.end_by("TERM");
    let mount = scene.mount(&[&point, "--allow-other", "--ignore-permissions"]);
    assert!(as_nobody("open") && as_nobody("secret"));
    mount.end_by("TERM");
}

/// The packs with data of a repository.
fn data_packs(repo: &Path) -> Vec<PathBuf> {
    files_below(&repo.join("packs/d"))
}

#[test]
fn the_secondary_serves_alone_a_lost_pack_costs_what_it_held_and_a_node_may_come_back() {
    let mut scene = Scene::set("");
    let write = |name: &str, bytes: &[u8]| fs::write(scene.source.join(name), bytes).unwrap();
    write("first", &noise(3_000_000, 1));
    write("grown", &noise(6_000_000, 2));
    scene.protect();
    scene.sites.await_copy(TREE, "secondary", "readable");
    let repo = scene.sites.dir.join("b/proxy/repo");
    let before = data_packs(&repo);
    write("second", &noise(3_000_000, 3));
    let grown = [noise(6_000_000, 2), noise(6_000_000, 4)].concat();
    write("grown", &grown);
    scene.protect();
    let point = scene.sites.await_copy(TREE, "secondary", "readable");
    ["agent", "coordinator"].into_iter().for_each(|role| scene.sites.kill(role));
    let mount = scene.mount(&[&point, "--from", "secondary"]);
    assert_eq!(scene.differences(), Vec::<String>::new());
    mount.end_by("TERM");

    // The node goes and comes back under a mount.
    let mount = scene.mount(&[&point, "--from", "secondary"]);
    let seen = |name: &str| fs::read(scene.at.join(name));
    assert!(seen("first").unwrap() == noise(3_000_000, 1));
    scene.sites.kill("proxy");
    scene.sites.start("proxy");
    scene.sites.wait("the proxy", |_| seen("second").is_ok());
    assert!(seen("second").unwrap() == noise(3_000_000, 3));
    mount.end_by("TERM");

    // What lay in a pack that is gone is lost, and nothing else.
    let lost: Vec<PathBuf> =
        data_packs(&repo).into_iter().filter(|pack| !before.contains(pack)).collect();
    assert!(!lost.is_empty(), "the second run made no pack of its own");
    // Not under its feet: a node reads on what it has open.
    scene.sites.kill("proxy");
    lost.iter().for_each(|pack| fs::remove_file(pack).unwrap());
    scene.sites.start("proxy");
    scene.sites.wait("the proxy", |sites| sites.run(&["--site", "b", "points"]).status.success());
    let mount = scene.mount(&[&point, "--from", "secondary"]);
    let seen = |name: &str| fs::read(scene.at.join(name));
    assert!(seen("first").unwrap() == noise(3_000_000, 1));
    let second = seen("second").map(|bytes| bytes.len());
    assert_eq!(second.unwrap_err().raw_os_error(), Some(5));
    let file = fs::File::open(scene.at.join("grown")).unwrap();
    let (mut block, mut right, mut wrong) = (vec![0; 4096], 0, 0);
    for (at, expected) in (0..).step_by(4096).zip(grown.chunks_exact(4096)) {
        match file.read_exact_at(&mut block, at) {
            Ok(()) => {
                assert!(block == expected, "wrong bytes at {at}");
                right += 4096;
            }
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(5), "{error}");
                wrong += 4096;
            }
        }
    }
    assert!(right >= 5_000_000 && wrong >= 5_000_000, "{right} right, {wrong} lost");
    let log = mount.log();
    assert!(log.contains("/second") && log.contains("/grown"), "{log}");
    assert!(log.contains("chunk ") && log.contains("missing") || log.contains("damaged"), "{log}");
    mount.end_by("TERM");
}

#[test]
fn media_and_the_recovery_key_are_enough() {
    let mut scene = Scene::set(TAPE);
    for number in 0..20_u64 {
        fs::write(scene.source.join(format!("f{number}")), noise(700_000, number)).unwrap();
    }
    let first = scene.protect();
    fs::write(scene.source.join("later"), noise(2_000_000, 99)).unwrap();
    scene.protect();
    let point = scene.sites.await_copy(TREE, "tape", "hash-verified");
    assert_ne!(first, point);
    ["agent", "coordinator", "proxy"].into_iter().for_each(|role| scene.sites.kill(role));
    let library = scene.sites.dir.join("b/proxy/library").display().to_string();
    let key = scene.sites.dir.join("recovery-key").display().to_string();
    let words = ["--media", &library, "--recovery-key-file", &key];
    let mount = scene.mount(&[&[point.as_str()][..], &words].concat());
    let staging = scene.dir.path().join(".strongroom-staging-at");
    assert!(data_packs(&staging).is_empty(), "nothing was read, nothing is brought");
    assert!(fs::read(scene.at.join("later")).unwrap() == noise(2_000_000, 99));
    let brought = data_packs(&staging).len();
    assert!(brought > 0, "what was opened was brought");
    assert_eq!(scene.differences(), Vec::<String>::new());
    mount.end_by("TERM");
    assert!(!staging.exists(), "what was brought goes with it");
}
