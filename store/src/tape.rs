//! The seam between media and whatever moves cartridges: libraries, drives, blocks,
//! filemarks. Promises that a driver never reports bytes it cannot vouch for. Refuses to
//! know what the blocks mean; that is `media`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

mod frame;
mod opened;
pub mod scsi;
mod virtual_drive;
pub mod virtual_library;

pub use opened::{SECRET_FILE, open_library};
pub use virtual_drive::VirtualDrive;
pub use virtual_library::{Shape, VirtualLibrary};

/// Longest barcode: a code 39 label of a cartridge has 8, import labels up to 32.
pub const BARCODE_BYTES_MAX: usize = 32;

/// The name on the outside of a cartridge. Good for asking for a cartridge, never for
/// knowing what is on it: that is the label's word.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Barcode(String);

impl Barcode {
    /// The barcode as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Barcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Barcode {
    type Err = TapeError;
    fn from_str(text: &str) -> Result<Self, TapeError> {
        let plain = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit();
        let usable = (1..=BARCODE_BYTES_MAX).contains(&text.len())
            && text.bytes().next().is_some_and(plain)
            && text.bytes().all(|b| plain(b) || matches!(b, b'-' | b'_'));
        if usable {
            Ok(Self(text.to_owned()))
        } else {
            Err(TapeError::Barcode { text: text.to_owned() })
        }
    }
}

impl TryFrom<String> for Barcode {
    type Error = TapeError;
    fn try_from(text: String) -> Result<Self, TapeError> {
        text.parse()
    }
}

impl From<Barcode> for String {
    fn from(barcode: Barcode) -> Self {
        barcode.0
    }
}

/// What a library or drive could not do. `file` counts filemarks from the beginning of the
/// medium, `block` counts blocks from the beginning of that file; both from 0.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TapeError {
    #[error(transparent)]
    Address(#[from] scsi::AddressError),
    #[error("{text:?} is not a barcode: 1 to 32 of A-Z, 0-9, '-', '_', starting plain")]
    Barcode { text: String },
    #[error("cartridge {barcode}: a block of {bytes} bytes is outside 1 to {limit}")]
    BlockSize { barcode: Barcode, bytes: usize, limit: usize },
    /// Somebody opened the library or took the cartridge while it was in use.
    #[error("cartridge {barcode}: the drive may hold another one now; load it again")]
    CartridgeChanged { barcode: Barcode },
    #[error("cartridge {barcode} is for cleaning drives and holds no data")]
    CleaningCartridge { barcode: Barcode },
    #[error("cartridge {barcode}: file {file} block {block} cannot be read")]
    Damaged { barcode: Barcode, file: u32, block: u32 },
    #[error("cartridge {barcode}: no drive is free, or another user has it")]
    DriveBusy { barcode: Barcode },
    #[error("cartridge {barcode}: end of medium at file {file} block {block}")]
    EndOfMedium { barcode: Barcode, file: u32, block: u32 },
    #[error("{path}: input or output failed")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path}: not a usable library description: {reason}")]
    LibraryFormat { path: PathBuf, reason: String },
    #[error("{path}: the library is in use by another process")]
    LibraryInUse { path: PathBuf },
    #[error("cartridge {barcode}: every mail slot is full; take out what lies there first")]
    MailSlotsFull { barcode: Barcode },
    #[error(
        "cartridge {barcode}: the library has no mail slot; open its door and take the cartridge \
         out of slot {slot}"
    )]
    NoMailSlot { barcode: Barcode, slot: u32 },
    #[error("no cartridge {barcode} in the library")]
    NoSuchCartridge { barcode: Barcode },
    #[error("cartridge {barcode}: there is no file {file}")]
    PastEndOfData { barcode: Barcode, file: u32 },
    /// After a bus reset or power loss of a drive: nothing may be written before a locate.
    #[error("cartridge {barcode}: the drive lost its position")]
    PositionLost { barcode: Barcode },
    #[error(transparent)]
    Scsi(#[from] scsi::ScsiError),
    #[error("cartridge {barcode}: no free slot, or the barcode is taken")]
    SlotTaken { barcode: Barcode },
    #[error("cartridge {barcode}: write-protected")]
    WriteProtected { barcode: Barcode },
}

/// A place in the library for one cartridge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Slot {
    pub slot: u32,
    /// None: the slot is empty, or its cartridge has no readable barcode.
    pub barcode: Option<Barcode>,
    /// The drive that holds the slot's cartridge now.
    pub loaded_in: Option<u32>,
}

/// A mail slot with a cartridge in it: through these, cartridges come and go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MailSlot {
    pub slot: u32,
    pub barcode: Barcode,
}

/// Whether there is room for much more after a write that succeeded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Room {
    Plenty,
    /// The block was written, but only what closes the medium should follow.
    EarlyWarning,
}

/// What a read met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Readout {
    /// So many bytes were put at the head of the buffer.
    Block(usize),
    /// The file ended; the position is at the first block of the next.
    Filemark,
    /// Nothing was ever written here, or a write was torn here.
    EndOfData,
}

/// Whether a cartridge lets itself be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protection {
    Writable,
    WriteProtected,
}

/// Where a drive stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Position {
    pub file: u32,
    pub block: u32,
}

/// Something that holds cartridges and has drives. Shared: several drives may work at once.
pub trait TapeLibrary: Send + Sync {
    /// Every slot, in slot order.
    fn inventory(&self) -> Result<Vec<Slot>, TapeError>;

    /// Puts the cartridge into a free drive (or takes it over where it already is),
    /// rewound. `DriveBusy` when no drive is free or the cartridge is in use.
    fn load(&self, barcode: &Barcode) -> Result<Box<dyn Drive>, TapeError>;

    /// Flushes and puts the cartridge back. A drive dropped instead is freed unflushed.
    fn unload(&self, drive: Box<dyn Drive>) -> Result<(), TapeError>;

    /// How many cartridges may be in drives at once.
    fn drives(&self) -> usize {
        1
    }

    /// What lies in the mail slots.
    fn mail(&self) -> Result<Vec<MailSlot>, TapeError> {
        Ok(Vec::new())
    }

    /// Moves a cartridge that nobody uses to a mail slot, for a hand to take; which one.
    fn export(&self, barcode: &Barcode) -> Result<u32, TapeError> {
        let slots = self.inventory()?;
        let place = slots.iter().find(|slot| slot.barcode.as_ref() == Some(barcode));
        let barcode = barcode.clone();
        Err(match place {
            Some(Slot { loaded_in: Some(_), .. }) => TapeError::DriveBusy { barcode },
            Some(Slot { slot, .. }) => TapeError::NoMailSlot { barcode, slot: *slot },
            None => TapeError::NoSuchCartridge { barcode },
        })
    }

    /// Moves what lies in the mail slots into empty slots; what came in.
    fn import(&self) -> Result<Vec<Barcode>, TapeError> {
        Ok(Vec::new())
    }
}

/// One drive with one cartridge in it. A write anywhere ends the data there: what followed is
/// gone. Nothing written is durable before `flush`, or an `unload` that succeeded.
pub trait Drive: Send {
    /// The cartridge in the drive.
    fn barcode(&self) -> &Barcode;

    /// The longest block the drive takes.
    fn block_bytes_max(&self) -> usize;

    /// Whether the cartridge may be written.
    fn protection(&self) -> Protection;

    /// Where the drive says it stands; None when it cannot tell. Callers count themselves
    /// and use this as a check.
    fn position(&self) -> Option<Position>;

    /// Writes one block as one unit. After `EndOfMedium` the block is not on the medium.
    fn write_block(&mut self, block: &[u8]) -> Result<Room, TapeError>;

    /// Ends a file. Immediate: does not wait for the medium.
    fn write_filemark(&mut self) -> Result<Room, TapeError>;

    /// Returns once everything written is on the medium.
    fn flush(&mut self) -> Result<(), TapeError>;

    /// Reads one block; `buffer` must hold the longest there may be. After `Damaged` the
    /// position is behind what could not be read and is to be found again by a locate.
    fn read_block(&mut self, buffer: &mut [u8]) -> Result<Readout, TapeError>;

    /// To the beginning of the medium.
    fn rewind(&mut self) -> Result<(), TapeError>;

    /// Passes up to `count` filemarks; returns how many, fewer only at the end of data.
    fn space_filemarks(&mut self, count: u32) -> Result<u32, TapeError>;

    /// Behind the last block or filemark.
    fn space_to_end_of_data(&mut self) -> Result<(), TapeError>;

    /// To the first block of a file. `PastEndOfData` when fewer filemarks were written.
    fn locate_file(&mut self, file: u32) -> Result<(), TapeError> {
        self.rewind()?;
        if self.space_filemarks(file)? < file {
            return Err(TapeError::PastEndOfData { barcode: self.barcode().clone(), file });
        }
        Ok(())
    }
}
