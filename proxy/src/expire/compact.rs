//! Writes the journal anew without what is over, so that it does not grow for ever: looks at the
//! clock, and what was said of points that are gone. Orders and removals stay for a year, for
//! whoever asks what was done here. What the journal says of the points that are here, of their
//! ages and of this node's time is the same before and after.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use strongroom_node::counted::Counted;
use strongroom_node::home::Floor;
use strongroom_protocol::PointId;

use super::floor::DAY_SECONDS;
use super::journal::{Line, What, next_line};

/// A shorter journal is left as it is.
pub(super) const BYTES_MIN: u64 = 256 << 10;
/// Orders and removals are kept for so long; orders for the grace on top, which is counted from
/// the first of them.
const KEPT_SECONDS: i64 = 366 * DAY_SECONDS;

/// What decides about a line.
pub(super) struct Living<'k> {
    pub(super) here: &'k BTreeSet<PointId>,
    pub(super) released: &'k BTreeSet<PointId>,
    pub(super) floor: &'k Floor,
    pub(super) counted: Counted,
}

impl Living<'_> {
    fn lives(&self, line: &Line) -> bool {
        let age = self.counted.seconds_since(line.counted.nanos);
        match &line.what {
            What::Arrived { point, .. } | What::Proven { point } => self.here.contains(point),
            What::Looked => false,
            What::Order { .. } => {
                age < KEPT_SECONDS.saturating_add(i64::from(self.floor.grace_seconds))
            }
            What::Removing { .. } => age < KEPT_SECONDS,
            What::Released { point } => self.released.contains(point),
            What::Wanted { .. } => false,
        }
    }

    /// Every living line of the journal, and at last what time it is.
    fn each(
        &self,
        journal: &File,
        mut take: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut file = journal.try_clone()?;
        file.seek(SeekFrom::Start(0))?;
        let mut lines = BufReader::new(file);
        let (mut text, mut counted) = (Vec::new(), None::<Counted>);
        while next_line(&mut lines, &mut text)? > 0 {
            let Ok(mut line) = serde_json::from_slice::<Line>(&text) else { continue };
            // As it was understood: time counted never goes back.
            line.counted = counted.filter(|c| c.nanos > line.counted.nanos).unwrap_or(line.counted);
            counted = Some(line.counted);
            if self.lives(&line) {
                take(&encoded(&line)?)?;
            }
        }
        take(&encoded(&Line { counted: self.counted, what: What::Looked })?)
    }

    /// Writes the journal anew where more than half of it is over; none where it is not. Until
    /// the new one is whole and durable, the old one is in its place.
    pub(super) fn compact(&self, path: &Path, journal: &File) -> io::Result<Option<(File, u64)>> {
        let bytes = journal.metadata()?.len();
        if bytes < BYTES_MIN {
            return Ok(None);
        }
        let mut living = 0;
        self.each(journal, |text| {
            living += text.len() as u64;
            Ok(())
        })?;
        if living.saturating_mul(2) > bytes {
            return Ok(None);
        }
        let beside = beside(path);
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(true).read(true).write(true).open(&beside)?;
        let mut writer = BufWriter::new(&file);
        let written = self.each(journal, |text| writer.write_all(text));
        let written = written.and_then(|()| writer.flush());
        drop(writer);
        let moved =
            written.and_then(|()| file.sync_all()).and_then(|()| std::fs::rename(&beside, path));
        if let Err(error) = moved {
            // What could not be finished takes no room.
            drop(std::fs::remove_file(&beside));
            return Err(error);
        }
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        File::open(folder)?.sync_all()?;
        tracing::info!(journal = %path.display(), bytes, living, "the journal was written anew");
        Ok(Some((file, living)))
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

fn encoded(line: &Line) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(line).map_err(io::Error::other)?;
    text.push(b'\n');
    Ok(text)
}
