//! What every file system looks like from outside: nodes with attributes, directories that list
//! names, files that have bytes.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::volume::VolumeError;

/// A node of one file system: an inode, a record of the master file table, a place of a directory
/// entry. Means nothing to another file system.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct NodeId(pub u64);

/// What a node is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Kind {
    BlockDevice { major: u32, minor: u32 },
    CharacterDevice { major: u32, minor: u32 },
    Directory,
    Fifo,
    File,
    Socket,
    Symlink,
}

/// Nanoseconds since 1970, where the file system keeps that time at all.
pub type Nanoseconds = i128;

/// What a file system says of a node. What it does not keep is `None`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Attributes {
    pub kind: Kind,
    /// Bytes of a file or of the target of a link.
    pub size: u64,
    /// The lower twelve bits of a mode.
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Names that a node has.
    pub links: Option<u64>,
    pub modified: Option<Nanoseconds>,
    /// DOS attribute bits, where a file system keeps those.
    pub dos: Option<u32>,
}

/// Extended attributes by their full names.
pub type Extended = Vec<(Vec<u8>, Vec<u8>)>;

/// A name in a directory. Names are bytes as they lie, but for UTF-16 on disk, which is given as
/// WTF-8. Never empty, `.` or `..`, and without `/` and NUL: others are a [`Problem`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Named {
    pub name: Vec<u8>,
    pub node: NodeId,
}

/// Why a file system does not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// What lies there contradicts itself or the format.
    #[error("{what} at byte {at} is damaged: {why}")]
    Damaged { what: &'static str, at: u64, why: String },
    /// More of something than a reader follows.
    #[error("{what} of more than {limit}")]
    Limit { what: &'static str, limit: u64 },
    /// The node is of another kind.
    #[error("node {} is not a {wanted}", node.0)]
    NotA { node: NodeId, wanted: &'static str },
    /// A feature that this reader does not know: said by its name, never read wrongly.
    #[error("{feature} is not read")]
    Unread { feature: String },
    /// The volume does not answer.
    #[error(transparent)]
    Volume(#[from] VolumeError),
}

/// One file system, read-only. Any number of threads may ask. Every call ends, whatever lies on
/// the volume, and takes memory in bounds that do not depend on what lies there.
pub trait FileSystem: Send + Sync {
    /// `ext4`, `fat32`, `ntfs`, `xfs` and so on.
    fn name(&self) -> &'static str;

    /// What a person should know before trusting what is read: a log that a mount would replay,
    /// a mark of damage. One sentence each.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// What the file system is called by who made it; lossy where it is no UTF-8.
    fn label(&self) -> Option<String> {
        None
    }

    /// The directory at the top.
    fn root(&self) -> NodeId;

    /// What is said of a node.
    ///
    /// # Errors
    ///
    /// A [`Problem`] if the node is damaged or is none.
    fn attributes(&self, node: NodeId) -> Result<Attributes, Problem>;

    /// Calls `each` with every name of a directory, in the order of the file system, until `each`
    /// says that it has enough by `false`. What is damaged in one place does not hide the rest
    /// where the format allows that: the problem is returned after what could be read.
    ///
    /// # Errors
    ///
    /// A [`Problem`] if the node is no directory or a part of it is damaged.
    fn list(&self, directory: NodeId, each: &mut dyn FnMut(Named) -> bool) -> Result<(), Problem>;

    /// Reads from byte `at` of a file; 0 at its end only. Holes and what was never written are
    /// zeros.
    ///
    /// # Errors
    ///
    /// A [`Problem`] if the node is no file or that place is damaged.
    fn read(&self, file: NodeId, at: u64, into: &mut [u8]) -> Result<usize, Problem>;

    /// The next stretch of a file from byte `at` on that may hold something else than zeros, within
    /// its size; none where only holes follow. Who does not know says that all may.
    ///
    /// # Errors
    ///
    /// A [`Problem`] if the node is no file or what says so is damaged.
    fn data(&self, file: NodeId, at: u64) -> Result<Option<Range<u64>>, Problem> {
        let size = self.attributes(file)?.size;
        Ok((at < size).then_some(at..size))
    }

    /// Where a symbolic link points to.
    ///
    /// # Errors
    ///
    /// A [`Problem`] if the node is no link or is damaged.
    fn target(&self, link: NodeId) -> Result<Vec<u8>, Problem>;

    /// Extended attributes by their full names; empty where there are none or the file system
    /// keeps none.
    ///
    /// # Errors
    ///
    /// A [`Problem`] if they are damaged.
    fn extended(&self, node: NodeId) -> Result<Extended, Problem>;
}
