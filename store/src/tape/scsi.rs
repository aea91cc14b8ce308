//! A tape library over SCSI: one command layer for changers and drives, and two ways to the
//! devices, `/dev/sg*` of Linux and iSCSI in this process. Promises that every refusal of a
//! device is told with its sense, as numbers and words. Refuses to guess a position: a drive
//! that was reset, or whose cartridge was changed, writes nothing before it is found again.

use std::io;
use std::time::Duration;

mod address;
mod bays;
mod changer;
mod drive;
mod iscsi;
mod library;
mod medium;
mod sense;
mod sg;
mod unit;

pub use address::{AddressError, IscsiAddress, LibraryAddress, UnitAddress};
pub use changer::{Element, ElementKind};
pub use drive::ScsiDrive;
pub use library::{Connect, ScsiLibrary, connect};
pub use sense::Sense;
pub use unit::ScsiError;

/// Status of a command that went well.
pub const GOOD: u8 = 0x00;
/// Status of a command that has sense to tell.
pub const CHECK_CONDITION: u8 = 0x02;

/// What a command moves besides itself.
#[derive(Debug)]
pub enum Data<'a> {
    Nothing,
    /// From the device.
    In(&'a mut [u8]),
    /// To the device.
    Out(&'a [u8]),
}

impl Data<'_> {
    /// The same once more, for a command that is sent again.
    pub(crate) const fn again(&mut self) -> Data<'_> {
        match self {
            Self::Nothing => Data::Nothing,
            Self::In(buffer) => Data::In(buffer),
            Self::Out(bytes) => Data::Out(bytes),
        }
    }
}

/// What a device answered.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Answer {
    pub status: u8,
    /// As it came; empty when none came.
    pub sense: Vec<u8>,
    /// Bytes that were moved.
    pub transferred: usize,
}

/// The way to one logical unit.
pub trait Transport: Send {
    /// Sends one command and waits for its end, at most `patience`. An error means that nobody
    /// knows whether the command was carried out.
    fn execute(&mut self, cdb: &[u8], data: Data<'_>, patience: Duration) -> io::Result<Answer>;

    /// The unit as an operator names it.
    fn name(&self) -> &str;
}
