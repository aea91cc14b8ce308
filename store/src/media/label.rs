//! What a file on a medium says it is: magic numbers, the label, and checked bodies.
//! Refuses a body whose BLAKE3 does not match.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use strongroom_protocol::{MediaSetName, MediumId, OrgName, PointId, RepoId, WorkloadId};

use crate::tape::Barcode;

/// Longest label: one block of the smallest drive takes it.
pub(crate) const LABEL_BYTES_MAX: u64 = 4096;
/// Longest config or keys: some thousand recipients.
pub(crate) const CONFIG_BYTES_MAX: u64 = 16 << 20;
/// Longest manifest: its gaps are at most 100 inline.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 64 << 20;
/// Longest catalog: about twenty million entries.
pub(crate) const CATALOG_BYTES_MAX: u64 = 1 << 30;
/// Bytes of the hash that closes a checked file.
const HASH_BYTES: usize = 32;
const MAGIC_BYTES: usize = 8;

pub(crate) const LABEL_MAGIC: &[u8; 8] = b"SRLABL01";
pub(crate) const CATALOG_MAGIC: &[u8; 8] = b"SRCATL01";

/// What a file on a medium is, by its first 8 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileKind {
    Label,
    Config,
    Keys,
    Pack,
    Manifest,
    Catalog,
    Unknown,
}

impl FileKind {
    pub(crate) fn of(head: &[u8]) -> Self {
        match head.first_chunk::<MAGIC_BYTES>() {
            Some(b"SRLABL01") => Self::Label,
            Some(b"SRCONF01") => Self::Config,
            Some(b"SRKEYS01" | b"SRKEYS02") => Self::Keys,
            Some(b"SRPACK01") => Self::Pack,
            Some(b"SRPOIN01") => Self::Manifest,
            Some(b"SRCATL01") => Self::Catalog,
            _ => Self::Unknown,
        }
    }

    /// Longest such file that is read into memory.
    pub(crate) const fn bytes_max(self) -> u64 {
        match self {
            Self::Label => LABEL_BYTES_MAX,
            Self::Config | Self::Keys => CONFIG_BYTES_MAX,
            Self::Manifest => MANIFEST_BYTES_MAX,
            Self::Catalog => CATALOG_BYTES_MAX,
            Self::Pack | Self::Unknown => u64::MAX,
        }
    }
}

/// File 0 of a medium. Frozen: a change is a new version.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LabelV1 {
    pub medium: MediumId,
    /// The barcode when the label was written; a cartridge may get another.
    pub barcode: Barcode,
    pub set: MediaSetName,
    /// Counts the media of the set from 1.
    pub sequence: u32,
    pub org: OrgName,
    pub repo: RepoId,
    pub written_ns: i64,
    /// Bytes of every block but the last of a file.
    pub block: u32,
}

/// Magic, postcard, BLAKE3-256 of all before.
pub(crate) fn sealed<T: Serialize>(magic: &[u8; 8], body: &T) -> Result<Vec<u8>, postcard::Error> {
    let mut bytes = postcard::to_extend(body, magic.to_vec())?;
    let hash = blake3::hash(&bytes);
    bytes.extend_from_slice(hash.as_bytes());
    Ok(bytes)
}

/// The bytes before the closing hash, when it matches.
pub(crate) fn checked(bytes: &[u8]) -> Option<&[u8]> {
    let (body, hash) = bytes.split_last_chunk::<HASH_BYTES>()?;
    (blake3::hash(body) == blake3::Hash::from_bytes(*hash)).then_some(body)
}

/// The body of a sealed file with this magic.
pub(crate) fn unsealed<T: DeserializeOwned>(magic: &[u8; 8], bytes: &[u8]) -> Option<T> {
    let body = checked(bytes)?.strip_prefix(magic.as_slice())?;
    postcard::from_bytes(body).ok()
}

/// The repository a config, keys or pack file says it belongs to.
pub(crate) fn repo_of(head: &[u8]) -> Option<RepoId> {
    head.get(MAGIC_BYTES..)?.first_chunk().map(|bytes| RepoId::from_bytes(*bytes))
}

/// The organisation named in a config: the text after the repository's id.
pub(crate) fn org_of(config: &[u8]) -> Option<OrgName> {
    let rest = config.get(MAGIC_BYTES + 16..)?;
    postcard::take_from_bytes::<OrgName>(rest).ok().map(|(org, _)| org)
}

/// What the head of a manifest says without a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ManifestHead {
    pub(crate) repo: RepoId,
    pub(crate) workload: WorkloadId,
    pub(crate) point: PointId,
    pub(crate) moment_ns: i64,
}

impl ManifestHead {
    /// Of whole, checked manifest bytes.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        let body = checked(bytes)?.strip_prefix(b"SRPOIN01")?;
        type Head = ([u8; 16], [u8; 16], [u8; 16], i64);
        let (head, _) = postcard::take_from_bytes::<Head>(body.get(4..)?).ok()?;
        Some(Self {
            repo: RepoId::from_bytes(head.0),
            workload: WorkloadId::from_bytes(head.1),
            point: PointId::from_bytes(head.2),
            moment_ns: head.3,
        })
    }
}
