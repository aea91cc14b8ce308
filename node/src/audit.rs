//! The audit log: who ordered what, one JSON line each, every line chained to the one before by its
//! hash, on disk before [`AuditLog::append`] returns. A line that a crash tore is cut off and
//! the cut is recorded. Detects any change, removal or insertion inside the file; a removed tail
//! only against a [`Head`] kept elsewhere (the catalog). Refuses to append to a broken chain.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use strongroom_protocol::Timestamp;

/// The log's name in a node's home.
pub const AUDIT_FILE: &str = "audit.log";
/// Longest line read back: an order with thousands of points fits, a damaged file without line
/// ends cannot exhaust memory.
const LINE_BYTES_MAX: u64 = 4 << 20;
/// Separates these hashes from every other use of BLAKE3.
const HASH_CONTEXT: &str = "strongroom 2026 audit record v1";

/// Why the audit log cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    #[error(
        "the audit log {} is broken at line {line} ({what}): keep the file as evidence, move it \
         away, and a new one is begun", path.display()
    )]
    Broken { path: PathBuf, line: u64, seq: u64, what: &'static str },
    #[error("the audit log {} cannot be read or written", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("an audit record of {bytes} bytes is too long")]
    TooLong { bytes: usize },
}

/// What happened, without its place in the chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The identity from the certificate, or this coordinator's.
    pub actor: String,
    /// One word or two, such as `policy.apply`.
    pub action: String,
    pub subject: String,
    pub detail: String,
}

/// One line of the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// From 1, without a gap.
    pub seq: u64,
    pub at: Timestamp,
    pub actor: String,
    pub action: String,
    pub subject: String,
    pub detail: String,
    /// The hash of the record before, zeros for the first.
    pub prev: String,
    pub hash: String,
}

/// The end of the chain, to be kept where the log is not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Head {
    pub seq: u64,
    pub hash: String,
}

impl Head {
    /// The head of an empty log.
    pub fn empty() -> Self {
        Self { seq: 0, hash: "0".repeat(64) }
    }
}

impl Record {
    fn chained(head: &Head, entry: Entry, at: Timestamp) -> Self {
        let Entry { actor, action, subject, detail } = entry;
        let (seq, prev) = (head.seq + 1, head.hash.clone());
        let hash = String::new();
        let mut record = Self { seq, at, actor, action, subject, detail, prev, hash };
        record.hash = record.computed();
        record
    }

    /// Every field goes in with its length, so that no two records share their bytes.
    fn computed(&self) -> String {
        let mut hasher = blake3::Hasher::new_derive_key(HASH_CONTEXT);
        hasher.update(&self.seq.to_le_bytes());
        hasher.update(&self.at.0.to_le_bytes());
        for text in [&self.actor, &self.action, &self.subject, &self.detail, &self.prev] {
            let bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
            hasher.update(&bytes.to_le_bytes());
            hasher.update(text.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    fn head(&self) -> Head {
        Head { seq: self.seq, hash: self.hash.clone() }
    }
}

/// A whole chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verified {
    pub records: u64,
    pub head: Head,
    /// Bytes after the last whole line: a write that a crash tore, or one under way.
    pub torn_bytes: u64,
}

/// Reads the whole log and checks every link; a missing file is an empty log.
pub fn verify(path: &Path) -> Result<Verified, AuditError> {
    read(path, &Head::empty(), |_| {})
}

/// As [`verify`]; in addition the log must contain the record that `anchor` names.
pub fn verify_against(path: &Path, anchor: &Head) -> Result<Verified, AuditError> {
    read(path, anchor, |_| {})
}

/// The newest `most` records, oldest first, after checking the whole chain.
pub fn tail(path: &Path, most: usize) -> Result<(Verified, Vec<Record>), AuditError> {
    let mut newest = std::collections::VecDeque::new();
    let verified = read(path, &Head::empty(), |record| {
        newest.push_back(record);
        if newest.len() > most {
            newest.pop_front();
        }
    })?;
    Ok((verified, newest.into()))
}

fn read(path: &Path, anchor: &Head, mut each: impl FnMut(Record)) -> Result<Verified, AuditError> {
    let failed = |source| AuditError::Io { path: path.to_owned(), source };
    let mut head = Head::empty();
    let mut torn_bytes = 0;
    let broken = |head: &Head, what| {
        let (line, path) = (head.seq + 1, path.to_owned());
        Err(AuditError::Broken { path, line, seq: head.seq + 1, what })
    };
    let file = match File::open(path) {
        Ok(file) => Some(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error)),
    };
    if let Some(file) = file {
        let mut lines = BufReader::new(file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let limited = lines.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
            let bytes = limited.map_err(failed)?;
            if line.last() != Some(&b'\n') {
                if u64::try_from(bytes).unwrap_or(u64::MAX) >= LINE_BYTES_MAX {
                    return broken(&head, "a line without end");
                }
                torn_bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
                break;
            }
            let Ok(record) = serde_json::from_slice::<Record>(&line) else {
                return broken(&head, "not a record");
            };
            if record.seq != head.seq + 1 || record.prev != head.hash {
                return broken(&head, "it does not follow the record before");
            }
            if record.hash != record.computed() {
                return broken(&head, "its hash does not match its words");
            }
            head = record.head();
            if head.seq == anchor.seq && head.hash != anchor.hash {
                return broken(&Head { seq: head.seq - 1, ..head }, "not the record anchored");
            }
            each(record);
        }
    }
    if head.seq < anchor.seq {
        return broken(&head, "records that were anchored are missing at the end");
    }
    Ok(Verified { records: head.seq, head, torn_bytes })
}

/// What the log says of itself.
fn own(path: &Path, action: &str, detail: String) -> Entry {
    let subject = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Entry { actor: "coordinator".to_owned(), action: action.to_owned(), subject, detail }
}

/// The log, open for appending. One process, one log.
#[derive(Debug)]
pub struct AuditLog {
    path: PathBuf,
    end: Mutex<End>,
}

#[derive(Debug)]
struct End {
    file: File,
    head: Head,
    bytes: u64,
}

impl AuditLog {
    /// Opens or begins the log and checks the whole chain, against `anchor` when one is known.
    /// A torn last line is cut off; that is the log's next record. A log that was moved away is
    /// begun anew, and its first record says which record the one before had reached.
    pub fn open(path: &Path, anchor: Option<&Head>, now: Timestamp) -> Result<Self, AuditError> {
        let empty = Head::empty();
        let failed = |source| AuditError::Io { path: path.to_owned(), source };
        let is_there = path.try_exists().map_err(failed)?;
        let moved_away = anchor.filter(|anchor| !is_there && anchor.seq > 0);
        let anchor = if moved_away.is_some() { None } else { anchor };
        let verified = read(path, anchor.unwrap_or(&empty), |_| {})?;
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true);
        let file = options.open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let bytes = length.saturating_sub(verified.torn_bytes);
        if verified.torn_bytes > 0 {
            file.set_len(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or_else(|| Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        let end = End { file, head: verified.head, bytes };
        let log = Self { path: path.to_owned(), end: Mutex::new(end) };
        if let Some(Head { seq, hash }) = moved_away {
            let detail = format!("the log anchored at record {seq} ({hash}) is not here any more");
            log.append(own(path, "audit.begun", detail), now)?;
        }
        if verified.torn_bytes > 0 {
            let detail = format!("a torn last line of {} bytes was cut off", verified.torn_bytes);
            log.append(own(path, "audit.repaired", detail), now)?;
        }
        Ok(log)
    }

    /// Appends one record; it is on disk when this returns. After an error nothing of it stays.
    pub fn append(&self, entry: Entry, at: Timestamp) -> Result<Record, AuditError> {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let record = Record::chained(&end.head, entry, at);
        let failed = |source| AuditError::Io { path: self.path.clone(), source };
        let mut line = serde_json::to_vec(&record).map_err(|e| failed(io::Error::other(e)))?;
        line.push(b'\n');
        let line_bytes = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if line_bytes >= LINE_BYTES_MAX {
            return Err(AuditError::TooLong { bytes: line.len() });
        }
        let start = end.bytes;
        let End { file, .. } = &mut *end;
        // Cut first: an earlier append may have failed half way.
        let cut = file.set_len(start).and_then(|()| file.seek(SeekFrom::Start(start)));
        let written = cut.and_then(|_| file.write_all(&line)).and_then(|()| file.sync_data());
        if let Err(error) = written {
            drop(file.set_len(start));
            return Err(failed(error));
        }
        end.bytes = start + line_bytes;
        end.head = record.head();
        Ok(record)
    }

    /// The end of the chain, to be anchored in the catalog.
    pub fn head(&self) -> Head {
        self.end.lock().unwrap_or_else(PoisonError::into_inner).head.clone()
    }

    /// Where the log is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_780_000_000);

    fn entry(n: usize) -> Entry {
        Entry {
            actor: "strongroom://o/site/s/operator/ann".into(),
            action: "hold.place".into(),
            subject: format!("hold {n}\nline two"),
            detail: "\"quoted\"".into(),
        }
    }

    fn log_of(folder: &Path, records: usize) -> PathBuf {
        let path = folder.join("audit.jsonl");
        let log = AuditLog::open(&path, None, NOW).unwrap();
        for n in 0..records {
            log.append(entry(n), NOW).unwrap();
        }
        path
    }

    #[test]
    fn it_goes_on_after_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let path = log_of(folder.path(), 3);
        let log = AuditLog::open(&path, None, NOW).unwrap();
        assert_eq!(log.append(entry(3), NOW).unwrap().seq, 4);
        let (verified, newest) = tail(&path, 2).unwrap();
        assert_eq!((verified.records, verified.head), (4, log.head()));
        assert_eq!(newest.iter().map(|r| r.seq).collect::<Vec<_>>(), [3, 4]);
    }

    #[test]
    fn every_change_of_every_byte_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = log_of(folder.path(), 3);
        let head = verify(&path).unwrap().head;
        let whole = std::fs::read(&path).unwrap();
        for index in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[index] ^= 1;
            std::fs::write(&path, &damaged).unwrap();
            assert!(verify_against(&path, &head).is_err(), "byte {index}");
        }
    }

    #[test]
    fn a_removed_or_swapped_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = log_of(folder.path(), 4);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        for order in [vec![0, 2, 3], vec![0, 2, 1, 3], vec![1, 2, 3], vec![0, 1, 1, 2]] {
            let mixed: String = order.iter().map(|n| lines[*n]).collect();
            std::fs::write(&path, mixed).unwrap();
            let wrong = verify(&path).unwrap_err();
            assert!(matches!(wrong, AuditError::Broken { line, .. } if line <= 3), "{order:?}");
            assert!(AuditLog::open(&path, None, NOW).is_err());
        }
    }

    #[test]
    fn a_torn_line_is_cut_off_and_recorded_at_every_length() {
        let folder = tempfile::tempdir().unwrap();
        let path = log_of(folder.path(), 2);
        let whole = std::fs::read(&path).unwrap();
        let first = whole.iter().position(|b| *b == b'\n').unwrap() + 1;
        for length in first + 1..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let log = AuditLog::open(&path, None, NOW).unwrap();
            let (verified, newest) = tail(&path, 1).unwrap();
            assert_eq!((verified.records, verified.torn_bytes), (2, 0));
            assert_eq!(newest[0].action, "audit.repaired");
            assert_eq!(verified.head, log.head());
        }
    }

    #[test]
    fn a_removed_tail_is_found_by_the_anchor() {
        let folder = tempfile::tempdir().unwrap();
        let path = log_of(folder.path(), 3);
        let head = verify(&path).unwrap().head;
        let text = std::fs::read_to_string(&path).unwrap();
        let short: String = text.split_inclusive('\n').take(2).collect();
        std::fs::write(&path, short).unwrap();
        assert_eq!(verify(&path).unwrap().records, 2);
        let wrong = verify_against(&path, &head).unwrap_err();
        assert!(matches!(wrong, AuditError::Broken { seq: 3, .. }));
        assert!(AuditLog::open(&path, Some(&head), NOW).is_err());
        std::fs::remove_file(&path).unwrap();
        drop(AuditLog::open(&path, Some(&head), NOW).unwrap());
        let (verified, begun) = tail(&path, 2).unwrap();
        assert_eq!((verified.records, begun[0].action.as_str()), (1, "audit.begun"));
        assert!(begun[0].detail.contains(&head.hash), "{}", begun[0].detail);
    }
}
