//! Where cartridges are, and what may be done with them.

use serde::{Deserialize, Serialize};

use crate::id::{MediaSetName, MediumId};
use crate::time::Timestamp;

/// What to do with cartridges, by their barcodes. The order is the wire: append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CartridgeOrder {
    /// Every cartridge that is known, and where it is.
    List,
    /// To mail slots, for a hand to take.
    Export { barcodes: Vec<String> },
    /// What lies in mail slots goes into slots.
    Import,
    /// They were taken to this place.
    Vault { barcodes: Vec<String>, place: String },
    /// They are gone for good.
    Lost { barcodes: Vec<String> },
    /// What is on a cartridge, and what its points need of its set, to another set.
    Copy { barcode: String, set: MediaSetName },
    /// What is on cartridges to younger ones of their sets; none named: those that are due.
    Refresh { barcodes: Vec<String> },
}

/// Where a cartridge is. The order is the wire: append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Whereabouts {
    Slot {
        slot: u32,
    },
    Drive {
        drive: u32,
    },
    Mail {
        slot: u32,
    },
    /// It was taken out of a mail slot, and nobody said where to.
    Out {
        since: Timestamp,
    },
    Vault {
        place: String,
        since: Timestamp,
    },
    Lost {
        since: Timestamp,
    },
    /// Other cartridges tell of it; it is not here, and nobody said where it is.
    Unknown,
}

/// One cartridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CartridgeRow {
    pub barcode: String,
    pub medium: Option<MediumId>,
    pub set: Option<MediaSetName>,
    pub sequence: u32,
    pub points: u32,
    pub used_bytes: u64,
    /// When its label was written.
    pub written: Option<Timestamp>,
    pub whereabouts: Whereabouts,
    /// What its label and catalog are worth, and whether it is due or retired.
    pub detail: String,
}
