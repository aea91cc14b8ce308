//! A tree of every kind of file that has ever broken a backup, for the lab and for tests.
//! Made by plain system calls, none of those that read or restore trees. What this host or
//! user cannot make is left out and said.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags};

/// How much of what grows with its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Amounts {
    /// Empty files in one directory.
    pub wide: u32,
    /// Levels of one branch; from 17 on its path is longer than `PATH_MAX`.
    pub deep: u32,
}

impl Default for Amounts {
    fn default() -> Self {
        Self { wide: 300, deep: 24 }
    }
}

/// A directory with a hundred thousand entries too.
pub const LARGE: Amounts = Amounts { wide: 100_000, deep: 24 };

/// Sizes around every border of inlining, bundling and cutting.
const SIZES: [usize; 16] = [
    0, 1, 255, 256, 257, 4095, 4096, 4097, 262_143, 262_144, 262_145, 786_432, 786_433, 1_048_575,
    1_048_576, 3_000_001,
];

/// Fills `dir`, which must exist, with one of everything; what could not be made.
///
/// # Errors
/// What every user can make could not be made.
pub fn make(dir: &Path) -> io::Result<Vec<String>> {
    make_with(dir, Amounts::default())
}

/// As [`make`], with these amounts.
///
/// # Errors
/// What every user can make could not be made.
pub fn make_with(dir: &Path, amounts: Amounts) -> io::Result<Vec<String>> {
    let mut skipped = Vec::new();
    names(&dir.join("names"))?;
    sizes(&dir.join("sizes"))?;
    sparse(&dir.join("sparse"))?;
    special(&dir.join("special"), &mut skipped)?;
    modes(&dir.join("modes"), &mut skipped)?;
    attributes(&dir.join("attributes"), &mut skipped)?;
    links(&dir.join("links"))?;
    deep(&dir.join("deep"), amounts.deep)?;
    wide(&dir.join("wide"), amounts.wide)?;
    // Last: whatever is made in a directory changes its time.
    times(&dir.join("times"))?;
    Ok(skipped)
}

fn made(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)
}

fn tried(skipped: &mut Vec<String>, what: &str, result: rustix::io::Result<()>) {
    if let Err(errno) = result {
        skipped.push(format!("{what}: {errno}"));
    }
}

/// Bytes that neither compress nor repeat, the same in every run.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn names(dir: &Path) -> io::Result<()> {
    made(dir)?;
    let long = [b'l'; 255];
    let odd: [&[u8]; 14] = [
        b"\xff\xfe\xfd",
        b"line\nbreak",
        b"tab\there",
        b" leading",
        b"trailing ",
        b"-rf",
        b"*",
        b"quote'\"",
        b"back\\slash",
        b"\x01\x1b[31m",
        "ümläut".as_bytes(),
        "u\u{308}mla\u{308}ut".as_bytes(),
        b"...",
        &long,
    ];
    for (seed, name) in odd.iter().enumerate() {
        fs::write(dir.join(std::ffi::OsStr::from_bytes(name)), noise(300, seed as u64))?;
    }
    made(&dir.join("empty"))?;
    // Walk order and byte order of whole paths differ here.
    made(&dir.join("order"))?;
    fs::write(dir.join("order/inside"), b"1")?;
    fs::write(dir.join("order.after"), b"2")?;
    fs::write(dir.join("order-before"), b"3")
}

fn sizes(dir: &Path) -> io::Result<()> {
    made(dir)?;
    for size in SIZES {
        fs::write(dir.join(format!("{size}")), noise(size, size as u64))?;
        fs::write(dir.join(format!("{size}-again")), noise(size, size as u64))?;
        fs::write(dir.join(format!("{size}-zeros")), vec![0; size])?;
    }
    for index in 0..200_u64 {
        let length = usize::try_from(300 + index * 97).unwrap_or(0);
        fs::write(dir.join(format!("small-{index}")), noise(length, index))?;
    }
    Ok(())
}

fn sparse(dir: &Path) -> io::Result<()> {
    made(dir)?;
    let mib = 1_u64 << 20;
    let file = |name: &str, size: u64, data: &[(u64, usize)]| -> io::Result<()> {
        let file = File::create(dir.join(name))?;
        file.set_len(size)?;
        for (offset, length) in data {
            file.write_all_at(&noise(*length, *offset), *offset)?;
        }
        Ok(())
    };
    file("only-hole", 5 * mib, &[])?;
    file("only-hole-odd", 12_345, &[])?;
    file("leading", 3 * mib, &[(2 * mib, 1 << 20)])?;
    file("trailing", 3 * mib, &[(0, 1 << 20)])?;
    file("middle", 8 * mib, &[(0, 70_000), (7 * mib, 1 << 20)])?;
    file("huge", 1 << 40, &[(1 << 39, 4096)])?;
    let many: Vec<(u64, usize)> = (0..300).map(|index| (index * 16_384, 4096)).collect();
    file("fragmented", 300 * 16_384, &many)
}

fn special(dir: &Path, skipped: &mut Vec<String>) -> io::Result<()> {
    made(dir)?;
    let open = File::open(dir)?;
    let node = |name: &str, kind, device| {
        rustix::fs::mknodat(&open, name, kind, Mode::from_raw_mode(0o640), device)
    };
    node("fifo", FileType::Fifo, 0)?;
    drop(UnixListener::bind(dir.join("socket"))?);
    let (null, disk) = (rustix::fs::makedev(1, 3), rustix::fs::makedev(259, 70_000));
    tried(skipped, "character device", node("null", FileType::CharacterDevice, null));
    tried(skipped, "block device", node("disk", FileType::BlockDevice, disk));
    symlink("nowhere", dir.join("dangling"))?;
    symlink("loop", dir.join("loop"))?;
    symlink(".", dir.join("here"))?;
    symlink("/etc/passwd", dir.join("absolute"))?;
    symlink("../../../../outside", dir.join("upwards"))?;
    symlink(std::ffi::OsStr::from_bytes(b"\xff\n"), dir.join("odd-target"))?;
    symlink("t".repeat(4000), dir.join("long-target"))
}

fn modes(dir: &Path, skipped: &mut Vec<String>) -> io::Result<()> {
    made(dir)?;
    for mode in [0o0, 0o444, 0o600, 0o755, 0o777, 0o4755, 0o2755, 0o6711, 0o1644] {
        let path = dir.join(format!("file-{mode:o}"));
        fs::write(&path, b"mode")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    for mode in [0o500, 0o700, 0o1777, 0o2775] {
        let path = dir.join(format!("dir-{mode:o}"));
        made(&path)?;
        fs::write(path.join("inside"), b"mode")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    let owned = dir.join("owned-4711");
    fs::write(&owned, b"owner")?;
    let (user, group) = (rustix::fs::Uid::from_raw(1234), rustix::fs::Gid::from_raw(4321));
    tried(skipped, "foreign owner", rustix::fs::chown(&owned, Some(user), Some(group)));
    // After the owner: changing that takes setuid away.
    fs::set_permissions(&owned, fs::Permissions::from_mode(0o4711))
}

/// `system.posix_acl_*`, raw: version 2, then tag, permissions and id of each entry.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut raw = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        raw.extend_from_slice(&tag.to_le_bytes());
        raw.extend_from_slice(&permissions.to_le_bytes());
        raw.extend_from_slice(&id.to_le_bytes());
    }
    raw
}

fn attributes(dir: &Path, skipped: &mut Vec<String>) -> io::Result<()> {
    made(dir)?;
    let nobody = u32::MAX;
    let list = acl(&[
        (0x01, 6, nobody),
        (0x02, 4, 1000),
        (0x02, 7, 1001),
        (0x04, 4, nobody),
        (0x08, 5, 2000),
        (0x10, 7, nobody),
        (0x20, 0, nobody),
    ]);
    // cap_net_bind_service, permitted and effective, revision 2.
    let mut capability = vec![0x01, 0, 0, 0x02, 0x00, 0x04, 0, 0];
    capability.resize(20, 0);
    let many = noise(2000, 5);
    let attributes: [(&str, &str, &[u8]); 8] = [
        ("user", "user.plain", b"value"),
        ("user", "user.empty", b""),
        ("user", "user.binary\n", b"\0\xff\0"),
        ("long", "user.long", &many),
        ("trusted", "trusted.strongroom", b"trusted"),
        ("capability", "security.capability", &capability),
        ("acl", "system.posix_acl_access", &list),
        ("directory", "system.posix_acl_default", &list),
    ];
    for (file, name, value) in attributes {
        let path = dir.join(file);
        match file {
            "directory" => made(&path)?,
            _ => File::options().append(true).create(true).open(&path)?.write_all(b"x")?,
        }
        tried(skipped, name, rustix::fs::setxattr(&path, name, value, XattrFlags::empty()));
    }
    let directory = dir.join("directory");
    let on_directory = rustix::fs::setxattr(&directory, "user.d", b"d", XattrFlags::empty());
    tried(skipped, "attribute of a directory", on_directory);
    symlink("user", dir.join("link"))?;
    let on_link =
        rustix::fs::lsetxattr(dir.join("link"), "trusted.link", b"l", XattrFlags::empty());
    tried(skipped, "attribute of a symlink", on_link);
    let flagged = dir.join("nodump");
    fs::write(&flagged, b"flag")?;
    let nodump = rustix::fs::ioctl_setflags(File::open(&flagged)?, rustix::fs::IFlags::NODUMP);
    tried(skipped, "inode flag", nodump);
    Ok(())
}

fn links(dir: &Path) -> io::Result<()> {
    made(&dir.join("a"))?;
    made(&dir.join("b"))?;
    for (name, size) in [("empty", 0), ("inline", 100), ("small", 5000), ("long", 2_000_000)] {
        let first = dir.join("a").join(name);
        fs::write(&first, noise(size, size as u64 + 77))?;
        fs::hard_link(&first, dir.join("a").join(format!("{name}-beside")))?;
        fs::hard_link(&first, dir.join("b").join(name))?;
    }
    fs::write(dir.join("b/outside-link"), b"the other name lies elsewhere")?;
    symlink("target", dir.join("a/symlink"))?;
    fs::hard_link(dir.join("a/symlink"), dir.join("b/symlink"))?;
    let (a, b) = (File::open(dir.join("a"))?, File::open(dir.join("b"))?);
    rustix::fs::mknodat(&a, "fifo", FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
    Ok(rustix::fs::linkat(&a, "fifo", &b, "fifo", AtFlags::empty())?)
}

fn deep(dir: &Path, levels: u32) -> io::Result<()> {
    made(dir)?;
    let name = "d".repeat(250);
    let open = |dir: BorrowedFd<'_>, name: &str| -> rustix::io::Result<OwnedFd> {
        rustix::fs::openat(dir, name, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    };
    let mut at = open(rustix::fs::CWD, &dir.to_string_lossy())?;
    for _ in 0..levels {
        rustix::fs::mkdirat(&at, name.as_str(), Mode::from_raw_mode(0o755))?;
        at = open(at.as_fd(), &name)?;
    }
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    let bottom = rustix::fs::openat(&at, "bottom", flags, Mode::from_raw_mode(0o644))?;
    File::from(bottom).write_all(&noise(1000, 3))
}

fn wide(dir: &Path, entries: u32) -> io::Result<()> {
    made(dir)?;
    (0..entries).try_for_each(|index| File::create(dir.join(format!("w{index}"))).map(drop))
}

fn times(dir: &Path) -> io::Result<()> {
    made(dir)?;
    let moments: [(&str, i64, i64); 6] = [
        ("before-1970", -100_000, 123_456_789),
        ("before-1902", -2_147_483_648, 0),
        ("epoch", 0, 1),
        ("nanoseconds", 1_600_000_000, 999_999_999),
        ("after-2038", 2_147_483_648, 5),
        ("far", 9_000_000_000, 7),
    ];
    let stamp = |path: &Path, seconds, nanoseconds| {
        let at = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
        let both = Timestamps { last_access: at, last_modification: at };
        rustix::fs::utimensat(rustix::fs::CWD, path, &both, AtFlags::SYMLINK_NOFOLLOW)
    };
    for (name, seconds, nanoseconds) in moments {
        fs::write(dir.join(name), name)?;
        stamp(&dir.join(name), seconds, nanoseconds)?;
    }
    symlink("epoch", dir.join("old-link"))?;
    stamp(&dir.join("old-link"), 1_000_000_000, 42)?;
    made(&dir.join("old-dir/inside"))?;
    stamp(&dir.join("old-dir/inside"), 1_000_000_001, 43)?;
    Ok(stamp(&dir.join("old-dir"), 1_000_000_002, 44)?)
}
