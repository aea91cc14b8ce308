//! A cluster of PostgreSQL from a point: put back so that it recovers to where a person wants
//! it, or only proven, by a scratch server that is removed again.

mod origin;
mod place;
mod proof;
mod recovery;
mod restore;
mod server;

pub(crate) use origin::Origin;
pub(crate) use proof::{Proof, Trial, prove};
pub(crate) use recovery::{Log, Recovery, Until};
pub(crate) use restore::{Delta, Plan, Restored, restore};
