//! Who writes where at present. Promises that of two writes that touch the same blocks one comes
//! after the other; those that do not touch go on side by side.

use std::ops::Range;
use std::sync::{Condvar, Mutex, PoisonError};

/// The ranges that are being written.
#[derive(Debug, Default)]
pub(super) struct Claims {
    held: Mutex<Vec<Range<u64>>>,
    freed: Condvar,
}

/// A range that is being written; let go when this goes.
#[derive(Debug)]
pub(super) struct Claim<'c> {
    claims: &'c Claims,
    range: Range<u64>,
}

impl Claims {
    /// Waits until nobody writes into `range`, and holds it.
    pub(super) fn hold(&self, range: Range<u64>) -> Claim<'_> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        while held.iter().any(|other| other.start < range.end && range.start < other.end) {
            held = self.freed.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        held.push(range.clone());
        Claim { claims: self, range }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut held = self.claims.held.lock().unwrap_or_else(PoisonError::into_inner);
        // No two that are held are equal: they would touch.
        held.retain(|other| *other != self.range);
        self.claims.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn ranges_that_touch_take_turns() {
        let (claims, inside) = (Claims::default(), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for number in 0..8 {
                let (claims, inside) = (&claims, &inside);
                scope.spawn(move || {
                    for _ in 0..200 {
                        let held = claims.hold(number..number + 10);
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(held);
                    }
                });
            }
        });
        let _first = claims.hold(0..10);
        let _beside = claims.hold(10..20);
    }
}
