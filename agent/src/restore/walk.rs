//! Goes through the tree and through the target side by side: makes directories as they
//! are needed, hands files to the writers in parts, makes everything else itself.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::Sender;
use rustix::fs::{AtFlags, FileType, Mode};
use strongroom_protocol::ChunkId;
use strongroom_store::content::{Entry, FileContent, Meta, Node};
use strongroom_store::page::DirectoryReader;
use strongroom_store::tree::{BlobSource, Tree};

use crate::restore::apply::{Symlink, apply_at};
use crate::restore::directory::Directory;
use crate::restore::file::{Part, Target, part_name};
use crate::restore::links::{Group, Groups, Name};
use crate::restore::{Overwrite, Shared};
use crate::workload::files::metadata::{open_directory, stat_at};

/// Bytes of a file one writer takes at a time; several write one long file.
const PART_BYTES: u64 = 16 << 20;
/// Extents of one part at most.
const PART_EXTENTS_MAX: usize = 1024;

struct Level<'tree, S> {
    reader: DirectoryReader<'tree, S>,
    /// None until something in it is restored.
    directory: Option<Arc<Directory>>,
    name: Vec<u8>,
    meta: Meta,
    path_above: usize,
    /// It was wanted itself, so everything in it is.
    whole: bool,
}

pub(crate) struct RestoreWalk<'run, S> {
    tree: &'run Tree<S>,
    levels: Vec<Level<'run, S>>,
    root: Arc<Directory>,
    path: Vec<u8>,
    parts: Sender<Part>,
    groups: Groups,
    shared: &'run Arc<Shared>,
}

impl<'run, S: BlobSource> RestoreWalk<'run, S> {
    pub(crate) fn new(
        tree: &'run Tree<S>,
        root: Arc<Directory>,
        page: ChunkId,
        parts: Sender<Part>,
        shared: &'run Arc<Shared>,
    ) -> Self {
        let level = Level {
            reader: tree.directory(page),
            directory: Some(Arc::clone(&root)),
            name: Vec::new(),
            meta: Meta::default(),
            path_above: 0,
            whole: shared.options.selection.is_all(),
        };
        let (levels, path, groups) = (vec![level], Vec::new(), Groups::default());
        Self { tree, levels, root, path, parts, groups, shared }
    }

    pub(crate) fn run(mut self) {
        while let Some(level) = self.levels.last_mut() {
            if self.shared.stopped() {
                return;
            }
            let above = self.path.len();
            match level.reader.next() {
                None => {
                    let above = level.path_above;
                    self.levels.pop();
                    self.path.truncate(above);
                }
                Some(Err(error)) => self.shared.problem(&self.path, &error),
                Some(Ok(entry)) => {
                    let whole = level.whole;
                    if above > 0 {
                        self.path.push(b'/');
                    }
                    self.path.extend_from_slice(&entry.name);
                    if !self.visit(entry, whole, above) {
                        self.path.truncate(above);
                    }
                }
            }
        }
    }

    /// Restores an entry; true if it is a directory that is gone into.
    fn visit(&mut self, entry: Entry, whole: bool, above: usize) -> bool {
        let selection = &self.shared.options.selection;
        let page = entry.directory_page();
        let wanted = whole || selection.wants(&self.path, page.is_some());
        if let Some(page) = page {
            if !wanted && !selection.may_want_below(&self.path) {
                return false;
            }
            let (name, meta) = (entry.name, entry.meta);
            let reader = self.tree.directory(page);
            let (path_above, directory) = (above, None);
            self.levels.push(Level { reader, directory, name, meta, path_above, whole: wanted });
            if wanted && self.directory().is_none() {
                self.levels.pop();
                return false;
            }
            return true;
        }
        if wanted && let Some(directory) = self.directory() {
            let restored = match self.groups.meet(entry.meta.link_group, &self.path) {
                Name::Single => self.restore(&directory, &entry, None),
                Name::First(group) => self.first(&directory, &entry, &group),
                Name::Again(group) => self.again(&directory, &entry, &group),
            };
            if let Err(error) = restored {
                self.shared.problem(&self.path, &error);
            }
        }
        false
    }

    /// The open directory on top, made now with those above it if it was not yet.
    fn directory(&mut self) -> Option<Arc<Directory>> {
        let mut parent = Arc::clone(&self.root);
        let from = self.levels.iter().rposition(|level| level.directory.is_some())?;
        for index in from..self.levels.len() {
            let end = self.levels.get(index + 1).map_or(self.path.len(), |next| next.path_above);
            let level = self.levels.get_mut(index)?;
            if let Some(directory) = &level.directory {
                parent = Arc::clone(directory);
                continue;
            }
            let path = self.path.get(..end).unwrap_or_default();
            match parent.below(&level.name, path, level.meta.clone()) {
                Ok(made) => {
                    self.shared.progress.directories.fetch_add(1, Ordering::Relaxed);
                    level.directory = Some(Arc::clone(&made));
                    parent = made;
                }
                Err(error) => {
                    self.shared.problem(path, &error);
                    return None;
                }
            }
        }
        Some(parent)
    }

    fn first(&self, at: &Arc<Directory>, entry: &Entry, group: &Arc<Group>) -> io::Result<()> {
        let restored = self.restore(at, entry, Some(Arc::clone(group)));
        if !matches!(entry.node, Node::File { .. }) || restored.is_err() {
            group.done(restored.is_ok());
        }
        restored
    }

    fn again(&self, at: &Arc<Directory>, entry: &Entry, group: &Arc<Group>) -> io::Result<()> {
        if !group.wait() || self.link(at, entry, group).is_err() {
            return self.restore(at, entry, None);
        }
        self.shared.progress.links.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn link(&self, at: &Arc<Directory>, entry: &Entry, group: &Group) -> io::Result<()> {
        let dir = at.dir.as_fd();
        let there = stat_at(dir, &entry.name).ok();
        let mut from = Vec::new();
        let mut names = group.path.split(|byte| *byte == b'/').peekable();
        let mut open = rustix::io::dup(&self.root.dir)?;
        while let Some(name) = names.next() {
            match names.peek() {
                Some(_) => open = open_directory(open.as_fd(), name)?,
                None => from = name.to_vec(),
            }
        }
        let first = stat_at(open.as_fd(), &from)?;
        match there {
            Some(found) if found.is_same_inode(&first) => return Ok(()),
            Some(_) if self.shared.options.overwrite == Overwrite::Never => return Ok(()),
            _ => {}
        }
        let part = part_name(&entry.name);
        // Left by an earlier try.
        let _ = rustix::fs::unlinkat(dir, &part[..], AtFlags::empty());
        rustix::fs::linkat(&open, &from[..], dir, &part[..], AtFlags::empty())?;
        Ok(rustix::fs::renameat(dir, &part[..], dir, &entry.name[..])?)
    }

    fn restore(
        &self,
        at: &Arc<Directory>,
        entry: &Entry,
        group: Option<Arc<Group>>,
    ) -> io::Result<()> {
        match &entry.node {
            Node::File { size, content } => self.file(at, entry, *size, content, group),
            node => self.other(at, entry, node),
        }
    }

    fn file(
        &self,
        at: &Arc<Directory>,
        entry: &Entry,
        size: u64,
        content: &FileContent,
        group: Option<Arc<Group>>,
    ) -> io::Result<()> {
        let (name, path, meta) = (&entry.name, &self.path, entry.meta.clone());
        let opened = Target::open(at, name, path, size, meta, group.clone(), self.shared)?;
        let Some(target) = opened else {
            self.shared.progress.skipped.fetch_add(1, Ordering::Relaxed);
            if let Some(group) = group {
                group.done(true);
            }
            return Ok(());
        };
        let send = |extents, inline| {
            let part = Part { target: Arc::clone(&target), extents, inline };
            // The writers are there as long as the walk is.
            let _ = self.parts.send(part);
        };
        if let FileContent::Inline(bytes) = content {
            send(Vec::new(), bytes.clone());
            return Ok(());
        }
        let (mut extents, mut bytes) = (Vec::new(), 0);
        for placed in self.tree.extents(content) {
            match placed {
                Ok(placed) => {
                    bytes += placed.extent.length();
                    extents.push(placed);
                }
                Err(error) => {
                    target.fail(&error);
                    break;
                }
            }
            if bytes >= PART_BYTES || extents.len() >= PART_EXTENTS_MAX {
                send(std::mem::take(&mut extents), Vec::new());
                bytes = 0;
            }
        }
        send(extents, Vec::new());
        Ok(())
    }

    fn other(&self, at: &Arc<Directory>, entry: &Entry, node: &Node) -> io::Result<()> {
        let dir = at.dir.as_fd();
        if self.shared.options.overwrite == Overwrite::Never && stat_at(dir, &entry.name).is_ok() {
            self.shared.progress.skipped.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let part = part_name(&entry.name);
        // Left by an earlier try.
        let _ = rustix::fs::unlinkat(dir, &part[..], AtFlags::empty());
        let make = |kind, device| {
            rustix::fs::mknodat(dir, &part[..], kind, Mode::RUSR | Mode::WUSR, device)
        };
        let mut is_symlink = Symlink::No;
        match node {
            Node::Symlink { target } => {
                is_symlink = Symlink::Yes;
                rustix::fs::symlinkat(&target[..], dir, &part[..])?;
            }
            Node::Fifo => make(FileType::Fifo, 0)?,
            Node::Socket => make(FileType::Socket, 0)?,
            Node::CharDevice { major, minor } => {
                make(FileType::CharacterDevice, rustix::fs::makedev(*major, *minor))?;
            }
            Node::BlockDevice { major, minor } => {
                make(FileType::BlockDevice, rustix::fs::makedev(*major, *minor))?;
            }
            Node::File { .. } | Node::Directory { .. } => return Ok(()),
        }
        let applied = apply_at(dir, &part, &entry.meta, &self.shared.options.owners, is_symlink);
        rustix::fs::renameat(dir, &part[..], dir, &entry.name[..])?;
        self.shared.progress.others.fetch_add(1, Ordering::Relaxed);
        applied
    }
}
