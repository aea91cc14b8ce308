//! Looks at the pages of relations as they pass, by the checksum each carries. A page that does
//! not fit its checksum is read again: one that was being written is then another, and the log
//! mends it; one that stays as it was is corrupt, and is said by its block.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::workload::files::witness::{Watching, Witness};
use crate::workload::postgres::lsn::Lsn;

/// Blocks of a file named one by one; more are only counted.
const BLOCKS_TOLD_MAX: usize = 8;
/// Files named with their blocks.
const FILES_TOLD_MAX: usize = 1000;
/// Pages of a file that may be half written: a server seldom has more than a few under way.
const TORN_MAX: usize = 4096;
/// How often a page is read again, and how long between: a page under way is written by then.
const TRIES_MAX: u32 = 5;
const PAUSE: Duration = Duration::from_millis(5);
/// A file of a relation ends at this many bytes; the next has the next number.
const FILE_BYTES: u64 = 1 << 30;
/// Sums that run side by side, and what each begins with and is multiplied by.
const LANES: usize = 32;
const PRIME: u32 = 16_777_619;
const OFFSETS: [u32; LANES] = [
    0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
    0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
    0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
    0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
];

/// The checksum of a page, as PostgreSQL computes it: block numbers count through the relation.
pub fn page_checksum(page: &[u8], block: u32) -> u16 {
    let mut sums = OFFSETS;
    let mix = |sum: &mut u32, word: u32| {
        let mixed = *sum ^ word;
        *sum = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
    };
    for (row, bytes) in page.chunks_exact(4 * LANES).enumerate() {
        for (lane, (sum, word)) in sums.iter_mut().zip(bytes.chunks_exact(4)).enumerate() {
            let word = u32::from_le_bytes(word.try_into().unwrap_or_default());
            // The checksum itself, in bytes 8 and 9, counts as zero.
            let word = if row == 0 && lane == 2 { word & 0xffff_0000 } else { word };
            mix(sum, word);
        }
    }
    for _ in 0..2 {
        sums.iter_mut().for_each(|sum| mix(sum, 0));
    }
    let folded = sums.iter().fold(0, |all, sum| all ^ sum) ^ block;
    u16::try_from(folded % 65_535 + 1).unwrap_or_default()
}

/// Whether a page is as it was written.
pub fn is_whole(page: &[u8], block: u32) -> bool {
    let half = |at: usize| {
        let two = page.get(at..at + 2).and_then(|two| two.try_into().ok());
        u16::from_le_bytes(two.unwrap_or_default())
    };
    // Where free space ends; a page that was never used has none, and no byte set.
    if half(14) == 0 {
        return page.iter().all(|byte| *byte == 0);
    }
    half(8) == page_checksum(page, block)
}

/// The number of the file within its relation, if a name is that of a relation's file.
fn file_number(name: &[u8]) -> Option<u64> {
    let name = std::str::from_utf8(name).ok()?;
    let (relation, number) = match name.split_once('.') {
        Some((relation, number)) => (relation, number.parse().ok()?),
        None => (name, 0),
    };
    let forks = ["_fsm", "_vm", "_init"];
    let node = forks.iter().find_map(|fork| relation.strip_suffix(fork)).unwrap_or(relation);
    let digits = !node.is_empty() && node.bytes().all(|digit| digit.is_ascii_digit());
    digits.then_some(number)
}

/// What was looked at, and what was found.
#[derive(Debug, Default)]
pub struct Findings {
    pages: AtomicU64,
    corrupt: AtomicU64,
    torn: AtomicU64,
    files: Mutex<BTreeMap<String, Vec<u32>>>,
}

impl Findings {
    /// Pages looked at.
    pub fn pages(&self) -> u64 {
        self.pages.load(Ordering::Relaxed)
    }

    /// Pages that are corrupt.
    pub fn corrupt(&self) -> u64 {
        self.corrupt.load(Ordering::Relaxed)
    }

    /// Pages that were being written when they were first read.
    pub fn torn(&self) -> u64 {
        self.torn.load(Ordering::Relaxed)
    }

    /// Names of files with corrupt pages, with the first of their blocks.
    pub fn files(&self) -> BTreeMap<String, Vec<u32>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Knows relations.
#[derive(Clone, Debug)]
pub struct Pages {
    pub findings: Arc<Findings>,
    pub page_bytes: usize,
}

impl Witness for Pages {
    fn file(&self, name: &[u8]) -> Option<Box<dyn Watching>> {
        let looked = self.of(name)?;
        Some(Box::new(looked))
    }
}

impl Pages {
    /// What looks at a file of this name, if it is one of a relation.
    pub fn of(&self, name: &[u8]) -> Option<Looking> {
        let number = file_number(name)?;
        let first = number * (FILE_BYTES / self.page_bytes as u64);
        Some(Looking {
            name: String::from_utf8_lossy(name).into_owned(),
            pages: self.clone(),
            first: u32::try_from(first).ok()?,
            begun: Vec::new(),
            at: 0,
            corrupt: Vec::new(),
            count: 0,
            torn: Vec::new(),
        })
    }
}

/// How a page that does not fit its checksum is looked at once more.
#[derive(Clone, Copy, Debug)]
pub enum Again<'file> {
    /// It is read again.
    File(BorrowedFd<'file>),
    /// The server looked twice at what it had not written since: later pages may be half written.
    Since(Lsn),
}

/// Looks at one file of a relation.
pub struct Looking {
    name: String,
    pages: Pages,
    first: u32,
    /// The beginning of the page that is passing.
    begun: Vec<u8>,
    /// Where that page begins in the file.
    at: u64,
    corrupt: Vec<u32>,
    count: u64,
    /// Pages that are torn if the log reaches the place of their last change.
    torn: Vec<(u32, Lsn)>,
}

impl Looking {
    fn page(&mut self, page: &[u8], again: Again<'_>) {
        let Ok(block) = u32::try_from(self.at / self.pages.page_bytes as u64) else { return };
        let whole = self.first + block;
        self.pages.findings.pages.fetch_add(1, Ordering::Relaxed);
        if is_whole(page, whole) {
            return;
        }
        let torn = match again {
            Again::File(file) => self.is_another(page, file),
            Again::Since(start) if written_at(page) >= start && self.torn.len() < TORN_MAX => {
                self.torn.push((whole, written_at(page)));
                return;
            }
            Again::Since(_) => false,
        };
        self.judge(whole, torn);
    }

    fn judge(&mut self, block: u32, torn: bool) {
        if torn {
            self.pages.findings.torn.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.pages.findings.corrupt.fetch_add(1, Ordering::Relaxed);
        self.count += 1;
        self.corrupt.push(block);
        self.corrupt.sort_unstable();
        self.corrupt.truncate(BLOCKS_TOLD_MAX);
    }

    /// Judges what may be half written, now that it is known where the log ends: no page was
    /// changed after that, and what claims to have been is noise.
    pub fn settle(&mut self, stop: Lsn) {
        for (block, at) in std::mem::take(&mut self.torn) {
            self.judge(block, at <= stop);
        }
    }

    /// Whether nothing waits for [`Looking::settle`].
    pub fn is_settled(&self) -> bool {
        self.torn.is_empty()
    }

    /// Whether a page is shorter by now, or another: it was being written, and the log mends it.
    fn is_another(&self, page: &[u8], file: BorrowedFd<'_>) -> bool {
        let mut again = vec![0; page.len()];
        (0..TRIES_MAX).any(|_| {
            std::thread::sleep(PAUSE);
            let read = rustix::io::pread(file, again.as_mut_slice(), self.at);
            read != Ok(page.len()) || again != page
        })
    }

    /// The bytes at `at`, in order but for holes.
    pub fn pass(&mut self, at: u64, mut bytes: &[u8], again: Again<'_>) {
        let page_bytes = self.pages.page_bytes;
        if at != self.at + self.begun.len() as u64 {
            // A hole was passed: it ends and begins with pages, which are those never used.
            self.begun.clear();
            let into = at % page_bytes as u64;
            let skip = usize::try_from((page_bytes as u64 - into) % page_bytes as u64);
            let skip = skip.unwrap_or_default().min(bytes.len());
            self.at = at + skip as u64;
            bytes = bytes.get(skip..).unwrap_or_default();
        }
        if !self.begun.is_empty() {
            let lacking = (page_bytes - self.begun.len()).min(bytes.len());
            let (head, rest) = bytes.split_at(lacking);
            self.begun.extend_from_slice(head);
            bytes = rest;
            if self.begun.len() < page_bytes {
                return;
            }
            let page = std::mem::take(&mut self.begun);
            self.page(&page, again);
            self.at += page_bytes as u64;
        }
        let mut pages = bytes.chunks_exact(page_bytes);
        for page in &mut pages {
            self.page(page, again);
            self.at += page_bytes as u64;
        }
        self.begun.extend_from_slice(pages.remainder());
    }

    /// What is wrong with the file, in words.
    pub fn outcome(self) -> Option<String> {
        let first = self.corrupt.first()?;
        let mut files = self.pages.findings.files.lock().unwrap_or_else(PoisonError::into_inner);
        if files.len() < FILES_TOLD_MAX {
            files.insert(self.name.clone(), self.corrupt.clone());
        }
        Some(match self.count {
            1 => format!("block {first} does not fit its checksum"),
            count => format!("block {first} and {} more do not fit their checksums", count - 1),
        })
    }
}

impl Watching for Looking {
    fn see(&mut self, at: u64, bytes: &[u8], file: BorrowedFd<'_>) {
        self.pass(at, bytes, Again::File(file));
    }

    fn found(self: Box<Self>) -> Option<String> {
        self.outcome()
    }
}

/// The place in the log of the last change to a page: two halves, the high one first.
fn written_at(page: &[u8]) -> Lsn {
    let half = |at: usize| {
        let four = page.get(at..at + 4).and_then(|four| four.try_into().ok());
        u64::from(u32::from_le_bytes(four.unwrap_or_default()))
    };
    Lsn(half(0) << 32 | half(4))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::fd::AsFd as _;

    const PAGE: usize = 8192;

    fn page(seed: u8, block: u32) -> Vec<u8> {
        let mut page: Vec<u8> = (0..PAGE).map(|at| (at as u8).wrapping_mul(seed)).collect();
        page[14..16].copy_from_slice(&8000_u16.to_le_bytes());
        let sum = page_checksum(&page, block);
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        page
    }

    #[test]
    fn a_page_fits_its_checksum_at_its_own_block_only() {
        let mut bytes = page(3, 17);
        assert!(is_whole(&bytes, 17));
        assert!(!is_whole(&bytes, 18));
        bytes[5000] ^= 1;
        assert!(!is_whole(&bytes, 17));
        assert!(is_whole(&vec![0; PAGE], 4));
        let mut unused = vec![0; PAGE];
        unused[9] = 1;
        assert!(!is_whole(&unused, 4));
    }

    #[test]
    fn files_of_relations_are_told_from_others() {
        let cases: [(&str, Option<u64>); 9] = [
            ("16384", Some(0)),
            ("16384.3", Some(3)),
            ("16384_vm", Some(0)),
            ("16384_fsm.1", Some(1)),
            ("16385_init", Some(0)),
            ("pg_filenode.map", None),
            ("PG_VERSION", None),
            ("t3_16384", None),
            ("_vm", None),
        ];
        for (name, number) in cases {
            assert_eq!(file_number(name.as_bytes()), number, "{name}");
        }
    }

    #[test]
    fn corrupt_blocks_are_named_however_the_bytes_come() {
        let mut bytes = Vec::new();
        for block in 0..6 {
            bytes.extend(page(5, block + 131_072));
        }
        bytes[PAGE * 3 + 77] ^= 4;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let pages = Pages { findings: Arc::default(), page_bytes: PAGE };
        let mut looking = Box::new(pages.of(b"16384.1").unwrap());
        for (number, piece) in bytes.chunks(5000).enumerate() {
            looking.see(number as u64 * 5000, piece, file.as_fd());
        }
        let found = looking.found().unwrap();
        assert_eq!(found, "block 131075 does not fit its checksum");
        assert_eq!((pages.findings.pages(), pages.findings.corrupt()), (6, 1));
        assert_eq!(pages.findings.files()["16384.1"], [131_075]);
    }

    #[test]
    fn a_page_that_was_being_written_is_not_corrupt() {
        let now = page(7, 0);
        let mut torn = now.clone();
        torn[4096..].fill(9);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&now).unwrap();
        let pages = Pages { findings: Arc::default(), page_bytes: PAGE };
        let mut looking = Box::new(pages.of(b"16384").unwrap());
        looking.see(0, &torn, file.as_fd());
        assert_eq!(looking.found(), None);
        assert_eq!(pages.findings.torn(), 1);
    }

    #[test]
    fn a_page_written_while_the_backup_went_on_may_be_half_written() {
        let pages = Pages { findings: Arc::default(), page_bytes: PAGE };
        let mut half = page(7, 0);
        half[..8].copy_from_slice(&[1, 0, 0, 0, 5, 0, 0, 0]);
        half[4096..].fill(9);
        assert_eq!(written_at(&half), Lsn(1 << 32 | 5));
        let outcome = |start, stop| {
            let mut looking = pages.of(b"16384").unwrap();
            looking.pass(0, &half, Again::Since(Lsn(start)));
            looking.settle(Lsn(stop));
            looking.outcome()
        };
        let corrupt = Some("block 0 does not fit its checksum".to_owned());
        assert_eq!(outcome(1 << 32 | 5, 1 << 32 | 5), None);
        assert_eq!(outcome(1 << 32 | 6, 1 << 32 | 7), corrupt);
        assert_eq!((pages.findings.torn(), pages.findings.corrupt()), (1, 1));
        // Beyond the end of the log there is nothing that mends it.
        assert_eq!(outcome(1 << 32, 1 << 32 | 4), corrupt);
        assert_eq!((pages.findings.torn(), pages.findings.corrupt()), (1, 2));
    }
}
