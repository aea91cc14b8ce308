//! The coordinator of a site: decides and remembers.

pub mod audit;
pub mod catalog;
pub mod job;
pub mod policy;
pub mod retention;
pub mod schedule;
