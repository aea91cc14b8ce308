//! The objects of a naming context in parts, by the first byte of their GUID: a file of sorted
//! lines each. A part in which nothing changed is neither read nor written again, and is named in
//! the next point as it was in the last one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use strongroom_protocol::ChunkId;
use strongroom_store::content::{ChunkExtent, FileContent};
use uuid::Uuid;

use crate::workload::directory::object::{Object, guid_of};

/// A part of a naming context.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Shard {
    pub(super) objects: u64,
    /// How a point has it; none until one does.
    pub(super) kept: Option<Kept>,
    /// It changed in this run, and lies where the run puts what is not committed yet.
    #[serde(skip)]
    pub(super) new: bool,
}

/// The parts of a naming context that have objects.
pub(super) type Shards = BTreeMap<u8, Shard>;

/// A file as a point has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) bytes: u64,
    content: Content,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Content {
    Inline(Vec<u8>),
    /// Chunks from their offsets, with their lengths.
    Extents(Vec<(ChunkId, u32, u32)>),
    Listed(ChunkId),
}

impl Kept {
    /// What a point was told; none of what has holes, as lines never have.
    pub(super) fn of(bytes: u64, content: &FileContent) -> Option<Self> {
        let content = match content {
            FileContent::Inline(bytes) => Content::Inline(bytes.clone()),
            FileContent::Listed { list, .. } => Content::Listed(*list),
            FileContent::Extents(extents) => {
                let chunk = |extent: &ChunkExtent| match *extent {
                    ChunkExtent::Chunk { id, offset, length } => Some((id, offset, length)),
                    ChunkExtent::Hole { .. } => None,
                };
                Content::Extents(extents.iter().map(chunk).collect::<Option<_>>()?)
            }
        };
        Some(Self { bytes, content })
    }

    /// To be told again.
    pub(super) fn content(&self) -> FileContent {
        match &self.content {
            Content::Inline(bytes) => FileContent::Inline(bytes.clone()),
            Content::Listed(list) => FileContent::Listed { list: *list, size: self.bytes },
            Content::Extents(extents) => {
                let chunk = |(id, offset, length)| ChunkExtent::Chunk { id, offset, length };
                FileContent::Extents(extents.iter().copied().map(chunk).collect())
            }
        }
    }
}

/// The part an object lies in.
pub(super) fn shard_of(guid: &Uuid) -> u8 {
    guid.as_bytes()[0]
}

/// Sorts objects through files, in memory no more than one part at a time.
pub(super) struct Sorter {
    dir: tempfile::TempDir,
    parts: BTreeMap<u8, BufWriter<File>>,
}

impl Sorter {
    /// With its files in a new directory below `scratch`.
    pub(super) fn new(scratch: &Path) -> io::Result<Self> {
        fs::create_dir_all(scratch)?;
        Ok(Self { dir: tempfile::tempdir_in(scratch)?, parts: BTreeMap::new() })
    }

    pub(super) fn push(&mut self, object: &Object) -> io::Result<()> {
        let shard = shard_of(&object.guid);
        if !self.parts.contains_key(&shard) {
            let file = File::create(self.dir.path().join(shard.to_string()))?;
            self.parts.insert(shard, BufWriter::with_capacity(16 << 10, file));
        }
        self.parts.get_mut(&shard).map_or(Ok(()), |file| file.write_all(&object.line()))
    }

    /// Writes each part sorted to where `to` says.
    pub(super) fn finish(self, to: impl Fn(u8) -> PathBuf) -> io::Result<Shards> {
        let mut shards = Shards::new();
        for (shard, file) in self.parts {
            file.into_inner().map_err(io::IntoInnerError::into_error)?;
            let text = fs::read(self.dir.path().join(shard.to_string()))?;
            let mut lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
            lines.sort_unstable_by_key(|line| guid_of(line));
            lines.dedup_by_key(|line| guid_of(line));
            fs::write(to(shard), lines.concat())?;
            let objects = lines.len() as u64;
            shards.insert(shard, Shard { objects, kept: None, new: true });
        }
        Ok(shards)
    }
}

/// Goes through lines one by one.
pub(super) fn each_line(
    path: &Path,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut file = BufReader::with_capacity(64 << 10, File::open(path)?);
    let mut line = Vec::new();
    while file.read_until(b'\n', &mut line)? > 0 {
        take(&line)?;
        line.clear();
    }
    Ok(())
}

/// Objects that take the place of what was known of them; none for those that are gone.
pub(super) type Fresh = BTreeMap<Uuid, Option<Object>>;

/// Writes the lines of `from`, where there are some, with `fresh` in their places to `to`; how
/// many they are.
pub(super) fn merge(from: Option<&Path>, fresh: &Fresh, to: &Path) -> io::Result<u64> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "a line without its GUID");
    let mut out = BufWriter::new(File::create(to)?);
    let mut count = 0;
    let mut put = |out: &mut BufWriter<File>, line: &[u8]| {
        count += 1;
        out.write_all(line)
    };
    let mut waiting = fresh.iter().peekable();
    let mut take = |line: &[u8]| {
        let guid = guid_of(line).and_then(|text| Uuid::parse_str(text).ok()).ok_or_else(damaged)?;
        while let Some((_, object)) = waiting.next_if(|(known, _)| **known < guid) {
            object.iter().try_for_each(|object| put(&mut out, &object.line()))?;
        }
        match waiting.next_if(|(known, _)| **known == guid) {
            Some((_, object)) => object.iter().try_for_each(|object| put(&mut out, &object.line())),
            None => put(&mut out, line),
        }
    };
    if let Some(from) = from {
        each_line(from, &mut take)?;
    }
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

    fn object(guid: [u8; 2], dn: &str) -> Object {
        let mut bytes = [9; 16];
        bytes[..2].copy_from_slice(&guid);
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
    fn objects_are_sorted_into_parts_and_merged_by_guid() {
        let dir = tempfile::tempdir().unwrap();
        let place = |shard: u8| dir.path().join(format!("part-{shard}"));
        let mut sorter = Sorter::new(dir.path()).unwrap();
        for (guid, dn) in [([7, 200], "y"), ([7, 3], "c"), ([9, 1], "z"), ([7, 3], "c")] {
            sorter.push(&object(guid, dn)).unwrap();
        }
        let shards = sorter.finish(place).unwrap();
        let counts: Vec<(u8, u64)> = shards.iter().map(|(at, part)| (*at, part.objects)).collect();
        assert_eq!(counts, [(7, 2), (9, 1)]);
        assert_eq!(read(&place(7)), ["c", "y"]);
        let fresh = |guid, dn: Option<&str>| {
            (object([7, guid], "").guid, dn.map(|dn| object([7, guid], dn)))
        };
        let changes = [
            fresh(0, Some("0")),
            fresh(3, None),
            fresh(4, Some("d")),
            fresh(200, Some("Y")),
            fresh(250, Some("z")),
        ];
        let second = dir.path().join("b");
        assert_eq!(merge(Some(&place(7)), &Fresh::from(changes), &second).unwrap(), 4);
        assert_eq!(read(&second), ["0", "d", "Y", "z"]);
        let only = Fresh::from([fresh(1, Some("a"))]);
        assert_eq!(merge(None, &only, &second).unwrap(), 1);
        assert_eq!(read(&second), ["a"]);
    }

    #[test]
    fn what_a_point_was_told_is_told_again_as_it_was() {
        let id = ChunkId([3; 32]);
        let chunk = ChunkExtent::Chunk { id, offset: 2, length: 5 };
        for content in [
            FileContent::Inline(b"x".to_vec()),
            FileContent::Extents(vec![chunk]),
            FileContent::Listed { list: id, size: 5 },
        ] {
            assert_eq!(Kept::of(5, &content).unwrap().content(), content);
        }
        assert_eq!(Kept::of(5, &FileContent::Extents(vec![ChunkExtent::Hole { length: 5 }])), None);
    }
}
