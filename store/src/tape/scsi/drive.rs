//! A tape drive over SCSI with a cartridge in it. Promises to know where it stands, by its own
//! count where the drive cannot tell, and that after any doubt (a reset, a lost answer, a late
//! error) nothing is written before the place is found again. Refuses a cartridge that was
//! changed behind its back for good.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::tape::scsi::medium::{Memory, alerts, file_told, memory, reserve, stance};
use crate::tape::scsi::sense::key;
use crate::tape::scsi::unit::{Command, Done, LONG, ScsiError, TRANSFER, Unit};
use crate::tape::scsi::{Data, Sense};
use crate::tape::virtual_drive::Seat;
use crate::tape::{Barcode, Drive, Position, Protection, Readout, Room, TapeError};

/// Most filemarks one SPACE passes: its count has 24 bits and a sign.
const SPACE_MAX: u32 = 0x7f_ffff;

/// What a drive turned out not to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ability {
    Able,
    /// It refused once, and is not asked again.
    Unable,
}

/// A drive and the cartridge in it.
pub struct ScsiDrive {
    barcode: Barcode,
    /// Asked for the position through a shared reference; nobody waits for it.
    unit: Mutex<Unit>,
    block_bytes_max: usize,
    protection: Protection,
    /// Whether it knows its position.
    tells: Ability,
    locates: Ability,
    immediate: Ability,
    /// By our own count.
    at: Option<Position>,
    /// Written since the last flush.
    unflushed: bool,
    changed: bool,
    _seat: Seat,
}

impl ScsiDrive {
    /// Takes over a drive that holds `barcode`, and rewinds it.
    pub(super) fn open(mut unit: Unit, barcode: Barcode, seat: Seat) -> Result<Self, TapeError> {
        if !unit.ready()? {
            return Err(unit.unusable(format!("no cartridge is in, {barcode} should be")).into());
        }
        reserve(&mut unit)?;
        let told = stance(&mut unit)?;
        let Memory { remaining_mib, capacity_mib, serial } = memory(&mut unit);
        let name = unit.name();
        tracing::debug!(%barcode, unit = name, remaining_mib, capacity_mib, serial, "loaded");
        let mut drive = Self {
            barcode,
            unit: Mutex::new(unit),
            block_bytes_max: told.block_bytes_max,
            protection: told.protection,
            tells: Ability::Able,
            locates: Ability::Able,
            immediate: Ability::Able,
            at: None,
            unflushed: false,
            changed: false,
            _seat: seat,
        };
        drive.warn_of_alerts();
        drive.rewind()?;
        drive.tells = match drive.told()? {
            Some(Position { file: 0, .. }) => Ability::Able,
            _ => Ability::Unable,
        };
        Ok(drive)
    }

    /// Takes the cartridge out of the threads, so that the arm may have it.
    pub(super) fn eject(unit: &mut Unit) -> Result<(), ScsiError> {
        let cdb = [0x1b, 0, 0, 0, 0, 0];
        let command = Command { name: "UNLOAD", cdb: &cdb, patience: LONG };
        unit.ask(command, Data::Nothing).map(drop)
    }

    fn unit(&mut self) -> &mut Unit {
        self.unit.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    fn shared(&self) -> MutexGuard<'_, Unit> {
        self.unit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn warn_of_alerts(&mut self) {
        for alert in alerts(self.unit()) {
            tracing::warn!(barcode = %self.barcode, alert, "the drive raises an alert");
        }
    }

    /// Where the next block is, or the refusal to write without knowing.
    fn here(&self) -> Result<Position, TapeError> {
        let barcode = self.barcode.clone();
        match (self.changed, self.at) {
            (true, _) => Err(TapeError::CartridgeChanged { barcode }),
            (false, None) => Err(TapeError::PositionLost { barcode }),
            (false, Some(at)) => Ok(at),
        }
    }

    /// Sends a command; where the answer is lost, so is the position.
    fn issue(&mut self, name: &'static str, cdb: &[u8], data: Data<'_>) -> Result<Done, TapeError> {
        let positioning = matches!(name, "LOCATE" | "REWIND" | "SPACE" | "WRITE FILEMARKS");
        let patience = if positioning { LONG } else { TRANSFER };
        let done = self.unit().issue(Command { name, cdb, patience }, data);
        let done = done.inspect_err(|_| self.at = None)?;
        if let Some(Sense { key: key::UNIT_ATTENTION, code, .. }) = done.sense {
            // The drive was reset, or an operator had his hands in the library.
            self.at = None;
            self.changed |= code == 0x28;
            return Err(match self.changed {
                true => TapeError::CartridgeChanged { barcode: self.barcode.clone() },
                false => TapeError::PositionLost { barcode: self.barcode.clone() },
            });
        }
        Ok(done)
    }

    /// What a sense that stops us means, at a place.
    fn trouble(&mut self, command: &'static str, sense: Sense, at: Position) -> TapeError {
        self.at = None;
        self.warn_of_alerts();
        let (barcode, Position { file, block }) = (self.barcode.clone(), at);
        match sense.key {
            key::DATA_PROTECT => TapeError::WriteProtected { barcode },
            key::VOLUME_OVERFLOW => TapeError::EndOfMedium { barcode, file, block },
            key::MEDIUM_ERROR if matches!(command, "READ" | "SPACE") && !sense.deferred => {
                TapeError::Damaged { barcode, file, block }
            }
            _ => ScsiError::Check { unit: self.shared().name(), command, sense }.into(),
        }
    }

    /// Judges a write; `left_max` is what may be unwritten when the drive warns.
    fn written(&mut self, name: &'static str, done: Done, at: Position) -> Result<Room, TapeError> {
        let Some(sense) = done.sense.filter(|sense| !sense.is_harmless()) else {
            return Ok(Room::Plenty);
        };
        let quiet = matches!(sense.key, key::NO_SENSE | key::RECOVERED) && !sense.deferred;
        let unwritten = sense.information.is_some_and(|left| left != 0);
        match (quiet && sense.end_of_medium, unwritten) {
            // Quirk: tgt warns without the code 00/02; the flag is what counts.
            (true, false) => Ok(Room::EarlyWarning),
            (true, true) => {
                self.at = None;
                let (barcode, Position { file, block }) = (self.barcode.clone(), at);
                Err(TapeError::EndOfMedium { barcode, file, block })
            }
            (false, _) => Err(self.trouble(name, sense, at)),
        }
    }

    /// The drive's own word, with the block by our count; None where it does not know.
    fn told(&self) -> Result<Option<Position>, ScsiError> {
        let block = self.at.map_or(0, |at| at.block);
        Ok(file_told(&mut self.shared())?.map(|file| Position { file, block }))
    }

    /// By file number, where the drive can. False: it has to be spaced.
    fn locate(&mut self, file: u32) -> Result<bool, TapeError> {
        if self.tells == Ability::Unable || self.locates == Ability::Unable {
            return Ok(false);
        }
        let mut cdb = [0; 16];
        (cdb[0], cdb[1]) = (0x92, 0x08);
        cdb[4..12].copy_from_slice(&u64::from(file).to_be_bytes());
        self.at = None;
        let done = self.issue("LOCATE", &cdb, Data::Nothing)?;
        match done.sense.filter(|sense| !sense.is_harmless()) {
            None => self.at = Some(Position { file, block: 0 }),
            Some(sense) => {
                if sense.is_unsupported() {
                    self.locates = Ability::Unable;
                }
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Passes filemarks one by one from the beginning: for a drive that does not say how many
    /// it passed before the data ended. How many there are; the position is behind the last.
    fn count_filemarks(&mut self) -> Result<u32, TapeError> {
        self.rewind()?;
        let mut at = Position { file: 0, block: 0 };
        loop {
            let done = self.issue("SPACE", &[0x11, 0x01, 0, 0, 1, 0], Data::Nothing)?;
            match done.sense.filter(|sense| !sense.is_harmless()) {
                None => at = Position { file: at.file + 1, block: 0 },
                Some(sense) if sense.is_end_of_data() => {
                    self.at = Some(at);
                    return Ok(at.file);
                }
                Some(sense) => return Err(self.trouble("SPACE", sense, at)),
            }
        }
    }
}

impl Drive for ScsiDrive {
    fn barcode(&self) -> &Barcode {
        &self.barcode
    }

    fn block_bytes_max(&self) -> usize {
        self.block_bytes_max
    }

    fn protection(&self) -> Protection {
        self.protection
    }

    fn position(&self) -> Option<Position> {
        match self.tells {
            // What cannot be asked for is no position: the caller's count stands alone.
            Ability::Able => self.told().unwrap_or_default(),
            Ability::Unable => None,
        }
    }

    fn write_block(&mut self, block: &[u8]) -> Result<Room, TapeError> {
        let at = self.here()?;
        let (bytes, limit) = (block.len(), self.block_bytes_max);
        if !(1..=limit).contains(&bytes) {
            return Err(TapeError::BlockSize { barcode: self.barcode.clone(), bytes, limit });
        }
        let [_, a, b, c] = (bytes as u32).to_be_bytes();
        self.unflushed = true;
        let done = self.issue("WRITE", &[0x0a, 0, a, b, c, 0], Data::Out(block))?;
        let room = self.written("WRITE", done, at)?;
        self.at = Some(Position { block: at.block.saturating_add(1), ..at });
        Ok(room)
    }

    fn write_filemark(&mut self) -> Result<Room, TapeError> {
        const NAME: &str = "WRITE FILEMARKS";
        let at = self.here()?;
        self.unflushed = true;
        let immediate = u8::from(self.immediate == Ability::Able);
        let mut done = self.issue(NAME, &[0x10, immediate, 0, 0, 1, 0], Data::Nothing)?;
        if immediate == 1 && done.sense.is_some_and(|sense| sense.is_unsupported()) {
            // Quirk: some drives have no immediate filemarks.
            self.immediate = Ability::Unable;
            done = self.issue(NAME, &[0x10, 0, 0, 0, 1, 0], Data::Nothing)?;
        }
        let room = self.written(NAME, done, at)?;
        self.at = Some(Position { file: at.file + 1, block: 0 });
        Ok(room)
    }

    fn flush(&mut self) -> Result<(), TapeError> {
        if !self.unflushed {
            return Ok(());
        }
        let at = self.here()?;
        let done = self.issue("WRITE FILEMARKS", &[0x10, 0, 0, 0, 0, 0], Data::Nothing)?;
        self.written("WRITE FILEMARKS", done, at)?;
        self.unflushed = false;
        Ok(())
    }

    fn read_block(&mut self, buffer: &mut [u8]) -> Result<Readout, TapeError> {
        let at = self.here()?;
        let limit = buffer.len().min(self.block_bytes_max);
        let [_, a, b, c] = (limit as u32).to_be_bytes();
        let wanted = &mut buffer[..limit];
        // Lengths that differ are asked to be told: a short block must never pass for a whole.
        let done = self.issue("READ", &[0x08, 0, a, b, c, 0], Data::In(wanted))?;
        let next = Position { block: at.block.saturating_add(1), ..at };
        let block = |bytes: usize| Readout::Block(bytes.min(limit));
        let Some(sense) = done.sense.filter(|sense| !sense.is_harmless()) else {
            self.at = Some(next);
            return Ok(block(done.transferred));
        };
        let quiet = matches!(sense.key, key::NO_SENSE | key::RECOVERED) && !sense.deferred;
        match sense {
            Sense { filemark: true, .. } => {
                self.at = Some(Position { file: at.file + 1, block: 0 });
                Ok(Readout::Filemark)
            }
            _ if sense.is_end_of_data() => Ok(Readout::EndOfData),
            Sense { wrong_length: true, information: Some(less), .. } if quiet && less < 0 => {
                self.at = Some(next);
                let bytes = limit.saturating_add(usize::try_from(-less).unwrap_or(0));
                Err(TapeError::BlockSize { barcode: self.barcode.clone(), bytes, limit })
            }
            Sense { wrong_length: true, information, .. } if quiet => {
                self.at = Some(next);
                let less = information.and_then(|less| usize::try_from(less).ok());
                Ok(block(less.map_or(done.transferred, |less| limit.saturating_sub(less))))
            }
            // Past the early warning every block is read with its flag.
            Sense { end_of_medium: true, .. } if quiet => {
                self.at = Some(next);
                Ok(block(done.transferred))
            }
            _ => Err(self.trouble("READ", sense, at)),
        }
    }

    fn rewind(&mut self) -> Result<(), TapeError> {
        if self.changed {
            return Err(TapeError::CartridgeChanged { barcode: self.barcode.clone() });
        }
        self.at = None;
        let rewind = [0x01, 0, 0, 0, 0, 0];
        let done = match self.issue("REWIND", &rewind, Data::Nothing) {
            // After a reset the beginning is where it starts anew.
            Err(TapeError::PositionLost { .. }) => self.issue("REWIND", &rewind, Data::Nothing)?,
            other => other?,
        };
        let start = Position { file: 0, block: 0 };
        match done.sense.filter(|sense| !sense.is_harmless() && !sense.end_of_medium) {
            None => self.at = Some(start),
            Some(sense) => return Err(self.trouble("REWIND", sense, start)),
        }
        Ok(())
    }

    fn space_filemarks(&mut self, count: u32) -> Result<u32, TapeError> {
        let from = self.here()?;
        let mut passed = 0;
        while passed < count {
            let step = (count - passed).min(SPACE_MAX);
            let [_, a, b, c] = step.to_be_bytes();
            self.at = None;
            let done = self.issue("SPACE", &[0x11, 0x01, a, b, c, 0], Data::Nothing)?;
            match done.sense.filter(|sense| !sense.is_harmless()) {
                None => passed += step,
                Some(sense) if sense.is_end_of_data() => {
                    let left = sense.information.and_then(|left| u32::try_from(left).ok());
                    let Some(left) = left.filter(|left| (1..=step).contains(left)) else {
                        // Quirk: tgt does not say how many were left to pass.
                        return Ok(self.count_filemarks()?.saturating_sub(from.file));
                    };
                    passed += step - left;
                    break;
                }
                Some(sense) => return Err(self.trouble("SPACE", sense, from)),
            }
        }
        self.at = Some(Position { file: from.file.saturating_add(passed), block: 0 });
        Ok(passed)
    }

    fn space_to_end_of_data(&mut self) -> Result<(), TapeError> {
        // The end is the end from wherever it is sought.
        let from = match self.here() {
            Err(TapeError::PositionLost { .. }) => Position { file: 0, block: 0 },
            here => here?,
        };
        self.at = None;
        let done = self.issue("SPACE", &[0x11, 0x03, 0, 0, 0, 0], Data::Nothing)?;
        match done.sense.filter(|sense| !sense.is_harmless() && !sense.is_end_of_data()) {
            None => self.at = self.position(),
            Some(sense) => return Err(self.trouble("SPACE", sense, from)),
        }
        Ok(())
    }

    fn locate_file(&mut self, file: u32) -> Result<(), TapeError> {
        if file == 0 {
            return self.rewind();
        }
        if self.changed {
            return Err(TapeError::CartridgeChanged { barcode: self.barcode.clone() });
        }
        if self.locate(file)? {
            return Ok(());
        }
        let ahead = match self.at {
            Some(at) if at.file < file => file - at.file,
            _ => {
                self.rewind()?;
                file
            }
        };
        match self.space_filemarks(ahead)? < ahead {
            true => Err(TapeError::PastEndOfData { barcode: self.barcode.clone(), file }),
            false => Ok(()),
        }
    }
}
