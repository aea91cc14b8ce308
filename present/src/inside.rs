//! A file system inside a disk image of a point, as a tree like any other: whoever lists, finds,
//! restores or mounts a point does so with what lies in its images. Pages, lists and chunks are
//! made as they are wanted, out of what the confined process answers; their ids say what they are
//! of and are no hashes. Nothing here can be compared with a target by name.
//!
//! Promises that a directory is met in one place alone, whatever the file system says, so that
//! every walk ends; that what could not be read or told is noted; refuses what a tree cannot hold.

mod entries;
mod id;
mod kept;

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use strongroom_images::cell::{Cell, CellError, State};
use strongroom_images::{NodeId, Volume, VolumeError, within};
use strongroom_protocol::blob::PLAIN_BYTES_MAX;
use strongroom_protocol::{BlobKind, ChunkId};
use strongroom_store::content::{ChunkExtent, FILE_BYTES_MAX, Meta};
use strongroom_store::list::{List, ListChild};
use strongroom_store::tree::{Blob, BlobSource, SourceError};

use crate::inside::id::{Id, Part};
use crate::inside::kept::Kept;
use crate::reader::{OpenFile, ReadError};

pub use entries::Limits;

/// Members of a list made here: what the format takes in any case.
const LIST_MEMBERS: usize = 1024;
/// Extents of one file: 4 TiB of data.
const EXTENTS_MAX: usize = LIST_MEMBERS * LIST_MEMBERS;
/// Notes that are kept; more are only counted.
const NOTES_MAX: usize = 1000;
/// Directories whose place is remembered, so that none is met twice.
const DIRECTORIES_MAX: usize = 4 << 20;

/// A file of a point as an image.
pub struct ImageFile {
    file: OpenFile,
    is_unreachable: Arc<AtomicBool>,
}

impl ImageFile {
    /// The file, and what becomes true when its bytes are out of reach.
    pub fn new(file: OpenFile) -> (Self, Arc<AtomicBool>) {
        let is_unreachable = Arc::new(AtomicBool::new(false));
        (Self { file, is_unreachable: Arc::clone(&is_unreachable) }, is_unreachable)
    }

    fn failed(&self, error: &ReadError) -> io::Error {
        let mut causes =
            std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
        let unreachable = causes
            .any(|cause| matches!(cause.downcast_ref(), Some(SourceError::Unreachable { .. })));
        self.is_unreachable.fetch_or(unreachable, Ordering::Relaxed);
        io::Error::other(strongroom_protocol::Chain(error).to_string())
    }
}

impl Volume for ImageFile {
    fn bytes(&self) -> u64 {
        self.file.size()
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<(), VolumeError> {
        within(at, into.len() as u64, self.file.size())?;
        let mut done = 0;
        while let Some(part) = into.get_mut(done..).filter(|part| !part.is_empty()) {
            let at = at + done as u64;
            let read = self.file.read_at(at, part);
            let read =
                read.map_err(|error| VolumeError::Read { at, source: self.failed(&error) })?;
            if read == 0 {
                let source = io::ErrorKind::UnexpectedEof.into();
                return Err(VolumeError::Read { at, source });
            }
            done += read;
        }
        Ok(())
    }
}

/// One file system in an image.
pub struct Inside {
    cell: Arc<Cell>,
    /// Its partition's place in the survey.
    partition: u32,
    root: NodeId,
    /// `ext4`, `ntfs` and so on.
    system: String,
    /// What it is called where something is told of it.
    name: String,
    is_unreachable: Arc<AtomicBool>,
    kept: Kept,
    /// By the node of a directory: that of its parent, and its name there as a number.
    places: Mutex<HashMap<u64, (u64, u64)>>,
    notes: Mutex<(Vec<String>, u64)>,
    /// What is left out of everything, told once.
    limits: Mutex<Limits>,
}

impl Inside {
    /// The file system in the partition at this place of the survey; none if it is not read.
    pub fn new(
        cell: Arc<Cell>,
        partition: u32,
        state: &State,
        name: String,
        is_unreachable: Arc<AtomicBool>,
    ) -> Option<Self> {
        let State::Read { system, root, .. } = state else { return None };
        let places = HashMap::from([(root.0, (root.0, 0))]);
        Some(Self {
            cell,
            partition,
            root: *root,
            system: system.clone(),
            name,
            is_unreachable,
            kept: Kept::default(),
            places: Mutex::new(places),
            notes: Mutex::default(),
            limits: Mutex::default(),
        })
    }

    /// The page of the directory at its top.
    pub fn page(&self) -> ChunkId {
        Id { part: Part::Page, node: self.root.0, place: 0, size: 0 }.chunk()
    }

    /// Metadata of the directory at its top.
    ///
    /// # Errors
    ///
    /// [`CellError`]
    pub fn meta(&self) -> Result<Meta, CellError> {
        let attributes = self.cell.attributes(self.partition, self.root)?;
        Ok(entries::meta(self.root, &attributes))
    }

    /// What could not be read or told so far, and how many more such things there were; each is
    /// told once.
    pub fn take_notes(&self) -> (Vec<String>, u64) {
        std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What this file system does not keep, or keeps and cannot be had by it here.
    pub fn limits(&self) -> Vec<String> {
        let limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner).clone();
        limits.told(&self.system)
    }

    fn note(&self, note: String) {
        tracing::warn!(image = self.name, note, "not all of an image can be read");
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        match notes.0.len() < NOTES_MAX {
            true => notes.0.push(note),
            false => notes.1 += 1,
        }
    }

    /// Whether a directory is met here for the first time, or here again.
    fn is_in_place(&self, node: u64, parent: u64, name: &[u8]) -> bool {
        use std::hash::{DefaultHasher, Hash as _, Hasher as _};
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let place = (parent, hasher.finish());
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        match places.get(&node) {
            Some(known) => *known == place,
            None if places.len() >= DIRECTORIES_MAX => false,
            None => {
                places.insert(node, place);
                true
            }
        }
    }

    fn failed(&self, kind: BlobKind, id: ChunkId, error: CellError) -> SourceError {
        let named = Box::new(Named { name: self.name.clone(), source: error });
        match named.source {
            CellError::Unread { .. } if self.is_unreachable.load(Ordering::Relaxed) => {
                SourceError::Unreachable { kind, id, source: named }
            }
            _ => SourceError::Damaged { kind, id, source: Some(named) },
        }
    }

    /// The lists of a file, that of all of it last.
    fn lists(&self, node: NodeId, size: u64) -> Result<Vec<Blob>, CellError> {
        let wrong = |why: &str| CellError::Problem { why: why.to_owned() };
        let extents = self.extents(node, size)?;
        let encoded = |list: &List| list.blob().map_err(|error| wrong(&error.to_string()));
        if extents.len() <= LIST_MEMBERS {
            return Ok(vec![encoded(&List::Extents(extents))?]);
        }
        let (mut blobs, mut children) = (Vec::new(), Vec::new());
        for (members, number) in extents.chunks(LIST_MEMBERS).zip(1..) {
            let list = List::Extents(members.to_vec());
            let id = Id { part: Part::List, node: node.0, place: number, size };
            let bytes = list.bytes().ok_or_else(|| wrong("a file is longer than one may be"))?;
            children.push(ListChild { list: id.chunk(), bytes });
            blobs.push(encoded(&list)?);
        }
        blobs.push(encoded(&List::Inner { depth: 1, children })?);
        Ok(blobs)
    }

    /// Where a file has data and where it has none.
    fn extents(&self, node: NodeId, size: u64) -> Result<Vec<ChunkExtent>, CellError> {
        let (mut at, mut extents) = (0, Vec::new());
        while at < size.min(FILE_BYTES_MAX) {
            if extents.len() > EXTENTS_MAX {
                let why = format!("a file has more than {EXTENTS_MAX} stretches");
                return Err(CellError::Problem { why });
            }
            let data = self.cell.data(self.partition, node, at)?;
            let data = data.map_or(size..size, |data| data.start.min(size)..data.end.min(size));
            if data.start > at {
                extents.push(ChunkExtent::Hole { length: data.start - at });
            }
            at = data.start;
            while at < data.end && extents.len() <= EXTENTS_MAX {
                let length = (data.end - at).min(PLAIN_BYTES_MAX as u64);
                let id = Id { part: Part::Data, node: node.0, place: at, size: length }.chunk();
                let short = u32::try_from(length).unwrap_or(0);
                extents.push(ChunkExtent::Chunk { id, offset: 0, length: short });
                at += length;
            }
        }
        Ok(extents)
    }

    fn made(&self, id: &Id) -> Result<Blob, CellError> {
        let node = NodeId(id.node);
        let made = |blobs: Arc<Vec<Blob>>| {
            // The one above all others was made last, and is asked for as number 0.
            let place = match usize::try_from(id.place).unwrap_or(usize::MAX) {
                0 => blobs.len().checked_sub(1),
                number => number.checked_sub(1),
            };
            let blob = place.and_then(|place| blobs.get(place)).cloned();
            blob.ok_or_else(|| CellError::Problem { why: "it changed while it was read".into() })
        };
        match id.part {
            Part::Data => {
                let wanted = usize::try_from(id.size).unwrap_or(0).min(PLAIN_BYTES_MAX);
                let bytes = self.cell.read(self.partition, node, id.place, wanted)?;
                if bytes.len() != wanted {
                    return Err(CellError::Problem { why: "a file ends early".to_owned() });
                }
                Ok(Blob { references: Vec::new(), plain: bytes.into() })
            }
            Part::List => self.kept.get(id, || self.lists(node, id.size)).and_then(made),
            Part::Page => self.kept.get(id, || self.pages(node)).and_then(made),
        }
    }
}

impl BlobSource for Inside {
    fn blob(&self, kind: BlobKind, id: ChunkId) -> Result<Blob, SourceError> {
        let parsed = Id::parse(id).filter(|parsed| parsed.part.kind() == kind);
        let parsed = parsed.ok_or(SourceError::Missing { kind, id })?;
        self.made(&parsed).map_err(|error| self.failed(kind, id, error))
    }
}

/// What went wrong, and in which image.
#[derive(Debug, thiserror::Error)]
#[error("{name}")]
struct Named {
    name: String,
    source: CellError,
}
