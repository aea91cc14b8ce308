//! A library by what a proxy's `node.toml` or an operator says of it. Promises that a text which
//! looks like an address is never taken for a directory. Refuses to look for a secret anywhere
//! but in its file.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::tape::scsi::{LibraryAddress, ScsiLibrary};
use crate::tape::{Barcode, Drive, MailSlot, Slot, TapeError, TapeLibrary, VirtualLibrary};

/// Beside `node.toml`: the secret of CHAP for a target that is named with a user.
pub const SECRET_FILE: &str = "iscsi.secret";

/// A library at an address, reached when it is first needed: it may be switched on after us,
/// and nothing but tape waits for it.
struct Distant {
    address: LibraryAddress,
    reached: Mutex<Option<Arc<ScsiLibrary>>>,
}

impl Distant {
    fn reach(&self) -> Result<Arc<ScsiLibrary>, TapeError> {
        let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(library) = reached.as_ref() {
            return Ok(Arc::clone(library));
        }
        let library = Arc::new(ScsiLibrary::open(&self.address)?);
        *reached = Some(Arc::clone(&library));
        Ok(library)
    }
}

impl TapeLibrary for Distant {
    fn inventory(&self) -> Result<Vec<Slot>, TapeError> {
        self.reach()?.inventory()
    }

    fn load(&self, barcode: &Barcode) -> Result<Box<dyn Drive>, TapeError> {
        self.reach()?.load(barcode)
    }

    fn unload(&self, drive: Box<dyn Drive>) -> Result<(), TapeError> {
        self.reach()?.unload(drive)
    }

    fn drives(&self) -> usize {
        self.reach().map_or(1, |library| library.drives())
    }

    fn mail(&self) -> Result<Vec<MailSlot>, TapeError> {
        self.reach()?.mail()
    }

    fn export(&self, barcode: &Barcode) -> Result<u32, TapeError> {
        TapeLibrary::export(&*self.reach()?, barcode)
    }

    fn import(&self) -> Result<Vec<Barcode>, TapeError> {
        TapeLibrary::import(&*self.reach()?)
    }
}

/// Opens a library: `iscsi://...` or `scsi:...` as [`LibraryAddress`] has it, else the directory
/// of a virtual library, relative to `home`. One that has an address is reached at its first
/// use, and what keeps it from that is that use's error.
pub fn open_library(name: &Path, home: &Path) -> Result<Arc<dyn TapeLibrary>, TapeError> {
    let text = name.to_string_lossy();
    if !LibraryAddress::is_meant(&text) {
        return Ok(Arc::new(VirtualLibrary::open(&home.join(name))?));
    }
    let mut address: LibraryAddress = text.parse()?;
    let path = home.join(SECRET_FILE);
    match fs::read_to_string(&path) {
        Ok(secret) => address = address.with_secret(secret.trim_end_matches(['\n', '\r'])),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(TapeError::Io { path, source }),
    }
    Ok(Arc::new(Distant { address, reached: Mutex::new(None) }))
}
