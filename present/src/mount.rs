//! A point as a read-only file system.
