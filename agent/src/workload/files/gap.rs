//! What a point does not hold, and why: said by path, never guessed, never counted as
//! protected.

use std::io;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// Why something was not protected, or not as it was at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum GapReason {
    /// It changed each time it was read; what is stored is a mixture of moments.
    Changed,
    /// The application's own checks say that it is damaged; it is stored as it is.
    Corrupt { what: String },
    /// Permission was refused.
    Denied,
    /// The disk did not give it.
    Damaged,
    /// More hard-linked files than are remembered: stored, but as files of their own.
    LinkForgotten,
    /// Its directory was moved away while the walk was below it.
    Moved,
    /// Any other answer of the kernel.
    System { errno: i32 },
    /// The format cannot hold it: a name or attributes longer than any entry may have.
    Unfit,
    /// It was there when the directory was listed and gone when it was read.
    Vanished,
}

impl GapReason {
    /// A few words for reports.
    pub fn describe(&self) -> String {
        match self {
            Self::Changed => "changed while it was read".to_owned(),
            Self::Corrupt { what } => what.clone(),
            Self::Denied => "permission denied".to_owned(),
            Self::Damaged => "input/output error".to_owned(),
            Self::LinkForgotten => "hard link stored as a file of its own".to_owned(),
            Self::Moved => "its directory was moved during the walk".to_owned(),
            Self::System { errno } => io::Error::from_raw_os_error(*errno).to_string(),
            Self::Unfit => "name or attributes too long to keep".to_owned(),
            Self::Vanished => "vanished during the walk".to_owned(),
        }
    }
}

impl From<&io::Error> for GapReason {
    fn from(error: &io::Error) -> Self {
        let code = error.raw_os_error().unwrap_or(0);
        match Errno::from_raw_os_error(code) {
            Errno::ACCESS | Errno::PERM => Self::Denied,
            Errno::IO | Errno::UCLEAN | Errno::BADMSG => Self::Damaged,
            // A symlink or another kind now stands where a file or directory was.
            Errno::NOENT | Errno::STALE | Errno::LOOP | Errno::NOTDIR | Errno::NXIO => {
                Self::Vanished
            }
            _ => Self::System { errno: code },
        }
    }
}

/// One thing not protected.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Gap {
    /// Relative to the root, as bytes.
    pub path: Vec<u8>,
    pub reason: GapReason,
}

impl Gap {
    /// A gap at `path`.
    pub fn new(path: &[u8], reason: GapReason) -> Self {
        Self { path: path.to_vec(), reason }
    }

    /// The same gap, told from a directory higher up that leads to it by `above`.
    pub fn below(mut self, above: &[u8]) -> Self {
        let path = [above, b"/", &self.path].concat();
        self.path = if self.path.is_empty() { above.to_vec() } else { path };
        self
    }
}
