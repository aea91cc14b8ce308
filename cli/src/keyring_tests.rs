//! Changes of keys in real homes, as `init` makes them: what opens afterwards, what is refused,
//! and what the two homes come to when one takes over from the other.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use strongroom_coordinator::{Coordinator, CoordinatorError};
use strongroom_protocol::{Chain, Clock, FixedClock};
use strongroom_store::repo::{Mode, Repo};
use tempfile::TempDir;

use super::*;
use crate::remedy::remedy;
use crate::setup::init;
use crate::setup::tests::order;

const OLD: &str = "correct horse";
const NEW: &str = "battery staple";

struct Lab {
    _dir: TempDir,
    coordinator: PathBuf,
    proxy: PathBuf,
    recovery: RecoveryKey,
}

fn lab() -> Lab {
    let dir = tempfile::tempdir().unwrap();
    let report = init(&order(dir.path())).unwrap();
    let (coordinator, proxy) = (report.coordinator_dir, report.proxy_dir);
    Lab { _dir: dir, coordinator, proxy, recovery: report.recovery }
}

fn word(text: &str) -> Opener {
    Opener::Passphrase(text.into())
}

fn opens(home: &Path, opener: &Opener) -> Result<u32, VaultError> {
    let keys = RepoKeys::read(&LocalDisk::new(home.join("repo"))).unwrap();
    vault::unwrap(&keys, opener).map(|key| key.epoch())
}

/// What a node does when it starts.
fn starts(home: &Path) -> Result<u32, RepoError> {
    let secret = files::read_private(&home.join("vault.key")).unwrap();
    let key = VaultKey::from_secret(secret.expose()).unwrap();
    Repo::open(Arc::new(LocalDisk::new(home.join("repo"))), &key, Mode::Write)?;
    Ok(key.epoch())
}

fn wrong<T>(result: Result<T, VaultError>) {
    let error = result.err().unwrap();
    assert!(remedy(&error).is_some(), "{error:?}");
    assert!(
        Chain(&error).to_string().contains("wrong")
            || Chain(&error).to_string().contains("not the one")
    );
}

#[test]
fn a_passphrase_is_changed_by_the_old_one_or_by_a_recovery_key() {
    let lab = lab();
    let keyring = Keyring::open(&lab.coordinator).unwrap();
    let before = keyring.known().unwrap();
    keyring.change_passphrase(&word(OLD), NEW.into(), Cost::TESTING).unwrap();
    wrong(opens(&lab.coordinator, &word(OLD)));
    assert_eq!(opens(&lab.coordinator, &word(NEW)).unwrap(), 1);
    let recovery = Opener::Recovery(lab.recovery.clone());
    assert_eq!(opens(&lab.coordinator, &recovery).unwrap(), 1);
    keyring.change_passphrase(&recovery, "third one".into(), Cost::TESTING).unwrap();
    wrong(opens(&lab.coordinator, &word(NEW)));
    assert_eq!(opens(&lab.coordinator, &word("third one")).unwrap(), 1);
    let refused = keyring.change_passphrase(&word(NEW), OLD.into(), Cost::TESTING).unwrap_err();
    assert!(matches!(refused, KeyringError::Vault(VaultError::Wrap(_))), "{refused:?}");
    let after = keyring.known().unwrap();
    assert_eq!(after.recipients.len(), 2);
    assert_eq!(after.recipients[1], before.recipients[1], "the recovery key is as it was");
    assert_ne!(after.recipients[0], before.recipients[0]);
    assert_eq!((after.epochs, after.held), (1, Held::All));
    // The other site is on its own until it takes them over.
    assert_eq!(opens(&lab.proxy, &word(OLD)).unwrap(), 1);
    let proxy = Keyring::open(&lab.proxy).unwrap();
    proxy.adopt(Some(&keyring.file()), &word("third one")).unwrap();
    wrong(opens(&lab.proxy, &word(OLD)));
    assert_eq!(starts(&lab.proxy).unwrap(), 1);
}

#[test]
fn recovery_keys_come_and_go_and_the_last_way_in_stays() {
    let lab = lab();
    let keyring = Keyring::open(&lab.proxy).unwrap();
    let (added, second) = keyring.add_recovery(&word(OLD)).unwrap();
    let (first, second) = (Opener::Recovery(lab.recovery.clone()), Opener::Recovery(second));
    assert_eq!(keyring.whose(&second).unwrap(), added);
    let [passphrase, old, new] = keyring.known().unwrap().recipients.try_into().unwrap();
    assert_eq!(new, added);
    let unknown = keyring.remove(&second, "00000000").unwrap_err();
    assert!(matches!(unknown, KeyringError::NoRecipient { .. }));
    let last = keyring.remove(&second, &new.name).unwrap_err();
    assert!(matches!(last, KeyringError::LastWay), "{last:?}");
    keyring.remove(&second, &old.name).unwrap();
    wrong(opens(&lab.proxy, &first));
    keyring.remove(&second, &passphrase.name).unwrap();
    let none = opens(&lab.proxy, &word(OLD)).unwrap_err();
    assert!(matches!(none, VaultError::NoRecord { needed: "passphrase" }), "{none:?}");
    let last = keyring.remove(&second, &new.name).unwrap_err();
    assert!(matches!(last, KeyringError::LastWay), "{last:?}");
    assert_eq!(opens(&lab.proxy, &second).unwrap(), 1);
    keyring.change_passphrase(&second, NEW.into(), Cost::TESTING).unwrap();
    assert_eq!(opens(&lab.proxy, &word(NEW)).unwrap(), 1);
}

#[test]
fn a_rotation_begins_at_the_proxy_and_the_coordinator_takes_it_over() {
    let lab = lab();
    let (coordinator, proxy) =
        (Keyring::open(&lab.coordinator).unwrap(), Keyring::open(&lab.proxy).unwrap());
    let first = coordinator.rotate(&word(OLD), &NEW.into(), Cost::TESTING, Alone::No);
    assert!(matches!(first.err().unwrap(), KeyringError::ProxyFirst));
    let rotated = proxy.rotate(&word(OLD), &NEW.into(), Cost::TESTING, Alone::No).unwrap();
    assert_eq!((rotated.epoch, starts(&lab.proxy).unwrap()), (2, 2));
    assert_eq!(starts(&lab.coordinator).unwrap(), 1, "it goes on until it takes them over");
    for gone in [word(OLD), Opener::Recovery(lab.recovery.clone())] {
        wrong(opens(&lab.proxy, &gone));
        assert_eq!(opens(&lab.coordinator, &gone).unwrap(), 1);
    }
    let recovery = Opener::Recovery(rotated.recovery);
    assert_eq!(coordinator.adopt(Some(&proxy.file()), &recovery).unwrap(), 2);
    assert_eq!(starts(&lab.coordinator).unwrap(), 2);
    assert_eq!(opens(&lab.coordinator, &word(NEW)).unwrap(), 2);
    // Again from there on, and the recovery key is another each time.
    let third = proxy.rotate(&recovery, &NEW.into(), Cost::TESTING, Alone::No).unwrap();
    assert_eq!(third.epoch, 3);
    wrong(opens(&lab.proxy, &recovery));
    // What a site knows is never taken from it.
    let older = proxy.adopt(Some(&coordinator.file()), &word(NEW)).unwrap_err();
    assert!(matches!(older, KeyringError::Older { found: 2, known: 3 }), "{older:?}");
    let apart = coordinator.rotate(&word(NEW), &NEW.into(), Cost::TESTING, Alone::Yes).unwrap();
    assert_eq!(apart.epoch, 3);
    let diverged = coordinator.adopt(Some(&proxy.file()), &word(NEW)).unwrap_err();
    assert!(matches!(diverged, KeyringError::Diverged), "{diverged:?}");
    assert_eq!((starts(&lab.coordinator).unwrap(), starts(&lab.proxy).unwrap()), (3, 3));
}

#[test]
fn a_lost_vault_key_is_written_again_and_one_left_behind_is_brought_up() {
    let lab = lab();
    let keyring = Keyring::open(&lab.proxy).unwrap();
    let place = lab.proxy.join("vault.key");
    let first = std::fs::read(&place).unwrap();
    let recovery = Opener::Recovery(lab.recovery.clone());
    for damage in [None, Some(&b"nonsense"[..]), Some(&[9; 32])] {
        match damage {
            None => std::fs::remove_file(&place).unwrap(),
            Some(bytes) => std::fs::write(&place, bytes).unwrap(),
        }
        let held = keyring.known().unwrap().held;
        assert!(matches!(held, Held::Nothing | Held::Other), "{held:?}");
        assert_eq!(keyring.adopt(None, &recovery).unwrap(), 1);
        assert_eq!(std::fs::read(&place).unwrap(), first);
        let mode = std::fs::metadata(&place).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    // Power was lost between the keys file and vault.key.
    keyring.rotate(&word(OLD), &OLD.into(), Cost::TESTING, Alone::No).unwrap();
    let second = std::fs::read(&place).unwrap();
    files::write_private(&place, &first).unwrap();
    assert_eq!(keyring.known().unwrap().held, Held::Behind { epochs: 1 });
    assert_eq!(starts(&lab.proxy).unwrap(), 1);
    assert_eq!(keyring.adopt(None, &word(OLD)).unwrap(), 2);
    assert_eq!(std::fs::read(&place).unwrap(), second);
}

#[test]
fn each_thing_that_is_wrong_is_told_and_what_to_do() {
    let (lab, strange) = (lab(), lab());
    let keyring = Keyring::open(&lab.coordinator).unwrap();
    let told = |error: &(dyn std::error::Error + 'static)| {
        (Chain(error).to_string(), remedy(error).unwrap_or_default())
    };
    let (text, hint) = told(&keyring.whose(&word("no")).unwrap_err());
    assert!(text.contains("the passphrase is wrong") && hint.contains("--recovery-key-file"));
    let other = Opener::Recovery(strange.recovery.clone());
    let (text, hint) = told(&keyring.whose(&other).unwrap_err());
    assert!(text.contains("recovery key is not the one") && hint.contains("another organisation"));
    let theirs = Keyring::open(&strange.proxy).unwrap();
    let (text, hint) = told(&keyring.adopt(Some(&theirs.file()), &other).unwrap_err());
    assert!(text.contains("is of repository") && hint.contains("another organisation"), "{text}");

    let mut cases = Vec::new();
    let ours = std::fs::read(keyring.file()).unwrap();
    let mut damaged = ours.clone();
    damaged[20] ^= 1;
    let mut newer = ours[..ours.len() - 32].to_vec();
    newer[7] = b'7';
    newer.extend_from_slice(blake3::hash(&newer).as_bytes());
    cases.push((damaged, "its hash does not hold", "--from FILE"));
    cases.push((newer, "format version 07", "update this program"));
    cases.push((std::fs::read(theirs.file()).unwrap(), "is of repository", "other site"));
    let clock: Arc<dyn Clock> = Arc::new(FixedClock::at(order(Path::new("/")).now));
    let run = || {
        let home = Home::open(&lab.coordinator).unwrap();
        Coordinator::open(home, Arc::clone(&clock)).err().unwrap()
    };
    for (bytes, says, do_this) in cases {
        std::fs::write(keyring.file(), bytes).unwrap();
        for (text, hint) in [told(&keyring.known().unwrap_err()), told(&run())] {
            assert!(text.contains(says), "{text}");
            assert!(hint.contains(do_this), "{text}: {hint}");
        }
    }
    std::fs::remove_file(keyring.file()).unwrap();
    let (text, hint) = told(&run());
    assert!(text.contains("it is missing") && hint.contains("--from FILE"), "{text}: {hint}");
    // The other site's file heals every one of these.
    let proxy = Keyring::open(&lab.proxy).unwrap();
    keyring.adopt(Some(&proxy.file()), &word(OLD)).unwrap();
    assert_eq!(starts(&lab.coordinator).unwrap(), 1);

    files::write_private(&lab.coordinator.join("vault.key"), &[8; 32]).unwrap();
    let (text, hint) = told(&run());
    assert!(text.contains("does not belong") && hint.contains("keys adopt"), "{text}: {hint}");
    files::write_private(&lab.coordinator.join("vault.key"), b"short").unwrap();
    let error = run();
    assert!(matches!(error, CoordinatorError::VaultKey { .. }));
    assert!(told(&error).1.contains("keys adopt"));
    files::write_private(&lab.coordinator.join("vault.key"), &[8; 32]).unwrap();
    assert!(matches!(keyring.known().unwrap().held, Held::Other));
    let nothing = Keyring::open(Path::new("/nowhere")).err().unwrap();
    assert!(matches!(nothing, KeyringError::Home(_)));
}
