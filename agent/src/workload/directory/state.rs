//! What the agent remembers of a directory: every object as a line, sorted by GUID, a file for
//! each naming context, and a head that says of which point that is. The head is written last;
//! what does not fit it, or the last point, is not believed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use strongroom_protocol::{PointId, RepoId};
use uuid::Uuid;

use crate::workload::directory::object::{Object, guid_of};
use crate::workload::directory::read::Mark;
use crate::workload::moment::Memory;

/// How many files a naming context is sorted through: by the first byte of the GUID.
const SHARDS: usize = 256;
/// What a file that is not committed yet ends with.
const NEW: &str = "new";

/// What is remembered beside the objects.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) repo: RepoId,
    pub(super) point: PointId,
    /// Whose update sequence numbers and cookies these are.
    pub(super) invocation: String,
    pub(super) exclude: Vec<String>,
    pub(super) contexts: Vec<ContextHead>,
}

/// A naming context that is remembered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ContextHead {
    pub(super) dn: String,
    pub(super) mark: Mark,
}

/// Where it lies.
#[derive(Clone, Debug)]
pub(super) struct Files {
    memory: Memory,
}

impl Files {
    pub(super) const fn new(memory: Memory) -> Self {
        Self { memory }
    }

    fn head(&self) -> PathBuf {
        self.memory.path("directory")
    }

    /// Where a run may put what it needs meanwhile.
    pub(super) fn scratch(&self) -> PathBuf {
        self.memory.dir.join(format!(".directory-{}", self.memory.workload))
    }

    /// Removes what a run put there, this one or one that was killed.
    pub(super) fn sweep(&self) {
        match fs::remove_dir_all(self.scratch()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %self.scratch().display(), "it was not removed");
            }
            _ => {}
        }
    }

    /// The objects of a naming context as they were committed.
    pub(super) fn lines(&self, context: usize) -> PathBuf {
        self.memory.path(&format!("directory-{context}"))
    }

    /// The same for the point under way.
    pub(super) fn new_lines(&self, context: usize) -> PathBuf {
        self.memory.path(&format!("directory-{context}.{NEW}"))
    }

    /// What was remembered with the last point; else why nothing can be used.
    pub(super) fn last(&self) -> Result<Head, String> {
        let Some(previous) = self.memory.previous else {
            return Err("it is the first point".to_owned());
        };
        let text = match fs::read(self.head()) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err("nothing is remembered of the last point".to_owned());
            }
            Err(error) => return Err(format!("what is remembered cannot be read: {error}")),
        };
        let head: Head = serde_json::from_slice(&text)
            .map_err(|error| format!("what is remembered is damaged: {error}"))?;
        let whole = (0..head.contexts.len()).all(|context| self.lines(context).is_file());
        match head.point == previous && head.repo == self.memory.repo && whole {
            true => Ok(head),
            false => Err("what is remembered is not of the last point".to_owned()),
        }
    }

    /// From now on the next run starts from what was written for this point.
    pub(super) fn commit(&self, head: &Head) -> io::Result<()> {
        for context in 0..head.contexts.len() {
            fs::rename(self.new_lines(context), self.lines(context))?;
        }
        let new = self.head().with_extension(format!("directory.{NEW}"));
        fs::write(&new, serde_json::to_vec(head).map_err(io::Error::other)?)?;
        fs::rename(new, self.head())
    }

    /// For whom a head is made.
    pub(super) const fn memory(&self) -> &Memory {
        &self.memory
    }
}

/// Sorts objects through files, in memory no more than one in so many at a time.
pub(super) struct Sorter {
    dir: tempfile::TempDir,
    shards: Vec<BufWriter<File>>,
}

impl Sorter {
    /// With its files in a new directory below `scratch`.
    pub(super) fn new(scratch: &Path) -> io::Result<Self> {
        fs::create_dir_all(scratch)?;
        let dir = tempfile::tempdir_in(scratch)?;
        let open = |shard: usize| {
            File::create(dir.path().join(shard.to_string()))
                .map(|file| BufWriter::with_capacity(4 << 10, file))
        };
        let shards = (0..SHARDS).map(open).collect::<io::Result<_>>()?;
        Ok(Self { dir, shards })
    }

    pub(super) fn push(&mut self, object: &Object) -> io::Result<()> {
        let shard = usize::from(object.guid.as_bytes()[0]);
        self.shards.get_mut(shard).map_or(Ok(()), |file| file.write_all(&object.line()))
    }

    /// Writes all of them sorted; how many they are.
    pub(super) fn finish(self, to: &Path) -> io::Result<u64> {
        let mut out = BufWriter::new(File::create(to)?);
        let mut count = 0;
        for (shard, file) in self.shards.into_iter().enumerate() {
            file.into_inner().map_err(io::IntoInnerError::into_error)?;
            let text = fs::read(self.dir.path().join(shard.to_string()))?;
            let mut lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
            lines.sort_unstable_by_key(|line| guid_of(line));
            lines.dedup_by_key(|line| guid_of(line));
            count += lines.len() as u64;
            lines.iter().try_for_each(|line| out.write_all(line))?;
        }
        out.flush()?;
        Ok(count)
    }
}

/// Goes through lines one by one.
pub(super) fn each_line(
    path: &Path,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut file = BufReader::with_capacity(1 << 20, File::open(path)?);
    let mut line = Vec::new();
    while file.read_until(b'\n', &mut line)? > 0 {
        take(&line)?;
        line.clear();
    }
    Ok(())
}

/// Objects that take the place of what was known of them; none for those that are gone.
pub(super) type Fresh = BTreeMap<Uuid, Option<Object>>;

/// Writes the lines of `from` with `fresh` in their places to `to`; how many they are.
pub(super) fn merge(from: &Path, fresh: &Fresh, to: &Path) -> io::Result<u64> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "a line without its GUID");
    let mut out = BufWriter::new(File::create(to)?);
    let mut count = 0;
    let mut put = |out: &mut BufWriter<File>, line: &[u8]| {
        count += 1;
        out.write_all(line)
    };
    let mut waiting = fresh.iter().peekable();
    each_line(from, |line| {
        let guid = guid_of(line).and_then(|text| Uuid::parse_str(text).ok()).ok_or_else(damaged)?;
        while let Some((_, object)) = waiting.next_if(|(known, _)| **known < guid) {
            object.iter().try_for_each(|object| put(&mut out, &object.line()))?;
        }
        match waiting.next_if(|(known, _)| **known == guid) {
            Some((_, object)) => object.iter().try_for_each(|object| put(&mut out, &object.line())),
            None => put(&mut out, line),
        }
    })?;
    for (_, object) in waiting {
        object.iter().try_for_each(|object| put(&mut out, &object.line()))?;
    }
    out.flush()?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::directory::object::Attributes;

    fn object(first: u8, dn: &str) -> Object {
        let mut bytes = [9; 16];
        bytes[0] = first;
        let attributes = Attributes::default();
        Object { guid: Uuid::from_bytes(bytes), dn: dn.to_owned(), attributes }
    }

    fn read(path: &Path) -> Vec<String> {
        let mut names = Vec::new();
        each_line(path, |line| {
            names.push(Object::read(line).unwrap().dn);
            Ok(())
        })
        .unwrap();
        names
    }

    #[test]
    fn objects_are_sorted_and_merged_by_guid() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("a"), dir.path().join("b"));
        let mut sorter = Sorter::new(dir.path()).unwrap();
        for (guid, dn) in [(200, "y"), (3, "c"), (1, "a"), (3, "c")] {
            sorter.push(&object(guid, dn)).unwrap();
        }
        assert_eq!(sorter.finish(&first).unwrap(), 3);
        assert_eq!(read(&first), ["a", "c", "y"]);
        let fresh = |guid, dn: Option<&str>| (object(guid, "").guid, dn.map(|dn| object(guid, dn)));
        let changes = [
            fresh(0, Some("0")),
            fresh(1, Some("A")),
            fresh(2, Some("b")),
            fresh(3, None),
            fresh(250, Some("z")),
        ];
        assert_eq!(merge(&first, &Fresh::from(changes), &second).unwrap(), 5);
        assert_eq!(read(&second), ["0", "A", "b", "y", "z"]);
    }
}
