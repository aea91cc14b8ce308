//! A pack of a repository as a stream that can be read again, for putting it on media.
//! Promises nothing of its own: the writer hashes what it reads.

use std::io::{self, Read, Seek, SeekFrom};

use strongroom_protocol::PackId;

use crate::repo::{Repo, RepoError};

/// Bytes read of a repository at once: what a drive takes as a few blocks.
const READ_BYTES: usize = 1 << 20;

/// One pack of a repository.
#[derive(Debug)]
pub struct RepoPack<'a> {
    repo: &'a Repo,
    pack: PackId,
    bytes: u64,
    at: u64,
    window: bytes::Bytes,
    window_at: u64,
}

impl<'a> RepoPack<'a> {
    /// From its first byte.
    pub fn new(repo: &'a Repo, pack: PackId) -> Result<Self, RepoError> {
        let bytes = repo.pack_len(pack)?;
        Ok(Self { repo, pack, bytes, at: 0, window: bytes::Bytes::new(), window_at: 0 })
    }

    /// Its length.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Read for RepoPack<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let within = |at: u64, start: u64, len: usize| {
            at.checked_sub(start).and_then(|n| usize::try_from(n).ok()).filter(|n| *n < len)
        };
        if within(self.at, self.window_at, self.window.len()).is_none() && self.at < self.bytes {
            let read = self.repo.read_pack(self.pack, self.at, READ_BYTES);
            self.window = read.map_err(io::Error::other)?;
            self.window_at = self.at;
        }
        let Some(from) = within(self.at, self.window_at, self.window.len()) else { return Ok(0) };
        let there = &self.window[from..];
        let bytes = there.len().min(into.len());
        into[..bytes].copy_from_slice(&there[..bytes]);
        self.at += bytes as u64;
        Ok(bytes)
    }
}

impl Seek for RepoPack<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.bytes.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
