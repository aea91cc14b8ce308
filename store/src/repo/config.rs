//! `config` (format.md section 2), and what it has in common with `keys`: magic, content, hash. A
//! version newer than ours is named as such; anything else that does not hold is damage, never a
//! guess.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use strongroom_protocol::id::{OrgName, RepoId};
use strongroom_protocol::time::Timestamp;

use super::error::RepoError;
use crate::cut::CutParams;
use crate::disk::{Disk, read_all};
use crate::keys::VaultKey;

const CONFIG_MAGIC: &[u8; 8] = b"SRCONF01";
const HASH_BYTES: usize = 32;
/// Longest `config` or `keys`: some thousand recipients.
pub(super) const FILE_BYTES_MAX: u64 = 1 << 20;

/// What a new repository is made with.
#[derive(Clone, Debug)]
pub struct RepoSetup {
    pub repo: RepoId,
    pub org: OrgName,
    pub cut: CutParams,
    pub created: Timestamp,
    /// The vault key wrapped for each recipient.
    pub wraps: Vec<Vec<u8>>,
}

/// What `config` says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RepoConfig {
    pub repo: RepoId,
    pub org: OrgName,
    pub created: Timestamp,
    pub cut: CutParams,
    pub(super) key_check: [u8; 32],
}

#[derive(Serialize, Deserialize)]
struct ConfigV1 {
    repo: [u8; 16],
    org: String,
    created_ns: i64,
    cut: CutV1,
    key_check: [u8; 32],
}

#[derive(Serialize, Deserialize)]
struct CutV1 {
    algorithm: u8,
    min: u32,
    max: u32,
}

impl RepoConfig {
    pub(super) fn new(setup: &RepoSetup, key: &VaultKey) -> Self {
        let RepoSetup { repo, org, cut, created, .. } = setup.clone();
        Self { repo, org, created, cut, key_check: key.key_check() }
    }

    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let CutParams { min, max, .. } = self.cut;
        let config = ConfigV1 {
            repo: *self.repo.as_bytes(),
            org: self.org.as_str().to_owned(),
            created_ns: self.created.0,
            cut: CutV1 { algorithm: self.cut.algorithm(), min, max },
            key_check: self.key_check,
        };
        frame(CONFIG_MAGIC, &config)
    }

    /// From the file's bytes; `path` is for the error.
    pub fn decode(bytes: &[u8], path: &str) -> Result<Self, RepoError> {
        let ConfigV1 { repo, org, created_ns, cut, key_check } =
            unframe(CONFIG_MAGIC, bytes, path)?;
        let damaged = |reason| RepoError::DamagedFile { path: path.to_owned(), reason };
        let cut = CutParams::of_config(cut.algorithm, cut.min, cut.max)
            .ok_or_else(|| damaged("it names an unknown cutting algorithm"))?;
        Ok(Self {
            repo: RepoId::from_bytes(repo),
            org: org.parse().map_err(|_| damaged("its organisation is no name"))?,
            created: Timestamp(created_ns),
            cut,
            key_check,
        })
    }

    /// The `config` of the repository that lies there.
    pub fn read(disk: &dyn Disk) -> Result<Self, RepoError> {
        read_config(disk)
    }

    /// Whether `key` is this repository's.
    pub fn is_key(&self, key: &VaultKey) -> bool {
        key.key_check() == self.key_check
    }
}

pub(super) fn frame<T: Serialize>(magic: &[u8; 8], content: &T) -> Vec<u8> {
    // Encoding plain structs into a growing buffer has nothing that can fail.
    let mut bytes = postcard::to_extend(content, magic.to_vec()).unwrap_or_default();
    let hash = blake3::hash(&bytes);
    bytes.extend_from_slice(hash.as_bytes());
    bytes
}

pub(super) fn unframe<T: DeserializeOwned>(
    magic: &[u8; 8],
    bytes: &[u8],
    path: &str,
) -> Result<T, RepoError> {
    let damaged = |reason| RepoError::DamagedFile { path: path.to_owned(), reason };
    let body = bytes.len().checked_sub(HASH_BYTES).ok_or_else(|| damaged("it is too short"))?;
    let (body, hash) = bytes.split_at(body);
    let holds = blake3::hash(body).as_bytes().as_slice() == hash;
    let (found, content) =
        body.split_first_chunk::<8>().ok_or_else(|| damaged("it is too short"))?;
    let [name @ .., tens, ones] = found;
    let version = [*tens, *ones];
    if holds && magic.starts_with(name) && found != magic {
        let found = String::from_utf8_lossy(&version).into_owned();
        return Err(RepoError::NewerVersion { path: path.to_owned(), found });
    }
    if holds && found != magic {
        return Err(damaged("it is a file of another kind"));
    }
    if !holds {
        return Err(damaged("its hash does not hold"));
    }
    let (content, rest) =
        postcard::take_from_bytes(content).map_err(|_| damaged("its content is malformed"))?;
    if rest.is_empty() { Ok(content) } else { Err(damaged("bytes follow its content")) }
}

/// Reads `config`.
pub(super) fn read_config(disk: &dyn Disk) -> Result<RepoConfig, RepoError> {
    let bytes = match read_all(disk, "config", FILE_BYTES_MAX) {
        Err(error) if error.is_missing() => {
            return Err(RepoError::NotARepository { path: disk.describe("") });
        }
        bytes => bytes?,
    };
    RepoConfig::decode(&bytes, &disk.describe("config"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (RepoConfig, VaultKey) {
        let key = VaultKey::from_bytes([4; 32]);
        let setup = RepoSetup {
            repo: RepoId::from_bytes([1; 16]),
            org: "acme".parse().unwrap(),
            cut: CutParams::FILES,
            created: Timestamp(7),
            wraps: vec![],
        };
        (RepoConfig::new(&setup, &key), key)
    }

    #[test]
    fn config_round_trips_and_knows_its_key() {
        let (config, key) = sample();
        assert_eq!(RepoConfig::decode(&config.encode(), "config").unwrap(), config);
        assert!(config.is_key(&key));
        assert!(!config.is_key(&VaultKey::from_bytes([5; 32])));
    }

    #[test]
    fn every_flipped_byte_is_damage_and_a_newer_version_is_named() {
        let (config, _) = sample();
        let bytes = config.encode();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            let refused = RepoConfig::decode(&damaged, "config");
            assert!(matches!(refused, Err(RepoError::DamagedFile { .. })), "byte {at}");
        }
        let mut newer = bytes[..bytes.len() - 32].to_vec();
        newer[7] = b'2';
        let hash = blake3::hash(&newer);
        newer.extend_from_slice(hash.as_bytes());
        let refused = RepoConfig::decode(&newer, "config");
        assert!(matches!(refused, Err(RepoError::NewerVersion { found, .. }) if found == "02"));
    }
}
