//! The current medium of a set while a session writes it. Promises that a file is either
//! whole and noted, or that the position is back where it began. Refuses to leave a medium
//! with files that no catalog follows, unless the catalog cannot be written at all.

use std::io::{Read, Seek};

use strongroom_protocol::MediumId;

use crate::media::MediaError;
use crate::media::catalog::{CatalogV1, EntryV1, HistoryV1, WhatV1};
use crate::media::label::{CATALOG_MAGIC, LABEL_MAGIC, LabelV1, sealed};
use crate::media::reel::{AtWarning, Reel, Written};
use crate::tape::Room;

/// What a pack is read from: again from its start when a medium ends in its middle.
pub trait PackSource: Read + Seek {}
impl<T: Read + Seek> PackSource for T {}

/// Whether a file found room.
pub(crate) enum Placed {
    There,
    NotHere,
}

pub(crate) struct Mounted {
    pub(crate) reel: Reel,
    pub(crate) medium: MediumId,
    /// Of the whole medium, the open session's last.
    pub(crate) entries: Vec<EntryV1>,
    /// How many of them are copies no catalog follows yet.
    pub(crate) fresh: usize,
    pub(crate) room: Room,
}

impl Mounted {
    pub(crate) const fn new(reel: Reel, medium: MediumId, entries: Vec<EntryV1>) -> Self {
        Self { reel, medium, entries, fresh: 0, room: Room::Plenty }
    }

    /// Writes file 0.
    pub(crate) fn label(&mut self, label: &LabelV1) -> Result<(), MediaError> {
        self.reel.go_to(0)?;
        let body = self.seal(LABEL_MAGIC, label)?;
        self.whole(&body)
    }

    /// Writes a config or keys file and notes it.
    pub(crate) fn header(
        &mut self,
        what: WhatV1,
        bytes: &[u8],
        session: u32,
    ) -> Result<(), MediaError> {
        let file = self.reel.file()?;
        self.whole(bytes)?;
        self.entries.push(EntryV1 { file, session, bytes: bytes.len() as u64, what });
        Ok(())
    }

    fn whole(&mut self, bytes: &[u8]) -> Result<(), MediaError> {
        let length = bytes.len() as u64;
        match self.reel.write_file(&mut &bytes[..], length, AtWarning::Stop)? {
            Written::Whole { room, .. } => self.room = room,
            Written::Full => {
                let barcode = self.reel.barcode().clone();
                return Err(MediaError::TooLargeForMedium { barcode, bytes: length });
            }
        }
        Ok(())
    }

    /// Writes a pack or manifest and notes it.
    pub(crate) fn place(
        &mut self,
        what: WhatV1,
        bytes: u64,
        source: &mut dyn PackSource,
        session: u32,
    ) -> Result<Placed, MediaError> {
        let file = self.reel.file()?;
        source.rewind().map_err(|source| MediaError::Source { bytes: 0, source })?;
        let written = self.reel.write_file(source, bytes, AtWarning::Stop);
        match (written, what) {
            (Ok(Written::Whole { hash, .. }), WhatV1::Pack { id, .. })
                if id.0 != *hash.as_bytes() =>
            {
                self.reel.go_to(file)?;
                Err(MediaError::PackMismatch { pack: id })
            }
            (Ok(Written::Whole { room, .. }), _) => {
                self.room = room;
                self.entries.push(EntryV1 { file, session, bytes, what });
                self.fresh += 1;
                Ok(Placed::There)
            }
            (Ok(Written::Full), _) => {
                self.reel.go_to(file)?;
                let copied = |entry: &EntryV1| !matches!(entry.what, WhatV1::Config | WhatV1::Keys);
                if self.entries.iter().any(copied) {
                    return Ok(Placed::NotHere);
                }
                let barcode = self.reel.barcode().clone();
                Err(MediaError::TooLargeForMedium { barcode, bytes })
            }
            (Err(error), _) => {
                self.reel.go_to(file)?;
                Err(error)
            }
        }
    }

    /// Writes the catalog; the data is flushed first, so that a catalog never speaks of what
    /// is not there. Returns the file it became.
    pub(crate) fn close(&mut self, mut catalog: CatalogV1) -> Result<u32, MediaError> {
        self.reel.flush()?;
        let file = self.reel.file()?;
        catalog.file = file;
        loop {
            let body = self.seal(CATALOG_MAGIC, &catalog)?;
            let bytes = body.len() as u64;
            let written = self.reel.write_file(&mut body.as_slice(), bytes, AtWarning::Continue)?;
            match (written, catalog.history) {
                (Written::Whole { .. }, _) => {
                    self.reel.flush()?;
                    return Ok(file);
                }
                (Written::Full, HistoryV1::Given) => {
                    self.reel.go_to(file)?;
                    catalog.history = HistoryV1::Omitted;
                    catalog.earlier = Vec::new();
                }
                (Written::Full, HistoryV1::Omitted) => {
                    let barcode = self.reel.barcode().clone();
                    return Err(MediaError::CatalogDoesNotFit { barcode, bytes });
                }
            }
        }
    }

    fn seal<T: serde::Serialize>(&self, magic: &[u8; 8], body: &T) -> Result<Vec<u8>, MediaError> {
        let barcode = self.reel.barcode().clone();
        sealed(magic, body).map_err(|_| MediaError::CatalogDoesNotFit { barcode, bytes: u64::MAX })
    }
}

/// Whether a file of the medium reads as these bytes.
pub(crate) fn carries(
    reel: &mut Reel,
    entry: Option<&EntryV1>,
    bytes: &[u8],
) -> Result<bool, MediaError> {
    let Some(entry) = entry else { return Ok(false) };
    match reel.read_file(entry.file, bytes.len() as u64) {
        Ok((found, _)) => Ok(found == bytes),
        Err(MediaError::FlawedFile { .. } | MediaError::FileTooLong { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}
