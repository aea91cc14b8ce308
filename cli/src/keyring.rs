//! The keys of a node that holds a repository: who can open it, and every change of that, made
//! in the node's home. Promises that a change is proven to open before it replaces anything,
//! that the last way in is never removed, and that no key epoch is ever forgotten. `keys` is
//! written before `vault.key`: a change that broke off between the two is finished by `adopt`.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use strongroom_certs::{Cost, FileError, NoRandomness, RecipientKind, RecoveryKey, Secret, files};
use strongroom_node::home::{Home, HomeError};
use strongroom_protocol::{RepoId, Role};
use strongroom_store::disk::LocalDisk;
use strongroom_store::keys::{RotateError, VaultKey};
use strongroom_store::repo::{RepoConfig, RepoError, RepoKeys};

use crate::vault::{self, Opener, Recipient, VaultError};

/// Why keys were not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum KeyringError {
    /// Both sites have a key of the same epoch, and not the same.
    #[error("the keys to be taken over and those here went separate ways: one epoch, two keys")]
    Diverged,
    /// A file of the home.
    #[error("a file of the home cannot be used")]
    File(#[from] FileError),
    /// The home.
    #[error("the home cannot be used")]
    Home(#[from] HomeError),
    /// The last secret that opens what would be left.
    #[error("what you gave opens only what is to be removed")]
    LastWay,
    /// A recipient of no such name.
    #[error("there is no recipient {name}")]
    NoRecipient { name: String },
    /// No key can be made.
    #[error("a key cannot be made")]
    NoRandomness(#[from] NoRandomness),
    /// A node that has no repository.
    #[error("{} is the home of an {role}, which holds no repository", path.display())]
    NoRepository { path: PathBuf, role: Role },
    /// They lack epochs that are known here.
    #[error("the keys to be taken over end at epoch {found}, and epoch {known} is known here")]
    Older { found: u32, known: u32 },
    /// A rotation at the coordinator comes to the proxy too late.
    #[error("a rotation begins at the proxy: what only the coordinator opens must not leave it")]
    ProxyFirst,
    /// The repository.
    #[error("the repository's keys cannot be changed")]
    Repo(#[from] RepoError),
    /// There is no further epoch.
    #[error("there can be no further key epoch")]
    Rotate(#[from] RotateError),
    /// The vault key stays closed.
    #[error("the keys file does not open")]
    Vault(#[from] VaultError),
}

/// What `vault.key` is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// It holds every epoch.
    All,
    /// It lacks epochs that are wrapped.
    Behind { epochs: u32 },
    /// It is missing, or no key.
    Nothing,
    /// It is the key of something else.
    Other,
}

/// What is known of a home's keys without opening them.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) repo: RepoId,
    pub(crate) epochs: u32,
    pub(crate) recipients: Vec<Recipient>,
    pub(crate) held: Held,
}

/// What a rotation made; the recovery key is stored nowhere.
pub(crate) struct Rotated {
    pub(crate) epoch: u32,
    pub(crate) recovery: RecoveryKey,
    /// Whether `vault.key` holds the new epoch too. The recovery key is in force either way, and
    /// known nowhere else: it has to be shown first.
    pub(crate) written: Result<(), KeyringError>,
}

/// The keys in one home.
pub(crate) struct Keyring {
    home: Home,
    disk: LocalDisk,
}

impl Keyring {
    /// Of a coordinator's or proxy's home.
    pub(crate) fn open(dir: &Path) -> Result<Self, KeyringError> {
        let home = Home::open(dir)?;
        match home.settings().role {
            Role::Coordinator | Role::Proxy => {
                let disk = LocalDisk::new(home.repo());
                Ok(Self { home, disk })
            }
            role => Err(KeyringError::NoRepository { path: dir.to_owned(), role }),
        }
    }

    /// Whose keys they are.
    pub(crate) fn role(&self) -> Role {
        self.home.settings().role
    }

    /// Where the wrapped keys lie.
    pub(crate) fn file(&self) -> PathBuf {
        self.home.repo().join("keys")
    }

    /// Who can open the repository.
    pub(crate) fn known(&self) -> Result<Known, KeyringError> {
        let keys = RepoKeys::read(&self.disk)?;
        let config = RepoConfig::read(&self.disk)?;
        let held = match self.vault_key() {
            None => Held::Nothing,
            Some(key) if !config.is_key(&key) || !keys.agrees_with(&key) => Held::Other,
            Some(key) if key.epoch() < keys.epochs() => Held::Behind { epochs: key.epoch() },
            Some(_) => Held::All,
        };
        let recipients = vault::recipients(&keys);
        Ok(Known { repo: keys.repo, epochs: keys.epochs(), recipients, held })
    }

    /// Which recipient a secret is.
    pub(crate) fn whose(&self, opener: &Opener) -> Result<Recipient, KeyringError> {
        Ok(vault::open(&RepoKeys::read(&self.disk)?, opener)?.1)
    }

    /// Makes `new` the passphrase; the old one opens what was copied elsewhere before.
    pub(crate) fn change_passphrase(
        &self,
        opener: &Opener,
        new: Secret,
        cost: Cost,
    ) -> Result<Recipient, KeyringError> {
        self.change(opener, |key, keys| {
            let record = vault::for_passphrase(key, keys.repo, &new, cost)?;
            let others = keys
                .wraps
                .into_iter()
                .filter(|record| vault::recipient(record).kind != Some(RecipientKind::Passphrase));
            let told = vault::recipient(&record);
            let wraps = std::iter::once(record).chain(others).collect();
            Ok((wraps, Opener::Passphrase(new), told))
        })
    }

    /// A further recovery key; it is stored nowhere.
    pub(crate) fn add_recovery(
        &self,
        opener: &Opener,
    ) -> Result<(Recipient, RecoveryKey), KeyringError> {
        let recovery = RecoveryKey::generate()?;
        let told = self.change(opener, |key, keys| {
            let record = vault::for_recovery(key, keys.repo, &recovery)?;
            let told = vault::recipient(&record);
            let wraps = keys.wraps.into_iter().chain([record]).collect();
            Ok((wraps, Opener::Recovery(recovery.clone()), told))
        })?;
        Ok((told, recovery))
    }

    /// Removes a recipient. `opener` has to open what is left.
    pub(crate) fn remove(&self, opener: &Opener, name: &str) -> Result<Recipient, KeyringError> {
        let told = RepoKeys::change(&self.disk, |keys, _| {
            let keys = keys.map_or_else(|| RepoKeys::read(&self.disk), Ok)?;
            let (key, _) = vault::open(&keys, opener)?;
            let (gone, left): (Vec<_>, Vec<_>) =
                keys.wraps.into_iter().partition(|record| vault::recipient(record).name == name);
            let gone = gone.first().map(|record| vault::recipient(record));
            let gone = gone.ok_or_else(|| KeyringError::NoRecipient { name: name.to_owned() })?;
            let new = RepoKeys::of(keys.repo, &key, left);
            vault::open(&new, opener).map_err(|_| KeyringError::LastWay)?;
            Ok::<_, KeyringError>((new, gone))
        })?;
        self.hand_over();
        Ok(told)
    }

    /// Begins a key epoch. Who may open it is said anew: the passphrase, and a new recovery key;
    /// nobody else can be given what is new.
    pub(crate) fn rotate(
        &self,
        opener: &Opener,
        passphrase: &Secret,
        cost: Cost,
        alone: Alone,
    ) -> Result<Rotated, KeyringError> {
        let settings = self.home.settings();
        let shared = settings.role == Role::Coordinator && settings.dr_site.is_some();
        if shared && alone == Alone::No {
            return Err(KeyringError::ProxyFirst);
        }
        let recovery = RecoveryKey::generate()?;
        let config = RepoConfig::read(&self.disk)?;
        let key = RepoKeys::change(&self.disk, |keys, repo| {
            let keys = keys.map_or_else(|| RepoKeys::read(&self.disk), Ok)?;
            let old = vault::unwrap(&keys, opener)?;
            self.check(&config, &old)?;
            let key = old.rotated()?;
            let wraps = vault::wrap(&key, repo, passphrase, &recovery, cost)?;
            let new = RepoKeys::of(repo, &key, wraps);
            vault::unwrap(&new, &Opener::Recovery(recovery.clone()))?;
            vault::unwrap(&new, &Opener::Passphrase(passphrase.clone()))?;
            Ok::<_, KeyringError>((new, key))
        })?;
        let written = self.write_vault_key(&key);
        Ok(Rotated { epoch: key.epoch(), recovery, written })
    }

    /// Takes over the wrapped keys in `from`, which another node of the vault has, or those that
    /// are here already, and writes `vault.key` from them. Gives the epoch.
    pub(crate) fn adopt(&self, from: Option<&Path>, opener: &Opener) -> Result<u32, KeyringError> {
        let config = RepoConfig::read(&self.disk)?;
        let given = match from {
            None => RepoKeys::read(&self.disk)?,
            Some(path) => RepoKeys::decode(&files::read(path)?, &path.display().to_string())?,
        };
        if given.repo != config.repo {
            let path = from.map_or_else(|| self.file(), Path::to_owned).display().to_string();
            let (found, wanted) = (given.repo, config.repo);
            return Err(RepoError::OtherRepository { path, found, wanted }.into());
        }
        let key = vault::unwrap(&given, opener)?;
        self.check(&config, &key)?;
        RepoKeys::change(&self.disk, |keys, _| {
            if let Some(keys) = keys {
                forgets_nothing(&key, keys.epochs(), keys.agrees_with(&key))?;
            }
            Ok::<_, KeyringError>((given, ()))
        })?;
        self.write_vault_key(&key)?;
        Ok(key.epoch())
    }

    /// Opens, changes, and proves that `proof` opens what it became, before it is in force.
    fn change<T>(
        &self,
        opener: &Opener,
        change: impl FnOnce(&VaultKey, RepoKeys) -> Result<(Vec<Vec<u8>>, Opener, T), VaultError>,
    ) -> Result<T, KeyringError> {
        let config = RepoConfig::read(&self.disk)?;
        let told = RepoKeys::change(&self.disk, |keys, repo| {
            let keys = keys.map_or_else(|| RepoKeys::read(&self.disk), Ok)?;
            let key = vault::unwrap(&keys, opener)?;
            self.check(&config, &key)?;
            let (wraps, proof, told) = change(&key, keys)?;
            let new = RepoKeys::of(repo, &key, wraps);
            vault::unwrap(&new, &proof)?;
            Ok::<_, KeyringError>((new, told))
        })?;
        self.hand_over();
        Ok(told)
    }

    /// The key has to be this repository's, and to know what `vault.key` knows.
    fn check(&self, config: &RepoConfig, key: &VaultKey) -> Result<(), KeyringError> {
        if !config.is_key(key) {
            let path = self.home.repo().display().to_string();
            return Err(RepoError::WrongKey { path }.into());
        }
        match self.vault_key().filter(|held| config.is_key(held)) {
            None => Ok(()),
            Some(held) => {
                let agrees = held.checks().iter().zip(key.checks()).all(|(a, b)| *a == b);
                forgets_nothing(key, held.epoch(), agrees)
            }
        }
    }

    fn vault_key(&self) -> Option<VaultKey> {
        let secret = files::read_private(&self.home.vault_key()).ok()?;
        VaultKey::from_secret(secret.expose())
    }

    fn write_vault_key(&self, key: &VaultKey) -> Result<(), KeyringError> {
        files::write_private(&self.home.vault_key(), &key.to_secret())?;
        self.hand_over();
        Ok(())
    }

    /// What a superuser wrote belongs to whom the home belongs: the node has to read it.
    fn hand_over(&self) {
        let Ok(owner) = std::fs::metadata(self.home.dir()) else { return };
        let (user, group) = (owner.uid(), owner.gid());
        let repo = self.home.repo();
        for path in [self.home.vault_key(), repo.join("keys"), repo.join("keys.lock")] {
            let other = std::fs::metadata(&path).is_ok_and(|found| found.uid() != user);
            if other && let Err(error) = chown(&path, Some(user), Some(group)) {
                tracing::warn!(path = %path.display(), %error, "cannot give the file to the node");
            }
        }
    }
}

/// Whether no proxy has to have the keys first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alone {
    No,
    Yes,
}

fn forgets_nothing(key: &VaultKey, known: u32, agrees: bool) -> Result<(), KeyringError> {
    match (agrees, key.epoch()) {
        (false, _) => Err(KeyringError::Diverged),
        (true, found) if found < known => Err(KeyringError::Older { found, known }),
        (true, _) => Ok(()),
    }
}

#[cfg(test)]
#[path = "keyring_tests.rs"]
mod tests;
