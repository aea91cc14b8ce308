//! The vault key at rest: wrapped in the repository's `keys` file for each recipient. Promises
//! that any of them opens it and that a wrong secret is told from damage; keeps no secret longer
//! than the call.

use strongroom_certs::{Cost, RecipientKind, RecoveryKey, Secret, WrapContext, WrapError, Wrapped};
use strongroom_protocol::RepoId;
use strongroom_store::keys::VaultKey;
use strongroom_store::repo::RepoKeys;

const PURPOSE: &str = "vault key";
/// Characters a recipient is named by: the first of the hash of its record.
const NAME_CHARS: usize = 8;

/// What opens a wrapped vault key.
pub(crate) enum Opener {
    Passphrase(Secret),
    Recovery(RecoveryKey),
}

impl Opener {
    const fn kind(&self) -> RecipientKind {
        match self {
            Self::Passphrase(_) => RecipientKind::Passphrase,
            Self::Recovery(_) => RecipientKind::Recovery,
        }
    }
}

/// One way to open the vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recipient {
    pub(crate) name: String,
    /// Nothing where the record is damaged.
    pub(crate) kind: Option<RecipientKind>,
}

/// Why the vault key stays closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum VaultError {
    /// What is wrapped is not what the file says is wrapped.
    #[error("the keys file contradicts itself: what is wrapped is not the key it says")]
    Contradiction,
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

/// The records for the `keys` file of a new repository.
pub(crate) fn wrap(
    key: &VaultKey,
    repo: RepoId,
    passphrase: &Secret,
    recovery: &RecoveryKey,
    cost: Cost,
) -> Result<Vec<Vec<u8>>, VaultError> {
    Ok(vec![for_passphrase(key, repo, passphrase, cost)?, for_recovery(key, repo, recovery)?])
}

/// The record for a passphrase.
pub(crate) fn for_passphrase(
    key: &VaultKey,
    repo: RepoId,
    passphrase: &Secret,
    cost: Cost,
) -> Result<Vec<u8>, VaultError> {
    let owner = repo.to_string();
    let context = WrapContext { purpose: PURPOSE, owner: &owner };
    let wrapped = Wrapped::by_passphrase(&secret_of(key), passphrase, context, cost)?;
    Ok(postcard::to_stdvec(&wrapped)?)
}

/// The record for a recovery key.
pub(crate) fn for_recovery(
    key: &VaultKey,
    repo: RepoId,
    recovery: &RecoveryKey,
) -> Result<Vec<u8>, VaultError> {
    let owner = repo.to_string();
    let context = WrapContext { purpose: PURPOSE, owner: &owner };
    let wrapped = Wrapped::by_recovery(&secret_of(key), recovery, context)?;
    Ok(postcard::to_stdvec(&wrapped)?)
}

/// Opens the vault key. Records for other recipients are passed over.
pub(crate) fn unwrap(keys: &RepoKeys, opener: &Opener) -> Result<VaultKey, VaultError> {
    open(keys, opener).map(|(key, _)| key)
}

/// Opens the vault key, and says by which record. A damaged record keeps no other from opening;
/// that a whole one refused the secret explains more than that another is damaged.
pub(crate) fn open(keys: &RepoKeys, opener: &Opener) -> Result<(VaultKey, Recipient), VaultError> {
    let owner = keys.repo.to_string();
    let context = WrapContext { purpose: PURPOSE, owner: &owner };
    let (mut wrong, mut damaged) = (None, None);
    for record in &keys.wraps {
        let opened =
            postcard::from_bytes::<Wrapped>(record).map_err(VaultError::from).and_then(|wrapped| {
                match opener {
                    Opener::Passphrase(secret) => {
                        Ok(wrapped.open_with_passphrase(secret, context)?)
                    }
                    Opener::Recovery(key) => Ok(wrapped.open_with_recovery(key, context)?),
                }
            });
        match opened {
            Ok(secret) => return Ok((key_of(&secret, keys)?, recipient(record))),
            Err(VaultError::Wrap(WrapError::OtherRecipient { .. })) => {}
            Err(VaultError::Wrap(
                error @ (WrapError::WrongPassphrase | WrapError::WrongRecoveryKey),
            )) => wrong = Some(VaultError::Wrap(error)),
            Err(error) => damaged = Some(error),
        }
    }
    let needed = opener.kind().as_str();
    Err(wrong.or(damaged).unwrap_or(VaultError::NoRecord { needed }))
}

/// Everybody who can open the vault, in the order of the file.
pub(crate) fn recipients(keys: &RepoKeys) -> Vec<Recipient> {
    keys.wraps.iter().map(|record| recipient(record)).collect()
}

/// Who a record is for.
pub(crate) fn recipient(record: &[u8]) -> Recipient {
    let mut name = blake3::hash(record).to_hex().to_string();
    name.truncate(NAME_CHARS);
    let kind = postcard::from_bytes::<Wrapped>(record).ok().map(|wrapped| wrapped.recipient());
    Recipient { name, kind }
}

fn secret_of(key: &VaultKey) -> Secret {
    Secret::new(key.to_secret().to_vec())
}

fn key_of(secret: &Secret, keys: &RepoKeys) -> Result<VaultKey, VaultError> {
    let key = VaultKey::from_secret(secret.expose()).ok_or(VaultError::Length)?;
    match key.epoch() == keys.epochs() && keys.agrees_with(&key) {
        true => Ok(key),
        false => Err(VaultError::Contradiction),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPO: RepoId = RepoId::from_bytes([1; 16]);

    #[test]
    fn either_secret_opens_the_key_and_no_other_does() {
        let one = VaultKey::from_bytes([3; 32]);
        let recovery = RecoveryKey::from_bytes([5; 32]);
        for key in [one.clone(), one.rotated().unwrap()] {
            let wraps = wrap(&key, REPO, &"horse".into(), &recovery, Cost::TESTING).unwrap();
            let keys = RepoKeys::of(REPO, &key, wraps);
            for opener in [Opener::Passphrase("horse".into()), Opener::Recovery(recovery.clone())] {
                let (opened, by) = open(&keys, &opener).unwrap();
                assert_eq!(opened.to_secret(), key.to_secret());
                assert_eq!(by.kind, Some(opener.kind()));
            }
            let wrong = unwrap(&keys, &Opener::Passphrase("donkey".into())).unwrap_err();
            assert!(matches!(wrong, VaultError::Wrap(WrapError::WrongPassphrase)), "{wrong:?}");
            let other = Opener::Recovery(RecoveryKey::from_bytes([6; 32]));
            let wrong = unwrap(&keys, &other).unwrap_err();
            assert!(matches!(wrong, VaultError::Wrap(WrapError::WrongRecoveryKey)), "{wrong:?}");
        }
        let empty = RepoKeys::new(REPO, vec![]);
        let wrong = unwrap(&empty, &Opener::Passphrase("horse".into())).unwrap_err();
        assert!(matches!(wrong, VaultError::NoRecord { needed: "passphrase" }));
    }

    #[test]
    fn a_damaged_record_is_named_and_keeps_no_other_from_opening() {
        let key = VaultKey::from_bytes([3; 32]);
        let recovery = RecoveryKey::from_bytes([5; 32]);
        let wraps = wrap(&key, REPO, &"horse".into(), &recovery, Cost::TESTING).unwrap();
        let mut hurt = wraps[0].clone();
        let last = hurt.len() - 1;
        hurt[last] ^= 1;
        let keys = RepoKeys::new(REPO, vec![hurt, b"no record".to_vec(), wraps[1].clone()]);
        unwrap(&keys, &Opener::Recovery(recovery)).unwrap();
        let error = unwrap(&keys, &Opener::Passphrase("horse".into())).unwrap_err();
        assert!(matches!(error, VaultError::Malformed(_)), "{error:?}");
        let only = RepoKeys::new(REPO, vec![keys.wraps[0].clone()]);
        let error = unwrap(&only, &Opener::Passphrase("horse".into())).unwrap_err();
        assert!(matches!(error, VaultError::Wrap(WrapError::Damaged { .. })), "{error:?}");
        let kinds: Vec<_> = recipients(&keys).into_iter().map(|found| found.kind).collect();
        let (word, paper) = (RecipientKind::Passphrase, RecipientKind::Recovery);
        assert_eq!(kinds, [Some(word), None, Some(paper)]);
    }

    #[test]
    fn what_is_wrapped_has_to_be_what_the_file_says() {
        let key = VaultKey::from_bytes([3; 32]).rotated().unwrap();
        let recovery = RecoveryKey::from_bytes([5; 32]);
        let wraps = vec![for_recovery(&key, REPO, &recovery).unwrap()];
        let other = VaultKey::from_bytes([3; 32]).rotated().unwrap();
        for keys in [RepoKeys::of(REPO, &other, wraps.clone()), RepoKeys::new(REPO, wraps)] {
            let error = unwrap(&keys, &Opener::Recovery(recovery.clone())).unwrap_err();
            assert!(matches!(error, VaultError::Contradiction), "{error:?}");
        }
        let elsewhere = for_recovery(&key, RepoId::from_bytes([2; 16]), &recovery).unwrap();
        let keys = RepoKeys::of(REPO, &key, vec![elsewhere]);
        let error = unwrap(&keys, &Opener::Recovery(recovery)).unwrap_err();
        assert!(matches!(error, VaultError::Wrap(WrapError::OtherContext { .. })), "{error:?}");
    }
}
