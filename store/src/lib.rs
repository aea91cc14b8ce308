//! The store: chunks, packs, the index, points and media at rest. It promises that what was
//! acknowledged can be read back and that wrong bytes are never returned as right; it refuses
//! to know about networks, policies or jobs. Everything here is synchronous.

pub mod budget;
pub mod content;
pub mod cut;
pub mod diff;
pub mod disk;
pub mod index;
pub mod keys;
pub mod list;
pub mod manifest;
pub mod media;
pub mod pack;
pub mod page;
pub mod parcel;
pub mod repo;
pub mod seal;
pub mod source;
mod sync;
pub mod tape;
pub mod tree;
pub mod writer;
