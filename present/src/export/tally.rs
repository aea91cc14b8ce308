//! What was served, counted while it is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Reasons that are kept in words; of more only the number is.
const REASONS_MAX: usize = 16;

/// Counts of one server.
#[derive(Debug, Default)]
pub struct Tally {
    connections: AtomicU64,
    refused: AtomicU64,
    read_bytes: AtomicU64,
    failures: AtomicU64,
    reasons: Mutex<Vec<String>>,
}

/// The counts at one time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Told {
    /// Clients that were served a device.
    pub connections: u64,
    /// Clients that were not.
    pub refused: u64,
    pub read_bytes: u64,
    /// Requests that failed by what is behind the device.
    pub failures: u64,
    /// Why, each once; the first few.
    pub reasons: Vec<String>,
}

impl Tally {
    pub(super) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self, bytes: u64) {
        self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn failed(&self, why: &str) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        if reasons.len() < REASONS_MAX && !reasons.iter().any(|known| known == why) {
            reasons.push(why.to_owned());
        }
    }

    /// The counts as they are.
    pub fn told(&self) -> Told {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Told {
            connections: count(&self.connections),
            refused: count(&self.refused),
            read_bytes: count(&self.read_bytes),
            failures: count(&self.failures),
            reasons: self.reasons.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}
