//! Which entries of a tree are wanted: whole paths, gitignore-style globs, or everything.
//! What lies below something wanted is wanted.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

/// What is wanted.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    paths: Vec<Vec<u8>>,
    globs: Option<Gitignore>,
}

/// A glob nobody can match.
#[derive(Debug, thiserror::Error)]
#[error("{glob:?} is not a usable glob")]
pub struct SelectionError {
    pub glob: String,
    source: ignore::Error,
}

impl Selection {
    /// These paths and what matches these globs; with neither, everything.
    ///
    /// # Errors
    /// Names the glob.
    pub fn new(paths: Vec<Vec<u8>>, globs: &[String]) -> Result<Self, SelectionError> {
        let mut builder = GitignoreBuilder::new("");
        for glob in globs {
            let wrong = |source| SelectionError { glob: glob.clone(), source };
            builder.add_line(None, glob).map_err(wrong)?;
        }
        let wrong = |source| SelectionError { glob: globs.join(" "), source };
        let built = builder.build().map_err(wrong)?;
        Ok(Self { paths, globs: (!globs.is_empty()).then_some(built) })
    }

    /// From what an operator typed: a word with a glob's signs is a glob, any other a path from
    /// the point's root.
    ///
    /// # Errors
    /// Names the glob.
    pub fn typed(words: &[String]) -> Result<Self, SelectionError> {
        let is_glob = |word: &&String| word.contains(['*', '?', '[']);
        let globs: Vec<String> = words.iter().filter(is_glob).cloned().collect();
        let plain = words.iter().filter(|word| !is_glob(word));
        let paths = plain.map(|word| word.trim_matches('/').as_bytes().to_vec()).collect();
        Self::new(paths, &globs)
    }

    /// Whether everything is wanted.
    pub const fn is_all(&self) -> bool {
        self.paths.is_empty() && self.globs.is_none()
    }

    /// Whether this entry itself is wanted, by its own path.
    pub fn wants(&self, path: &[u8], is_dir: bool) -> bool {
        let by_glob = |globs: &Gitignore| {
            globs.matched(Path::new(OsStr::from_bytes(path)), is_dir).is_ignore()
        };
        self.is_all()
            || self.paths.iter().any(|wanted| wanted == path)
            || self.globs.as_ref().is_some_and(by_glob)
    }

    /// Whether something below the directory may be wanted.
    pub fn may_want_below(&self, path: &[u8]) -> bool {
        let leads =
            |wanted: &Vec<u8>| wanted.strip_prefix(path).is_some_and(|rest| rest.starts_with(b"/"));
        self.is_all() || self.globs.is_some() || self.paths.iter().any(leads)
    }
}
