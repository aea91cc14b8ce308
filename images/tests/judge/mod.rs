//! A file system read by us against the same mounted by the kernel, or by FUSE: names, kinds,
//! bytes, targets, times, owners, modes, extended attributes.

#![allow(dead_code, clippy::unwrap_used, reason = "shared by several tests, each of which fails")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use strongroom_images::system::Nanoseconds;
use strongroom_images::{FileSystem, Kind, NodeId, Problem, Volume, VolumeError, within};

/// An image in a file.
pub(crate) struct Image {
    file: File,
    bytes: u64,
}

impl Image {
    pub(crate) fn open(path: &Path) -> Arc<dyn Volume> {
        let file = File::open(path).unwrap();
        let bytes = file.metadata().unwrap().len();
        Arc::new(Self { file, bytes })
    }
}

impl Volume for Image {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<(), VolumeError> {
        within(at, into.len() as u64, self.bytes)?;
        self.file.read_exact_at(into, at).map_err(|source| VolumeError::Read { at, source })
    }
}

/// Runs a program that has to succeed; what it said.
pub(crate) fn must(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Something mounted for as long as this lives.
pub(crate) struct Mounted(pub(crate) PathBuf);

impl Mounted {
    pub(crate) fn new(program: &str, arguments: &[&str], at: &Path) -> Self {
        fs::create_dir_all(at).unwrap();
        let at_text = at.to_str().unwrap();
        must(program, &[arguments, &[at_text]].concat());
        Self(at.to_owned())
    }

    /// Unmounts, which has to succeed; what was closed may still be on its way to FUSE.
    pub(crate) fn end(self) {
        for _ in 0..100 {
            if Command::new("umount").arg(&self.0).output().unwrap().status.success() {
                std::mem::forget(self);
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("{} stays busy", self.0.display());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// What is said of one path, by whoever.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Said {
    pub(crate) kind: String,
    pub(crate) size: u64,
    pub(crate) mode: Option<u32>,
    pub(crate) owner: Option<(u32, u32)>,
    pub(crate) links: Option<u64>,
    pub(crate) modified: Option<Nanoseconds>,
    pub(crate) content: Vec<u8>,
    pub(crate) extended: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// By path below the root, which is the empty path.
pub(crate) type Tree = BTreeMap<Vec<u8>, Said>;

/// What we read. Directories have no size here: file systems mean different things by it.
pub(crate) fn ours(system: &dyn FileSystem) -> Tree {
    let mut tree = Tree::new();
    let mut left = vec![(Vec::new(), system.root())];
    while let Some((path, node)) = left.pop() {
        let shown = String::from_utf8_lossy(&path).into_owned();
        let said = one(system, node).unwrap_or_else(|problem| panic!("{shown}: {problem}"));
        if said.kind == "directory" {
            let listed = system.list(node, &mut |named| {
                left.push((below(&path, &named.name), named.node));
                true
            });
            listed.unwrap_or_else(|problem| panic!("{shown}: {problem}"));
        }
        assert!(tree.insert(path, said).is_none(), "{shown} twice");
    }
    tree
}

fn below(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

fn one(system: &dyn FileSystem, node: NodeId) -> Result<Said, Problem> {
    let attributes = system.attributes(node)?;
    let mut said = Said {
        size: attributes.size,
        mode: attributes.mode,
        owner: attributes.uid.zip(attributes.gid),
        links: attributes.links,
        modified: attributes.modified,
        extended: system.extended(node)?.into_iter().collect(),
        ..Said::default()
    };
    let kind = match attributes.kind {
        Kind::BlockDevice { major, minor } => format!("block {major} {minor}"),
        Kind::CharacterDevice { major, minor } => format!("character {major} {minor}"),
        Kind::Directory => "directory".to_owned(),
        Kind::Fifo => "fifo".to_owned(),
        Kind::File => "file".to_owned(),
        Kind::Socket => "socket".to_owned(),
        Kind::Symlink => "link".to_owned(),
        _ => "something".to_owned(),
    };
    match kind.as_str() {
        "file" => {
            said.content = content(system, node, attributes.size)?;
            holes(system, node, &said.content)?;
        }
        "link" => {
            said.content = system.target(node)?;
            said.size = said.content.len() as u64;
        }
        _ => said.size = 0,
    }
    said.kind = kind;
    Ok(said)
}

/// What is said to be a hole holds nothing.
fn holes(system: &dyn FileSystem, node: NodeId, content: &[u8]) -> Result<(), Problem> {
    let mut at = 0;
    loop {
        let range = system.data(node, at as u64)?;
        let start = range.as_ref().map_or(content.len(), |range| range.start as usize);
        assert!(content[at..start].iter().all(|byte| *byte == 0), "{at} to {start} is no hole");
        let Some(range) = range else { return Ok(()) };
        at = range.end as usize;
    }
}

/// All of a file, in reads of odd lengths.
pub(crate) fn content(
    system: &dyn FileSystem,
    node: NodeId,
    size: u64,
) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    let mut piece = vec![0; 100_003];
    loop {
        piece.fill(0xee);
        let length = system.read(node, bytes.len() as u64, &mut piece)?;
        if length == 0 {
            break;
        }
        bytes.extend_from_slice(&piece[..length]);
    }
    assert_eq!(bytes.len() as u64, size, "a file is as long as it says");
    Ok(bytes)
}

/// What the mounted says; `attributes` are names that it shows beside those kept.
pub(crate) fn mounted(root: &Path, ignored: &[&str]) -> Tree {
    let mut tree = Tree::new();
    let mut left = vec![(Vec::new(), root.to_owned())];
    while let Some((path, place)) = left.pop() {
        let meta = fs::symlink_metadata(&place).unwrap();
        let kind = meta.file_type();
        let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
        let mut said = Said {
            mode: Some(meta.mode() & 0o7777),
            owner: Some((meta.uid(), meta.gid())),
            links: Some(meta.nlink()),
            modified: Some(
                i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
            ),
            extended: extended(&place, ignored),
            ..Said::default()
        };
        said.kind = if kind.is_dir() {
            for entry in fs::read_dir(&place).unwrap() {
                let entry = entry.unwrap();
                left.push((below(&path, entry.file_name().as_bytes()), entry.path()));
            }
            "directory".to_owned()
        } else if kind.is_symlink() {
            said.content = fs::read_link(&place).unwrap().as_os_str().as_bytes().to_vec();
            said.size = said.content.len() as u64;
            "link".to_owned()
        } else if kind.is_file() {
            said.content = fs::read(&place).unwrap();
            said.size = meta.len();
            "file".to_owned()
        } else if kind.is_fifo() {
            "fifo".to_owned()
        } else if kind.is_socket() {
            "socket".to_owned()
        } else if kind.is_block_device() {
            format!("block {major} {minor}")
        } else {
            format!("character {major} {minor}")
        };
        tree.insert(path, said);
    }
    tree
}

fn extended(path: &Path, ignored: &[&str]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let mut found = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if ignored.iter().any(|other| other.as_bytes() == name) {
            continue;
        }
        let mut value = vec![0; 64 << 10];
        let name_text = OsStr::from_bytes(name);
        let length = rustix::fs::lgetxattr(path, name_text, &mut value[..]).unwrap();
        found.insert(name.to_vec(), value[..length].to_vec());
    }
    found
}

/// Fails with the first paths that differ, in words short enough to read.
pub(crate) fn same(ours: &Tree, theirs: &Tree) {
    let mut wrong = Vec::new();
    for path in ours.keys().chain(theirs.keys()) {
        let (one, other) = (ours.get(path), theirs.get(path));
        if one == other {
            continue;
        }
        let name = String::from_utf8_lossy(path);
        let brief = |said: Option<&Said>| {
            let mut said = said.cloned()?;
            said.content.truncate(64);
            said.extended.values_mut().for_each(|value| value.truncate(64));
            Some(said)
        };
        wrong.push(format!("{name}:\n  ours   {:?}\n  theirs {:?}", brief(one), brief(other)));
    }
    wrong.dedup();
    wrong.truncate(10);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The node at a path of names.
pub(crate) fn find(system: &dyn FileSystem, path: &str) -> NodeId {
    path.split('/').fold(system.root(), |directory, wanted| {
        let mut found = None;
        let each = &mut |named: strongroom_images::Named| {
            found = (named.name == wanted.as_bytes()).then_some(named.node);
            found.is_none()
        };
        system.list(directory, each).unwrap();
        found.unwrap_or_else(|| panic!("no {wanted} of {path}"))
    })
}

/// Bytes that look like nothing, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}
