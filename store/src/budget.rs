//! A budget of bytes: what bounds the queue before a writer. Taking waits until there is room;
//! more than the whole budget is let through alone rather than never.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Bytes that may be in flight.
#[derive(Debug)]
pub struct ByteBudget {
    total: usize,
    taken: Mutex<usize>,
    freed: Condvar,
}

/// Bytes taken; dropping gives them back.
#[derive(Debug)]
pub struct BytePermit {
    budget: Arc<ByteBudget>,
    bytes: usize,
}

impl ByteBudget {
    /// A budget of `total` bytes.
    pub fn new(total: usize) -> Arc<Self> {
        Arc::new(Self { total, taken: Mutex::new(0), freed: Condvar::new() })
    }

    /// Takes `bytes`, waiting for room.
    pub fn take(self: &Arc<Self>, bytes: usize) -> BytePermit {
        let bytes = bytes.min(self.total);
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = self
            .freed
            .wait_while(taken, |taken| *taken + bytes > self.total)
            .unwrap_or_else(PoisonError::into_inner);
        *taken += bytes;
        BytePermit { budget: Arc::clone(self), bytes }
    }

    /// Bytes taken now.
    pub fn taken_bytes(&self) -> usize {
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for BytePermit {
    fn drop(&mut self) {
        let mut taken = self.budget.taken.lock().unwrap_or_else(PoisonError::into_inner);
        *taken -= self.bytes;
        drop(taken);
        self.budget.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_more_than_the_budget_is_out() {
        let budget = ByteBudget::new(100);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for bytes in [10, 60, 100, 500] {
                        let permit = budget.take(bytes);
                        assert!(budget.taken_bytes() <= 100);
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!(budget.taken_bytes(), 0);
    }
}
