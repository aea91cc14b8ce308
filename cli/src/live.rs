//! A directory of this host against a point: what was added, removed and changed since. Reads
//! metadata only, or every byte where that is asked; follows no symbolic link.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use strongroom_protocol::{Chain, ChunkId};
use strongroom_store::content::{Entry, Node};

use crate::failure::{Failure, While};
use crate::human;
use crate::scene::{Scene, Spot};

/// Bytes of a file compared at a time: a few chunks.
const STEP_BYTES: u64 = 4 << 20;

/// How closely is looked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    Bytes,
    Metadata,
}

/// One difference from the point to the directory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LiveChange {
    pub(crate) path: Vec<u8>,
    /// `+` only here, `-` only in the point, `~` in both, `!` cannot be compared.
    pub(crate) sign: char,
    /// The kind of what was added or removed, or the fields that changed.
    pub(crate) what: Vec<String>,
}

/// Tells every difference, directory by directory.
pub(crate) fn compare(
    scene: &Scene,
    path: &[u8],
    dir: &Path,
    depth: Depth,
    tell: &mut dyn FnMut(LiveChange),
) -> Result<(), Failure> {
    let Spot::Directory { page, .. } = scene.spot(path)? else {
        return Err(Failure::usage(format!("/{} is no directory", human::name(path))));
    };
    std::fs::read_dir(dir).doing(format!("cannot read {}", dir.display()))?;
    let mut open: Vec<(Vec<u8>, ChunkId)> = vec![(Vec::new(), page)];
    while let Some((below, page)) = open.pop() {
        one_directory(scene, dir, &below, page, depth, tell, &mut open);
    }
    Ok(())
}

fn one_directory(
    scene: &Scene,
    dir: &Path,
    below: &[u8],
    page: ChunkId,
    depth: Depth,
    tell: &mut dyn FnMut(LiveChange),
    open: &mut Vec<(Vec<u8>, ChunkId)>,
) {
    let here = dir.join(std::ffi::OsStr::from_bytes(below));
    let mut cannot = |why: String| {
        tell(LiveChange { path: below.to_vec(), sign: '!', what: vec![why] });
    };
    let mut names = match names(&here) {
        Ok(names) => names,
        Err(error) => return cannot(error.to_string()),
    };
    let mut told = Vec::new();
    for entry in scene.tree.directory(page) {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                cannot(Chain(&error).to_string());
                continue;
            }
        };
        let path = joined(below, &entry.name);
        let Some(found) = names.remove(&entry.name) else {
            let what = vec![crate::show::kind_word(&entry.node).to_owned()];
            told.push(LiveChange { path, sign: '-', what });
            continue;
        };
        let what = fields(scene, &entry, &found, &here, depth);
        if let (Some(page), true) = (entry.directory_page(), found.is_dir()) {
            open.push((path.clone(), page));
        }
        if !what.is_empty() {
            told.push(LiveChange { path, sign: '~', what });
        }
    }
    for (name, found) in names {
        let what = vec![kind(&found).to_owned()];
        told.push(LiveChange { path: joined(below, &name), sign: '+', what });
    }
    told.sort_by(|a, b| a.path.cmp(&b.path));
    told.into_iter().for_each(tell);
}

fn names(dir: &Path) -> std::io::Result<BTreeMap<Vec<u8>, Metadata>> {
    let mut names = BTreeMap::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        // What is gone since the listing was only seen by accident.
        if let Ok(found) = entry.metadata() {
            names.insert(entry.file_name().into_vec(), found);
        }
    }
    Ok(names)
}

fn joined(below: &[u8], name: &[u8]) -> Vec<u8> {
    if below.is_empty() { name.to_vec() } else { [below, b"/", name].concat() }
}

fn kind(found: &Metadata) -> &'static str {
    let kind = found.file_type();
    match () {
        () if kind.is_dir() => "directory",
        () if kind.is_file() => "file",
        () if kind.is_symlink() => "symlink",
        () if kind.is_fifo() => "fifo",
        () if kind.is_socket() => "socket",
        () if kind.is_char_device() => "character device",
        () => "block device",
    }
}

fn fields(scene: &Scene, entry: &Entry, found: &Metadata, dir: &Path, depth: Depth) -> Vec<String> {
    let mut what = Vec::new();
    let was = crate::show::kind_word(&entry.node);
    if was != kind(found) {
        return vec![format!("{was} became {}", kind(found))];
    }
    let meta = &entry.meta;
    let mtime = i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec());
    let mut differs = |differs: bool, field: &str| {
        if differs {
            what.push(field.to_owned());
        }
    };
    let link = found.is_symlink();
    differs(!link && found.mode() & 0o7777 != meta.mode, "mode");
    differs(found.uid() != meta.uid, "owner");
    differs(found.gid() != meta.gid, "group");
    differs(mtime != i128::from(meta.mtime_ns), "modification time");
    let path = dir.join(std::ffi::OsStr::from_bytes(&entry.name));
    match &entry.node {
        Node::File { size, .. } => {
            differs(found.len() != *size, "size");
            if depth == Depth::Bytes && found.len() == *size {
                match same_bytes(scene, entry, *size, &path) {
                    Ok(same) => differs(!same, "content"),
                    Err(failure) => differs(true, &format!("cannot be compared: {failure}")),
                }
            }
        }
        Node::Symlink { target } => {
            let now = std::fs::read_link(&path).map(|now| now.into_os_string().into_vec());
            differs(now.ok().as_ref() != Some(target), "target");
        }
        _ => {}
    }
    what
}

fn same_bytes(scene: &Scene, entry: &Entry, size: u64, path: &Path) -> Result<bool, Failure> {
    let mut file = File::open(path)?;
    let mut at = 0;
    while at < size {
        let stored = scene.tree.read_file(entry, at, STEP_BYTES)?;
        let mut now = vec![0; stored.len()];
        if stored.is_empty() || file.read_exact(&mut now).is_err() || now != stored {
            return Ok(false);
        }
        at += stored.len() as u64;
    }
    Ok(true)
}
