//! Finds out what of a window lies in the target already. A chunk whose bytes are all there, in
//! one file or in many, is put together, known by its name, and never asked for; without its
//! name nothing is believed, whatever size and time say.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use strongroom_protocol::blob::PLAIN_BYTES_MAX;
use strongroom_protocol::{BlobKind, ChunkId};
use strongroom_store::keys::AgentKeys;

use crate::restore::Shared;
use crate::restore::window::{Piece, Window, deliver};

/// A chunk with its places, until a thread looks for it.
type Sought = Mutex<Option<(ChunkId, Vec<Piece>)>>;

/// Takes out of the window what is there and right; what of it belongs elsewhere too is
/// written there from here.
pub(crate) fn look(window: &mut Window, shared: &Shared) {
    let Some(keys) = shared.options.keys.as_ref().filter(|_| window.may_hold_some) else { return };
    let may_hold = |pieces: &Vec<Piece>| pieces.iter().any(|piece| piece.file.may_hold_some());
    let chunks: Vec<Sought> = window
        .chunks
        .extract_if(|_, pieces| may_hold(pieces))
        .map(|chunk| Mutex::new(Some(chunk)))
        .collect();
    let (next, left) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..shared.options.writers.max(1) {
            scope.spawn(|| {
                let (mut buffer, mut scratch) = (Vec::new(), Vec::new());
                while let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let chunk = chunk.lock().unwrap_or_else(PoisonError::into_inner).take();
                    let Some((id, pieces)) = chunk.filter(|_| !shared.stopped()) else { return };
                    match assemble(id, pieces, keys, &mut buffer) {
                        Ok(elsewhere) => {
                            let chunk = Bytes::from(std::mem::take(&mut buffer));
                            deliver(&chunk, elsewhere, &mut scratch);
                        }
                        Err(mut pieces) => {
                            // Nothing is fetched for what is known to be lost already.
                            pieces.retain(|piece| !piece.file.has_failed());
                            if pieces.is_empty() {
                                continue;
                            }
                            let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
                            left.push((id, pieces));
                        }
                    }
                }
            });
        }
    });
    window.chunks.extend(left.into_inner().unwrap_or_else(PoisonError::into_inner));
}

/// Puts a chunk together from what is there; gives the pieces it was not taken from. Gives all
/// of them back where it is not that chunk.
fn assemble(
    id: ChunkId,
    mut pieces: Vec<Piece>,
    keys: &AgentKeys,
    buffer: &mut Vec<u8>,
) -> Result<Vec<Piece>, Vec<Piece>> {
    buffer.clear();
    let end = pieces.iter().map(|piece| piece.offset as usize + piece.length as usize).max();
    let end = end.unwrap_or(0);
    if end > PLAIN_BYTES_MAX {
        return Err(pieces);
    }
    pieces.sort_unstable_by_key(|piece| piece.offset);
    let mut taken = vec![false; pieces.len()];
    for (piece, taken) in pieces.iter().zip(&mut taken) {
        // A stretch that is had already, from another file, is compared when it is written.
        if piece.offset as usize == buffer.len() && piece.file.may_hold_some() {
            *taken = piece.file.existing(piece.at, piece.length as usize, buffer);
        }
    }
    if buffer.len() != end || keys.id(BlobKind::Data, &[], buffer) != id {
        return Err(pieces);
    }
    let mut taken = taken.into_iter();
    pieces.retain(|piece| match taken.next() {
        Some(true) => {
            piece.file.keep(u64::from(piece.length));
            false
        }
        _ => true,
    });
    Ok(pieces)
}
