//! The coordinator of a site: decides and remembers.

pub mod policy;
pub mod retention;
pub mod schedule;
