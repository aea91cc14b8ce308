//! A cluster of PostgreSQL from a point: put back so that it recovers to where a person wants
//! it, or only proven, or dumped in part, by a scratch server that is removed again; and its log,
//! file by file.

mod dump;
mod fetch;
mod origin;
mod place;
mod proof;
mod recovery;
mod restore;
mod scratch;
mod server;

pub(crate) use dump::{Dumped, Wish, dump};
pub(crate) use fetch::{Found, fetch};
pub(crate) use origin::Origin;
pub(crate) use proof::{Proof, Trial, prove};
pub(crate) use recovery::{Log, Recovery, Until};
pub(crate) use restore::{Delta, Plan, Restored, restore};
