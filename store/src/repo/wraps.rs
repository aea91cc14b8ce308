//! The `keys` file (format.md section 2): the vault key wrapped for each recipient, opaque here,
//! and from the second key epoch on what tells a right key of each. It is replaced whole: after
//! a crash there is the old file or the new one.

use serde::{Deserialize, Serialize};
use strongroom_protocol::id::RepoId;

use super::config::{FILE_BYTES_MAX, frame, read_config, unframe};
use super::error::RepoError;
use crate::disk::{Disk, read_all, write_durably};
use crate::keys::{EPOCHS_MAX, VaultKey};

const MAGIC: &[u8; 8] = b"SRKEYS01";
const MAGIC_EPOCHS: &[u8; 8] = b"SRKEYS02";
const PATH: &str = "keys";
/// Where a new file is written. Not in `tmp/`, which a node that starts sweeps.
const BESIDE: &str = "keys.new";
/// Keeps a second change out while one is under way.
const LOCK: &str = "keys.lock";

/// What `keys` says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RepoKeys {
    pub repo: RepoId,
    pub wraps: Vec<Vec<u8>>,
    /// The key check of each epoch, the first first; none while there is one epoch.
    checks: Vec<[u8; 32]>,
}

#[derive(Serialize, Deserialize)]
struct KeysV1 {
    repo: [u8; 16],
    wraps: Vec<Vec<u8>>,
}

#[derive(Serialize, Deserialize)]
struct KeysV2 {
    repo: [u8; 16],
    checks: Vec<[u8; 32]>,
    wraps: Vec<Vec<u8>>,
}

impl RepoKeys {
    /// Of a vault of one epoch.
    pub const fn new(repo: RepoId, wraps: Vec<Vec<u8>>) -> Self {
        Self { repo, wraps, checks: Vec::new() }
    }

    /// Of the vault `key` opens; `wraps` wrap all of it.
    pub fn of(repo: RepoId, key: &VaultKey, wraps: Vec<Vec<u8>>) -> Self {
        let checks = if key.epoch() == 1 { Vec::new() } else { key.checks() };
        Self { repo, wraps, checks }
    }

    /// How many key epochs are wrapped.
    pub fn epochs(&self) -> u32 {
        u32::try_from(self.checks.len()).unwrap_or(u32::MAX).max(1)
    }

    /// Whether `key` is what the file says is wrapped, as far as both go.
    pub fn agrees_with(&self, key: &VaultKey) -> bool {
        self.checks.iter().zip(key.checks()).all(|(check, found)| *check == found)
    }

    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let Self { repo, wraps, checks } = self.clone();
        let repo = *repo.as_bytes();
        // One epoch stays what every version reads.
        match checks.is_empty() {
            true => frame(MAGIC, &KeysV1 { repo, wraps }),
            false => frame(MAGIC_EPOCHS, &KeysV2 { repo, checks, wraps }),
        }
    }

    /// From the file's bytes; `path` is for the error.
    pub fn decode(bytes: &[u8], path: &str) -> Result<Self, RepoError> {
        if !bytes.starts_with(MAGIC_EPOCHS) {
            let KeysV1 { repo, wraps } = unframe(MAGIC, bytes, path)?;
            return Ok(Self::new(RepoId::from_bytes(repo), wraps));
        }
        let KeysV2 { repo, checks, wraps } = unframe(MAGIC_EPOCHS, bytes, path)?;
        match checks.len() {
            2..=EPOCHS_MAX => Ok(Self { repo: RepoId::from_bytes(repo), wraps, checks }),
            _ => {
                let reason = "its key epochs are impossible";
                Err(RepoError::DamagedFile { path: path.to_owned(), reason })
            }
        }
    }

    /// The `keys` of the repository that lies there, read now.
    pub fn read(disk: &dyn Disk) -> Result<Self, RepoError> {
        read_keys(disk, read_config(disk)?.repo)
    }

    /// Changes the `keys` of the repository that lies there, which a node may have open: media
    /// that are written from then on carry the new ones. The file on the disk is the old one or
    /// the new one at every moment. `change` is given what is in force.
    pub fn change<T, E: From<RepoError>>(
        disk: &dyn Disk,
        change: impl FnOnce(Option<Self>, RepoId) -> Result<(Self, T), E>,
    ) -> Result<T, E> {
        let config = read_config(disk)?;
        let lock = disk.lock(LOCK).map_err(RepoError::from)?;
        let path = || disk.describe(PATH);
        let _lock = lock.ok_or_else(|| RepoError::KeysBusy { path: path() })?;
        // What is damaged or missing can be replaced; whoever changes it has to say with what.
        let old = match read_keys(disk, config.repo) {
            Ok(keys) => Some(keys),
            Err(RepoError::DamagedFile { .. } | RepoError::OtherRepository { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let (new, told) = change(old.clone(), config.repo)?;
        if new.repo != config.repo {
            let (found, wanted) = (new.repo, config.repo);
            return Err(RepoError::OtherRepository { path: path(), found, wanted }.into());
        }
        if new.wraps.is_empty() {
            return Err(RepoError::NoRecipient { path: path() }.into());
        }
        if old.as_ref() != Some(&new) {
            write_durably(disk, BESIDE, PATH, &new.encode()).map_err(RepoError::from)?;
        }
        Ok(told)
    }
}

/// Writes the first `keys` of a repository.
pub(super) fn write_keys(disk: &dyn Disk, keys: &RepoKeys) -> Result<(), RepoError> {
    Ok(write_durably(disk, BESIDE, PATH, &keys.encode())?)
}

/// Reads `keys`.
pub(super) fn read_keys(disk: &dyn Disk, repo: RepoId) -> Result<RepoKeys, RepoError> {
    let path = disk.describe(PATH);
    let bytes = match read_all(disk, PATH, FILE_BYTES_MAX) {
        Err(error) if error.is_missing() => {
            return Err(RepoError::DamagedFile { path, reason: "it is missing" });
        }
        bytes => bytes?,
    };
    let keys = RepoKeys::decode(&bytes, &path)?;
    match keys.repo == repo {
        true => Ok(keys),
        false => Err(RepoError::OtherRepository { path, found: keys.repo, wanted: repo }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> [RepoKeys; 2] {
        let (one, repo) = (VaultKey::from_bytes([4; 32]), RepoId::from_bytes([1; 16]));
        let (two, wraps) = (one.rotated().unwrap(), vec![vec![1, 2], vec![3]]);
        [RepoKeys::of(repo, &one, wraps.clone()), RepoKeys::of(repo, &two, wraps)]
    }

    #[test]
    fn both_versions_round_trip_and_one_epoch_stays_the_first() {
        for (keys, version, epochs) in samples()
            .into_iter()
            .zip([b"01", b"02"])
            .zip([1, 2])
            .map(|((keys, version), epochs)| (keys, version, epochs))
        {
            let bytes = keys.encode();
            assert_eq!((&bytes[6..8], keys.epochs()), (&version[..], epochs));
            assert_eq!(RepoKeys::decode(&bytes, "keys").unwrap(), keys);
        }
    }

    #[test]
    fn every_flipped_byte_is_damage_and_a_newer_version_is_named() {
        for keys in samples() {
            let bytes = keys.encode();
            for at in 0..bytes.len() {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1;
                let refused = RepoKeys::decode(&damaged, "keys");
                assert!(matches!(refused, Err(RepoError::DamagedFile { .. })), "byte {at}");
            }
            let mut newer = bytes[..bytes.len() - 32].to_vec();
            newer[7] = b'3';
            newer.extend_from_slice(blake3::hash(&newer).as_bytes());
            let refused = RepoKeys::decode(&newer, "keys");
            assert!(matches!(refused, Err(RepoError::NewerVersion { found, .. }) if found == "03"));
        }
    }

    #[test]
    fn epochs_that_cannot_be_are_refused() {
        for count in [0, 1, EPOCHS_MAX + 1] {
            let keys = KeysV2 { repo: [1; 16], checks: vec![[0; 32]; count], wraps: vec![] };
            let refused = RepoKeys::decode(&frame(MAGIC_EPOCHS, &keys), "keys");
            assert!(matches!(refused, Err(RepoError::DamagedFile { .. })), "{count}");
        }
    }
}
