//! What is open, by the number the kernel names it by.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Open things of one kind.
pub(super) struct Handles<T> {
    open: Mutex<HashMap<u64, Arc<T>>>,
    next: AtomicU64,
}

impl<T> Handles<T> {
    pub(super) fn new() -> Self {
        Self { open: Mutex::default(), next: AtomicU64::new(1) }
    }

    /// Opens it; its number.
    pub(super) fn open(&self, thing: T) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.insert(number, Arc::new(thing));
        number
    }

    /// What is open under a number.
    pub(super) fn find(&self, number: u64) -> Option<Arc<T>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    /// Closes it.
    pub(super) fn close(&self, number: u64) {
        let closed = self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        drop(closed);
    }
}
