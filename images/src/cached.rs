//! Recently read stretches of a volume, kept in bounded memory: file systems come back to the same
//! tables again and again. What is longer than a stretch is read past it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use crate::volume::{Volume, VolumeError};

/// What is read at once, in bytes.
const STRETCH_BYTES: u64 = 64 << 10;
/// Stretches kept: 32 MiB.
const STRETCHES_MAX: usize = 512;

/// A volume that remembers.
pub struct Cached {
    below: Arc<dyn Volume>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    stretches: HashMap<u64, (u64, Arc<[u8]>)>,
    /// Stretches by when they were last used.
    used: BTreeMap<u64, u64>,
    turn: u64,
}

impl Kept {
    fn find(&mut self, number: u64) -> Option<Arc<[u8]>> {
        let (last, bytes) = self.stretches.get_mut(&number)?;
        self.turn += 1;
        self.used.remove(last);
        self.used.insert(self.turn, number);
        *last = self.turn;
        Some(Arc::clone(bytes))
    }

    fn keep(&mut self, number: u64, bytes: Arc<[u8]>) {
        self.turn += 1;
        if let Some((last, _)) = self.stretches.insert(number, (self.turn, bytes)) {
            self.used.remove(&last);
        }
        self.used.insert(self.turn, number);
        while self.stretches.len() > STRETCHES_MAX {
            let Some((_, oldest)) = self.used.pop_first() else { return };
            self.stretches.remove(&oldest);
        }
    }
}

impl Cached {
    /// Remembers what is read of `below`.
    pub fn new(below: Arc<dyn Volume>) -> Self {
        Self { below, kept: Mutex::default() }
    }

    fn stretch(&self, number: u64) -> Result<Arc<[u8]>, VolumeError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = kept.find(number) {
            return Ok(bytes);
        }
        drop(kept);
        let at = number * STRETCH_BYTES;
        let length = self.below.bytes().saturating_sub(at).min(STRETCH_BYTES);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        self.below.read_at(at, &mut bytes)?;
        let bytes: Arc<[u8]> = bytes.into();
        kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.keep(number, Arc::clone(&bytes));
        Ok(bytes)
    }
}

impl Volume for Cached {
    fn bytes(&self) -> u64 {
        self.below.bytes()
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<(), VolumeError> {
        let end = at.checked_add(into.len() as u64).filter(|end| *end <= self.bytes());
        if end.is_none() || into.len() as u64 > STRETCH_BYTES {
            return self.below.read_at(at, into);
        }
        let (mut at, mut rest) = (at, into);
        while !rest.is_empty() {
            let bytes = self.stretch(at / STRETCH_BYTES)?;
            let from = usize::try_from(at % STRETCH_BYTES).unwrap_or(0);
            let there = bytes.get(from..).unwrap_or_default();
            let count = there.len().min(rest.len());
            if count == 0 {
                let bytes = self.bytes();
                return Err(VolumeError::Beyond { at, to: at + rest.len() as u64, bytes });
            }
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(there.get(..count).unwrap_or_default());
            rest = later;
            at += count as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_below_wherever_they_lie() {
        let below: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
        let cached = Cached::new(Arc::new(below.clone()));
        for (at, length) in [(0, 10), (65_530, 20), (131_000, 65_536), (299_990, 10), (1, 200_000)]
        {
            for _ in 0..2 {
                let mut into = vec![0; length];
                cached.read_at(at as u64, &mut into).unwrap();
                assert_eq!(into, below[at..at + length], "{at}");
            }
        }
        assert!(cached.read_at(299_995, &mut [0; 10]).is_err());
        assert!(cached.read_at(u64::MAX, &mut [0; 10]).is_err());
    }
}
