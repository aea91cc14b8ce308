//! What an image says of its files as entries of a tree. What a tree does not hold or a host does
//! not take is left out, and told.

use std::collections::BTreeSet;

use strongroom_images::cell::{CellError, Thing};
use strongroom_images::{Attributes, Kind, NodeId};
use strongroom_protocol::blob::PLAIN_BYTES_MAX;
use strongroom_protocol::{BlobKind, ChunkId, Reference};
use strongroom_store::content::{ChunkExtent, Entry, FileContent, Meta, Node, Xattr};
use strongroom_store::page::DirectoryBuilder;
use strongroom_store::tree::{Blob, BlobSink, SinkError};

use crate::inside::Inside;
use crate::inside::id::{Id, Part};

/// Modes where a file system has none.
const MODE_DIRECTORY: u32 = 0o755;
const MODE_FILE: u32 = 0o644;
const MODE_READ_ONLY: u32 = 0o444;
const DOS_READ_ONLY: u32 = 1;
/// Extended attributes that a host takes.
const TAKEN: [&[u8]; 5] =
    [b"user.", b"trusted.", b"security.", b"system.posix_acl_access", b"system.posix_acl_default"];

/// What is not given of anything.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    modes: bool,
    owners: bool,
    extended: BTreeSet<Vec<u8>>,
}

impl Limits {
    pub(super) fn told(&self, system: &str) -> Vec<String> {
        let mut told = Vec::new();
        let lacks = match (self.modes, self.owners) {
            (true, true) => Some("owners and modes"),
            (true, false) => Some("modes"),
            (false, true) => Some("owners"),
            (false, false) => None,
        };
        if let Some(lacks) = lacks {
            told.push(format!("{system} keeps no {lacks} as Linux has them: usual ones are given"));
        }
        if !self.extended.is_empty() {
            let names: Vec<_> =
                self.extended.iter().map(|name| String::from_utf8_lossy(name)).collect();
            told.push(format!("not given, for no file system here takes it: {}", names.join(", ")));
        }
        told
    }

    fn learn(&mut self, attributes: &Attributes) {
        self.modes |= attributes.mode.is_none();
        self.owners |= attributes.uid.is_none();
    }
}

/// Takes pages as they are made, and calls them by number.
struct Pages {
    node: u64,
    blobs: Vec<Blob>,
}

impl BlobSink for Pages {
    fn put(
        &mut self,
        _: BlobKind,
        references: Vec<Reference>,
        plain: Vec<u8>,
    ) -> Result<ChunkId, SinkError> {
        self.blobs.push(Blob { references, plain: plain.into() });
        let place = self.blobs.len() as u64;
        Ok(Id { part: Part::Page, node: self.node, place, size: 0 }.chunk())
    }
}

/// What is kept of a node beside its content.
pub(super) fn meta(node: NodeId, attributes: &Attributes) -> Meta {
    let is_directory = attributes.kind == Kind::Directory;
    let usual = match attributes.dos {
        _ if is_directory => MODE_DIRECTORY,
        Some(dos) if dos & DOS_READ_ONLY != 0 => MODE_READ_ONLY,
        _ => MODE_FILE,
    };
    let modified = attributes.modified.unwrap_or(0);
    let has_names = !is_directory && attributes.links.is_some_and(|links| links > 1);
    Meta {
        mode: attributes.mode.map_or(usual, |mode| mode & 0o7777),
        uid: attributes.uid.unwrap_or_else(|| rustix::process::geteuid().as_raw()),
        gid: attributes.gid.unwrap_or_else(|| rustix::process::getegid().as_raw()),
        mtime_ns: i64::try_from(modified).unwrap_or(if modified < 0 { i64::MIN } else { i64::MAX }),
        link_group: if has_names { node.0 } else { 0 },
        ..Meta::default()
    }
}

impl Inside {
    /// The pages of a directory, that of all of it last.
    pub(super) fn pages(&self, node: NodeId) -> Result<Vec<Blob>, CellError> {
        let mut listing = self.cell.list(self.partition, node)?;
        let where_is = |name: &[u8]| {
            format!("{}, {:?} in a directory", self.name, String::from_utf8_lossy(name))
        };
        if let Some(problem) = listing.problem.take() {
            self.note(format!("{}: a part of a directory cannot be read: {problem}", self.name));
        }
        listing.things.sort_by(|a, b| a.name.cmp(&b.name));
        let mut pages = Pages { node: node.0, blobs: Vec::new() };
        let mut builder = DirectoryBuilder::new();
        let mut before: Option<Vec<u8>> = None;
        for thing in listing.things {
            let name = thing.name.clone();
            if before.as_ref() == Some(&name) {
                self.note(format!("{} is there twice: one is left out", where_is(&name)));
                continue;
            }
            let entry = match self.entry(thing, node.0) {
                Ok(entry) => entry,
                Err(why) => {
                    self.note(format!("{}: {why}", where_is(&name)));
                    continue;
                }
            };
            if let Err(error) = entry.check() {
                self.note(format!("{} is left out: {error}", where_is(&name)));
                continue;
            }
            let pushed = builder.push(entry, &mut pages);
            pushed.map_err(|error| CellError::Problem { why: error.to_string() })?;
            before = Some(name);
        }
        let top = builder.finish(&mut pages);
        top.map_err(|error| CellError::Problem { why: error.to_string() })?;
        Ok(pages.blobs)
    }

    fn entry(&self, thing: Thing, parent: u64) -> Result<Entry, String> {
        let Thing { name, node, attributes, target, extended, lacks } = thing;
        let attributes = attributes?;
        if let Some(lacks) = lacks {
            let shown = String::from_utf8_lossy(&name);
            self.note(format!("{}, {shown:?} in a directory: without {lacks}", self.name));
        }
        let mut meta = meta(node, &attributes);
        let mut limits = self.limits.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        limits.learn(&attributes);
        for (name, value) in extended {
            match TAKEN.iter().any(|taken| name.starts_with(taken)) {
                true => meta.xattrs.push(Xattr { name, value }),
                false if limits.extended.len() < 16 => drop(limits.extended.insert(name)),
                false => {}
            }
        }
        drop(limits);
        meta.xattrs.sort_unstable();
        meta.xattrs.dedup_by(|a, b| a.name == b.name);
        let id = |part, size| Id { part, node: node.0, place: 0, size }.chunk();
        let size = attributes.size;
        let node = match attributes.kind {
            Kind::Directory if !self.is_in_place(node.0, parent, &name) => {
                return Err("this directory was met elsewhere already: left out here".to_owned());
            }
            Kind::Directory => Node::Directory { page: id(Part::Page, 0) },
            Kind::File => {
                let content = match u32::try_from(size) {
                    Ok(0) => FileContent::Extents(Vec::new()),
                    Ok(length) if size <= PLAIN_BYTES_MAX as u64 => {
                        let id = id(Part::Data, size);
                        FileContent::Extents(vec![ChunkExtent::Chunk { id, offset: 0, length }])
                    }
                    _ => FileContent::Listed { list: id(Part::List, size), size },
                };
                Node::File { size, content }
            }
            Kind::Symlink => Node::Symlink { target },
            Kind::Fifo => Node::Fifo,
            Kind::Socket => Node::Socket,
            Kind::CharacterDevice { major, minor } => Node::CharDevice { major, minor },
            Kind::BlockDevice { major, minor } => Node::BlockDevice { major, minor },
            _ => return Err("it is of a kind that no tree has".to_owned()),
        };
        Ok(Entry { name, node, meta })
    }
}
