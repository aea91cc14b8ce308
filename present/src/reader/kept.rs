//! Decoded blobs kept by name, bounded in bytes, the longest unused given up first. Promises that
//! whoever wants one that is on its way waits for it and nobody fetches it twice at a time; keeps
//! no failure, so that what is healed meanwhile can be had.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use strongroom_protocol::ChunkId;

/// Values by the names of the blobs they come from.
pub(crate) struct Kept<V, E> {
    bytes_max: usize,
    state: Mutex<State<V, E>>,
}

struct State<V, E> {
    slots: HashMap<ChunkId, Slot<V, E>>,
    /// What is here, by the turn in which it was last used.
    order: BTreeMap<u64, ChunkId>,
    turn: u64,
    bytes: usize,
}

enum Slot<V, E> {
    Coming(Arc<Coming<V, E>>),
    Here { value: V, bytes: usize, turn: u64 },
}

/// A value somebody fetches.
pub(crate) struct Coming<V, E> {
    told: Mutex<Option<Result<V, Loss<E>>>>,
    changed: Condvar,
}

/// Why a value did not come.
pub(crate) enum Loss<E> {
    /// Who fetched it gave up without saying why.
    Abandoned,
    Failed(Arc<E>),
}

/// What became of looking for a value.
pub(crate) enum Found<V, E> {
    /// Nobody has it: whoever looked is to fetch it.
    Absent(Claim<V, E>),
    Coming(Arc<Coming<V, E>>),
    Here(V),
}

/// The duty to fetch a value; dropped, those who wait are told that nobody does.
pub(crate) struct Claim<V, E> {
    kept: Arc<Kept<V, E>>,
    coming: Arc<Coming<V, E>>,
    id: ChunkId,
    settled: bool,
}

impl<V: Clone, E> Kept<V, E> {
    /// Keeps at most `bytes_max` bytes, or one value.
    pub(crate) fn new(bytes_max: usize) -> Arc<Self> {
        let (slots, order) = (HashMap::new(), BTreeMap::new());
        let state = Mutex::new(State { slots, order, turn: 0, bytes: 0 });
        Arc::new(Self { bytes_max, state })
    }

    /// Looks for a value; what is absent is claimed for the caller.
    pub(crate) fn find(self: &Arc<Self>, id: ChunkId) -> Found<V, E> {
        let mut state = self.lock();
        if let Some(value) = state.touch(id) {
            return Found::Here(value);
        }
        if let Some(Slot::Coming(coming)) = state.slots.get(&id) {
            return Found::Coming(Arc::clone(coming));
        }
        let coming = Arc::new(Coming { told: Mutex::new(None), changed: Condvar::new() });
        state.slots.insert(id, Slot::Coming(Arc::clone(&coming)));
        Found::Absent(Claim { kept: Arc::clone(self), coming, id, settled: false })
    }

    /// The value if it is here.
    pub(crate) fn peek(&self, id: ChunkId) -> Option<V> {
        self.lock().touch(id)
    }

    /// The value: from here, from whoever fetches it, or by `fetch`, which says its bytes too.
    pub(crate) fn get(
        self: &Arc<Self>,
        id: ChunkId,
        fetch: impl Fn() -> Result<(V, usize), E>,
    ) -> Result<V, Arc<E>> {
        loop {
            match self.find(id) {
                Found::Here(value) => return Ok(value),
                Found::Absent(claim) => {
                    return match fetch() {
                        Ok((value, bytes)) => Ok(claim.keep(value, bytes)),
                        Err(error) => Err(claim.fail(error)),
                    };
                }
                Found::Coming(coming) => match coming.wait() {
                    Ok(value) => return Ok(value),
                    Err(Loss::Failed(error)) => return Err(error),
                    Err(Loss::Abandoned) => {}
                },
            }
        }
    }

    /// Bytes kept now.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.lock().bytes
    }
}

impl<V, E> Kept<V, E> {
    fn lock(&self) -> MutexGuard<'_, State<V, E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V: Clone, E> State<V, E> {
    /// The value, if it is here, used now.
    fn touch(&mut self, id: ChunkId) -> Option<V> {
        let Some(Slot::Here { value, turn, .. }) = self.slots.get_mut(&id) else { return None };
        self.turn += 1;
        self.order.remove(turn);
        *turn = self.turn;
        self.order.insert(self.turn, id);
        Some(value.clone())
    }
}

impl<V, E> State<V, E> {
    fn insert(&mut self, id: ChunkId, value: V, bytes: usize, bytes_max: usize) {
        self.turn += 1;
        let turn = self.turn;
        self.slots.insert(id, Slot::Here { value, bytes, turn });
        self.order.insert(turn, id);
        self.bytes += bytes;
        while self.bytes > bytes_max && self.order.len() > 1 {
            let Some((_, oldest)) = self.order.pop_first() else { return };
            if let Some(Slot::Here { bytes, .. }) = self.slots.remove(&oldest) {
                self.bytes -= bytes;
            }
        }
    }
}

impl<V: Clone, E> Claim<V, E> {
    /// The blob that is claimed.
    pub(crate) const fn id(&self) -> ChunkId {
        self.id
    }

    /// Keeps what was fetched and tells all who wait.
    pub(crate) fn keep(mut self, value: V, bytes: usize) -> V {
        self.kept.lock().insert(self.id, value.clone(), bytes, self.kept.bytes_max);
        self.coming.tell(Ok(value.clone()));
        self.settled = true;
        value
    }

    /// Tells all who wait why it cannot be had.
    pub(crate) fn fail(mut self, error: E) -> Arc<E> {
        let error = Arc::new(error);
        self.give_up(Loss::Failed(Arc::clone(&error)));
        error
    }
}

impl<V, E> Claim<V, E> {
    fn give_up(&mut self, loss: Loss<E>) {
        self.kept.lock().slots.remove(&self.id);
        self.coming.tell(Err(loss));
        self.settled = true;
    }
}

impl<V, E> Drop for Claim<V, E> {
    fn drop(&mut self) {
        if !self.settled {
            self.give_up(Loss::Abandoned);
        }
    }
}

impl<V, E> Coming<V, E> {
    fn tell(&self, told: Result<V, Loss<E>>) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
        self.changed.notify_all();
    }
}

impl<V: Clone, E> Coming<V, E> {
    /// Waits for it.
    pub(crate) fn wait(&self) -> Result<V, Loss<E>> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match &*told {
                Some(Ok(value)) => return Ok(value.clone()),
                Some(Err(Loss::Abandoned)) => return Err(Loss::Abandoned),
                Some(Err(Loss::Failed(error))) => return Err(Loss::Failed(Arc::clone(error))),
                None => {}
            }
            told = self.changed.wait(told).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    fn id(number: u8) -> ChunkId {
        ChunkId([number; 32])
    }

    #[test]
    fn the_longest_unused_goes_first_and_the_bound_holds() {
        let kept: Arc<Kept<u8, ()>> = Kept::new(30);
        for number in 0..3 {
            kept.get(id(number), || Ok((number, 10))).unwrap();
        }
        assert_eq!(kept.peek(id(0)), Some(0), "all three fit");
        kept.get(id(3), || Ok((3, 10))).unwrap();
        assert_eq!(kept.peek(id(1)), None, "1 was unused for longest, for 0 was looked at");
        assert_eq!((kept.peek(id(0)), kept.peek(id(2))), (Some(0), Some(2)));
        kept.get(id(4), || Ok((4, 50))).unwrap();
        assert_eq!((kept.peek(id(4)), kept.bytes()), (Some(4), 50), "one too large stays alone");
    }

    #[test]
    fn many_who_want_one_fetch_it_once() {
        let kept: Arc<Kept<u8, ()>> = Kept::new(100);
        let fetched = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    let got = kept.get(id(1), || {
                        fetched.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(20));
                        Ok((7, 1))
                    });
                    assert_eq!(got.unwrap(), 7);
                });
            }
        });
        assert_eq!(fetched.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_failure_is_told_and_not_kept_and_what_is_abandoned_is_fetched_by_who_waits() {
        let kept: Arc<Kept<u8, &str>> = Kept::new(100);
        assert_eq!(kept.get(id(1), || Err("lost")), Err(Arc::new("lost")));
        assert_eq!(kept.get(id(1), || Ok((1, 1))), Ok(1));
        let Found::Absent(claim) = kept.find(id(2)) else { panic!("nobody has it") };
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| kept.get(id(2), || Ok((2, 1))));
            std::thread::sleep(Duration::from_millis(20));
            drop(claim);
            assert_eq!(waiter.join().unwrap(), Ok(2));
        });
    }
}
