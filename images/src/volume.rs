//! A row of bytes that may be read from anywhere: an image, a partition of it, a file.

use std::io;
use std::sync::Arc;

/// Bytes that cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VolumeError {
    /// The range reaches beyond the end: what asked believed a lie.
    #[error("bytes {at} to {to} were wanted of {bytes}")]
    Beyond { at: u64, to: u64, bytes: u64 },
    /// What is below cannot be read.
    #[error("byte {at} cannot be read")]
    Read {
        at: u64,
        #[source]
        source: io::Error,
    },
}

/// Bytes of fixed number, read from anywhere by any number of threads.
pub trait Volume: Send + Sync {
    /// How many bytes there are.
    fn bytes(&self) -> u64;

    /// Fills `into` from byte `at`, whole or not at all.
    ///
    /// # Errors
    ///
    /// [`VolumeError`] if the range ends beyond [`Volume::bytes`] or cannot be read.
    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<(), VolumeError>;
}

/// A stretch of another volume: a partition.
pub struct Part {
    below: Arc<dyn Volume>,
    first: u64,
    bytes: u64,
}

impl Part {
    /// The `bytes` from byte `first` of `below`.
    ///
    /// # Errors
    ///
    /// [`VolumeError::Beyond`] if `below` ends before.
    pub fn new(below: Arc<dyn Volume>, first: u64, bytes: u64) -> Result<Self, VolumeError> {
        within(first, bytes, below.bytes())?;
        Ok(Self { below, first, bytes })
    }
}

impl Volume for Part {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<(), VolumeError> {
        within(at, into.len() as u64, self.bytes)?;
        self.below.read_at(self.first + at, into)
    }
}

impl Volume for Vec<u8> {
    fn bytes(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<(), VolumeError> {
        within(at, into.len() as u64, self.len() as u64)?;
        let first = usize::try_from(at).unwrap_or(usize::MAX);
        if let Some(from) = self.get(first..).and_then(|rest| rest.get(..into.len())) {
            into.copy_from_slice(from);
        }
        Ok(())
    }
}

/// Refuses a range of `wanted` bytes from `at` that ends beyond `bytes`: the first line of every
/// [`Volume::read_at`].
///
/// # Errors
///
/// [`VolumeError::Beyond`].
pub fn within(at: u64, wanted: u64, bytes: u64) -> Result<(), VolumeError> {
    match at.checked_add(wanted) {
        Some(to) if to <= bytes => Ok(()),
        to => Err(VolumeError::Beyond { at, to: to.unwrap_or(u64::MAX), bytes }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_ends_where_it_was_said_to_end() {
        let whole: Arc<dyn Volume> = Arc::new((0..100).collect::<Vec<u8>>());
        let part = Part::new(Arc::clone(&whole), 10, 5).unwrap();
        let mut two = [0; 2];
        part.read_at(3, &mut two).unwrap();
        assert_eq!(two, [13, 14]);
        assert!(matches!(part.read_at(4, &mut two), Err(VolumeError::Beyond { .. })));
        assert!(matches!(part.read_at(u64::MAX, &mut two), Err(VolumeError::Beyond { .. })));
        assert!(Part::new(whole, 96, 5).is_err());
    }
}
