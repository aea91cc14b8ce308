//! What of a tree is wanted: all of it, some paths with what is below them, or what a
//! predicate holds of. Promises that directories nobody asked for are not read.

use std::collections::BTreeSet;
use std::fmt;

use crate::content::Entry;
use crate::tree::{join, names_of};

/// Holds of the entries wanted; a directory it holds of does not bring its content.
type Predicate = Box<dyn Fn(&[u8], &Entry) -> bool + Send>;

/// What is to be restored.
pub enum Selection {
    /// Everything.
    Everything,
    /// What a predicate (a glob, say) holds of; every directory is searched.
    Matching(Predicate),
    /// These paths, with everything below them.
    Paths(BTreeSet<Vec<u8>>),
}

impl Selection {
    /// These paths; doubled, leading and trailing slashes mean nothing. The empty path is
    /// the root: everything.
    pub fn paths<'a>(paths: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let clean = |path| {
            let mut clean = Vec::new();
            names_of(path).for_each(|name| join(&mut clean, name));
            clean
        };
        let paths: BTreeSet<Vec<u8>> = paths.into_iter().map(clean).collect();
        if paths.contains(b"".as_slice()) { Self::Everything } else { Self::Paths(paths) }
    }

    /// Whether the entry is wanted.
    pub(crate) fn takes(&self, path: &[u8], entry: &Entry) -> bool {
        match self {
            Self::Everything => true,
            Self::Matching(holds) => holds(path, entry),
            Self::Paths(paths) => is_within(path, paths),
        }
    }

    /// Whether anything in this directory may be wanted.
    pub(crate) fn enters(&self, path: &[u8]) -> bool {
        match self {
            Self::Everything | Self::Matching(_) => true,
            Self::Paths(paths) => is_within(path, paths) || is_above(path, paths),
        }
    }

    /// Whether damage in this directory touches what is wanted.
    pub(crate) fn concerns(&self, path: &[u8]) -> bool {
        path.is_empty() || self.enters(path)
    }
}

impl fmt::Debug for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything => f.write_str("Everything"),
            Self::Matching(_) => f.write_str("Matching"),
            Self::Paths(paths) => f.debug_tuple("Paths").field(&paths.len()).finish(),
        }
    }
}

/// Whether the path, or one above it, is among the paths.
fn is_within(path: &[u8], paths: &BTreeSet<Vec<u8>>) -> bool {
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    slashes.chain([path.len()]).filter_map(|end| path.get(..end)).any(|head| paths.contains(head))
}

/// Whether one of the paths lies below this one.
fn is_above(path: &[u8], paths: &BTreeSet<Vec<u8>>) -> bool {
    let below = [path, b"/".as_slice()].concat();
    paths.range(below.clone()..).next().is_some_and(|next| next.starts_with(&below))
}
