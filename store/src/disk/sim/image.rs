//! What a disk may hold after power was lost: everything synced, and of the rest what the crash
//! lets through. Names and contents become durable apart from one another, as on real disks.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Crash, Inode, Op, parent};

/// Files by inode, names, directories.
pub(super) type Image = (BTreeMap<Inode, Vec<u8>>, BTreeMap<String, Inode>, BTreeSet<String>);

/// A small generator: the seed alone decides.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.roll() % bound).unwrap_or_default()
    }
}

/// A write to one file.
enum Write<'a> {
    Append(&'a [u8]),
    Truncate(u64),
}

/// A change of names.
enum Naming<'a> {
    Bind(&'a str, Inode),
    MakeDir(&'a str),
    Move(&'a str, &'a str, Inode),
    Unbind(&'a str),
}

impl Naming<'_> {
    /// The directory whose sync makes it durable.
    fn dir(&self) -> &str {
        match self {
            Self::Bind(path, _) | Self::MakeDir(path) | Self::Unbind(path) => parent(path),
            Self::Move(_, to, _) => parent(to),
        }
    }
}

/// What is found on a disk that held `base` durably after the changes of `log`.
pub(super) fn replay(base: &Image, log: &[Op], crash: Crash) -> Image {
    let mut dice = Dice(match crash {
        Crash::Mix(seed) => seed.wrapping_add(log.len() as u64),
        Crash::Drop | Crash::Keep => 0,
    });
    let mut writes: BTreeMap<Inode, Vec<(Write<'_>, bool)>> = BTreeMap::new();
    let mut namings: Vec<(Naming<'_>, bool)> = Vec::new();
    let mut current: HashMap<&str, Inode> = HashMap::new();
    let (files, names, dirs) = base;
    for (inode, bytes) in files {
        writes.entry(*inode).or_default().push((Write::Append(bytes), true));
    }
    namings.extend(dirs.iter().map(|dir| (Naming::MakeDir(dir), true)));
    for (path, inode) in names {
        current.insert(path, *inode);
        namings.push((Naming::Bind(path, *inode), true));
    }
    for op in log {
        match op {
            Op::Append(inode, bytes) => {
                writes.entry(*inode).or_default().push((Write::Append(bytes), false));
            }
            Op::Truncate(inode, len) => {
                writes.entry(*inode).or_default().push((Write::Truncate(*len), false));
            }
            Op::SyncFile(inode) => {
                writes.entry(*inode).or_default().iter_mut().for_each(|write| write.1 = true);
            }
            Op::Create(path, inode) => {
                current.insert(path, *inode);
                writes.entry(*inode).or_default();
                namings.push((Naming::Bind(path, *inode), false));
            }
            Op::MakeDir(path) => namings.push((Naming::MakeDir(path), false)),
            Op::Remove(path) => {
                current.remove(path.as_str());
                namings.push((Naming::Unbind(path), false));
            }
            Op::Rename(from, to) => {
                if let Some(inode) = current.remove(from.as_str()) {
                    current.insert(to, inode);
                    namings.push((Naming::Move(from, to, inode), false));
                }
            }
            Op::SyncDir(dir) => {
                let within = namings.iter_mut().filter(|naming| naming.0.dir() == dir);
                within.for_each(|naming| naming.1 = true);
            }
        }
    }
    let files = writes
        .into_iter()
        .map(|(inode, writes)| (inode, content(&writes, crash, &mut dice)))
        .collect();
    let (names, dirs) = surviving_names(&namings, crash, &mut dice);
    (files, names, dirs)
}

/// The bytes of one file: synced writes whole, later ones as the crash has it. A dropped write
/// before a kept one leaves a hole of zeros.
fn content(writes: &[(Write<'_>, bool)], crash: Crash, dice: &mut Dice) -> Vec<u8> {
    let mut found: Vec<u8> = Vec::new();
    let mut end = 0;
    for (write, synced) in writes {
        match write {
            Write::Append(bytes) => {
                let kept = match (synced, crash) {
                    (true, _) | (false, Crash::Keep) => bytes.len(),
                    (false, Crash::Drop) => 0,
                    (false, Crash::Mix(_)) => match dice.below(4) {
                        0 => 0,
                        1 => dice.below(bytes.len() + 1),
                        _ => bytes.len(),
                    },
                };
                if kept > 0 {
                    found.resize(end, 0);
                    found.extend_from_slice(bytes.get(..kept).unwrap_or_default());
                }
                end += bytes.len();
            }
            Write::Truncate(len) => {
                end = usize::try_from(*len).unwrap_or(usize::MAX).min(end);
                let happens = match crash {
                    _ if *synced => true,
                    Crash::Drop => false,
                    Crash::Keep => true,
                    Crash::Mix(_) => dice.below(2) == 0,
                };
                if happens {
                    found.truncate(end);
                }
            }
        }
    }
    found
}

/// The names: those in synced directories, later ones as the crash has it. What lies in a
/// directory that was lost is lost.
fn surviving_names(
    namings: &[(Naming<'_>, bool)],
    crash: Crash,
    dice: &mut Dice,
) -> (BTreeMap<String, Inode>, BTreeSet<String>) {
    let mut names = BTreeMap::new();
    let mut dirs = BTreeSet::new();
    for (naming, synced) in namings {
        let happens = match crash {
            _ if *synced => true,
            Crash::Drop => false,
            Crash::Keep => true,
            Crash::Mix(_) => dice.below(2) == 0,
        };
        if !happens {
            continue;
        }
        match naming {
            Naming::Bind(path, inode) => {
                names.insert((*path).to_owned(), *inode);
            }
            Naming::MakeDir(path) => {
                dirs.insert((*path).to_owned());
            }
            Naming::Move(from, to, inode) => {
                if names.get(*from) == Some(inode) {
                    names.remove(*from);
                }
                names.insert((*to).to_owned(), *inode);
            }
            Naming::Unbind(path) => {
                names.remove(*path);
            }
        }
    }
    let whole = |path: &str| {
        let mut at = parent(path);
        while !at.is_empty() {
            if !dirs.contains(at) {
                return false;
            }
            at = parent(at);
        }
        true
    };
    names.retain(|path, _| whole(path));
    let dirs = dirs.iter().filter(|dir| whole(dir)).cloned().collect();
    (names, dirs)
}

#[cfg(test)]
mod tests {
    use super::super::{Disk, SimDisk};
    use super::*;
    use crate::disk::read_all;

    fn script() -> SimDisk {
        let disk = SimDisk::new();
        let mut file = disk.create("tmp").unwrap();
        file.append(b"synced").unwrap();
        file.sync().unwrap();
        disk.rename("tmp", "final").unwrap();
        disk.sync_dir("").unwrap();
        file.append(b" and not").unwrap();
        disk
    }

    #[test]
    fn only_what_was_synced_survives_the_worst() {
        let disk = script();
        let all = disk.log_len();
        let worst = disk.crash_image(all, Crash::Drop);
        assert_eq!(read_all(&worst, "final", 100).unwrap(), b"synced");
        let best = disk.crash_image(all, Crash::Keep);
        assert_eq!(read_all(&best, "final", 100).unwrap(), b"synced and not");
        let unsynced_name = disk.crash_image(all - 2, Crash::Drop);
        assert!(unsynced_name.paths().is_empty());
    }

    #[test]
    fn a_mix_tears_and_keeps_what_was_synced() {
        let disk = script();
        let lengths: BTreeSet<usize> = (0..50)
            .map(|seed| disk.crash_image(disk.log_len(), Crash::Mix(seed)))
            .map(|image| read_all(&image, "final", 100).unwrap().len())
            .collect();
        assert!(lengths.len() > 3 && lengths.iter().all(|len| (6..=14).contains(len)));
    }
}
