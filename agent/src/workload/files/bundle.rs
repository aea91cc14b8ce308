//! Lays small files one after another into bundles, cut at file boundaries where the content
//! says so, so that equal stretches of files make equal bundles in every run. A file equal to
//! one already laid in this run is not laid again.

use std::collections::HashMap;

use strongroom_protocol::{BlobKind, ChunkId};
use strongroom_store::content::ChunkExtent;
use strongroom_store::tree::SinkError;

use crate::workload::ChunkSink;

/// A bundle may end from here on, in bytes.
pub const BUNDLE_BYTES_MIN: usize = 256 << 10;
/// A bundle ends from here on, in bytes.
pub const BUNDLE_BYTES_MAX: usize = 1 << 20;
/// One file in this many may end a bundle.
const CLASS_MASK: u8 = 15;
/// Most files remembered to be equal to later ones: what fills a table of 3 MiB.
const SEEN_MAX: usize = 57_000;

/// A place in a bundle that may still be open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    bundle: u32,
    offset: u32,
    length: u32,
}

/// The bundles of one run.
#[derive(Debug, Default)]
pub struct Bundles {
    open: Vec<u8>,
    closed: Vec<ChunkId>,
    seen: HashMap<[u8; 32], (u32, u32)>,
}

impl Bundles {
    /// Lays a file; says where.
    ///
    /// # Errors
    /// A full bundle was not taken.
    pub fn lay(
        &mut self,
        bytes: &[u8],
        hash: &blake3::Hash,
        sink: &dyn ChunkSink,
    ) -> Result<Place, SinkError> {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        if let Some((bundle, offset)) = self.seen.get(hash.as_bytes()).copied() {
            return Ok(Place { bundle, offset, length });
        }
        let offset = u32::try_from(self.open.len()).unwrap_or(u32::MAX);
        let bundle = u32::try_from(self.closed.len()).unwrap_or(u32::MAX);
        let place = Place { bundle, offset, length };
        self.open.extend_from_slice(bytes);
        if self.seen.len() >= SEEN_MAX {
            self.seen.clear();
        }
        self.seen.insert(*hash.as_bytes(), (bundle, offset));
        let ends = hash.as_bytes().first().is_some_and(|byte| byte & CLASS_MASK == 0);
        let held = self.open.len();
        if (ends && held >= BUNDLE_BYTES_MIN) || held >= BUNDLE_BYTES_MAX {
            self.close(sink)?;
        }
        Ok(place)
    }

    /// Ends the open bundle, if anything is in it.
    ///
    /// # Errors
    /// It was not taken.
    pub fn close(&mut self, sink: &dyn ChunkSink) -> Result<(), SinkError> {
        if !self.open.is_empty() {
            let bundle = std::mem::take(&mut self.open);
            self.closed.push(sink.put(BlobKind::Data, Vec::new(), bundle)?);
        }
        Ok(())
    }

    /// The extent a place became; none while its bundle is open.
    pub fn extent(&self, place: Place) -> Option<ChunkExtent> {
        let id = *self.closed.get(place.bundle as usize)?;
        Some(ChunkExtent::Chunk { id, offset: place.offset, length: place.length })
    }
}
