//! Whoever knows the files of an application better than the file system does: looks at their
//! bytes as they pass, and vouches that what changes while it is read is mended by the
//! application itself. What it finds becomes a gap of that file.

use std::fmt::Debug;
use std::os::fd::BorrowedFd;

/// An application's word for its files. With one, a file that changed while it was read, or
/// vanished, is no gap and is not read twice: the application's log makes it whole.
pub trait Witness: Send + Sync + Debug {
    /// What looks at a file of this name; none where nothing can be told.
    fn file(&self, name: &[u8]) -> Option<Box<dyn Watching>> {
        let _ = name;
        None
    }
}

/// Looks at one file.
pub trait Watching {
    /// The bytes at `at`, in order but for holes; `file` gives them again.
    fn see(&mut self, at: u64, bytes: &[u8], file: BorrowedFd<'_>);

    /// What is wrong with the file, in words.
    fn found(self: Box<Self>) -> Option<String>;
}

/// Vouches for the changes, and looks at nothing.
#[derive(Debug)]
pub struct Vouched;

impl Witness for Vouched {}
