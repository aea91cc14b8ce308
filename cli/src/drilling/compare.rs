//! A point mounted, and everything in it read through the kernel and compared with what its
//! manifest leads to. Every byte of the other side was checked against the name of its chunk; it
//! is read by other code than the mount's. What is seen of a name counts too: its kind, its size,
//! its permissions, its owner where this host can show it, its time and its target.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use strongroom_present::mount::{Items, Options, Permissions, Shown as Presented, mount};
use strongroom_protocol::control::Shown;
use strongroom_protocol::{BlobKind, ChunkId};
use strongroom_store::content::{ChunkExtent, Entry, FileContent, Node};
use strongroom_store::tree::{BlobSource as _, Tree};

use super::{Ground, Outcome};
use crate::failure::Failure;
use crate::human;
use crate::scene::Source;

/// Differences told; more are counted.
const TOLD_MAX: u64 = 5;
/// Chunks at hand: small files lie beside one another in theirs.
const CHUNKS_KEPT: usize = 8;
/// Bytes of a hole looked at in one go.
const STEP_BYTES: usize = 1 << 20;

/// Mounts the point and compares all of it; blocking.
pub(super) fn drill(ground: &Ground) -> Result<Outcome, Failure> {
    let scene = &ground.scene;
    let dir = ground.place.join("point");
    fs::create_dir(&dir)?;
    let mut options = Options::new("strongroom:drill");
    options.permissions = Permissions::Open;
    let items = if scene.meta.is_some() { Items::One } else { Items::Several };
    let source = Source::clone(scene.tree.source());
    let (root, meta) = (scene.tree.root(), scene.meta.clone());
    let shown = Presented { source, root, meta, items, bring: None };
    let mounted = mount(shown, &dir, &options)?;
    let seconds = ground.began.elapsed().as_secs_f64();
    let mut comparing = Comparing {
        tree: &scene.tree,
        owners: rustix::process::geteuid().is_root(),
        kept: VecDeque::new(),
        seen: Seen::default(),
    };
    comparing.all(&dir);
    let seen = comparing.seen;
    let took_ms = ground.took_ms();
    mounted.end()?;
    let Seen { files, others, bytes, wrong, told } = seen;
    let what = format!("{} files, {}", human::count(files), human::bytes(bytes));
    Ok(match wrong {
        0 => Outcome {
            shown: Shown::Held,
            took_ms,
            detail: format!(
                "mounted after {seconds:.1} s; {what} and {others} other names read through the \
                 mount, all as the manifest says"
            ),
        },
        _ => Outcome {
            shown: Shown::Failed,
            took_ms,
            detail: format!("{wrong} things are not as the manifest says: {}", told.join("; ")),
        },
    })
}

/// What was seen.
#[derive(Default)]
struct Seen {
    files: u64,
    others: u64,
    bytes: u64,
    wrong: u64,
    told: Vec<String>,
}

struct Comparing<'s> {
    tree: &'s Tree<Source>,
    /// Whether this host shows the owners of the point.
    owners: bool,
    kept: VecDeque<(ChunkId, Bytes)>,
    seen: Seen,
}

impl Comparing<'_> {
    fn all(&mut self, mounted: &Path) {
        let mut waiting = vec![(self.tree.root(), PathBuf::new())];
        while let Some((page, path)) = waiting.pop() {
            let mut names = match listed(&mounted.join(&path)) {
                Ok(names) => names,
                Err(error) => {
                    self.note(&path, &error.to_string());
                    BTreeMap::new()
                }
            };
            let tree = self.tree;
            for entry in tree.directory(page) {
                let entry = match entry {
                    Ok(entry) => entry,
                    Err(error) => {
                        self.note(&path, &strongroom_protocol::Chain(&error).to_string());
                        continue;
                    }
                };
                let below = path.join(OsStr::from_bytes(&entry.name));
                if names.remove(&entry.name).is_none() {
                    self.note(&below, "the mount does not list it");
                }
                if let Some(page) = entry.directory_page() {
                    waiting.push((page, below.clone()));
                }
                if let Err(why) = self.one(&entry, &mounted.join(&below)) {
                    self.note(&below, &why);
                }
            }
            for name in names.into_keys() {
                self.note(&path.join(OsStr::from_bytes(&name)), "the manifest has no such name");
            }
        }
    }

    fn note(&mut self, path: &Path, why: &str) {
        self.seen.wrong += 1;
        if self.seen.wrong <= TOLD_MAX {
            let path = human::name(path.as_os_str().as_bytes());
            self.seen.told.push(format!("/{path}: {why}"));
        }
    }

    fn one(&mut self, entry: &Entry, path: &Path) -> Result<(), String> {
        let about = fs::symlink_metadata(path).map_err(|error| error.to_string())?;
        looks(entry, &about, self.owners)?;
        match &entry.node {
            Node::File { size, content } => {
                self.seen.files += 1;
                self.file(content, *size, path)
            }
            Node::Symlink { target } => {
                self.seen.others += 1;
                let found = fs::read_link(path).map_err(|error| error.to_string())?;
                let same = found.as_os_str().as_bytes() == target;
                same.then_some(()).ok_or_else(|| "it leads elsewhere".to_owned())
            }
            _ => {
                self.seen.others += 1;
                Ok(())
            }
        }
    }

    fn file(&mut self, content: &FileContent, size: u64, path: &Path) -> Result<(), String> {
        let file = File::open(path).map_err(|error| error.to_string())?;
        let mut at = 0;
        if let FileContent::Inline(bytes) = content {
            same(&file, at, bytes)?;
            at += bytes.len() as u64;
        }
        let tree = self.tree;
        for placed in tree.extents(content) {
            let chain =
                |error: &dyn std::error::Error| strongroom_protocol::Chain(error).to_string();
            match placed.map_err(|error| chain(&error))?.extent {
                ChunkExtent::Chunk { id, offset, length } => {
                    let chunk = self.chunk(id)?;
                    let start = offset as usize;
                    let part = chunk.get(start..start + length as usize);
                    let part = part.ok_or_else(|| format!("chunk {id} is too short"))?;
                    same(&file, at, part)?;
                    at += u64::from(length);
                }
                ChunkExtent::Hole { length } => {
                    zeros(&file, at, length)?;
                    at += length;
                }
            }
        }
        self.seen.bytes += at;
        match at == size {
            true => Ok(()),
            false => Err(format!("the manifest leads to {at} of {size} bytes")),
        }
    }

    fn chunk(&mut self, id: ChunkId) -> Result<Bytes, String> {
        if let Some((_, known)) = self.kept.iter().find(|(known, _)| *known == id) {
            return Ok(known.clone());
        }
        let read = self.tree.source().plain(BlobKind::Data, id);
        let plain = read.map_err(|error| strongroom_protocol::Chain(&error).to_string())?;
        if self.kept.len() >= CHUNKS_KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back((id, plain.clone()));
        Ok(plain)
    }
}

/// The names in a directory of the mount.
fn listed(dir: &Path) -> std::io::Result<BTreeMap<Vec<u8>, ()>> {
    let mut names = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        names.insert(entry?.file_name().into_vec(), ());
    }
    Ok(names)
}

/// Whether a name looks as the manifest says.
fn looks(entry: &Entry, about: &Metadata, owners: bool) -> Result<(), String> {
    let kind = about.file_type();
    let is_kind = match &entry.node {
        Node::Directory { .. } => kind.is_dir(),
        Node::File { .. } => kind.is_file(),
        Node::Symlink { .. } => kind.is_symlink(),
        Node::Fifo => kind.is_fifo(),
        Node::Socket => kind.is_socket(),
        Node::CharDevice { .. } => kind.is_char_device(),
        Node::BlockDevice { .. } => kind.is_block_device(),
    };
    if !is_kind {
        return Err("it is of another kind".to_owned());
    }
    if let Node::File { size, .. } = &entry.node
        && *size != about.len()
    {
        return Err(format!("it has {} bytes, not {size}", about.len()));
    }
    let meta = &entry.meta;
    if !kind.is_symlink() && meta.mode != about.mode() & 0o7777 {
        return Err(format!("its mode is {:o}, not {:o}", about.mode() & 0o7777, meta.mode));
    }
    if owners && (meta.uid, meta.gid) != (about.uid(), about.gid()) {
        return Err(format!("its owner is {}:{}", about.uid(), about.gid()));
    }
    let time = i128::from(about.mtime()) * 1_000_000_000 + i128::from(about.mtime_nsec());
    match time == i128::from(meta.mtime_ns) {
        true => Ok(()),
        false => Err("its time of modification is another".to_owned()),
    }
}

/// Whether the mount gives these bytes there.
fn same(file: &File, at: u64, bytes: &[u8]) -> Result<(), String> {
    let mut read = vec![0; bytes.len()];
    file.read_exact_at(&mut read, at).map_err(|error| format!("at {at}: {error}"))?;
    match read == bytes {
        true => Ok(()),
        false => Err(format!("the mount gives other bytes from {at} on")),
    }
}

/// Whether the mount gives nothing but zeros there.
fn zeros(file: &File, at: u64, length: u64) -> Result<(), String> {
    let mut read = vec![0; STEP_BYTES];
    let end = at + length;
    let mut at = at;
    while at < end {
        let step = usize::try_from(end - at).unwrap_or(STEP_BYTES).min(STEP_BYTES);
        let part = read.get_mut(..step).unwrap_or_default();
        file.read_exact_at(part, at).map_err(|error| format!("at {at}: {error}"))?;
        if part.iter().any(|byte| *byte != 0) {
            return Err(format!("the mount gives bytes in a hole at {at}"));
        }
        at += step as u64;
    }
    Ok(())
}
