//! The manifest of a point: a head anyone may read, a body sealed with the point's key, a
//! digest of both. Promises that what is decoded is what was written; refuses damage, a
//! wrong key and points of newer versions, each by its name.

mod gaps;
mod seal;

use serde::{Deserialize, Serialize};
use strongroom_protocol::{
    BlobKind, ChunkId, NodeName, PointId, PolicyName, Reference, RepoId, Timestamp, WorkloadId,
    WorkloadName,
};

use crate::keys::VaultKey;

pub use gaps::{
    GAP_TEXT_BYTES_MAX, GAPS_INLINE_MAX, Gap, GapList, GapReason, GapsError, decode_gaps,
    encode_gaps,
};

/// The newest version this code reads.
pub const READER_VERSION: u16 = 2;
/// Longest manifest, in bytes: the inline gaps with the longest paths fit many times.
pub const MANIFEST_BYTES_MAX: usize = 4 << 20;
/// Most roots of a point: one of each item and the gaps.
pub const ROOTS_MAX: usize = 4096;

/// The oldest version that understands a point of a key epoch: the first knew one epoch only.
pub const fn reader_version_min(key_epoch: u32) -> u16 {
    if key_epoch > 1 { 2 } else { 1 }
}

const MAGIC: &[u8; 6] = b"SRPOIN";
const VERSION: &[u8; 2] = b"01";
const DIGEST_BYTES: usize = 32;

/// A point as it is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    pub head: Head,
    pub body: Body,
}

/// What is readable of a point without a key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Head {
    pub repo: RepoId,
    pub workload: WorkloadId,
    pub point: PointId,
    /// The moment the data is of.
    pub moment: Timestamp,
    /// The kind of workload, in the numbers of whoever made the point; opaque here.
    pub kind: u8,
    /// Every blob from which all others of the point are reached.
    pub roots: Vec<Reference>,
    pub key_epoch: u32,
    /// The oldest version of this code that understands the point.
    pub reader_version_min: u16,
}

/// What a point says of itself to who has the key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Body {
    pub workload_name: WorkloadName,
    /// The node that read the data.
    pub agent: NodeName,
    /// Where the data was, in words: a path, a database, a machine.
    pub source: String,
    pub consistency: Consistency,
    /// How long the application was held still, in milliseconds.
    pub frozen_ms: u64,
    /// The page that lists the items of the point; one of the roots.
    pub root: ChunkId,
    pub stats: Stats,
    pub gaps: GapList,
    pub policy: PolicyName,
    pub policy_version: u32,
    /// The point this one was compared with.
    pub previous: Option<PointId>,
    pub committed: Timestamp,
    /// Version of the software that wrote it.
    pub software: String,
    /// What the hooks around the freeze said; empty if there were none.
    pub hooks: String,
}

/// What a point claims of the state it holds. The order is the format: append only.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Consistency {
    /// The application was made quiet and said so.
    Application,
    /// The file system was frozen.
    Filesystem,
    /// One moment, as after a loss of power.
    Crash,
    /// No one moment: files changed while they were read.
    Fuzzy,
}

impl Consistency {
    /// The word in tables and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Application => "application",
            Self::Filesystem => "filesystem",
            Self::Crash => "crash",
            Self::Fuzzy => "fuzzy",
        }
    }
}

/// What a point holds, counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Stats {
    pub files: u64,
    pub directories: u64,
    /// Symbolic links, devices, pipes and sockets.
    pub specials: u64,
    /// Sizes of all files, in bytes.
    pub bytes: u64,
    /// Read from the source, in bytes: less than `bytes` where unchanged files were known.
    pub read_bytes: u64,
    /// Not in the repository before, in bytes before compression.
    pub new_bytes: u64,
    /// Not in the repository before, in bytes as stored.
    pub stored_bytes: u64,
    /// Chunks named.
    pub chunks: u64,
    pub new_chunks: u64,
    /// From the moment of the data to the end of reading, in milliseconds.
    pub elapsed_ms: u64,
}

/// Why a manifest cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The bytes are not those written.
    #[error("the manifest is damaged")]
    Damaged,
    /// The key of its epoch is not among those held.
    #[error(
        "point {point} is sealed under key epoch {epoch}, and the keys given end at epoch {known}"
    )]
    Epoch { point: PointId, epoch: u32, known: u32 },
    /// What it says is not what a manifest can say.
    #[error("the manifest of point {point} is broken")]
    Malformed { point: PointId, source: postcard::Error },
    /// The head is not one.
    #[error("the head of the manifest is broken")]
    MalformedHead(#[source] postcard::Error),
    /// Made by software this one does not understand.
    #[error(
        "the point was written by a newer version: it needs reader version {needed}, this is \
         {READER_VERSION}"
    )]
    Newer { needed: String },
    /// The system gave no randomness.
    #[error("the operating system gave no random bytes")]
    NoRandomness,
    /// Not a manifest at all.
    #[error("this is not the manifest of a point")]
    NotManifest,
    /// Roots that do not name what the body names, or too many.
    #[error("the roots of point {point} do not name its tree and its gaps")]
    Roots { point: PointId },
    /// The body does not open.
    #[error("the body of point {point} does not open: the key is wrong or it was altered")]
    Sealed { point: PointId },
    /// Longer than a manifest may be.
    #[error("the manifest has {bytes} bytes")]
    TooLong { bytes: usize },
}

impl Manifest {
    /// The bytes of the file; different each time, for the nonce.
    pub fn encode(&self, vault_key: &VaultKey) -> Result<Vec<u8>, ManifestError> {
        let point = self.head.point;
        self.check_roots()?;
        let head = postcard::to_stdvec(&self.head).map_err(ManifestError::MalformedHead)?;
        let body = postcard::to_stdvec(&self.body);
        let body = body.map_err(|source| ManifestError::Malformed { point, source })?;
        let (nonce, sealed) = seal::seal(vault_key, self.head.key_epoch, point, &head, body)?;
        let mut bytes = [MAGIC.as_slice(), VERSION].concat();
        push_sized(&mut bytes, &head)?;
        let sealed_bytes = u32::try_from(sealed.len());
        let sealed_bytes =
            sealed_bytes.map_err(|_| ManifestError::TooLong { bytes: sealed.len() })?;
        bytes.extend_from_slice(&sealed_bytes.to_le_bytes());
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(&sealed);
        let digest = blake3::hash(&bytes);
        bytes.extend_from_slice(digest.as_bytes());
        match bytes.len() {
            0..=MANIFEST_BYTES_MAX => Ok(bytes),
            bytes => Err(ManifestError::TooLong { bytes }),
        }
    }

    /// The manifest, opened and checked.
    pub fn decode(bytes: &[u8], vault_key: &VaultKey) -> Result<Self, ManifestError> {
        let parts = Parts::of(bytes)?;
        let head = parts.head()?;
        let point = head.point;
        let epoch = head.key_epoch;
        let body = seal::open(vault_key, epoch, point, parts.head, parts.nonce, parts.sealed)?;
        let (body, rest) = postcard::take_from_bytes(&body)
            .map_err(|source| ManifestError::Malformed { point, source })?;
        let manifest = Self { head, body };
        match rest.is_empty() {
            true => manifest.check_roots().map(|()| manifest),
            false => {
                let source = postcard::Error::DeserializeBadEncoding;
                Err(ManifestError::Malformed { point, source })
            }
        }
    }

    /// The head, for whoever has no key; the whole file is checked against its digest.
    pub fn decode_head(bytes: &[u8]) -> Result<Head, ManifestError> {
        Parts::of(bytes)?.head()
    }

    /// Whoever cleans up sees the roots only, so they must lead to all the body names.
    fn check_roots(&self) -> Result<(), ManifestError> {
        let names = |kind, id| self.head.roots.contains(&Reference { kind, id });
        let gaps = match &self.body.gaps {
            GapList::Inline(gaps) => gaps.len() <= GAPS_INLINE_MAX,
            GapList::Blob { id, .. } => names(BlobKind::Gaps, *id),
        };
        let few = self.head.roots.len() <= ROOTS_MAX;
        match gaps && few && names(BlobKind::Page, self.body.root) {
            true => Ok(()),
            false => Err(ManifestError::Roots { point: self.head.point }),
        }
    }
}

/// A manifest in its parts, once its digest was found right.
struct Parts<'a> {
    head: &'a [u8],
    nonce: [u8; 12],
    sealed: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(bytes: &'a [u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::TooLong { bytes: bytes.len() });
        }
        let rest = bytes.strip_prefix(MAGIC).ok_or(ManifestError::NotManifest)?;
        let (version, _) = rest.split_first_chunk::<2>().ok_or(ManifestError::Damaged)?;
        let known = version == VERSION;
        let (content, digest) =
            bytes.split_last_chunk::<DIGEST_BYTES>().ok_or(ManifestError::Damaged)?;
        // Every version ends in its digest, so that damage is not taken for a newer version.
        if blake3::hash(content) != *digest {
            return Err(ManifestError::Damaged);
        }
        if !known {
            let needed = String::from_utf8_lossy(version).into_owned();
            return Err(ManifestError::Newer { needed });
        }
        let rest = content.get(MAGIC.len() + VERSION.len()..).unwrap_or_default();
        let (head, rest) = take_sized(rest).ok_or(ManifestError::Damaged)?;
        let (size, rest) = rest.split_first_chunk::<4>().ok_or(ManifestError::Damaged)?;
        let (nonce, sealed) = rest.split_first_chunk::<12>().ok_or(ManifestError::Damaged)?;
        match usize::try_from(u32::from_le_bytes(*size)) {
            Ok(size) if size == sealed.len() => Ok(Self { head, nonce: *nonce, sealed }),
            _ => Err(ManifestError::Damaged),
        }
    }

    fn head(&self) -> Result<Head, ManifestError> {
        // Later versions may add to the end of the head; they raise the version needed.
        let (head, rest): (Head, _) =
            postcard::take_from_bytes(self.head).map_err(ManifestError::MalformedHead)?;
        if head.reader_version_min > READER_VERSION {
            return Err(ManifestError::Newer { needed: head.reader_version_min.to_string() });
        }
        match rest.is_empty() {
            true => Ok(head),
            false => Err(ManifestError::MalformedHead(postcard::Error::DeserializeBadEncoding)),
        }
    }
}

fn push_sized(bytes: &mut Vec<u8>, part: &[u8]) -> Result<(), ManifestError> {
    let size = u32::try_from(part.len());
    let size = size.map_err(|_| ManifestError::TooLong { bytes: part.len() })?;
    bytes.extend_from_slice(&size.to_le_bytes());
    bytes.extend_from_slice(part);
    Ok(())
}

fn take_sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (size, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_le_bytes(*size)).ok()?)
}
