//! A tape library that is a directory: `library.json` and one file per cartridge. Promises
//! what a changer promises (slots, drives, one user per cartridge), survives kill -9, and
//! lets one process in at a time. Refuses to overwrite or adopt anything silently.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

pub use crate::tape::virtual_drive::Telling;
use crate::tape::virtual_drive::{Behaviour, Seat, Seats};
use crate::tape::{
    Barcode, Drive, MailSlot, Protection, Slot, TapeError, TapeLibrary, VirtualDrive,
};

const DESCRIPTION: &str = "library.json";
const EXTENSION: &str = "tape";
/// The folder whose files lie in mail slots: a hand takes them from there and puts them there.
const MAIL: &str = "mail";
const VERSION: u32 = 1;

/// What a library is made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shape {
    /// Bytes of a cartridge's file at most.
    pub capacity_bytes: u64,
    /// How long before the end the drive warns.
    pub early_warning_bytes: u64,
    pub drives: u32,
    /// Whether the drives can say where they stand.
    pub position: Telling,
    /// Cartridges that the folder `mail` takes, as the mail slots of a library.
    #[serde(default = "mail_slots")]
    pub mail_slots: u32,
}

/// As many as small libraries have.
const fn mail_slots() -> u32 {
    2
}

impl Shape {
    /// One drive; warns a sixteenth before the end, as an LTO drive leaves some gigabytes.
    pub const fn with_capacity(capacity_bytes: u64) -> Self {
        let early_warning_bytes = capacity_bytes / 16;
        let (position, mail_slots) = (Telling::Told, mail_slots());
        Self { capacity_bytes, early_warning_bytes, drives: 1, position, mail_slots }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Place {
    slot: u32,
    barcode: Option<Barcode>,
    protection: Protection,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Description {
    version: u32,
    #[serde(flatten)]
    shape: Shape,
    slots: Vec<Place>,
}

/// The directory as a library.
#[derive(Debug)]
pub struct VirtualLibrary {
    root: PathBuf,
    description: Mutex<Description>,
    seats: Seats,
    _lock: File,
}

impl VirtualLibrary {
    /// Makes a library with one blank cartridge per barcode and as many spare slots again.
    /// The directory may exist but not be a library already.
    pub fn create(root: &Path, shape: Shape, blanks: &[Barcode]) -> Result<Self, TapeError> {
        fs::create_dir_all(root).map_err(io_at(root))?;
        let path = root.join(DESCRIPTION);
        if path.exists() {
            return Err(io_at(&path)(io::ErrorKind::AlreadyExists.into()));
        }
        let full = blanks.iter().cloned().map(Some);
        let contents = full.chain(std::iter::repeat_n(None, blanks.len().max(1)));
        let slots = (1u32..).zip(contents).map(|(slot, barcode)| Place {
            slot,
            barcode,
            protection: Protection::Writable,
        });
        let description = Description { version: VERSION, shape, slots: slots.collect() };
        for barcode in blanks {
            let path = cartridge_path(root, barcode);
            let file = File::create_new(&path).map_err(io_at(&path))?;
            file.sync_all().map_err(io_at(&path))?;
        }
        write_description(root, &description)?;
        Self::open(root)
    }

    /// Opens an existing library and locks it against other processes.
    pub fn open(root: &Path) -> Result<Self, TapeError> {
        let path = root.join(DESCRIPTION);
        let text = fs::read(&path).map_err(io_at(&path))?;
        let wrong = |reason: String| TapeError::LibraryFormat { path: path.clone(), reason };
        let description: Description =
            serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
        if description.version != VERSION {
            return Err(wrong(format!("version {} is not {VERSION}", description.version)));
        }
        if description.shape.early_warning_bytes >= description.shape.capacity_bytes {
            return Err(wrong("early_warning_bytes must be below capacity_bytes".to_owned()));
        }
        let lock_path = root.join("lock");
        let lock = File::options().create(true).append(true).open(&lock_path);
        let lock = lock.map_err(io_at(&lock_path))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|errno| match errno {
            rustix::io::Errno::WOULDBLOCK => TapeError::LibraryInUse { path: root.to_owned() },
            other => io_at(&lock_path)(other.into()),
        })?;
        let drives = description.shape.drives.max(1) as usize;
        Ok(Self {
            root: root.to_owned(),
            description: Mutex::new(description),
            seats: Arc::new(Mutex::new(vec![None; drives])),
            _lock: lock,
        })
    }

    /// The file that plays a cartridge.
    pub fn cartridge_path(&self, barcode: &Barcode) -> PathBuf {
        cartridge_path(&self.root, barcode)
    }

    /// Puts a new blank cartridge into the first free slot, or a slot of its own.
    pub fn add_blank(&self, barcode: &Barcode) -> Result<(), TapeError> {
        let mut description = self.description();
        let path = self.cartridge_path(barcode);
        self.settle(&mut description, barcode, || File::create_new(&path)?.sync_all())
            .map_err(|error| error.unwrap_or_else(|| taken(barcode)))
    }

    /// Brings in a cartridge that was taken out, of this or another library. Its barcode is
    /// the name of its file.
    pub fn insert(&self, from: &Path) -> Result<Barcode, TapeError> {
        let stem = from.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let barcode: Barcode = stem.parse()?;
        let path = self.cartridge_path(&barcode);
        let mut description = self.description();
        self.settle(&mut description, &barcode, || fs::rename(from, &path))
            .map_err(|error| error.unwrap_or_else(|| taken(&barcode)))?;
        Ok(barcode)
    }

    /// Takes a cartridge out to `directory` (on the same file system); returns its file.
    pub fn eject(&self, barcode: &Barcode, directory: &Path) -> Result<PathBuf, TapeError> {
        let mut description = self.description();
        self.refuse_loaded(barcode)?;
        let path = self.cartridge_path(barcode);
        let outside = directory.join(format!("{barcode}.{EXTENSION}"));
        let place = place_of(&mut description, barcode)?;
        fs::rename(&path, &outside).map_err(io_at(&outside))?;
        place.barcode = None;
        place.protection = Protection::Writable;
        write_description(&self.root, &description)?;
        Ok(outside)
    }

    fn mailed(&self) -> Result<Vec<Barcode>, TapeError> {
        let folder = self.root.join(MAIL);
        let files = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(io_at(&folder))?,
        };
        let mut mailed = Vec::new();
        for file in files {
            let path = file.map_err(io_at(&folder))?.path();
            let is_cartridge = path.extension().is_some_and(|end| end == EXTENSION);
            let name = path.file_stem().and_then(|stem| stem.to_str()).filter(|_| is_cartridge);
            mailed.extend(name.and_then(|name| name.parse::<Barcode>().ok()));
        }
        mailed.sort();
        Ok(mailed)
    }

    /// Moves the write-protect tab of a cartridge that is in no drive.
    pub fn protect(&self, barcode: &Barcode, tab: Protection) -> Result<(), TapeError> {
        let mut description = self.description();
        self.refuse_loaded(barcode)?;
        place_of(&mut description, barcode)?.protection = tab;
        write_description(&self.root, &description)
    }

    fn description(&self) -> MutexGuard<'_, Description> {
        self.description.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuse_loaded(&self, barcode: &Barcode) -> Result<(), TapeError> {
        let seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        if seats.iter().flatten().any(|loaded| loaded == barcode) {
            return Err(TapeError::DriveBusy { barcode: barcode.clone() });
        }
        Ok(())
    }

    /// Gives the cartridge a slot after `bring` made its file; None: the barcode is taken.
    fn settle(
        &self,
        description: &mut Description,
        barcode: &Barcode,
        bring: impl FnOnce() -> io::Result<()>,
    ) -> Result<(), Option<TapeError>> {
        let path = self.cartridge_path(barcode);
        let known = |place: &Place| place.barcode.as_ref() == Some(barcode);
        if path.exists() || description.slots.iter().any(known) {
            return Err(None);
        }
        bring().map_err(|source| Some(io_at(&path)(source)))?;
        let last = description.slots.iter().map(|place| place.slot).max().unwrap_or(0);
        let free = description.slots.iter_mut().find(|place| place.barcode.is_none());
        let protection = Protection::Writable;
        let place = Place { slot: last + 1, barcode: Some(barcode.clone()), protection };
        match free {
            Some(free) => *free = Place { slot: free.slot, ..place },
            None => description.slots.push(place),
        }
        write_description(&self.root, description).map_err(Some)
    }
}

impl TapeLibrary for VirtualLibrary {
    fn inventory(&self) -> Result<Vec<Slot>, TapeError> {
        let description = self.description();
        let seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        let slots = description.slots.iter().map(|place| {
            let there = |barcode: &&Barcode| self.cartridge_path(barcode).exists();
            let barcode = place.barcode.as_ref().filter(there).cloned();
            let seat = seats.iter().position(|seat| seat.is_some() && *seat == barcode);
            let loaded_in = seat.and_then(|seat| u32::try_from(seat).ok());
            Slot { slot: place.slot, barcode, loaded_in }
        });
        Ok(slots.collect())
    }

    fn load(&self, barcode: &Barcode) -> Result<Box<dyn Drive>, TapeError> {
        let mut description = self.description();
        let path = self.cartridge_path(barcode);
        let protection = place_of(&mut description, barcode)?.protection;
        if !path.exists() {
            return Err(TapeError::NoSuchCartridge { barcode: barcode.clone() });
        }
        self.refuse_loaded(barcode)?;
        let seat = {
            let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
            let free = seats.iter().position(Option::is_none);
            let drive = free.ok_or_else(|| TapeError::DriveBusy { barcode: barcode.clone() })?;
            seats[drive] = Some(barcode.clone());
            Seat { seats: Arc::clone(&self.seats), drive }
        };
        let shape = &description.shape;
        let behaviour = Behaviour {
            capacity_bytes: shape.capacity_bytes,
            early_warning_bytes: shape.early_warning_bytes,
            protection,
            position: shape.position,
        };
        Ok(Box::new(VirtualDrive::new(barcode.clone(), &path, behaviour, seat)?))
    }

    fn unload(&self, mut drive: Box<dyn Drive>) -> Result<(), TapeError> {
        drive.flush()
    }

    fn drives(&self) -> usize {
        self.description().shape.drives.max(1) as usize
    }

    fn mail(&self) -> Result<Vec<MailSlot>, TapeError> {
        let numbered = (1..).zip(self.mailed()?);
        Ok(numbered.map(|(slot, barcode)| MailSlot { slot, barcode }).collect())
    }

    fn export(&self, barcode: &Barcode) -> Result<u32, TapeError> {
        let mail_slots = {
            let mut description = self.description();
            let mail_slots = description.shape.mail_slots;
            let slot = place_of(&mut description, barcode)?.slot;
            self.refuse_loaded(barcode)?;
            if mail_slots == 0 {
                return Err(TapeError::NoMailSlot { barcode: barcode.clone(), slot });
            }
            mail_slots
        };
        if self.mailed()?.len() >= mail_slots as usize {
            return Err(TapeError::MailSlotsFull { barcode: barcode.clone() });
        }
        let folder = self.root.join(MAIL);
        fs::create_dir_all(&folder).map_err(io_at(&folder))?;
        self.eject(barcode, &folder)?;
        let place = self.mailed()?.iter().position(|mailed| mailed == barcode);
        Ok(place.and_then(|place| u32::try_from(place + 1).ok()).unwrap_or(1))
    }

    fn import(&self) -> Result<Vec<Barcode>, TapeError> {
        let folder = self.root.join(MAIL);
        let mailed = self.mailed()?;
        let each = mailed.into_iter();
        each.map(|barcode| self.insert(&folder.join(format!("{barcode}.{EXTENSION}")))).collect()
    }
}

fn place_of<'a>(
    description: &'a mut Description,
    barcode: &Barcode,
) -> Result<&'a mut Place, TapeError> {
    let mut slots = description.slots.iter_mut();
    slots
        .find(|place| place.barcode.as_ref() == Some(barcode))
        .ok_or_else(|| TapeError::NoSuchCartridge { barcode: barcode.clone() })
}

fn taken(barcode: &Barcode) -> TapeError {
    TapeError::SlotTaken { barcode: barcode.clone() }
}

fn cartridge_path(root: &Path, barcode: &Barcode) -> PathBuf {
    root.join(format!("{barcode}.{EXTENSION}"))
}

fn io_at(path: &Path) -> impl Fn(io::Error) -> TapeError + use<> {
    let path = path.to_owned();
    move |source| TapeError::Io { path: path.clone(), source }
}

fn write_description(root: &Path, description: &Description) -> Result<(), TapeError> {
    let path = root.join(DESCRIPTION);
    let beside = root.join("library.json.new");
    let written = || -> io::Result<()> {
        let mut file = File::create(&beside)?;
        file.write_all(&serde_json::to_vec_pretty(description)?)?;
        file.sync_all()?;
        fs::rename(&beside, &path)?;
        File::open(root)?.sync_all()
    };
    written().map_err(io_at(&path))
}
