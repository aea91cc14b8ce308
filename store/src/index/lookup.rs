//! Lookups of many ids at once: in memory, then in the segments, each block read once. What lies
//! only in a condemned pack is there for readers and for sessions older than the condemnation,
//! whose asking takes the pack off the list; for younger ones it is absent, so they send it again.
//! What lies only in a pack known to be hurt is there for readers alone.

use std::collections::HashMap;
use std::sync::Arc;

use strongroom_protocol::id::{ChunkId, PackId};

use super::segment::{Segment, SegmentError};
use super::standing::{Stand, Standing, Tick};
use super::{Found, Index, Place};
use crate::disk::DiskError;

/// Through whose eyes a lookup is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum View {
    /// Reads what is in place, condemned or not, and counts on nothing afterwards.
    Reader,
    /// Counts on what it finds: a session that began at this tick.
    Session(Tick),
}

/// Answers as they come together.
pub(super) struct Hits {
    found: Vec<Found>,
    /// Places in condemned or hurt packs, of ids that may have no other.
    spare: HashMap<usize, Place>,
}

impl Hits {
    /// Notes a place that was found, as far as its pack may be counted on.
    pub(super) fn note(&mut self, at: usize, place: Place, standing: &Standing) {
        match standing.of(&place.pack) {
            Stand::Gone => {}
            Stand::InPlace if !standing.is_hurt(&place.pack) => self.found(at, place),
            Stand::Condemned(_) | Stand::InPlace => self.spare(at, place, standing),
        }
    }

    fn found(&mut self, at: usize, place: Place) {
        if let Some(answer) = self.found.get_mut(at)
            && *answer == Found::Absent
        {
            *answer = Found::At(place);
        }
    }

    /// A place that is whole is the better spare.
    fn spare(&mut self, at: usize, place: Place, standing: &Standing) {
        let spare = self.spare.entry(at).or_insert(place);
        if standing.is_hurt(&spare.pack) && !standing.is_hurt(&place.pack) {
            *spare = place;
        }
    }

    fn is_open(&self, at: usize) -> bool {
        self.found.get(at) == Some(&Found::Absent)
    }
}

/// What became of a condemned pack somebody asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rescue {
    /// It is in place, and stays.
    Kept,
    /// It is gone.
    TooLate,
}

impl Index {
    /// Looks up many ids at once, in the order given, for reading.
    pub fn lookup_many(&self, ids: &[ChunkId]) -> Result<Vec<Found>, DiskError> {
        self.lookup(ids, View::Reader)
    }

    /// Looks up many ids at once, in the order given.
    pub(crate) fn lookup(&self, ids: &[ChunkId], view: View) -> Result<Vec<Found>, DiskError> {
        loop {
            let (mut hits, segments, standing) = self.look_in_memory(ids);
            let mut open: Vec<usize> = (0..ids.len()).filter(|&at| hits.is_open(at)).collect();
            open.sort_unstable_by_key(|&at| ids.get(at));
            let damaged = segments.iter().rev().find_map(|segment| {
                match segment.lookup_sorted(ids, &open, &standing, &mut hits) {
                    Ok(()) => {
                        open.retain(|&at| hits.is_open(at));
                        None
                    }
                    Err(error) => Some((Arc::clone(segment), error)),
                }
            });
            match damaged {
                None if self.settle_spares(&mut hits, &standing, view) == Rescue::Kept => {
                    return Ok(hits.found);
                }
                None => {}
                Some((segment, SegmentError::Damaged { .. })) => self.replace_damaged(&segment),
                Some((_, SegmentError::Disk(error))) => return Err(error),
            }
        }
    }

    fn look_in_memory(&self, ids: &[ChunkId]) -> (Hits, Vec<Arc<Segment>>, Arc<Standing>) {
        let state = self.state();
        let mut hits = Hits { found: Vec::with_capacity(ids.len()), spare: HashMap::new() };
        for (at, id) in ids.iter().enumerate() {
            let (found, spare) = state.find(id);
            hits.found.push(found);
            if let Some(place) = spare {
                hits.spare(at, place, &state.standing);
            }
        }
        (hits, state.segments.clone(), Arc::clone(&state.standing))
    }

    /// Answers what lies in condemned or hurt packs only, as the viewer may see it.
    fn settle_spares(&self, hits: &mut Hits, standing: &Standing, view: View) -> Rescue {
        for (at, place) in std::mem::take(&mut hits.spare) {
            if !hits.is_open(at) {
                continue;
            }
            let may_count_on_it = match (standing.of(&place.pack), view) {
                (Stand::Gone, _) => false,
                (Stand::Condemned(_) | Stand::InPlace, View::Reader) => true,
                // Sent again, it comes to lie in a pack that is whole.
                (_, View::Session(_)) if standing.is_hurt(&place.pack) => false,
                (Stand::Condemned(tick), View::Session(began)) if began < tick => {
                    if self.rescue(&place.pack) == Rescue::TooLate {
                        return Rescue::TooLate;
                    }
                    true
                }
                (Stand::Condemned(_), View::Session(_)) => false,
                (Stand::InPlace, View::Session(_)) => true,
            };
            if may_count_on_it {
                hits.found(at, place);
            }
        }
        Rescue::Kept
    }

    /// Somebody counts on the pack: it is condemned no more.
    pub(crate) fn rescue(&self, pack: &PackId) -> Rescue {
        let mut state = self.state_mut();
        match state.standing.of(pack) {
            Stand::Gone => Rescue::TooLate,
            Stand::InPlace => Rescue::Kept,
            Stand::Condemned(_) => {
                Arc::make_mut(&mut state.standing).restore(pack);
                tracing::debug!(%pack, "a condemned pack is needed after all");
                Rescue::Kept
            }
        }
    }
}
