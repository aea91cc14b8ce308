//! A medium in a drive, counted: files are written and read whole, and the position is known
//! from our own count, checked against the drive's where it has one. Refuses to write from a
//! position the two disagree on.

use std::io::{self, Read};

use crate::media::{BLOCK_BYTES, MediaError};
use crate::tape::{Barcode, Drive, Protection, Readout, Room, TapeError, TapeLibrary};

/// How writing a file went.
#[derive(Debug)]
pub(crate) enum Written {
    Whole {
        hash: blake3::Hash,
        room: Room,
    },
    /// The end came near or was met; the file is not on the medium as a whole.
    Full,
}

/// What to do when the drive warns of the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AtWarning {
    /// Leave the rest of the medium to the catalog.
    Stop,
    /// This is the catalog.
    Continue,
}

/// The first block of a file.
#[derive(Debug)]
pub(crate) enum Peek {
    Block(Vec<u8>),
    /// No block: an empty file, or the end of data.
    Empty,
    Damaged,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileEnd {
    Filemark,
    /// The file was never closed.
    EndOfData,
}

pub(crate) struct Reel {
    drive: Box<dyn Drive>,
    /// Filemarks before the position, when known.
    file: Option<u32>,
    block_bytes: usize,
    buffer: Vec<u8>,
}

impl Reel {
    pub(crate) fn mount(library: &dyn TapeLibrary, barcode: &Barcode) -> Result<Self, MediaError> {
        let mut drive = library.load(barcode)?;
        drive.rewind()?;
        let limit = drive.block_bytes_max();
        let buffer = vec![0; limit];
        Ok(Self { drive, file: Some(0), block_bytes: BLOCK_BYTES.min(limit), buffer })
    }

    pub(crate) fn unmount(self, library: &dyn TapeLibrary) -> Result<(), MediaError> {
        Ok(library.unload(self.drive)?)
    }

    pub(crate) fn barcode(&self) -> &Barcode {
        self.drive.barcode()
    }

    pub(crate) fn protection(&self) -> Protection {
        self.drive.protection()
    }

    pub(crate) const fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    /// The file the position is at the head of, or in.
    pub(crate) fn file(&self) -> Result<u32, MediaError> {
        let told = self.drive.position().map(|position| position.file);
        match (self.file, told) {
            (Some(counted), Some(told)) if counted != told => Err(self.doubtful()),
            (Some(counted), _) => Ok(counted),
            (None, _) => Err(self.doubtful()),
        }
    }

    fn doubtful(&self) -> MediaError {
        MediaError::PositionDoubtful { barcode: self.barcode().clone() }
    }

    pub(crate) fn go_to(&mut self, file: u32) -> Result<(), TapeError> {
        self.file = None;
        self.drive.locate_file(file)?;
        self.file = Some(file);
        Ok(())
    }

    /// How many filemarks the medium has; the position is behind the last.
    pub(crate) fn filemarks(&mut self) -> Result<u32, TapeError> {
        self.file = None;
        self.drive.space_to_end_of_data()?;
        let count = match self.drive.position() {
            Some(position) => position.file,
            None => {
                self.drive.rewind()?;
                let count = self.drive.space_filemarks(u32::MAX)?;
                self.drive.space_to_end_of_data()?;
                count
            }
        };
        self.file = Some(count);
        Ok(count)
    }

    /// To where the file after `file` is to be written, closing `file` if need be.
    pub(crate) fn go_behind(&mut self, file: u32) -> Result<(), MediaError> {
        match self.go_to(file + 1) {
            Err(TapeError::PastEndOfData { .. }) => {
                self.go_to(file)?;
                while let Readout::Block(_) = self.drive.read_block(&mut self.buffer)? {}
                self.drive.write_filemark()?;
                self.file = Some(file + 1);
                Ok(())
            }
            other => Ok(other?),
        }
    }

    /// Writes a file of exactly `bytes` at the position. On anything but `Whole` the
    /// position is to be set again with `go_to`.
    pub(crate) fn write_file(
        &mut self,
        source: &mut dyn Read,
        bytes: u64,
        at_warning: AtWarning,
    ) -> Result<Written, MediaError> {
        let file = self.file()?;
        self.file = None;
        let mut hasher = blake3::Hasher::new();
        let mut done = 0u64;
        while done < bytes {
            let left = usize::try_from(bytes - done).unwrap_or(self.block_bytes);
            let block = &mut self.buffer[..left.min(self.block_bytes)];
            let broken = |source| MediaError::Source { bytes: done, source };
            source.read_exact(block).map_err(broken)?;
            hasher.update(block);
            match self.drive.write_block(block) {
                Ok(Room::EarlyWarning) if at_warning == AtWarning::Stop => {
                    return Ok(Written::Full);
                }
                Ok(_) => done += block.len() as u64,
                Err(TapeError::EndOfMedium { .. }) => return Ok(Written::Full),
                Err(error) => return Err(error.into()),
            }
        }
        match self.drive.write_filemark() {
            Ok(room) => {
                self.file = Some(file + 1);
                Ok(Written::Whole { hash: hasher.finalize(), room })
            }
            Err(TapeError::EndOfMedium { .. }) => Ok(Written::Full),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn flush(&mut self) -> Result<(), MediaError> {
        Ok(self.drive.flush()?)
    }

    /// The first block of a file that exists or is the end of data.
    pub(crate) fn peek(&mut self, file: u32) -> Result<Peek, TapeError> {
        match self.go_to(file) {
            Err(TapeError::Damaged { .. }) => return Ok(Peek::Damaged),
            other => other?,
        }
        self.file = None;
        match self.drive.read_block(&mut self.buffer) {
            Ok(Readout::Block(bytes)) => Ok(Peek::Block(self.buffer[..bytes].to_vec())),
            Ok(_) => Ok(Peek::Empty),
            Err(TapeError::Damaged { .. }) => Ok(Peek::Damaged),
            // Longer than any block of ours; its head says whose it is.
            Err(TapeError::BlockSize { limit, .. }) => {
                Ok(Peek::Block(self.buffer[..limit.min(self.buffer.len())].to_vec()))
            }
            Err(error) => Err(error),
        }
    }

    /// A file as a stream; a flaw of the medium is an error of kind `InvalidData`.
    pub(crate) fn reader(&mut self, file: u32) -> Result<FileReader<'_>, TapeError> {
        self.go_to(file)?;
        self.file = None;
        Ok(FileReader { reel: self, from: 0, to: 0, bytes: 0, state: State::Reading })
    }

    /// A file of at most `limit` bytes, in memory, and how it ended.
    pub(crate) fn read_file(
        &mut self,
        file: u32,
        limit: u64,
    ) -> Result<(Vec<u8>, FileEnd), MediaError> {
        let barcode = self.barcode().clone();
        let flawed = MediaError::FlawedFile { barcode: barcode.clone(), file };
        let mut reader = self.reader(file)?;
        let mut bytes = Vec::new();
        match Read::take(&mut reader, limit.saturating_add(1)).read_to_end(&mut bytes) {
            Ok(_) if bytes.len() as u64 > limit => {
                Err(MediaError::FileTooLong { barcode, file, limit })
            }
            Ok(_) => reader.end().map(|end| (bytes, end)).ok_or(flawed),
            Err(error) => match error.downcast::<TapeError>() {
                Ok(TapeError::Damaged { .. }) | Err(_) => Err(flawed),
                Ok(other) => Err(other.into()),
            },
        }
    }
}

enum State {
    Reading,
    Ended(FileEnd),
    /// The block that could not be read.
    Flawed(u32),
    Failed,
}

/// The bytes of one file of a medium.
pub(crate) struct FileReader<'a> {
    reel: &'a mut Reel,
    from: usize,
    to: usize,
    bytes: u64,
    state: State,
}

impl FileReader<'_> {
    /// How the file ended, once it was read to its end.
    pub(crate) fn end(&self) -> Option<FileEnd> {
        match self.state {
            State::Ended(end) => Some(end),
            _ => None,
        }
    }

    /// The block that could not be read, if one was met.
    pub(crate) fn flaw(&self) -> Option<u32> {
        match self.state {
            State::Flawed(block) => Some(block),
            _ => None,
        }
    }

    pub(crate) const fn bytes_read(&self) -> u64 {
        self.bytes
    }

    fn fill(&mut self) -> io::Result<()> {
        while self.from == self.to && matches!(self.state, State::Reading) {
            match self.reel.drive.read_block(&mut self.reel.buffer) {
                Ok(Readout::Block(bytes)) => (self.from, self.to) = (0, bytes),
                Ok(Readout::Filemark) => self.state = State::Ended(FileEnd::Filemark),
                Ok(Readout::EndOfData) => self.state = State::Ended(FileEnd::EndOfData),
                Err(error) => {
                    let block = match &error {
                        TapeError::Damaged { block, .. } => Some(*block),
                        _ => None,
                    };
                    self.state = block.map_or(State::Failed, State::Flawed);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            }
        }
        match self.state {
            State::Flawed(_) | State::Failed => Err(io::ErrorKind::InvalidData.into()),
            _ => Ok(()),
        }
    }
}

impl Read for FileReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.fill()?;
        let bytes = into.len().min(self.to - self.from);
        into[..bytes].copy_from_slice(&self.reel.buffer[self.from..self.from + bytes]);
        self.from += bytes;
        self.bytes += bytes as u64;
        Ok(bytes)
    }
}
