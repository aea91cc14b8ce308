//! A point as a read-only file system.
//!
//! [`mount`] makes a directory of this host show a tree of a point, and [`Mounted`] is that file
//! system as long as it is there. Opening and listing fetch pages of directories, reading fetches
//! the chunks that are touched, and some ahead of who reads in order; the kernel keeps what it was
//! told, for a point never changes. Promises what the point holds: names as bytes, modes, owners,
//! times to the nanosecond, holes, links, device numbers, extended attributes and access lists.
//! What is lost gives EIO, for its range and its names only, and is logged with path and blob;
//! never other bytes. Nothing can be written: EROFS.
//!
//! What a point does not hold cannot be shown: times of access and change are the time of
//! modification, a file of several names has a link count of 2, inode flags and times of birth
//! are not shown, and a file of very many extents is shown as if it had no holes until it is
//! read.

mod attributes;
mod desk;
mod foresight;
mod handles;
mod inodes;
mod listing;
mod pages;
mod place;
mod pool;
mod service;
mod view;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use fuser::{Config, MountOption, Session, SessionACL};
use strongroom_protocol::ChunkId;
use strongroom_store::content::Meta;

use crate::reader::{BYTES_MAX, Reader, Source};

pub use place::PlaceError;
pub use view::Items;

use desk::Service;
use pages::Pages;
use view::{Root, View};

/// Threads that hear the kernel: what they answer is in memory already.
const LISTENERS: usize = 4;
/// Who still uses a file system that ended may go on for so long.
const GRACE: Duration = Duration::from_secs(2);

/// Who may look into it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Audience {
    /// Every user of the host, as far as the permissions allow.
    Everybody,
    /// Who mounted it.
    #[default]
    Owner,
}

/// Whether modes, owners and access lists of the point count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Permissions {
    #[default]
    Checked,
    /// Who may look into it may read everything.
    Open,
}

/// What a point holds, for `statfs`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    pub bytes: u64,
    pub files: u64,
}

/// How a point is presented.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the table of mounts calls it.
    pub name: String,
    pub audience: Audience,
    pub permissions: Permissions,
    pub totals: Totals,
    /// Bytes of chunks, lists and pages kept or on their way.
    pub bytes_max: usize,
}

impl Options {
    /// For who mounts it, with permissions checked, in [`BYTES_MAX`].
    pub fn new(name: &str) -> Self {
        let (audience, permissions) = (Audience::default(), Permissions::default());
        let totals = Totals::default();
        Self { name: name.to_owned(), audience, permissions, totals, bytes_max: BYTES_MAX }
    }
}

/// What is presented.
pub struct Shown {
    pub source: Source,
    /// The page of the directory that becomes the root.
    pub root: ChunkId,
    /// Of that directory; none for a list of items, which everybody may enter.
    pub meta: Option<Meta>,
    pub items: Items,
    /// Has whole files brought before they are opened, from where reading anywhere is slow.
    pub bring: Option<Bring>,
}

/// Brings chunks to where the source has them at hand. Blocking.
pub type Bring = Arc<dyn Fn(Vec<ChunkId>) + Send + Sync>;

/// Why a point could not be mounted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The directory cannot become a file system.
    #[error("it cannot be mounted there")]
    Place(#[from] PlaceError),
    /// The kernel, or `fusermount3`, did not mount it.
    #[error("the system does not mount anything at {}", dir.display())]
    Refused { dir: PathBuf, source: io::Error },
    /// No threads.
    #[error("its threads cannot be started")]
    Threads(#[source] io::Error),
}

/// A file system that is mounted. Dropped, it is taken away.
pub struct Mounted {
    dir: PathBuf,
    device: String,
    ended: mpsc::Receiver<()>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// Mounts a tree of a point at a directory. What a process that was killed left mounted there is
/// cleared away first.
pub fn mount(shown: Shown, dir: &Path, options: &Options) -> Result<Mounted, MountError> {
    let Shown { source, root, meta, items, bring } = shown;
    let dir = place::prepare(dir)?;
    let pages_bytes = options.bytes_max / 4;
    let reader = Reader::new(Arc::clone(&source), options.bytes_max - pages_bytes);
    let reader = reader.map_err(MountError::Threads)?;
    let pages = Pages::new(source, pages_bytes);
    let view = View::new(pages, reader, Root { page: root, meta, items }, bring);
    let service = Service::new(view, options.permissions, options.totals);
    let service = service.map_err(MountError::Threads)?;
    let refused = |source| MountError::Refused { dir: dir.clone(), source };
    let session = Session::new(service, &dir, &config(options)).map_err(refused)?;
    let device = place::mount_at(&dir).map(|line| line.device).unwrap_or_default();
    place::widen_read_ahead(&device);
    let (ending, ended) = mpsc::channel();
    let spawned = std::thread::Builder::new().name("mount".to_owned()).spawn(move || {
        // Dropped at the end, however that comes.
        let _ending = ending;
        session.run()
    });
    let thread = Some(spawned.map_err(MountError::Threads)?);
    Ok(Mounted { dir, device, ended, thread })
}

fn config(options: &Options) -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::RO,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoAtime,
        MountOption::FSName(printable(&options.name)),
        MountOption::CUSTOM("subtype=strongroom".to_owned()),
    ];
    if options.permissions == Permissions::Checked {
        config.mount_options.push(MountOption::DefaultPermissions);
    }
    config.acl = match options.audience {
        Audience::Everybody => SessionACL::All,
        Audience::Owner => SessionACL::Owner,
    };
    config.n_threads = Some(LISTENERS);
    config.clone_fd = true;
    config
}

/// A name that stands in a list of options and in a table of words.
fn printable(name: &str) -> String {
    let plain = |c: char| c.is_ascii_graphic() && c != ',' && c != '\\';
    name.chars().map(|c| if plain(c) { c } else { '_' }).collect()
}

impl Mounted {
    /// Where it is, as an absolute path.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its device number, `major:minor`, by which no other file system is taken for it.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Whether it is mounted no more, waiting for that at most so long.
    pub fn has_ended(&self, patience: Duration) -> bool {
        !matches!(self.ended.recv_timeout(patience), Err(mpsc::RecvTimeoutError::Timeout))
    }

    /// Takes it away: out of sight at once, and for those who still use it after a grace.
    pub fn end(mut self) -> io::Result<()> {
        self.release()
    }

    fn release(&mut self) -> io::Result<()> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        place::release(&self.dir, &self.device)?;
        if !self.has_ended(GRACE) {
            // Who has something open still reads it until this process ends.
            return Ok(());
        }
        thread.join().map_err(|_| io::Error::other("the thread of the file system broke off"))?
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.release() {
            tracing::warn!(dir = %self.dir.display(), %error, "could not be unmounted");
        }
    }
}

/// Takes the file system of this device away from a directory, if it is still mounted there: for
/// who outlives the process that mounted it.
pub fn release(dir: &Path, device: &str) -> io::Result<()> {
    place::release(dir, device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_become_another_option() {
        assert_eq!(printable("strongroom:web 1,suid\\"), "strongroom:web_1_suid_");
    }
}
