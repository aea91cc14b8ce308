//! One file of a point, read from anywhere by any number of threads. What is wanted and nobody
//! has is asked for at once; what is wanted next is asked for before anything is waited for.

use std::collections::HashMap;
use std::ops::{ControlFlow, Range};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use strongroom_protocol::{BlobKind, ChunkId};
use strongroom_store::content::{ChunkExtent, FileContent};
use strongroom_store::list::PlacedExtent;
use strongroom_store::tree::{BlobSource, SourceError};

use super::ahead::{BATCH_BYTES, Flow, Wanted, flow_of};
use super::extents::{Fetch, Layout, Lists, Visited};
use super::kept::{Found, Loss};
use super::{ReadError, Shared, settle};

/// Bytes read in one turn: a longer read has no more chunks than these hold in its hands.
const TURN_BYTES: usize = 4 << 20;

/// What became of fetching chunks.
type Chunks = HashMap<ChunkId, Result<Bytes, Arc<SourceError>>>;

/// A file that is read.
pub struct OpenFile {
    shared: Arc<Shared>,
    pub(super) layout: Layout,
    pub(super) size: u64,
    flow: Mutex<Flow>,
}

/// A part of a read.
#[derive(Clone, Copy)]
struct Piece {
    at: u64,
    length: usize,
    /// None for a hole; a chunk and where in it.
    chunk: Option<(ChunkId, usize)>,
}

impl OpenFile {
    pub(super) fn new(shared: Arc<Shared>, size: u64, content: &FileContent) -> Self {
        Self { shared, layout: Layout::of(content), size, flow: Mutex::default() }
    }

    /// Length in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Fills `into` from byte `offset`; how many bytes that were, fewer only at the end of the
    /// file.
    pub fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<usize, ReadError> {
        let range = self.clamp(offset, into.len() as u64);
        if let Layout::Inline(bytes) = &self.layout {
            let bytes = inline(bytes, &range).ok_or(ReadError::Short { at: offset })?;
            into.iter_mut().zip(&bytes).for_each(|(into, byte)| *into = *byte);
            return Ok(bytes.len());
        }
        let mut at = range.start;
        let mut read = 0;
        for part in into.chunks_mut(TURN_BYTES) {
            let end = range.end.min(at.saturating_add(part.len() as u64));
            if at >= end {
                break;
            }
            let length = usize::try_from(end - at).unwrap_or(0);
            let Some(part) = part.get_mut(..length) else { break };
            let pieces = self.plan(at..end)?;
            let chunks = self.fetch(&pieces, at..end);
            assemble(&pieces, &chunks, part)?;
            (at, read) = (end, read + length);
        }
        Ok(read)
    }

    /// Up to `length` bytes from `offset`, without copying where one chunk holds them all.
    pub fn bytes_at(&self, offset: u64, length: usize) -> Result<Bytes, ReadError> {
        let range = self.clamp(offset, length as u64);
        if let Layout::Inline(bytes) = &self.layout {
            return inline(bytes, &range).ok_or(ReadError::Short { at: offset });
        }
        if range.end - range.start <= TURN_BYTES as u64 {
            let pieces = self.plan(range.clone())?;
            if let [Piece { at, length, chunk: Some((id, from)) }] = pieces[..] {
                let chunks = self.fetch(&pieces, range);
                return cut(&chunks, id, from, length, at);
            }
        }
        let length = usize::try_from(range.end - range.start).unwrap_or(0);
        let mut bytes = vec![0; length];
        let read = self.read_at(offset, &mut bytes)?;
        bytes.truncate(read);
        Ok(Bytes::from(bytes))
    }

    /// As [`OpenFile::bytes_at`], where everything is here already; never blocks.
    pub fn bytes_if_here(&self, offset: u64, length: usize) -> Option<Bytes> {
        let range = self.clamp(offset, length as u64);
        if let Layout::Inline(bytes) = &self.layout {
            return inline(bytes, &range);
        }
        if range.end - range.start > TURN_BYTES as u64 {
            return None;
        }
        let pieces = self.planned(range.clone(), Fetch::Nothing).ok()??;
        let mut chunks = HashMap::new();
        for (id, _) in pieces.iter().filter_map(|piece| piece.chunk) {
            chunks.insert(id, Ok(self.shared.chunks.peek(id)?));
        }
        self.read_ahead(&range);
        if let [Piece { at, length, chunk: Some((id, from)) }] = pieces[..] {
            return cut(&chunks, id, from, length, at).ok();
        }
        let mut bytes = vec![0; usize::try_from(range.end - range.start).ok()?];
        assemble(&pieces, &chunks, &mut bytes).ok()?;
        Some(Bytes::from(bytes))
    }

    /// Where blobs and lists come from.
    pub(super) fn blobs(&self) -> (&dyn BlobSource, &Lists) {
        (&*self.shared.source, &self.shared.lists)
    }

    fn clamp(&self, offset: u64, length: u64) -> Range<u64> {
        offset.min(self.size)..offset.saturating_add(length).min(self.size)
    }

    /// Shows the extents of a range, fetching what says so.
    pub(super) fn visit(
        &self,
        range: Range<u64>,
        show: &mut dyn FnMut(PlacedExtent) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        let at = range.start;
        let visited = self.layout.visit(self.blobs(), range, Fetch::Absent, show);
        visited.map(drop).map_err(|source| ReadError::List { at, source })
    }

    /// The pieces of a range within the file.
    fn plan(&self, range: Range<u64>) -> Result<Vec<Piece>, ReadError> {
        let at = range.start;
        let planned = self.planned(range, Fetch::Absent)?;
        planned.ok_or(ReadError::Short { at })
    }

    /// As [`OpenFile::plan`]; none where a list is not here and may not be fetched.
    fn planned(&self, range: Range<u64>, fetch: Fetch) -> Result<Option<Vec<Piece>>, ReadError> {
        let mut pieces = Vec::new();
        let mut at = range.start;
        let visited = self.layout.visit(self.blobs(), range.clone(), fetch, &mut |placed| {
            let within = at.saturating_sub(placed.at);
            let rest = placed.extent.length().saturating_sub(within);
            let length = usize::try_from(rest.min(range.end.saturating_sub(at))).unwrap_or(0);
            let from = usize::try_from(within).unwrap_or(usize::MAX);
            let chunk = match placed.extent {
                ChunkExtent::Chunk { id, offset, .. } => {
                    Some((id, (offset as usize).saturating_add(from)))
                }
                ChunkExtent::Hole { .. } => None,
            };
            pieces.push(Piece { at, length, chunk });
            at += length as u64;
            ControlFlow::Continue(())
        });
        match visited.map_err(|source| ReadError::List { at: range.start, source })? {
            Visited::NotHere => Ok(None),
            Visited::Done if at < range.end => Err(ReadError::Short { at }),
            Visited::Done => Ok(Some(pieces)),
        }
    }

    /// The chunks of the pieces: those here, those on their way, and those nobody has, which are
    /// asked for at once. What follows is asked for ahead before anything is waited for.
    fn fetch(&self, pieces: &[Piece], range: Range<u64>) -> Chunks {
        let (mut found, mut claims, mut coming) = (HashMap::new(), HashMap::new(), Vec::new());
        for (id, _) in pieces.iter().filter_map(|piece| piece.chunk) {
            if found.contains_key(&id) || claims.contains_key(&id) {
                continue;
            }
            match self.shared.chunks.find(id) {
                Found::Absent(claim) => drop(claims.insert(id, claim)),
                Found::Coming(awaited) => coming.push((id, awaited)),
                Found::Here(chunk) => drop(found.insert(id, Ok(chunk))),
            }
        }
        // One is asked for beside the stream of bulk, and does not wait behind it.
        let several = claims.len() > 1;
        let gathering =
            several.then(|| self.shared.source.gather(claims.keys().copied().collect()));
        self.read_ahead(&range);
        while let Some((id, chunk)) = gathering.as_ref().and_then(|gathering| gathering.next()) {
            if let Some(claim) = claims.remove(&id) {
                found.insert(id, settle(claim, chunk));
            }
        }
        for (id, claim) in claims {
            found.insert(id, settle(claim, self.shared.source.plain(BlobKind::Data, id)));
        }
        for (id, awaited) in coming {
            let chunk = match awaited.wait() {
                Ok(chunk) => Ok(chunk),
                Err(Loss::Failed(error)) => Err(error),
                Err(Loss::Abandoned) => self.shared.chunk(id),
            };
            found.insert(id, chunk);
        }
        found
    }

    /// Notes a read, and asks for what will be wanted next.
    fn read_ahead(&self, range: &Range<u64>) {
        let mut flow = flow_of(&self.flow);
        let Some(ahead) = flow.note(range, self.size, &self.shared.ahead) else { return };
        let (mut batches, mut upto) = (vec![(0, Vec::new())], ahead.start);
        let visited = self.layout.visit(self.blobs(), ahead, Fetch::Nothing, &mut |placed| {
            if let ChunkExtent::Chunk { id, offset, length } = placed.extent {
                let bytes = offset as usize + length as usize;
                let Some(room) = self.shared.ahead.room(bytes) else {
                    return ControlFlow::Break(());
                };
                if let Found::Absent(claim) = self.shared.chunks.find(id) {
                    if batches.last().is_some_and(|(sum, _)| *sum >= BATCH_BYTES) {
                        batches.push((0, Vec::new()));
                    }
                    if let Some((sum, batch)) = batches.last_mut() {
                        *sum += bytes;
                        batch.push(Wanted { claim, room });
                    }
                }
            }
            upto = placed.at + placed.extent.length();
            ControlFlow::Continue(())
        });
        flow.asked(upto);
        drop(flow);
        if let Err(error) = visited {
            tracing::debug!(%error, "nothing can be read ahead");
        }
        batches.into_iter().for_each(|(_, batch)| self.shared.ahead.fetch(batch));
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        flow_of(&self.flow).end(&self.shared.ahead);
    }
}

/// The bytes of a range of inline content.
fn inline(bytes: &Bytes, range: &Range<u64>) -> Option<Bytes> {
    let (from, to) = (usize::try_from(range.start).ok()?, usize::try_from(range.end).ok()?);
    (from <= to && to <= bytes.len()).then(|| bytes.slice(from..to))
}

/// A stretch of a chunk that was fetched, wanted at byte `at` of the file.
fn cut(
    chunks: &Chunks,
    id: ChunkId,
    from: usize,
    length: usize,
    at: u64,
) -> Result<Bytes, ReadError> {
    let short = || ReadError::Short { at };
    let chunk = chunks.get(&id).ok_or_else(short)?;
    let chunk = chunk.as_ref();
    let chunk = chunk.map_err(|source| ReadError::Chunk { at, id, source: Arc::clone(source) })?;
    let to = from.checked_add(length).filter(|to| *to <= chunk.len()).ok_or_else(short)?;
    Ok(chunk.slice(from..to))
}

/// Lays the pieces side by side.
fn assemble(pieces: &[Piece], chunks: &Chunks, into: &mut [u8]) -> Result<(), ReadError> {
    let mut rest = into;
    for piece in pieces {
        let short = ReadError::Short { at: piece.at };
        let (part, after) = rest.split_at_mut_checked(piece.length).ok_or(short)?;
        match piece.chunk {
            None => part.fill(0),
            Some((id, from)) => {
                part.copy_from_slice(&cut(chunks, id, from, piece.length, piece.at)?);
            }
        }
        rest = after;
    }
    Ok(())
}
