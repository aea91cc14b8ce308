//! What every node has in common: its settings, its identity, the door at which peers are
//! recognised, the uplink to its coordinator, and serving or reading the blobs of a point.
//! Knows no policy, no workload and no job; decides nothing.

pub mod ask;
pub mod audit;
pub mod collector;
pub mod counted;
pub mod crew;
pub mod desk;
pub mod door;
pub mod drill;
pub mod enrol;
pub mod fence;
pub mod guard;
pub mod heal;
pub mod home;
pub mod inspect;
pub mod kept;
pub mod lasting;
pub mod lead;
pub mod log;
pub mod memory;
pub mod packs;
pub mod persons;
pub mod reader;
pub mod reserve;
pub mod run;
pub mod scrubber;
pub mod serve;
pub mod uplink;
