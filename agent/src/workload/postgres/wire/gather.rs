//! Puts a data directory together from the entries of archives. What only the running server
//! needs is left out, as where the files are read on its host; every byte is counted for the
//! manifest, and pages are looked at as they pass.

use std::collections::BTreeMap;
use std::io::{self, Read};

use strongroom_store::content::{Entry, MODE_MASK, Meta, Node};

use crate::workload::compose::Composer;
use crate::workload::files::{Gap, GapReason, ProtectError};
use crate::workload::postgres::control::Control;
use crate::workload::postgres::error::PgError;
use crate::workload::postgres::lsn::{Lsn, Segment};
use crate::workload::postgres::page::{Again, Looking, Pages};
use crate::workload::postgres::reading::{LEFT_OUT, failed};
use crate::workload::postgres::wire::manifest::Arrived;
use crate::workload::postgres::wire::queue::Queue;
use crate::workload::postgres::wire::tar::{Archive, Head, Kind};

/// A directory that no archive names.
const DIRECTORY_MODE: u32 = 0o700;
/// Files that are held whole, in bytes: the label, the map, `pg_control`.
const HELD_BYTES_MAX: u64 = 16 << 20;
const LABEL: &str = "backup_label";
const MAP: &str = "tablespace_map";
const CONTROL: &str = "global/pg_control";
/// Below these lie relations, made of pages.
const RELATIONS: &[&str] = &["base/", "global/", "pg_tblspc/"];

/// A directory while it comes together.
#[derive(Default)]
pub(super) struct Directory {
    meta: Option<Meta>,
    directories: BTreeMap<String, Self>,
    files: BTreeMap<String, Entry>,
}

impl Directory {
    fn at(&mut self, path: &str) -> &mut Self {
        let names = path.split('/').filter(|name| !name.is_empty());
        names.fold(self, |within, name| within.directories.entry(name.to_owned()).or_default())
    }

    /// Adds a file at a path.
    pub(super) fn file(&mut self, path: &str, entry: Entry) {
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        self.at(above).files.insert(name.to_owned(), entry);
    }

    /// All of it; `own` is for directories that no archive named.
    pub(super) fn finish(
        self,
        composer: &Composer<'_>,
        name: &str,
        own: &Meta,
    ) -> Result<Entry, ProtectError> {
        let mut entries: Vec<Entry> = self.files.into_values().collect();
        for (name, directory) in self.directories {
            entries.push(directory.finish(composer, &name, own)?);
        }
        let usual = || Meta { mode: DIRECTORY_MODE, ..own.clone() };
        composer.directory(name, self.meta.unwrap_or_else(usual), entries)
    }
}

/// A cluster while its archives come.
pub(super) struct Gathering<'run> {
    pub(super) composer: Composer<'run>,
    /// Cuts what changes by the page.
    pub(super) relations: Composer<'run>,
    /// Where pages carry checksums.
    pub(super) pages: Option<Pages>,
    /// Where the backup began: a later page may be half written, and the log mends it.
    pub(super) start: Lsn,
    pub(super) segment_bytes: u64,
    pub(super) tree: Directory,
    pub(super) arrived: BTreeMap<String, Arrived>,
    pub(super) label: String,
    pub(super) map: String,
    pub(super) control: Option<Control>,
    /// Files of relations, by their paths, with pages that only the end of the log judges.
    pub(super) unsettled: Vec<(String, Looking)>,
    /// Files of the log.
    pub(super) log: Vec<String>,
    /// Whom the files belong to.
    pub(super) owner: (u32, u32),
}

impl Gathering<'_> {
    /// Takes an archive: `base.tar`, or that of a tablespace, which lies below `within`.
    ///
    /// # Errors
    /// It is no archive, or the run ends.
    pub(super) fn archive(&mut self, queue: &mut Queue, within: &str) -> Result<(), ProtectError> {
        let mut archive = Archive::new(queue);
        while let Some(head) = archive.next().map_err(application)? {
            let path = format!("{within}{}", head.path);
            let meta = meta_of(&head);
            match &head.kind {
                Kind::Directory => self.tree.at(&path).meta = Some(meta),
                Kind::Link { target } => {
                    let node = Node::Symlink { target: target.clone() };
                    let name = path.rsplit('/').next().unwrap_or(&path).as_bytes().to_vec();
                    self.tree.file(&path, Entry { name, node, meta });
                }
                Kind::File => self.file(&path, (&head, meta), &mut archive)?,
            }
        }
        Ok(())
    }

    fn file(
        &mut self,
        path: &str,
        (head, meta): (&Head, Meta),
        archive: &mut Archive<&mut Queue>,
    ) -> Result<(), ProtectError> {
        let name = path.rsplit('/').next().unwrap_or(path);
        if path == "PG_VERSION" {
            self.owner = (head.uid, head.gid);
        }
        let is_relation = RELATIONS.iter().any(|above| path.starts_with(above));
        let pages = self.pages.as_ref().filter(|_| is_relation);
        let looking = pages.and_then(|pages| pages.of(name.as_bytes()));
        let mut passing = Passing { from: archive, start: self.start, at: 0, sum: 0, looking };
        let entry = match path {
            LABEL | MAP | CONTROL => {
                let bytes = held(&mut passing, head.size).map_err(application)?;
                let entry = self.composer.bytes(name, meta, &bytes)?;
                self.remember(path, bytes)?;
                (path != MAP).then_some(entry)
            }
            path if LEFT_OUT.contains(&path) => {
                io::copy(&mut passing, &mut io::sink()).map_err(application)?;
                None
            }
            _ => {
                let by = if is_relation { &self.relations } else { &self.composer };
                Some(by.stream(name, meta, &mut passing, head.size)?)
            }
        };
        if passing.at != head.size {
            let why = format!("{path} ended after {} of {} bytes", passing.at, head.size);
            return Err(application(io::Error::new(io::ErrorKind::UnexpectedEof, why)));
        }
        let arrived = Arrived { bytes: head.size, checksum: passing.sum };
        let looking = passing.looking;
        self.arrived.insert(path.to_owned(), arrived);
        match looking {
            Some(looking) if looking.is_settled() => self.found(path, looking),
            Some(looking) => self.unsettled.push((path.to_owned(), looking)),
            None => {}
        }
        if path.starts_with("pg_wal/") && !path.starts_with("pg_wal/archive_status/") {
            let is_log =
                Segment::of_name(name, self.segment_bytes).is_some() || name.ends_with(".history");
            self.log.extend(is_log.then(|| name.to_owned()));
        }
        if let Some(entry) = entry {
            self.tree.file(path, entry);
        }
        Ok(())
    }

    /// Judges the pages that waited for the end of the log.
    pub(super) fn settle(&mut self, stop: Lsn) {
        for (path, mut looking) in std::mem::take(&mut self.unsettled) {
            looking.settle(stop);
            self.found(&path, looking);
        }
    }

    fn found(&mut self, path: &str, looking: Looking) {
        if let Some(what) = looking.outcome() {
            self.composer.gap(Gap::new(path.as_bytes(), GapReason::Corrupt { what }));
        }
    }

    /// Keeps what a file says.
    fn remember(&mut self, path: &str, bytes: Vec<u8>) -> Result<(), ProtectError> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match path {
            LABEL => self.label = text(&bytes),
            MAP => self.map = text(&bytes),
            _ => {
                let unread = || {
                    let source = io::Error::new(
                        io::ErrorKind::InvalidData,
                        "its checksum does not hold as it was streamed; the next run tries again",
                    );
                    failed(PgError::File { path: CONTROL.into(), source })
                };
                self.control = Some(Control::of(bytes).ok_or_else(unread)?);
            }
        }
        Ok(())
    }
}

pub(super) fn application(error: impl std::error::Error + Send + Sync + 'static) -> ProtectError {
    ProtectError::Application(Box::new(error))
}

fn held(from: &mut impl Read, size: u64) -> io::Result<Vec<u8>> {
    if size > HELD_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a small file is large"));
    }
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn meta_of(head: &Head) -> Meta {
    Meta {
        mode: head.mode & MODE_MASK,
        uid: head.uid,
        gid: head.gid,
        mtime_ns: head.modified.saturating_mul(1_000_000_000),
        ..Meta::default()
    }
}

/// A file whose bytes are counted, and whose pages are looked at.
struct Passing<'run, 'queue> {
    from: &'run mut Archive<&'queue mut Queue>,
    start: Lsn,
    at: u64,
    sum: u32,
    looking: Option<Looking>,
}

impl Read for Passing<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.from.read(buffer)?;
        let bytes = buffer.get(..got).unwrap_or_default();
        self.sum = crc32c::crc32c_append(self.sum, bytes);
        if let Some(looking) = &mut self.looking {
            looking.pass(self.at, bytes, Again::Since(self.start));
        }
        self.at += got as u64;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_come_together_whatever_the_order() {
        let entry = |name: &str| Entry {
            name: name.as_bytes().to_vec(),
            node: Node::Symlink { target: Vec::new() },
            meta: Meta::default(),
        };
        let mut tree = Directory::default();
        tree.file("base/5/1247", entry("1247"));
        tree.at("base").meta = Some(Meta { mode: 0o750, ..Meta::default() });
        tree.file("PG_VERSION", entry("PG_VERSION"));
        tree.at("pg_replslot").meta = Some(Meta::default());
        assert_eq!(tree.files.len(), 1);
        assert_eq!(tree.directories.keys().collect::<Vec<_>>(), ["base", "pg_replslot"]);
        let base = tree.at("base");
        assert_eq!(base.meta.as_ref().map(|meta| meta.mode), Some(0o750));
        assert_eq!(tree.at("base/5").files.keys().collect::<Vec<_>>(), ["1247"]);
    }
}
