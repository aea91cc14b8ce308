//! One logical unit and the commands every kind of device knows. Promises that a command is
//! sent again only where nothing can have happened (busy) or where a unit attention tells of
//! the past and the command may be repeated. Refuses answers that are shorter than they say.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crate::tape::scsi::sense::key;
use crate::tape::scsi::{CHECK_CONDITION, Data, GOOD, Sense, Transport};

/// For what moves nothing and little.
pub(super) const SHORT: Duration = Duration::from_secs(60);
/// For reading and writing a block: a drive may try a hard spot for minutes.
pub(super) const TRANSFER: Duration = Duration::from_secs(15 * 60);
/// For positioning, loading and the arm: an LTO tape is wound in two to three minutes, a drive
/// that is hurt takes many times that.
pub(super) const LONG: Duration = Duration::from_secs(45 * 60);
/// How long a drive may take to become ready: an LTO-9 cartridge is measured for up to two
/// hours when it is first loaded.
const READY: Duration = Duration::from_secs(130 * 60);
/// Between two looks at a drive that is becoming ready.
const LOOK: Duration = Duration::from_millis(200);
/// Unit attentions that may be queued: reset, medium changed, mode changed, and one to spare.
const ATTENTIONS_MAX: usize = 4;
/// How often a busy device is asked again.
const BUSY_MAX: usize = 50;
const SENSE_BYTES: u8 = 252;

/// Why a device did not do what it was told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScsiError {
    /// It said why.
    #[error("{unit}: {command}: {sense}")]
    Check { unit: String, command: &'static str, sense: Sense },
    /// Another host holds a reservation on it.
    #[error("{unit}: {command}: another host has reserved the device")]
    Reserved { unit: String, command: &'static str },
    /// A status that is no refusal and no success.
    #[error("{unit}: {command}: status {status:#04x}")]
    Status { unit: String, command: &'static str, status: u8 },
    /// The command or its answer was lost on the way.
    #[error("{unit}: {command}: the device cannot be reached")]
    Unreachable { unit: String, command: &'static str, source: io::Error },
    /// It is not what it was configured as, or answers what no such device may.
    #[error("{unit}: {reason}")]
    Unusable { unit: String, reason: String },
}

impl ScsiError {
    /// The sense, where the device gave one.
    pub(super) const fn sense(&self) -> Option<&Sense> {
        match self {
            Self::Check { sense, .. } => Some(sense),
            _ => None,
        }
    }
}

/// A command by its name and bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Command<'a> {
    pub(super) name: &'static str,
    pub(super) cdb: &'a [u8],
    pub(super) patience: Duration,
}

/// How a command ended: `sense` where there is something to know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    pub(super) transferred: usize,
    pub(super) sense: Option<Sense>,
}

/// What INQUIRY says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Identity {
    /// 1 a tape drive, 8 a changer.
    pub(super) kind: u8,
    pub(super) vendor: String,
    pub(super) product: String,
    /// The unit's serial number and device identifiers, as far as it has such pages.
    pub(super) names: Vec<Vec<u8>>,
}

pub(super) struct Unit {
    transport: Box<dyn Transport>,
}

impl Unit {
    pub(super) fn new(transport: Box<dyn Transport>) -> Self {
        Self { transport }
    }

    pub(super) fn name(&self) -> String {
        self.transport.name().to_owned()
    }

    pub(super) fn unusable(&self, reason: impl Into<String>) -> ScsiError {
        ScsiError::Unusable { unit: self.name(), reason: reason.into() }
    }

    /// Sends a command as it is, again only while the device is busy.
    pub(super) fn issue(
        &mut self,
        command: Command<'_>,
        mut data: Data<'_>,
    ) -> Result<Done, ScsiError> {
        for _ in 0..BUSY_MAX {
            let Command { name, cdb, patience } = command;
            let answer = self.transport.execute(cdb, data.again(), patience);
            let lost = |source| ScsiError::Unreachable { unit: self.name(), command: name, source };
            let answer = answer.map_err(lost)?;
            let transferred = answer.transferred;
            match answer.status {
                GOOD => return Ok(Done { transferred, sense: None }),
                CHECK_CONDITION => {
                    let sense = match answer.sense.is_empty() {
                        true => self.request_sense()?,
                        false => Sense::parse(&answer.sense),
                    };
                    return Ok(Done { transferred, sense: Some(sense) });
                }
                0x18 => {
                    return Err(ScsiError::Reserved { unit: self.name(), command: name });
                }
                0x08 | 0x28 => thread::sleep(LOOK),
                status => {
                    let unit = self.name();
                    return Err(ScsiError::Status { unit, command: name, status });
                }
            }
        }
        Err(self.unusable("it stays busy"))
    }

    /// Sends a command that may be repeated: unit attentions, which tell of the past, are
    /// passed over. Any other sense with something to know is an error.
    pub(super) fn ask(
        &mut self,
        command: Command<'_>,
        mut data: Data<'_>,
    ) -> Result<usize, ScsiError> {
        let mut attentions = 0;
        loop {
            let Done { transferred, sense } = self.issue(command, data.again())?;
            match sense {
                None => return Ok(transferred),
                Some(sense) if sense.is_harmless() => return Ok(transferred),
                Some(sense) if sense.key == key::UNIT_ATTENTION && attentions < ATTENTIONS_MAX => {
                    attentions += 1;
                    tracing::debug!(unit = self.transport.name(), %sense, "passed over");
                }
                Some(sense) => {
                    let (unit, command) = (self.name(), command.name);
                    return Err(ScsiError::Check { unit, command, sense });
                }
            }
        }
    }

    /// For a transport that does not bring sense with the status.
    fn request_sense(&mut self) -> Result<Sense, ScsiError> {
        let mut buffer = [0; SENSE_BYTES as usize];
        let cdb = [0x03, 0, 0, 0, SENSE_BYTES, 0];
        let answer = self.transport.execute(&cdb, Data::In(&mut buffer), SHORT);
        let unit = self.name();
        let command = "REQUEST SENSE";
        let answer = answer.map_err(|source| ScsiError::Unreachable { unit, command, source })?;
        Ok(Sense::parse(buffer.get(..answer.transferred).unwrap_or(&buffer)))
    }

    /// Waits until the unit is ready; false when there is no medium in it.
    pub(super) fn ready(&mut self) -> Result<bool, ScsiError> {
        let until = Instant::now() + READY;
        let mut loads = 0;
        let mut attentions = 0;
        let command = Command { name: "TEST UNIT READY", cdb: &[0; 6], patience: SHORT };
        loop {
            let sense = self.issue(command, Data::Nothing)?.sense;
            match sense {
                None => return Ok(true),
                Some(sense) if sense.is_harmless() => return Ok(true),
                Some(Sense { key: key::UNIT_ATTENTION, .. }) if attentions < ATTENTIONS_MAX => {
                    attentions += 1;
                }
                Some(Sense { key: key::NOT_READY, code: 0x3a, .. }) => return Ok(false),
                Some(Sense { key: key::NOT_READY, code: 0x04, qualifier: 0x02, .. })
                    if loads == 0 =>
                {
                    loads += 1;
                    self.load()?;
                }
                Some(sense @ Sense { key: key::NOT_READY, code: 0x04, .. })
                    if Instant::now() < until && !sense.is(0x04, 0x03) =>
                {
                    thread::sleep(LOOK);
                }
                Some(sense) => {
                    let unit = self.name();
                    return Err(ScsiError::Check { unit, command: command.name, sense });
                }
            }
        }
    }

    fn load(&mut self) -> Result<(), ScsiError> {
        let cdb = [0x1b, 0, 0, 0, 1, 0];
        let command = Command { name: "LOAD", cdb: &cdb, patience: LONG };
        self.ask(command, Data::Nothing).map(drop)
    }

    /// Who it is: the standard answer, then the pages with serial number and identifiers.
    pub(super) fn identity(&mut self) -> Result<Identity, ScsiError> {
        let mut buffer = [0; 96];
        let cdb = [0x12, 0, 0, 0, 96, 0];
        let command = Command { name: "INQUIRY", cdb: &cdb, patience: SHORT };
        let length = self.ask(command, Data::In(&mut buffer))?;
        if length < 36 {
            return Err(self.unusable(format!("INQUIRY gave {length} bytes instead of 36")));
        }
        let mut names = Vec::new();
        for page in [0x80, 0x83] {
            match self.page(page) {
                Ok(bytes) if page == 0x80 => names.extend(trimmed(&bytes)),
                Ok(bytes) => names.extend(designators(&bytes)),
                Err(error) if error.sense().is_some() => {}
                Err(error) => return Err(error),
            }
        }
        let text =
            |from: usize, to: usize| String::from_utf8_lossy(&buffer[from..to]).trim().to_owned();
        let kind = buffer[0] & 0x1f;
        Ok(Identity { kind, vendor: text(8, 16), product: text(16, 32), names })
    }

    /// A page of vital product data, without its head.
    fn page(&mut self, page: u8) -> Result<Vec<u8>, ScsiError> {
        let mut buffer = [0; 252];
        let cdb = [0x12, 1, page, 0, 252, 0];
        let command = Command { name: "INQUIRY (page)", cdb: &cdb, patience: SHORT };
        let length = self.ask(command, Data::In(&mut buffer))?;
        let told = 4 + usize::from(u16::from_be_bytes([buffer[2], buffer[3]]));
        let end = told.min(length).min(buffer.len());
        Ok(buffer.get(4..end).unwrap_or_default().to_vec())
    }

    /// The logical units behind the same target.
    pub(super) fn report_luns(&mut self) -> Result<Vec<u16>, ScsiError> {
        let mut buffer = vec![0; 4096];
        let cdb = [0xa0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0];
        let command = Command { name: "REPORT LUNS", cdb: &cdb, patience: SHORT };
        let length = self.ask(command, Data::In(&mut buffer))?;
        let listed = buffer.get(8..length).unwrap_or_default();
        let told = u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]) as usize;
        let luns = listed[..told.min(listed.len())].chunks_exact(8);
        Ok(luns.map(|lun| u16::from_be_bytes([lun[0] & 0x3f, lun[1]])).collect())
    }
}

fn trimmed(bytes: &[u8]) -> Option<Vec<u8>> {
    let bytes: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != 0).collect();
    let bytes = bytes.trim_ascii();
    (!bytes.is_empty()).then(|| bytes.to_vec())
}

/// The identifiers of the page 0x83 that are of the logical unit.
fn designators(mut page: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while let [_, kind, _, length, ..] = *page {
        let end = (4 + usize::from(length)).min(page.len());
        if kind & 0x30 == 0 {
            found.extend(trimmed(&page[4..end]));
        }
        page = &page[end..];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_of_ports_are_not_those_of_the_unit() {
        let page = [2, 0x01, 0, 3, b'a', b'b', b' ', 1, 0x13, 0, 2, 9, 9, 1, 0x03, 0, 9, 7];
        assert_eq!(designators(&page), [b"ab".to_vec(), vec![7]]);
    }
}
