//! A tree with one of everything a file system can hold, for tests that look at it elsewhere.
//! Needs root, and a file system with holes, attributes and access lists.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

/// Names in one directory: enough for several pages.
const MANY: usize = 3000;

/// Bytes that do not compress, another for each seed.
pub(crate) fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut filled = vec![0; bytes];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut filled);
    filled
}

/// Runs a command of the system that must succeed.
pub(crate) fn sh(line: &str, dir: &Path) -> String {
    let output = Command::new("sh").args(["-c", line]).current_dir(dir).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Makes the tree.
pub(crate) fn grow(root: &Path) {
    fs::create_dir_all(root).unwrap();
    files(root);
    sparse(root);
    names(root);
    sh("mkfifo fifo && mknod char c 1 3 && mknod block b 259 70000", root);
    drop(UnixListener::bind(root.join("socket")).unwrap());
    symlink("nowhere at all", root.join("dangling")).unwrap();
    symlink("deep/er/still", root.join("to-directory")).unwrap();
    symlink("x".repeat(3000), root.join("long-link")).unwrap();
    sh("ln small deep/other-name && ln small deep/er/third-name && ln large deep/large-too", root);
    sh("ln -P dangling deep/dangling-too", root);
    sh("chown 1234:4321 small && chown -h 77:88 dangling && chmod 4751 inline", root);
    sh("chmod 0 nothing && chmod 1777 deep && chmod 2755 deep/er", root);
    sh("setfattr -n user.colour -v blue small && setfattr -n trusted.kept -v 1 deep", root);
    sh("setfattr -n user.empty small && setcap cap_net_raw+ep inline", root);
    sh("setfacl -m u:1000:rw,g:2000:r small && setfacl -d -m u:1000:rwx deep/er", root);
    let old = UNIX_EPOCH - Duration::new(86_400 * 365 * 3, 123_456_789);
    File::options().write(true).open(root.join("large")).unwrap().set_modified(old).unwrap();
    let late = UNIX_EPOCH + Duration::new(4_102_444_800, 1);
    File::open(root.join("deep/er")).unwrap().set_modified(late).unwrap();
}

fn files(root: &Path) {
    fs::create_dir_all(root.join("deep/er/still")).unwrap();
    fs::create_dir_all(root.join("empty-directory")).unwrap();
    fs::write(root.join("nothing"), b"").unwrap();
    fs::write(root.join("inline"), b"a few bytes").unwrap();
    fs::write(root.join("small"), noise(3000, 1)).unwrap();
    fs::write(root.join("middle"), noise(300_000, 2)).unwrap();
    fs::write(root.join("large"), noise(9_000_000, 3)).unwrap();
    fs::write(root.join("words"), "the needle is here\n".repeat(5000)).unwrap();
    let many = root.join("many");
    fs::create_dir(&many).unwrap();
    for number in 0..MANY {
        let bytes = noise(20 + number * 7 % 2000, 100 + number as u64);
        fs::write(many.join(format!("file-{number:05}")), bytes).unwrap();
        if number % 100 == 0 {
            fs::create_dir(many.join(format!("file-{number:05}.d"))).unwrap();
        }
    }
    let mut deep = root.join("deep/er");
    for level in 0..60 {
        deep = deep.join(format!("level-{level:02}"));
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("bottom"), b"the end").unwrap();
}

/// Files with holes: one long one, and so many that a list of extents is needed.
fn sparse(root: &Path) {
    let one = File::create(root.join("one-hole")).unwrap();
    one.write_all_at(&noise(8192, 4), 0).unwrap();
    one.write_all_at(&noise(8192, 5), 40 << 20).unwrap();
    one.set_len(50 << 20).unwrap();
    let many = File::create(root.join("many-holes")).unwrap();
    for number in 0..500_u64 {
        many.write_all_at(&noise(4096, 1000 + number), number * 65_536).unwrap();
    }
    File::create(root.join("all-hole")).unwrap().set_len(64 << 20).unwrap();
}

fn names(root: &Path) {
    for name in [&b"\xff\xfe not text"[..], b"line\nbreak", b" ", b"...", b"-rf", b"back\\slash"] {
        fs::write(root.join(OsStr::from_bytes(name)), name).unwrap();
    }
    fs::write(root.join("n".repeat(255)), b"longest").unwrap();
    let open = Permissions::from_mode(0o666);
    fs::set_permissions(root.join("..."), open).unwrap();
}
