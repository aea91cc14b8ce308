//! Reads a server into a point: the tree of its snapshot, or the stream of mariabackup put
//! together again file by file, several at a time as they come mixed.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use strongroom_store::content::{Entry, MODE_MASK, Meta};

use crate::workload::compose::Composer;
use crate::workload::files::ProtectError;
use crate::workload::mariadb::about::Binlog;
use crate::workload::mariadb::error::MariaError;
use crate::workload::mariadb::stream::{Piece, Pieces, StreamError, What, shown};

/// What comes while commits wait fits here on most servers, so that the network is not waited
/// for: 64 pieces of what is read at a time.
const QUEUED_MAX: usize = 64;
const READ_BYTES: usize = 1 << 20;
/// Pieces of one file on their way.
const PIECES_MAX: usize = 2;
/// A file of a server, and a directory of one.
const FILE_MODE: u32 = 0o660;
const DIRECTORY_MODE: u32 = 0o700;
/// Where the program says where the log of changes ends.
const BINLOG_INFO: &[&[u8]] = &[b"mariadb_backup_binlog_info", b"xtrabackup_binlog_info"];
/// What is kept of it.
const INFO_BYTES_MAX: usize = 4096;

pub(super) fn failed(error: impl Into<MariaError>) -> ProtectError {
    let error: MariaError = error.into();
    ProtectError::Application(Box::new(error))
}

/// What is kept beside the content of a file like the one at `path`.
pub(super) fn meta_like(path: &Path) -> Result<Meta, MariaError> {
    let unread = |source| MariaError::File { path: path.to_owned(), source };
    let meta = std::fs::symlink_metadata(path).map_err(unread)?;
    Ok(Meta {
        mode: meta.mode() & MODE_MASK,
        uid: meta.uid(),
        gid: meta.gid(),
        mtime_ns: meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec()),
        ..Meta::default()
    })
}

/// What a stream held.
pub(super) struct Streamed {
    pub data: Entry,
    /// Where the log of changes ended, and its last transactions as GTIDs.
    pub binlog: Option<Binlog>,
    pub gtid_binlog: String,
}

/// What puts a file together.
type Making<'scope> = ScopedJoinHandle<'scope, Result<Entry, ProtectError>>;

/// A file while its pieces come.
struct Open<'scope> {
    pieces: SyncSender<Vec<u8>>,
    at: u64,
    made: Option<Making<'scope>>,
    /// The beginning of a file that says something.
    info: Option<Vec<u8>>,
}

/// Puts the files of a stream together; `data` is where they lie on the server, `own` what the
/// directory itself is.
///
/// # Errors
/// It is no whole stream, or the run ends.
pub(super) fn streamed(
    composer: &Composer<'_>,
    from: impl Read + Send,
    data: &Path,
    own: &Meta,
) -> Result<Streamed, ProtectError> {
    std::thread::scope(|scope| {
        let queued = Queued::start(scope, from);
        let mut pieces = Pieces::new(queued);
        let mut open: BTreeMap<Vec<u8>, Open<'_>> = BTreeMap::new();
        let mut files: BTreeMap<Vec<u8>, Entry> = BTreeMap::new();
        let mut info = Vec::new();
        while let Some(Piece { path, what }) = pieces.next().map_err(failed)? {
            if !open.contains_key(&path) {
                let file = begin(scope, composer, (&path, data), own);
                open.insert(path.clone(), file);
            }
            let Some(file) = open.get_mut(&path) else { continue };
            match what {
                What::Bytes { at, bytes } => take(file, &path, at, bytes)?,
                What::Hole { until } => skip(file, &path, until)?,
                What::End => {
                    let Some(Open { pieces, made, info: said, .. }) = open.remove(&path) else {
                        continue;
                    };
                    drop(pieces);
                    info = said.unwrap_or(info);
                    files.insert(path, made_of(made)?);
                }
            }
        }
        if let Some(path) = open.keys().next() {
            return Err(failed(StreamError::Cut { path: shown(path) }));
        }
        let (binlog, gtid_binlog) = ended(&String::from_utf8_lossy(&info));
        let data = nested(composer, own, files)?;
        Ok(Streamed { data, binlog, gtid_binlog })
    })
}

fn begin<'scope, 'run: 'scope>(
    scope: &'scope Scope<'scope, '_>,
    composer: &'scope Composer<'run>,
    (path, data): (&[u8], &Path),
    own: &Meta,
) -> Open<'scope> {
    let (pieces, taken) = sync_channel(PIECES_MAX);
    let on_disk = data.join(OsStr::from_bytes(path));
    let there = std::fs::metadata(&on_disk).ok();
    // Where the program makes a file itself there is none like it.
    let meta = meta_like(&on_disk).unwrap_or_else(|_| Meta {
        mode: FILE_MODE,
        mtime_ns: own.mtime_ns,
        ..own.clone()
    });
    let about = there.map_or(0, |there| there.len());
    let name = shown(path.rsplit(|byte| *byte == b'/').next().unwrap_or(path));
    let mut source = Taken { pieces: taken, piece: Vec::new(), used: 0 };
    let made = scope.spawn(move || composer.stream(&name, meta, &mut source, about));
    let info = BINLOG_INFO.contains(&path).then(Vec::new);
    Open { pieces, at: 0, made: Some(made), info }
}

fn take(file: &mut Open<'_>, path: &[u8], at: u64, bytes: Vec<u8>) -> Result<(), ProtectError> {
    if at != file.at {
        let (path, expected) = (shown(path), file.at);
        return Err(failed(StreamError::OutOfOrder { path, at, expected }));
    }
    if let Some(info) = &mut file.info {
        info.extend(bytes.iter().take(INFO_BYTES_MAX.saturating_sub(info.len())));
    }
    give(file, bytes)
}

fn skip(file: &mut Open<'_>, path: &[u8], until: u64) -> Result<(), ProtectError> {
    if until < file.at {
        let (path, expected) = (shown(path), file.at);
        return Err(failed(StreamError::OutOfOrder { path, at: until, expected }));
    }
    while file.at < until {
        let zeros = usize::try_from(until - file.at).unwrap_or(READ_BYTES).min(READ_BYTES);
        give(file, vec![0; zeros])?;
    }
    Ok(())
}

fn give(file: &mut Open<'_>, bytes: Vec<u8>) -> Result<(), ProtectError> {
    file.at += bytes.len() as u64;
    match file.pieces.send(bytes) {
        Ok(()) => Ok(()),
        // Whoever took them says why it takes no more.
        Err(_) => made_of(file.made.take()).and(Err(ProtectError::Stopped)),
    }
}

fn made_of(made: Option<Making<'_>>) -> Result<Entry, ProtectError> {
    let made = made.and_then(|making| making.join().ok());
    made.unwrap_or(Err(ProtectError::Stopped))
}

/// Files by their paths as a directory of directories.
fn nested(
    composer: &Composer<'_>,
    own: &Meta,
    files: BTreeMap<Vec<u8>, Entry>,
) -> Result<Entry, ProtectError> {
    let mut below: BTreeMap<String, BTreeMap<Vec<u8>, Entry>> = BTreeMap::new();
    let mut entries = Vec::new();
    for (path, entry) in files {
        match path.iter().position(|byte| *byte == b'/') {
            None => entries.push(entry),
            Some(at) => {
                let (name, rest) = path.split_at(at);
                let rest = rest.strip_prefix(b"/").unwrap_or(rest).to_vec();
                below.entry(shown(name)).or_default().insert(rest, entry);
            }
        }
    }
    let meta = Meta { mode: DIRECTORY_MODE, ..own.clone() };
    for (name, files) in below {
        let inner = nested(composer, own, files)?;
        entries.push(Entry { name: name.into_bytes(), ..inner });
    }
    composer.directory("data", meta, entries)
}

/// Understands where the log of changes ends: its file, the place in it, and GTIDs.
fn ended(info: &str) -> (Option<Binlog>, String) {
    let mut words = info.trim().split('\t');
    let file = words.next().filter(|file| !file.is_empty());
    let position = words.next().and_then(|word| word.trim().parse().ok());
    let binlog =
        file.zip(position).map(|(file, position)| Binlog { file: file.to_owned(), position });
    (binlog, words.next().unwrap_or_default().trim().to_owned())
}

/// Pieces of one file, to be read.
struct Taken {
    pieces: Receiver<Vec<u8>>,
    piece: Vec<u8>,
    used: usize,
}

impl Read for Taken {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.used == self.piece.len() {
            match self.pieces.recv() {
                Ok(piece) => (self.piece, self.used) = (piece, 0),
                Err(_) => return Ok(0),
            }
        }
        let mut rest = self.piece.get(self.used..).unwrap_or_default();
        let read = rest.read(buffer)?;
        self.used += read;
        Ok(read)
    }
}

/// Reads ahead of whoever reads, so far.
struct Queued(Taken);

impl Queued {
    fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        mut from: impl Read + Send + 'scope,
    ) -> Self {
        let (sender, pieces) = sync_channel(QUEUED_MAX);
        scope.spawn(move || {
            loop {
                let mut piece = vec![0; READ_BYTES];
                match from.read(&mut piece) {
                    Ok(0) => break,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    // The stream is found cut where it ended.
                    Err(_) => break,
                    Ok(read) => {
                        piece.truncate(read);
                        if sender.send(piece).is_err() {
                            break;
                        }
                    }
                }
            }
        });
        Self(Taken { pieces, piece: Vec::new(), used: 0 })
    }
}

impl Read for Queued {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

/// Whether all of a server lies below its data directory, on one file system; if not, what does
/// not, and why.
pub(super) fn scattered(data: &Path) -> io::Result<Option<(PathBuf, String)>> {
    let device = std::fs::metadata(data)?.dev();
    let mut open = vec![data.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            let Ok(meta) = std::fs::symlink_metadata(&path) else { continue };
            if meta.is_symlink() {
                return Ok(Some((path, "it is a link".to_owned())));
            }
            if meta.dev() != device {
                return Ok(Some((path, "it is another file system or subvolume".to_owned())));
            }
            if path.extension().is_some_and(|end| end == "isl") {
                return Ok(Some((path, "a table lies elsewhere (DATA DIRECTORY)".to_owned())));
            }
            if meta.is_dir() {
                open.push(path);
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_log_of_changes_ends_is_understood() {
        let (binlog, gtid) = ended("bin.000001\t769\t0-7-3\n");
        assert_eq!(binlog, Some(Binlog { file: "bin.000001".to_owned(), position: 769 }));
        assert_eq!(gtid, "0-7-3");
        assert_eq!(ended(""), (None, String::new()));
    }

    #[test]
    fn what_no_snapshot_reaches_is_found() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("shop")).unwrap();
        assert_eq!(scattered(dir.path()).unwrap(), None);
        let table = dir.path().join("shop/t.isl");
        std::fs::write(&table, "/elsewhere/shop/t.ibd").unwrap();
        assert_eq!(scattered(dir.path()).unwrap().unwrap().0, table);
        std::fs::remove_file(&table).unwrap();
        std::os::unix::fs::symlink("/elsewhere", dir.path().join("shop2")).unwrap();
        assert!(scattered(dir.path()).unwrap().unwrap().1.contains("link"));
    }
}
