//! A pack as it is written: its header, what was appended, its footer and its name. It refuses
//! what would make the pack longer than a reader takes.

use strongroom_protocol::id::{PackId, RepoId};

use super::{
    FOOTER_ENTRY_BYTES, HEADER_BYTES, MAGIC, PACK_BYTES_MAX, PackClass, PackEntry, PackError,
    TRAILER_BYTES, TRAILER_MAGIC, hash_range, scan_forward,
};
use crate::disk::{DiskError, ReadFile};
use crate::seal::Sealed;

/// A pack as it grows: what was appended, and the hash of it.
pub struct PackBuilder {
    hasher: blake3::Hasher,
    entries: Vec<PackEntry>,
    len: u64,
    epoch: u32,
}

impl PackBuilder {
    /// A new pack for records of one key epoch, and its header's bytes.
    pub fn begin(repo: RepoId, class: PackClass, epoch: u32) -> (Self, [u8; HEADER_BYTES]) {
        let header = encode_header(repo, class, epoch);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&header);
        (Self { hasher, entries: Vec::new(), len: HEADER_BYTES as u64, epoch }, header)
    }

    /// The builder of an unfinished pack, from its whole records.
    pub fn reread(
        file: &dyn ReadFile,
        repo: RepoId,
        class: PackClass,
        epoch: u32,
    ) -> Result<Self, DiskError> {
        let entries = match scan_forward(file, repo) {
            Ok((_, entries)) => entries,
            Err(PackError::Disk(error)) => return Err(error),
            Err(_) => Vec::new(),
        };
        let mut builder = Self::begin(repo, class, epoch).0;
        builder.len = entries.iter().map(|entry| u64::from(entry.record_len)).sum::<u64>()
            + HEADER_BYTES as u64;
        builder.hasher.reset();
        hash_range(file, &mut builder.hasher, builder.len)?;
        builder.entries = entries;
        Ok(builder)
    }

    /// Whether the pack can take a record and still be closed. One of another key epoch never
    /// fits: the header speaks for every record.
    pub fn has_room(&self, record: &Sealed) -> bool {
        record.epoch == self.epoch
            && self.len + record.bytes.len() as u64 + self.footer_len() <= PACK_BYTES_MAX
    }

    /// Notes a record appended; nothing when the pack cannot take it any more.
    pub fn push(&mut self, record: &Sealed) -> Option<PackEntry> {
        let offset = u32::try_from(self.len).ok()?;
        let record_len = u32::try_from(record.bytes.len()).ok()?;
        if !self.has_room(record) {
            return None;
        }
        let Sealed { id, kind, plain_len, .. } = *record;
        let entry = PackEntry { id, kind, offset, record_len, plain_len };
        self.hasher.update(&record.bytes);
        self.entries.push(entry);
        self.len += u64::from(record_len);
        Some(entry)
    }

    /// The key epoch of its records.
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Bytes so far.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether it holds no record.
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The records so far.
    pub fn entries(&self) -> &[PackEntry] {
        &self.entries
    }

    const fn footer_len(&self) -> u64 {
        ((self.entries.len() + 1) * FOOTER_ENTRY_BYTES + TRAILER_BYTES) as u64
    }

    /// The bytes that close the pack, its name and its entries. The builder is spent by it.
    pub fn take_finished(&mut self) -> (Vec<u8>, PackId, Vec<PackEntry>) {
        let mut tail = Vec::with_capacity(self.entries.len() * FOOTER_ENTRY_BYTES + TRAILER_BYTES);
        for entry in &self.entries {
            tail.extend_from_slice(&entry.id.0);
            tail.push(entry.kind.code());
            for number in [entry.offset, entry.record_len, entry.plain_len] {
                tail.extend_from_slice(&number.to_le_bytes());
            }
        }
        let footer_hash = blake3::hash(&tail);
        let count = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        tail.extend_from_slice(&self.len.to_le_bytes());
        tail.extend_from_slice(&count.to_le_bytes());
        tail.extend_from_slice(footer_hash.as_bytes());
        tail.extend_from_slice(&TRAILER_MAGIC.to_le_bytes());
        self.hasher.update(&tail);
        let entries = std::mem::take(&mut self.entries);
        (tail, PackId(*self.hasher.finalize().as_bytes()), entries)
    }
}

fn encode_header(repo: RepoId, class: PackClass, epoch: u32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    let fields: [&[u8]; 5] =
        [MAGIC, repo.as_bytes(), &[class.code()], &[0; 3], &epoch.to_le_bytes()];
    for (place, byte) in header.iter_mut().zip(fields.concat()) {
        *place = byte;
    }
    header
}
