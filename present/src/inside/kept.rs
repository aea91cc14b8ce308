//! Pages and lists that were made, kept in bounded memory: a directory is listed once for all of
//! its pages, and again only where it was forgotten.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use strongroom_store::tree::Blob;

use crate::inside::id::{Id, Part};

/// Bytes of what is kept; one directory alone may be more.
const BYTES_MAX: usize = 64 << 20;

type Key = (Part, u64);

#[derive(Default)]
pub(super) struct Kept {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    blobs: HashMap<Key, Arc<Vec<Blob>>>,
    /// In the order they came.
    order: VecDeque<Key>,
    bytes: usize,
}

impl Kept {
    /// What is kept of a directory or a file, or is made now.
    pub(super) fn get<E>(
        &self,
        id: &Id,
        make: impl FnOnce() -> Result<Vec<Blob>, E>,
    ) -> Result<Arc<Vec<Blob>>, E> {
        let key = (id.part, id.node);
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(blobs) = inner.blobs.get(&key) {
            return Ok(Arc::clone(blobs));
        }
        drop(inner);
        let blobs = Arc::new(make()?);
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.blobs.insert(key, Arc::clone(&blobs)).is_none() {
            inner.order.push_back(key);
            inner.bytes += weight(&blobs);
        }
        while inner.bytes > BYTES_MAX && inner.order.len() > 1 {
            let oldest = inner.order.pop_front().and_then(|key| inner.blobs.remove(&key));
            inner.bytes -= oldest.map_or(0, |blobs| weight(&blobs));
        }
        Ok(blobs)
    }
}

fn weight(blobs: &[Blob]) -> usize {
    blobs.iter().map(|blob| blob.plain.len() + blob.references.len() * 40).sum()
}
