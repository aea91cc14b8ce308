//! Fuzz targets for bytes at rest: what a disk, a bucket or another site may hand back. Where a
//! checksum guards a parser, the input is tried as it is and with the checksum made right, as
//! somebody who can write the disk would.

use std::io;

use bytes::Bytes;
use strongroom_protocol::blob::PLAIN_BYTES_MAX;
use strongroom_protocol::{
    Algorithm, BlobKind, ChunkId, Parcel, ParcelHead, PointId, Reference, RepoId, Timestamp,
    WorkloadId,
};
use strongroom_store::content::{
    ChunkExtent, Entry, FileContent, Meta, Node, Xattr, name_is_usable,
};
use strongroom_store::disk::{DiskError, DiskResult, ReadFile};
use strongroom_store::keys::VaultKey;
use strongroom_store::list::{ListBuilder, decode_list};
use strongroom_store::manifest::{
    Body, Consistency, Gap, GapList, GapReason, Head, Manifest, Stats, decode_gaps, encode_gaps,
};
use strongroom_store::pack::{PackBuilder, PackClass, PackEntry, read_footer, scan_forward};
use strongroom_store::page::{DirectoryBuilder, Page, decode_page};
use strongroom_store::parcel::{self, Compressor, ParcelError};
use strongroom_store::repo::{RepoConfig, RepoKeys};
use strongroom_store::seal::{HEAD_BYTES, REFERENCE_BYTES, RecordHead, open_record, seal};
use strongroom_store::tree::{BlobSink, SinkError};

const KEY: [u8; 32] = [7; 32];
/// The repository every seed belongs to.
pub(super) const REPO: RepoId = RepoId::from_bytes([1; 16]);

/// The bytes with the BLAKE3 of all before as their last 32.
pub(super) fn redigested(bytes: &[u8]) -> Vec<u8> {
    let body = bytes.get(..bytes.len().saturating_sub(32)).unwrap_or_default();
    [body, blake3::hash(body).as_bytes()].concat()
}

/// A sealed record, as read from a pack.
pub fn record(bytes: &[u8]) -> bool {
    let mut accepted = false;
    let mut repaired = bytes.to_vec();
    let count = bytes.get(16..20).and_then(|n| n.first_chunk()).map(|n| u32::from_le_bytes(*n));
    let head_len = HEAD_BYTES + count.unwrap_or_default() as usize % 10_000 * REFERENCE_BYTES;
    if let Some(head) = bytes.get(..head_len) {
        let mut check = blake3::Hasher::new();
        check.update(&head[..20]).update(&head[24..]);
        repaired[20..24].copy_from_slice(&check.finalize().as_bytes()[..4]);
    }
    for bytes in [bytes, &repaired] {
        if let Ok(head) = RecordHead::parse(bytes) {
            accepted = true;
            assert!(head.plain_len as usize <= PLAIN_BYTES_MAX);
            assert!(head.record_len() >= HEAD_BYTES + head.references.len() * REFERENCE_BYTES);
        }
        if let Ok(parcel) = open_record(&VaultKey::from_bytes(KEY), REPO, 1, bytes) {
            // What opens was sealed by a holder of the key, so it is one of the seeds.
            assert!(parcel.payload.len() <= PLAIN_BYTES_MAX);
        }
    }
    accepted
}

struct InMemory<'a>(&'a [u8]);

impl ReadFile for InMemory<'_> {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> DiskResult<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let found = start.checked_add(buffer.len()).and_then(|end| self.0.get(start..end));
        let short = || DiskError {
            action: "read",
            path: "memory".to_owned(),
            source: io::ErrorKind::UnexpectedEof.into(),
        };
        buffer.copy_from_slice(found.ok_or_else(short)?);
        Ok(())
    }

    fn len(&self) -> DiskResult<u64> {
        Ok(self.0.len() as u64)
    }
}

/// A pack by its footer, and read forward without one.
pub fn pack(bytes: &[u8]) -> bool {
    let mut accepted = false;
    for bytes in [bytes, &with_footer_hash(bytes)] {
        let file = InMemory(bytes);
        let (footer, forward) = (read_footer(&file, REPO), scan_forward(&file, REPO));
        for (_, entries) in footer.into_iter().chain(forward) {
            accepted |= !entries.is_empty();
            assert!(entries.iter().all(|entry| lies_within(entry, bytes.len())));
        }
    }
    accepted
}

fn lies_within(entry: &PackEntry, len: usize) -> bool {
    u64::from(entry.offset) + u64::from(entry.record_len) <= len as u64
}

fn with_footer_hash(bytes: &[u8]) -> Vec<u8> {
    let mut repaired = bytes.to_vec();
    let Some(trailer_at) = bytes.len().checked_sub(48) else { return repaired };
    let offset = bytes[trailer_at..].first_chunk().map(|n| u64::from_le_bytes(*n));
    let offset = usize::try_from(offset.unwrap_or_default()).unwrap_or(usize::MAX);
    if let Some(footer) = bytes.get(offset..trailer_at) {
        let hash = blake3::hash(footer);
        repaired[trailer_at + 12..trailer_at + 44].copy_from_slice(hash.as_bytes());
    }
    repaired
}

/// Plaintexts of pages, lists and gap lists. The first byte says how many references there are;
/// two bytes each say kind and id.
pub fn plaintext(bytes: &[u8]) -> bool {
    let Some((count, rest)) = bytes.split_first() else { return false };
    let (pairs, plain) = rest.split_at((usize::from(*count) * 2).min(rest.len()));
    let references: Vec<Reference> = pairs
        .chunks_exact(2)
        .filter_map(|pair| {
            Some(Reference { kind: BlobKind::from_code(pair[0] % 4)?, id: ChunkId([pair[1]; 32]) })
        })
        .collect();
    let page = decode_page(plain, &references);
    if let Ok(Page::Leaf(entries)) = &page {
        assert!(entries.iter().all(|entry| name_is_usable(&entry.name)), "an unusable name");
        assert!(entries.is_sorted_by(|a, b| a.name < b.name), "names out of order or twice");
    }
    let list = decode_list(plain, &references);
    if let Ok(list) = &list {
        // A sum that overflows is refused by whoever asks for it, not wrapped.
        let _ = list.bytes();
    }
    page.is_ok() || list.is_ok() || decode_gaps(plain).is_ok_and(|gaps| !gaps.is_empty())
}

/// A manifest file, and its opened form as a reader receives it.
pub fn manifest(bytes: &[u8]) -> bool {
    let mut accepted = false;
    for bytes in [bytes, &redigested(bytes)] {
        let head = Manifest::decode_head(bytes);
        accepted |= head.is_ok();
        if let Ok(manifest) = Manifest::decode(bytes, &VaultKey::from_bytes(KEY)) {
            assert_eq!(head.as_ref().ok(), Some(&manifest.head));
        }
    }
    accepted | postcard::from_bytes::<(Head, Body)>(bytes).is_ok()
}

/// A parcel from a peer: kind, algorithm, announced length, payload.
pub fn parcel(bytes: &[u8]) -> bool {
    let Some((head, payload)) = bytes.split_first_chunk::<6>() else { return false };
    let [kind, algorithm, length @ ..] = *head;
    let (Some(kind), Some(algorithm)) =
        (BlobKind::from_code(kind % 4), Algorithm::from_code(algorithm % 2))
    else {
        return false;
    };
    let head = ParcelHead {
        id: ChunkId([0; 32]),
        kind,
        algorithm,
        plain_len: u32::from_le_bytes(length),
        references: Vec::new(),
    };
    let keys = VaultKey::from_bytes(KEY).agent_keys();
    let opened = parcel::open(&Parcel { head, payload: Bytes::copy_from_slice(payload) }, &keys);
    // The name is made up, so what decompresses is refused as a mismatch: that far is far enough.
    assert!(opened.is_err(), "a parcel of another name was believed");
    matches!(opened, Err(ParcelError::Mismatch { .. }))
}

/// A repository's `config` and `keys`.
pub fn config(bytes: &[u8]) -> bool {
    let mut accepted = false;
    for bytes in [bytes, &redigested(bytes)] {
        accepted |= RepoConfig::decode(bytes, "config").is_ok();
        accepted |= RepoKeys::decode(bytes, "keys").is_ok();
    }
    accepted
}

fn parcels() -> Vec<Parcel> {
    let keys = VaultKey::from_bytes(KEY).agent_keys();
    let Ok(mut compressor) = Compressor::new() else { return Vec::new() };
    let reference = Reference { kind: BlobKind::Data, id: ChunkId([9; 32]) };
    let plain = |length: usize| -> Vec<u8> { (0..length).map(|i| (i / 7) as u8).collect() };
    let mut packed = Vec::new();
    for (kind, references, length) in
        [(BlobKind::Data, vec![], 900), (BlobKind::Page, vec![reference; 3], 300)]
    {
        packed.extend(compressor.pack(&keys, kind, references, &plain(length), 3).ok());
    }
    packed
}

/// Records of two kinds.
pub(super) fn record_seeds() -> Vec<Vec<u8>> {
    let key = VaultKey::from_bytes(KEY);
    parcels()
        .iter()
        .filter_map(|parcel| seal(&key, REPO, parcel).ok())
        .map(|sealed| sealed.bytes.to_vec())
        .collect()
}

/// A closed pack and an unfinished one.
pub(super) fn pack_seeds() -> Vec<Vec<u8>> {
    let key = VaultKey::from_bytes(KEY);
    let (mut builder, header) = PackBuilder::begin(REPO, PackClass::Data, 1);
    let mut bytes = header.to_vec();
    for sealed in parcels().iter().filter_map(|parcel| seal(&key, REPO, parcel).ok()) {
        if builder.push(&sealed).is_some() {
            bytes.extend_from_slice(&sealed.bytes);
        }
    }
    let unfinished = bytes.clone();
    bytes.extend_from_slice(&builder.take_finished().0);
    vec![bytes, unfinished]
}

/// Parcels as [`parcel()`] reads them.
pub(super) fn parcel_seeds() -> Vec<Vec<u8>> {
    let flat = |parcel: Parcel| {
        let ParcelHead { kind, algorithm, plain_len, .. } = parcel.head;
        [&[kind.code(), algorithm.code()][..], &plain_len.to_le_bytes(), &parcel.payload].concat()
    };
    parcels().into_iter().map(flat).collect()
}

/// A gap list, and whatever a directory and a long file are written as.
pub(super) fn plaintext_seeds() -> Vec<Vec<u8>> {
    let gaps = [Gap::new(b"a/\xff", GapReason::Permission, "EACCES")];
    let plain = encode_gaps(&gaps).map(|(plain, _)| plain).unwrap_or_default();
    let mut taken = Taken(vec![[&[0], &plain[..]].concat()]);
    let _ = write_tree(&mut taken);
    taken.0
}

/// Keeps blobs the way [`plaintext`] reads them.
struct Taken(Vec<Vec<u8>>);

impl BlobSink for Taken {
    fn put(
        &mut self,
        _: BlobKind,
        references: Vec<Reference>,
        plain: Vec<u8>,
    ) -> Result<ChunkId, SinkError> {
        let id = ChunkId([self.0.len() as u8; 32]);
        let mut bytes = vec![references.len() as u8];
        bytes.extend(references.iter().flat_map(|one| [one.kind.code(), one.id.0[0]]));
        bytes.extend_from_slice(&plain);
        // What has more references than one byte counts is of no use here.
        if references.len() <= usize::from(u8::MAX) {
            self.0.push(bytes);
        }
        Ok(id)
    }
}

fn write_tree(sink: &mut Taken) -> anyhow::Result<()> {
    let xattrs = vec![Xattr { name: b"user.a".to_vec(), value: vec![1, 2] }];
    let meta = Meta { mode: 0o644, mtime_ns: -1, xattrs, link_group: 5, ..Meta::default() };
    let chunk = |fill| ChunkExtent::Chunk { id: ChunkId([fill; 32]), offset: 3, length: 4096 };
    let extents = FileContent::Extents(vec![chunk(8), ChunkExtent::Hole { length: 1 << 30 }]);
    let size = 4096 + (1 << 30);
    let nodes = [
        Node::Directory { page: ChunkId([1; 32]) },
        Node::File { size: 5, content: FileContent::Inline(b"12345".to_vec()) },
        Node::File { size, content: extents },
        Node::Symlink { target: b"../b".to_vec() },
        Node::Fifo,
        Node::CharDevice { major: 1, minor: 3 },
    ];
    let mut directory = DirectoryBuilder::new();
    for (index, node) in nodes.into_iter().enumerate() {
        let name = format!("name-{index}").into_bytes();
        directory.push(Entry { name, node, meta: meta.clone() }, sink)?;
    }
    directory.finish(sink)?;
    let mut list = ListBuilder::new();
    for fill in 0..200 {
        list.push(chunk(fill), sink)?;
    }
    list.finish(sink)?;
    Ok(())
}

/// A `config` and a `keys` file.
pub(super) fn config_seeds() -> Vec<Vec<u8>> {
    let cut = (1_u8, 256_u32 << 10, 768_u32 << 10);
    let body = postcard::to_allocvec(&(*REPO.as_bytes(), "acme", 0_i64, cut, [5_u8; 32]));
    let config = redigested(&[b"SRCONF01", &body.unwrap_or_default()[..], &[0; 32]].concat());
    let wraps = || vec![vec![1, 2, 3]];
    let rotated = VaultKey::from_secret(&[KEY, [6; 32]].concat());
    let rotated = rotated.map(|key| RepoKeys::of(REPO, &key, wraps()).encode());
    [config, RepoKeys::new(REPO, wraps()).encode()].into_iter().chain(rotated).collect()
}

/// One point, sealed and opened.
pub(super) fn manifest_seeds() -> Vec<Vec<u8>> {
    let Some(manifest) = sample_manifest() else { return Vec::new() };
    let sealed = manifest.encode(&VaultKey::from_bytes(KEY)).ok();
    let opened = postcard::to_allocvec(&(&manifest.head, &manifest.body)).ok();
    sealed.into_iter().chain(opened).collect()
}

pub(super) fn sample_manifest() -> Option<Manifest> {
    let root = ChunkId([1; 32]);
    let head = Head {
        repo: REPO,
        workload: WorkloadId::from_bytes([2; 16]),
        point: PointId::from_bytes([3; 16]),
        moment: Timestamp(-4),
        kind: 0,
        roots: vec![Reference { kind: BlobKind::Page, id: root }],
        key_epoch: 1,
        reader_version_min: 1,
    };
    let body = Body {
        workload_name: "home@files".parse().ok()?,
        agent: "files-1".parse().ok()?,
        source: "/srv/home".to_owned(),
        consistency: Consistency::Filesystem,
        frozen_ms: 120,
        root,
        stats: Stats { files: 5, bytes: 1 << 50, ..Stats::default() },
        gaps: GapList::Inline(vec![Gap::new(b"a/\xff", GapReason::Permission, "EACCES")]),
        policy: "gold".parse().ok()?,
        policy_version: 3,
        previous: Some(PointId::from_bytes([4; 16])),
        committed: Timestamp(99),
        software: "0.1.0".to_owned(),
        hooks: String::new(),
    };
    Some(Manifest { head, body })
}
