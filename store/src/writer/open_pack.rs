//! The pack being written, and what is kept of it when a write fails: its whole records, read
//! back and closed anew. What cannot be closed stays in `tmp/` for the next opening.

use strongroom_protocol::id::{ChunkId, PackId, RepoId};

use crate::disk::{AppendFile, Disk, DiskError};
use crate::pack::{HEADER_BYTES, PackBuilder, PackClass, PackEntry};
use crate::seal::Sealed;

/// Small records are gathered up to this many bytes before they are written.
const BUFFER_BYTES: usize = 1 << 20;
/// Writing back is asked for each time this many bytes were written.
const WRITEBACK_BYTES: u64 = 8 << 20;

pub(super) struct OpenPack {
    file: Box<dyn AppendFile>,
    path: String,
    class: PackClass,
    builder: PackBuilder,
    buffer: Vec<u8>,
    writeback_at: u64,
    closed: Option<(PackId, Vec<PackEntry>)>,
}

/// A pack with its footer, not known to be durable yet.
pub(super) struct ClosedPack {
    pub(super) file: Box<dyn AppendFile>,
    pub(super) path: String,
    pub(super) class: PackClass,
    pub(super) id: PackId,
    pub(super) entries: Vec<PackEntry>,
}

impl ClosedPack {
    pub(super) fn holds(&self, id: &ChunkId) -> bool {
        self.entries.iter().any(|entry| entry.id == *id)
    }
}

impl OpenPack {
    pub(super) fn create(
        disk: &dyn Disk,
        path: String,
        repo: RepoId,
        class: PackClass,
        epoch: u32,
    ) -> Result<Self, DiskError> {
        let file = disk.create(&path)?;
        let (builder, header) = PackBuilder::begin(repo, class, epoch);
        let buffer = header.to_vec();
        let writeback_at = WRITEBACK_BYTES;
        Ok(Self { file, path, class, builder, buffer, writeback_at, closed: None })
    }

    pub(super) const fn len(&self) -> u64 {
        self.builder.len()
    }

    pub(super) fn has_room(&self, record: &Sealed) -> bool {
        self.builder.has_room(record)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = ChunkId> + '_ {
        let closed = self.closed.iter().flat_map(|(_, entries)| entries);
        self.builder.entries().iter().chain(closed).map(|entry| entry.id)
    }

    pub(super) fn append(&mut self, record: &Sealed) -> Result<(), DiskError> {
        self.builder.push(record);
        if record.bytes.len() >= BUFFER_BYTES / 8 {
            self.flush()?;
            self.file.append(&record.bytes)?;
        } else {
            self.buffer.extend_from_slice(&record.bytes);
            if self.buffer.len() >= BUFFER_BYTES {
                self.flush()?;
            }
        }
        if self.file.len() >= self.writeback_at {
            self.file.start_writeback();
            self.writeback_at = self.file.len() + WRITEBACK_BYTES;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        if !self.buffer.is_empty() {
            self.file.append(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Writes what is buffered and the footer.
    pub(super) fn write_footer(&mut self) -> Result<(), DiskError> {
        self.flush()?;
        let (tail, id, entries) = self.builder.take_finished();
        self.closed = Some((id, entries));
        self.file.append(&tail)?;
        self.file.start_writeback();
        Ok(())
    }

    pub(super) fn into_closed(self) -> ClosedPack {
        let (id, entries) = self.closed.unwrap_or((PackId([0; 32]), Vec::new()));
        ClosedPack { file: self.file, path: self.path, class: self.class, id, entries }
    }
}

/// Cuts a pack back to its whole records and closes it; gives up the last record too when the
/// footer finds no room. Nothing is left when no record could be kept.
pub(super) fn salvage(disk: &dyn Disk, repo: RepoId, pack: OpenPack) -> Option<ClosedPack> {
    let written = pack.file.len();
    let entries = match &pack.closed {
        Some((_, entries)) => entries.clone(),
        None => pack.builder.entries().to_vec(),
    };
    let end = |entry: &PackEntry| u64::from(entry.offset) + u64::from(entry.record_len);
    let mut whole: Vec<PackEntry> =
        entries.into_iter().filter(|entry| end(entry) <= written).collect();
    let epoch = pack.builder.epoch();
    let OpenPack { mut file, path, class, .. } = pack;
    for _ in 0..2 {
        let keep = whole.last().map_or(HEADER_BYTES as u64, end);
        if whole.is_empty() {
            break;
        }
        match reclose(disk, repo, &path, (class, epoch), &mut *file, keep) {
            Ok((id, entries)) => return Some(ClosedPack { file, path, class, id, entries }),
            Err(error) => {
                tracing::warn!(path, error = %error.source, "cannot keep an unfinished pack");
                whole.pop();
            }
        }
    }
    if whole.is_empty() {
        drop(disk.remove(&path));
    }
    None
}

fn reclose(
    disk: &dyn Disk,
    repo: RepoId,
    path: &str,
    (class, epoch): (PackClass, u32),
    file: &mut dyn AppendFile,
    keep: u64,
) -> Result<(PackId, Vec<PackEntry>), DiskError> {
    file.truncate(keep)?;
    let reader = disk.open(path)?;
    let mut builder = PackBuilder::reread(&*reader, repo, class, epoch)?;
    let (tail, id, entries) = builder.take_finished();
    file.append(&tail)?;
    Ok((id, entries))
}
