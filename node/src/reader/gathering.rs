//! Chunks asked for by the thousand, as they arrive: any thread takes the next, opens it and
//! checks its name. Where the link is lost each of those that did not come says so.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use crossbeam_channel::Receiver;
use strongroom_protocol::opening::Refusal;
use strongroom_protocol::{BlobKind, ChunkId};
use strongroom_store::keys::AgentKeys;
use strongroom_store::tree::{Gather, Gathered, SourceError};

use super::stream::{Arrival, Questions};
use super::{believe, lost_link};

pub(super) struct Gathering<'p> {
    keys: &'p AgentKeys,
    arrivals: Receiver<Arrival>,
    /// What did not come yet.
    left: Mutex<HashSet<ChunkId>>,
    /// Why nothing will come, where that is known from the beginning.
    refusal: Option<Refusal>,
}

impl<'p> Gathering<'p> {
    pub(super) fn of(questions: &Questions, keys: &'p AgentKeys, ids: Vec<ChunkId>) -> Self {
        let left = Mutex::new(ids.iter().copied().collect());
        let arrivals = questions.ask_many(ids);
        Self { keys, arrivals, left, refusal: None }
    }

    pub(super) fn refused(refusal: Refusal, keys: &'p AgentKeys, ids: Vec<ChunkId>) -> Self {
        let left = Mutex::new(ids.into_iter().collect());
        let (_, arrivals) = crossbeam_channel::bounded(0);
        Self { keys, arrivals, left, refusal: Some(refusal) }
    }

    /// One of those that will not come any more.
    fn lost(&self, left: &mut HashSet<ChunkId>) -> Option<Gathered> {
        let id = left.iter().next().copied()?;
        left.remove(&id);
        let kind = BlobKind::Data;
        let lost = match self.refusal.clone() {
            None => lost_link(kind, id),
            Some(refusal) => SourceError::Unreachable { kind, id, source: Box::new(refusal) },
        };
        Some((id, Err(lost)))
    }
}

impl Gather for Gathering<'_> {
    fn next(&self) -> Option<Gathered> {
        // Taken and crossed off in one turn: whoever finds that nothing more comes must not find
        // what another has just taken among what did not come.
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(Arrival { id, answer, room }) = self.arrivals.recv() else {
            return self.lost(&mut left);
        };
        left.remove(&id);
        drop(left);
        let chunk = believe(self.keys, BlobKind::Data, id, Some(answer));
        drop(room);
        Some((id, chunk.map(|blob| blob.plain)))
    }
}

/// No chunks at all.
pub(super) struct Nothing;

impl Gather for Nothing {
    fn next(&self) -> Option<Gathered> {
        None
    }
}

#[cfg(test)]
mod tests {
    use strongroom_protocol::opening::RefusalKind;
    use strongroom_store::keys::VaultKey;

    use super::*;

    #[test]
    fn the_last_answer_is_not_taken_for_lost_while_somebody_takes_it() {
        let keys = VaultKey::from_bytes([1; 32]).agent_keys();
        let id = ChunkId([7; 32]);
        for round in 0..2000 {
            let (arrived, arrivals) = crossbeam_channel::unbounded();
            let left = Mutex::new(HashSet::from([id]));
            let gathering = Gathering { keys: &keys, arrivals, left, refusal: None };
            let told = std::thread::scope(|scope| {
                let takers: Vec<_> = (0..3).map(|_| scope.spawn(|| gathering.next())).collect();
                let answer = Err(Refusal::new(RefusalKind::Damaged, "an answer all the same"));
                arrived.send(Arrival { id, answer, room: None }).unwrap();
                drop(arrived);
                takers.into_iter().filter_map(|taker| taker.join().unwrap()).count()
            });
            assert_eq!(told, 1, "round {round}: one chunk, told so often");
        }
    }
}
