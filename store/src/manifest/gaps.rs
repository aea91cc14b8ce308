//! What a point did not protect, and why. Promises that nothing left out is silent; a few
//! lie in the manifest, many in a blob of their own.

use serde::{Deserialize, Serialize};
use strongroom_protocol::ChunkId;
use strongroom_protocol::blob::PLAIN_BYTES_MAX;

/// Most gaps that lie in the manifest itself.
pub const GAPS_INLINE_MAX: usize = 100;
/// Longest text of a gap, in bytes; longer ones are cut when made.
pub const GAP_TEXT_BYTES_MAX: usize = 512;
/// Longest path of a gap, in bytes: that of Linux; longer ones are cut when made.
const PATH_BYTES_MAX: usize = 4096;

/// Something that is not in the point.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Gap {
    /// As in the tree, as bytes.
    pub path: Vec<u8>,
    pub reason: GapReason,
    /// What the system said, for a person.
    pub text: String,
}

/// Why something is not in a point. The order is the format: append only.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum GapReason {
    /// Left out by the policy.
    Excluded,
    /// On another file system than the one protected.
    OtherFilesystem,
    /// Reading was not permitted.
    Permission,
    /// Reading failed.
    Unreadable,
    /// It was gone when its turn came.
    Vanished,
    /// It changed while it was read, so that what is kept may be no state it ever had.
    Changed,
    /// Content is kept; some metadata could not be read or does not fit.
    Metadata,
    /// Of a kind that cannot be kept.
    Unsupported,
    /// Reading took too long.
    TimedOut,
    /// Its directory was moved away while it was read.
    Moved,
    /// Kept, but as a file of its own: more hard links than are remembered.
    LinkForgotten,
}

impl GapReason {
    /// The words in tables and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Excluded => "excluded",
            Self::OtherFilesystem => "other file system",
            Self::Permission => "not permitted",
            Self::Unreadable => "unreadable",
            Self::Vanished => "vanished",
            Self::Changed => "changed while read",
            Self::Metadata => "metadata incomplete",
            Self::Unsupported => "unsupported",
            Self::TimedOut => "timed out",
            Self::Moved => "moved while read",
            Self::LinkForgotten => "hard link kept as a file of its own",
        }
    }
}

/// The gaps of a point.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum GapList {
    /// Here: at most [`GAPS_INLINE_MAX`].
    Inline(Vec<Gap>),
    /// In a blob; `count` is of all there were, of which the blob may hold the first only.
    Blob { id: ChunkId, count: u64 },
}

impl GapList {
    /// How many gaps there were.
    pub const fn count(&self) -> u64 {
        match self {
            Self::Inline(gaps) => gaps.len() as u64,
            Self::Blob { count, .. } => *count,
        }
    }
}

/// Why a list of gaps cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GapsError {
    /// Not a list of gaps.
    #[error("the list of gaps is broken")]
    Malformed(#[from] postcard::Error),
    /// Longer than a blob may be.
    #[error("the list of gaps has {bytes} bytes")]
    TooLong { bytes: usize },
}

impl Gap {
    /// A gap, its path and text cut to what may be kept.
    pub fn new(path: &[u8], reason: GapReason, text: &str) -> Self {
        let path = path.get(..PATH_BYTES_MAX).unwrap_or(path).to_vec();
        let end = text.floor_char_boundary(GAP_TEXT_BYTES_MAX);
        Self { path, reason, text: text.get(..end).unwrap_or_default().to_owned() }
    }

    /// Bytes it takes in a list, at most.
    pub const fn weight(&self) -> usize {
        self.path.len() + self.text.len() + 16
    }
}

#[derive(Serialize, Deserialize)]
struct GapsV1 {
    gaps: Vec<Gap>,
}

/// The plaintext of a `Gaps` blob, and how many of the gaps are in it: the first that fit.
pub fn encode_gaps(gaps: &[Gap]) -> Result<(Vec<u8>, usize), GapsError> {
    let mut bytes = 16;
    let fits = |gap: &&Gap| {
        bytes += gap.weight();
        bytes <= PLAIN_BYTES_MAX
    };
    let gaps: Vec<Gap> = gaps.iter().take_while(fits).cloned().collect();
    let kept = gaps.len();
    Ok((postcard::to_stdvec(&GapsV1 { gaps })?, kept))
}

/// The gaps a `Gaps` blob holds.
pub fn decode_gaps(plain: &[u8]) -> Result<Vec<Gap>, GapsError> {
    if plain.len() > PLAIN_BYTES_MAX {
        return Err(GapsError::TooLong { bytes: plain.len() });
    }
    let (GapsV1 { gaps }, rest) = postcard::take_from_bytes(plain)?;
    match rest.is_empty() {
        true => Ok(gaps),
        false => Err(GapsError::Malformed(postcard::Error::DeserializeBadEncoding)),
    }
}
