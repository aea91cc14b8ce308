//! Goes through the tree and through the target side by side: makes directories as they are
//! needed, plans files into windows for the writers, makes everything else itself.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::Sender;
use rustix::fs::{AtFlags, FileType, Mode};
use rustix::process::Resource;
use strongroom_protocol::ChunkId;
use strongroom_store::content::{ChunkExtent, Entry, FileContent, Meta, Node};
use strongroom_store::page::DirectoryReader;
use strongroom_store::tree::{BlobSource, Tree};

use crate::restore::apply::{Symlink, apply_at};
use crate::restore::directory::Directory;
use crate::restore::file::{Differs, File, Ground, part_name};
use crate::restore::links::{Follower, Group, Groups, Name};
use crate::restore::look::look;
use crate::restore::window::{Piece, Task, Window, Work};
use crate::restore::{Overwrite, Shared};
use crate::workload::files::metadata::{FileKind, stat_at};

/// A window may hold this part of the descriptors there are; three windows are under way.
const DESCRIPTORS_PART: usize = 8;
/// Descriptors a window may hold however many there are.
const DESCRIPTORS_MAX: usize = 4096;

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
    window: Window,
    descriptors_max: usize,
    writers: Vec<Sender<Arc<Work<'run>>>>,
    groups: Groups,
    shared: &'run Arc<Shared>,
}

impl<'run, S: BlobSource> RestoreWalk<'run, S> {
    pub(crate) fn new(
        tree: &'run Tree<S>,
        root: Arc<Directory>,
        page: ChunkId,
        writers: Vec<Sender<Arc<Work<'run>>>>,
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
        let limit = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let descriptors = usize::try_from(limit).unwrap_or(usize::MAX) / DESCRIPTORS_PART;
        Self {
            tree,
            levels: vec![level],
            root,
            path: Vec::new(),
            window: Window::default(),
            descriptors_max: descriptors.clamp(1, DESCRIPTORS_MAX),
            writers,
            groups: Groups::default(),
            shared,
        }
    }

    /// Restores names by themselves whose first name was not to be had.
    pub(crate) fn restore_alone(mut self, orphans: Vec<Follower>) {
        for Follower { directory, entry } in orphans {
            self.path = directory.path_of(&entry.name);
            if let Err(error) = self.restore(&directory, entry, None) {
                self.shared.problem(&self.path, &error);
            }
        }
        self.flush();
    }

    pub(crate) fn run(mut self) {
        self.walk();
        self.flush();
    }

    /// Has the window carried out, and begins another.
    fn flush(&mut self) {
        let mut window = std::mem::take(&mut self.window);
        look(&mut window, self.shared);
        if window.is_empty() || self.shared.stopped() {
            return;
        }
        // Asked for now, so that they come while the window before is still being written.
        let coming = self.tree.source().gather(window.chunks.keys().copied().collect());
        let work = Arc::new(Work::new(window, coming));
        for writer in &self.writers {
            // The writers are there as long as the walk is.
            let _ = writer.send(Arc::clone(&work));
        }
    }

    fn walk(&mut self) {
        while let Some(level) = self.levels.last_mut() {
            if self.shared.stopped() {
                return;
            }
            if self.window.is_full(self.descriptors_max) {
                self.flush();
                continue;
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
                Name::Single => self.restore(&directory, entry, None),
                Name::First(group) => self.first(&directory, entry, &group),
                Name::Again(group) => {
                    group.follow(Follower { directory, entry }, self.shared);
                    Ok(())
                }
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
                    self.window.descriptors += 1;
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

    fn first(&mut self, at: &Arc<Directory>, entry: Entry, group: &Arc<Group>) -> io::Result<()> {
        let is_file = matches!(entry.node, Node::File { .. });
        let restored = self.restore(at, entry, Some(Arc::clone(group)));
        if !is_file || restored.is_err() {
            group.done(restored.is_ok(), self.shared);
        }
        restored
    }

    fn restore(
        &mut self,
        at: &Arc<Directory>,
        entry: Entry,
        group: Option<Arc<Group>>,
    ) -> io::Result<()> {
        let Entry { name, node, meta } = entry;
        match node {
            Node::File { size, content } => {
                let Some(ground) = self.ground(at, &name)? else {
                    self.shared.progress.skipped.fetch_add(1, Ordering::Relaxed);
                    if let Some(group) = group {
                        group.done(true, self.shared);
                    }
                    return Ok(());
                };
                let file = File::new(at, name, size, meta, ground, group);
                self.plan(&file, size, content);
                Ok(())
            }
            node => self.other(at, &Entry { name, node, meta }),
        }
    }

    /// What lies where a file is to be; none if it is to be left alone.
    fn ground(&self, at: &Directory, name: &[u8]) -> io::Result<Option<Ground>> {
        if at.is_fresh {
            return Ok(Some(Ground::Nothing));
        }
        let dir = at.dir.as_fd();
        let overwrite = self.shared.options.overwrite;
        if let Ok(found) = stat_at(dir, name) {
            // A file of several names may have names outside of what is restored.
            let is_own = found.kind == FileKind::File && found.links == 1;
            match overwrite {
                // What an earlier try named is known by its bytes alone.
                Overwrite::Never if !self.compares() => return Ok(None),
                Overwrite::Never if found.kind == FileKind::File => return Ok(Some(Ground::Kept)),
                Overwrite::Never => return Err(self.left_alone()),
                Overwrite::IfDifferent if is_own => return Ok(Some(Ground::File)),
                Overwrite::IfDifferent | Overwrite::Always => return Ok(Some(Ground::Other)),
            }
        }
        let left = stat_at(dir, &part_name(name));
        let is_left = left.is_ok_and(|left| left.kind == FileKind::File);
        Ok(Some(if is_left { Ground::Left } else { Ground::Nothing }))
    }

    /// Whether what stays is told where it is not what was to be restored.
    fn compares(&self) -> bool {
        self.shared.options.keys.is_some()
    }

    fn left_alone(&self) -> io::Error {
        self.shared.progress.skipped.fetch_add(1, Ordering::Relaxed);
        io::Error::other(Differs)
    }

    /// Puts the pieces of a file into the window, and into more of them where it is long.
    fn plan(&mut self, file: &Arc<File>, size: u64, content: FileContent) {
        self.window.files += 1;
        if let FileContent::Inline(bytes) = content {
            return self.window.tasks.push(Task::Write { file: Arc::clone(file), bytes });
        }
        if size == 0 {
            let task = Task::Write { file: Arc::clone(file), bytes: Vec::new() };
            return self.window.tasks.push(task);
        }
        let tree = self.tree;
        let mut is_held = false;
        for placed in tree.extents(&content) {
            let placed = match placed {
                Ok(placed) => placed,
                Err(error) => return file.fail(&error),
            };
            if self.shared.stopped() {
                return;
            }
            if placed.extent.length() < size && !is_held {
                self.window.descriptors += 1;
                is_held = true;
            }
            let (file, at) = (Arc::clone(file), placed.at);
            match placed.extent {
                ChunkExtent::Hole { length } => {
                    self.window.tasks.push(Task::Hole { file, at, length });
                }
                ChunkExtent::Chunk { id, offset, length } => {
                    self.window.add(id, Piece { file, at, offset, length });
                }
            }
            if self.window.is_full(usize::MAX) {
                self.flush();
                is_held = false;
            }
        }
    }

    fn other(&self, at: &Arc<Directory>, entry: &Entry) -> io::Result<()> {
        let dir = at.dir.as_fd();
        if self.shared.options.overwrite == Overwrite::Never
            && let Ok(found) = stat_at(dir, &entry.name)
        {
            let progress = &self.shared.progress;
            match self.compares() {
                true if !is_other(dir, entry, found.kind) => return Err(self.left_alone()),
                true => progress.others.fetch_add(1, Ordering::Relaxed),
                false => progress.skipped.fetch_add(1, Ordering::Relaxed),
            };
            return Ok(());
        }
        let part = part_name(&entry.name);
        // Left by an earlier try.
        let _ = rustix::fs::unlinkat(dir, &part[..], AtFlags::empty());
        let make = |kind, device| {
            rustix::fs::mknodat(dir, &part[..], kind, Mode::RUSR | Mode::WUSR, device)
        };
        let mut is_symlink = Symlink::No;
        match &entry.node {
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

/// Whether what is there is the symlink, or the kind of node, that the entry is.
fn is_other(dir: BorrowedFd<'_>, entry: &Entry, found: FileKind) -> bool {
    match &entry.node {
        Node::Symlink { target } => {
            let there = rustix::fs::readlinkat(dir, &entry.name[..], Vec::new());
            there.is_ok_and(|there| there.as_bytes() == &target[..])
        }
        Node::Fifo => found == FileKind::Fifo,
        Node::Socket => found == FileKind::Socket,
        Node::CharDevice { .. } => found == FileKind::CharDevice,
        Node::BlockDevice { .. } => found == FileKind::BlockDevice,
        Node::File { .. } | Node::Directory { .. } => false,
    }
}
