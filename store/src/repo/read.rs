//! Reading blobs and packs. What is opened is checked twice: the seal proves who made it, the
//! recomputed id proves what it is. A pack file that cannot be read is an error for that blob.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, MutexGuard, PoisonError};

use bytes::Bytes;
use strongroom_protocol::blob::{BlobKind, Parcel, Reference};
use strongroom_protocol::id::{ChunkId, PackId};

use super::error::RepoError;
use super::{Inner, READERS_MAX, Repo};
use crate::disk::ReadFile;
use crate::index::{Found, Place};
use crate::pack::pack_path;
use crate::parcel;
use crate::seal::{RecordHead, RecordShape, SealError, open_record};

/// Bytes of a record read at first when only its head is wanted: enough for most pages.
const HEAD_GUESS_BYTES: usize = 4096;

impl Repo {
    /// The blob under this name, opened; its payload is compressed still and its id unchecked.
    pub fn get(&self, id: ChunkId) -> Result<Parcel, RepoError> {
        let place = self.inner.place_of(id)?;
        let record = self.inner.record_at(&place)?;
        self.open_at(&record, id, &place)
    }

    /// The plaintext of a blob, proven to be it.
    pub fn plain(&self, id: ChunkId, kind: BlobKind) -> Result<Bytes, RepoError> {
        let parcel = self.get(id)?;
        if parcel.head.kind != kind {
            return Err(RepoError::WrongKind { id });
        }
        parcel::open(&parcel, self.agent_keys()?).map_err(|source| RepoError::Parcel { id, source })
    }

    /// Where the blobs lie; nothing for those that are not here. What is pending is made
    /// durable first, so that it has a place.
    pub fn place(&self, ids: &[ChunkId]) -> Result<Vec<Option<Place>>, RepoError> {
        let mut found = self.inner.index.lookup_many(ids)?;
        if found.iter().any(|found| matches!(found, Found::Pending(_))) {
            self.barrier()?;
            found = self.inner.index.lookup_many(ids)?;
        }
        let place = |found| if let Found::At(place) = found { Some(place) } else { None };
        Ok(found.into_iter().map(place).collect())
    }

    /// The record at a place, sealed as it is.
    pub fn read_record(&self, place: &Place) -> Result<Bytes, RepoError> {
        self.inner.record_at(place)
    }

    /// Opens a record read from a place, or cut out of a longer read.
    pub fn open_at(&self, record: &[u8], id: ChunkId, place: &Place) -> Result<Parcel, RepoError> {
        let damaged = |source| {
            let source = Box::new(source);
            RepoError::DamagedBlob { id, pack: place.pack, source }
        };
        let epoch = self.opening_epoch(place.pack)?;
        let parcel =
            open_record(self.vault_key()?, self.id(), epoch, record).map_err(|source| {
                self.closed_by_epoch(place.pack).unwrap_or_else(|| damaged(source))
            })?;
        if parcel.head.id == id {
            Ok(parcel)
        } else {
            Err(damaged(SealError::Head { reason: "another blob lies there" }))
        }
    }

    /// What a blob needs, without a key.
    pub fn references(&self, id: ChunkId) -> Result<Vec<Reference>, RepoError> {
        let place = self.inner.place_of(id)?;
        let head = self.inner.head_at(&place)?;
        if head.id != id {
            let source = Box::new(SealError::Head { reason: "another blob lies there" });
            return Err(RepoError::DamagedBlob { id, pack: place.pack, source });
        }
        Ok(head.references)
    }

    /// Packs in place, by id.
    pub fn packs(&self) -> Vec<PackId> {
        self.inner.index.packs()
    }

    /// Length of a pack in bytes.
    pub fn pack_len(&self, pack: PackId) -> Result<u64, RepoError> {
        Ok(self.inner.reader(pack)?.len()?)
    }

    /// `len` bytes of a pack; fewer at its end.
    pub fn read_pack(&self, pack: PackId, offset: u64, len: usize) -> Result<Bytes, RepoError> {
        let mut bytes = Vec::new();
        self.read_pack_into(pack, offset, len, &mut bytes)?;
        Ok(Bytes::from(bytes))
    }

    /// As [`Self::read_pack`], into a buffer that is used again and again: memory that is new
    /// costs more than the bytes put into it.
    pub fn read_pack_into(
        &self,
        pack: PackId,
        offset: u64,
        len: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<(), RepoError> {
        let reader = self.inner.reader(pack)?;
        let left = reader.len()?.saturating_sub(offset);
        buffer.resize(usize::try_from(left).unwrap_or(usize::MAX).min(len), 0);
        Ok(reader.read_exact_at(buffer, offset)?)
    }
}

impl Inner {
    pub(super) fn place_of(&self, id: ChunkId) -> Result<Place, RepoError> {
        let absent = RepoError::NoSuchBlob { id };
        let found = self.index.lookup_many(&[id])?;
        let found = match found.first() {
            Some(Found::Pending(_)) => {
                self.writer()?.barrier()?;
                self.index.lookup_many(&[id])?
            }
            _ => found,
        };
        match found.first() {
            Some(Found::At(place)) => Ok(*place),
            _ => Err(absent),
        }
    }

    pub(super) fn record_at(&self, place: &Place) -> Result<Bytes, RepoError> {
        let mut record = vec![0; place.record_len as usize];
        self.reader(place.pack)?.read_exact_at(&mut record, u64::from(place.offset))?;
        Ok(Bytes::from(record))
    }

    /// The head of the record at a place.
    pub(super) fn head_at(&self, place: &Place) -> Result<RecordHead, RepoError> {
        let reader = self.reader(place.pack)?;
        let offset = u64::from(place.offset);
        let mut bytes = vec![0; HEAD_GUESS_BYTES.min(place.record_len as usize)];
        reader.read_exact_at(&mut bytes, offset)?;
        let damaged = |source| {
            let (id, source) = (ChunkId([0; 32]), Box::new(source));
            RepoError::DamagedBlob { id, pack: place.pack, source }
        };
        let shape = RecordShape::parse(&bytes).map_err(damaged)?;
        if shape.head_len() > bytes.len() {
            bytes.resize(shape.head_len().min(place.record_len as usize), 0);
            reader.read_exact_at(&mut bytes, offset)?;
        }
        RecordHead::parse(&bytes).map_err(damaged)
    }

    /// A pack's file, opened or kept from before.
    pub(super) fn reader(&self, pack: PackId) -> Result<Arc<dyn ReadFile>, RepoError> {
        if let Some(file) = self.kept_reader(pack) {
            return Ok(file);
        }
        let class = self.index.class(&pack).ok_or(RepoError::NoSuchPack { pack })?;
        let file = match self.disk.open(&pack_path(class, pack)) {
            Err(error) if error.is_missing() => return Err(RepoError::NoSuchPack { pack }),
            file => file?,
        };
        let mut readers = self.readers();
        readers.push_back((pack, Arc::clone(&file)));
        if readers.len() > READERS_MAX {
            readers.pop_front();
        }
        drop(readers);
        // One that was collected meanwhile would hold its room as long as it is kept open.
        if self.index.class(&pack).is_none() {
            self.readers().retain(|(held, _)| *held != pack);
        }
        Ok(file)
    }

    /// A pack's file as its name says now: one kept from before may be of a file removed since.
    pub(super) fn reopened(&self, pack: PackId) -> Result<Arc<dyn ReadFile>, RepoError> {
        self.forget_reader(pack);
        self.reader(pack)
    }

    /// Closes the files of packs that are gone.
    pub(super) fn close_readers(&self, gone: &HashSet<PackId>) {
        self.readers().retain(|(pack, _)| !gone.contains(pack));
        self.epochs.forget(gone);
    }

    pub(super) fn forget_reader(&self, pack: PackId) {
        self.readers().retain(|(held, _)| *held != pack);
    }

    /// A file kept from before, moved to where it is forgotten last.
    fn kept_reader(&self, pack: PackId) -> Option<Arc<dyn ReadFile>> {
        let mut readers = self.readers();
        let at = readers.iter().position(|(held, _)| *held == pack)?;
        let entry = readers.remove(at)?;
        let file = Arc::clone(&entry.1);
        readers.push_back(entry);
        Some(file)
    }

    fn readers(&self) -> MutexGuard<'_, VecDeque<(PackId, Arc<dyn ReadFile>)>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
