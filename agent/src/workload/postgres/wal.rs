//! Files of the log as they lie in `pg_wal`: each is looked at before it is believed, and what
//! lies behind the last place wanted is left out, so that a point holds the log to that place
//! and no further.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use strongroom_store::content::Entry;

use crate::workload::compose::Composer;
use crate::workload::files::ProtectError;
use crate::workload::postgres::error::PgError;
use crate::workload::postgres::lsn::{Lsn, Segment, history_name, numbers};
use crate::workload::postgres::meta_like;

/// A segment whose bytes are written has its file at once; this is for a busy disk.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(100);
/// What the head of a segment's first page takes.
const HEAD_BYTES: usize = 36;

/// A stretch of a server's log.
#[derive(Clone, Debug)]
pub(super) struct Stretch {
    /// `pg_wal`.
    pub dir: PathBuf,
    pub segment_bytes: u64,
    pub system_identifier: u64,
    /// The newest timeline wanted.
    pub timeline: u32,
    pub from: Lsn,
    pub until: Lsn,
}

impl Stretch {
    fn lacks(&self, name: impl Into<String>, why: impl Into<String>) -> PgError {
        let Self { from, until, dir, .. } = self;
        let (from, until, dir) = (*from, *until, dir.clone());
        PgError::Wal { from, until, dir, name: name.into(), why: why.into() }
    }

    /// The segments of the stretch, of every timeline that has one, oldest first.
    ///
    /// # Errors
    /// A number has no file.
    pub(super) fn segments(&self) -> Result<Vec<Segment>, PgError> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.look() {
                Err(_) if Instant::now() < until => std::thread::sleep(LOOK),
                looked => return looked,
            }
        }
    }

    fn look(&self) -> Result<Vec<Segment>, PgError> {
        let unread = |source| PgError::File { path: self.dir.clone(), source };
        let wanted = numbers(self.from, self.until, self.segment_bytes);
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(unread)? {
            let name = entry.map_err(unread)?.file_name();
            let segment = Segment::of_name(&name.to_string_lossy(), self.segment_bytes);
            found.extend(segment.filter(|segment| {
                wanted.contains(&segment.number) && segment.timeline <= self.timeline
            }));
        }
        found.sort();
        for number in wanted {
            if !found.iter().any(|segment| segment.number == number) {
                let segment = Segment { number, timeline: self.timeline };
                let why = "is not there (was it removed, or never received by this member?)";
                return Err(self.lacks(segment.name(self.segment_bytes), why));
            }
        }
        Ok(found)
    }

    /// The segments as files of a point, and their names.
    ///
    /// # Errors
    /// One is missing or is not what its name says; or the sink takes nothing more.
    pub(super) fn entries(
        &self,
        composer: &Composer<'_>,
    ) -> Result<(Vec<Entry>, Vec<String>), ProtectError> {
        let failed = |error: PgError| ProtectError::Application(Box::new(error));
        let (mut entries, mut names) = (Vec::new(), Vec::new());
        for segment in self.segments().map_err(failed)? {
            let name = segment.name(self.segment_bytes);
            let mut source = self.open(segment, &name).map_err(failed)?;
            let meta = meta_like(&self.dir.join(&name)).map_err(failed)?;
            entries.push(composer.stream(&name, meta, &mut source, self.segment_bytes)?);
            names.push(name);
        }
        for timeline in 2..=self.timeline {
            let name = history_name(timeline);
            let path = self.dir.join(&name);
            // Only the histories that the server itself still needs are there.
            if let Ok(bytes) = fs::read(&path) {
                let meta = meta_like(&path).map_err(failed)?;
                entries.push(composer.bytes(&name, meta, &bytes)?);
                names.push(name);
            }
        }
        Ok((entries, names))
    }

    fn open(&self, segment: Segment, name: &str) -> Result<impl Read + use<>, PgError> {
        let path = self.dir.join(name);
        let unread = |source| PgError::File { path: path.clone(), source };
        let mut file = File::open(&path).map_err(unread)?;
        let bytes = file.metadata().map_err(unread)?.len();
        if bytes != self.segment_bytes {
            return Err(self.lacks(name, format!("has {bytes} bytes")));
        }
        let mut head = [0; HEAD_BYTES];
        file.read_exact(&mut head).map_err(unread)?;
        let word = |at: usize| {
            let eight = head.get(at..at + 8).and_then(|eight| eight.try_into().ok());
            u64::from_ne_bytes(eight.unwrap_or_default())
        };
        let start = segment.start(self.segment_bytes);
        if Lsn(word(8)) != start || word(24) != self.system_identifier {
            return Err(self.lacks(name, "holds another piece of a log"));
        }
        let used = self.until.0.saturating_sub(start.0).min(self.segment_bytes);
        let head = io::Cursor::new(head).take(used);
        let body = file.take(used.saturating_sub(HEAD_BYTES as u64));
        let rest = self.segment_bytes - used;
        Ok(head.chain(body).chain(io::repeat(0).take(rest)))
    }
}

/// `pg_wal` of a data directory, wherever a link leads.
///
/// # Errors
/// It is not there.
pub(super) fn directory(data: &Path) -> Result<PathBuf, PgError> {
    let path = data.join("pg_wal");
    fs::canonicalize(&path).map_err(|source| PgError::File { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 1 << 20;

    fn stretch(dir: &Path, until: u64) -> Stretch {
        let (from, until) = (Lsn(2 * SEGMENT + 40), Lsn(until));
        let dir = dir.to_owned();
        Stretch { dir, segment_bytes: SEGMENT, system_identifier: 7, timeline: 1, from, until }
    }

    fn put(dir: &Path, number: u64, address: u64, identifier: u64) {
        let mut bytes = vec![9_u8; SEGMENT as usize];
        bytes[8..16].copy_from_slice(&address.to_ne_bytes());
        bytes[24..32].copy_from_slice(&identifier.to_ne_bytes());
        fs::write(dir.join(Segment { number, timeline: 1 }.name(SEGMENT)), bytes).unwrap();
    }

    #[test]
    fn a_segment_ends_where_the_stretch_does_and_is_what_its_name_says() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), 2, 2 * SEGMENT, 7);
        put(dir.path(), 3, 3 * SEGMENT, 7);
        put(dir.path(), 4, 9 * SEGMENT, 7);
        let stretch = stretch(dir.path(), 3 * SEGMENT + 100);
        let found = stretch.look().unwrap();
        assert_eq!(found.iter().map(|s| s.number).collect::<Vec<_>>(), [2, 3]);
        let mut bytes = Vec::new();
        let name = found[1].name(SEGMENT);
        stretch.open(found[1], &name).unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, SEGMENT);
        assert_eq!(bytes[99], 9);
        assert!(bytes[100..].iter().all(|byte| *byte == 0));
        let foreign = Segment { number: 4, timeline: 1 };
        assert!(stretch.open(foreign, &foreign.name(SEGMENT)).is_err());
    }

    #[test]
    fn a_missing_segment_is_named() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), 2, 2 * SEGMENT, 7);
        put(dir.path(), 4, 4 * SEGMENT, 7);
        let why = stretch(dir.path(), 5 * SEGMENT).look().unwrap_err().to_string();
        assert!(why.contains("000000010000000000000003"), "{why}");
    }
}
