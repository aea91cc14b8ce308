//! What a crash left in `tmp/`: whole records of unfinished packs are taken in anew when their
//! seals hold and what they need is here; everything else is removed. Partly received packs are
//! kept, so that their transfer resumes.

use strongroom_protocol::id::RepoId;

use super::Repo;
use super::error::{InsertError, RepoError};
use super::insert::Inserted;
use crate::disk::{Disk, DiskError, ReadFile};
use crate::keys::VaultKey;
use crate::pack::{PackClass, PackEntry, read_epoch, scan_forward};
use crate::seal::{RecordHead, Sealed, open_record};

/// Names of unfinished packs end so.
const OPEN: &str = ".open";
/// Names of partly received packs end so.
pub(super) const PART: &str = ".part";

/// A number no unfinished pack bears.
pub(super) fn next_file_number(disk: &dyn Disk) -> Result<u64, DiskError> {
    let entries = disk.list("tmp")?;
    let digits = |name: &str| {
        let digits: String = name.chars().filter(char::is_ascii_digit).collect();
        digits.parse::<u64>().ok()
    };
    let numbers = entries.iter().filter(|entry| entry.name.ends_with(OPEN));
    Ok(numbers.filter_map(|entry| digits(&entry.name)).max().map_or(1, |last| last + 1))
}

impl Repo {
    /// Salvages and sweeps `tmp/`. Without the key nothing can be proven, and unfinished packs
    /// stay as they are.
    pub(super) fn salvage_unfinished(&self) -> Result<(), RepoError> {
        let disk = &*self.inner.disk;
        let entries = disk.list("tmp")?;
        let mut unfinished = Vec::new();
        for name in entries.into_iter().map(|entry| entry.name) {
            let path = format!("tmp/{name}");
            if name.ends_with(OPEN) {
                unfinished.push(path);
            } else if !name.ends_with(PART) {
                drop(disk.remove(&path));
            }
        }
        let Ok(key) = self.vault_key() else { return Ok(()) };
        if unfinished.is_empty() {
            return Ok(());
        }
        // Data first, then metadata in the order written: whatever is needed comes before.
        for class in [PackClass::Data, PackClass::Metadata] {
            for path in &unfinished {
                self.salvage_file(key, path, class)?;
            }
        }
        match self.barrier() {
            Ok(()) => unfinished.iter().for_each(|path| drop(disk.remove(path))),
            Err(error) => tracing::warn!(%error, "unfinished packs are kept for the next opening"),
        }
        Ok(())
    }

    fn salvage_file(&self, key: &VaultKey, path: &str, wanted: PackClass) -> Result<(), RepoError> {
        let Ok(file) = self.inner.disk.open(path) else { return Ok(()) };
        let Ok((class, entries)) = scan_forward(&*file, self.id()) else { return Ok(()) };
        if class != wanted {
            return Ok(());
        }
        let Ok(epoch) = read_epoch(&*file, self.id()) else { return Ok(()) };
        let (mut saved, mut abandoned) = (0, 0);
        for entry in &entries {
            let Some((record, head)) = read_proven(&*file, key, (self.id(), epoch), entry) else {
                abandoned += 1;
                continue;
            };
            match self.insert(record, &head.references) {
                Ok(Inserted::New) => saved += 1,
                Ok(Inserted::Present) => {}
                Err(InsertError::MissingReferences { .. } | InsertError::Record { .. }) => {
                    abandoned += 1;
                }
                Err(InsertError::Repo(error)) if error.is_full() => abandoned += 1,
                Err(InsertError::Repo(error)) => return Err(error),
            }
        }
        let mut health = self.inner.health();
        health.salvaged_blobs += saved;
        health.abandoned_blobs += abandoned;
        Ok(())
    }
}

/// A record whose seal holds.
fn read_proven(
    file: &dyn ReadFile,
    key: &VaultKey,
    (repo, epoch): (RepoId, u32),
    entry: &PackEntry,
) -> Option<(Sealed, RecordHead)> {
    let mut bytes = vec![0; entry.record_len as usize];
    file.read_exact_at(&mut bytes, u64::from(entry.offset)).ok()?;
    open_record(key, repo, epoch, &bytes).ok()?;
    let head = RecordHead::parse(&bytes).ok()?;
    let PackEntry { id, kind, plain_len, .. } = *entry;
    Some((Sealed { id, kind, plain_len, epoch, bytes: bytes.into() }, head))
}
