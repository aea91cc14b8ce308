//! Which entries a point leaves out, decided by name and size alone. Globs are those of
//! gitignore files, relative to the root; what is left out is no gap, for somebody chose it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use serde::{Deserialize, Serialize};

use crate::workload::files::metadata::FileKind;

/// Most globs one workload may have: each is looked at for every entry.
pub const GLOBS_MAX: usize = 4096;

/// What the policy says about a tree.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuleSet {
    /// Gitignore-style globs relative to the root; a leading `!` takes back.
    pub exclude: Vec<String>,
    /// Directories in which one of these names lies are kept empty.
    pub exclude_if_present: Vec<String>,
    /// Files larger than this are left out.
    pub exclude_larger_bytes: Option<u64>,
    /// Whether mount points below the root are entered.
    pub mounts: Mounts,
}

/// What to do where another file system is mounted below the root.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mounts {
    /// Go in.
    Cross,
    /// Keep the directory, empty.
    #[default]
    Stop,
}

/// Why a rule set cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// Not a glob.
    #[error("{glob:?} is not a usable exclude glob")]
    Glob { glob: String, source: ignore::Error },
    /// More globs than [`GLOBS_MAX`].
    #[error("{count} exclude globs, at most 4096 are allowed")]
    TooMany { count: usize },
}

/// A compiled [`RuleSet`].
#[derive(Debug)]
pub struct Rules {
    globs: Gitignore,
    markers: Vec<Vec<u8>>,
    larger_bytes: u64,
    mounts: Mounts,
}

impl Rules {
    /// Compiles the set.
    ///
    /// # Errors
    /// [`RuleError`] names the glob.
    pub fn new(set: &RuleSet) -> Result<Self, RuleError> {
        if set.exclude.len() > GLOBS_MAX {
            return Err(RuleError::TooMany { count: set.exclude.len() });
        }
        let mut builder = GitignoreBuilder::new("");
        let wrong = |glob: &String, source| RuleError::Glob { glob: glob.clone(), source };
        for glob in &set.exclude {
            builder.add_line(None, glob).map_err(|source| wrong(glob, source))?;
        }
        let all = set.exclude.join(" ");
        let globs = builder.build().map_err(|source| wrong(&all, source))?;
        Ok(Self {
            globs,
            markers: set.exclude_if_present.iter().map(|name| name.as_bytes().to_vec()).collect(),
            larger_bytes: set.exclude_larger_bytes.unwrap_or(u64::MAX),
            mounts: set.mounts,
        })
    }

    /// Whether the entry at `path` (relative to the root) is left out.
    pub fn excludes(&self, path: &[u8], kind: FileKind, size: u64) -> bool {
        if kind == FileKind::File && size > self.larger_bytes {
            return true;
        }
        let is_dir = kind == FileKind::Directory;
        let path = Path::new(OsStr::from_bytes(path));
        !self.globs.is_empty() && self.globs.matched(path, is_dir).is_ignore()
    }

    /// The names whose presence empties a directory.
    pub fn markers(&self) -> &[Vec<u8>] {
        &self.markers
    }

    /// Whether a directory on another device than its parent is entered.
    pub fn crosses_mounts(&self) -> bool {
        self.mounts == Mounts::Cross
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_are_relative_to_the_root_and_the_last_word_counts() {
        let set = RuleSet {
            exclude: vec!["*.tmp".into(), "!keep.tmp".into(), "/only/top".into(), "dir/".into()],
            exclude_larger_bytes: Some(10),
            ..RuleSet::default()
        };
        let rules = Rules::new(&set).unwrap();
        let out = |path: &str, kind| rules.excludes(path.as_bytes(), kind, 0);
        assert!(out("a/b.tmp", FileKind::File));
        assert!(!out("a/keep.tmp", FileKind::File));
        assert!(out("only/top", FileKind::File));
        assert!(!out("x/only/top", FileKind::File));
        assert!(out("x/dir", FileKind::Directory));
        assert!(!out("x/dir", FileKind::File));
        assert!(rules.excludes(b"big", FileKind::File, 11));
        assert!(!rules.excludes(b"\xff\xfe", FileKind::File, 10));
    }
}
