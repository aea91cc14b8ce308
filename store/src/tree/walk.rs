//! Walks a tree depth first, in name order. Promises one page of each open directory in
//! memory, and that what cannot be read is told with its path and does not end the walk.

use strongroom_protocol::ChunkId;

use crate::content::Entry;
use crate::page::{DirectoryReader, PageError};
use crate::tree::{BlobSource, join};

/// Deepest directory walked into: paths on Linux end at 4096 bytes, so this is deeper
/// than anything reached by name, and bounds the pages held at once.
pub const WALK_DEPTH_MAX: usize = 2048;

/// What the walk met.
#[derive(Debug)]
pub enum Step {
    /// An entry; if it is a directory, what it holds comes next, then `Leave`.
    Enter { path: Vec<u8>, entry: Entry },
    /// The end of a directory that was entered.
    Leave { path: Vec<u8>, entry: Entry },
    /// A page of a directory that could not be read.
    Damaged(Damage),
}

/// Something in the tree that cannot be read.
#[derive(Debug)]
pub struct Damage {
    /// The directory it belongs to.
    pub path: Vec<u8>,
    /// The page.
    pub id: ChunkId,
    pub cause: DamageCause,
}

/// Why it cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DamageCause {
    /// The page is missing, broken or misplaced.
    #[error("the page cannot be read")]
    Page(#[from] PageError),
    /// Directories nested past any sense.
    #[error("directories are nested more than {WALK_DEPTH_MAX} deep")]
    TooDeep,
}

/// What a visitor wants next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// On, into the directory if it is one.
    Continue,
    /// On, past the directory.
    Skip,
    /// No more.
    Stop,
}

/// Who is shown a walk.
pub trait Visitor {
    /// An entry, with its path.
    fn entry(&mut self, path: &[u8], entry: &Entry) -> Flow;

    /// The end of a directory that was entered.
    fn leave(&mut self, _path: &[u8], _entry: &Entry) -> Flow {
        Flow::Continue
    }

    /// Something that cannot be read.
    fn damaged(&mut self, damage: &Damage) -> Flow;
}

/// An iterator over a tree.
pub struct Walk<'s, S: ?Sized> {
    source: &'s S,
    levels: Vec<Level<'s, S>>,
    path: Vec<u8>,
    /// The directory given last, not yet entered.
    ahead: Option<Entry>,
}

struct Level<'s, S: ?Sized> {
    reader: DirectoryReader<'s, S>,
    /// The directory's entry; none for the topmost.
    entry: Option<Entry>,
    /// Length of the path of the directory above.
    parent_bytes: usize,
}

impl<'s, S: BlobSource + ?Sized> Walk<'s, S> {
    pub(crate) fn new(source: &'s S, root: ChunkId) -> Self {
        Self::below(source, root, b"")
    }

    pub(crate) fn below(source: &'s S, page: ChunkId, prefix: &[u8]) -> Self {
        let reader = DirectoryReader::new(source, page);
        let level = Level { reader, entry: None, parent_bytes: 0 };
        Self { source, levels: vec![level], path: prefix.to_vec(), ahead: None }
    }

    /// Does not enter the directory given last; no `Leave` follows for it.
    pub fn leave_out(&mut self) {
        if let Some(entry) = self.ahead.take() {
            self.shorten(entry.name.len());
        }
    }

    pub(crate) fn show(mut self, visitor: &mut impl Visitor) {
        while let Some(step) = self.next() {
            let flow = match &step {
                Step::Enter { path, entry } => visitor.entry(path, entry),
                Step::Leave { path, entry } => visitor.leave(path, entry),
                Step::Damaged(damage) => visitor.damaged(damage),
            };
            match (flow, step) {
                (Flow::Skip, Step::Enter { .. }) => self.leave_out(),
                (Flow::Continue | Flow::Skip, _) => {}
                (Flow::Stop, _) => return,
            }
        }
    }

    fn enter(&mut self, entry: Entry, page: ChunkId) -> Option<Damage> {
        let parent_bytes = self.parent_bytes(entry.name.len());
        if self.levels.len() >= WALK_DEPTH_MAX {
            let path = self.path.clone();
            self.path.truncate(parent_bytes);
            return Some(Damage { path, id: page, cause: DamageCause::TooDeep });
        }
        let reader = DirectoryReader::new(self.source, page);
        self.levels.push(Level { reader, entry: Some(entry), parent_bytes });
        None
    }

    fn close(&mut self) -> Option<Step> {
        let level = self.levels.pop()?;
        let path = self.path.clone();
        self.path.truncate(level.parent_bytes);
        level.entry.map(|entry| Step::Leave { path, entry })
    }

    fn shorten(&mut self, name_bytes: usize) {
        let bytes = self.parent_bytes(name_bytes);
        self.path.truncate(bytes);
    }

    /// Length of the path without its last name, which is `name_bytes` long.
    const fn parent_bytes(&self, name_bytes: usize) -> usize {
        self.path.len().saturating_sub(name_bytes).saturating_sub(1)
    }
}

impl<S: BlobSource + ?Sized> Iterator for Walk<'_, S> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if let Some(entry) = self.ahead.take()
            && let Some(page) = entry.directory_page()
            && let Some(damage) = self.enter(entry, page)
        {
            return Some(Step::Damaged(damage));
        }
        let level = self.levels.last_mut()?;
        match level.reader.next() {
            None => self.close(),
            Some(Err(error)) => {
                let (path, id) = (self.path.clone(), error.page());
                Some(Step::Damaged(Damage { path, id, cause: DamageCause::Page(error) }))
            }
            Some(Ok(entry)) => {
                let bytes = self.path.len();
                join(&mut self.path, &entry.name);
                let path = self.path.clone();
                match entry.directory_page() {
                    Some(_) => self.ahead = Some(entry.clone()),
                    None => self.path.truncate(bytes),
                }
                Some(Step::Enter { path, entry })
            }
        }
    }
}

/// The entries of a walk of which a predicate holds, and the damage met.
pub struct Find<'s, S: ?Sized, P> {
    walk: Walk<'s, S>,
    matches: P,
}

impl<'s, S: ?Sized, P> Find<'s, S, P> {
    pub(crate) const fn new(walk: Walk<'s, S>, matches: P) -> Self {
        Self { walk, matches }
    }
}

impl<S: BlobSource + ?Sized, P: FnMut(&[u8], &Entry) -> bool> Iterator for Find<'_, S, P> {
    type Item = Result<(Vec<u8>, Entry), Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.walk.next()? {
                Step::Enter { path, entry } if (self.matches)(&path, &entry) => {
                    return Some(Ok((path, entry)));
                }
                Step::Enter { .. } | Step::Leave { .. } => {}
                Step::Damaged(damage) => return Some(Err(damage)),
            }
        }
    }
}
