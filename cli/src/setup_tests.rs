//! What `init` leaves behind opens as what it is, and nothing that exists is touched.

use std::sync::Arc;

use strongroom_node::guard::Guard;
use strongroom_protocol::FixedClock;
use strongroom_store::repo::{Mode, RepoKeys};
use strongroom_store::tape::TapeLibrary;

use super::*;
use crate::vault::Opener;

pub(crate) fn order(dir: &Path) -> InitOrder {
    InitOrder {
        dir: dir.to_owned(),
        org: "acme".parse().unwrap(),
        site: "hq".parse().unwrap(),
        dr_site: "dr".parse().unwrap(),
        passphrase: "correct horse".into(),
        listen_coordinator: "127.0.0.1:0".parse().unwrap(),
        listen_proxy: "127.0.0.1:0".parse().unwrap(),
        coordinator_address: "127.0.0.1:7433".to_owned(),
        proxy_address: "127.0.0.1:7434".to_owned(),
        cartridges: 3,
        cartridge_bytes: 64 << 20,
        cost: Cost::TESTING,
        now: Timestamp::from_unix_seconds(1_800_000_000),
    }
}

#[test]
fn every_part_opens_as_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let order = order(dir.path());
    let report = init(&order).unwrap();
    let clock: Arc<dyn strongroom_protocol::Clock> = Arc::new(FixedClock::at(order.now));
    let mut configs = Vec::new();
    for (dir, role) in
        [(&report.coordinator_dir, Role::Coordinator), (&report.proxy_dir, Role::Proxy)]
    {
        let home = Home::open_as(dir, role).unwrap();
        let guard = Guard::open(&home, Arc::clone(&clock)).unwrap();
        assert_eq!(guard.root().fingerprint(), report.root);
        assert_eq!(guard.authority().unwrap().site(), &home.settings().site);
        let secret = files::read_private(&home.vault_key()).unwrap();
        let key = VaultKey::from_secret(secret.expose()).unwrap();
        let disk = Arc::new(LocalDisk::new(home.repo()));
        let repo = Repo::open(disk, &key, Mode::Write).unwrap();
        assert_eq!(repo.id(), report.repo);
        configs.push((repo.config().clone(), repo.keys_file().clone()));
    }
    assert_eq!(configs[0], configs[1], "both sites share one vault");
    let keys: RepoKeys = configs[0].1.clone();
    vault::unwrap(&keys, &Opener::Recovery(report.recovery.clone())).unwrap();
    vault::unwrap(&keys, &Opener::Passphrase("correct horse".into())).unwrap();
    let root = Root::open(&report.org_dir, &"correct horse".into()).unwrap();
    assert_eq!(root.fingerprint(), report.root);
    Root::open_with_recovery(&report.org_dir, &report.recovery).unwrap();
    let library = VirtualLibrary::open(&report.proxy_dir.join("library")).unwrap();
    let slots = library.inventory().unwrap();
    assert_eq!(slots.iter().filter(|slot| slot.barcode.is_some()).count(), 3);
    let operator = OperatorHome::open(&report.operator_dir).unwrap();
    for context in &operator.settings().sites {
        let credential = Credential::load(&operator.credential_dir(&context.site)).unwrap();
        let identity = credential.identity();
        assert_eq!((identity.role, &identity.site), (Role::Operator, &context.site));
    }
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(left.len(), 4, "nothing but the four parts is left: {left:?}");
}

#[test]
fn nothing_that_exists_is_touched() {
    for name in ["org", "hq", "dr", "operator"] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(name), b"mine").unwrap();
        let refused = init(&order(dir.path())).unwrap_err();
        assert!(matches!(&refused, SetupError::Exists { path } if path.ends_with(name)));
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(left.len(), 1);
        assert_eq!(std::fs::read(dir.path().join(name)).unwrap(), b"mine");
    }
}

#[test]
fn sites_that_cannot_lie_side_by_side_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (site, dr_site) in [("hq", "hq"), ("org", "dr"), ("hq", "operator")] {
        let (site, dr_site) = (site.parse().unwrap(), dr_site.parse().unwrap());
        let order = InitOrder { site, dr_site, ..order(dir.path()) };
        assert!(matches!(init(&order), Err(SetupError::Names { .. })));
    }
    let order = InitOrder { passphrase: "".into(), ..order(dir.path()) };
    assert!(init(&order).is_err());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
}

#[tokio::test]
async fn an_operator_is_told_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let order = order(dir.path());
    let report = init(&order).unwrap();
    let home = OperatorHome::open(&report.operator_dir).unwrap();
    let late: Arc<dyn strongroom_protocol::Clock> =
        Arc::new(FixedClock::at(order.now.plus_seconds(OPERATOR_LIFETIME_SECONDS + 1)));
    let expired = home.connect(None, late).await.err().unwrap();
    assert!(matches!(expired, OperatorError::Expired { .. }), "{expired}");
    assert!(expired.hint().unwrap().contains("renew"));
    let clock: Arc<dyn strongroom_protocol::Clock> = Arc::new(FixedClock::at(order.now));
    let site: SiteName = "mars".parse().unwrap();
    let unknown = home.connect(Some(&site), clock).await.err().unwrap();
    assert_eq!(unknown.to_string(), "site mars is not known here; known: hq, dr");
    let nowhere = OperatorHome::open(dir.path()).unwrap_err();
    assert!(matches!(nowhere, OperatorError::NotAHome { .. }));
    let path = report.operator_dir.join(crate::operator::SETTINGS_FILE);
    std::fs::write(&path, "org = \"acme\"\nnam = \"x\"\n").unwrap();
    let typo = OperatorHome::open(&report.operator_dir).unwrap_err();
    assert!(typo.to_string().contains("nam"), "{typo}");
}
