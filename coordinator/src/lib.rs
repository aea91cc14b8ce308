//! The coordinator of a site: decides and remembers. Sole writer of its repository, sole
//! answer to "do you have this chunk". Never dials a node; nodes dial it.

pub mod catalog;
pub mod job;
pub mod members;
pub mod policy;
pub mod retention;
pub mod schedule;
pub mod unmet;

mod ability;
mod admin;
mod assign;
mod commit;
mod copies;
mod drills;
mod expire;
mod foreman;
mod herald;
mod ingest;
mod jobs;
mod lead;
mod marked;
mod proofs;
mod run;
mod scrub;
mod sessions;
mod site;
mod space;
mod strangers;
mod visitors;

pub use run::{AUDIT_FILE, CATALOG_FILE, Coordinator, CoordinatorError};
