//! Fuzz target for media: a cartridge whose files hold any bytes, in a library in memory. What a
//! reader makes of it may be nothing, never a panic and never an endless loop.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use strongroom_protocol::{FixedClock, Timestamp};
use strongroom_store::keys::VaultKey;
use strongroom_store::media::{LabelV1, MediaIdentity, MediaReader, MediaSetWriter, SetOrder};
use strongroom_store::tape::{
    Barcode, Drive, Position, Protection, Readout, Room, Slot, TapeError, TapeLibrary,
};

use super::rest::{REPO, redigested, sample_manifest};

const BLOCK_BYTES_MAX: usize = 4096;

/// Files as records of `flags u8, length u16, bytes`: flag 1 makes the closing hash right, flag 2
/// makes the file's first block unreadable.
pub fn medium(bytes: &[u8]) -> bool {
    let Ok(barcode) = "SR0001L9".parse::<Barcode>() else { return false };
    let library = Arc::new(Library { barcode, tape: Arc::new(Mutex::new(parse(bytes))) });
    let Ok(reader) = MediaReader::open(library) else { return false };
    let media = reader.media();
    for info in &media {
        let _ = reader.verify(info.medium);
    }
    for point in reader.held().points.keys() {
        let _ = reader.manifest(*point);
    }
    let _ = (reader.config(REPO), reader.keys(REPO));
    let _ = reader.find_keys(REPO, &mut |_| false);
    !media.is_empty()
}

fn parse(mut bytes: &[u8]) -> Vec<File> {
    let mut files = Vec::new();
    while let Some(([flags, low, high], rest)) = bytes.split_first_chunk::<3>() {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (body, after) = rest.split_at(length);
        let body = if flags & 1 == 0 { body.to_vec() } else { redigested(body) };
        let blocks = body.chunks(BLOCK_BYTES_MAX).map(<[u8]>::to_vec).collect();
        files.push(File { blocks, damaged: flags & 2 != 0 });
        bytes = after;
    }
    files
}

/// A medium of one session, written by the real writer, as [`medium`] reads it.
pub(super) fn medium_seeds() -> Vec<Vec<u8>> {
    written().map(|tape| vec![flat(&tape, 0), flat(&tape, 1)]).unwrap_or_default()
}

fn written() -> Option<Vec<File>> {
    let manifest = sample_manifest()?;
    let file =
        |magic: &[u8], rest: &[u8]| redigested(&[magic, REPO.as_bytes(), rest, &[0; 32]].concat());
    let order = SetOrder {
        set: "weekly".parse().ok()?,
        identity: MediaIdentity { org: "acme".parse().ok()?, repo: REPO },
        config: file(b"SRCONF01", b"\x04acmerest"),
        keys: file(b"SRKEYS01", b"\x00"),
        released: std::collections::BTreeSet::new(),
    };
    let tape = Arc::new(Mutex::new(Vec::new()));
    let library = Arc::new(Library { barcode: "SR0001L9".parse().ok()?, tape: Arc::clone(&tape) });
    let clock = Arc::new(FixedClock::at(Timestamp::from_unix_seconds(1_800_000_000)));
    let mut writer = MediaSetWriter::open(library, order, clock).ok()?;
    writer.begin(10_000).ok()?;
    let bytes = manifest.encode(&VaultKey::from_bytes([7; 32])).ok()?;
    writer.put_manifest(manifest.head.workload, manifest.head.point, &bytes).ok()?;
    writer.finish().ok()?;
    drop(writer);
    let files = lock(&tape).clone();
    // The label is read by its own type: a medium without one would not test much.
    let label = files.first()?.blocks.concat();
    postcard::take_from_bytes::<LabelV1>(label.get(8..)?).ok()?;
    Some(files)
}

fn flat(files: &[File], flags: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    for body in files.iter().map(|file| file.blocks.concat()) {
        let Ok(length) = u16::try_from(body.len()) else { continue };
        bytes.push(flags);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&body);
    }
    bytes
}

#[derive(Clone, Default)]
struct File {
    blocks: Vec<Vec<u8>>,
    damaged: bool,
}

type Tape = Arc<Mutex<Vec<File>>>;

fn lock(tape: &Tape) -> MutexGuard<'_, Vec<File>> {
    tape.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Library {
    barcode: Barcode,
    tape: Tape,
}

impl TapeLibrary for Library {
    fn inventory(&self) -> Result<Vec<Slot>, TapeError> {
        Ok(vec![Slot { slot: 1, barcode: Some(self.barcode.clone()), loaded_in: None }])
    }

    fn load(&self, barcode: &Barcode) -> Result<Box<dyn Drive>, TapeError> {
        let drive = Loaded { barcode: barcode.clone(), tape: self.tape.clone(), file: 0, block: 0 };
        Ok(Box::new(drive))
    }

    fn unload(&self, _: Box<dyn Drive>) -> Result<(), TapeError> {
        Ok(())
    }
}

/// The last file of the tape is the one not yet closed by a filemark.
struct Loaded {
    barcode: Barcode,
    tape: Tape,
    file: usize,
    block: usize,
}

impl Drive for Loaded {
    fn barcode(&self) -> &Barcode {
        &self.barcode
    }

    fn block_bytes_max(&self) -> usize {
        BLOCK_BYTES_MAX
    }

    fn protection(&self) -> Protection {
        Protection::Writable
    }

    fn position(&self) -> Option<Position> {
        let (file, block) = (u32::try_from(self.file).ok()?, u32::try_from(self.block).ok()?);
        Some(Position { file, block })
    }

    fn write_block(&mut self, block: &[u8]) -> Result<Room, TapeError> {
        let mut tape = lock(&self.tape);
        tape.resize(self.file + 1, File::default());
        tape[self.file].blocks.truncate(self.block);
        tape[self.file].blocks.push(block.to_vec());
        self.block += 1;
        Ok(Room::Plenty)
    }

    fn write_filemark(&mut self) -> Result<Room, TapeError> {
        let mut tape = lock(&self.tape);
        tape.resize(self.file + 1, File::default());
        (self.file, self.block) = (self.file + 1, 0);
        Ok(Room::Plenty)
    }

    fn flush(&mut self) -> Result<(), TapeError> {
        Ok(())
    }

    fn read_block(&mut self, buffer: &mut [u8]) -> Result<Readout, TapeError> {
        let tape = lock(&self.tape);
        let Some(file) = tape.get(self.file) else { return Ok(Readout::EndOfData) };
        if file.damaged && self.block == 0 {
            self.block = 1;
            let barcode = self.barcode.clone();
            return Err(TapeError::Damaged { barcode, file: self.file as u32, block: 0 });
        }
        let Some(block) = file.blocks.get(self.block) else {
            (self.file, self.block) = (self.file + 1, 0);
            return Ok(Readout::Filemark);
        };
        buffer[..block.len()].copy_from_slice(block);
        self.block += 1;
        Ok(Readout::Block(block.len()))
    }

    fn rewind(&mut self) -> Result<(), TapeError> {
        (self.file, self.block) = (0, 0);
        Ok(())
    }

    fn space_filemarks(&mut self, count: u32) -> Result<u32, TapeError> {
        let left = lock(&self.tape).len().saturating_sub(self.file);
        let passed = left.min(count as usize);
        (self.file, self.block) = (self.file + passed, 0);
        Ok(passed as u32)
    }

    fn space_to_end_of_data(&mut self) -> Result<(), TapeError> {
        (self.file, self.block) = (lock(&self.tape).len(), 0);
        Ok(())
    }
}
