//! A drive whose cartridge is a file of framed blocks. Promises that a torn tail is the end
//! of data, that any other flaw is reported as damage of that block, and that a write
//! truncates what follows. Refuses to write past its capacity.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::tape::frame::{FRAME_BYTES, Frame, FrameKind, check_of, find_frame};
use crate::tape::{Barcode, Drive, Position, Protection, Readout, Room, TapeError};

/// Longest block, as of most LTO host adapters without tuning is at least this.
pub(super) const BLOCK_BYTES_MAX: usize = 1 << 20;
/// How much is searched at a time for the next whole head behind damage.
const SEARCH_BYTES: usize = 1 << 20;

/// Which cartridge each drive holds; shared by the library and its drives.
pub(super) type Seats = Arc<Mutex<Vec<Option<Barcode>>>>;

/// A drive's hold on its seat; leaving it frees the drive.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) seats: Seats,
    pub(super) drive: usize,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seat) = seats.get_mut(self.drive) {
            *seat = None;
        }
    }
}

/// How a cartridge behaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Behaviour {
    pub(super) capacity_bytes: u64,
    pub(super) early_warning_bytes: u64,
    pub(super) protection: Protection,
    pub(super) position: Telling,
}

/// Whether a drive can say where it stands; some cannot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Telling {
    Told,
    Untold,
}

/// A place in the cartridge file.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    offset: u64,
    number: u32,
    file: u32,
    block: u32,
}

enum Record {
    Block(Frame, Cursor),
    Filemark(Cursor),
    Damaged(Cursor),
    End,
}

/// A virtual drive with its cartridge.
#[derive(Debug)]
pub struct VirtualDrive {
    barcode: Barcode,
    path: PathBuf,
    file: File,
    length: u64,
    at: Cursor,
    behaviour: Behaviour,
    _seat: Seat,
}

impl VirtualDrive {
    pub(super) fn new(
        barcode: Barcode,
        path: &Path,
        behaviour: Behaviour,
        seat: Seat,
    ) -> Result<Self, TapeError> {
        let io = |source| TapeError::Io { path: path.to_owned(), source };
        let write = behaviour.protection == Protection::Writable;
        let file = File::options().read(true).write(write).open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let at = Cursor::default();
        let path = path.to_owned();
        Ok(Self { barcode, path, file, length, at, behaviour, _seat: seat })
    }

    fn io(&self, source: std::io::Error) -> TapeError {
        TapeError::Io { path: self.path.clone(), source }
    }

    /// What lies at the position; a block is only read when no whole record follows it.
    fn record(&self) -> Result<Record, TapeError> {
        let at = self.at;
        let Some(frame) = self.head(at)? else {
            return Ok(self.search(at)?.map_or(Record::End, |next| self.gap(next)));
        };
        let offset = at.offset + FRAME_BYTES as u64 + u64::from(frame.bytes);
        let next = Cursor { offset, number: at.number + 1, file: at.file, block: at.block + 1 };
        if frame.kind == FrameKind::Filemark {
            return Ok(Record::Filemark(Cursor { file: at.file + 1, block: 0, ..next }));
        }
        let torn = offset > self.length
            || (self.head(next)?.is_none() && !self.sound(&frame)? && self.search(at)?.is_none());
        Ok(if torn { Record::End } else { Record::Block(frame, next) })
    }

    /// The whole head at a place, when it is the one that belongs there.
    fn head(&self, at: Cursor) -> Result<Option<Frame>, TapeError> {
        let mut head = [0; FRAME_BYTES];
        if self.length < at.offset + FRAME_BYTES as u64 {
            return Ok(None);
        }
        self.file.read_exact_at(&mut head, at.offset).map_err(|e| self.io(e))?;
        Ok(Frame::decode(&head).filter(|frame| frame.number == at.number))
    }

    fn sound(&self, frame: &Frame) -> Result<bool, TapeError> {
        let mut block = vec![0; frame.bytes as usize];
        let offset = self.at.offset + FRAME_BYTES as u64;
        self.file.read_exact_at(&mut block, offset).map_err(|e| self.io(e))?;
        Ok(check_of(&block) == frame.check)
    }

    /// What a head that does not check was, by the next one that does.
    fn gap(&self, next: Cursor) -> Record {
        // A record that is a head alone can only have been a filemark.
        match next.offset == self.at.offset + FRAME_BYTES as u64 {
            true => Record::Filemark(next),
            false => Record::Damaged(next),
        }
    }

    /// The next whole record behind a place: with one, a flaw is damage; without, a torn tail.
    fn search(&self, at: Cursor) -> Result<Option<Cursor>, TapeError> {
        let mut window = vec![0; SEARCH_BYTES];
        let mut offset = at.offset + 1;
        while offset + FRAME_BYTES as u64 <= self.length {
            let rest = usize::try_from(self.length - offset).unwrap_or(SEARCH_BYTES);
            let window = &mut window[..rest.min(SEARCH_BYTES)];
            self.file.read_exact_at(window, offset).map_err(|e| self.io(e))?;
            if let Some((place, frame)) = find_frame(window, at.number) {
                let offset = offset + place as u64;
                let block = if frame.file == at.file { at.block + 1 } else { 0 };
                let next = Cursor { offset, number: frame.number, file: frame.file, block };
                return Ok(Some(next));
            }
            offset += (window.len() - FRAME_BYTES + 1) as u64;
        }
        Ok(None)
    }

    fn append(&mut self, kind: FrameKind, block: &[u8]) -> Result<Room, TapeError> {
        if self.behaviour.protection == Protection::WriteProtected {
            return Err(TapeError::WriteProtected { barcode: self.barcode.clone() });
        }
        let at = self.at;
        let end = at.offset + (FRAME_BYTES + block.len()) as u64;
        if end > self.behaviour.capacity_bytes {
            let Cursor { file, block, .. } = at;
            return Err(TapeError::EndOfMedium { barcode: self.barcode.clone(), file, block });
        }
        if at.offset < self.length {
            self.file.set_len(at.offset).map_err(|e| self.io(e))?;
            self.length = at.offset;
        }
        let frame = Frame {
            kind,
            bytes: u32::try_from(block.len()).unwrap_or(u32::MAX),
            number: at.number,
            file: at.file,
            check: check_of(block),
        };
        let mut record = Vec::with_capacity(FRAME_BYTES + block.len());
        record.extend_from_slice(&frame.encode());
        record.extend_from_slice(block);
        if let Err(source) = self.file.write_all_at(&record, at.offset) {
            // Whatever arrived of the record is a torn tail; the next write removes it.
            self.length = self.file.metadata().map_or(self.length, |meta| meta.len());
            return Err(self.io(source));
        }
        self.length = end;
        self.at = Cursor { offset: end, number: at.number + 1, ..at };
        match kind {
            FrameKind::Block => self.at.block += 1,
            FrameKind::Filemark => (self.at.file, self.at.block) = (at.file + 1, 0),
        }
        let warned = end + self.behaviour.early_warning_bytes > self.behaviour.capacity_bytes;
        Ok(if warned { Room::EarlyWarning } else { Room::Plenty })
    }
}

impl Drive for VirtualDrive {
    fn barcode(&self) -> &Barcode {
        &self.barcode
    }

    fn block_bytes_max(&self) -> usize {
        BLOCK_BYTES_MAX
    }

    fn protection(&self) -> Protection {
        self.behaviour.protection
    }

    fn position(&self) -> Option<Position> {
        let Cursor { file, block, .. } = self.at;
        (self.behaviour.position == Telling::Told).then_some(Position { file, block })
    }

    fn write_block(&mut self, block: &[u8]) -> Result<Room, TapeError> {
        let bytes = block.len();
        if !(1..=BLOCK_BYTES_MAX).contains(&bytes) {
            let barcode = self.barcode.clone();
            return Err(TapeError::BlockSize { barcode, bytes, limit: BLOCK_BYTES_MAX });
        }
        self.append(FrameKind::Block, block)
    }

    fn write_filemark(&mut self) -> Result<Room, TapeError> {
        self.append(FrameKind::Filemark, &[])
    }

    fn flush(&mut self) -> Result<(), TapeError> {
        match self.behaviour.protection {
            Protection::Writable => self.file.sync_all().map_err(|e| self.io(e)),
            Protection::WriteProtected => Ok(()),
        }
    }

    fn read_block(&mut self, buffer: &mut [u8]) -> Result<Readout, TapeError> {
        let Cursor { offset, file, block, .. } = self.at;
        let damaged = TapeError::Damaged { barcode: self.barcode.clone(), file, block };
        match self.record()? {
            Record::End => Ok(Readout::EndOfData),
            Record::Filemark(next) => {
                self.at = next;
                Ok(Readout::Filemark)
            }
            Record::Damaged(next) => {
                self.at = next;
                Err(damaged)
            }
            Record::Block(frame, next) => {
                let bytes = frame.bytes as usize;
                let limit = buffer.len();
                let Some(buffer) = buffer.get_mut(..bytes) else {
                    let barcode = self.barcode.clone();
                    return Err(TapeError::BlockSize { barcode, bytes, limit });
                };
                self.file
                    .read_exact_at(buffer, offset + FRAME_BYTES as u64)
                    .map_err(|e| TapeError::Io { path: self.path.clone(), source: e })?;
                self.at = next;
                if check_of(buffer) == frame.check {
                    Ok(Readout::Block(bytes))
                } else {
                    Err(damaged)
                }
            }
        }
    }

    fn rewind(&mut self) -> Result<(), TapeError> {
        self.at = Cursor::default();
        Ok(())
    }

    fn space_filemarks(&mut self, count: u32) -> Result<u32, TapeError> {
        let from = self.at.file;
        while self.at.file - from < count {
            match self.record()? {
                Record::End => break,
                Record::Block(_, next) | Record::Filemark(next) | Record::Damaged(next) => {
                    self.at = next;
                }
            }
        }
        Ok(self.at.file - from)
    }

    fn space_to_end_of_data(&mut self) -> Result<(), TapeError> {
        self.space_filemarks(u32::MAX).map(drop)
    }

    fn locate_file(&mut self, file: u32) -> Result<(), TapeError> {
        // Forward from here when the file lies ahead; a virtual medium has no other cost.
        if file <= self.at.file {
            self.rewind()?;
        }
        let ahead = file - self.at.file;
        if self.space_filemarks(ahead)? < ahead {
            return Err(TapeError::PastEndOfData { barcode: self.barcode.clone(), file });
        }
        if self.at.file > file {
            // The filemark that began it is itself lost in damage.
            return Err(TapeError::Damaged { barcode: self.barcode.clone(), file, block: 0 });
        }
        Ok(())
    }
}
