//! Compares two trees as they stream past: what was added, removed and changed, and what
//! of it changed. Promises bounded memory and never to read a page both have; where a page
//! cannot be read it says so, and its names may then seem added or removed.

use std::cmp::Ordering;
use std::fmt;

use strongroom_protocol::ChunkId;

use crate::content::{Entry, Meta, Node};
use crate::page::{DirectoryReader, PageError};
use crate::tree::{BlobSource, Damage, DamageCause, Step, Tree, WALK_DEPTH_MAX, Walk, join};

/// One difference. What lies in an added or removed directory is told entry by entry.
#[derive(Debug)]
pub enum Change {
    /// Only in the new tree.
    Added { path: Vec<u8>, entry: Entry },
    /// In both, and not the same. A directory is changed by its metadata only.
    Changed { path: Vec<u8>, old: Entry, new: Entry, fields: Vec<Field> },
    /// A page of one of the trees that cannot be read.
    Damaged { side: Side, damage: Damage },
    /// Only in the old tree.
    Removed { path: Vec<u8>, entry: Entry },
}

/// One of the two trees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    New,
    Old,
}

/// Something that can differ between two entries of one path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Field {
    Birth,
    Content,
    Device,
    Flags,
    Gid,
    Kind,
    LinkGroup,
    Mode,
    Mtime,
    Project,
    Size,
    Target,
    Uid,
    /// The extended attribute of this name.
    Xattr(Vec<u8>),
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Birth => "birth time",
            Self::Content => "content",
            Self::Device => "device number",
            Self::Flags => "flags",
            Self::Gid => "group",
            Self::Kind => "kind",
            Self::LinkGroup => "hard links",
            Self::Mode => "mode",
            Self::Mtime => "modification time",
            Self::Project => "project",
            Self::Size => "size",
            Self::Target => "target",
            Self::Uid => "owner",
            Self::Xattr(name) => return write!(f, "xattr {}", name.escape_ascii()),
        })
    }
}

/// An iterator over the differences of two trees, in name order, depth first.
pub struct Diff<'t, A, B> {
    old: &'t Tree<A>,
    new: &'t Tree<B>,
    levels: Vec<Level<'t, A, B>>,
    /// The subtree only one of them has, being told.
    lone: Option<Lone<'t, A, B>>,
}

struct Level<'t, A, B> {
    path: Vec<u8>,
    old: DirectoryReader<'t, A>,
    new: DirectoryReader<'t, B>,
    old_head: Option<Entry>,
    new_head: Option<Entry>,
}

enum Lone<'t, A, B> {
    Old(Walk<'t, A>),
    New(Walk<'t, B>),
}

impl<'t, A: BlobSource, B: BlobSource> Diff<'t, A, B> {
    /// The differences from `old` to `new`; nothing is read yet.
    pub fn new(old: &'t Tree<A>, new: &'t Tree<B>) -> Self {
        let mut diff = Self { old, new, levels: Vec::new(), lone: None };
        if old.root() != new.root() {
            diff.enter(Vec::new(), old.root(), new.root());
        }
        diff
    }

    fn enter(&mut self, path: Vec<u8>, old: ChunkId, new: ChunkId) {
        let (old, new) = (self.old.directory(old), self.new.directory(new));
        self.levels.push(Level { path, old, new, old_head: None, new_head: None });
    }

    fn one(&mut self, side: Side, path: Vec<u8>, entry: Entry) -> Change {
        let page = entry.directory_page();
        match side {
            Side::Old => {
                self.lone = page.map(|page| Lone::Old(self.old.walk_from(page, &path)));
                Change::Removed { path, entry }
            }
            Side::New => {
                self.lone = page.map(|page| Lone::New(self.new.walk_from(page, &path)));
                Change::Added { path, entry }
            }
        }
    }

    fn both(&mut self, path: Vec<u8>, old: Entry, new: Entry) -> Option<Change> {
        let fields = differences(&old, &new);
        match (old.directory_page(), new.directory_page()) {
            (Some(a), Some(b)) if a != b => {
                if self.levels.len() >= WALK_DEPTH_MAX {
                    let damage = Damage { path, id: b, cause: DamageCause::TooDeep };
                    return Some(Change::Damaged { side: Side::New, damage });
                }
                self.enter(path.clone(), a, b);
            }
            (Some(page), None) => self.lone = Some(Lone::Old(self.old.walk_from(page, &path))),
            (None, Some(page)) => self.lone = Some(Lone::New(self.new.walk_from(page, &path))),
            (Some(_), Some(_)) | (None, None) => {}
        }
        (!fields.is_empty()).then_some(Change::Changed { path, old, new, fields })
    }

    /// The next difference in the subtree only one of them has.
    fn next_lone(&mut self) -> Option<Change> {
        loop {
            let (side, step) = match self.lone.as_mut()? {
                Lone::Old(walk) => (Side::Old, walk.next()),
                Lone::New(walk) => (Side::New, walk.next()),
            };
            match (side, step) {
                (_, Some(Step::Leave { .. })) => {}
                (_, Some(Step::Damaged(damage))) => return Some(Change::Damaged { side, damage }),
                (Side::Old, Some(Step::Enter { path, entry })) => {
                    return Some(Change::Removed { path, entry });
                }
                (Side::New, Some(Step::Enter { path, entry })) => {
                    return Some(Change::Added { path, entry });
                }
                (_, None) => self.lone = None,
            }
        }
    }
}

impl<A: BlobSource, B: BlobSource> Iterator for Diff<'_, A, B> {
    type Item = Change;

    fn next(&mut self) -> Option<Change> {
        loop {
            if let Some(change) = self.next_lone() {
                return Some(change);
            }
            let level = self.levels.last_mut()?;
            if let Err((side, error)) = level.fill() {
                let (path, id) = (level.path.clone(), error.page());
                let damage = Damage { path, id, cause: DamageCause::Page(error) };
                return Some(Change::Damaged { side, damage });
            }
            let mut path = level.path.clone();
            let change = match level.take() {
                (None, None) => {
                    self.levels.pop();
                    None
                }
                (Some(old), None) => {
                    join(&mut path, &old.name);
                    Some(self.one(Side::Old, path, old))
                }
                (None, Some(new)) => {
                    join(&mut path, &new.name);
                    Some(self.one(Side::New, path, new))
                }
                (Some(old), Some(new)) => {
                    join(&mut path, &new.name);
                    self.both(path, old, new)
                }
            };
            if change.is_some() {
                return change;
            }
        }
    }
}

impl<A: BlobSource, B: BlobSource> Level<'_, A, B> {
    /// Has the next entry of each ready, leaving out pages that both have.
    fn fill(&mut self) -> Result<(), (Side, PageError)> {
        while self.old_head.is_none() && self.new_head.is_none() {
            match (self.old.pending(), self.new.pending()) {
                (Some(old), Some(new)) if old == new => {
                    self.old.skip_pending();
                    self.new.skip_pending();
                }
                (Some(_), Some(_)) => {
                    self.old.open_pending().map_err(|error| (Side::Old, error))?;
                    self.new.open_pending().map_err(|error| (Side::New, error))?;
                }
                _ => break,
            }
        }
        if self.old_head.is_none() {
            self.old_head = self.old.next().transpose().map_err(|error| (Side::Old, error))?;
        }
        if self.new_head.is_none() {
            self.new_head = self.new.next().transpose().map_err(|error| (Side::New, error))?;
        }
        Ok(())
    }

    /// The entries of the name that comes first.
    fn take(&mut self) -> (Option<Entry>, Option<Entry>) {
        let order = match (&self.old_head, &self.new_head) {
            (Some(old), Some(new)) => old.name.cmp(&new.name),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        match order {
            Ordering::Less => (self.old_head.take(), None),
            Ordering::Equal => (self.old_head.take(), self.new_head.take()),
            Ordering::Greater => (None, self.new_head.take()),
        }
    }
}

/// What differs between two entries, in the order of [`Field`]; the pages of directories
/// are not compared.
pub fn differences(old: &Entry, new: &Entry) -> Vec<Field> {
    let mut fields = Vec::new();
    let mut note = |same: bool, field| {
        if !same {
            fields.push(field);
        }
    };
    match (&old.node, &new.node) {
        (Node::Directory { .. }, Node::Directory { .. }) => {}
        (Node::File { size: a, content: x }, Node::File { size: b, content: y }) => {
            note(a == b, Field::Size);
            note(x == y, Field::Content);
        }
        (Node::Symlink { target: a }, Node::Symlink { target: b }) => note(a == b, Field::Target),
        (a, b) if std::mem::discriminant(a) == std::mem::discriminant(b) => {
            note(a == b, Field::Device);
        }
        _ => note(false, Field::Kind),
    }
    let (a, b) = (&old.meta, &new.meta);
    note(a.birth_ns == b.birth_ns, Field::Birth);
    note(a.flags == b.flags, Field::Flags);
    note(a.gid == b.gid, Field::Gid);
    note(a.link_group == b.link_group, Field::LinkGroup);
    note(a.mode == b.mode, Field::Mode);
    note(a.mtime_ns == b.mtime_ns, Field::Mtime);
    note(a.project == b.project, Field::Project);
    note(a.uid == b.uid, Field::Uid);
    fields.extend(xattr_differences(a, b));
    fields.sort();
    fields
}

fn xattr_differences(old: &Meta, new: &Meta) -> Vec<Field> {
    let lacks = |meta: &Meta, x| !meta.xattrs.contains(x);
    let gone = old.xattrs.iter().filter(|x| lacks(new, x));
    let come = new.xattrs.iter().filter(|x| lacks(old, x));
    let mut fields: Vec<Field> = gone.chain(come).map(|x| Field::Xattr(x.name.clone())).collect();
    fields.sort();
    fields.dedup();
    fields
}
