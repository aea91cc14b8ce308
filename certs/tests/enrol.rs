//! From a token to a credential on disk: what is granted, what is refused, what survives.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod common;

use std::os::unix::fs::PermissionsExt;

use common::{DAY, START, World, credential, id, world, world_of};
use strongroom_certs::{
    Authority, BookError, CaError, CertRequest, Cost, Credential, EnrolError, Enrolment, FileError,
    KeyPair, PublicKey, RecoveryKey, Refusal, Root, Token, TokenBook, TokenOrder, TokenSecret,
    TokenState, WrapError,
};
use strongroom_protocol::{Role, Timestamp};

const HOUR: i64 = 3600;
const KEY: PublicKey = PublicKey([1; 32]);
const OTHER_KEY: PublicKey = PublicKey([2; 32]);

fn order(world: &World, name: Option<&str>) -> TokenOrder {
    TokenOrder {
        org: world.root.org().clone(),
        root: world.root.fingerprint(),
        address: "c1.example:7433".to_owned(),
        site: "a".parse().unwrap(),
        role: Role::Agent,
        name: name.map(|name| name.parse().unwrap()),
        lifetime_seconds: HOUR,
    }
}

fn at(seconds: i64) -> Timestamp {
    START.plus_seconds(seconds)
}

#[test]
fn a_stranger_becomes_a_node() {
    let (world, dir) = (world(), tempfile::tempdir().unwrap());
    let book = TokenBook::open(&dir.path().join("tokens.json")).unwrap();
    let text = book.create(order(&world, Some("db1")), START).unwrap().to_text().unwrap();

    let token: Token = text.parse().unwrap();
    let home = dir.path().join("node");
    let me = token.identity(&"ignored".parse().unwrap());
    let enrolment = Enrolment::begin_in(&home, &me).unwrap();

    let request = CertRequest::parse(enrolment.request_der()).unwrap();
    let grant = book.redeem(&token.secret, at(5), &request.identity, request.public_key).unwrap();
    let chain = world.a.issue_request(&request, &grant.identity, at(5), DAY).unwrap();

    let root = world.a.root_der().clone();
    let credential = enrolment.finish(chain, root, token.root, at(6)).unwrap();
    credential.save(&home).unwrap();
    let loaded = Credential::load(&home).unwrap();
    assert_eq!(loaded.peer(), credential.peer());
    assert_eq!(*loaded.identity(), id("a/agent/db1"));
    assert_eq!(loaded.peer().issued(), at(5));
    assert_eq!(loaded.peer().not_after, at(5 + DAY));
    let mode = |name: &str| home.join(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("node.key"), mode("node.crt"), mode("root.crt")), (0o600, 0o644, 0o644));
    assert!(!home.join("node.key.next").exists());
}

#[test]
fn a_token_serves_once() {
    let (world, dir) = (world(), tempfile::tempdir().unwrap());
    let path = dir.path().join("tokens.json");
    let book = TokenBook::open(&path).unwrap();
    let token = book.create(order(&world, Some("db1")), START).unwrap();
    let me = id("a/agent/db1");
    let first = book.redeem(&token.secret, at(10), &me, KEY).unwrap();
    // The answer was lost: the same key asks again, also after a restart of the server, also
    // when the token would be over by now.
    let book = TokenBook::open(&path).unwrap();
    assert_eq!(book.redeem(&token.secret, at(600), &me, KEY).unwrap(), first);
    let replay = book.redeem(&token.secret, at(11), &me, OTHER_KEY).unwrap_err();
    assert!(matches!(replay, Refusal::Used { when, .. } if when == at(10)), "{replay:?}");
    let other = book.redeem(&token.secret, at(11), &id("a/agent/db2"), KEY).unwrap_err();
    assert!(matches!(other, Refusal::Used { .. }), "{other:?}");
    let late = book.redeem(&token.secret, at(610), &me, KEY).unwrap_err();
    assert!(matches!(late, Refusal::Used { .. }), "{late:?}");
    let rows = book.rows(at(700));
    assert!(matches!(&rows[0].state, TokenState::Used { by, .. } if *by == me));
}

#[test]
fn the_use_is_on_disk_before_it_is_granted_or_not_granted() {
    let (world, dir) = (world(), tempfile::tempdir().unwrap());
    let home = dir.path().join("book");
    std::fs::create_dir(&home).unwrap();
    let book = TokenBook::open(&home.join("tokens.json")).unwrap();
    let token = book.create(order(&world, None), START).unwrap();
    std::fs::remove_dir_all(&home).unwrap();
    let me = id("a/agent/db1");
    let error = book.redeem(&token.secret, at(1), &me, KEY).unwrap_err();
    assert!(matches!(error, Refusal::File(_)), "{error:?}");
    std::fs::create_dir(&home).unwrap();
    assert!(book.redeem(&token.secret, at(2), &me, OTHER_KEY).is_ok(), "it was not used");
}

#[test]
fn wrong_tokens_are_refused_each_with_its_reason() {
    let (world, dir) = (world(), tempfile::tempdir().unwrap());
    let book = TokenBook::open(&dir.path().join("tokens.json")).unwrap();
    let token = book.create(order(&world, Some("db1")), START).unwrap();
    let redeem = |now, who: &str| book.redeem(&token.secret, now, &id(who), KEY).unwrap_err();
    let guess = TokenSecret::generate().unwrap();
    let unknown = book.redeem(&guess, START, &id("a/agent/db1"), KEY).unwrap_err();
    assert!(matches!(unknown, Refusal::Unknown));
    let expired = redeem(at(HOUR), "a/agent/db1");
    assert!(matches!(expired, Refusal::Expired { when } if when == at(HOUR)), "{expired:?}");
    assert!(matches!(redeem(START, "a/agent/db2"), Refusal::WrongName { .. }));
    assert!(matches!(redeem(START, "a/operator/db1"), Refusal::WrongRole { .. }));
    assert!(matches!(redeem(START, "b/agent/db1"), Refusal::WrongSite { .. }));
    // None of that used it up.
    assert!(book.redeem(&token.secret, at(HOUR - 1), &id("a/agent/db1"), KEY).is_ok());
    let row = &book.rows(at(2 * HOUR))[0];
    assert!(matches!(book.withdraw(&row.id), Err(BookError::NotWaiting { .. })));
}

#[test]
fn a_withdrawn_token_is_unknown_and_the_book_keeps_no_secret() {
    let (world, dir) = (world(), tempfile::tempdir().unwrap());
    let path = dir.path().join("tokens.json");
    let book = TokenBook::open(&path).unwrap();
    let token = book.create(order(&world, None), START).unwrap();
    let file = std::fs::read_to_string(&path).unwrap();
    let hex = data_encoding::HEXLOWER.encode(token.secret.as_bytes());
    assert!(!file.contains(&hex) && file.contains("\"agent\""));
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    book.withdraw(&book.rows(START)[0].id).unwrap();
    let error = book.redeem(&token.secret, START, &id("a/agent/x"), KEY).unwrap_err();
    assert!(matches!(error, Refusal::Unknown));
    let forever = TokenOrder { lifetime_seconds: 366 * DAY, ..order(&world, None) };
    assert!(matches!(book.create(forever, START), Err(BookError::Lifetime { .. })));
}

#[test]
fn of_many_at_once_one_wins() {
    let (world, dir) = (world(), tempfile::tempdir().unwrap());
    let book = TokenBook::open(&dir.path().join("tokens.json")).unwrap();
    let token = book.create(order(&world, None), START).unwrap();
    let redeem = |n: u8| {
        let who = id(&format!("a/agent/n{n}"));
        book.redeem(&token.secret, at(1), &who, PublicKey([n; 32])).is_ok()
    };
    let won = std::thread::scope(|scope| {
        let tries: Vec<_> = (0..8).map(|n| scope.spawn(move || redeem(n))).collect();
        tries.into_iter().map(|t| t.join().unwrap()).filter(|&ok| ok).count()
    });
    assert_eq!(won, 1);
}

#[test]
fn a_request_for_another_identity_is_refused() {
    let world = world();
    let enrolment = Enrolment::begin(&id("a/coordinator/c1")).unwrap();
    let request = CertRequest::parse(enrolment.request_der()).unwrap();
    let error = world.a.issue_request(&request, &id("a/agent/db1"), START, DAY).unwrap_err();
    assert!(matches!(error, CaError::Asked { .. }), "{error:?}");
}

#[test]
fn an_authority_stays_within_its_site_and_its_life() {
    let world = world();
    let issue = |who: &str, now, seconds| world.a.issue(&id(who), &KEY, now, seconds);
    let error = issue("b/agent/db1", START, DAY).unwrap_err();
    assert!(matches!(error, CaError::WrongSite { .. }), "{error:?}");
    for seconds in [0, -1, 91 * DAY] {
        let error = issue("a/agent/db1", START, seconds).unwrap_err();
        assert!(matches!(error, CaError::Lifetime { .. }), "{error:?}");
    }
    let end = world.a.not_after();
    let chain = issue("a/agent/db1", end.plus_seconds(-10), DAY).unwrap();
    let peer = strongroom_certs::Peer::from_chain(&[chain.leaf, chain.intermediate]).unwrap();
    assert_eq!(peer.not_after, end);
    assert!(matches!(issue("a/agent/db1", end, DAY), Err(CaError::Expired { .. })));
}

#[test]
fn an_answer_that_is_not_ours_is_not_accepted() {
    let (world, other) = (world(), world_of("acme"));
    let me = id("a/agent/db1");
    let (pin, root) = (world.root.fingerprint(), world.a.root_der().clone());
    let begin = || Enrolment::begin(&me).unwrap();
    let issue = |authority: &Authority, who: &str, key| {
        authority.issue(&id(who), &key, START, DAY).unwrap()
    };
    let one = begin();
    let chain = issue(&other.a, "a/agent/db1", one.public_key());
    let error = one.finish(chain, other.a.root_der().clone(), pin, START).unwrap_err();
    assert!(matches!(error, EnrolError::OtherRoot { .. }), "{error:?}");
    let one = begin();
    let chain = issue(&other.a, "a/agent/db1", one.public_key());
    let error = one.finish(chain, root.clone(), pin, START).unwrap_err();
    assert!(matches!(error, EnrolError::Verify(_)), "{error:?}");
    let one = begin();
    let chain = issue(&world.a, "a/agent/db2", one.public_key());
    let error = one.finish(chain, root.clone(), pin, START).unwrap_err();
    assert!(matches!(error, EnrolError::WrongIdentity { .. }), "{error:?}");
    let chain = issue(&world.a, "a/agent/db1", KeyPair::generate().unwrap().public());
    let error = begin().finish(chain, root, pin, START).unwrap_err();
    assert!(matches!(error, EnrolError::OtherKey { .. }), "{error:?}");
}

#[test]
fn a_renewal_cut_short_leaves_a_working_credential() {
    let (world, dir) = (world(), tempfile::tempdir().unwrap());
    let me = id("a/agent/db1");
    let old = credential(&world.a, &me, START);
    old.save(dir.path()).unwrap();
    let new = credential(&world.a, &me, at(60));
    let staged = tempfile::tempdir().unwrap();
    new.save(staged.path()).unwrap();
    let put = |from: &str, to: &str| {
        std::fs::copy(staged.path().join(from), dir.path().join(to)).unwrap();
    };
    put("node.key", "node.key.next");
    assert_eq!(Credential::load(dir.path()).unwrap().peer(), old.peer());
    put("node.crt", "node.crt");
    assert_eq!(Credential::load(dir.path()).unwrap().peer(), new.peer());
    assert_eq!(Credential::load(dir.path()).unwrap().peer(), new.peer());
    assert!(!dir.path().join("node.key.next").exists());
    // A first enrolment cut short: there is no old key at all.
    std::fs::rename(dir.path().join("node.key"), dir.path().join("node.key.next")).unwrap();
    assert_eq!(Credential::load(dir.path()).unwrap().peer(), new.peer());
}

#[test]
fn a_crashed_enrolment_goes_on_with_the_same_key() {
    let dir = tempfile::tempdir().unwrap();
    let me = id("a/agent/db1");
    let before = Enrolment::begin_in(dir.path(), &me).unwrap().public_key();
    assert_eq!(Enrolment::begin_in(dir.path(), &me).unwrap().public_key(), before);
}

#[test]
fn keys_that_others_may_read_are_refused() {
    let (world, dir) = (world(), tempfile::tempdir().unwrap());
    credential(&world.a, &id("a/agent/db1"), START).save(dir.path()).unwrap();
    world.a.save(dir.path()).unwrap();
    for name in ["node.key", "site.key"] {
        let open = std::fs::Permissions::from_mode(0o640);
        std::fs::set_permissions(dir.path().join(name), open).unwrap();
    }
    let error = Credential::load(dir.path()).unwrap_err();
    assert!(matches!(error, EnrolError::File(FileError::Permissions { .. })), "{error:?}");
    let error = Authority::open(dir.path()).unwrap_err();
    assert!(matches!(error, CaError::File(FileError::Permissions { .. })), "{error:?}");
}

#[test]
fn the_root_opens_for_passphrase_and_recovery_key_and_issues_again() {
    let dir = tempfile::tempdir().unwrap();
    let recovery = RecoveryKey::generate().unwrap();
    let org = "acme".parse().unwrap();
    let root = Root::create(&org, &"horse".into(), &recovery, Cost::TESTING, START).unwrap();
    root.save(dir.path()).unwrap();
    let error = root.save(dir.path()).unwrap_err();
    assert!(matches!(error, CaError::File(FileError::Exists { .. })), "{error:?}");
    let error = Root::open(dir.path(), &"house".into()).unwrap_err();
    assert!(matches!(error, CaError::Wrap(WrapError::WrongPassphrase)), "{error:?}");
    let other = RecoveryKey::generate().unwrap();
    let error = Root::open_with_recovery(dir.path(), &other).unwrap_err();
    assert!(matches!(error, CaError::Wrap(WrapError::WrongRecoveryKey)), "{error:?}");
    // A memory stick gives every file to everybody; the key is wrapped, so it still opens.
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(dir.path().join("root.key.wrapped"), open).unwrap();
    let text = recovery.to_text();
    let again = Root::open_with_recovery(dir.path(), &text.parse().unwrap()).unwrap();
    assert_eq!(again.fingerprint(), root.fingerprint());
    let again = Root::open(dir.path(), &"horse".into()).unwrap();
    let home = dir.path().join("site-a");
    again.issue_site(&"a".parse().unwrap(), at(DAY)).unwrap().save(&home).unwrap();
    let authority = Authority::open(&home).unwrap();
    let node = credential(&authority, &id("a/agent/db1"), at(DAY));
    assert_eq!(node.root.fingerprint(), root.fingerprint());
}
