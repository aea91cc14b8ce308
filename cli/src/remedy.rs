//! What a person can do about keys that do not open and files of keys that do not hold: one
//! sentence for each cause, wherever in the chain of an error it stands.

use std::error::Error;

use strongroom_certs::WrapError;
use strongroom_coordinator::CoordinatorError;
use strongroom_proxy::ProxyError;
use strongroom_store::manifest::ManifestError;
use strongroom_store::repo::RepoError;

use crate::keyring::KeyringError;
use crate::vault::VaultError;

const ADOPT: &str = "`strongroom keys adopt HOME` writes vault.key again, from the keys file and \
                     the passphrase or a recovery key";
const FETCH: &str = "fetch HOME/repo/keys of the other site, then `strongroom keys adopt HOME \
                     --from FILE`; both sites share one vault";
const UPDATE: &str = "update this program";
const RESTART: &str = "`strongroom keys adopt HOME` where this node runs, and restart it";

/// What to do about the first cause that something is known about.
pub(crate) fn remedy(error: &(dyn Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let known = of_wrap(error)
            .or_else(|| of_vault(error))
            .or_else(|| of_keyring(error))
            .or_else(|| of_repo(error))
            .or_else(|| of_node(error));
        if let Some(text) = known {
            return Some(text.to_owned());
        }
        cause = error.source();
    }
    None
}

fn of_wrap(error: &(dyn Error + 'static)) -> Option<&'static str> {
    Some(match error.downcast_ref::<WrapError>()? {
        WrapError::WrongPassphrase => {
            "type it again; an older passphrase opens only what was copied before it was changed, \
             and a recovery key opens with --recovery-key-file FILE"
        }
        WrapError::WrongRecoveryKey => {
            "it is typed right but is not one of this repository: another organisation's, removed, \
             or from before a rotation; the passphrase opens too"
        }
        WrapError::Damaged { .. } => FETCH,
        WrapError::OtherContext { .. } => FETCH,
        WrapError::Version { .. } => UPDATE,
        _ => return None,
    })
}

fn of_vault(error: &(dyn Error + 'static)) -> Option<&'static str> {
    Some(match error.downcast_ref::<VaultError>()? {
        VaultError::Contradiction | VaultError::Length | VaultError::Malformed(_) => FETCH,
        VaultError::NoRecord { .. } => {
            "`strongroom keys list HOME` says who can open the repository"
        }
        VaultError::Wrap(_) => return None,
    })
}

fn of_keyring(error: &(dyn Error + 'static)) -> Option<&'static str> {
    Some(match error.downcast_ref::<KeyringError>()? {
        KeyringError::Diverged => {
            "both sites were rotated on their own: keep both keys files, and ask for help before \
             anything is written"
        }
        KeyringError::LastWay => "give a secret of a recipient that stays",
        KeyringError::NoRecipient { .. } => "`strongroom keys list HOME` names them",
        KeyringError::Older { .. } => {
            "take the keys file of the site that was rotated last; nothing was changed"
        }
        KeyringError::ProxyFirst => {
            "`strongroom keys rotate` in the proxy's home, then `strongroom keys adopt` its \
             repo/keys here; --alone if there is no proxy"
        }
        _ => return None,
    })
}

fn of_repo(error: &(dyn Error + 'static)) -> Option<&'static str> {
    if let Some(ManifestError::Epoch { .. }) = error.downcast_ref::<ManifestError>() {
        return Some(
            "the key at hand is from before a rotation: give a newer secret; on a node, \
             `strongroom keys adopt HOME` and a restart",
        );
    }
    Some(match error.downcast_ref::<RepoError>()? {
        RepoError::DamagedFile { path, .. } if path.ends_with("keys") => FETCH,
        RepoError::DamagedFile { path, .. } if path.ends_with("config") => {
            "copy HOME/repo/config of the other site to its place; both sites share one vault"
        }
        RepoError::KeysBusy { .. } => "try again when the other has ended",
        RepoError::NewerEpoch { .. } => RESTART,
        RepoError::NewerVersion { .. } => UPDATE,
        RepoError::OtherRepository { .. } => {
            "it was copied from another organisation: take the file of this one's other site"
        }
        RepoError::Unwrapped { .. } => FETCH,
        RepoError::WrongKey { .. } => ADOPT,
        _ => return None,
    })
}

fn of_node(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let key =
        matches!(error.downcast_ref::<CoordinatorError>(), Some(CoordinatorError::VaultKey { .. }))
            || matches!(error.downcast_ref::<ProxyError>(), Some(ProxyError::VaultKey { .. }));
    key.then_some(ADOPT)
}
