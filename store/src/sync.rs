//! The locks and counters that writers, sessions and collections meet at: those of the standard
//! library, or with the feature `shuttle` those of a scheduler that tries how they interleave.

#[cfg(not(feature = "shuttle"))]
pub(crate) use std::sync::{
    PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
    atomic::{AtomicU64, Ordering},
};

#[cfg(feature = "shuttle")]
pub(crate) use shuttle::sync::{
    Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
    atomic::{AtomicU64, Ordering},
};
