//! Taking blobs in. A page or list is refused while anything it needs is missing, so what was
//! taken in is complete by construction; a commit need only ask for the roots.

use std::sync::atomic::Ordering;

use strongroom_protocol::blob::Reference;
use strongroom_protocol::id::ChunkId;

use super::error::{InsertError, RepoError};
use super::{Inner, Repo};
use crate::index::{Accept, Found, RECENT_ENTRIES_MAX, View};
use crate::seal::{RecordHead, Sealed};

/// What became of a blob that was offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Inserted {
    /// It was taken in.
    New,
    /// It was here.
    Present,
}

impl Repo {
    /// Which of the blobs need not be sent: they are here, and for pages and lists, so is all
    /// they need.
    pub fn has(&self, ids: &[ChunkId]) -> Result<Vec<bool>, RepoError> {
        let inner = &self.inner;
        let view = self.view();
        let found = inner.index.lookup(ids, view)?;
        let mut present = Vec::with_capacity(ids.len());
        for (id, found) in ids.iter().zip(found) {
            present.push(match found.kind() {
                None => false,
                Some(kind) if !kind.is_metadata() => true,
                Some(kind) => inner.is_complete(Reference { kind, id: *id }, view)?,
            });
        }
        Ok(present)
    }

    /// Takes a blob in. `references` are what the caller read in its head; the record must say
    /// the same. Returns when the writer has it; durable after [`Self::barrier`].
    pub fn insert(
        &self,
        sealed: Sealed,
        references: &[Reference],
    ) -> Result<Inserted, InsertError> {
        let id = sealed.id;
        let head = RecordHead::parse(&sealed.bytes).ok();
        let agrees = head.is_some_and(|head| {
            head.id == id
                && head.kind == sealed.kind
                && head.plain_len == sealed.plain_len
                && head.references == references
                && head.record_len() == sealed.bytes.len()
        });
        if !agrees {
            return Err(InsertError::Record { id });
        }
        let inner = &self.inner;
        let writer = inner.writer()?;
        let view = self.view();
        loop {
            let losses = inner.index.losses();
            let missing = inner.missing_of(references, view)?;
            if !missing.is_empty() {
                // Taken in and then not kept: the disk is the reason, not the caller.
                writer.failed().map_err(RepoError::from)?;
                return Err(InsertError::MissingReferences { id, missing });
            }
            let found = inner.index.lookup(&[id], view).map_err(RepoError::from)?;
            if found.first().is_some_and(|found| *found != Found::Absent) {
                if sealed.kind.is_metadata() {
                    inner.index.prove(&[id], losses);
                }
                if inner.index.losses() == losses {
                    return Ok(Inserted::Present);
                }
                continue;
            }
            match writer.accept(sealed.clone(), losses).map_err(RepoError::from)? {
                Accept::Present => return Ok(Inserted::Present),
                Accept::Stale => {}
                Accept::Taken => {
                    if inner.index.recent_len() >= RECENT_ENTRIES_MAX {
                        inner.flush_index()?;
                    }
                    return Ok(Inserted::New);
                }
            }
        }
    }

    /// Waits until everything taken in before is durable.
    pub fn barrier(&self) -> Result<(), RepoError> {
        self.inner.barrier()
    }

    /// A barrier, and the index saved so that the next opening is quick.
    pub fn checkpoint(&self) -> Result<(), RepoError> {
        self.inner.flush_index()
    }
}

impl Inner {
    /// Those of the references that are not here with all they need.
    pub(super) fn missing_of(
        &self,
        references: &[Reference],
        view: View,
    ) -> Result<Vec<Reference>, RepoError> {
        let ids: Vec<ChunkId> = references.iter().map(|reference| reference.id).collect();
        let found = self.index.lookup(&ids, view)?;
        let mut missing = Vec::new();
        for (reference, found) in references.iter().zip(found) {
            let here = found.kind() == Some(reference.kind)
                && (!reference.kind.is_metadata() || self.is_complete(*reference, view)?);
            if !here && !missing.contains(reference) {
                missing.push(*reference);
            }
        }
        Ok(missing)
    }

    /// Waits until everything taken in before is durable; what was removed once and is back
    /// counts as in place from then on, so that without it something is lost.
    pub(super) fn barrier(&self) -> Result<(), RepoError> {
        let returned = self.index.returned();
        self.writer()?.barrier()?;
        if returned.is_empty() {
            return Ok(());
        }
        self.index.settle_returned(&returned);
        let written = self.write_removals();
        if written.is_err() {
            self.index.unsettle_returned(returned);
        }
        Ok(written?)
    }

    /// Saves the recent part of the index, unless another thread is at it.
    pub(super) fn flush_index(&self) -> Result<(), RepoError> {
        self.writer()?;
        if self.flushing.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        // The copy is taken before the barrier: what it calls proven is durable after it.
        let flushable = self.index.flushable();
        let outcome = self.barrier().and_then(|()| Ok(self.index.write_segment(&flushable)?));
        self.flushing.store(false, Ordering::SeqCst);
        outcome
    }
}
