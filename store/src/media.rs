//! Media sets: the copy of a repository on cartridges. Promises that a set can be listed and
//! read from any of its media without a key or a database, and that only finished sessions
//! count as held. Refuses to overwrite a cartridge that carries a label, and to pass on bytes
//! that do not hash to their name.

use std::collections::BTreeSet;
use std::path::PathBuf;

use strongroom_protocol::{MediaSetName, MediumId, OrgName, PackId, PointId, RepoId};

use crate::tape::{Barcode, TapeError};

mod catalog;
mod copy;
mod known;
mod label;
mod lapsed;
mod mounted;
mod order;
mod read;
mod reel;
mod scan;
mod set;
mod source;
mod spool;
mod stage;
mod supply;
mod survey;
mod wanting;

pub use catalog::{Held, HeldPack, HeldPoint, Place};
pub use copy::{Copied, Source, Spare, copy_media};
pub use known::{MediumInfo, SetInfo};
pub use label::{FileKind, LabelV1};
pub use lapsed::Lapsed;
pub use mounted::PackSource;
pub use order::SetOrder;
pub use read::{FetchReport, FlawedPack, MediaReader};
pub use scan::{FileReport, Verdict};
pub use set::{MediaSetWriter, Put, SessionReport, Surveyed};
pub use source::RepoPack;
pub use spool::{Spool, SpooledPack};
pub use stage::{StagedBase, stage};
pub use survey::Health;
pub use wanting::{Wanting, wanting, what_is_on};

/// Blocks as they are written: large enough to stream LTO, small enough for any adapter.
pub const BLOCK_BYTES: usize = 256 * 1024;

/// Whose copy a media set is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MediaIdentity {
    pub org: OrgName,
    pub repo: RepoId,
}

/// What one cartridge holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WhatIsOn {
    pub info: MediumInfo,
    /// Whose manifests it holds.
    pub points: BTreeSet<PointId>,
}

/// Why media could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MediaError {
    #[error("cartridge {barcode}: no room for a catalog of {bytes} bytes")]
    CatalogDoesNotFit { barcode: Barcode, bytes: u64 },
    #[error("the {what} is damaged or belongs to another repository")]
    ForeignFile { what: &'static str },
    #[error("{path}: input or output failed")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("cartridge {barcode}: file {file} is longer than the {limit} bytes it may have")]
    FileTooLong { barcode: Barcode, file: u32, limit: u64 },
    #[error("cartridge {barcode}: file {file} cannot be read whole or fails its check")]
    FlawedFile { barcode: Barcode, file: u32 },
    #[error("none of the loaded cartridges holds {what} whole; wanted: {}", join(.wanted))]
    NotHere { what: String, wanted: Vec<Barcode> },
    #[error(
        "set {set} needs a blank cartridge for at least {wanted_bytes} bytes; \
         {protected} blank but write-protected"
    )]
    NoBlankCartridge { set: MediaSetName, wanted_bytes: u64, protected: usize },
    #[error("no session is open on set {set}")]
    NoSession { set: MediaSetName },
    #[error("what was written to cartridge {barcode} lacks {lacking} of what was copied")]
    NotCopied { barcode: Barcode, lacking: usize },
    #[error("pack {pack}: its bytes are not those of a pack of this name")]
    PackMismatch { pack: PackId },
    #[error("point {point}: its manifest is damaged or not its own")]
    PointMismatch { point: PointId },
    #[error("cartridge {barcode}: the position cannot be trusted any more")]
    PositionDoubtful { barcode: Barcode },
    #[error("reading what is to be written failed after {bytes} bytes")]
    Source { bytes: u64, source: std::io::Error },
    #[error("a session is already open on set {set}")]
    SessionOpen { set: MediaSetName },
    #[error("pack {pack}: its receiver failed")]
    Sink { pack: PackId, source: std::io::Error },
    #[error(transparent)]
    Tape(#[from] TapeError),
    #[error("a file of {bytes} bytes does not fit on the blank cartridge {barcode}")]
    TooLargeForMedium { barcode: Barcode, bytes: u64 },
    #[error("medium {medium} is not in the library; wanted: {barcode}")]
    MediumAbsent { medium: MediumId, barcode: Barcode },
    #[error("no medium here is known as {medium}")]
    UnknownMedium { medium: MediumId },
}

fn join(wanted: &[Barcode]) -> String {
    let names: Vec<&str> = wanted.iter().map(Barcode::as_str).collect();
    if names.is_empty() { "none known".to_owned() } else { names.join(", ") }
}
