//! What a root needs, walked without a key over the references in blob heads. Pages and lists
//! are visited once; data chunks are only looked up, in batches, so that the walk's memory
//! follows the metadata, not the contents.

use std::collections::{BTreeSet, HashSet};
use std::ops::ControlFlow;

use strongroom_protocol::blob::Reference;
use strongroom_protocol::id::{ChunkId, PackId};

use super::error::RepoError;
use super::{Inner, Repo};
use crate::index::{Found, Place, View};

/// Blobs looked up at once.
const BATCH: usize = 4096;
/// What looking at one blob reads of the disk: a block of the index, or the head of a record.
const READ_BYTES: u64 = 4096;
/// Most missing blobs listed.
const MISSING_MAX: usize = 1000;

/// Everything some roots need.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Closure {
    /// The packs that hold it.
    pub packs: BTreeSet<PackId>,
    /// Pages and lists, each once, and references to data chunks, repeated ones too.
    pub blobs: u64,
    /// Plaintext bytes of those.
    pub bytes: u64,
}

/// Something roots need is not here.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{} blobs are missing, the first {}", missing.len(), missing.first().map_or_else(
    || "unknown".to_owned(), |first| first.id.to_string()))]
pub struct Incomplete {
    /// What is missing or unreadable; at most a thousand.
    pub missing: Vec<Reference>,
}

impl Repo {
    /// Whether everything `roots` need is here, as far as it can be told without reading data.
    /// `pace` is told of the bytes that are read, and may take its time; none when it ended it.
    pub(super) fn is_whole(
        &self,
        roots: &[Reference],
        pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Option<()>, RepoError> {
        let mut onward = ControlFlow::Continue(());
        let scope = Scope::All;
        let walked = self.inner.walk_on(roots, scope, View::Reader, |_| {}, &mut |bytes| {
            onward = pace(bytes);
            onward
        });
        if onward.is_break() {
            return Ok(None);
        }
        walked.map(|_| Some(()))
    }

    /// Walks everything `roots` need.
    pub fn closure(&self, roots: &[Reference]) -> Result<Closure, RepoError> {
        let mut closure = Closure::default();
        let inner = &self.inner;
        inner.walk(roots, Scope::All, View::Reader, |found| {
            closure.blobs += 1;
            if let Found::At(place) = found {
                closure.packs.insert(place.pack);
                closure.bytes += u64::from(place.plain_len);
            }
        })?;
        Ok(closure)
    }
}

/// How far a walk goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Everywhere.
    All,
    /// Not below metadata that was proven complete.
    Doubted,
}

impl Inner {
    /// Whether a blob and all it needs are here; what was proven is remembered.
    pub(super) fn is_complete(&self, root: Reference, view: View) -> Result<bool, RepoError> {
        if self.index.doubted(&[root.id]).is_empty() {
            return Ok(true);
        }
        match self.prove(&[root], view) {
            Ok(()) => Ok(true),
            Err(RepoError::Incomplete(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Proves the closure of the roots, as far as it is in doubt.
    pub(super) fn prove(&self, roots: &[Reference], view: View) -> Result<(), RepoError> {
        let losses = self.index.losses();
        let walked = self.walk(roots, Scope::Doubted, view, |_| {})?;
        self.index.prove(&walked, losses);
        Ok(())
    }

    /// Visits the roots and what they need; gives the metadata visited.
    fn walk(
        &self,
        roots: &[Reference],
        scope: Scope,
        view: View,
        visit: impl FnMut(&Found),
    ) -> Result<Vec<ChunkId>, RepoError> {
        self.walk_on(roots, scope, view, visit, &mut |_| ControlFlow::Continue(()))
    }

    /// As [`Self::walk`]; `pace` is told of the bytes read of every batch, and may end it there.
    fn walk_on(
        &self,
        roots: &[Reference],
        scope: Scope,
        view: View,
        mut visit: impl FnMut(&Found),
        pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Vec<ChunkId>, RepoError> {
        let mut seen: HashSet<ChunkId> = HashSet::new();
        let mut missing = Vec::new();
        let mut open: Vec<Reference> = Vec::new();
        let mut push = |open: &mut Vec<Reference>, references: &[Reference]| {
            for reference in references {
                if !reference.kind.is_metadata() || seen.insert(reference.id) {
                    open.push(*reference);
                }
            }
        };
        push(&mut open, roots);
        while !open.is_empty() && missing.len() < MISSING_MAX {
            let batch = open.split_off(open.len().saturating_sub(BATCH));
            let mut places = self.visit_batch(&batch, scope, view, &mut missing, &mut visit)?;
            places.sort_unstable_by_key(|(_, place)| *place);
            // A batch of data alone costs lookups: a place in the index each, at most.
            let reads = batch.len().max(places.len()) as u64;
            if pace(reads * READ_BYTES).is_break() {
                break;
            }
            for (reference, place) in places {
                match self.head_at(&place) {
                    Ok(head) if head.id == reference.id => push(&mut open, &head.references),
                    Err(RepoError::Disk(error)) if !error.is_missing() => {
                        tracing::warn!(blob = %reference.id, %error, "unreadable");
                        missing.push(reference);
                    }
                    Ok(_) | Err(_) => missing.push(reference),
                }
            }
        }
        if missing.is_empty() {
            Ok(seen.into_iter().collect())
        } else {
            missing.truncate(MISSING_MAX);
            Err(Incomplete { missing }.into())
        }
    }

    /// Looks a batch up; gives the metadata whose heads are to be read.
    fn visit_batch(
        &self,
        batch: &[Reference],
        scope: Scope,
        view: View,
        missing: &mut Vec<Reference>,
        visit: &mut impl FnMut(&Found),
    ) -> Result<Vec<(Reference, Place)>, RepoError> {
        let ids: Vec<ChunkId> = batch.iter().map(|reference| reference.id).collect();
        let mut all = self.index.lookup(&ids, view)?;
        if scope == Scope::All && all.iter().any(|found| matches!(found, Found::Pending(_))) {
            self.writer()?.barrier()?;
            all = self.index.lookup(&ids, view)?;
        }
        let doubted: HashSet<ChunkId> = match scope {
            Scope::All => HashSet::new(),
            Scope::Doubted => self.index.doubted(&ids).into_iter().collect(),
        };
        let mut places = Vec::new();
        for (reference, found) in batch.iter().zip(all) {
            if found.kind() != Some(reference.kind) {
                missing.push(*reference);
                continue;
            }
            visit(&found);
            let enter = reference.kind.is_metadata()
                && (scope == Scope::All || doubted.contains(&reference.id));
            match found {
                Found::At(place) if enter => places.push((*reference, place)),
                Found::Pending(_) if enter => {
                    self.writer()?.barrier()?;
                    let again = self.index.lookup(&[reference.id], view)?;
                    match again.first() {
                        Some(Found::At(place)) => places.push((*reference, *place)),
                        _ => missing.push(*reference),
                    }
                }
                Found::Absent | Found::At(_) | Found::Pending(_) => {}
            }
        }
        Ok(places)
    }
}
