//! NTFS made by mkntfs and filled through ntfs-3g, read by us and compared with what ntfs-3g says.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod judge;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use judge::{Image, Mounted, Tree, content, find, mounted, must, noise, ours, same};
use rustix::fs::XattrFlags;
use strongroom_images::{FileSystem as _, NodeId, Ntfs, Problem};

const ACL: &str = "system.ntfs_acl";
const COMPRESSED: u32 = 0x800;

fn made(folder: &Path, options: &[&str], bytes: u64) -> PathBuf {
    let image = folder.join("image");
    File::create(&image).unwrap().set_len(bytes).unwrap();
    must(
        "mkntfs",
        &[&["-F", "-Q", "-q", "-L", "Größe"], options, &[image.to_str().unwrap()]].concat(),
    );
    image
}

/// An NTFS mounted by a process of its own, whose end says that all is written.
struct Served {
    place: Mounted,
    server: Child,
}

fn mount(image: &Path, folder: &Path, options: &str) -> Served {
    let place = folder.join("mnt");
    fs::create_dir_all(&place).unwrap();
    let below = fs::metadata(&place).unwrap().dev();
    let options = format!("no_detach,compression,big_writes,{options}");
    let mut command = Command::new("ntfs-3g");
    command.args(["-o", &options]).arg(image).arg(&place);
    let mut server = command.stderr(Stdio::null()).spawn().unwrap();
    for _ in 0..2000 {
        if fs::metadata(&place).is_ok_and(|meta| meta.dev() != below) {
            return Served { place: Mounted(place), server };
        }
        thread::sleep(Duration::from_millis(10));
    }
    drop(server.kill());
    drop(server.wait());
    panic!("{command:?} does not mount");
}

impl Served {
    fn end(mut self) {
        self.place.end();
        assert!(self.server.wait().unwrap().success());
    }
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty())
        .unwrap_or_else(|error| panic!("{} {name}: {error}", path.display()));
}

fn get(path: &Path, name: &str) -> Vec<u8> {
    let mut value = vec![0; 64 << 10];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
    value.truncate(length);
    value
}

fn directories(root: &Path) {
    for (name, count) in [("few", 3), ("some", 60), ("many", 10_000)] {
        let folder = root.join(name);
        fs::create_dir(&folder).unwrap();
        for index in 0..count {
            fs::write(folder.join(format!("a name of some length {index}")), name).unwrap();
        }
        for index in (0..count).step_by(3) {
            fs::remove_file(folder.join(format!("a name of some length {index}"))).unwrap();
        }
    }
    fs::write(root.join("few").join("ü".repeat(127)), b"long").unwrap();
    fs::write(root.join("few").join("n".repeat(255)), b"longer").unwrap();
    fs::write(root.join("few").join("𝄞 größe"), b"music").unwrap();
}

fn files(root: &Path) {
    fs::write(root.join("empty"), b"").unwrap();
    fs::write(root.join("resident"), b"in the record").unwrap();
    fs::write(root.join("long"), noise(1, 5 << 20)).unwrap();
    fs::hard_link(root.join("resident"), root.join("another name")).unwrap();
    // Every second piece: holes, and more runs than a record holds.
    let sparse = File::create(root.join("many runs")).unwrap();
    for index in 0..3000_u64 {
        sparse.write_all_at(&noise(index, 4096), index * 131_072).unwrap();
    }
    let hollow = File::create(root.join("hollow")).unwrap();
    hollow.set_len(30 << 20).unwrap();
    hollow.write_all_at(b"in the middle", 17 << 20).unwrap();
    let many = root.join("many names");
    fs::write(&many, b"of one file").unwrap();
    for index in 0..60 {
        let name = format!("{index} {}", "x".repeat(200));
        fs::hard_link(&many, root.join("few").join(name)).unwrap();
    }
    // FUSE loses the fraction of a second before 1970.
    must("touch", &["-d", "1955-11-05 01:02:03 UTC", root.join("empty").to_str().unwrap()]);
}

fn compressed(root: &Path) {
    let folder = root.join("compressed");
    fs::create_dir(&folder).unwrap();
    set(&folder, "system.ntfs_attrib", &COMPRESSED.to_le_bytes());
    let text = "all work and no play makes a dull backup, said the restore\n".repeat(20_000);
    fs::write(folder.join("text"), &text).unwrap();
    fs::write(folder.join("short text"), &text[..9000]).unwrap();
    fs::write(folder.join("noise"), noise(3, 300_000)).unwrap();
    fs::write(folder.join("zeros"), vec![0; 1 << 20]).unwrap();
    fs::write(folder.join("tiny"), b"tiny").unwrap();
    let mut mixed = Vec::new();
    for index in 0..120 {
        mixed.extend(noise(index, 3000 + 57 * index as usize));
        mixed.extend(text.as_bytes()[..9000].iter().map(|byte| byte ^ index as u8));
        mixed.extend(vec![0; 70_000]);
    }
    fs::write(folder.join("mixed"), &mixed).unwrap();
    let holes = File::create(folder.join("holes")).unwrap();
    for index in 0..40_u64 {
        holes.write_all_at(&text.as_bytes()[..5000], index * 200_000).unwrap();
    }
}

fn links(root: &Path) {
    symlink("few/ä", root.join("link")).unwrap();
    symlink("x/".repeat(500), root.join("long link")).unwrap();
    must("mknod", &[root.join("disk").to_str().unwrap(), "b", "8", "17"]);
    must("mknod", &[root.join("terminal").to_str().unwrap(), "c", "4", "1"]);
}

fn streams(root: &Path) {
    let path = root.join("resident");
    set(&path, "user.Zone.Identifier", b"[ZoneTransfer]\r\nZoneId=3\r\n");
    set(&path, "user.longer", &noise(9, 50_000));
    set(&root.join("few"), "user.of a folder", b"has one too");
    set(&root.join("many runs"), "user.s", b"of a file with a list");
}

/// What ntfs-3g says, as we would: it invents owners and modes.
fn theirs(root: &Path) -> Tree {
    let mut tree = mounted(root, &[]);
    for (path, said) in &mut tree {
        (said.mode, said.owner) = (None, None);
        if said.kind == "directory" {
            said.links = None;
        }
        let path = root.join(String::from_utf8(path.clone()).unwrap());
        said.extended.insert(ACL.as_bytes().to_vec(), get(&path, ACL));
        if said.extended.len() > 1 {
            let users = said.extended.keys().filter_map(|name| name.strip_prefix(b"user."));
            let names: Vec<u8> = users.flat_map(|name| [name, &[0]].concat()).collect();
            said.extended.insert(b"ntfs.streams.list".to_vec(), names);
        }
    }
    tree
}

fn compare(options: &[&str], mounting: &str, more: &dyn Fn(&Path)) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let image = made(folder.path(), options, 300 << 20);
    let place = mount(&image, folder.path(), mounting);
    directories(&place.place.0);
    files(&place.place.0);
    links(&place.place.0);
    streams(&place.place.0);
    more(&place.place.0);
    place.end();
    let system = Ntfs::open(Image::open(&image)).unwrap();
    assert_eq!(system.warnings(), Vec::<String>::new());
    assert_eq!(system.label().as_deref(), Some("Größe"));
    let hollow = system.data(find(&system, "hollow"), 0).unwrap().unwrap();
    assert!(hollow.start >= 16 << 20 && hollow.end <= 18 << 20, "{hollow:?}");
    let mut ours = ours(&system);
    ours.values_mut().filter(|said| said.kind == "directory").for_each(|said| said.links = None);
    let place = mount(&image, folder.path(), &format!("ro,{mounting}"));
    let theirs = theirs(&place.place.0);
    place.end();
    assert!(theirs.len() > 6700, "{} nodes", theirs.len());
    same(&ours, &theirs);
    (folder, image)
}

#[test]
fn what_is_common_is_read_as_ntfs_3g_reads_it() {
    let (_folder, image) = compare(&[], "streams_interface=xattr", &compressed);
    let said = must("ntfsinfo", &["-F", "/many runs", image.to_str().unwrap()]);
    assert!(said.contains("$ATTRIBUTE_LIST"), "{said}");
    let said = must("ntfsinfo", &["-F", "/compressed/text", image.to_str().unwrap()]);
    assert!(said.contains("COMPRESSED"), "{said}");
}

#[test]
fn other_clusters_and_special_files_of_linux_are_read() {
    compare(&["-c", "512"], "streams_interface=xattr", &compressed);
    compare(&["-c", "65536"], "streams_interface=xattr", &|_| {});
    compare(&["-c", "1024", "-s", "1024"], "streams_interface=xattr", &compressed);
}

/// A reparse point of a tag and its data.
fn reparse(path: &Path, tag: u32, data: &[u8]) {
    let length = (data.len() as u32).to_le_bytes();
    set(path, "system.ntfs_reparse_data", &[&tag.to_le_bytes()[..], &length, data].concat());
}

/// The data of a link of Windows.
fn link(followed: &str, shown: &str, flags: Option<u32>) -> Vec<u8> {
    let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let (followed, shown) = (utf16(followed), utf16(shown));
    let numbers = [0, followed.len(), followed.len(), shown.len()];
    let mut data: Vec<u8> = numbers.iter().flat_map(|one| (*one as u16).to_le_bytes()).collect();
    data.extend(flags.iter().flat_map(|flags| flags.to_le_bytes()));
    [data, followed, shown].concat()
}

#[test]
fn links_and_names_of_windows_are_read_and_the_rest_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let image = made(folder.path(), &[], 64 << 20);
    let place = mount(&image, folder.path(), "streams_interface=xattr,special_files=wsl");
    for name in ["symlink", "deduplicated", "system compressed", "a long name of a file"] {
        fs::write(place.place.0.join(name), b"").unwrap();
    }
    for name in ["junction", "OneDrive"] {
        fs::create_dir(place.place.0.join(name)).unwrap();
    }
    symlink("by/linux", place.place.0.join("of wsl")).unwrap();
    must("mkfifo", &[place.place.0.join("pipe").to_str().unwrap()]);
    set(&place.place.0.join("a long name of a file"), "system.ntfs_dos_name", b"ALONG~1");
    fs::write(place.place.0.join("OneDrive/inside"), b"here").unwrap();
    let flat = link(r"..\there", r"..\there", Some(1));
    reparse(&place.place.0.join("symlink"), 0xa000_000c, &flat);
    let junction = link(r"\??\C:\Users", r"C:\Users", None);
    reparse(&place.place.0.join("deduplicated"), 0x8000_0013, b"chunks");
    reparse(&place.place.0.join("system compressed"), 0x8000_0017, &[1, 0, 0, 0]);
    fs::create_dir(place.place.0.join("empty for junction")).unwrap();
    reparse(&place.place.0.join("empty for junction"), 0xa000_0003, &junction);
    reparse(&place.place.0.join("OneDrive"), 0x9000_601a, b"cloud");
    place.end();
    let system = Ntfs::open(Image::open(&image)).unwrap();
    let target = |path| String::from_utf8(system.target(find(&system, path)).unwrap()).unwrap();
    assert_eq!(target("symlink"), "../there");
    assert_eq!(target("empty for junction"), r"C:\Users");
    assert_eq!(target("of wsl"), "by/linux");
    let said = |path| {
        let problem = system.read(find(&system, path), 0, &mut [0; 10]).unwrap_err();
        assert!(matches!(problem, Problem::Unread { .. }), "{problem}");
        problem.to_string()
    };
    assert_eq!(said("deduplicated"), "a file that Windows deduplicated is not read");
    assert!(said("system compressed").contains("WOF"));
    let inside = content(&system, find(&system, "OneDrive/inside"), 4).unwrap();
    assert_eq!(inside, b"here");
    let mut names = Vec::new();
    let each = &mut |named: strongroom_images::Named| {
        names.push(String::from_utf8(named.name).unwrap());
        true
    };
    system.list(system.root(), each).unwrap();
    names.sort();
    assert!(names.contains(&"a long name of a file".to_owned()), "{names:?}");
    assert!(!names.iter().any(|name| name.contains('~') || name.starts_with('$')), "{names:?}");
    let attributes = system.attributes(find(&system, "a long name of a file")).unwrap();
    assert_eq!(attributes.links, Some(1));
}

#[test]
fn a_stream_too_long_for_an_attribute_is_still_named() {
    let folder = tempfile::tempdir().unwrap();
    let image = made(folder.path(), &[], 64 << 20);
    let place = mount(&image, folder.path(), "streams_interface=windows");
    fs::write(place.place.0.join("file"), b"plain").unwrap();
    fs::write(place.place.0.join("file:short"), b"short").unwrap();
    fs::write(place.place.0.join("file:long"), noise(1, 100_000)).unwrap();
    place.end();
    let system = Ntfs::open(Image::open(&image)).unwrap();
    let pairs = system.extended(find(&system, "file")).unwrap();
    let names: Vec<_> = pairs.iter().map(|(name, _)| name.as_slice()).collect();
    assert_eq!(names, [&b"user.short"[..], b"ntfs.streams.list", b"system.ntfs_acl"]);
    assert_eq!(pairs[1].1, b"long\0short\0");
}

/// Where a record lies; the table of a small volume is in one piece.
fn record(image: &Path, node: NodeId) -> u64 {
    let mut boot = [0; 512];
    File::open(image).unwrap().read_exact_at(&mut boot, 0).unwrap();
    let first = u64::from_le_bytes(boot[48..56].try_into().unwrap());
    first * 4096 + (node.0 & 0xffff_ffff) * 1024
}

fn change(image: &Path, at: u64, with: &dyn Fn(&mut [u8])) {
    let file = OpenOptions::new().read(true).write(true).open(image).unwrap();
    let mut bytes = vec![0; 1024];
    file.read_exact_at(&mut bytes, at).unwrap();
    with(&mut bytes);
    file.write_all_at(&bytes, at).unwrap();
}

#[test]
fn what_is_encrypted_damaged_or_asleep_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let image = made(folder.path(), &[], 64 << 20);
    let place = mount(&image, folder.path(), "streams_interface=xattr");
    fs::write(place.place.0.join("secret"), noise(1, 20_000)).unwrap();
    fs::write(place.place.0.join("hiberfil.sys"), b"HIBR").unwrap();
    let many = place.place.0.join("many");
    fs::create_dir(&many).unwrap();
    for index in 0..2000 {
        fs::write(many.join(format!("a name of some length {index}")), b"").unwrap();
    }
    place.end();
    let system = Ntfs::open(Image::open(&image)).unwrap();
    assert!(system.warnings().concat().contains("sleeps"), "{:?}", system.warnings());
    let secret = find(&system, "secret");
    let place = record(&image, secret);
    change(&image, place, &|bytes| {
        // The only attribute in clusters is the data.
        let mut at = usize::from(u16::from_le_bytes([bytes[20], bytes[21]]));
        while bytes[at] != 0x80 {
            at += usize::from(u16::from_le_bytes([bytes[at + 4], bytes[at + 5]]));
        }
        bytes[at + 13] |= 0x40;
    });
    let problem = system.read(secret, 0, &mut [0; 10]).unwrap_err();
    assert_eq!(problem.to_string(), "a file that is encrypted by EFS is not read");
    assert_eq!(system.attributes(secret).unwrap().size, 20_000);
    change(&image, place, &|bytes| bytes[1023] ^= 1);
    let problem = system.read(secret, 0, &mut [0; 10]).unwrap_err();
    let wanted = format!("a record of the master file table at byte {} is damaged", place + 1022);
    assert!(problem.to_string().starts_with(&wanted), "{problem}");
    hurt_directory(&image, &system);
    let mirror_used = {
        let first = record(&image, NodeId(0));
        change(&image, first, &|bytes| bytes[0] ^= 1);
        Ntfs::open(Image::open(&image)).unwrap().warnings().concat()
    };
    assert!(mirror_used.contains("its copy is used"), "{mirror_used}");
    change(&image, 0, &|bytes| bytes[3] = b'M');
    let problem = Ntfs::open(Image::open(&image)).err().unwrap();
    assert!(problem.to_string().contains("does not say NTFS"), "{problem}");
}

/// A damaged block of a directory hides its own names, and is said at the end.
fn hurt_directory(image: &Path, system: &Ntfs) {
    let many = find(system, "many");
    let count = || {
        let mut count = 0;
        let ended = system.list(many, &mut |_| {
            count += 1;
            true
        });
        (count, ended)
    };
    assert!(matches!(count(), (2000, Ok(()))));
    let bytes = fs::read(image).unwrap();
    let block = bytes.chunks(4096).rposition(|block| {
        let wide: Vec<u8> = "length 1".encode_utf16().flat_map(u16::to_le_bytes).collect();
        block.starts_with(b"INDX") && block.windows(16).any(|piece| piece == wide)
    });
    let at = block.unwrap() as u64 * 4096;
    change(image, at, &|bytes| bytes[0] = b'B');
    let (left, ended) = count();
    let problem = ended.unwrap_err();
    assert!(left < 2000 && left > 1900, "{left}");
    let wanted = format!("a block of an index at byte {at} is damaged");
    assert!(problem.to_string().starts_with(&wanted), "{problem}");
}
