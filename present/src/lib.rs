//! Points presented where they are wanted: as a file system one may walk, and as a block device
//! one may boot from, and what lies inside of a disk image as a tree. Reads through a source of
//! blobs, whichever copy that is; writes nothing into a repository.

pub mod export;
pub mod inside;
pub mod mount;
pub mod reader;
