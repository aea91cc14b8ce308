//! FAT12, FAT16 and FAT32 with long names. Times are those of whoever wrote them, in his own time
//! zone, and are given as if that were UTC; owners and modes there are none. A chain of clusters
//! that goes in circles, leads out or ends early is damage of what it belongs to alone.

mod names;
mod table;

use std::sync::{Arc, Mutex, PoisonError};

use crate::bytes::{array, label, u8_at, u16_at, u32_at};
use crate::fat::names::{Long, short_name, unix_nanoseconds};
use crate::fat::table::{Allocation, Width};
use crate::raw::is_name;
use crate::system::{Attributes, FileSystem, Kind, Named, NodeId, Problem};
use crate::volume::Volume;

const ENTRY_BYTES: u64 = 32;
/// Longest directory: the format ends at 2 MiB, some writers do not.
const DIRECTORY_BYTES_MAX: u64 = 16 << 20;
/// The directory at the top has no entry: no entry lies at byte 0.
const ROOT: NodeId = NodeId(0);
const DIRECTORY: u8 = 0x10;
const VOLUME: u8 = 0x08;
const LONG: u8 = 0x0f;

/// A file system of FAT.
pub struct Fat {
    volume: Arc<dyn Volume>,
    allocation: Allocation,
    /// Where cluster 2 begins, in bytes.
    data: u64,
    cluster_bytes: u64,
    root: Root,
    label: Option<String>,
    is_clean: bool,
    /// How far chains were followed: the file, the cluster by number in it, and which it is.
    places: Mutex<Vec<(u32, u64, u32)>>,
}

enum Root {
    Chain(u32),
    Fixed { at: u64, bytes: u64 },
}

/// What an entry says.
struct Entry {
    directory: bool,
    attributes: u8,
    first: u32,
    size: u32,
    modified: i128,
}

/// A stretch of a directory.
struct Stretch {
    at: u64,
    bytes: u64,
}

/// Chains whose places are remembered.
const PLACES_MAX: usize = 64;

fn damaged(what: &'static str, at: u64, why: impl Into<String>) -> Problem {
    Problem::Damaged { what, at, why: why.into() }
}

impl Fat {
    /// Reads the boot sector.
    ///
    /// # Errors
    ///
    /// A [`Problem`] if its numbers do not fit together or the volume.
    pub fn open(volume: Arc<dyn Volume>) -> Result<Self, Problem> {
        let mut boot = [0; 512];
        volume.read_at(0, &mut boot)?;
        let sector: u64 = u16_at(&boot, 11).into();
        let cluster_bytes = sector * u64::from(u8_at(&boot, 13));
        let either = |short: u16, long: u32| if short == 0 { long.into() } else { short.into() };
        let sectors: u64 = either(u16_at(&boot, 19), u32_at(&boot, 32));
        let table_sectors: u64 = either(u16_at(&boot, 22), u32_at(&boot, 36));
        let (reserved, tables) = (u64::from(u16_at(&boot, 14)), u64::from(u8_at(&boot, 16)));
        let root_bytes = u64::from(u16_at(&boot, 17)) * ENTRY_BYTES;
        let wrong = |why: &str| damaged("the boot sector", 0, why);
        if !matches!(sector, 512 | 1024 | 2048 | 4096) || !cluster_bytes.is_power_of_two() {
            return Err(wrong("sectors and clusters have no length they may have"));
        }
        if reserved == 0 || tables == 0 || table_sectors == 0 {
            return Err(wrong("there is no table of clusters"));
        }
        let root_at = (reserved + tables * table_sectors) * sector;
        let data = root_at + root_bytes.div_ceil(sector) * sector;
        let end = sectors * sector;
        let Some(room) = end.checked_sub(data).filter(|_| end <= volume.bytes()) else {
            let why = format!("it is to have {end} bytes, and {} are there", volume.bytes());
            return Err(wrong(&why));
        };
        let clusters = room / cluster_bytes;
        let width = Width::of(clusters, root_bytes);
        let clusters = u32::try_from(clusters).unwrap_or(u32::MAX);
        let table_bytes = table_sectors * sector;
        let allocation = Allocation::new(width, reserved * sector, table_bytes, clusters);
        let root = match width {
            Width::Bits32 => Root::Chain(u32_at(&boot, 44)),
            _ => Root::Fixed { at: root_at, bytes: root_bytes },
        };
        let named = if width == Width::Bits32 { 71..82 } else { 43..54 };
        let is_clean = allocation.is_clean(&*volume)?;
        let label = label(boot.get(named).unwrap_or_default()).filter(|name| name != "NO NAME");
        let places = Mutex::default();
        Ok(Self { volume, allocation, data, cluster_bytes, root, label, is_clean, places })
    }

    /// Where a cluster lies.
    fn place(&self, cluster: u32, at: u64) -> Result<u64, Problem> {
        if !self.allocation.holds(cluster) {
            let why = format!("cluster {cluster} is none of its clusters");
            return Err(damaged("a chain of clusters", at, why));
        }
        Ok(self.data + u64::from(cluster - 2) * self.cluster_bytes)
    }

    /// The cluster with this number in the chain that begins with `first`; none behind its end.
    fn nth(&self, first: u32, number: u64) -> Result<Option<u32>, Problem> {
        let known = {
            let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            let fits = places.iter().filter(|(of, at, _)| *of == first && *at <= number);
            fits.max_by_key(|(_, at, _)| *at).copied()
        };
        let (mut at, mut cluster) = known.map_or((0, first), |(_, at, cluster)| (at, cluster));
        while at < number {
            if at > u64::from(self.allocation.clusters()) {
                return Err(damaged("a chain of clusters", 0, "it goes in circles"));
            }
            let Some(next) = self.allocation.next(&*self.volume, cluster)? else { return Ok(None) };
            cluster = next;
            at += 1;
        }
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if !places.contains(&(first, at, cluster)) {
            if places.len() >= PLACES_MAX {
                places.remove(0);
            }
            places.push((first, at, cluster));
        }
        Ok(Some(cluster))
    }

    fn entry(&self, node: NodeId) -> Result<Entry, Problem> {
        if node == ROOT {
            let first = if let Root::Chain(first) = self.root { first } else { 0 };
            return Ok(Entry { directory: true, attributes: 0, first, size: 0, modified: 0 });
        }
        let mut bytes = [0; ENTRY_BYTES as usize];
        self.volume.read_at(node.0, &mut bytes)?;
        Ok(self.parsed(&bytes))
    }

    fn parsed(&self, bytes: &[u8]) -> Entry {
        let attributes = u8_at(bytes, 11);
        let high = match self.root {
            Root::Chain(_) => u32::from(u16_at(bytes, 20)) << 16,
            Root::Fixed { .. } => 0,
        };
        Entry {
            directory: attributes & DIRECTORY != 0,
            attributes,
            first: high | u32::from(u16_at(bytes, 26)),
            size: u32_at(bytes, 28),
            modified: unix_nanoseconds(u16_at(bytes, 24), u16_at(bytes, 22)),
        }
    }

    /// The stretches of a directory, in their order, until one says that it is the last.
    fn stretches(
        &self,
        directory: NodeId,
        each: &mut dyn FnMut(Stretch) -> Result<bool, Problem>,
    ) -> Result<(), Problem> {
        if directory == ROOT
            && let Root::Fixed { at, bytes } = self.root
        {
            return each(Stretch { at, bytes }).map(|_| ());
        }
        let entry = self.entry(directory)?;
        if !entry.directory {
            return Err(Problem::NotA { node: directory, wanted: "directory" });
        }
        let (mut cluster, mut bytes) = (entry.first, 0);
        loop {
            let at = self.place(cluster, directory.0)?;
            if !each(Stretch { at, bytes: self.cluster_bytes })? {
                return Ok(());
            }
            bytes += self.cluster_bytes;
            if bytes >= DIRECTORY_BYTES_MAX {
                let what = "a directory";
                return Err(Problem::Limit { what, limit: DIRECTORY_BYTES_MAX });
            }
            let Some(next) = self.allocation.next(&*self.volume, cluster)? else { return Ok(()) };
            cluster = next;
        }
    }
}

impl FileSystem for Fat {
    fn name(&self) -> &'static str {
        self.allocation.width().name()
    }

    fn warnings(&self) -> Vec<String> {
        let unclean = "it was not unmounted in order: what was being written may be torn";
        if self.is_clean { Vec::new() } else { vec![unclean.to_owned()] }
    }

    fn label(&self) -> Option<String> {
        self.label.clone()
    }

    fn root(&self) -> NodeId {
        ROOT
    }

    fn attributes(&self, node: NodeId) -> Result<Attributes, Problem> {
        let entry = self.entry(node)?;
        Ok(Attributes {
            kind: if entry.directory { Kind::Directory } else { Kind::File },
            size: if entry.directory { 0 } else { entry.size.into() },
            mode: None,
            uid: None,
            gid: None,
            links: None,
            modified: (node != ROOT).then_some(entry.modified),
            dos: (node != ROOT).then_some(entry.attributes.into()),
        })
    }

    fn list(&self, directory: NodeId, each: &mut dyn FnMut(Named) -> bool) -> Result<(), Problem> {
        let (mut long, mut bad) = (Long::default(), None);
        self.stretches(directory, &mut |stretch| {
            let mut bytes = vec![0; usize::try_from(stretch.bytes).unwrap_or(0)];
            self.volume.read_at(stretch.at, &mut bytes)?;
            for (entry, number) in bytes.chunks_exact(ENTRY_BYTES as usize).zip(0_u64..) {
                let attributes = u8_at(entry, 11);
                match u8_at(entry, 0) {
                    0 => return Ok(false),
                    0xe5 => long = Long::default(),
                    _ if attributes & 0x3f == LONG => long.take(entry),
                    b'.' => long = Long::default(),
                    _ if attributes & VOLUME != 0 => long = Long::default(),
                    _ => {
                        let at = stretch.at + number * ENTRY_BYTES;
                        let short: [u8; 11] = array(entry, 0);
                        let whole = std::mem::take(&mut long).finish(&short);
                        let name = whole.unwrap_or_else(|| short_name(&short, u8_at(entry, 12)));
                        if !is_name(&name) {
                            bad = Some(damaged("a name", at, "no file can be called so"));
                        } else if !each(Named { name, node: NodeId(at) }) {
                            return Ok(false);
                        }
                    }
                }
            }
            Ok(true)
        })?;
        bad.map_or(Ok(()), Err)
    }

    fn read(&self, file: NodeId, at: u64, into: &mut [u8]) -> Result<usize, Problem> {
        let entry = self.entry(file)?;
        if entry.directory {
            return Err(Problem::NotA { node: file, wanted: "file" });
        }
        let length = u64::from(entry.size).saturating_sub(at).min(into.len() as u64);
        let mut done = 0;
        while done < length {
            let place = at + done;
            let number = place / self.cluster_bytes;
            let Some(cluster) = self.nth(entry.first, number)? else {
                let why = format!("its chain ends before byte {place} of {}", entry.size);
                return Err(damaged("a file", file.0, why));
            };
            let inside = place % self.cluster_bytes;
            let count = (self.cluster_bytes - inside).min(length - done);
            let from = usize::try_from(done).unwrap_or(usize::MAX);
            let to = usize::try_from(done + count).unwrap_or(usize::MAX);
            if let Some(part) = into.get_mut(from..to) {
                self.volume.read_at(self.place(cluster, file.0)? + inside, part)?;
            }
            done += count;
        }
        Ok(usize::try_from(length).unwrap_or(0))
    }

    fn target(&self, link: NodeId) -> Result<Vec<u8>, Problem> {
        Err(Problem::NotA { node: link, wanted: "link" })
    }

    fn extended(&self, _: NodeId) -> Result<crate::system::Extended, Problem> {
        Ok(Vec::new())
    }
}
