//! Packs (format.md section 4): encoding while one is written, and reading without a key. A
//! footer is believed only if its hash holds and every entry lies within the file; without one
//! a pack is read forward, record by record, up to the first that does not hold together.

mod build;

use strongroom_protocol::blob::{BlobKind, PLAIN_BYTES_MAX};
use strongroom_protocol::id::{ChunkId, PackId, RepoId};

use crate::disk::{DiskError, ReadFile};
use crate::seal::{HEAD_BYTES, REFERENCE_BYTES, RecordHead, RecordShape, TAG_BYTES};

pub use build::PackBuilder;

const MAGIC: &[u8; 8] = b"SRPACK01";
/// "SPAK" as a little-endian number.
const TRAILER_MAGIC: u32 = 0x4B41_5053;
/// Bytes before the first record.
pub const HEADER_BYTES: usize = 64;
const TRAILER_BYTES: usize = 48;
/// Where the key epoch lies in the header.
const EPOCH_AT: usize = 28;
const FOOTER_ENTRY_BYTES: usize = 45;
/// Longest pack, in bytes: offsets are 32 bits, and a reader keeps its footer in memory.
pub const PACK_BYTES_MAX: u64 = 1 << 30;
/// Bytes read at once when a whole pack is read.
const READ_BYTES: usize = 1 << 20;

/// Data and metadata lie in packs of their own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PackClass {
    Data,
    Metadata,
}

impl PackClass {
    /// The class a kind of blob belongs to.
    pub const fn of(kind: BlobKind) -> Self {
        if kind.is_metadata() { Self::Metadata } else { Self::Data }
    }

    const fn code(self) -> u8 {
        match self {
            Self::Data => 0,
            Self::Metadata => 1,
        }
    }

    /// The directory below `packs/`.
    pub const fn directory(self) -> &'static str {
        match self {
            Self::Data => "d",
            Self::Metadata => "m",
        }
    }
}

/// Why a pack cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// The disk failed.
    #[error("a pack cannot be read")]
    Disk(#[from] DiskError),
    /// The footer does not hold.
    #[error("the pack has no usable footer: {reason}")]
    Footer { reason: &'static str },
    /// The header does not hold.
    #[error("the file is not a pack of this repository: {reason}")]
    Header { reason: &'static str },
}

/// What a footer says of one record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PackEntry {
    pub id: ChunkId,
    pub kind: BlobKind,
    pub offset: u32,
    pub record_len: u32,
    pub plain_len: u32,
}

/// The class a header names, if it is a pack of this repository.
pub fn parse_header(header: &[u8], repo: RepoId) -> Result<PackClass, PackError> {
    let wrong = |reason| PackError::Header { reason };
    let header = header.get(..HEADER_BYTES).ok_or_else(|| wrong("too short"))?;
    if !header.starts_with(MAGIC) {
        return Err(wrong("no magic"));
    }
    if header.get(8..24) != Some(repo.as_bytes().as_slice()) {
        return Err(wrong("another repository's"));
    }
    match header.get(24) {
        Some(0) => Ok(PackClass::Data),
        Some(1) => Ok(PackClass::Metadata),
        _ => Err(wrong("unknown class")),
    }
}

/// The key epoch its records are sealed under, from the header of a pack.
pub fn parse_epoch(header: &[u8], repo: RepoId) -> Result<u32, PackError> {
    parse_header(header, repo)?;
    match number(header, EPOCH_AT) {
        0 => Err(PackError::Header { reason: "no key epoch" }),
        epoch => Ok(epoch),
    }
}

/// The key epoch of a pack.
pub fn read_epoch(file: &dyn ReadFile, repo: RepoId) -> Result<u32, PackError> {
    let mut header = [0; HEADER_BYTES];
    file.read_exact_at(&mut header, 0)?;
    parse_epoch(&header, repo)
}

/// A pack's class and records, from its header and footer.
pub fn read_footer(
    file: &dyn ReadFile,
    repo: RepoId,
) -> Result<(PackClass, Vec<PackEntry>), PackError> {
    let wrong = |reason| PackError::Footer { reason };
    let len = file.len()?;
    if len < (HEADER_BYTES + TRAILER_BYTES) as u64 || len > PACK_BYTES_MAX {
        return Err(wrong("its length is out of bounds"));
    }
    let mut header = [0; HEADER_BYTES];
    file.read_exact_at(&mut header, 0)?;
    let class = parse_header(&header, repo)?;
    let mut trailer = [0; TRAILER_BYTES];
    let trailer_at = len - TRAILER_BYTES as u64;
    file.read_exact_at(&mut trailer, trailer_at)?;
    if number(&trailer, 44) != TRAILER_MAGIC {
        return Err(wrong("no trailer"));
    }
    let footer_at = u64::from(number(&trailer, 0)) | u64::from(number(&trailer, 4)) << 32;
    let footer_bytes = u64::from(number(&trailer, 8)) * FOOTER_ENTRY_BYTES as u64;
    if footer_at.checked_add(footer_bytes) != Some(trailer_at) {
        return Err(wrong("the trailer contradicts the length"));
    }
    let mut footer = vec![0; usize::try_from(footer_bytes).unwrap_or_default()];
    file.read_exact_at(&mut footer, footer_at)?;
    if trailer.get(12..44) != Some(blake3::hash(&footer).as_bytes().as_slice()) {
        return Err(wrong("its hash does not hold"));
    }
    let entries: Option<Vec<PackEntry>> = footer
        .chunks_exact(FOOTER_ENTRY_BYTES)
        .map(|bytes| parse_entry(bytes).filter(|entry| lies_within(entry, footer_at)))
        .collect();
    Ok((class, entries.ok_or_else(|| wrong("an entry is out of bounds"))?))
}

fn parse_entry(bytes: &[u8]) -> Option<PackEntry> {
    Some(PackEntry {
        id: ChunkId(*bytes.first_chunk()?),
        kind: BlobKind::from_code(*bytes.get(32)?)?,
        offset: number(bytes, 33),
        record_len: number(bytes, 37),
        plain_len: number(bytes, 41),
    })
}

fn lies_within(entry: &PackEntry, end: u64) -> bool {
    let references = strongroom_protocol::blob::REFERENCES_MAX * REFERENCE_BYTES;
    let most = HEAD_BYTES + references + PLAIN_BYTES_MAX + TAG_BYTES;
    entry.offset as usize >= HEADER_BYTES
        && (HEAD_BYTES + TAG_BYTES..=most).contains(&(entry.record_len as usize))
        && entry.plain_len as usize <= PLAIN_BYTES_MAX
        && u64::from(entry.offset) + u64::from(entry.record_len) <= end
}

/// The records at the head of a pack, read forward; whether their seals hold is not known yet.
pub fn scan_forward(
    file: &dyn ReadFile,
    repo: RepoId,
) -> Result<(PackClass, Vec<PackEntry>), PackError> {
    let len = file.len()?.min(PACK_BYTES_MAX);
    let mut header = [0; HEADER_BYTES];
    if len < HEADER_BYTES as u64 {
        return Err(PackError::Header { reason: "too short" });
    }
    file.read_exact_at(&mut header, 0)?;
    let class = parse_header(&header, repo)?;
    let mut entries = Vec::new();
    let mut at = HEADER_BYTES as u64;
    while let Some(entry) = scan_record(file, at, len)? {
        at += u64::from(entry.record_len);
        entries.push(entry);
    }
    Ok((class, entries))
}

fn scan_record(file: &dyn ReadFile, at: u64, len: u64) -> Result<Option<PackEntry>, PackError> {
    let left = len.saturating_sub(at);
    if left < HEAD_BYTES as u64 {
        return Ok(None);
    }
    let mut fixed = [0; HEAD_BYTES];
    file.read_exact_at(&mut fixed, at)?;
    let Ok(shape) = RecordShape::parse(&fixed) else { return Ok(None) };
    if shape.record_len() as u64 > left {
        return Ok(None);
    }
    let mut head = vec![0; shape.head_len()];
    file.read_exact_at(&mut head, at)?;
    let Ok(parsed) = RecordHead::parse(&head) else { return Ok(None) };
    let (Ok(offset), Ok(record_len)) = (u32::try_from(at), u32::try_from(shape.record_len()))
    else {
        return Ok(None);
    };
    let RecordHead { id, kind, plain_len, .. } = parsed;
    Ok(Some(PackEntry { id, kind, offset, record_len, plain_len }))
}

/// The hash of a whole file, which is a pack's name.
pub fn hash_file(file: &dyn ReadFile) -> Result<PackId, DiskError> {
    let len = file.len()?;
    let mut hasher = blake3::Hasher::new();
    hash_range(file, &mut hasher, len)?;
    Ok(PackId(*hasher.finalize().as_bytes()))
}

/// Hashes the first `len` bytes of a file.
pub(crate) fn hash_range(
    file: &dyn ReadFile,
    hasher: &mut blake3::Hasher,
    len: u64,
) -> Result<(), DiskError> {
    let mut buffer = vec![0; READ_BYTES];
    let mut at = 0;
    while at < len {
        let step = usize::try_from(len - at).unwrap_or(READ_BYTES).min(READ_BYTES);
        let part = buffer.get_mut(..step).unwrap_or_default();
        file.read_exact_at(part, at)?;
        hasher.update(part);
        at += step as u64;
    }
    Ok(())
}

/// Length of a pack with so many records of so many bytes.
pub(crate) const fn pack_bytes(record_bytes: u64, records: u64) -> u64 {
    let around = (HEADER_BYTES + TRAILER_BYTES) as u64;
    record_bytes + records * FOOTER_ENTRY_BYTES as u64 + around
}

/// Where a pack lies.
pub fn pack_path(class: PackClass, pack: PackId) -> String {
    let hex = pack.to_string();
    let fan = hex.get(..2).unwrap_or_default();
    format!("packs/{}/{fan}/{hex}", class.directory())
}

fn number(bytes: &[u8], at: usize) -> u32 {
    let number = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
    number.map_or(0, |number| u32::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Disk;
    use crate::disk::sim::SimDisk;
    use crate::keys::VaultKey;
    use crate::parcel::Compressor;
    use crate::seal::seal;

    const REPO: RepoId = RepoId::from_bytes([8; 16]);

    fn sample() -> (Vec<u8>, PackId, Vec<PackEntry>) {
        let key = VaultKey::from_bytes([1; 32]);
        let mut compressor = Compressor::new().unwrap();
        let (mut builder, header) = PackBuilder::begin(REPO, PackClass::Data, 1);
        let mut bytes = header.to_vec();
        for n in 0..5u8 {
            let plain = vec![n; 100 + usize::from(n)];
            let parcel =
                compressor.pack(&key.agent_keys(), BlobKind::Data, vec![], &plain, 3).unwrap();
            let sealed = seal(&key, REPO, &parcel).unwrap();
            assert!(builder.push(&sealed).is_some());
            bytes.extend_from_slice(&sealed.bytes);
        }
        let (tail, id, entries) = builder.take_finished();
        bytes.extend_from_slice(&tail);
        (bytes, id, entries)
    }

    fn file(bytes: &[u8]) -> std::sync::Arc<dyn ReadFile> {
        let disk = SimDisk::new();
        disk.create("pack").unwrap().append(bytes).unwrap();
        disk.open("pack").unwrap()
    }

    #[test]
    fn footer_scan_and_name_agree() {
        let (bytes, id, entries) = sample();
        let file = file(&bytes);
        assert_eq!(hash_file(&*file).unwrap(), id);
        assert_eq!(read_epoch(&*file, REPO).unwrap(), 1);
        assert_eq!(read_footer(&*file, REPO).unwrap(), (PackClass::Data, entries.clone()));
        assert_eq!(scan_forward(&*file, REPO).unwrap(), (PackClass::Data, entries));
        assert!(read_footer(&*file, RepoId::from_bytes([0; 16])).is_err());
    }

    #[test]
    fn a_cut_pack_gives_its_whole_records() {
        let (bytes, _, entries) = sample();
        for len in HEADER_BYTES..bytes.len() {
            let cut = file(&bytes[..len]);
            assert!(read_footer(&*cut, REPO).is_err());
            let whole: Vec<PackEntry> = entries
                .iter()
                .copied()
                .filter(|entry| (entry.offset + entry.record_len) as usize <= len)
                .collect();
            assert_eq!(scan_forward(&*cut, REPO).unwrap().1, whole);
        }
    }

    #[test]
    fn a_flipped_footer_is_not_believed() {
        let (bytes, _, entries) = sample();
        let footer_at = bytes.len() - TRAILER_BYTES - entries.len() * FOOTER_ENTRY_BYTES;
        for at in footer_at..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(read_footer(&*file(&damaged), REPO).is_err(), "byte {at}");
        }
    }
}
