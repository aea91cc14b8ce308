//! The other site: holds the secondary repository and the media, receives, checks, writes
//! media, and restores without the first site. Obeys its coordinator's orders to copy, to prove
//! and, above its own floor, to let go; never expires anything on its own say, and listens only
//! to operators of its own site. Two of them may order that its site leads: then this ends, and
//! its home is opened as a coordinator.

mod admin;
mod aux;
mod cartridges;
mod drills;
mod expire;
mod heal;
mod lead;
mod look;
mod orders;
mod proofs;
mod prove;
mod release;
mod replicate;
mod run;
mod visitors;

pub use cartridges::{CARTRIDGES_FILE, JournalError as CartridgesError, places};
pub use expire::{JOURNAL_FILE, JournalError};
pub use run::{After, Proxy, ProxyError};
