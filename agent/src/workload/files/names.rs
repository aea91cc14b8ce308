//! The names in one directory, sorted as bytes, however many there are: past a limit they
//! go in sorted runs to a file without a name and are merged on the way back.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io;
use std::io::Write as _;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt as _;

use rustix::fs::RawDir;

/// Names of one directory kept in memory before they are spilled, in bytes.
pub const NAMES_BYTES_MAX: usize = 16 << 20;
/// What one `getdents` may fill.
const LISTING_BYTES: usize = 32 << 10;
/// What one run is read back by.
const RUN_BUFFER_BYTES: usize = 64 << 10;
/// A name on file: its length, then its bytes.
const LENGTH_BYTES: usize = 2;

/// Names of one directory, handed out in order.
#[derive(Debug, Default)]
pub struct Names {
    arena: Arena,
    next: usize,
    runs: Vec<Run>,
    heap: BinaryHeap<Reverse<(Vec<u8>, usize)>>,
    has_marker: bool,
}

impl Names {
    /// Reads a whole directory. `markers` are names to watch for.
    ///
    /// # Errors
    /// What the kernel answered; or no room for a spilled run.
    pub fn read(dir: BorrowedFd<'_>, limit_bytes: usize, markers: &[Vec<u8>]) -> io::Result<Self> {
        let mut names = Self::default();
        let mut spill = None;
        let mut buffer = Vec::with_capacity(LISTING_BYTES);
        let mut listing = RawDir::new(dir, buffer.spare_capacity_mut());
        while let Some(entry) = listing.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            names.has_marker |= markers.iter().any(|marker| marker == name);
            names.arena.push(name);
            if names.arena.held_bytes() > limit_bytes {
                names.spill(&mut spill)?;
            }
        }
        if spill.is_some() && !names.arena.places.is_empty() {
            names.spill(&mut spill)?;
        }
        names.arena.sort();
        for index in 0..names.runs.len() {
            names.refill(index)?;
        }
        Ok(names)
    }

    /// The next name into `name`; false at the end.
    ///
    /// # Errors
    /// A spilled run that cannot be read back.
    pub fn next(&mut self, name: &mut Vec<u8>) -> io::Result<bool> {
        name.clear();
        if let Some(Reverse((least, run))) = self.heap.pop() {
            *name = least;
            self.refill(run)?;
            return Ok(true);
        }
        let Some(found) = self.arena.at(self.next) else { return Ok(false) };
        name.extend_from_slice(found);
        self.next += 1;
        Ok(true)
    }

    /// How many names there are, if all of them are held in memory and none was handed out.
    pub fn held_len(&self) -> Option<usize> {
        (self.runs.is_empty() && self.next == 0).then_some(self.arena.places.len())
    }

    /// One of the names held in memory, in order.
    pub fn held_at(&self, index: usize) -> Option<&[u8]> {
        self.arena.at(index)
    }

    /// Whether one of the markers lies in the directory.
    pub const fn has_marker(&self) -> bool {
        self.has_marker
    }

    /// Memory held, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.arena.held_bytes() + self.runs.len() * RUN_BUFFER_BYTES
    }

    fn spill(&mut self, spill: &mut Option<(File, u64)>) -> io::Result<()> {
        self.arena.sort();
        let (file, start) = match spill.take() {
            Some(held) => held,
            None => (tempfile::tempfile()?, 0),
        };
        let mut out = io::BufWriter::with_capacity(RUN_BUFFER_BYTES, &file);
        let mut end = start;
        for index in 0..self.arena.places.len() {
            let name = self.arena.at(index).unwrap_or_default();
            let length = u16::try_from(name.len()).map_err(io::Error::other)?;
            out.write_all(&length.to_le_bytes())?;
            out.write_all(name)?;
            end += (LENGTH_BYTES + name.len()) as u64;
        }
        out.flush()?;
        drop(out);
        self.runs.push(Run { file: file.try_clone()?, at: start, end, held: Vec::new(), used: 0 });
        *spill = Some((file, end));
        self.arena = Arena::default();
        Ok(())
    }

    fn refill(&mut self, run: usize) -> io::Result<()> {
        let Some(reader) = self.runs.get_mut(run) else { return Ok(()) };
        if let Some(name) = reader.next()? {
            self.heap.push(Reverse((name, run)));
        }
        Ok(())
    }
}

/// Names one after another in one allocation.
#[derive(Debug, Default)]
struct Arena {
    bytes: Vec<u8>,
    places: Vec<(u32, u16)>,
}

impl Arena {
    fn push(&mut self, name: &[u8]) {
        // The limit keeps offsets far below 4 GiB; the kernel keeps names below 64 KiB.
        let start = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        let length = u16::try_from(name.len()).unwrap_or(u16::MAX);
        self.places.push((start, length));
        self.bytes.extend_from_slice(name);
    }

    fn at(&self, index: usize) -> Option<&[u8]> {
        let (start, length) = *self.places.get(index)?;
        self.bytes.get(start as usize..start as usize + usize::from(length))
    }

    fn sort(&mut self) {
        let bytes = &self.bytes;
        let name = |place: &(u32, u16)| {
            bytes.get(place.0 as usize..place.0 as usize + usize::from(place.1))
        };
        self.places.sort_unstable_by(|a, b| name(a).cmp(&name(b)));
    }

    const fn held_bytes(&self) -> usize {
        self.bytes.capacity() + self.places.capacity() * size_of::<(u32, u16)>()
    }
}

/// One sorted stretch of the spill file.
#[derive(Debug)]
struct Run {
    file: File,
    at: u64,
    end: u64,
    held: Vec<u8>,
    used: usize,
}

impl Run {
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        if !self.hold(LENGTH_BYTES)? {
            return Ok(None);
        }
        let length = self.take::<LENGTH_BYTES>();
        let length = usize::from(u16::from_le_bytes(length));
        if !self.hold(length)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let name = self.held.get(self.used..self.used + length).unwrap_or_default().to_vec();
        self.used += length;
        Ok(Some(name))
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let found = self.held.get(self.used..).and_then(<[u8]>::first_chunk::<N>);
        self.used += N;
        found.copied().unwrap_or([0; N])
    }

    /// Has `bytes` unread bytes at hand; false at the end of the run.
    fn hold(&mut self, bytes: usize) -> io::Result<bool> {
        if self.held.len() - self.used >= bytes {
            return Ok(true);
        }
        self.held.drain(..self.used);
        self.used = 0;
        let kept = self.held.len();
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let wanted = RUN_BUFFER_BYTES.max(bytes).min(left);
        self.held.resize(kept + wanted, 0);
        if let Some(free) = self.held.get_mut(kept..) {
            self.file.read_exact_at(free, self.at)?;
        }
        self.at += wanted as u64;
        Ok(self.held.len() >= bytes && bytes > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;

    fn list(dir: &std::path::Path, limit_bytes: usize) -> (Vec<Vec<u8>>, bool, usize) {
        let dir = File::open(dir).unwrap();
        let mut names = Names::read(dir.as_fd(), limit_bytes, &[b"n77".to_vec()]).unwrap();
        let (mut all, mut name) = (Vec::new(), Vec::new());
        while names.next(&mut name).unwrap() {
            all.push(name.clone());
        }
        (all, names.has_marker(), names.runs.len())
    }

    #[test]
    fn spilled_names_come_back_sorted_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        for index in 0..5000 {
            File::create(dir.path().join(format!("n{index}"))).unwrap();
        }
        let (held, marked, none) = list(dir.path(), NAMES_BYTES_MAX);
        let (spilled, _, runs) = list(dir.path(), 4096);
        assert_eq!(none, 0);
        assert!(runs > 10, "{runs}");
        assert!(marked);
        assert_eq!(held.len(), 5000);
        assert!(held.is_sorted());
        assert_eq!(held, spilled);
    }
}
