//! A point as a file system: what each question of the kernel is answered with. Promises what the
//! point holds or an error; what is lost costs itself, and is told once with its path. Writes
//! nothing and knows nothing of the kernel's protocol but its error numbers.

use std::collections::HashSet;
use std::error::Error;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use fuser::{Errno, FileAttr};
use strongroom_protocol::{Chain, ChunkId};
use strongroom_store::content::{Entry, FileContent, Meta, Node};
use strongroom_store::page::{Page, PageError};

use super::Bring;
use super::attributes::{attributes, written_bytes};
use super::foresight::Foresight;
use super::handles::Handles;
use super::inodes::{Inode, Inodes, ROOT};
use super::listing::Directory;
use super::pages::{Leaf, Pages, entries_of};
use crate::reader::extents::{Fetch, Written};
use crate::reader::{OpenFile, ReadError, Reader};

/// Lost blobs told of; then no more are.
const TOLD_MAX: usize = 4096;
/// Deepest path told of.
const DEPTH_MAX: usize = 1024;
/// Chunks of a file brought in one go, where whole files are brought.
const BROUGHT_MAX: usize = 65_536;
/// The mode of a root that has none.
const ROOT_MODE: u32 = 0o755;

/// Where bytes are and where they are not, as `lseek` asks for it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sought {
    Data,
    Hole,
}

/// Why a question has no answer.
pub(super) enum Miss {
    Errno(Errno),
    /// The answer is not here, and was not to be fetched.
    NotHere,
}

/// An open file.
pub(super) struct Opened {
    number: u64,
    file: OpenFile,
}

/// The entry of an inode, with the page it lies in.
pub(super) enum Held {
    In { page: Arc<Page>, index: usize },
    Root(Arc<Entry>),
}

/// A point that is presented.
pub(super) struct View {
    pub(super) pages: Pages,
    pub(super) inodes: Inodes,
    pub(super) reader: Reader,
    pub(super) files: Handles<Opened>,
    pub(super) directories: Handles<Directory>,
    pub(super) foresight: Foresight,
    root: Arc<Entry>,
    /// Whether the root lists items, whose groups of names know nothing of one another.
    items: Items,
    bring: Option<Bring>,
    told: Mutex<HashSet<ChunkId>>,
}

/// The directory that becomes the root.
pub(super) struct Root {
    pub(super) page: ChunkId,
    pub(super) meta: Option<Meta>,
    pub(super) items: Items,
}

/// What the root of a view is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Items {
    /// The directory that was protected, or one below it.
    One,
    /// A list of several things that were protected.
    Several,
}

impl View {
    pub(super) fn new(pages: Pages, reader: Reader, root: Root, bring: Option<Bring>) -> Self {
        let Root { page, meta, items } = root;
        let meta = meta.unwrap_or_else(|| Meta { mode: ROOT_MODE, ..Meta::default() });
        let root = Entry { name: Vec::new(), node: Node::Directory { page }, meta };
        Self {
            pages,
            inodes: Inodes::new(),
            reader,
            files: Handles::new(),
            directories: Handles::new(),
            foresight: Foresight::default(),
            root: Arc::new(root),
            items,
            bring,
            told: Mutex::default(),
        }
    }

    /// What an inode is.
    pub(super) fn entry(&self, number: u64, fetch: Fetch) -> Result<Held, Miss> {
        if number == ROOT {
            return Ok(Held::Root(Arc::clone(&self.root)));
        }
        let inode = self.inodes.find(number).ok_or(Miss::Errno(Errno::ESTALE))?;
        let page = self.pages.page(inode.page, fetch);
        let page = page.map_err(|error| self.lost_page(inode.parent, &error))?;
        let page = page.ok_or(Miss::NotHere)?;
        let index = inode.index as usize;
        match entries_of(&page).get(index) {
            Some(_) => Ok(Held::In { page, index }),
            None => Err(Miss::Errno(Errno::EIO)),
        }
    }

    /// What `stat` says of an inode.
    pub(super) fn stat(&self, number: u64, fetch: Fetch) -> Result<FileAttr, Miss> {
        let entry = self.entry(number, fetch)?;
        let written = self.written(&entry, || number, fetch)?;
        Ok(attributes(number, &entry, written))
    }

    /// The name in a directory: its attributes, and the kernel knows it from now on; none if there
    /// is no such name.
    pub(super) fn lookup(
        &self,
        parent: u64,
        name: &[u8],
        fetch: Fetch,
    ) -> Result<Option<FileAttr>, Miss> {
        let leaf = self.leaf(parent, name, fetch)?;
        let Some(index) = leaf.position(name) else { return Ok(None) };
        let Some(entry) = leaf.entries().get(index) else { return Ok(None) };
        let inode = self.inode(parent, &leaf, index, entry);
        let number = self.inodes.meet(name, inode);
        match self.written(entry, || number, fetch) {
            Ok(written) => Ok(Some(attributes(number, entry, written))),
            Err(miss) => {
                self.inodes.forget(number, 1);
                Err(miss)
            }
        }
    }

    /// The leaf of a directory in which a name is or would be.
    pub(super) fn leaf(&self, directory: u64, name: &[u8], fetch: Fetch) -> Result<Leaf, Miss> {
        let entry = self.entry(directory, fetch)?;
        let page = entry.directory_page().ok_or(Miss::Errno(Errno::ENOTDIR))?;
        let leaf = self.pages.leaf(page, name, fetch);
        leaf.map_err(|error| self.lost_page(directory, &error))?.ok_or(Miss::NotHere)
    }

    /// Where an entry of a leaf of a directory is.
    pub(super) fn inode(&self, parent: u64, leaf: &Leaf, index: usize, entry: &Entry) -> Inode {
        let group = match entry.meta.link_group {
            0 => 0,
            group => group.wrapping_add(self.item(parent)).max(1),
        };
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        Inode { parent, page: leaf.id, index, group }
    }

    /// Opens a file.
    pub(super) fn open(&self, number: u64, fetch: Fetch) -> Result<u64, Miss> {
        let entry = self.entry(number, fetch)?;
        let Node::File { size, content } = &entry.node else {
            return Err(Miss::Errno(Errno::EINVAL));
        };
        let file = self.reader.open(*size, content);
        if let Some(bring) = &self.bring {
            if fetch == Fetch::Nothing {
                return Err(Miss::NotHere);
            }
            let brought = file.chunks(BROUGHT_MAX, &mut |ids| bring(ids));
            brought.map_err(|error| self.lost(number, &error))?;
            return Ok(self.files.open(Opened { number, file }));
        }
        if let (Some(inode), Held::In { page, .. }) = (self.inodes.find(number), &entry) {
            let expected = self.foresight.after_file(inode.page, inode.index, entries_of(page));
            self.reader.expect(expected);
        }
        Ok(self.files.open(Opened { number, file }))
    }

    /// Bytes of an open file.
    pub(super) fn read(
        &self,
        file: &Opened,
        offset: u64,
        length: usize,
        fetch: Fetch,
    ) -> Result<Bytes, Miss> {
        match fetch {
            Fetch::Nothing => file.file.bytes_if_here(offset, length).ok_or(Miss::NotHere),
            Fetch::Absent => {
                let bytes = file.file.bytes_at(offset, length);
                bytes.map_err(|error| self.lost(file.number, &error))
            }
        }
    }

    /// Where in an open file the next data or hole begins. Fetches.
    pub(super) fn seek(&self, file: &Opened, from: u64, sought: Sought) -> Result<u64, Errno> {
        if from >= file.file.size() {
            return Err(Errno::ENXIO);
        }
        let found = match sought {
            Sought::Data => file.file.next_data(from),
            Sought::Hole => file.file.next_hole(from).map(Some),
        };
        match found {
            Ok(found) => found.ok_or(Errno::ENXIO),
            Err(error) => {
                self.lost(file.number, &error);
                Err(Errno::EIO)
            }
        }
    }

    /// Bytes of an entry that are not holes; none where nobody knows, or what says so is lost.
    fn written(
        &self,
        entry: &Entry,
        number: impl FnOnce() -> u64,
        fetch: Fetch,
    ) -> Result<Option<u64>, Miss> {
        let Node::File { size, content } = &entry.node else { return Ok(None) };
        let FileContent::Listed { .. } = content else { return Ok(written_bytes(content)) };
        match self.reader.open(*size, content).written(fetch) {
            Ok(Written::Bytes(bytes)) => Ok(Some(bytes)),
            Ok(Written::NotHere) => Err(Miss::NotHere),
            Ok(Written::Unknown) => Ok(None),
            Err(error) => {
                self.lost(number(), &error);
                Ok(None)
            }
        }
    }

    /// The item a directory belongs to, as a number; 0 where there is but one.
    fn item(&self, directory: u64) -> u64 {
        let mut at = directory;
        for _ in 0..DEPTH_MAX {
            match self.inodes.find(at) {
                Some(inode) if inode.parent != ROOT => at = inode.parent,
                _ => break,
            }
        }
        if self.items == Items::One { 0 } else { at }
    }

    fn lost_page(&self, directory: u64, error: &PageError) -> Miss {
        self.tell(directory, Some(error.page()), error);
        Miss::Errno(Errno::EIO)
    }

    fn lost(&self, number: u64, error: &ReadError) -> Miss {
        self.tell(number, error.blob(), error);
        Miss::Errno(Errno::EIO)
    }

    /// Tells of a loss, once a blob.
    fn tell(&self, number: u64, blob: Option<ChunkId>, error: &dyn Error) {
        {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let new = told.len() < TOLD_MAX && blob.is_none_or(|blob| told.insert(blob));
            if !new {
                return;
            }
        }
        let path = self.path(number);
        tracing::warn!(path = %path.escape_ascii(), error = %Chain(error), "cannot be read");
    }

    /// The path of an inode, as far as what it lies in is here.
    pub(super) fn path(&self, number: u64) -> Vec<u8> {
        let (mut names, mut at) = (Vec::new(), number);
        while let Some(inode) = self.inodes.find(at).filter(|_| names.len() < DEPTH_MAX) {
            let page = self.pages.page(inode.page, Fetch::Nothing).ok().flatten();
            let entry = page.as_deref().and_then(|page| {
                entries_of(page).get(inode.index as usize).map(|entry| entry.name.clone())
            });
            names.push(entry.unwrap_or_else(|| b"?".to_vec()));
            at = inode.parent;
        }
        names.reverse();
        [b"/".as_slice(), &names.join(b"/".as_slice())].concat()
    }
}

impl Deref for Held {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        match self {
            Self::Root(entry) => entry,
            Self::In { page, index } => &entries_of(page)[*index],
        }
    }
}
