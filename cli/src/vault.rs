//! The vault key at rest: wrapped in the repository's `keys` file, once for the passphrase and
//! once for the recovery key. Promises that either of the two opens it and that a wrong one is
//! told from damage; keeps no secret longer than the call.

use strongroom_certs::{Cost, RecoveryKey, Secret, WrapContext, WrapError, Wrapped};
use strongroom_protocol::RepoId;
use strongroom_store::keys::VaultKey;
use strongroom_store::repo::RepoKeys;

const PURPOSE: &str = "vault key";
const KEY_BYTES: usize = 32;

/// What opens a wrapped vault key.
pub(crate) enum Opener {
    Passphrase(Secret),
    Recovery(RecoveryKey),
}

/// Why the vault key stays closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum VaultError {
    /// A record is not one.
    #[error("a record in the keys file is malformed")]
    Malformed(#[from] postcard::Error),
    /// What was wrapped is no vault key.
    #[error("what is wrapped is no vault key")]
    Length,
    /// The file has no record for what was given.
    #[error("the keys file has no record for a {needed}")]
    NoRecord { needed: &'static str },
    /// The record does not open.
    #[error("the vault key stays closed")]
    Wrap(#[from] WrapError),
}

/// The records for a `keys` file.
pub(crate) fn wrap(
    key: &VaultKey,
    repo: RepoId,
    passphrase: &Secret,
    recovery: &RecoveryKey,
    cost: Cost,
) -> Result<Vec<Vec<u8>>, VaultError> {
    let owner = repo.to_string();
    let context = WrapContext { purpose: PURPOSE, owner: &owner };
    let secret = Secret::new(key.as_bytes().to_vec());
    let wrapped = [
        Wrapped::by_passphrase(&secret, passphrase, context, cost)?,
        Wrapped::by_recovery(&secret, recovery, context)?,
    ];
    let records = wrapped.iter().map(postcard::to_stdvec);
    Ok(records.collect::<Result<_, _>>()?)
}

/// Opens the vault key. Records for other recipients are passed over.
pub(crate) fn unwrap(keys: &RepoKeys, opener: &Opener) -> Result<VaultKey, VaultError> {
    let owner = keys.repo.to_string();
    let context = WrapContext { purpose: PURPOSE, owner: &owner };
    let needed = match opener {
        Opener::Passphrase(_) => "passphrase",
        Opener::Recovery(_) => "recovery key",
    };
    let mut wrong = None;
    for record in &keys.wraps {
        let wrapped: Wrapped = postcard::from_bytes(record)?;
        let opened = match opener {
            Opener::Passphrase(secret) => wrapped.open_with_passphrase(secret, context),
            Opener::Recovery(key) => wrapped.open_with_recovery(key, context),
        };
        match opened {
            Ok(secret) => return key_of(&secret),
            Err(WrapError::OtherRecipient { .. }) => {}
            Err(error) => wrong = Some(error),
        }
    }
    Err(wrong.map_or(VaultError::NoRecord { needed }, VaultError::Wrap))
}

fn key_of(secret: &Secret) -> Result<VaultKey, VaultError> {
    let bytes: Result<[u8; KEY_BYTES], _> = secret.expose().try_into();
    bytes.map(VaultKey::from_bytes).map_err(|_| VaultError::Length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_secret_opens_the_key_and_no_other_does() {
        let key = VaultKey::from_bytes([3; 32]);
        let repo = RepoId::from_bytes([1; 16]);
        let recovery = RecoveryKey::from_bytes([5; 32]);
        let wraps = wrap(&key, repo, &"horse".into(), &recovery, Cost::TESTING).unwrap();
        let keys = RepoKeys { repo, wraps };
        for opener in [Opener::Passphrase("horse".into()), Opener::Recovery(recovery)] {
            assert_eq!(unwrap(&keys, &opener).unwrap().as_bytes(), key.as_bytes());
        }
        let wrong = unwrap(&keys, &Opener::Passphrase("donkey".into())).unwrap_err();
        assert!(matches!(wrong, VaultError::Wrap(WrapError::WrongPassphrase)), "{wrong:?}");
        let empty = RepoKeys { repo, wraps: vec![] };
        let wrong = unwrap(&empty, &Opener::Passphrase("horse".into())).unwrap_err();
        assert!(matches!(wrong, VaultError::NoRecord { needed: "passphrase" }));
    }
}
