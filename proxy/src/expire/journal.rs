//! What this site remembers of points and of orders to remove them: one JSON line each, on disk
//! before anything is done by it. When a point came, what was proven here, every order with its
//! answers, every removal before it happens. A torn end is cut off; a line that cannot be read is
//! passed over, and what it said is as if it had begun now. Written anew, without what is over,
//! only when it is opened and as a whole: `compact`.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use strongroom_node::counted::Counted;
use strongroom_node::home::Floor;
use strongroom_node::reserve::{Reserve, has_no_room};
use strongroom_protocol::control::ExpireOrder;
use strongroom_protocol::{JobId, PointId, Timestamp, WorkloadId};

use super::compact::Living;
use super::floor::{Held, Holding};

/// Longest line read back: an order with its answers fits.
const LINE_BYTES_MAX: u64 = 4 << 20;

/// The journal cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}", path.display())]
pub struct JournalError {
    pub path: PathBuf,
    pub source: io::Error,
}

/// One line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Line {
    pub(super) counted: Counted,
    pub(super) what: What,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum What {
    /// It is here since now.
    Arrived { point: PointId, workload: WorkloadId, moment: Timestamp },
    /// The node looked at its clock.
    Looked,
    /// What was ordered, and what each point's answer was.
    Order { job: JobId, order: ExpireOrder, answers: Vec<(PointId, String)> },
    /// It was read whole.
    Proven { point: PointId },
    /// It is about to be removed by an order.
    Removing { point: PointId },
    /// On media: by an order nothing keeps it there any more.
    Released { point: PointId },
    /// On media: it is to be kept there again.
    Wanted { point: PointId },
}

/// The journal, open for appending, and what it says.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    bytes: u64,
    reserve: Reserve,
    pub(super) counted: Counted,
    pub(super) holding: Holding,
    /// Of a set of media: points that nothing keeps there.
    pub(super) released: BTreeSet<PointId>,
}

impl Journal {
    /// Opens or begins it.
    pub(super) fn open(path: &Path, floor: &Floor, now: Timestamp) -> Result<Self, JournalError> {
        let failed = |source| JournalError { path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true);
        let file = options.open(path).map_err(failed)?;
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        let mut journal = Self {
            path: path.to_owned(),
            file,
            bytes: 0,
            reserve: Reserve::of(folder),
            counted: Counted::begin(now),
            holding: Holding::default(),
            released: BTreeSet::new(),
        };
        journal.replay(floor).map_err(failed)?;
        journal.file.set_len(journal.bytes).map_err(failed)?;
        journal.reserve.make();
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        journal.holding.trim(journal.counted);
        Ok(journal)
    }

    fn replay(&mut self, floor: &Floor) -> io::Result<()> {
        let mut lines = BufReader::new(self.file.try_clone()?);
        let (mut text, mut is_first) = (Vec::new(), true);
        loop {
            let bytes = next_line(&mut lines, &mut text)?;
            if bytes == 0 {
                return Ok(());
            }
            self.bytes += bytes as u64;
            let Ok(line) = serde_json::from_slice::<Line>(&text) else {
                tracing::warn!(journal = %self.path.display(), "a line cannot be read");
                continue;
            };
            // Time counted never goes back, whatever a damaged line says.
            if is_first || line.counted.nanos >= self.counted.nanos {
                self.counted = line.counted;
            }
            is_first = false;
            self.apply(&line.what, floor);
        }
    }

    fn apply(&mut self, what: &What, floor: &Floor) {
        let (counted, holding) = (self.counted, &mut self.holding);
        match what {
            What::Arrived { point, workload, moment } => {
                let (workload, moment, arrived) = (*workload, *moment, counted.nanos);
                let held = Held { workload, moment, arrived, proven: false, asked: None };
                holding.points.insert(*point, held);
            }
            What::Looked => {}
            What::Order { answers, .. } => {
                for (point, _) in answers {
                    holding.ask(*point, floor, counted);
                }
            }
            What::Proven { point } => {
                if let Some(held) = holding.points.get_mut(point) {
                    held.proven = true;
                }
            }
            // It is known until it is gone: a crash may have come between.
            What::Removing { .. } => holding.removed.push(counted.nanos),
            What::Released { point } => {
                holding.removed.push(counted.nanos);
                holding.points.remove(point);
                self.released.insert(*point);
            }
            What::Wanted { point } => drop(self.released.remove(point)),
        }
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        let start = self.bytes;
        // Cut first: an earlier append may have failed half way.
        let cut = self.file.set_len(start).and_then(|()| self.file.seek(SeekFrom::Start(start)));
        let written = cut.and_then(|_| self.file.write_all(text));
        let synced = written.and_then(|()| self.file.sync_data());
        if synced.is_err() {
            drop(self.file.set_len(start));
        }
        synced
    }

    /// Writes it anew if more than half of it is over, of points that are not `here` for one.
    /// One that cannot be written anew goes on as it is.
    pub(super) fn compact(&mut self, here: &BTreeSet<PointId>, floor: &Floor) {
        let released = &self.released;
        let living = Living { here, released, floor, counted: self.counted };
        match living.compact(&self.path, &self.file) {
            Ok(Some((file, bytes))) => (self.file, self.bytes) = (file, bytes),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(journal = %self.path.display(), %error, "it was not written anew");
            }
        }
    }

    /// Sets room aside again.
    pub(super) fn make_reserve(&self) {
        self.reserve.make();
    }

    /// Looks at the clock; what is appended next says so.
    pub(super) fn look(&mut self, now: Timestamp) -> Counted {
        self.counted = self.counted.look(now);
        self.counted
    }

    /// Writes a line and waits until it is on disk; only then it counts.
    pub(super) fn append(&mut self, what: What, floor: &Floor) -> Result<(), JournalError> {
        let path = self.path.clone();
        let failed = |source| JournalError { path, source };
        let line = Line { counted: self.counted, what };
        let mut text = serde_json::to_vec(&line)
            .map_err(|e| JournalError { path: self.path.clone(), source: io::Error::other(e) })?;
        text.push(b'\n');
        match self.write(&text) {
            Err(error) if has_no_room(&error) && self.reserve.give_up() => self.write(&text),
            written => written,
        }
        .map_err(failed)?;
        self.bytes += text.len() as u64;
        self.apply(&line.what, floor);
        Ok(())
    }
}

/// The next line with its end, and its length; 0 at the end of the journal and at a torn line.
pub(super) fn next_line(lines: &mut BufReader<File>, text: &mut Vec<u8>) -> io::Result<usize> {
    text.clear();
    let bytes = lines.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', text)?;
    let is_torn = text.last() != Some(&b'\n') && (bytes as u64) < LINE_BYTES_MAX;
    Ok(if is_torn { 0 } else { bytes })
}
