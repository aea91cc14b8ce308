//! Reads a streamOptimized VMDK as it comes, once, forward. Promises that what it gives is all of
//! the disk: every grain that the tables name, in order, each with its checksum; a stream that
//! ends too early, or whose tables say otherwise, is an error and never a shorter disk.

mod header;
mod tables;

use std::io::{self, Read};

use miniz_oxide::inflate::decompress_slice_iter_to_slice;

use header::Header;
use tables::Tables;

/// The unit of everything in the format, in bytes.
const SECTOR: u64 = 512;
/// What compression may add to a grain that cannot be compressed, in bytes.
const SLACK_BYTES: u64 = 4096;
/// Of a marker, before its data.
const MARKER_BYTES: usize = 12;

/// Why a disk cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VmdkError {
    /// It is not what it should be.
    #[error("the exported disk is no sound streamOptimized VMDK: {0}")]
    Odd(&'static str),
    /// It cannot be read, or ends too early.
    #[error("the exported disk cannot be read to its end")]
    Source(#[from] io::Error),
}

/// A disk that comes.
#[derive(Debug)]
pub struct Vmdk<R> {
    source: Counted<R>,
    header: Header,
    tables: Tables,
    /// The first sector of the disk that may come next.
    next: u64,
    packed: Vec<u8>,
    plain: Vec<u8>,
}

/// A stretch of the disk that is not zeroes, as far as it is known.
#[derive(PartialEq, Eq, Debug)]
pub struct Grain<'g> {
    /// Where it begins, in bytes.
    pub offset: u64,
    pub length: u64,
    /// None where nobody wanted to know.
    pub bytes: Option<&'g [u8]>,
}

/// What the next marker is for.
enum Marker {
    End,
    Grain {
        sector: u64,
        packed: u64,
        begins: [u8; 4],
    },
    /// Sectors of something that is no data.
    Other {
        kind: u32,
        sectors: u64,
    },
}

impl<R: Read> Vmdk<R> {
    /// Reads what stands before the first grain.
    ///
    /// # Errors
    /// It is not of this format.
    pub fn open(source: R) -> Result<Self, VmdkError> {
        let mut source = Counted { source, at: 0 };
        let header = Header::read(&mut source)?;
        let tables = Tables::before(&header, &mut source)?;
        let grain = usize::try_from(header.grain_bytes()).unwrap_or(0);
        let (packed, plain) = (Vec::new(), vec![0; grain]);
        Ok(Self { source, header, tables, next: 0, packed, plain })
    }

    /// The size of the disk, in bytes.
    pub const fn size(&self) -> u64 {
        self.header.capacity * SECTOR
    }

    /// The next grain, or none once all of the disk was seen. `wanted` is asked with its offset
    /// and length, in bytes, whether its bytes matter.
    ///
    /// # Errors
    /// It cannot be read, or is not sound.
    pub fn grain(
        &mut self,
        wanted: &dyn Fn(u64, u64) -> bool,
    ) -> Result<Option<Grain<'_>>, VmdkError> {
        loop {
            self.source.pass_sector()?;
            let at = self.source.at / SECTOR;
            match self.marker()? {
                Marker::End => {
                    self.tables.agree(&self.header)?;
                    return Ok(None);
                }
                Marker::Other { kind, sectors } => {
                    self.source.pass_sector()?;
                    self.tables.take(kind, sectors, &self.header, &mut self.source)?;
                }
                Marker::Grain { sector, packed, begins } => {
                    let (offset, length) = self.place(sector, packed)?;
                    self.tables.came(sector / self.header.grain, at);
                    self.packed.clear();
                    self.packed.extend(begins);
                    let rest = packed.saturating_sub(begins.len() as u64);
                    let got = (&mut self.source).take(rest).read_to_end(&mut self.packed)?;
                    if got as u64 != rest {
                        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                    }
                    self.packed.truncate(usize::try_from(packed).unwrap_or(0));
                    let bytes = match wanted(offset, length) {
                        true => Some(self.inflate(length)?),
                        false => None,
                    };
                    let plain = usize::try_from(length).unwrap_or(0);
                    let bytes = bytes.map(|()| self.plain.get(..plain).unwrap_or_default());
                    return Ok(Some(Grain { offset, length, bytes }));
                }
            }
        }
    }

    fn marker(&mut self) -> Result<Marker, VmdkError> {
        let mut bytes = [0; MARKER_BYTES + 4];
        if self.source.fill(&mut bytes)? == 0 {
            // Only whose tables came first can tell that this is the end.
            return match self.header.tables_last {
                true => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                false => Ok(Marker::End),
            };
        }
        let (value, size, begins) = (u64_at(&bytes, 0), u32_at(&bytes, 8), begins(&bytes));
        if size > 0 {
            return Ok(Marker::Grain { sector: value, packed: u64::from(size), begins });
        }
        match u32::from_le_bytes(begins) {
            0 if value == 0 => Ok(Marker::End),
            0 => Err(VmdkError::Odd("its end has a length")),
            kind => Ok(Marker::Other { kind, sectors: value }),
        }
    }

    /// Where a grain lies on the disk.
    fn place(&mut self, sector: u64, packed: u64) -> Result<(u64, u64), VmdkError> {
        let Header { capacity, grain, .. } = self.header;
        if !sector.is_multiple_of(grain) || sector >= capacity {
            return Err(VmdkError::Odd("a grain lies outside of the disk or off its grid"));
        }
        if sector < self.next {
            return Err(VmdkError::Odd("its grains are not in order"));
        }
        if packed > self.header.grain_bytes() + SLACK_BYTES {
            return Err(VmdkError::Odd("a grain is longer than one can be"));
        }
        self.next = sector + grain;
        Ok((sector * SECTOR, grain.min(capacity - sector) * SECTOR))
    }

    fn inflate(&mut self, length: u64) -> Result<(), VmdkError> {
        let packed = std::iter::once(self.packed.as_slice());
        let done = decompress_slice_iter_to_slice(&mut self.plain, packed, true, false);
        let done = done.map_err(|_| VmdkError::Odd("a grain is damaged"))? as u64;
        // The last grain of a disk may be whole all the same.
        match done == length || done == self.header.grain_bytes() {
            true => Ok(()),
            false => Err(VmdkError::Odd("a grain is not as long as it should be")),
        }
    }
}

/// A source that knows how far it was read.
#[derive(Debug)]
struct Counted<R> {
    source: R,
    at: u64,
}

impl<R: Read> Counted<R> {
    /// Reads all of it or, at the very end, nothing.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.read(rest) {
                Ok(0) if done == 0 => return Ok(0),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(got) => done += got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// The next `sectors`, whole.
    fn sectors(&mut self, sectors: u64) -> io::Result<Vec<u8>> {
        let wanted = sectors.saturating_mul(SECTOR);
        let mut bytes = Vec::new();
        self.take(wanted).read_to_end(&mut bytes)?;
        if bytes.len() as u64 == wanted {
            Ok(bytes)
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    /// Passes over what is left of a sector.
    fn pass_sector(&mut self) -> io::Result<()> {
        let left = self.at.next_multiple_of(SECTOR) - self.at;
        let passed = io::copy(&mut self.take(left), &mut io::sink())?;
        if passed == left { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.source.read(buffer)?;
        self.at += got as u64;
        Ok(got)
    }
}

fn begins(marker: &[u8; MARKER_BYTES + 4]) -> [u8; 4] {
    let [.., a, b, c, d] = *marker;
    [a, b, c, d]
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
